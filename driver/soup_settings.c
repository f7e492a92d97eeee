#include "driver/soup_settings.h"

#define FIELD(name) offsetof(ingot_soup_settings, name)
#define GATHER_FIELD(name) FIELD(parts.gather.name)
#define DATA_MERGE_FIELD(name) FIELD(parts.name)
#include "driver/gather_rows.h"

const char *const ingot_soup_search_names[] = {"greedy", "uniform", NULL};
const char *const ingot_soup_accept_names[] = {"strict", "ge", NULL};
const char *const ingot_soup_metric_names[] = {"loss", "accuracy", NULL};

const ingot_key ingot_soup_keys[] = {
    {"type", INGOT_KEY_STRING, true, NULL, NULL, GATHER_FIELD(type), "\"soup\""},
    {"name", INGOT_KEY_STRING, false, NULL, NULL, GATHER_FIELD(name), "name by which later steps may take the output"},
    {"models", INGOT_KEY_LIST, true, NULL, NULL, GATHER_FIELD(models_value), "the candidates: ids, or earlier steps"},
    {"search", INGOT_KEY_CHOICE, false, "greedy", ingot_soup_search_names, FIELD(search),
     "greedy: from the best candidate down, each that improves the average; uniform: all"},
    {"accept", INGOT_KEY_CHOICE, false, "strict", ingot_soup_accept_names, FIELD(accept),
     "greedy: a candidate is kept if the score gets better (strict), or no worse (ge)"},
    {"metric", INGOT_KEY_CHOICE, false, "loss", ingot_soup_metric_names, FIELD(metric),
     "what scores are: the mean over data sets of the loss, or of the top-1 accuracy"},
    ROW_DATA,
    ROW_WINDOW,
    ROW_STRIDE,
    ROW_PARTIAL,
    ROW_LIMIT,
    ROW_BATCH,
    ROWS_OF_READING,
    {"memory_limit", INGOT_KEY_SIZE, false, "0", NULL, GATHER_FIELD(memory_limit_bytes),
     "memory of a rank at most; without room for the sum of the models in the soup they are read again; 0: no limit"},
    ROWS_OF_MERGED_OUTPUT("candidate"),
    ROW_DURABLE,
    {.name = NULL},
};

ingot_status ingot_soup_settings_read(ingot_job *job, ingot_job_step *step, ingot_problems *problems)
{
  static const char    weights[] = "weight = 1.0;";
  ingot_status         st = INGOT_OK;
  ingot_soup_settings *s = step->settings;
  ingot_value         *parameters = NULL;
  int                  n_problem = problems->count;
  INGOT_TRY(ingot_value_parse(weights, sizeof weights - 1, job->path, NULL, &job->arena, &parameters));
  INGOT_TRY(ingot_data_merge_settings_read(job, step, &s->parts, "linear", parameters, NULL, 0, problems));
  const ingot_gather_settings *gather = &s->parts.gather;
  if (problems->count == n_problem && gather->models_value && gather->n_model < 2)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: a soup needs at least 2 candidates, %d given",
                       ingot_value_place(gather->models_value), gather->n_model);
  const ingot_value *accept = ingot_value_member(step->value, "accept");
  if (accept && s->search != 0)
    ingot_problems_add(problems, INGOT_ERR_JOB,
                       "%s: a uniform soup takes every candidate; accept is for search = \"greedy\"",
                       ingot_value_place(accept));
done:
  return st;
}
