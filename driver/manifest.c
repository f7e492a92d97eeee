#define _POSIX_C_SOURCE 200809L
#include "driver/manifest.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "driver/begun.h"
#include "driver/recipe.h"
#include "driver/version.h"
#include "io/atomic_file.h"
#include "io/json.h"

static const char MANIFEST_NAME[] = "ingot_manifest.json";
enum { MANIFEST_MAX = 1 << 30 };

void ingot_time_text(char text[32])
{
  time_t    now = time(NULL);
  struct tm utc;
  text[0] = '\0';
  if (gmtime_r(&now, &utc)) strftime(text, 32, "%Y-%m-%dT%H:%M:%SZ", &utc);
}

ingot_status ingot_manifest_path(const char *output, ingot_text *text)
{
  struct stat info;
  size_t      n = strlen(output);
  while (n > 1 && output[n - 1] == '/') n--;
  if (stat(output, &info) == 0 && S_ISDIR(info.st_mode))
    return ingot_text_printf(text, "%.*s/%s", (int)n, output, MANIFEST_NAME);
  return ingot_text_printf(text, "%.*s.manifest.json", (int)n, output);
}

static void add_extent(const struct stat *info, uint64_t *bytes, int64_t *modified_ns)
{
  int64_t modified = (int64_t)info->st_mtim.tv_sec * 1000000000 + info->st_mtim.tv_nsec;
  *bytes += (uint64_t)info->st_size;
  if (modified > *modified_ns) *modified_ns = modified;
}

ingot_status ingot_output_extent(const char *output, uint64_t *bytes, int64_t *modified_ns)
{
  ingot_status st = INGOT_OK;
  DIR         *folder = NULL;
  struct stat  info;
  *bytes = 0;
  *modified_ns = 0;
  INGOT_CHECK(stat(output, &info) == 0, INGOT_ERR_IO, "%s: cannot look at the output", output);
  if (!S_ISDIR(info.st_mode)) {
    add_extent(&info, bytes, modified_ns);
    goto done;
  }
  folder = opendir(output);
  INGOT_CHECK(folder, INGOT_ERR_IO, "%s: cannot list the directory", output);
  for (struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) {
    if (strcmp(entry->d_name, MANIFEST_NAME) == 0) continue;
    if (fstatat(dirfd(folder), entry->d_name, &info, 0) == 0 && S_ISREG(info.st_mode))
      add_extent(&info, bytes, modified_ns);
  }
done:
  if (folder) closedir(folder);
  return st;
}

static const char OTHER_JOB[] = "made by other settings or from other inputs";

/* The reason why a manifest does not show the output to be complete, or NULL. */
static const char *mismatch(const json_t *tree, const char *output, uint64_t fingerprint)
{
  char        text[24];
  uint64_t    bytes = 0;
  int64_t     modified = 0;
  const char *found = json_string_value(json_object_get(tree, "fingerprint"));
  snprintf(text, sizeof text, "%016" PRIx64, fingerprint);
  if (json_integer_value(json_object_get(tree, "manifest_version")) != INGOT_MANIFEST_VERSION)
    return "with a manifest of another version";
  if (!found || strcmp(found, text) != 0) return OTHER_JOB;
  const json_t *place = json_object_get(tree, "output");
  if (ingot_output_extent(output, &bytes, &modified) != INGOT_OK) return "and cannot be looked at";
  if (json_integer_value(json_object_get(place, "bytes")) != (json_int_t)bytes ||
      json_integer_value(json_object_get(place, "modified_ns")) != (json_int_t)modified)
    return "and was changed after it was made";
  return NULL;
}

ingot_status ingot_manifest_matches(const ingot_step_plan *plan, bool *matches, ingot_text *why)
{
  ingot_status st = INGOT_OK;
  const char  *output = plan->output;
  ingot_text   path = {0};
  json_t      *tree = NULL;
  const char  *reason = NULL;
  *matches = false;
  INGOT_TRY(ingot_manifest_path(output, &path));
  if (access(ingot_text_string(&path), F_OK) != 0) reason = "without a manifest";
  else if (ingot_json_read(ingot_text_string(&path), MANIFEST_MAX, &tree) != INGOT_OK)
    reason = "with a broken manifest";
  else reason = mismatch(tree, output, plan->fingerprint);
  ingot_error_clear();
  *matches = reason == NULL;
  if (reason) INGOT_TRY(ingot_text_printf(why, "%s", reason));
  if (reason == OTHER_JOB && json_object_get(tree, "recipe")) {
    INGOT_TRY(ingot_text_printf(why, " ("));
    INGOT_TRY(ingot_begun_difference(tree, plan, why));
    INGOT_TRY(ingot_text_printf(why, ")"));
  }
done:
  json_decref(tree);
  ingot_text_release(&path);
  return st;
}

static json_t *tensors_json(const ingot_step_plan *plan, const uint64_t *checksums)
{
  json_t *tensors = json_object();
  for (int i = 0; i < plan->sink.n_tensor; i++) {
    const ingot_sink_tensor *t = &plan->sink.tensors[i];
    json_t                  *shape = json_array();
    for (int d = 0; d < t->shape.n_dim; d++) json_array_append_new(shape, json_integer(t->shape.dim[d]));
    json_t *row = json_pack("{s:s, s:o}", "dtype", ingot_dtype_name(t->dtype), "shape", shape);
    if (checksums) json_object_set_new(row, "checksum", ingot_json_hash(checksums[i]));
    json_object_set_new(tensors, t->name, row);
  }
  return tensors;
}

static json_t *run_json(const ingot_manifest_run *run)
{
  char    host[256] = "unknown", finished[32];
  json_t *ranks = json_array();
  gethostname(host, sizeof host - 1);
  ingot_time_text(finished);
  for (int r = 0; r < run->n_rank; r++) {
    const ingot_merge_timing *t = &run->timing[r];
    json_array_append_new(ranks,
                          json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
                                    "wall_s", t->wall_s, "cpu_s", t->cpu_s, "read_s", t->read_s, "move_s", t->move_s,
                                    "merge_s", t->merge_s, "write_s", t->write_s, "wait_s", t->wait_s, "device_s",
                                    t->device_s, "threads", (json_int_t)t->n_lane, "bytes_read",
                                    (json_int_t)t->bytes_read, "bytes_written", (json_int_t)t->bytes_written,
                                    "tiles_done", (json_int_t)t->tiles_done, "tiles_resumed",
                                    (json_int_t)t->tiles_resumed, "tiles_on_device", (json_int_t)t->tiles_on_device,
                                    "peak_anon_bytes", (json_int_t)t->peak_anon_bytes));
  }
  return json_pack("{s:s, s:s, s:s, s:i, s:i, s:s, s:o}", "host", host, "started", run->started, "finished", finished,
                   "ranks", run->n_rank, "threads", run->n_thread, "device", run->device, "by_rank", ranks);
}

ingot_status ingot_manifest_write(const ingot_job *job, const ingot_step_plan *plan, const uint64_t *checksums,
                                  const ingot_manifest_run *run, bool durable)
{
  ingot_status st = INGOT_OK;
  ingot_text   path = {0};
  char        *text = NULL;
  json_t      *tree = NULL;
  uint64_t     bytes = 0;
  int64_t      modified = 0;
  INGOT_TRY(ingot_manifest_path(plan->output, &path));
  INGOT_TRY(ingot_output_extent(plan->output, &bytes, &modified));
  tree = json_pack("{s:i, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:{s:o, s:I, s:I}}", "manifest_version",
                   INGOT_MANIFEST_VERSION, "program", ingot_version_text(), "fingerprint",
                   ingot_json_hash(plan->fingerprint), "job", ingot_json_text(job->text), "recipe",
                   json_loads(plan->recipe, 0, NULL), "inputs", ingot_inputs_list(plan), "run", run_json(run),
                   "tensors", tensors_json(plan, checksums), "output", "path", ingot_json_text(plan->output), "bytes",
                   (json_int_t)bytes, "modified_ns", (json_int_t)modified);
  INGOT_CHECK(tree, INGOT_ERR_NOMEM, "%s: no memory for the manifest", plan->output);
  text = json_dumps(tree, JSON_INDENT(1));
  INGOT_CHECK(text, INGOT_ERR_NOMEM, "%s: no memory for the manifest", plan->output);
  INGOT_TRY(ingot_file_replace(ingot_text_string(&path), text, strlen(text), durable));
done:
  free(text);
  json_decref(tree);
  ingot_text_release(&path);
  return st;
}

ingot_status ingot_manifest_remove(const char *output)
{
  ingot_status st = INGOT_OK;
  ingot_text   path = {0};
  struct stat  info;
  INGOT_TRY(ingot_manifest_path(output, &path));
  if (lstat(ingot_text_string(&path), &info) == 0 && S_ISREG(info.st_mode))
    st = ingot_file_remove(ingot_text_string(&path));
done:
  ingot_text_release(&path);
  return st;
}
