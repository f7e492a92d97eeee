#define _XOPEN_SOURCE 700
#include "driver/output_check.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "driver/begun.h"
#include "driver/manifest.h"
#include "io/journal.h"
#include "io/lock.h"

/* The real path of what exists of `path`, with the rest behind it as written ("." and ".." cannot be in a rest). */
static ingot_status real_path(const char *path, ingot_text *text)
{
  ingot_status st = INGOT_OK;
  char        *real = realpath(path, NULL);
  ingot_text   above = {0};
  if (real) {
    INGOT_TRY(ingot_text_printf(text, "%s", real));
    goto done;
  }
  size_t length = strlen(path);
  while (length > 1 && path[length - 1] == '/') length--;
  size_t cut = length;
  while (cut > 0 && path[cut - 1] != '/') cut--;
  if (cut == 0) INGOT_TRY(ingot_text_printf(&above, "."));
  else INGOT_TRY(ingot_text_append(&above, path, cut > 1 ? cut - 1 : 1));
  INGOT_CHECK(cut > 0 || strcmp(path, ".") != 0, INGOT_ERR_IO, "the working directory is gone");
  INGOT_TRY(real_path(ingot_text_string(&above), text));
  INGOT_TRY(ingot_text_printf(text, "/%.*s", (int)(length - cut), path + cut));
done:
  free(real);
  ingot_text_release(&above);
  return st;
}

/* b is a, or inside a. */
static bool is_inside(const char *a, const char *b)
{
  size_t n = strlen(a);
  return strncmp(a, b, n) == 0 && (b[n] == '\0' || b[n] == '/' || (n == 1 && a[0] == '/'));
}

ingot_status ingot_paths_overlap(const char *a, const char *b, bool *overlap)
{
  ingot_status st = INGOT_OK;
  ingot_text   real_a = {0}, real_b = {0};
  INGOT_TRY(real_path(a, &real_a));
  INGOT_TRY(real_path(b, &real_b));
  *overlap = is_inside(ingot_text_string(&real_a), ingot_text_string(&real_b)) ||
             is_inside(ingot_text_string(&real_b), ingot_text_string(&real_a));
done:
  ingot_text_release(&real_a);
  ingot_text_release(&real_b);
  return st;
}

ingot_status ingot_existing_folder(const char *path, ingot_text *text)
{
  ingot_status st = INGOT_OK;
  struct stat  info;
  size_t       n = strlen(path);
  text->size = 0;
  INGOT_TRY(ingot_text_printf(text, "%s", path));
  while (n > 0) {
    text->bytes[n] = '\0';
    if (stat(text->bytes, &info) == 0 && S_ISDIR(info.st_mode)) goto done;
    while (n > 0 && text->bytes[n - 1] != '/') n--;
    while (n > 1 && text->bytes[n - 1] == '/') n--;
    if (n == 1 && text->bytes[0] == '/') {
      text->bytes[1] = '\0';
      goto done;
    }
  }
  text->size = 0;
  INGOT_TRY(ingot_text_printf(text, "."));
done:
  text->size = text->bytes ? strlen(text->bytes) : 0;
  return st;
}

/* A file that stands where a directory of the output's path should be, or a folder that may not be written. */
static ingot_status check_folder(ingot_planner *planner, const char *place, const char *output)
{
  ingot_status st = INGOT_OK;
  ingot_text   folder = {0}, part = {0};
  struct stat  info;
  INGOT_TRY(ingot_existing_folder(output, &folder));
  const char *slash = strrchr(output, '/');
  for (const char *p = slash ? strchr(output + 1, '/') : NULL; p && p <= slash; p = strchr(p + 1, '/')) {
    part.size = 0;
    INGOT_TRY(ingot_text_append(&part, output, (size_t)(p - output)));
    if (stat(ingot_text_string(&part), &info) == 0 && !S_ISDIR(info.st_mode)) {
      ingot_problems_add(&planner->problems, INGOT_ERR_JOB, "%s: output %s: %s is not a directory", place, output,
                         ingot_text_string(&part));
      goto done;
    }
  }
  if (access(ingot_text_string(&folder), W_OK | X_OK) != 0)
    ingot_problems_add(&planner->problems, INGOT_ERR_JOB, "%s: output %s: cannot write in %s: %s", place, output,
                       ingot_text_string(&folder), strerror(errno));
done:
  ingot_text_release(&folder);
  ingot_text_release(&part);
  return st;
}

static ingot_status check_overlap(ingot_planner *planner, const char *place, const ingot_step_plan *plan)
{
  ingot_status st = INGOT_OK;
  for (int i = 0; i < plan->n_input; i++) {
    bool overlap = false;
    INGOT_TRY(ingot_paths_overlap(plan->inputs[i].path, plan->output, &overlap));
    if (overlap)
      ingot_problems_add(&planner->problems, INGOT_ERR_JOB,
                         "%s: output %s is an input, or shares a folder with it: model \"%s\" is %s", place,
                         plan->output, plan->inputs[i].id, plan->inputs[i].path);
  }
done:
  return st;
}

/* Other paths than this one that lead to it, or into it, among the outputs of earlier steps. Equal ones are found in
 * the job file. */
static ingot_status check_earlier(ingot_planner *planner, const char *place, const ingot_step_plan *plan)
{
  ingot_status st = INGOT_OK;
  for (int i = 0; i + 1 < plan->number; i++) {
    const char *output = planner->job->steps[i].output;
    bool        overlap = false;
    if (!output || strcmp(output, plan->output) == 0) continue;
    INGOT_TRY(ingot_paths_overlap(output, plan->output, &overlap));
    if (overlap)
      ingot_problems_add(&planner->problems, INGOT_ERR_JOB,
                         "%s: output %s is the output of step %d (%s), or shares a folder with it", place, plan->output,
                         i + 1, output);
  }
done:
  return st;
}

/* Names that the format or the file system has not, and what --fresh may not replace. */
static ingot_status check_made(ingot_planner *planner, const char *place, const ingot_step_plan *plan)
{
  enum { BESIDE = 32 }; /* the longest ending of a file beside an output */
  ingot_status st = INGOT_OK;
  const char  *slash = strrchr(plan->output, '/'), *name = slash && slash[1] ? slash + 1 : plan->output;
  struct stat  info;
  if (strlen(name) > NAME_MAX - BESIDE)
    ingot_problems_add(&planner->problems, INGOT_ERR_JOB,
                       "%s: output %.40s...: its name has %zu bytes, and may have %d", place, name, strlen(name),
                       NAME_MAX - BESIDE);
  if (plan->sink.n_tensor > 0) INGOT_TRY(ingot_planner_take(planner, place, ingot_sink_check_names(&plan->sink)));
  if (!planner->options.fresh) goto done;
  if (plan->sink.n_tensor > 0) st = ingot_planner_take(planner, place, ingot_sink_check_replaceable(&plan->sink));
  else if (stat(plan->output, &info) == 0 && S_ISDIR(info.st_mode))
    ingot_problems_add(&planner->problems, INGOT_ERR_EXISTS, "%s: output %s: is a directory, cannot become a file",
                       place, plan->output);
done:
  return st;
}

/* Something stands at the output's path: is it what this step would make? */
static ingot_status check_existing(ingot_planner *planner, const char *place, ingot_step_plan *plan)
{
  ingot_status   st = INGOT_OK;
  ingot_journal *journal = NULL;
  ingot_text     why = {0};
  if (!plan->ready) {
    ingot_problems_add(&planner->problems, INGOT_ERR_EXISTS,
                       "%s: output %s exists, and its input is to be made anew; --fresh replaces both", place,
                       plan->output);
    goto done;
  }
  INGOT_TRY(ingot_manifest_matches(plan, &plan->complete, &why));
  if (plan->complete) goto done;
  /* Renamed into place, then stopped before the manifest was written: the journal is still there. */
  if (ingot_journal_open(plan->output, plan->fingerprint, plan->n_tile, &journal) == INGOT_OK) goto done;
  ingot_error_clear();
  ingot_problems_add(&planner->problems, INGOT_ERR_EXISTS, "%s: output %s exists, %s; --fresh replaces it", place,
                     plan->output, ingot_text_string(&why));
done:
  ingot_journal_close(&journal);
  ingot_text_release(&why);
  return st;
}

/* The output of another job that was begun and not finished. While its run goes on, the lock has the word. */
static ingot_status check_begun(ingot_planner *planner, const char *place, const ingot_step_plan *plan)
{
  ingot_status st = INGOT_OK;
  ingot_text   why = {0};
  if (ingot_lock_is_there(plan->output)) goto done;
  INGOT_TRY(ingot_begun_look(plan, &why));
  if (why.size > 0)
    ingot_problems_add(
        &planner->problems, INGOT_ERR_EXISTS,
        "%s: output %s: was begun by other settings or from other inputs (%s); --fresh discards what is there", place,
        plan->output, ingot_text_string(&why));
done:
  ingot_text_release(&why);
  return st;
}

/* The second checkpoint of a step: as its output, and on no other step's. */
static ingot_status check_other(ingot_planner *planner, const char *place, const ingot_step_plan *plan, bool existing)
{
  ingot_status    st = INGOT_OK;
  ingot_step_plan other = *plan;
  struct stat     info;
  other.output = plan->other;
  INGOT_TRY(check_overlap(planner, place, &other));
  for (int i = 0; i < planner->job->n_step; i++) {
    bool overlap = false;
    if (i + 1 == plan->number || !planner->job->steps[i].output) continue;
    INGOT_TRY(ingot_paths_overlap(planner->job->steps[i].output, other.output, &overlap));
    if (overlap)
      ingot_problems_add(&planner->problems, INGOT_ERR_JOB,
                         "%s: %s, which this step writes too, is the output of step %d", place, other.output, i + 1);
  }
  if (existing && lstat(other.output, &info) == 0) INGOT_TRY(check_existing(planner, place, &other));
done:
  return st;
}

ingot_status ingot_output_check(ingot_planner *planner, const ingot_job_step *step, ingot_step_plan *plan, bool good)
{
  ingot_status       st = INGOT_OK;
  struct stat        info;
  int                n_problem = planner->problems.count;
  const ingot_value *v = ingot_value_member(step->value, "output");
  char              *place = ingot_arena_strdup(&plan->arena, ingot_value_place(v ? v : step->value));
  INGOT_TRY_ALLOC(place);
  INGOT_TRY(check_overlap(planner, place, plan));
  INGOT_TRY(check_folder(planner, place, plan->output));
  INGOT_TRY(check_earlier(planner, place, plan));
  if (good) INGOT_TRY(check_made(planner, place, plan));
  if (good && planner->problems.count == n_problem && !planner->options.fresh && lstat(plan->output, &info) == 0)
    INGOT_TRY(check_existing(planner, place, plan));
  if (plan->other) INGOT_TRY(check_other(planner, place, plan, good && !plan->complete && !planner->options.fresh));
  if (!good || planner->problems.count != n_problem || planner->options.fresh) goto done;
  if (plan->ready && !plan->complete && planner->problems.count == n_problem)
    INGOT_TRY(check_begun(planner, place, plan));
done:
  return st;
}

/* Bytes on disk that a partial output of an earlier run takes already. */
static ingot_status partial_bytes(const char *output, uint64_t *bytes)
{
  ingot_status st = INGOT_OK;
  ingot_text   path = {0};
  struct stat  info;
  *bytes = 0;
  INGOT_TRY(ingot_text_printf(&path, "%s.partial", output));
  if (stat(ingot_text_string(&path), &info) == 0 && S_ISREG(info.st_mode)) *bytes = (uint64_t)info.st_blocks * 512;
done:
  ingot_text_release(&path);
  return st;
}

ingot_status ingot_output_check_space(ingot_planner *planner)
{
  ingot_status st = INGOT_OK;
  ingot_text   folder = {0};
  int          n_step = planner->job->n_step;
  dev_t       *device = calloc((size_t)n_step + 1, sizeof *device);
  uint64_t    *need = calloc((size_t)n_step + 1, sizeof *need);
  INGOT_CHECK(device && need, INGOT_ERR_NOMEM, "no memory for %d steps", n_step);
  for (int i = 0; i < n_step; i++) {
    const ingot_step_plan *plan = &planner->steps[i];
    struct stat            info;
    struct statvfs         fs;
    uint64_t               have = 0;
    if (!plan->type || plan->complete || plan->sink.n_tensor == 0 || planner->options.elsewhere) continue;
    INGOT_TRY(ingot_existing_folder(plan->output, &folder));
    if (stat(ingot_text_string(&folder), &info) != 0 || statvfs(ingot_text_string(&folder), &fs) != 0) continue;
    INGOT_TRY(partial_bytes(plan->output, &have));
    uint64_t bytes;
    INGOT_TRY(ingot_sink_bytes(&plan->sink, &bytes));
    if (plan->other) bytes *= 2;
    device[i] = info.st_dev;
    need[i] = bytes > have ? bytes - have : 0;
    uint64_t before = 0, free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    for (int j = 0; j < i; j++)
      if (device[j] == info.st_dev) before += need[j];
    if (need[i] + before <= free_bytes) continue;
    char need_text[32], free_text[32];
    ingot_problems_add(&planner->problems, INGOT_ERR_NOSPACE, "%s: output %s: needs %s%s, and %s has %s free",
                       ingot_value_place(planner->job->steps[i].value), plan->output,
                       ingot_bytes_text(need[i] + before, need_text),
                       before ? " with the outputs of earlier steps" : "", ingot_text_string(&folder),
                       ingot_bytes_text(free_bytes, free_text));
  }
done:
  free(device);
  free(need);
  ingot_text_release(&folder);
  return st;
}
