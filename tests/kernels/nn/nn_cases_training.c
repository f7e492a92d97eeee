/* Cases of the operators that combine models, distill and train. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/nn/nn_case_run.h"

/* Rows without what lies behind the vocabulary: nothing is promised of it. */
static void take_rows(nn_run *r, const char *name, const float *p, const ingot_nn_logits *shape)
{
  const size_t bytes = (size_t)(shape->n_row * shape->ld) * sizeof *p;
  float       *all = nn_run_host_room(bytes);
  nn_output   *o = nn_run_new_output(r, name, shape->n_row * shape->n_vocab);
  nn_run_must(r->nn->ops->copy_out(r->nn, all, p, bytes));
  for (int64_t i = 0; i < shape->n_row; i++)
    memcpy(o->values + i * shape->n_vocab, all + i * shape->ld, (size_t)shape->n_vocab * sizeof *all);
  free(all);
}

/* rows, vocabulary, kind, members; of the second member every fourth row is left out */
void nn_run_mix(nn_run *r, const int64_t *s)
{
  const ingot_nn_mix kind = (ingot_nn_mix)s[2];
  const bool         product = kind == INGOT_NN_MIX_LOG_LINEAR;
  ingot_nn_logits    z = nn_run_logits(r, 1, s[0], s[1]);
  float             *mixed = nn_run_room_f32(r, s[0] * z.ld), *host = nn_run_host_room((size_t)s[0] * sizeof *host);
  for (int m = 0; m < s[3]; m++) {
    if (m > 0) z = nn_run_logits(r, 1 + (uint32_t)m, s[0], s[1]);
    for (int64_t i = 0; i < s[0]; i++) {
      host[i] = nn_case_value(20 + (uint32_t)m, i) - (product ? 0 : 1);
      if (m == 1 && i % 4 == 2) host[i] = product ? 0 : -INFINITY;
    }
    const float *weight = nn_run_put(r, host, (size_t)s[0] * sizeof *host);
    nn_run_must(r->nn->ops->mix(r->nn, kind, &z, weight, -6, m == 0, mixed));
  }
  take_rows(r, "mixed", mixed, &z);
  z.data = mixed;
  nn_run_must(r->nn->ops->log_softmax(r->nn, &z, mixed));
  take_rows(r, "logp", mixed, &z);
  free(host);
}

/* rows, vocabulary, members */
void nn_run_moments(nn_run *r, const int64_t *s)
{
  const int64_t   n = s[0] * s[2];
  ingot_nn_logits mixed = nn_run_logits(r, 1, s[0], s[1]);
  const int32_t  *labels = nn_run_labels(r, s[0], s[1]);
  const float    *members[16];
  for (int m = 0; m < s[2]; m++) members[m] = nn_run_logits(r, 2 + (uint32_t)m, s[0], s[1]).data;
  float *mean = nn_run_room_f32(r, n), *product = nn_run_room_f32(r, n * s[2]), *label = nn_run_room_f32(r, n);
  nn_run_must(r->nn->ops->moments(r->nn, &mixed, (int)s[2], members, labels, mean, product, label));
  nn_run_take_f32(r, "mean", mean, n);
  nn_run_take_f32(r, "product", product, n * s[2]);
  nn_run_take_f32(r, "label", label, n);
}

/* rows, vocabulary, divergence, quarters of T, eighths of alpha, eighths of beta */
void nn_run_distill(nn_run *r, const int64_t *s)
{
  const ingot_nn_distill loss = {(ingot_nn_divergence)s[2], (float)s[5] / 8, (float)s[3] / 4, (float)s[4] / 8, 0.25f};
  ingot_nn_logits        z = nn_run_logits(r, 1, s[0], s[1]);
  const float           *teacher = nn_run_logits(r, 3, s[0], s[1]).data;
  const int32_t         *labels = nn_run_labels(r, s[0], s[1]);
  float                 *soft = nn_run_room_f32(r, s[0]), *nll = nn_run_room_f32(r, s[0]);
  void                  *d = nn_run_room(r, s[0] * z.ld);
  nn_run_must(r->nn->ops->distill(r->nn, &loss, &z, teacher, labels, soft, nll, d));
  nn_run_take_f32(r, "soft", soft, s[0]);
  nn_run_take_f32(r, "nll", nll, s[0]);
  nn_run_take(r, "d_logits", d, s[0] * z.ld);
}

/* rows, vocabulary, k, tail, quarters of T, eighths of alpha; 37 and the vocabulary have no common divisor */
void nn_run_distill_top_k(nn_run *r, const int64_t *s)
{
  const ingot_nn_distill loss = {INGOT_NN_FORWARD_KL, 0.5f, (float)s[4] / 4, (float)s[5] / 8, 0.25f};
  const int64_t          n = s[0] * s[2];
  ingot_nn_logits        z = nn_run_logits(r, 1, s[0], s[1]);
  const int32_t         *labels = nn_run_labels(r, s[0], s[1]);
  int32_t               *ids = nn_run_host_room((size_t)n * sizeof *ids);
  float                 *logp = nn_run_host_room((size_t)n * sizeof *logp);
  for (int64_t i = 0; i < n; i++) {
    const int64_t row = i / s[2], at = i % s[2];
    ids[i] = (int32_t)((row * 13 + at * 37) % s[1]);
    logp[i] = -1.5f - 0.75f * (float)at - 0.5f * (float)(row % 3);
  }
  const ingot_nn_top_k teacher = {(int)s[2], nn_run_put(r, ids, (size_t)n * sizeof *ids),
                                  nn_run_put(r, logp, (size_t)n * sizeof *logp), (ingot_nn_tail)s[3]};
  float               *soft = nn_run_room_f32(r, s[0]), *nll = nn_run_room_f32(r, s[0]);
  void                *d = nn_run_room(r, s[0] * z.ld);
  nn_run_must(r->nn->ops->distill_top_k(r->nn, &loss, &z, &teacher, labels, soft, nll, d));
  nn_run_take_f32(r, "soft", soft, s[0]);
  nn_run_take_f32(r, "nll", nll, s[0]);
  nn_run_take(r, "d_logits", d, s[0] * z.ld);
  free(ids);
  free(logp);
}

/* elements, step */
void nn_run_adamw(nn_run *r, const int64_t *s)
{
  const ingot_nn_adamw how = {0.0625f, 0.9f, 0.95f, 0.001953125f, 0.125f, 0.5f, s[1]};
  const int64_t        n = s[0];
  float               *square = nn_run_host_room((size_t)n * sizeof *square);
  for (int64_t i = 0; i < n; i++) square[i] = nn_case_value(4, i) * nn_case_value(4, i);
  float *gradient = nn_run_input_f32(r, 1, n, 1), *master = nn_run_input_f32(r, 2, n, 1);
  float *m = nn_run_input_f32(r, 3, n, 1), *v = nn_run_put(r, square, (size_t)n * sizeof *square);
  void  *weight = nn_run_room(r, n), *rounded = nn_run_room(r, n);
  float *widened = nn_run_room_f32(r, n);
  double sum = -1;
  nn_run_must(r->nn->ops->sum_squares(r->nn, n, gradient, &sum));
  nn_run_new_output(r, "sum", 1)->values[0] = (float)sum;
  nn_run_must(r->nn->ops->adamw(r->nn, &how, n, gradient, master, m, v, weight));
  nn_run_take_f32(r, "master", master, n);
  nn_run_take_f32(r, "m", m, n);
  nn_run_take_f32(r, "v", v, n);
  nn_run_take(r, "weight", weight, n);
  nn_run_must(r->nn->ops->round_to(r->nn, n, master, rounded));
  nn_run_must(r->nn->ops->widen(r->nn, n, rounded, widened));
  nn_run_take(r, "rounded", rounded, n);
  nn_run_take_f32(r, "widened", widened, n);
  free(square);
}
