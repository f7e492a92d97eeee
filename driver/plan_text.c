#include "driver/plan_text.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "driver/recipe.h"
#include "driver/step.h"

static const char *format_name(ingot_sink_format format)
{
  static const char *const names[] = {"ingot checkpoint (HDF5)", "safetensors file", "Hugging Face directory"};
  return names[format];
}

/* How many tensors there are of each dtype: "12 BF16, 1 I64". */
static ingot_status append_dtypes(const ingot_sink_spec *sink, ingot_text *text)
{
  ingot_status st = INGOT_OK;
  int          count[INGOT_DTYPE_COUNT] = {0};
  const char  *comma = "";
  for (int i = 0; i < sink->n_tensor; i++) count[sink->tensors[i].dtype]++;
  for (int d = 0; d < INGOT_DTYPE_COUNT; d++) {
    if (count[d] == 0) continue;
    INGOT_TRY(ingot_text_printf(text, "%s%d %s", comma, count[d], ingot_dtype_name((ingot_dtype)d)));
    comma = ", ";
  }
done:
  return st;
}

static ingot_status append_step(const ingot_step_plan *p, const ingot_bandwidth *bandwidth, ingot_text *text)
{
  ingot_status st = INGOT_OK;
  char         a[32], b[32], c[32];
  json_t      *recipe = json_loads(p->recipe, 0, NULL);
  double       seconds = ingot_bandwidth_estimate(bandwidth, p->bytes_read, p->bytes_written);
  INGOT_TRY(ingot_text_printf(text, "step %d: %s%s\n", p->number, p->title, p->complete ? " (already complete)" : ""));
  for (int i = 0; i < p->n_input; i++)
    INGOT_TRY(ingot_text_printf(text, "  input    %s: %s, %s%s\n", p->inputs[i].id, p->inputs[i].path,
                                ingot_bytes_text(p->inputs[i].bytes, a),
                                p->inputs[i].identity ? "" : ", made by an earlier step"));
  INGOT_TRY(ingot_text_printf(text, "  output   %s: %s", p->output, p->form ? p->form : format_name(p->sink.format)));
  if (p->sink.n_tensor > 0) {
    uint64_t bytes;
    INGOT_TRY(ingot_sink_bytes(&p->sink, &bytes));
    INGOT_TRY(ingot_text_printf(text, ", %s\n  tensors  %d (", ingot_bytes_text(bytes, a), p->sink.n_tensor));
    INGOT_TRY(append_dtypes(&p->sink, text));
    INGOT_TRY(ingot_text_printf(text, ")"));
  }
  if (p->work) INGOT_TRY(ingot_text_printf(text, "\n  work     %s\n", p->work));
  else
    INGOT_TRY(ingot_text_printf(text, ", %" PRId64 " tiles, %d pass%s over the inputs\n", p->n_tile, p->n_pass,
                                p->n_pass == 1 ? "" : "es at most"));
  INGOT_TRY(ingot_text_printf(text, "  traffic  %s to read, %s to write\n", ingot_bytes_text(p->bytes_read, a),
                              ingot_bytes_text(p->bytes_written, b)));
  if (p->ready)
    INGOT_TRY(ingot_text_printf(text, "  memory   %s%s a rank, with %d thread%s\n",
                                ingot_bytes_text(p->memory_bytes, c), p->host_bytes > 0 ? " of the GPU" : "",
                                p->n_thread, p->n_thread == 1 ? "" : "s"));
  if (p->ready && p->host_bytes > 0)
    INGOT_TRY(ingot_text_printf(text, "           %s of the host a rank, and what the GPU's libraries take there\n",
                                ingot_bytes_text(p->host_bytes, c)));
  if (seconds > 0.0 && !p->complete)
    INGOT_TRY(ingot_text_printf(text, "  time     about %.3g s%s, reading at %.2f GB/s and writing at %.2f GB/s\n",
                                seconds, p->work ? " without running the models" : "",
                                bandwidth->read_bytes_per_s / 1e9, bandwidth->write_bytes_per_s / 1e9));
  INGOT_TRY(ingot_text_printf(text, "  settings\n"));
  INGOT_TRY(ingot_yaml_append(recipe, 4, text));
done:
  json_decref(recipe);
  return st;
}

ingot_status ingot_plan_text(const ingot_planner *planner, const ingot_bandwidth *bandwidth, ingot_text *text)
{
  ingot_status st = INGOT_OK;
  const char  *gap = "";
  for (int i = 0; i < planner->job->n_step; i++) {
    if (!planner->steps[i].type) continue;
    INGOT_TRY(ingot_text_printf(text, "%s", gap));
    INGOT_TRY(append_step(&planner->steps[i], bandwidth, text));
    gap = "\n";
  }
done:
  return st;
}

static json_t *tensors_json(const ingot_sink_spec *sink)
{
  json_t *list = json_array();
  for (int i = 0; i < sink->n_tensor; i++) {
    const ingot_sink_tensor *t = &sink->tensors[i];
    json_t                  *shape = json_array();
    for (int d = 0; d < t->shape.n_dim; d++) json_array_append_new(shape, json_integer(t->shape.dim[d]));
    json_array_append_new(list, json_pack("{s:s, s:s, s:o}", "name", t->name, "dtype", ingot_dtype_name(t->dtype),
                                          "shape", shape));
  }
  return list;
}

static json_t *step_json(const ingot_step_plan *p, const ingot_bandwidth *bandwidth, uint64_t output_bytes)
{
  json_t *inputs = json_array();
  char    fingerprint[24];
  snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, p->fingerprint);
  for (int i = 0; i < p->n_input; i++)
    json_array_append_new(inputs,
                          json_pack("{s:o, s:o, s:I}", "id", ingot_json_text(p->inputs[i].id), "path",
                                    ingot_json_text(p->inputs[i].path), "bytes", (json_int_t)p->inputs[i].bytes));
  json_t *j =
      json_pack("{s:i, s:s, s:o, s:o, s:b, s:b, s:I, s:i, s:I, s:I, s:I, s:I, s:I, s:i, s:s, s:o, s:o}", "step",
                p->number, "title", p->title, "inputs", inputs, "output", ingot_json_text(p->output), "complete",
                (int)p->complete, "ready", (int)p->ready, "tiles", (json_int_t)p->n_tile, "passes", p->n_pass,
                "bytes_read", (json_int_t)p->bytes_read, "bytes_written", (json_int_t)p->bytes_written, "output_bytes",
                (json_int_t)output_bytes, "memory_bytes", (json_int_t)p->memory_bytes, "host_bytes",
                (json_int_t)p->host_bytes, "threads", p->n_thread, "fingerprint", fingerprint, "settings",
                json_loads(p->recipe, 0, NULL), "tensors", tensors_json(&p->sink));
  double seconds = ingot_bandwidth_estimate(bandwidth, p->bytes_read, p->bytes_written);
  if (seconds > 0.0) json_object_set_new(j, "seconds", json_real(seconds));
  return j;
}

ingot_status ingot_plan_json(const ingot_planner *planner, const ingot_bandwidth *bandwidth, json_t **out)
{
  ingot_status st = INGOT_OK;
  json_t      *steps = json_array();
  *out = NULL;
  for (int i = 0; i < planner->job->n_step; i++) {
    const ingot_step_plan *p = &planner->steps[i];
    uint64_t               bytes = 0;
    if (!p->type) continue;
    if (p->sink.n_tensor > 0) INGOT_TRY(ingot_sink_bytes(&p->sink, &bytes));
    INGOT_CHECK(json_array_append_new(steps, step_json(p, bandwidth, bytes)) == 0, INGOT_ERR_NOMEM,
                "no memory for the plan of step %d", p->number);
  }
  *out = json_pack("{s:o, s:O}", "job", ingot_json_text(planner->job->path), "steps", steps);
  INGOT_CHECK(*out, INGOT_ERR_NOMEM, "no memory for the plan");
done:
  json_decref(steps);
  return st;
}

/* Earlier steps whose outputs this one takes, "1,3"; "-" for none. */
static ingot_status append_needs(const ingot_planner *planner, const ingot_step_plan *p, ingot_text *text)
{
  ingot_status st = INGOT_OK;
  const char  *comma = "";
  for (int earlier = 0; earlier < p->number - 1; earlier++) {
    const char *output = planner->job->steps[earlier].output;
    bool        needed = false;
    for (int i = 0; i < p->n_input; i++) needed |= strcmp(p->inputs[i].path, output) == 0;
    if (!needed) continue;
    INGOT_TRY(ingot_text_printf(text, "%s%d", comma, earlier + 1));
    comma = ",";
  }
  if (!*comma) INGOT_TRY(ingot_text_printf(text, "-"));
done:
  return st;
}

ingot_status ingot_plan_resources(const ingot_planner *planner, const ingot_bandwidth *bandwidth, ingot_text *text)
{
  ingot_status st = INGOT_OK;
  for (int i = 0; i < planner->job->n_step; i++) {
    const ingot_step_plan *p = &planner->steps[i];
    if (!p->type) continue;
    INGOT_TRY(ingot_text_printf(text, "%d\t%s\t%d\t%" PRIu64 "\t%" PRIu64 "\t%" PRIu64 "\t%.0f\t", p->number,
                                p->type->name, (int)p->complete, p->memory_bytes, p->bytes_read, p->bytes_written,
                                ceil(ingot_bandwidth_estimate(bandwidth, p->bytes_read, p->bytes_written))));
    INGOT_TRY(append_needs(planner, p, text));
    INGOT_TRY(ingot_text_printf(text, "\t%s\n", p->output));
  }
done:
  return st;
}
