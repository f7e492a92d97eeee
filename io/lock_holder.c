#define _GNU_SOURCE /* getrandom */
#include "io/lock_holder.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

static const char title[] = "ingot lock 1";

/* A short text, cut if need be; ends of lines would end the field. */
static void set_text(char *to, size_t room, const char *from)
{
  size_t n = strlen(from);
  if (n >= room) n = room - 1;
  for (size_t i = 0; i < n; i++) to[i] = from[i] == '\n' || from[i] == '\r' ? ' ' : from[i];
  to[n] = '\0';
}

static void read_line(const char *path, char *line, size_t room)
{
  FILE *f = fopen(path, "r");
  line[0] = '\0';
  if (!f) return;
  if (fgets(line, (int)room, f)) line[strcspn(line, "\n")] = '\0';
  else line[0] = '\0';
  fclose(f);
}

/* Field 22 of /proc/PID/stat; the second field, a name in brackets, may hold anything. 0 where it cannot be read. */
static long long process_start(long long pid)
{
  char path[64], line[1024];
  snprintf(path, sizeof path, "/proc/%lld/stat", pid);
  read_line(path, line, sizeof line);
  char *p = strrchr(line, ')');
  for (int field = 2; p && field < 22; field++) {
    p = strchr(p, ' ');
    if (p) p++;
  }
  return p ? strtoll(p, NULL, 10) : 0;
}

static void make_token(char *token, size_t room)
{
  uint64_t bits[2];
  if (getrandom(bits, sizeof bits, 0) != (ssize_t)sizeof bits) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    bits[0] = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    bits[1] = (uint64_t)(uintptr_t)token ^ (uint64_t)getpid();
  }
  snprintf(token, room, "%08llx%08llx", (unsigned long long)(bits[0] & 0xffffffffu),
           (unsigned long long)(bits[1] & 0xffffffffu));
}

void ingot_lock_holder_self(const char *what, ingot_lock_holder *self)
{
  const char *job = getenv("SLURM_JOB_ID"), *restart = getenv("SLURM_RESTART_COUNT");
  struct tm   utc;
  time_t      now = time(NULL);
  *self = (ingot_lock_holder){.pid = getpid(), .start = process_start(getpid())};
  if (gethostname(self->host, sizeof self->host) != 0) self->host[0] = '\0';
  self->host[sizeof self->host - 1] = '\0';
  read_line("/proc/sys/kernel/random/boot_id", self->boot, sizeof self->boot);
  set_text(self->what, sizeof self->what, what);
  if (job) set_text(self->slurm_job, sizeof self->slurm_job, job);
  if (restart) self->slurm_restart = strtoll(restart, NULL, 10);
  if (gmtime_r(&now, &utc)) strftime(self->since, sizeof self->since, "%Y-%m-%dT%H:%M:%SZ", &utc);
  make_token(self->token, sizeof self->token);
}

size_t ingot_lock_holder_print(const ingot_lock_holder *h, char text[INGOT_LOCK_FILE_BYTES])
{
  int n = snprintf(text, INGOT_LOCK_FILE_BYTES,
                   "%s\nhost %s\nboot %s\npid %lld\nstart %lld\nwhat %s\nslurm_job %s\nslurm_restart %lld\nsince %s\n"
                   "kernel_lock %d\ntoken %s\n",
                   title, h->host, h->boot, h->pid, h->start, h->what, h->slurm_job, h->slurm_restart, h->since,
                   (int)h->kernel_lock, h->token);
  return n > 0 && n < INGOT_LOCK_FILE_BYTES ? (size_t)n : 0;
}

static void take_line(const char *key, const char *value, ingot_lock_holder *h)
{
  const struct {
    const char *key;
    char       *text; /* or: */
    size_t      room;
    long long  *number;
  } fields[] = {
      {"host", h->host, sizeof h->host, NULL},
      {"boot", h->boot, sizeof h->boot, NULL},
      {"what", h->what, sizeof h->what, NULL},
      {"slurm_job", h->slurm_job, sizeof h->slurm_job, NULL},
      {"since", h->since, sizeof h->since, NULL},
      {"token", h->token, sizeof h->token, NULL},
      {"pid", NULL, 0, &h->pid},
      {"start", NULL, 0, &h->start},
      {"slurm_restart", NULL, 0, &h->slurm_restart},
  };
  if (strcmp(key, "kernel_lock") == 0) h->kernel_lock = value[0] == '1';
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
    if (strcmp(key, fields[i].key) != 0) continue;
    if (fields[i].text) set_text(fields[i].text, fields[i].room, value);
    else *fields[i].number = strtoll(value, NULL, 10);
  }
}

void ingot_lock_holder_parse(char *text, ingot_lock_holder *holder)
{
  char *rest = text;
  *holder = (ingot_lock_holder){0};
  char *line = strtok_r(rest, "\n", &rest);
  if (!line || strcmp(line, title) != 0) return;
  while ((line = strtok_r(NULL, "\n", &rest))) {
    char *blank = strchr(line, ' ');
    if (!blank) continue;
    *blank = '\0';
    take_line(line, blank + 1, holder);
  }
}

bool ingot_lock_same_machine(const ingot_lock_holder *a, const ingot_lock_holder *b)
{
  return a->host[0] && a->boot[0] && strcmp(a->host, b->host) == 0 && strcmp(a->boot, b->boot) == 0;
}

bool ingot_lock_same_job_later(const ingot_lock_holder *self, const ingot_lock_holder *holder)
{
  return self->slurm_job[0] && strcmp(self->slurm_job, holder->slurm_job) == 0 &&
         self->slurm_restart > holder->slurm_restart;
}

bool ingot_lock_process_lives(const ingot_lock_holder *holder)
{
  if (holder->pid <= 0 || holder->pid != (pid_t)holder->pid) return false;
  if (kill((pid_t)holder->pid, 0) != 0 && errno == ESRCH) return false;
  long long start = process_start(holder->pid);
  return start == 0 || holder->start == 0 || start == holder->start; /* else its number was given away again */
}

static void add(char text[1024], const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(char text[1024], const char *fmt, ...)
{
  size_t  used = strlen(text);
  va_list args;
  va_start(args, fmt);
  vsnprintf(text + used, 1024 - used, fmt, args);
  va_end(args);
}

void ingot_lock_holder_describe(const ingot_lock_holder *h, char text[1024])
{
  text[0] = '\0';
  add(text, "host %s, process %lld", h->host[0] ? h->host : "unknown", h->pid);
  if (h->what[0]) add(text, ", %s", h->what);
  if (h->slurm_job[0]) add(text, ", Slurm job %s", h->slurm_job);
  if (h->since[0]) add(text, ", since %s", h->since);
}
