#include "driver/soup_settings.h"

#include <string.h>

#include "driver/step.h"

#define FIELD(name) offsetof(ingot_soup_settings, name)

const char *const ingot_soup_search_names[] = {"greedy", "uniform", NULL};
const char *const ingot_soup_accept_names[] = {"strict", "ge", NULL};
const char *const ingot_soup_metric_names[] = {"loss", "accuracy", NULL};

const ingot_key ingot_soup_keys[] = {
    {"type", INGOT_KEY_STRING, true, NULL, NULL, FIELD(gather.type), "\"soup\""},
    {"name", INGOT_KEY_STRING, false, NULL, NULL, FIELD(gather.name), "name by which later steps may take the output"},
    {"models", INGOT_KEY_LIST, true, NULL, NULL, FIELD(gather.models_value), "the candidates: ids, or earlier steps"},
    {"search", INGOT_KEY_CHOICE, false, "greedy", ingot_soup_search_names, FIELD(search),
     "greedy: from the best candidate down, each that improves the average; uniform: all"},
    {"accept", INGOT_KEY_CHOICE, false, "strict", ingot_soup_accept_names, FIELD(accept),
     "greedy: a candidate is kept if the score gets better (strict), or no worse (ge)"},
    {"metric", INGOT_KEY_CHOICE, false, "loss", ingot_soup_metric_names, FIELD(metric),
     "what scores are: the mean over data sets of the loss, or of the top-1 accuracy"},
    {"data", INGOT_KEY_ANY, true, NULL, NULL, FIELD(gather.data_value),
     "token files: a group { name = \"path\"; ... }, or a list of paths and groups"},
    {"window", INGOT_KEY_INT, true, NULL, NULL, FIELD(gather.window), "tokens of a window"},
    {"stride", INGOT_KEY_INT, false, "0", NULL, FIELD(gather.stride),
     "tokens from one window's start to the next; 0: as long as a window"},
    {"partial", INGOT_KEY_BOOL, false, "false", NULL, FIELD(gather.partial), "keep a last window that is short"},
    {"limit", INGOT_KEY_INT, false, "0", NULL, FIELD(gather.limit), "windows of a data set at most; 0: all"},
    {"batch", INGOT_KEY_INT, false, "0", NULL, FIELD(gather.batch), "windows of a pass; 0: chosen by memory"},
    {"document", INGOT_KEY_INT, false, NULL, NULL, FIELD(gather.document), "id of the token that begins a document"},
    {"separate", INGOT_KEY_BOOL, false, "false", NULL, FIELD(gather.separate),
     "documents do not see each other, and their first tokens are not predicted"},
    {"shuffle", INGOT_KEY_BOOL, false, "false", NULL, FIELD(gather.shuffle),
     "take windows in an order drawn from the seed, not from the file's start"},
    {"seed", INGOT_KEY_INT, false, "the job's", NULL, FIELD(gather.seed), "seed of this step's random choices"},
    {"dtype", INGOT_KEY_CHOICE, false, "auto", ingot_gather_dtype_names, FIELD(gather.dtype),
     "arithmetic: bfloat16 and tf32 need a GPU; auto: bfloat16 there, float32 on a CPU"},
    {"memory_limit", INGOT_KEY_SIZE, false, "0", NULL, FIELD(gather.memory_limit_bytes),
     "memory of a rank at most; without room for the sum of the models in the soup they are read again; 0: no limit"},
    {"output", INGOT_KEY_STRING, true, NULL, NULL, FIELD(output), "where to write: .h5, .safetensors, or else a Hugging Face directory"},
    {"output_dtype", INGOT_KEY_STRING, false, "source", NULL, FIELD(output_dtype),
     "dtype of the output: source (each tensor as in the first candidate), or such as bfloat16"},
    {"shard_size", INGOT_KEY_SIZE, false, "5GB", NULL, FIELD(merge.shard_bytes), "payload of a shard of a directory at most"},
    {"durable", INGOT_KEY_BOOL, false, "true", NULL, FIELD(gather.durable), "flush the output to disk before it gets its name"},
    {.name = NULL},
};

static void read_dtype(ingot_soup_settings *s, const ingot_value *step, ingot_problems *problems)
{
  const ingot_value *where = ingot_value_member(step, "output_dtype");
  s->merge.keep_dtype = strcmp(s->output_dtype, "source") == 0;
  if (s->merge.keep_dtype) return;
  if (!ingot_dtype_parse(s->output_dtype, &s->merge.dtype))
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: unknown dtype \"%s\"", ingot_value_place(where), s->output_dtype);
  else if (!ingot_dtype_is_float(s->merge.dtype))
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: a merge has a floating-point dtype, not %s", ingot_value_place(where),
                       ingot_dtype_long_name(s->merge.dtype));
}

/* A linear merge of all candidates with weights of 1. */
static ingot_status make_merge(ingot_job *job, ingot_soup_settings *s, ingot_problems *problems)
{
  static const char weights[] = "weight = 1.0;";
  ingot_status          st = INGOT_OK;
  ingot_merge_settings *m = &s->merge;
  ingot_value          *root = NULL;
  m->type = "merge";
  m->method_name = "linear";
  m->method = ingot_method_find("linear");
  m->output = s->output;
  m->models_value = s->gather.models_value;
  m->durable = s->gather.durable;
  m->seed = s->gather.seed;
  m->memory_limit_bytes = s->gather.memory_limit_bytes;
  m->n_model = s->gather.n_model;
  m->models = ingot_arena_alloc(&job->arena, (size_t)m->n_model + 1, sizeof *m->models);
  INGOT_TRY_ALLOC(m->models);
  INGOT_TRY(ingot_value_parse(weights, sizeof weights - 1, job->path, NULL, &job->arena, &root));
  INGOT_TRY(ingot_param_set_read(m->method, INGOT_ALLOW_GLOBAL | INGOT_ALLOW_PER_MODEL, root, NULL, 0, &job->arena, problems,
                                 &m->params));
  for (int i = 0; i < m->n_model; i++) {
    m->models[i].ref = s->gather.models[i];
    m->models[i].value = m->models_value;
    INGOT_TRY(ingot_param_set_read(m->method, INGOT_ALLOW_PER_MODEL, NULL, NULL, 0, &job->arena, problems, &m->models[i].params));
  }
done:
  return st;
}

ingot_status ingot_soup_settings_read(ingot_job *job, ingot_job_step *step, ingot_problems *problems)
{
  ingot_status         st = INGOT_OK;
  ingot_soup_settings *s = step->settings;
  ingot_job_step       evaluate = *step;
  int                  n_problem = problems->count;
  evaluate.settings = &s->gather;
  INGOT_TRY(ingot_gather_settings_read(job, &evaluate, problems));
  read_dtype(s, step->value, problems);
  if (problems->count == n_problem && s->gather.models_value && s->gather.n_model < 2)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: a soup needs at least 2 candidates, %d given",
                       ingot_value_place(s->gather.models_value), s->gather.n_model);
  for (int i = 0; i < s->gather.n_model; i++)
    for (int k = 0; k < i; k++)
      if (s->gather.models[i].path && s->gather.models[k].path && strcmp(s->gather.models[i].path, s->gather.models[k].path) == 0 &&
          strcmp(s->gather.models[i].id, s->gather.models[k].id) != 0)
        ingot_problems_add(problems, INGOT_ERR_JOB, "%s: \"%s\" and \"%s\" are the same checkpoint",
                           ingot_value_place(s->gather.models_value), s->gather.models[k].id, s->gather.models[i].id);
  const ingot_value *accept = ingot_value_member(step->value, "accept");
  if (accept && s->search != 0)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: a uniform soup takes every candidate; accept is for search = \"greedy\"",
                       ingot_value_place(accept));
  INGOT_TRY(make_merge(job, s, problems));
done:
  return st;
}
