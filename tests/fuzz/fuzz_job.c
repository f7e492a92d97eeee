/* The job file: whatever the text, a job or an error with a message. The text goes through libconfig and our own
 * reader;
 * @include is off, so that no other file is touched. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "driver/job.h"

int         LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
const char *__lsan_default_suppressions(void);

/* libconfig forgets the string that it was reading when the text ends inside it. */
const char *__lsan_default_suppressions(void)
{
  return "leak:libconfig\n";
}

static void check_job(const ingot_job *job)
{
  for (int i = 0; i < job->n_step; i++) {
    const ingot_job_step *step = &job->steps[i];
    if (!step->type || !step->output || !step->settings) abort();
    if (strlen(step->written_output) == 0) abort();
  }
  if (job->n_model < 1 || job->seed < 0) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
  /* After a line "//set key=value" at the start, the rest is read with that assignment. */
  static const char mark[] = "//set ";
  ingot_job         job;
  char              assignment[128];
  const char       *set[1] = {assignment};
  int               n_set = 0;
  if (size > sizeof mark && memcmp(bytes, mark, sizeof mark - 1) == 0) {
    const uint8_t *end = memchr(bytes, '\n', size);
    size_t         n = (end ? (size_t)(end - bytes) : size) - (sizeof mark - 1);
    if (n < sizeof assignment) {
      memcpy(assignment, bytes + sizeof mark - 1, n);
      assignment[n] = '\0';
      n_set = 1;
    }
  }
  if (memchr(bytes, 0, size)) return 0; /* refused before the parser */
  ingot_status st = ingot_job_parse((const char *)bytes, size, "fuzz.cfg", set, n_set, &job);
  if (st == INGOT_OK) check_job(&job);
  else if (ingot_error_message()[0] == '\0') abort();
  ingot_job_release(&job);
  ingot_error_clear();
  return 0;
}
