/* Teachers' weights that an ensemble step has written. */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <string.h>
#include <sys/stat.h>

#include "driver/distill_builder.h"
#include "driver/mixture.h"

typedef ingot_distill_builder builder;

/* The file is there, and stays as it is. */
static bool is_ready(const builder *b)
{
  struct stat            info;
  int                    step = b->settings->weights_step;
  const ingot_step_plan *maker = step > 0 ? &b->planner->steps[step - 1] : NULL;
  for (int i = 0; i < b->plan->n_teacher; i++)
    if (!b->teachers[i] || !b->teachers[i]->source) return false;
  if (!maker || !maker->type) return true;
  return maker->complete && stat(b->settings->weights_path, &info) == 0;
}

/* How teachers become one, as the file says. */
static ingot_status take_kind(builder *b, const ingot_mixture *mixture)
{
  ingot_status                  st = INGOT_OK;
  const ingot_distill_settings *s = b->settings;
  bool linear = strcmp(mixture->kind, "linear") == 0, product = strcmp(mixture->kind, "log_linear") == 0;
  bool stated = ingot_value_member(b->step->value, "combine") != NULL;
  INGOT_CHECK(linear || product, INGOT_ERR_MISMATCH,
              "%s holds weights for kind = \"%s\"; teachers are combined by \"linear\" or \"log_linear\"",
              s->weights_path, mixture->kind);
  INGOT_CHECK(!stated || product == (s->combine == INGOT_COMBINE_LOG_LINEAR), INGOT_ERR_MISMATCH,
              "%s holds weights for kind = \"%s\", and combine is \"%s\"", s->weights_path, mixture->kind,
              ingot_distill_combine_name((ingot_distill_combine)s->combine));
  if (!stated) b->plan->combine = product ? INGOT_COMBINE_LOG_LINEAR : INGOT_COMBINE_LINEAR;
  if (!ingot_value_member(b->step->value, "floor")) b->plan->floor = mixture->floor;
  INGOT_CHECK(product || s->plausibility.share <= 0.0, INGOT_ERR_MISMATCH,
              "%s holds weights for kind = \"%s\", and plausibility is for \"log_linear\"", s->weights_path,
              mixture->kind);
  if (!ingot_value_member(b->step->value, "plausibility")) {
    b->plan->plausibility = mixture->plausibility;
    b->plan->reference = mixture->reference;
  }
done:
  return st;
}

/* One data set's weights, of the teachers that answer for it. */
static ingot_status take_row(builder *b, int data, const double *from, double *row)
{
  ingot_status                  st = INGOT_OK;
  const ingot_distill_settings *s = b->settings;
  int                           n = b->plan->n_teacher;
  double                        all = 0.0, sum = 0.0, most = 0.0;
  bool                          product = b->plan->combine == INGOT_COMBINE_LOG_LINEAR;
  for (int i = 0; i < n; i++) {
    INGOT_CHECK(product || from[i] >= 0.0, INGOT_ERR_MISMATCH,
                "%s: weight %g of \"%s\" is negative, and kind = \"linear\" has none that are", s->weights_path,
                from[i], b->plan->teachers[i].id);
    row[i] = s->weights[data * n + i] != 0.0 ? from[i] : 0.0; /* which teachers answer */
    all += from[i];
    sum += row[i];
    most = fmax(most, fabs(row[i]));
  }
  INGOT_CHECK(product || fabs(all - 1.0) <= 1e-6, INGOT_ERR_MISMATCH,
              "%s: the weights sum to %.9g; for kind = \"linear\" they sum to 1", s->weights_path, all);
  INGOT_CHECK(most > 0.0, INGOT_ERR_MISMATCH, "%s: no teacher of data \"%s\" has a weight that is not 0",
              s->weights_path, s->data[data].name);
  for (int i = 0; i < n && !product; i++) row[i] /= sum;
done:
  return st;
}

static ingot_status read_weights(builder *b, uint64_t *identity)
{
  ingot_status                  st = INGOT_OK;
  const ingot_distill_settings *s = b->settings;
  int                           n = b->plan->n_teacher;
  ingot_mixture                 mixture;
  ingot_mixture_model          *models = ingot_arena_alloc(b->arena, (size_t)n + 1, sizeof *models);
  const char                  **names = ingot_arena_alloc(b->arena, (size_t)s->n_data + 1, sizeof *names);
  double                       *weights = ingot_arena_alloc(b->arena, (size_t)(s->n_data * n) + 1, sizeof *weights);
  INGOT_TRY_ALLOC(models && names && weights);
  for (int i = 0; i < n; i++)
    models[i] = (ingot_mixture_model){b->teachers[i]->id, ingot_source_identity(b->teachers[i]->source)};
  for (int d = 0; d < s->n_data; d++) names[d] = s->data[d].name;
  INGOT_TRY(ingot_mixture_read(s->weights_path, models, n, names, s->n_data, b->arena, &mixture));
  INGOT_TRY(take_kind(b, &mixture));
  for (int d = 0; d < s->n_data; d++)
    INGOT_TRY(take_row(b, d, mixture.weights + (mixture.n_row == 1 ? 0 : d * n), weights + d * n));
  b->plan->weights = weights;
  *identity = mixture.identity;
done:
  return st;
}

ingot_status ingot_distill_take_weights(ingot_distill_builder *b)
{
  ingot_status st = INGOT_OK;
  struct stat  info;
  uint64_t     identity = 0;
  if (!b->settings->weights_path || b->plan->n_teacher == 0) goto done;
  if (is_ready(b)) INGOT_TRY(read_weights(b, &identity));
  else b->out->ready = false;
  uint64_t bytes = stat(b->settings->weights_path, &info) == 0 ? (uint64_t)info.st_size : 0;
  b->out->inputs[b->out->n_input++] = (ingot_plan_input){"weights", b->settings->weights_path, bytes, identity};
done:
  return st;
}
