/* The student: from a checkpoint, or with random weights from a config. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/philox.h"
#include "base/tile.h"
#include "kernels/convert.h"
#include "workers/distill/trainer.h"

static const double DEVIATION = 0.02, PI = 3.14159265358979323846;

/* A normal number of mean 0 and deviation 1 for each element of a parameter (Box and Muller). */
static double normal(uint64_t key, int64_t i)
{
  uint32_t word[4];
  ingot_philox4x32(key, (uint64_t)i, word);
  double u = ((double)word[0] + 0.5) / 4294967296.0, w = ((double)word[1] + 0.5) / 4294967296.0;
  return sqrt(-2.0 * log(u)) * cos(2.0 * PI * w);
}

static bool is_norm_weight(ingot_param_role role)
{
  return role == INGOT_ROLE_NORM1_WEIGHT || role == INGOT_ROLE_NORM2_WEIGHT || role == INGOT_ROLE_FINAL_NORM_WEIGHT ||
         role == INGOT_ROLE_Q_NORM || role == INGOT_ROLE_K_NORM;
}

static ingot_status fill_param(ingot_model *model, int p, uint64_t seed, float *wide, void *narrow, int64_t room)
{
  ingot_status             st = INGOT_OK;
  const ingot_model_param *param = &model->layout.params[p];
  ingot_nn                *nn = model->nn;
  size_t                   width = ingot_dtype_size(nn->dtype);
  uint64_t                 key = ingot_philox_key(seed, ingot_hash_string(param->name), 0);
  bool                     residual = param->role == INGOT_ROLE_O || param->role == INGOT_ROLE_DOWN;
  double                   deviation = residual ? DEVIATION / sqrt(2.0 * model->spec.n_layer) : DEVIATION;
  for (int64_t at = 0; at < param->n_elem; at += room) {
    int64_t n = param->n_elem - at < room ? param->n_elem - at : room;
    for (int64_t i = 0; i < n; i++)
      wide[i] = is_norm_weight(param->role) ? 1.0f
                : param->shape.n_dim < 2    ? 0.0f
                                            : (float)(deviation * normal(key, at + i));
    ingot_narrow(nn->dtype, wide, narrow, n);
    INGOT_TRY(
        nn->ops->copy_in(nn, (char *)ingot_model_weight(model, p) + (size_t)at * width, narrow, (size_t)n * width));
  }
done:
  return st;
}

static ingot_status make_random(ingot_nn *nn, const ingot_distill_plan *plan, ingot_model **out)
{
  enum { ROOM = 1 << 20 };
  ingot_status st = INGOT_OK;
  ingot_model *model = calloc(1, sizeof *model);
  float       *wide = malloc(ROOM * sizeof *wide), *narrow = malloc(ROOM * sizeof *narrow);
  *out = model;
  INGOT_CHECK(model && wide && narrow, INGOT_ERR_NOMEM, "no memory for a model");
  model->nn = nn;
  INGOT_TRY(ingot_model_spec_parse(plan->config, strlen(plan->config), "the student's config", &model->spec));
  INGOT_TRY(ingot_model_layout_make(&model->spec, &model->layout));
  size_t bytes = (size_t)ingot_model_bytes(&model->spec, nn->dtype);
  INGOT_TRY(nn->ops->alloc(nn, bytes, &model->weights));
  INGOT_TRY(nn->ops->zero(nn, model->weights, bytes));
  for (int p = 0; p < model->layout.n_param; p++) INGOT_TRY(fill_param(model, p, plan->seed, wide, narrow, ROOM));
done:
  free(wide);
  free(narrow);
  return st;
}

ingot_status ingot_trainer_load(ingot_trainer *t)
{
  ingot_status  st = INGOT_OK;
  double        start_s = ingot_clock_s();
  ingot_gather *g = &t->g;
  if (t->plan->student) {
    INGOT_TRY(ingot_source_open(t->plan->student, &g->source));
    INGOT_TRY(ingot_model_load(g->nn, g->source, &g->model));
    for (int i = 0; i < ingot_source_count(g->source); i++)
      t->timing->bytes_read += ingot_source_tensor(g->source, i)->bytes;
  } else {
    INGOT_TRY(make_random(g->nn, t->plan, &g->model));
  }
  g->n_vocab = g->model->spec.n_vocab;
done:
  t->timing->read_s += ingot_clock_s() - start_s;
  return st;
}

uint64_t ingot_distill_bytes(const ingot_distill_plan *plan, const ingot_model_spec *student,
                             const ingot_model_spec *teachers, int n_rank)
{
  ingot_dtype        dtype = ingot_compute_dtype(plan->validation.compute);
  ingot_pass_options pass = {.n_batch = plan->micro_batch,
                             .n_time = plan->window.length,
                             .backward = true,
                             .recompute = plan->recompute};
  int64_t            n_elem = (int64_t)(ingot_model_bytes(student, INGOT_DTYPE_F32) / sizeof(float));
  int64_t            rows = ingot_pass_plan_head_rows(student, dtype, &pass);
  return ingot_model_bytes(student, dtype) + ingot_pass_bytes(student, dtype, &pass) +
         ingot_optimizer_bytes(n_elem, dtype, n_rank) +
         ingot_teachers_bytes(plan, dtype, teachers, rows, student->n_vocab, n_rank);
}

/* Through the host on its way from a GPU: the output's tiles, or the state's chunks, of which a saved state has three
 * arrays. */
static uint64_t passing_bytes(int64_t n_elem, int64_t n_slice, int n_thread)
{
  uint64_t output = ingot_distill_write_bytes(n_elem, n_thread),
           state = ingot_state_buffer_bytes(3 * (uint64_t)n_slice * sizeof(float), n_thread);
  return output > state ? output : state;
}

uint64_t ingot_distill_host_bytes(const ingot_distill_plan *plan, const ingot_model_spec *student, int n_rank,
                                  int n_thread, bool on_device)
{
  int64_t n_elem = (int64_t)(ingot_model_bytes(student, INGOT_DTYPE_F32) / sizeof(float)), begin, end,
          length = plan->window.length;
  uint64_t own = (uint64_t)((plan->batch + n_rank - 1) / n_rank);
  ingot_optimizer_slice(n_elem, 0, n_rank, &begin, &end);
  uint64_t best = plan->keep_best || plan->other ? (uint64_t)(end - begin) * sizeof(float) : 0;
  uint64_t rows = (uint64_t)((plan->n_teacher + 2) * plan->micro_batch * length) * sizeof(float);
  uint64_t tiles = (uint64_t)n_thread * INGOT_TILE * sizeof(float); /* of the output, as they are written */
  if (tiles > (uint64_t)n_elem * sizeof(float)) tiles = (uint64_t)n_elem * sizeof(float);
  if (on_device) tiles += passing_bytes(n_elem, end - begin, n_thread);
  return best + rows + tiles + own * (uint64_t)(5 * length) * sizeof(int32_t) +
         (uint64_t)plan->n_step * sizeof(ingot_distill_record);
}
