/** How the plan of a step that runs models comes about: shared by gather_plan.c (what is read, and what that takes) and
 * gather_sink.c (what is written). */
#ifndef INGOT_DRIVER_GATHER_BUILDER_H
#define INGOT_DRIVER_GATHER_BUILDER_H

#include "driver/gather_plan.h"
#include "driver/input.h"
#include "workers/model/spec.h"

/** What such a step makes. */
typedef enum ingot_gather_kind {
  INGOT_GATHER_EVALUATE, /* and what else runs models whole, and gathers other things than statistics */
  INGOT_GATHER_FISHER,
  INGOT_GATHER_GRAM,
  INGOT_GATHER_BLOCKS /* regmean_plus: models of one architecture, block after block */
} ingot_gather_kind;

/** What builds up while a step is resolved. */
typedef struct ingot_gather_builder {
  ingot_planner               *planner;
  const ingot_job_step        *step;
  const ingot_gather_settings *settings;
  ingot_step_plan             *out;
  ingot_arena                 *arena;
  ingot_gather_body           *body;
  ingot_gather_plan           *plan; /* the body's */
  ingot_gather_kind            kind;
  const char                  *place;
  ingot_input                **inputs; /* [n_model] */
  ingot_model_spec            *specs;  /* [n_model]; a failed one has family "" */
  ingot_model_layout           layout; /* Fisher, Gram: of the only model; blocks: of the first */
  int                         *tensor; /* [layout.n_param]: of the input */
} ingot_gather_builder;

/** Whether the output is a file of statistics. */
static inline bool ingot_gather_makes_statistics(ingot_gather_kind kind)
{
  return kind == INGOT_GATHER_FISHER || kind == INGOT_GATHER_GRAM;
}

/** The recipe, the tensors and files of the output, its fingerprint: everything else of the plan is there. */
ingot_status ingot_gather_make_sink(ingot_gather_builder *b);

#endif
