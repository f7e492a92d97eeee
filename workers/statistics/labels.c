#include "workers/statistics/labels.h"

#include <stdlib.h>

#include "base/hash.h"
#include "base/philox.h"

ingot_status ingot_label_head_init(ingot_label_head *h, ingot_gather *g, bool sampled)
{
  ingot_status st = INGOT_OK;
  size_t       n = (size_t)g->plan->batch * (size_t)g->plan->window.length;
  *h = (ingot_label_head){.g = g, .key = ingot_philox_key(g->plan->seed, ingot_hash_string("labels"), 0)};
  h->host_nll = calloc(n, sizeof *h->host_nll);
  INGOT_CHECK(h->host_nll, INGOT_ERR_NOMEM, "no memory for the losses of %zu tokens", n);
  INGOT_TRY(g->nn->ops->alloc(g->nn, n * sizeof(float), &h->nll));
  if (sampled) INGOT_TRY(g->nn->ops->alloc(g->nn, n * sizeof(int32_t), &h->sampled));
done:
  return st;
}

void ingot_label_head_release(ingot_label_head *h)
{
  if (h->g && h->g->nn) {
    h->g->nn->ops->free(h->g->nn, h->nll);
    h->g->nn->ops->free(h->g->nn, h->sampled);
  }
  free(h->host_nll);
  *h = (ingot_label_head){0};
}

ingot_status ingot_label_head_chunk(void *context, ingot_nn *nn, int64_t first_row, const ingot_nn_logits *z,
                                    const int32_t *labels, void *d_logits)
{
  ingot_status      st = INGOT_OK;
  ingot_label_head *h = context;
  if (h->sampled) {
    int32_t *own = (int32_t *)h->sampled + first_row;
    INGOT_TRY(nn->ops->copy(nn, own, labels, (size_t)z->n_row * sizeof *own));
    INGOT_TRY(nn->ops->sample_labels(nn, z, h->key, h->counter + (uint64_t)first_row, own));
    labels = own;
  }
  INGOT_TRY(nn->ops->cross_entropy(nn, z, labels, h->scale, (float *)h->nll + first_row, NULL, d_logits));
done:
  return st;
}

ingot_status ingot_label_head_check(ingot_label_head *h, const ingot_batch *batch, int64_t first)
{
  ingot_status st = INGOT_OK;
  double       sum = 0.0;
  int64_t      n_token = 0;
  size_t       n = (size_t)batch->n_batch * (size_t)batch->n_time;
  INGOT_TRY(h->g->nn->ops->copy_out(h->g->nn, h->host_nll, h->nll, n * sizeof *h->host_nll));
  INGOT_TRY(ingot_gather_loss(h->g, batch, first, h->host_nll, &sum, &n_token));
done:
  return st;
}

int64_t ingot_label_count(const ingot_batch *batch, int64_t begin, int64_t end)
{
  int64_t n = 0;
  for (int64_t t = begin; t < end; t++) n += batch->labels[t] != INGOT_NN_IGNORE;
  return n;
}
