#include "driver/ensemble_settings.h"

#include <math.h>
#include <string.h>

#include "driver/placement.h"
#include "driver/step.h"
#include "io/sink.h"
#include "workers/ensemble/ensemble.h"

#define FIELD(name) offsetof(ingot_ensemble_settings, name)
#define GATHER_FIELD(name) FIELD(gather.name)
#include "driver/gather_rows.h"

static const char *const kind_names[] = {"linear", "log_linear", "max", "vote", "posterior", NULL};
static const char *const logits_kind_names[] = {"linear", "log_linear", "max", "posterior", NULL};
static const char *const logp_names[] = {"float16", "float32", NULL};
static const char *const tail_names[] = {"none", "bucket", "uniform", NULL};
static const double      SUM_TOLERANCE = 1e-6;

/* Further rows that both types share. */
/* clang-format off: rows of tables */
#define ROW_NAME                                                                        \
  {                                                                                     \
    "name", INGOT_KEY_STRING, false, NULL, NULL, FIELD(gather.name), "name of the step" \
  }
#define ROW_MEMORY                                                                      \
  {                                                                                     \
    "memory_limit", INGOT_KEY_SIZE, false, "0", NULL, FIELD(gather.memory_limit_bytes), \
        "memory of a rank at most; 0: what there is"                                    \
  }
#define ROW_PLACEMENT INGOT_PLACEMENT_ROW(FIELD(placement), "the models")
#define ROW_FLOOR                                                                    \
  {                                                                                  \
    "floor", INGOT_KEY_REAL, false, "1e-8", INGOT_ENSEMBLE_FLOOR, FIELD(floor),      \
        "log_linear: probabilities below count as this where the weight is negative" \
  }
/* clang-format on */

const ingot_key ingot_ensemble_keys[] = {
    {"type", INGOT_KEY_STRING, true, NULL, NULL, FIELD(gather.type), "\"ensemble\""},
    ROW_NAME,
    {"models", INGOT_KEY_LIST, true, NULL, NULL, FIELD(gather.models_value), "the models: ids, or earlier steps"},
    {"kind", INGOT_KEY_CHOICE, false, "linear", kind_names, FIELD(kind),
     "how distributions become one (docs/methods.md)"},
    {"weights", INGOT_KEY_ANY, false, "\"uniform\"", NULL, FIELD(weights_value),
     "\"uniform\", \"learn\", a list with one number a model, a group { data set = list; ... }, or the output of an "
     "ensemble step"},
    {"learn_data", INGOT_KEY_ANY, false, NULL, NULL, FIELD(learn_value),
     "weights = \"learn\": token files to learn from, as data"},
    {"per_data", INGOT_KEY_BOOL, false, "false", NULL, FIELD(per_data),
     "weights = \"learn\": weights for each data set, from the entry of learn_data with its name; else one set of "
     "weights from all"},
    {"l2", INGOT_KEY_REAL, false, "0.001", INGOT_FROM_TO(0.0, 1e6), FIELD(l2),
     "log_linear, learning: half of it times the weights' squared norm is added to the mean loss"},
    ROW_FLOOR,
    INGOT_PLAUSIBILITY_ROWS(FIELD(plausibility), "models"),
    ROW_DATA,
    ROW_WINDOW,
    ROW_STRIDE,
    ROW_PARTIAL,
    ROW_LIMIT,
    ROW_BATCH,
    ROWS_OF_READING,
    ROW_MEMORY,
    ROW_PLACEMENT,
    {"output", INGOT_KEY_STRING, true, NULL, NULL, FIELD(output),
     "where to write: .json, or .h5 with the same text as an attribute"},
    ROW_DURABLE,
    {.name = NULL},
};

const ingot_key ingot_logits_keys[] = {
    {"type", INGOT_KEY_STRING, true, NULL, NULL, FIELD(gather.type), "\"logits\""},
    ROW_NAME,
    {"models", INGOT_KEY_LIST, true, NULL, NULL, FIELD(gather.models_value),
     "the teacher: one model, or the members of an ensemble"},
    {"kind", INGOT_KEY_CHOICE, false, "linear", logits_kind_names, FIELD(kind),
     "how distributions become one (docs/methods.md)"},
    {"weights", INGOT_KEY_ANY, false, "\"uniform\"", NULL, FIELD(weights_value),
     "\"uniform\", a list with one number a model, a group { data set = list; ... }, or the output of an ensemble "
     "step"},
    ROW_FLOOR,
    INGOT_PLAUSIBILITY_ROWS(FIELD(plausibility), "models"),
    {"k", INGOT_KEY_INT, false, "64", INGOT_AT_LEAST(1), FIELD(k),
     "log-probabilities of a position, the largest; the vocabulary's size: all"},
    {"logp_dtype", INGOT_KEY_CHOICE, false, "float16", logp_names, FIELD(logp), "of the log-probabilities"},
    {"tail", INGOT_KEY_CHOICE, false, "bucket", tail_names, FIELD(tail),
     "what training is to make of the other tokens: one class, evenly spread, or nothing"},
    ROW_DATA,
    ROW_WINDOW,
    ROW_PARTIAL,
    ROW_LIMIT,
    ROW_BATCH,
    ROWS_OF_READING,
    ROW_MEMORY,
    ROW_PLACEMENT,
    {"output", INGOT_KEY_STRING, true, NULL, NULL, FIELD(output), "where to write: .h5"},
    ROW_DURABLE,
    {.name = NULL},
};

/* A step that uses an ensemble as it is: logits, generate. */
static bool is_logits(const ingot_job_step *step)
{
  return strcmp(step->type->name, "logits") == 0 || strcmp(step->type->name, "generate") == 0;
}

/* ---- weights ---- */

/* Whether a row of weights is one that the kind allows. */
static void check_row(const ingot_ensemble_settings *s, const ingot_value *where, const double *w,
                      ingot_problems *problems)
{
  double sum = 0.0, most = 0.0;
  int    n = s->gather.n_model;
  bool   sums = s->kind == INGOT_ENSEMBLE_LINEAR || s->kind == INGOT_ENSEMBLE_POSTERIOR;
  for (int m = 0; m < n; m++) {
    sum += w[m];
    most = fmax(most, fabs(w[m]));
    if (w[m] < 0 && s->kind != INGOT_ENSEMBLE_LOG_LINEAR)
      ingot_problems_add(problems, INGOT_ERR_JOB,
                         "%s: the weight of \"%s\" is %g; a negative one is for kind = \"log_linear\" alone",
                         ingot_value_place(where), s->gather.models[m].id, w[m]);
  }
  if (!(most > 0.0)) ingot_problems_add(problems, INGOT_ERR_JOB, "%s: all weights are 0", ingot_value_place(where));
  else if (sums && fabs(sum - 1.0) > SUM_TOLERANCE)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: the weights sum to %.9g; for kind = \"%s\" they sum to 1",
                       ingot_value_place(where), sum, ingot_ensemble_kind_name((ingot_ensemble_kind)s->kind));
}

static void read_row(const ingot_ensemble_settings *s, const ingot_value *v, double *w, ingot_problems *problems)
{
  int n_problem = problems->count;
  if (v->kind != INGOT_VALUE_LIST || v->n_item != s->gather.n_model) {
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: expected a list of %d numbers, one a model; found %s of %d",
                       ingot_value_place(v), s->gather.n_model, ingot_value_kind_text(v->kind), v->n_item);
    return;
  }
  for (int m = 0; m < v->n_item; m++) {
    if (!ingot_value_is_number(v->item[m]) || !isfinite(v->item[m]->real))
      ingot_problems_add(problems, INGOT_ERR_JOB, "%s: expected a number, found %s", ingot_value_place(v->item[m]),
                         ingot_value_kind_text(v->item[m]->kind));
    else w[m] = v->item[m]->real;
  }
  if (problems->count == n_problem) check_row(s, v, w, problems);
}

/* { data set = [ ... ]; }: exactly one row for each. */
static void read_group(ingot_ensemble_settings *s, const ingot_value *v, ingot_problems *problems)
{
  s->n_row = s->n_score;
  for (int d = 0; d < s->n_score; d++) {
    const ingot_value *row = ingot_value_member(v, s->gather.data[d].name);
    if (row) read_row(s, row, s->weights + d * s->gather.n_model, problems);
    else
      ingot_problems_add(problems, INGOT_ERR_JOB, "%s: no weights for data \"%s\"", ingot_value_place(v),
                         s->gather.data[d].name);
  }
  for (int i = 0; i < v->n_item; i++) {
    bool known = false;
    for (int d = 0; d < s->n_score; d++) known = known || strcmp(v->item[i]->name, s->gather.data[d].name) == 0;
    if (!known)
      ingot_problems_add(problems, INGOT_ERR_JOB, "%s: there is no data called \"%s\"", ingot_value_place(v->item[i]),
                         v->item[i]->name);
  }
}

ingot_status ingot_ensemble_find_output(ingot_job *job, const ingot_job_step *step, const char *written, int *number,
                                        const char **path)
{
  ingot_status st = INGOT_OK;
  *number = 0;
  *path = NULL;
  for (int i = 0; i < step->number - 1; i++) {
    const ingot_job_step *earlier = &job->steps[i];
    bool                  named = earlier->name && strcmp(earlier->name, written) == 0;
    if (!earlier->type || strcmp(earlier->type->name, "ensemble") != 0 || !earlier->output) continue;
    if (!named && !(earlier->written_output && strcmp(earlier->written_output, written) == 0)) continue;
    *number = earlier->number;
    *path = earlier->output;
  }
  if (!*path) *path = ingot_job_path(job, written);
  INGOT_TRY_ALLOC(*path);
done:
  return st;
}

static ingot_status read_weights(ingot_job *job, const ingot_job_step *step, ingot_ensemble_settings *s,
                                 ingot_problems *problems)
{
  ingot_status       st = INGOT_OK;
  const ingot_value *v = s->weights_value;
  int                rows = s->n_score > 1 ? s->n_score : 1, n = s->gather.n_model;
  s->n_row = 1;
  s->weights = ingot_arena_alloc(&job->arena, (size_t)(rows * n) + 1, sizeof *s->weights);
  INGOT_TRY_ALLOC(s->weights);
  bool sums =
      s->kind == INGOT_ENSEMBLE_LINEAR || s->kind == INGOT_ENSEMBLE_POSTERIOR || s->kind == INGOT_ENSEMBLE_LOG_LINEAR;
  for (int i = 0; i < rows * n; i++) s->weights[i] = sums ? 1.0 / n : 1.0;
  if (!v || (v->kind == INGOT_VALUE_STRING && strcmp(v->string, "uniform") == 0)) goto done;
  s->source = INGOT_WEIGHTS_GIVEN;
  if (v->kind == INGOT_VALUE_LIST) read_row(s, v, s->weights, problems);
  else if (v->kind == INGOT_VALUE_GROUP) read_group(s, v, problems);
  else if (v->kind != INGOT_VALUE_STRING || !v->string[0])
    ingot_problems_add(problems, INGOT_ERR_JOB,
                       "%s: expected \"uniform\", \"learn\", a list, a group or a file's name, found %s",
                       ingot_value_place(v),
                       v->kind == INGOT_VALUE_STRING ? "an empty string" : ingot_value_kind_text(v->kind));
  else if (strcmp(v->string, "learn") != 0) {
    s->source = INGOT_WEIGHTS_FILE;
    s->weights_written = v->string;
    INGOT_TRY(ingot_ensemble_find_output(job, step, v->string, &s->weights_step, &s->weights_path));
  } else if (is_logits(step))
    ingot_problems_add(problems, INGOT_ERR_JOB,
                       "%s: a %s step learns no weights: name the output of an ensemble step that does",
                       ingot_value_place(v), step->type->name);
  else s->source = INGOT_WEIGHTS_LEARNT;
done:
  return st;
}

/* ---- data to learn from ---- */

static ingot_status read_learn_data(ingot_job *job, ingot_ensemble_settings *s, ingot_problems *problems)
{
  ingot_status    st = INGOT_OK;
  ingot_job_data *learn = NULL;
  int             n_learn = 0, n = s->n_score;
  INGOT_TRY(ingot_job_data_read(job, s->learn_value, ingot_data_keys, ingot_data_n_key, problems, &learn, &n_learn));
  ingot_job_data *all = ingot_arena_alloc(&job->arena, (size_t)(n + n_learn) + 1, sizeof *all);
  INGOT_TRY_ALLOC(all);
  if (n) memcpy(all, s->gather.data, (size_t)n * sizeof *all);
  for (int i = 0; i < n_learn && !s->per_data; i++) all[n + i] = learn[i];
  for (int d = 0; d < n && s->per_data; d++) {
    int k = 0;
    while (k < n_learn && strcmp(learn[k].name, all[d].name) != 0) k++;
    if (k == n_learn)
      ingot_problems_add(problems, INGOT_ERR_JOB, "%s: per_data = true needs data to learn from for \"%s\"",
                         ingot_value_place(s->learn_value), all[d].name);
    else all[n + d] = learn[k];
  }
  if (s->per_data && n_learn > n)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: per_data = true, and %d data sets to learn from for %d",
                       ingot_value_place(s->learn_value), n_learn, n);
  s->gather.data = all;
  s->gather.n_data = n + (s->per_data ? n : n_learn);
  if (s->per_data) s->n_row = n;
done:
  return st;
}

static ingot_status read_learning(ingot_job *job, const ingot_job_step *step, ingot_ensemble_settings *s,
                                  ingot_problems *problems)
{
  ingot_status       st = INGOT_OK;
  const ingot_value *at = s->weights_value;
  if (s->source != INGOT_WEIGHTS_LEARNT) {
    static const char *const names[] = {"learn_data", "per_data", "l2"};
    for (size_t i = 0; i < sizeof names / sizeof names[0] && !is_logits(step); i++) {
      const ingot_value *v = ingot_value_member(step->value, names[i]);
      if (v) ingot_problems_add(problems, INGOT_ERR_JOB, "%s: it is for weights = \"learn\"", ingot_value_place(v));
    }
    goto done;
  }
  if (s->kind != INGOT_ENSEMBLE_LINEAR && s->kind != INGOT_ENSEMBLE_LOG_LINEAR)
    ingot_problems_add(problems, INGOT_ERR_JOB,
                       "%s: weights are learnt for kind = \"linear\" and \"log_linear\", not for \"%s\"",
                       ingot_value_place(at), ingot_ensemble_kind_name((ingot_ensemble_kind)s->kind));
  if (s->kind == INGOT_ENSEMBLE_LOG_LINEAR && s->gather.n_model > INGOT_ENSEMBLE_LEARN_MAX)
    ingot_problems_add(problems, INGOT_ERR_JOB,
                       "%s: weights of a log-linear ensemble are learnt for %d models at most, found %d",
                       ingot_value_place(at), INGOT_ENSEMBLE_LEARN_MAX, s->gather.n_model);
  if (!s->learn_value)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: weights = \"learn\" needs \"learn_data\"", ingot_value_place(at));
  else INGOT_TRY(read_learn_data(job, s, problems));
done:
  return st;
}

static ingot_status read_plausibility(ingot_job *job, const ingot_job_step *step, ingot_ensemble_settings *s,
                                      ingot_problems *problems)
{
  ingot_status st = INGOT_OK;
  int          n = s->gather.n_model;
  const char **ids = ingot_arena_alloc(&job->arena, (size_t)n + 1, sizeof *ids);
  INGOT_TRY_ALLOC(ids);
  for (int m = 0; m < n; m++) ids[m] = s->gather.models[m].id;
  ingot_plausibility_check(step, &s->plausibility, s->kind == INGOT_ENSEMBLE_LOG_LINEAR, "kind = \"log_linear\"", ids,
                           n, problems);
  if (s->plausibility.share > 0.0 && s->source == INGOT_WEIGHTS_LEARNT)
    ingot_problems_add(problems, INGOT_ERR_JOB,
                       "%s: weights are not learnt with plausibility: a token that is ruled out has an infinite loss, "
                       "whatever the weights",
                       ingot_value_place(s->weights_value));
done:
  return st;
}

static void check_output(const ingot_job_step *step, const ingot_ensemble_settings *s, ingot_problems *problems)
{
  if (!s->output) return;
  size_t n = strlen(s->output);
  bool   is_json = n > 5 && strcmp(s->output + n - 5, ".json") == 0,
       is_hdf5 = ingot_sink_format_of(s->output) == INGOT_SINK_HDF5;
  const ingot_value *v = ingot_value_member(step->value, "output");
  if (is_logits(step) && !is_hdf5)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: logits are written to a .h5 file", ingot_value_place(v));
  if (!is_logits(step) && !is_hdf5 && !is_json)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: scores are written to a .json or a .h5 file",
                       ingot_value_place(v));
}

ingot_status ingot_ensemble_settings_read(ingot_job *job, ingot_job_step *step, ingot_problems *problems)
{
  ingot_status             st = INGOT_OK;
  ingot_ensemble_settings *s = step->settings;
  ingot_job_step           evaluate = *step;
  const ingot_value *floor = ingot_value_member(step->value, "floor"), *l2 = ingot_value_member(step->value, "l2");
  evaluate.settings = &s->gather;
  if (is_logits(step)) s->kind = ingot_ensemble_kind_find(logits_kind_names[s->kind]);
  INGOT_TRY(ingot_gather_settings_read(job, &evaluate, problems));
  s->n_score = s->gather.n_data;
  INGOT_TRY(read_weights(job, step, s, problems));
  INGOT_TRY(read_learning(job, step, s, problems));
  INGOT_TRY(read_plausibility(job, step, s, problems));
  s->floor = log(s->floor);
  s->has_floor = floor != NULL;
  if (floor && s->kind != INGOT_ENSEMBLE_LOG_LINEAR)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: it is for kind = \"log_linear\"", ingot_value_place(floor));
  if (l2 && s->kind != INGOT_ENSEMBLE_LOG_LINEAR)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: it is for kind = \"log_linear\"", ingot_value_place(l2));
  check_output(step, s, problems);
done:
  return st;
}
