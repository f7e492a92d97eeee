#include "driver/distill_settings.h"

#include <math.h>
#include <string.h>

#include "base/dtype.h"
#include "driver/ensemble_settings.h"
#include "driver/placement.h"
#include "driver/step.h"
#include "io/sink.h"
#include "workers/distill/distill.h"

#define FIELD(name) offsetof(ingot_distill_settings, name)

static const char *const combine_names[] = {"linear", "log_linear", "average_loss", NULL};
static const char *const loss_names[] = {"forward_kl", "reverse_kl", "jsd", NULL};
static const char *const schedule_names[] = {"cosine", "linear", "constant", NULL};
static const char *const keep_names[] = {"best_and_last", "last_and_best", "best", "last",
                                         NULL}; /* as enum ingot_distill_keep */

const ingot_key ingot_distill_keys[] = {
    {"type", INGOT_KEY_STRING, true, NULL, NULL, FIELD(type), "\"distill\""},
    {"name", INGOT_KEY_STRING, false, NULL, NULL, FIELD(name), "name by which later steps may take the output"},
    {"student", INGOT_KEY_STRING, false, NULL, NULL, FIELD(student_name),
     "the model to train: an id, or an earlier step"},
    {"config", INGOT_KEY_STRING, false, NULL, NULL, FIELD(config),
     "instead of a student: a config.json; weights are drawn from the seed"},
    {"teachers", INGOT_KEY_LIST, false, NULL, NULL, FIELD(teachers_value),
     "the teachers: ids, or groups { model = id; weight = w; }"},
    {"weights", INGOT_KEY_STRING, false, NULL, NULL, FIELD(weights_written),
     "the teachers' weights: the output of an ensemble step, or its name"},
    {"logits", INGOT_KEY_STRING, false, NULL, NULL, FIELD(logits),
     "instead of teachers: a logits file made from the same windows"},
    {"combine", INGOT_KEY_CHOICE, false, "linear", combine_names, FIELD(combine),
     "teachers as a mixture of distributions, a product of powers of them, or the mean of the losses with each"},
    {"floor", INGOT_KEY_REAL, false, "-30", INGOT_AT_MOST(0.0), FIELD(floor),
     "log_linear: log-probabilities below it count as it"},
    INGOT_PLAUSIBILITY_ROWS(FIELD(plausibility), "teachers"),
    {"data", INGOT_KEY_ANY, true, NULL, NULL, FIELD(data_value),
     "token files: a group { name = \"path\"; ... }, or a list of paths and groups"},
    {"window", INGOT_KEY_INT, true, NULL, INGOT_WINDOW_TOKENS, FIELD(window), "tokens of a window"},
    {"limit", INGOT_KEY_INT, false, "0", NULL, FIELD(limit), "windows of a data set at most; 0: all"},
    {"repeat", INGOT_KEY_BOOL, false, "true", NULL, FIELD(repeat),
     "begin a data set again, in a new order, when all of it was used"},
    {"shift", INGOT_KEY_BOOL, false, "false", NULL, FIELD(shift),
     "repeat: a data set that begins again is cut into windows at another place"},
    {"document", INGOT_KEY_INT, false, NULL, INGOT_TOKEN_ID, FIELD(document), "id of the token that begins a document"},
    {"separate", INGOT_KEY_BOOL, false, "false", NULL, FIELD(separate),
     "documents do not see each other, and their first tokens are not predicted"},
    {"steps", INGOT_KEY_INT, true, NULL, INGOT_FROM_TO(1, 100000000), FIELD(steps), "steps of the optimiser"},
    {"batch", INGOT_KEY_INT, false, "32", INGOT_FROM_TO(1, 1 << 20), FIELD(batch), "windows of a step, over all ranks"},
    {"micro_batch", INGOT_KEY_INT, false, "0", NULL, FIELD(micro_batch), "windows of a pass; 0: chosen by memory"},
    {"recompute", INGOT_KEY_BOOL, false, "false", NULL, FIELD(recompute),
     "keep the layers' inputs alone, and run each layer again in the backward pass: less memory, more time, the same "
     "student"},
    {"loss", INGOT_KEY_CHOICE, false, "forward_kl", loss_names, FIELD(loss), "divergence of teacher and student"},
    {"beta", INGOT_KEY_REAL, false, "0.5", INGOT_ABOVE_TO_BELOW(0.0, 1.0), FIELD(beta),
     "jsd: the teacher's share of the mixture"},
    {"temperature", INGOT_KEY_REAL, false, "1", INGOT_ABOVE(0.0), FIELD(temperature),
     "of teacher and student; the loss is multiplied by its square"},
    {"alpha", INGOT_KEY_REAL, false, "1", INGOT_FROM_TO(0.0, 1.0), FIELD(alpha),
     "part of the teachers' loss, the rest is cross-entropy with the data"},
    {"rate", INGOT_KEY_REAL, false, "0.0001", INGOT_ABOVE(0.0), FIELD(rate), "learning rate at its peak"},
    {"final_rate", INGOT_KEY_REAL, false, "0.1", INGOT_AT_LEAST(0.0), FIELD(final_rate),
     "rate at the end, as a part of the peak"},
    {"warmup", INGOT_KEY_INT, false, "0", NULL, FIELD(warmup), "steps in which the rate rises to its peak"},
    {"schedule", INGOT_KEY_CHOICE, false, "cosine", schedule_names, FIELD(schedule), "of the rate after the warm-up"},
    {"beta1", INGOT_KEY_REAL, false, "0.9", INGOT_FROM_TO_BELOW(0.0, 1.0), FIELD(beta1),
     "AdamW: decay of the mean gradient"},
    {"beta2", INGOT_KEY_REAL, false, "0.95", INGOT_FROM_TO_BELOW(0.0, 1.0), FIELD(beta2),
     "AdamW: decay of the mean squared gradient"},
    {"epsilon", INGOT_KEY_REAL, false, "1e-8", INGOT_ABOVE(0.0), FIELD(epsilon),
     "AdamW: added to the root of the mean square"},
    {"decay", INGOT_KEY_REAL, false, "0", INGOT_AT_LEAST(0.0), FIELD(decay),
     "weight decay of tensors with two dimensions or more"},
    {"clip", INGOT_KEY_REAL, false, "1", INGOT_AT_LEAST(0.0), FIELD(clip), "norm of the gradient at most; 0: any"},
    {"validation", INGOT_KEY_ANY, false, NULL, NULL, FIELD(validation_value), "token files to validate on, as `data`"},
    {"validation_limit", INGOT_KEY_INT, false, "0", NULL, FIELD(validation_limit),
     "windows of a validation data set at most; 0: all"},
    {"validate_every", INGOT_KEY_INT, false, "0", NULL, FIELD(validate_every),
     "steps between validations; 0: at the start and the end"},
    {"keep", INGOT_KEY_CHOICE, false, "best_and_last", keep_names, FIELD(keep),
     "the output: the best by validation, or the last; the one named second is a checkpoint beside it"},
    {"seed", INGOT_KEY_INT, false, "the job's", NULL, FIELD(seed), "seed of this step's random choices"},
    {"dtype", INGOT_KEY_CHOICE, false, "auto", ingot_gather_dtype_names, FIELD(dtype),
     "arithmetic: bfloat16 and tf32 need a GPU; auto: bfloat16 there, float32 on a CPU"},
    {"output_dtype", INGOT_KEY_STRING, false, "source", NULL, FIELD(output_dtype),
     "dtype of the output: source (as the student's tensors; float32 for a config), or one of " INGOT_FLOAT_DTYPES},
    {"memory_limit", INGOT_KEY_SIZE, false, "0", NULL, FIELD(memory_limit_bytes),
     "memory for weights, activations and the optimiser of a rank at most; 0: what there is"},
    INGOT_PLACEMENT_ROW(FIELD(placement), "the teachers"),
    {"save_every", INGOT_KEY_INT, false, "300", NULL, FIELD(save_every_s),
     "seconds between saved states, from which the same command continues; 0: when stopped alone"},
    {"output", INGOT_KEY_STRING, true, NULL, NULL, FIELD(output), "where to write: .h5, or else a directory"},
    {"durable", INGOT_KEY_BOOL, false, "true", NULL, FIELD(durable),
     "flush the output to disk before it gets its name"},
    {.name = NULL},
};

typedef struct teacher_group {
  const char *model;
  double      weight;
} teacher_group;

const ingot_key ingot_teacher_keys[] = {
    {"model", INGOT_KEY_STRING, true, NULL, NULL, offsetof(teacher_group, model),
     "id of the teacher, or an earlier step"},
    {"weight", INGOT_KEY_REAL, false, "equal", NULL, offsetof(teacher_group, weight),
     "its weight among the teachers: above 0, with combine = \"log_linear\" any but 0"},
};
const int ingot_teacher_n_key = sizeof ingot_teacher_keys / sizeof ingot_teacher_keys[0];

static const ingot_value *member(const ingot_job_step *step, const char *name)
{
  const ingot_value *v = ingot_value_member(step->value, name);
  return v ? v : step->value;
}

static void read_teacher(ingot_job *job, const ingot_job_step *step, const ingot_value *v, ingot_problems *problems)
{
  ingot_distill_settings *s = step->settings;
  ingot_job_teacher      *t = &s->teachers[s->n_teacher];
  teacher_group           group = {NULL, 1.0};
  if (v->kind == INGOT_VALUE_STRING) group.model = v->string;
  else if (v->kind == INGOT_VALUE_GROUP)
    ingot_keys_read(ingot_teacher_keys, ingot_teacher_n_key, v, &group, NULL, 0, problems);
  else
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: expected a model's id or a group { model = id; }, found %s",
                       ingot_value_place(v), ingot_value_kind_text(v->kind));
  if (!group.model) return;
  *t = (ingot_job_teacher){.weight = group.weight, .value = v};
  t->has_weight = v->kind == INGOT_VALUE_GROUP && ingot_value_member(v, "weight");
  if (!ingot_job_resolve(job, step->number, group.model, v, problems, &t->ref)) return;
  for (int k = 0; k < s->n_teacher; k++)
    if (strcmp(s->teachers[k].ref.id, t->ref.id) == 0)
      ingot_problems_add(problems, INGOT_ERR_JOB, "%s: \"%s\" is listed twice", ingot_value_place(v), t->ref.id);
  s->n_teacher++;
}

static ingot_status read_models(ingot_job *job, ingot_job_step *step, ingot_problems *problems)
{
  ingot_status            st = INGOT_OK;
  ingot_distill_settings *s = step->settings;
  const ingot_value      *list = s->teachers_value;
  s->teachers = ingot_arena_alloc(&job->arena, (size_t)(list ? list->n_item : 0) + 1, sizeof *s->teachers);
  INGOT_TRY_ALLOC(s->teachers);
  if (s->student_name)
    s->has_student =
        ingot_job_resolve(job, step->number, s->student_name, member(step, "student"), problems, &s->student);
  if (!s->student_name == !s->config)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: exactly one of \"student\" and \"config\" is needed",
                       ingot_value_place(step->value));
  for (int i = 0; list && i < list->n_item; i++) read_teacher(job, step, list->item[i], problems);
  if (s->logits) s->logits_path = ingot_job_path(job, s->logits);
  if (s->config) s->config_path = ingot_job_path(job, s->config);
  INGOT_TRY_ALLOC((!s->logits || s->logits_path) && (!s->config || s->config_path));
  if (s->alpha > 0.0 && !(list && list->n_item > 0) == !s->logits)
    ingot_problems_add(problems, INGOT_ERR_JOB,
                       "%s: exactly one of \"teachers\" and \"logits\" is needed (or alpha = 0)",
                       ingot_value_place(step->value));
done:
  return st;
}

/* ---- weights ---- */

/* Which teachers answer for a data set: used [n_teacher]. */
static void read_routing(const ingot_distill_settings *s, const ingot_job_data *d, bool *used, ingot_problems *problems)
{
  const ingot_value *list = d->teachers_value;
  for (int i = 0; i < s->n_teacher; i++) used[i] = !list;
  for (int k = 0; list && k < list->n_item; k++) {
    const ingot_value *v = list->item[k];
    int                found = -1;
    for (int i = 0; v->kind == INGOT_VALUE_STRING && i < s->n_teacher; i++)
      if (strcmp(s->teachers[i].ref.id, v->string) == 0) found = i;
    if (found >= 0) used[found] = true;
    else
      ingot_problems_add(problems, INGOT_ERR_JOB, "%s: \"%s\" is none of this step's teachers", ingot_value_place(v),
                         v->kind == INGOT_VALUE_STRING ? v->string : ingot_value_kind_text(v->kind));
  }
  if (list && list->n_item == 0)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: no teacher is given for \"%s\"", ingot_value_place(list), d->name);
}

static void check_weights(const ingot_job_step *step, ingot_problems *problems)
{
  const ingot_distill_settings *s = step->settings;
  int                           n_given = 0;
  double                        sum = 0.0;
  bool                          routed = false;
  for (int d = 0; d < s->n_data; d++) routed = routed || s->data[d].teachers_value;
  for (int i = 0; i < s->n_teacher; i++) {
    const ingot_job_teacher *t = &s->teachers[i];
    n_given += t->has_weight;
    sum += t->weight;
    if (s->combine != INGOT_COMBINE_LOG_LINEAR && t->weight <= 0.0)
      ingot_problems_add(problems, INGOT_ERR_JOB, "%s: weight %g: weights of combine = \"%s\" must be above 0",
                         ingot_value_place(t->value), t->weight, combine_names[s->combine]);
    else if (t->weight == 0.0)
      ingot_problems_add(problems, INGOT_ERR_JOB, "%s: weight 0: a teacher that says nothing",
                         ingot_value_place(t->value));
  }
  if (n_given > 0 && n_given < s->n_teacher)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: %d of %d teachers have a weight; give it for all or for none",
                       ingot_value_place(member(step, "teachers")), n_given, s->n_teacher);
  else if (n_given > 0 && !routed && s->combine != INGOT_COMBINE_LOG_LINEAR && fabs(sum - 1.0) > 1e-6)
    ingot_problems_add(problems, INGOT_ERR_JOB,
                       "%s: the weights of the teachers sum to %g; those of combine = \"%s\" must sum to 1",
                       ingot_value_place(member(step, "teachers")), sum, combine_names[s->combine]);
}

/* The file with the weights, perhaps one that an earlier step will have written. */
static ingot_status find_weights(ingot_job *job, const ingot_job_step *step, ingot_problems *problems)
{
  ingot_status            st = INGOT_OK;
  ingot_distill_settings *s = step->settings;
  if (!s->weights_written) goto done;
  INGOT_TRY(ingot_ensemble_find_output(job, step, s->weights_written, &s->weights_step, &s->weights_path));
  for (int i = 0; i < s->n_teacher; i++)
    if (s->teachers[i].has_weight)
      ingot_problems_add(problems, INGOT_ERR_JOB, "%s: weight of \"%s\", and weights = \"%s\": give one of them",
                         ingot_value_place(s->teachers[i].value), s->teachers[i].ref.id, s->weights_written);
  if (s->logits)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: a logits file has its weights in it: \"weights\" is for teachers",
                       ingot_value_place(member(step, "weights")));
done:
  return st;
}

/* Teachers' weights of each data set: of those that answer for it, and with sum 1 unless they were given for
 * log_linear. */
static ingot_status make_weights(ingot_job *job, ingot_job_step *step, ingot_problems *problems)
{
  ingot_status            st = INGOT_OK;
  ingot_distill_settings *s = step->settings;
  bool                   *used = ingot_arena_alloc(&job->arena, (size_t)s->n_teacher + 1, sizeof *used);
  s->weights = ingot_arena_alloc(&job->arena, (size_t)(s->n_data * s->n_teacher) + 1, sizeof *s->weights);
  INGOT_TRY_ALLOC(used && s->weights);
  check_weights(step, problems);
  for (int d = 0; d < s->n_data; d++) {
    double *row = s->weights + d * s->n_teacher, sum = 0.0;
    read_routing(s, &s->data[d], used, problems);
    for (int i = 0; i < s->n_teacher; i++) {
      row[i] = used[i] ? s->teachers[i].weight : 0.0;
      sum += row[i];
    }
    bool given = s->n_teacher > 0 && s->teachers[0].has_weight;
    for (int i = 0; i < s->n_teacher && sum != 0.0; i++)
      if (s->combine != INGOT_COMBINE_LOG_LINEAR || !given) row[i] /= sum;
  }
done:
  return st;
}

static ingot_status read_plausibility(ingot_job *job, ingot_job_step *step, ingot_problems *problems)
{
  ingot_status            st = INGOT_OK;
  ingot_distill_settings *s = step->settings;
  bool         follows = s->weights_path && !ingot_value_member(step->value, "combine"); /* the file's kind */
  const char **ids = ingot_arena_alloc(&job->arena, (size_t)s->n_teacher + 1, sizeof *ids);
  INGOT_TRY_ALLOC(ids);
  for (int i = 0; i < s->n_teacher; i++) ids[i] = s->teachers[i].ref.id;
  ingot_plausibility_check(step, &s->plausibility,
                           (s->combine == INGOT_COMBINE_LOG_LINEAR || follows) && s->n_teacher > 0,
                           "teachers with combine = \"log_linear\"", ids, s->n_teacher, problems);
done:
  return st;
}

/* ---- rules between keys ---- */

static void check_rules(const ingot_job_step *step, ingot_problems *problems)
{
  const ingot_distill_settings *s = step->settings;
  if (s->warmup > s->steps && s->steps > 0) /* else reported */
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: %lld steps of warm-up, and there are %lld",
                       ingot_value_place(member(step, "warmup")), (long long)s->warmup, (long long)s->steps);
  if (s->separate && !s->has_document)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: separate = true needs \"document\", the id that begins a document",
                       ingot_value_place(member(step, "separate")));
  if (s->logits && s->shift)
    ingot_problems_add(problems, INGOT_ERR_JOB,
                       "%s: a logits file is of windows at their own places: shift = false with it",
                       ingot_value_place(member(step, "shift")));
  if (s->logits && s->loss != INGOT_NN_FORWARD_KL)
    ingot_problems_add(problems, INGOT_ERR_JOB,
                       "%s: a logits file holds the likeliest tokens alone: loss = \"forward_kl\" only",
                       ingot_value_place(member(step, "loss")));
}

static void check_output(const ingot_job_step *step, ingot_problems *problems)
{
  const ingot_distill_settings *s = step->settings;
  ingot_dtype                   dtype;
  if (s->output && ingot_sink_format_of(s->output) == INGOT_SINK_SAFETENSORS)
    ingot_problems_add(problems, INGOT_ERR_JOB,
                       "%s: a student is written to a .h5 file or a directory: it needs its config.json",
                       ingot_value_place(member(step, "output")));
  if (strcmp(s->output_dtype, "source") != 0 &&
      (!ingot_dtype_parse(s->output_dtype, &dtype) || !ingot_dtype_is_float(dtype)))
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: \"%s\" is no floating-point dtype",
                       ingot_value_place(member(step, "output_dtype")), s->output_dtype);
}

ingot_status ingot_distill_settings_read(ingot_job *job, ingot_job_step *step, ingot_problems *problems)
{
  ingot_status            st = INGOT_OK;
  ingot_distill_settings *s = step->settings;
  if (!ingot_value_member(step->value, "seed")) s->seed = job->seed;
  s->has_document = ingot_value_member(step->value, "document") != NULL;
  INGOT_TRY(read_models(job, step, problems));
  INGOT_TRY(ingot_job_data_read(job, s->data_value, ingot_train_data_keys, ingot_train_data_n_key, problems, &s->data,
                                &s->n_data));
  INGOT_TRY(ingot_job_data_read(job, s->validation_value, ingot_data_keys, ingot_data_n_key, problems, &s->validation,
                                &s->n_validation));
  INGOT_TRY(make_weights(job, step, problems));
  INGOT_TRY(find_weights(job, step, problems));
  INGOT_TRY(read_plausibility(job, step, problems));
  check_rules(step, problems);
  check_output(step, problems);
done:
  return st;
}
