#define _GNU_SOURCE /* open-file-description locks */
#include "io/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/text.h"
#include "io/atomic_file.h"
#include "io/lock_holder.h"

/* Somebody else's take-over may change what is there between two looks; a few rounds settle it. */
enum { ROUNDS = 20, ROUND_NS = 5 * 1000 * 1000 };

struct ingot_lock {
  char             *path;
  int               fd;
  ingot_lock_holder self;
  pthread_t         thread;
  bool              thread_runs;
  pthread_mutex_t   mutex;
  pthread_cond_t    changed;
  bool              ending; /* under the mutex */
};

typedef enum kernel_answer { KERNEL_LOCKED, KERNEL_BUSY, KERNEL_NONE } kernel_answer;

/* Lock the whole file for this open file description: it goes with the process, whatever kills it. */
static kernel_answer kernel_lock(int fd)
{
  struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  if (fcntl(fd, F_OFD_SETLK, &whole) == 0) return KERNEL_LOCKED;
  return errno == EAGAIN || errno == EACCES ? KERNEL_BUSY : KERNEL_NONE; /* NONE: the file system has no locks */
}

static bool is_same_file(int fd, const char *path)
{
  struct stat mine, there;
  return fstat(fd, &mine) == 0 && stat(path, &there) == 0 && mine.st_dev == there.st_dev && mine.st_ino == there.st_ino;
}

static ingot_status read_holder(int fd, ingot_lock_holder *holder)
{
  char    text[INGOT_LOCK_FILE_BYTES];
  ssize_t n = pread(fd, text, sizeof text - 1, 0);
  if (n < 0) return ingot_fail(INGOT_ERR_IO, "reading: %s", strerror(errno));
  text[n] = '\0';
  ingot_lock_holder_parse(text, holder);
  return INGOT_OK;
}

/* Write the record under a name of its own, locked already; the lock's name comes by link(2), all at once. */
static ingot_status prepare(ingot_lock *lock, char *fresh)
{
  ingot_status st = INGOT_OK;
  char         text[INGOT_LOCK_FILE_BYTES];
  lock->fd = open(fresh, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  INGOT_CHECK(lock->fd >= 0, ingot_file_status(errno), "%s: cannot create: %s", fresh, strerror(errno));
  lock->self.kernel_lock = kernel_lock(lock->fd) == KERNEL_LOCKED;
  size_t size = ingot_lock_holder_print(&lock->self, text);
  INGOT_TRY(ingot_file_pwrite(lock->fd, fresh, 0, text, size));
  INGOT_TRY(ingot_file_sync(lock->fd, fresh)); /* network file systems: others see the whole text */
done:
  return st;
}

/* Put the prepared file under the lock's name; *placed is false when there is a lock already. */
static ingot_status place(ingot_lock *lock, const char *fresh, bool *placed)
{
  struct stat info;
  *placed = true;
  if (link(fresh, lock->path) == 0) return INGOT_OK;
  int error = errno;
  /* An answer lost on the network: the link may be there all the same. */
  if (fstat(lock->fd, &info) == 0 && info.st_nlink == 2) return INGOT_OK;
  *placed = false;
  if (error == EEXIST) return INGOT_OK;
  if (error != EPERM && error != EOPNOTSUPP && error != ENOSYS && error != EMLINK)
    return ingot_fail(ingot_file_status(error), "%s: cannot create: %s", lock->path, strerror(error));
  /* A file system without links: hold the name by O_EXCL, then put the file over it. */
  int fd = open(lock->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd < 0 && errno == EEXIST) return INGOT_OK;
  if (fd < 0) return ingot_fail(ingot_file_status(errno), "%s: cannot create: %s", lock->path, strerror(errno));
  close(fd);
  if (rename(fresh, lock->path) != 0)
    return ingot_fail(ingot_file_status(errno), "%s: cannot create: %s", lock->path, strerror(errno));
  *placed = true;
  return INGOT_OK;
}

/* Seconds since the holder renewed its lock. Both times are the file system's: clocks of machines differ. */
static double age_s(int fd, int fresh_fd)
{
  struct stat old, now;
  if (fstat(fd, &old) != 0 || futimens(fresh_fd, NULL) != 0 || fstat(fresh_fd, &now) != 0) return 0;
  return (double)(now.st_mtim.tv_sec - old.st_mtim.tv_sec) + 1e-9 * (double)(now.st_mtim.tv_nsec - old.st_mtim.tv_nsec);
}

/* Why the holder counts as alive, in the message; or that it is gone. `answer`: of locking its file here. */
static bool is_gone(const ingot_lock *lock, const ingot_lock_holder *holder, kernel_answer answer, double age)
{
  if (answer == KERNEL_BUSY) return false;
  if (ingot_lock_same_job_later(&lock->self, holder)) return true;
  if (ingot_lock_same_machine(&lock->self, holder))
    return (answer == KERNEL_LOCKED && holder->kernel_lock) || !ingot_lock_process_lives(holder);
  return age > INGOT_LOCK_STALE_S;
}

static ingot_status busy(const ingot_lock *lock, const ingot_lock_holder *holder, double age)
{
  char who[1024], note[160] = "";
  ingot_lock_holder_describe(holder, who);
  if (!ingot_lock_same_machine(&lock->self, holder))
    snprintf(note, sizeof note, "; it last renewed its lock %.0f s ago and counts as gone after %d s",
             age < 0 ? 0 : age, (int)INGOT_LOCK_STALE_S);
  return ingot_fail(INGOT_ERR_BUSY, "%s: another run is writing this output: %s%s", lock->path, who, note);
}

/*
 * Remove the lock of a holder that is gone. Whoever came first has put a new one there meanwhile, perhaps: what was
 * taken away is looked at, and put back when it is not the old one.
 */
static ingot_status take_away(const ingot_lock *lock, int fd, const char *aside)
{
  if (!is_same_file(fd, lock->path)) return INGOT_OK;
  if (rename(lock->path, aside) != 0)
    return errno == ENOENT ? INGOT_OK
                           : ingot_fail(INGOT_ERR_IO, "%s: cannot take over: %s", lock->path, strerror(errno));
  if (!is_same_file(fd, aside) && link(aside, lock->path) != 0) (void)rename(aside, lock->path);
  unlink(aside);
  return INGOT_OK;
}

/* Look at a lock that is there. INGOT_OK: it has gone, or was taken away: try again. */
static ingot_status look(const ingot_lock *lock, const char *aside)
{
  ingot_status      st = INGOT_OK;
  ingot_lock_holder holder;
  int               fd = open(lock->path, O_RDWR | O_CLOEXEC);
  if (fd < 0 && (errno == ENOENT || errno == ESTALE)) return INGOT_OK;
  INGOT_CHECK(fd >= 0, INGOT_ERR_IO, "%s: cannot open: %s", lock->path, strerror(errno));
  kernel_answer answer = kernel_lock(fd);
  st = read_holder(fd, &holder);
  INGOT_TRY(ingot_wrap(st, "%s", lock->path));
  double age = age_s(fd, lock->fd);
  if (is_gone(lock, &holder, answer, age)) INGOT_TRY(take_away(lock, fd, aside));
  else if (is_same_file(fd, lock->path)) st = busy(lock, &holder, age);
done:
  if (fd >= 0) close(fd);
  return st;
}

/* Files of runs that were killed while they took or took over a lock, "<lock>.<token>": theirs to remove no longer. */
static ingot_status sweep(void *context, int folder, const char *name, const char *tail)
{
  const ingot_lock *lock = context;
  ingot_lock_holder holder;
  int               fd = openat(folder, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  (void)tail;
  if (fd < 0) return INGOT_OK;
  kernel_answer answer = kernel_lock(fd);
  if (read_holder(fd, &holder) != INGOT_OK) ingot_error_clear();
  else if (holder.token[0] && is_gone(lock, &holder, answer, age_s(fd, lock->fd))) (void)unlinkat(folder, name, 0);
  close(fd);
  return INGOT_OK;
}

static ingot_status acquire(ingot_lock *lock)
{
  ingot_status st = INGOT_OK;
  ingot_text   fresh = {0}, aside = {0};
  bool         placed = false;
  INGOT_TRY(ingot_text_printf(&fresh, "%s.%s", lock->path, lock->self.token));
  INGOT_TRY(ingot_text_printf(&aside, "%s.%s.old", lock->path, lock->self.token));
  INGOT_TRY(prepare(lock, fresh.bytes));
  for (int i = 0; i < ROUNDS; i++) {
    INGOT_TRY(place(lock, fresh.bytes, &placed));
    if (placed) goto done;
    st = look(lock, aside.bytes);
    /* Busy once may be a run that is just taking over from a dead one, or looking at it. */
    if (st != INGOT_OK && (st != INGOT_ERR_BUSY || i >= 2)) goto done;
    nanosleep(&(struct timespec){.tv_nsec = ROUND_NS}, NULL);
  }
  st = ingot_fail(INGOT_ERR_BUSY, "%s: other runs are taking and giving back this lock all the time", lock->path);
done:
  if (lock->fd >= 0 && fresh.bytes) unlink(fresh.bytes);
  if (placed && ingot_file_each_beside(lock->path, ".", sweep, lock) != INGOT_OK) ingot_error_clear();
  ingot_text_release(&fresh);
  ingot_text_release(&aside);
  return st;
}

ingot_status ingot_lock_check(ingot_lock *lock)
{
  ingot_status      st = INGOT_OK;
  ingot_lock_holder holder = {0};
  int               fd = open(lock->path, O_RDONLY | O_CLOEXEC), error = errno;
  if (fd >= 0) {
    st = read_holder(fd, &holder);
    close(fd);
    INGOT_TRY(ingot_wrap(st, "%s", lock->path));
  }
  if (strcmp(holder.token, lock->self.token) == 0) {
    (void)futimens(lock->fd, NULL); /* a failure shows as an old lock to others, and to us here next time */
    return INGOT_OK;
  }
  INGOT_CHECK(fd >= 0 || error == ENOENT, INGOT_ERR_IO, "%s: cannot open: %s", lock->path, strerror(error));
  INGOT_CHECK(fd >= 0, INGOT_ERR_BUSY, "%s: this run's lock was removed: the output is left alone", lock->path);
  char who[1024];
  ingot_lock_holder_describe(&holder, who);
  st = ingot_fail(INGOT_ERR_BUSY, "%s: another run has taken over this output while this one was not heard of: %s",
                  lock->path, who);
done:
  return st;
}

static void *beat(void *argument)
{
  ingot_lock     *lock = argument;
  struct timespec until;
  pthread_mutex_lock(&lock->mutex);
  clock_gettime(CLOCK_MONOTONIC, &until);
  while (!lock->ending) {
    until.tv_sec += INGOT_LOCK_BEAT_S;
    while (!lock->ending && pthread_cond_timedwait(&lock->changed, &lock->mutex, &until) == 0) continue;
    if (lock->ending) break;
    pthread_mutex_unlock(&lock->mutex);
    (void)ingot_lock_check(lock); /* a lost lock is found again, and reported, before the output gets its name */
    clock_gettime(CLOCK_MONOTONIC, &until);
    pthread_mutex_lock(&lock->mutex);
  }
  pthread_mutex_unlock(&lock->mutex);
  return NULL;
}

bool ingot_lock_is_there(const char *output_path)
{
  char *path = ingot_file_sibling(output_path, ".lock");
  bool  found = path && access(path, F_OK) == 0;
  free(path);
  return found;
}

ingot_status ingot_lock_take(const char *output_path, const char *what, ingot_lock **out)
{
  ingot_status       st = INGOT_OK;
  pthread_condattr_t monotonic;
  ingot_lock        *lock = calloc(1, sizeof *lock);
  *out = NULL;
  INGOT_CHECK(lock, INGOT_ERR_NOMEM, "%s: no memory for its lock", output_path);
  lock->fd = -1;
  pthread_mutex_init(&lock->mutex, NULL);
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&lock->changed, &monotonic);
  pthread_condattr_destroy(&monotonic);
  lock->path = ingot_file_sibling(output_path, ".lock");
  INGOT_CHECK(lock->path, INGOT_ERR_NOMEM, "%s: no memory for its lock's name", output_path);
  ingot_lock_holder_self(what, &lock->self);
  INGOT_TRY(ingot_file_make_parents(output_path));
  st = acquire(lock);
  if (st != INGOT_OK && lock->fd >= 0) { /* not ours: release must not look at it */
    close(lock->fd);
    lock->fd = -1;
  }
  INGOT_TRY(st);
  lock->thread_runs = pthread_create(&lock->thread, NULL, beat, lock) == 0;
  INGOT_CHECK(lock->thread_runs, INGOT_ERR_NOMEM, "%s: no thread could be started to renew it", lock->path);
  *out = lock;
  lock = NULL;
done:
  ingot_lock_release(&lock);
  return st;
}

void ingot_lock_release(ingot_lock **held)
{
  ingot_lock *lock = held ? *held : NULL;
  if (!lock) return;
  if (lock->thread_runs) {
    pthread_mutex_lock(&lock->mutex);
    lock->ending = true;
    pthread_cond_signal(&lock->changed);
    pthread_mutex_unlock(&lock->mutex);
    pthread_join(lock->thread, NULL);
  }
  if (lock->fd >= 0) {
    if (is_same_file(lock->fd, lock->path)) unlink(lock->path);
    close(lock->fd);
  }
  pthread_cond_destroy(&lock->changed);
  pthread_mutex_destroy(&lock->mutex);
  free(lock->path);
  free(lock);
  *held = NULL;
}
