/** How the plan of a distill step comes about: shared by distill_plan.c (what is read), distill_memory.c (what that
 * takes) and distill_sink.c (what is written). */
#ifndef INGOT_DRIVER_DISTILL_BUILDER_H
#define INGOT_DRIVER_DISTILL_BUILDER_H

#include "driver/distill_plan.h"
#include "driver/input.h"
#include "workers/model/spec.h"

/** What builds up while the step is resolved. */
typedef struct ingot_distill_builder {
  ingot_planner                *planner;
  const ingot_job_step         *step;
  const ingot_distill_settings *settings;
  ingot_step_plan              *out;
  ingot_arena                  *arena;
  ingot_distill_body           *body;
  ingot_distill_plan           *plan; /* the body's */
  const char                   *place;
  const char                   *held;     /* where the teachers are, and why; "": there are none */
  ingot_input                  *student;  /* NULL: random */
  ingot_input                 **teachers; /* [n_teacher] */
  ingot_model_spec              spec;     /* the student's */
  ingot_model_spec             *specs;    /* [n_teacher] */
  ingot_model_layout            layout;
  int                          *tensor; /* [layout.n_param]: of the student's input */
} ingot_distill_builder;

/** "linear", "log_linear", "average_loss". */
const char *ingot_distill_combine_name(ingot_distill_combine combine);
/**
 * Weights from the file that the settings name, where they name one: into the plan, and the file among the inputs; not
 * ready when a step has yet to make it. INGOT_ERR_MISMATCH with what does not fit; errors of ingot_mixture_read.
 */
ingot_status ingot_distill_take_weights(ingot_distill_builder *b);
/** Where the teachers are held, windows of a pass, bytes of a rank. What does not fit is a problem that says what
 * would. */
ingot_status ingot_distill_fit_memory(ingot_distill_builder *b);
/** Where the second checkpoint goes, if one is kept: "student.last.h5" for "student.h5", "student.last" for a
 * directory. */
ingot_status ingot_distill_name_other(ingot_distill_builder *b);
/** The recipe, the tensors and files of the output, its fingerprint: everything else of the plan is there. */
ingot_status ingot_distill_make_sink(ingot_distill_builder *b);

#endif
