/* One holder at a time; the dead, the foreign and the forgotten; what a lock file says. */
#define _GNU_SOURCE
#include "io/lock.h"
#include "io/lock_holder.h"
#include "scratch.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

typedef struct fixture {
  scratch scratch;
  char    output[SCRATCH_PATH], path[SCRATCH_PATH];
} fixture;

static int begin(void **state)
{
  fixture *f = calloc(1, sizeof *f);
  assert_non_null(f);
  unsetenv("SLURM_JOB_ID");
  unsetenv("SLURM_RESTART_COUNT");
  scratch_begin(&f->scratch);
  scratch_path(&f->scratch, "out.h5", f->output);
  scratch_path(&f->scratch, "out.h5.lock", f->path);
  *state = f;
  return 0;
}

static int end(void **state)
{
  fixture *f = *state;
  unsetenv("SLURM_JOB_ID");
  unsetenv("SLURM_RESTART_COUNT");
  scratch_end(&f->scratch);
  free(f);
  return 0;
}

/* Nothing but the given files (0 or 1) is left in the folder. */
static void assert_files(const fixture *f, int expected)
{
  char command[SCRATCH_PATH + 32];
  int  n = -1;
  snprintf(command, sizeof command, "ls -A '%s' | wc -l", f->scratch.dir);
  FILE *p = popen(command, "r");
  assert_non_null(p);
  assert_int_equal(fscanf(p, "%d", &n), 1);
  pclose(p);
  assert_int_equal(n, expected);
}

static void assert_takes(const fixture *f)
{
  ingot_lock  *lock = NULL;
  ingot_status st = ingot_lock_take(f->output, "test", &lock);
  if (st != INGOT_OK) fail_msg("not taken: %s", ingot_error_message());
  assert_int_equal(ingot_lock_check(lock), INGOT_OK);
  ingot_lock_release(&lock);
  assert_null(lock);
  assert_files(f, 0);
}

static void assert_busy(const fixture *f, const char *who)
{
  ingot_lock *lock = NULL;
  assert_int_equal(ingot_lock_take(f->output, "test", &lock), INGOT_ERR_BUSY);
  assert_null(lock);
  assert_message(ingot_error_message(), "out.h5.lock: another run is writing this output: host ");
  assert_message(ingot_error_message(), who);
}

/* A lock file by hand, `age_s` old; other fields as in this process's own record. */
static void forge_as(const fixture *f, const char *name, const ingot_lock_holder *holder, int age_s)
{
  char   text[INGOT_LOCK_FILE_BYTES], path[SCRATCH_PATH];
  size_t size = ingot_lock_holder_print(holder, text);
  assert_true(size > 0);
  scratch_write(&f->scratch, name, text, size);
  scratch_path(&f->scratch, name, path);
  struct timespec now, times[2];
  clock_gettime(CLOCK_REALTIME, &now);
  times[0] = times[1] = (struct timespec){.tv_sec = now.tv_sec - age_s};
  assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void forge(const fixture *f, const ingot_lock_holder *holder, int age_s)
{
  forge_as(f, "out.h5.lock", holder, age_s);
}

static void one_holder(void **state)
{
  fixture    *f = *state;
  ingot_lock *lock = NULL;
  char        pid[64];
  assert_int_equal(ingot_lock_take(f->output, "job a.cfg", &lock), INGOT_OK);
  snprintf(pid, sizeof pid, "process %ld, job a.cfg, since 20", (long)getpid());
  assert_busy(f, pid);
  assert_int_equal(ingot_lock_check(lock), INGOT_OK);
  assert_files(f, 1);
  ingot_lock_release(&lock);
  ingot_lock_release(&lock);
  assert_files(f, 0);
  assert_takes(f);

  /* Slashes at the end are the same output; missing folders are made. */
  char path[SCRATCH_PATH + 8];
  snprintf(path, sizeof path, "%s/new/folder/model/", f->scratch.dir);
  assert_int_equal(ingot_lock_take(path, "x", &lock), INGOT_OK);
  snprintf(path, sizeof path, "%s/new/folder/model.lock", f->scratch.dir);
  assert_int_equal(access(path, F_OK), 0);
  ingot_lock_release(&lock);
  assert_int_equal(access(path, F_OK), -1);
}

static void file_says(void **state)
{
  fixture    *f = *state;
  ingot_lock *lock = NULL;
  char        text[INGOT_LOCK_FILE_BYTES] = "", host[256], expected[512];
  setenv("SLURM_JOB_ID", "4711", 1);
  setenv("SLURM_RESTART_COUNT", "2", 1);
  assert_int_equal(ingot_lock_take(f->output, "job two\nlines", &lock), INGOT_OK);
  FILE *file = fopen(f->path, "r");
  assert_non_null(file);
  assert_true(fread(text, 1, sizeof text - 1, file) > 0);
  fclose(file);
  assert_int_equal(strncmp(text, "ingot lock 1\n", 13), 0);
  assert_int_equal(gethostname(host, sizeof host), 0);
  snprintf(expected, sizeof expected, "\nhost %s\n", host);
  assert_message(text, expected);
  snprintf(expected, sizeof expected, "\npid %ld\n", (long)getpid());
  assert_message(text, expected);
  assert_message(text, "\nwhat job two lines\n");
  assert_message(text, "\nslurm_job 4711\nslurm_restart 2\n");
  ingot_lock_release(&lock);
}

/* A child that takes the lock, tells, and waits to be killed. */
static pid_t start_holder(const fixture *f)
{
  int to_parent[2];
  assert_int_equal(pipe(to_parent), 0);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    ingot_lock *lock = NULL;
    char        ok = ingot_lock_take(f->output, "job child.cfg", &lock) == INGOT_OK;
    if (write(to_parent[1], &ok, 1) != 1) _exit(1);
    for (;;) pause();
  }
  char ok = 0;
  assert_int_equal(read(to_parent[0], &ok, 1), 1);
  assert_int_equal(ok, 1);
  close(to_parent[0]);
  close(to_parent[1]);
  return child;
}

static void killed_holder(void **state)
{
  fixture *f = *state;
  pid_t    child = start_holder(f);
  assert_busy(f, "job child.cfg");
  kill(child, SIGKILL);
  assert_int_equal(waitpid(child, NULL, 0), child);
  assert_files(f, 1);
  assert_takes(f);
}

/* What a run leaves that is killed before its file has the lock's name goes with the next lock; other files stay. */
static void killed_while_taking(void **state)
{
  fixture          *f = *state;
  ingot_lock_holder gone, far;
  ingot_lock_holder_self("job x.cfg", &gone);
  far = gone;
  gone.start += 1; /* the number belongs to another process now */
  gone.kernel_lock = true;
  snprintf(far.host, sizeof far.host, "node17.example");
  forge_as(f, "out.h5.lock.1111", &gone, 0);
  forge_as(f, "out.h5.lock.2222.old", &gone, 0);
  forge_as(f, "out.h5.lock.3333", &far, INGOT_LOCK_STALE_S + 5);
  assert_takes(f);

  ingot_lock *lock = NULL;
  forge_as(f, "out.h5.lock.4444", &far, INGOT_LOCK_STALE_S - 60); /* may be at it */
  forge_as(f, "out.h5.lockfile", &gone, 0);
  scratch_text(&f->scratch, "out.h5.lock.txt", "somebody's notes");
  assert_int_equal(ingot_lock_take(f->output, "test", &lock), INGOT_OK);
  assert_true(ingot_lock_is_there(f->output));
  assert_files(f, 4);
  ingot_lock_release(&lock);
  assert_files(f, 3);
  assert_false(ingot_lock_is_there(f->output));
}

static void without_kernel_lock(void **state)
{
  fixture          *f = *state;
  ingot_lock_holder holder;
  /* As on a file system that has no locks: the process decides, not the file's age. */
  ingot_lock_holder_self("job x.cfg", &holder);
  forge(f, &holder, 10 * INGOT_LOCK_STALE_S);
  assert_busy(f, "job x.cfg");
  holder.start += 1; /* the number belongs to another process now */
  forge(f, &holder, 0);
  assert_takes(f);

  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) _exit(0);
  assert_int_equal(waitpid(child, NULL, 0), child);
  ingot_lock_holder_self("job x.cfg", &holder);
  holder.pid = child;
  forge(f, &holder, 0);
  assert_takes(f);
}

static void foreign_host(void **state)
{
  fixture          *f = *state;
  ingot_lock_holder holder;
  ingot_lock_holder_self("job far.cfg", &holder);
  snprintf(holder.host, sizeof holder.host, "node17.example");
  forge(f, &holder, INGOT_LOCK_STALE_S - 60);
  assert_busy(f, "host node17.example, process ");
  assert_message(ingot_error_message(), "s ago and counts as gone after 300 s");
  forge(f, &holder, INGOT_LOCK_STALE_S + 5);
  assert_takes(f);

  /* The same name after another boot is another machine for all we know. */
  ingot_lock_holder_self("job far.cfg", &holder);
  snprintf(holder.boot, sizeof holder.boot, "00000000-0000-0000-0000-000000000000");
  forge(f, &holder, 0);
  assert_busy(f, "job far.cfg");
}

static void requeued_job(void **state)
{
  fixture          *f = *state;
  ingot_lock_holder holder;
  setenv("SLURM_JOB_ID", "88", 1);
  ingot_lock_holder_self("job q.cfg", &holder);
  snprintf(holder.host, sizeof holder.host, "node17.example");
  forge(f, &holder, 0);
  assert_busy(f, "Slurm job 88"); /* two runs in one allocation */
  setenv("SLURM_RESTART_COUNT", "1", 1);
  assert_takes(f);
  forge(f, &holder, 0);
  setenv("SLURM_JOB_ID", "89", 1);
  assert_busy(f, "Slurm job 88");
}

static void broken_file(void **state)
{
  fixture        *f = *state;
  struct timespec old[2] = {{.tv_sec = 1000000}, {.tv_sec = 1000000}};
  scratch_text(&f->scratch, "out.h5.lock", "");
  assert_busy(f, "host unknown");
  scratch_text(&f->scratch, "out.h5.lock", "something else\nhost a\npid x\n");
  assert_busy(f, "host unknown");
  assert_int_equal(utimensat(AT_FDCWD, f->path, old, 0), 0);
  assert_takes(f);
  scratch_mkdir(&f->scratch, "out.h5.lock");
  ingot_lock *lock = NULL;
  assert_int_equal(ingot_lock_take(f->output, "test", &lock), INGOT_ERR_IO);
  assert_message(ingot_error_message(), "out.h5.lock: cannot open: Is a directory");
}

static void taken_over(void **state)
{
  fixture          *f = *state;
  ingot_lock       *lock = NULL;
  ingot_lock_holder other;
  assert_int_equal(ingot_lock_take(f->output, "test", &lock), INGOT_OK);
  assert_int_equal(unlink(f->path), 0);
  assert_int_equal(ingot_lock_check(lock), INGOT_ERR_BUSY);
  assert_message(ingot_error_message(), "out.h5.lock: this run's lock was removed");
  ingot_lock_holder_self("job other.cfg", &other);
  forge(f, &other, 0);
  assert_int_equal(ingot_lock_check(lock), INGOT_ERR_BUSY);
  assert_message(ingot_error_message(), "another run has taken over this output");
  assert_message(ingot_error_message(), "job other.cfg");
  ingot_lock_release(&lock); /* the other's file stays */
  assert_files(f, 1);
}

static void check_renews(void **state)
{
  fixture        *f = *state;
  ingot_lock     *lock = NULL;
  struct stat     info;
  struct timespec old[2] = {{.tv_sec = 1000000}, {.tv_sec = 1000000}};
  assert_int_equal(ingot_lock_take(f->output, "test", &lock), INGOT_OK);
  assert_int_equal(utimensat(AT_FDCWD, f->path, old, 0), 0);
  assert_int_equal(ingot_lock_check(lock), INGOT_OK);
  assert_int_equal(stat(f->path, &info), 0);
  assert_true(info.st_mtim.tv_sec > 1000000);
  ingot_lock_release(&lock);
}

/* Processes that all find the lock of a dead one: no two ever hold it together. */
enum { N_PROCESS = 8, N_TURN = 12 };

static int contend(const fixture *f)
{
  char inside[SCRATCH_PATH];
  int  n = 0;
  snprintf(inside, sizeof inside, "%s/inside", f->scratch.dir);
  for (int i = 0; n < N_TURN && i < 20000; i++) {
    ingot_lock  *lock = NULL;
    ingot_status st = ingot_lock_take(f->output, "contender", &lock);
    if (st == INGOT_ERR_BUSY) continue;
    if (st != INGOT_OK) return 2;
    int fd = open(inside, O_CREAT | O_EXCL | O_WRONLY, 0666); /* fails when somebody else is in here */
    if (fd < 0) return 3;
    close(fd);
    unlink(inside);
    if (n == N_TURN / 2) _exit(kill(getpid(), SIGKILL)); /* leave a dead lock to the others */
    ingot_lock_release(&lock);
    n++;
  }
  return n == N_TURN ? 0 : 4;
}

static void contenders(void **state)
{
  fixture          *f = *state;
  ingot_lock_holder dead;
  pid_t             child[N_PROCESS];
  ingot_lock_holder_self("job dead.cfg", &dead);
  dead.kernel_lock = true;
  forge(f, &dead, 0);
  for (int i = 0; i < N_PROCESS; i++) {
    child[i] = fork();
    assert_true(child[i] >= 0);
    if (child[i] == 0) _exit(contend(f));
  }
  for (int i = 0; i < N_PROCESS; i++) {
    int code = 0;
    assert_int_equal(waitpid(child[i], &code, 0), child[i]);
    assert_true(WIFSIGNALED(code)); /* by itself, half way: it has met nobody in there */
    assert_int_equal(WTERMSIG(code), SIGKILL);
  }
  assert_takes(f);
}

static void cannot_create(void **state)
{
  fixture    *f = *state;
  ingot_lock *lock = NULL;
  char        path[SCRATCH_PATH];
  scratch_text(&f->scratch, "file", "x");
  scratch_path(&f->scratch, "file/out.h5", path);
  assert_int_equal(ingot_lock_take(path, "test", &lock), INGOT_ERR_IO);
  assert_message(ingot_error_message(), "file: expected a directory, found a file");
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(one_holder, begin, end),
      cmocka_unit_test_setup_teardown(file_says, begin, end),
      cmocka_unit_test_setup_teardown(killed_holder, begin, end),
      cmocka_unit_test_setup_teardown(killed_while_taking, begin, end),
      cmocka_unit_test_setup_teardown(without_kernel_lock, begin, end),
      cmocka_unit_test_setup_teardown(foreign_host, begin, end),
      cmocka_unit_test_setup_teardown(requeued_job, begin, end),
      cmocka_unit_test_setup_teardown(broken_file, begin, end),
      cmocka_unit_test_setup_teardown(taken_over, begin, end),
      cmocka_unit_test_setup_teardown(check_renews, begin, end),
      cmocka_unit_test_setup_teardown(contenders, begin, end),
      cmocka_unit_test_setup_teardown(cannot_create, begin, end),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
