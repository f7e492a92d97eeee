/** Resolving a merge step: from settings and inputs to the plan that workers run. */
#ifndef INGOT_DRIVER_MERGE_PLAN_H
#define INGOT_DRIVER_MERGE_PLAN_H

#include "driver/merge_settings.h"
#include "driver/planner.h"
#include "driver/step.h"
#include "io/statistics.h"
#include "workers/model/spec.h"

/** The body of a merge step's plan. */
typedef struct ingot_merge_body {
  ingot_merge_plan plan;
  ingot_source   **sources; /* [plan.n_source]; NULL entries where the input is not there yet */
  bool             owned;   /* sources were unpacked here and are closed with the plan */
} ingot_merge_body;

/** One output section: a run of layers, or a whole model, and where its tensors come from. */
typedef struct ingot_section_source {
  ingot_input                 *input;
  int                          source;     /* index into plan.sources */
  int64_t                      first;      /* layer that the section's first layer is taken from */
  const ingot_param_set       *params;     /* NULL: a base, which has none */
  int                          model;      /* index among the step's models, for messages; -1: base */
  int                          statistics; /* index into plan.sources of its statistics, or -1 */
  const ingot_statistics_info *info;       /* of these; NULL: a file of others */
} ingot_section_source;

typedef struct ingot_section {
  ingot_section_source  *sources; /* [n_source]: in the method's order of inputs, a base first */
  int                    n_source;
  int                    reference; /* source whose tensors, dtypes and order are followed */
  int64_t                n_layer;   /* -1: the whole model, tensors keep their names */
  const ingot_param_set *params;    /* of the slice; NULL: none */
  const ingot_value     *value;
} ingot_section;

/** What builds up while a merge is resolved. */
typedef struct ingot_merge_builder {
  ingot_planner              *planner;
  const ingot_job_step       *step;
  const ingot_merge_settings *settings;
  ingot_step_plan            *out;
  ingot_arena                *arena; /* of out */
  ingot_merge_body           *body;
  ingot_input               **inputs; /* [n_input]: each input once */
  ingot_job_reference        *refs;   /* [n_input] */
  int                         n_input;
  int                         n_checkpoint; /* inputs before those of statistics */
  int                         config_input; /* the input that lends config.json and the tokenizer */
  ingot_section              *sections;     /* [n_section] */
  int                         n_section;
  bool                        has_base;  /* input 0 of the method is the base */
  bool                        drop_head; /* tied heads are not stored */
  ingot_merge_tensor         *tensors;   /* [n_tensor] so far */
  int                         n_tensor, capacity;
  int64_t                     n_tile, n_merged;  /* tiles; elements of merged tensors so far */
  ingot_model_layout          layout;            /* live statistics: of the reference */
  int                         n_with, n_without; /* tensors with and without the statistics that they want */
  const char                 *first_without;
  int64_t                     n_row;         /* that cropped embeddings keep; -1: none is cropped */
  bool                        kind_reported; /* statistics of the kind that the method does not read */
  bool                        check_failed;  /* one message of method->check is enough */
  bool                       *param_missing; /* [n_param]: reported */
  const char                 *place;         /* "job.cfg:12: step 1 (ties)"; of other steps their type */
} ingot_merge_builder;

/** The `plan` of the merge step type; other types that merge plan that part with it. */
ingot_status ingot_merge_plan_make(ingot_planner *planner, const ingot_job_step *step, ingot_step_plan *plan);

/* The rest of the step type, shared with export. */
ingot_status ingot_merge_step_pack(const ingot_step_plan *plan, ingot_text *bytes);
ingot_status ingot_merge_step_unpack(const void *bytes, size_t size, ingot_step_plan *plan);
ingot_status ingot_merge_step_run(const ingot_run_context *context, const ingot_step_plan *plan,
                                  ingot_step_result *result);
void         ingot_merge_step_release(ingot_step_plan *plan);
/** Options for the workers; the merge's progress is not shown yet. */
ingot_merge_options ingot_merge_step_options(const ingot_run_context *context, const ingot_step_plan *plan);
/** Lines and events of what a merge came upon; *merged is released, and its checksums and timing go to *result. */
void ingot_merge_step_report(const ingot_run_context *context, const ingot_merge_plan *plan, ingot_merge_result *merged,
                             ingot_step_result *result);

/* Parts of planning. */

/** Add one output tensor: reference tensor `index` of the section, its name in the output, and its depth t. */
ingot_status ingot_merge_add_tensor(ingot_merge_builder *b, const ingot_section *section, int index, const char *name,
                                    double t);
/** Fill global and per-model parameters of a tensor whose inputs are known. in_names: [view.n_input]. */
ingot_status ingot_merge_add_params(ingot_merge_builder *b, const ingot_section *section,
                                    const ingot_section_source *const *taking_part, const char *const *in_names,
                                    double t, ingot_merge_tensor *tensor);
/** Set drop_head, or add a problem when heads are tied in one model and not in another. */
void ingot_merge_check_heads(ingot_merge_builder *b);
/** "lm_head.weight" and its like. */
bool ingot_is_head(const char *tensor_name);
/** The shape of an output tensor like t: under embeddings = "crop" with the rows that all models of the step have. */
ingot_shape ingot_merge_cropped_shape(const ingot_merge_builder *b, const ingot_sink_tensor *t);
/** Whether an input's tensor is used with its first rows only. */
bool ingot_merge_is_cropped_to(const ingot_merge_builder *b, const ingot_sink_tensor *t, const ingot_shape *shape);
/** What a message says besides of a setting `key` that helps: `hint`, or nothing where the step has no such key. */
const char *ingot_merge_hint(const ingot_merge_builder *b, const char *key, const char *hint);
/** The same of a message about two shapes. */
const char *ingot_merge_crop_hint(const ingot_merge_builder *b, const ingot_sink_tensor *t, const ingot_shape *shape);
/** Set n_row, and add problems where models mean other tokens by the same numbers. */
ingot_status ingot_merge_check_vocabularies(ingot_merge_builder *b);
/** Warn of cropped tensors, and note them in the recipe. */
ingot_status ingot_merge_report_crops(const ingot_merge_builder *b, json_t *recipe);
/** A problem, or a warning, where quantized weights are merged without their scales. */
ingot_status ingot_merge_check_scales(ingot_merge_builder *b);
/**
 * Open the models' statistics and check what can be checked of them as a whole; live ones: find out which layers have
 * them. *good: false when one is no use.
 */
ingot_status ingot_merge_open_statistics(ingot_merge_builder *b, bool *good);
/** Append the statistics that a tensor wants to its inputs: source and tensor get new arrays. */
ingot_status ingot_merge_add_statistics(ingot_merge_builder *b, const ingot_section_source *const *taking_part,
                                        const char *const *in_names, ingot_merge_tensor *tensor);
/** Tensors that went without statistics; a problem when all did. */
void ingot_merge_report_statistics(ingot_merge_builder *b);
/** What ingot_merge_open_statistics has allocated. */
void ingot_merge_release_statistics(ingot_merge_builder *b);
/** An input of the step: its index, opened when it is new; -1 after a problem. */
ingot_status ingot_merge_take_input(ingot_merge_builder *b, const ingot_job_reference *ref, const ingot_value *where,
                                    int *index);
/** Side files, attributes, model card and sink of the output. */
ingot_status ingot_merge_make_sink(ingot_merge_builder *b);

#endif
