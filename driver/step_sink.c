#include "driver/step_sink.h"

#include <string.h>

#include "base/hash.h"
#include "driver/version.h"

ingot_status ingot_step_sink_begin(const ingot_planner *planner, bool durable, ingot_step_plan *plan)
{
  ingot_sink_spec *sink = &plan->sink;
  sink->path = ingot_arena_strdup(&plan->arena, plan->output);
  if (!sink->path) return ingot_fail(INGOT_ERR_NOMEM, "no memory for the path of an output");
  sink->format = ingot_sink_format_of(sink->path);
  sink->io = planner->job->io;
  sink->durable = durable && !planner->options.no_sync;
  return INGOT_OK;
}

ingot_status ingot_step_sink_adopt(const ingot_sink_spec *part, const char *recipe, const char *card,
                                   ingot_arena *arena, ingot_sink_spec *out)
{
  ingot_sink_attribute *list = ingot_arena_alloc(arena, (size_t)part->n_attribute + 1, sizeof *list);
  if (!list) return ingot_fail(INGOT_ERR_NOMEM, "no memory for the attributes of an output");
  for (int i = 0; i < part->n_attribute; i++) {
    list[i] = part->attributes[i];
    if (strcmp(list[i].name, "ingot_recipe") == 0) list[i].text = recipe;
    if (card && strcmp(list[i].name, "model_card") == 0) list[i].text = card;
  }
  *out = *part;
  out->attributes = list;
  return INGOT_OK;
}

ingot_status ingot_step_sink_attributes(const ingot_job *job, ingot_step_plan *plan)
{
  ingot_status          st = INGOT_OK;
  ingot_sink_attribute *list = ingot_arena_alloc(&plan->arena, 3, sizeof *list);
  char                 *job_text = ingot_arena_strdup(&plan->arena, job->text);
  INGOT_TRY_ALLOC(list && job_text);
  list[0] = (ingot_sink_attribute){"ingot_job", job_text};
  list[1] = (ingot_sink_attribute){"ingot_recipe", plan->recipe};
  list[2] = (ingot_sink_attribute){"ingot_version", ingot_version_text()};
  plan->sink.attributes = list;
  plan->sink.n_attribute = 3;
done:
  return st;
}

static uint64_t chain_string(uint64_t h, const char *s)
{
  return ingot_hash_seeded(s, strlen(s) + 1, h);
}

uint64_t ingot_step_fingerprint(const ingot_step_plan *plan, const char *version)
{
  int64_t  format = plan->sink.format;
  uint64_t h = chain_string(ingot_hash_string(version), plan->recipe);
  h = ingot_hash_seeded(&format, sizeof format, h);
  uint64_t alignment = ingot_sink_alignment(&plan->sink);
  if (format == INGOT_SINK_HDF5 && alignment != INGOT_SINK_ALIGNMENT)
    h = ingot_hash_seeded(&alignment, sizeof alignment, h);
  for (int i = 0; i < plan->n_input; i++) {
    h = chain_string(h, plan->inputs[i].id);
    h = ingot_hash_seeded(&plan->inputs[i].identity, sizeof plan->inputs[i].identity, h);
  }
  return h;
}
