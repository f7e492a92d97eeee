/** What a lock file says: its holder. Inside of io/lock.c. */
#ifndef INGOT_IO_LOCK_HOLDER_H
#define INGOT_IO_LOCK_HOLDER_H

#include <stdbool.h>
#include <stddef.h>

enum { INGOT_LOCK_FIELD = 256, INGOT_LOCK_FILE_BYTES = 4096 };

/** Texts are "" where the machine does not tell, or where a file lacks the line. */
typedef struct ingot_lock_holder {
  char      host[INGOT_LOCK_FIELD];
  char      boot[64]; /* id of the machine's boot */
  long long pid;
  long long start; /* of the process, clock ticks after the boot; 0: unknown */
  char      what[INGOT_LOCK_FIELD];
  char      slurm_job[64];
  long long slurm_restart; /* how often Slurm has started the job again */
  char      since[32];     /* UTC */
  bool      kernel_lock;   /* the holder has an open-file-description lock on the file */
  char      token[32];
} ingot_lock_holder;

/** This process, now, with a fresh random token. `what` is cut to fit, line ends become blanks. */
void ingot_lock_holder_self(const char *what, ingot_lock_holder *self);
/** The text of a lock file; returns its length, below INGOT_LOCK_FILE_BYTES. */
size_t ingot_lock_holder_print(const ingot_lock_holder *holder, char text[INGOT_LOCK_FILE_BYTES]);
/** From the text of a lock file; lines that are not known or missing are passed over. `text` is changed. */
void ingot_lock_holder_parse(char *text, ingot_lock_holder *holder);

/** Whether two holders are on one running machine. */
bool ingot_lock_same_machine(const ingot_lock_holder *a, const ingot_lock_holder *b);
/** Whether `self` is a later start, by Slurm, of the job that `holder` belonged to. */
bool ingot_lock_same_job_later(const ingot_lock_holder *self, const ingot_lock_holder *holder);
/** Whether a process of this machine is still there. */
bool ingot_lock_process_lives(const ingot_lock_holder *holder);
/** "host node17, process 123, job merge.cfg, Slurm job 7, since 2026-...": for messages. */
void ingot_lock_holder_describe(const ingot_lock_holder *holder, char text[1024]);

#endif
