/* The cache of keys and values, and new tokens against it. A key head of a token is a part of work; its scores are
 * whole. */
#include <math.h>
#include <string.h>

#include "kernels/nn/cpu.h"
#include "kernels/nn/cpu_math.h"

/* Scores become probabilities, not yet divided by their sum, which is returned. */
static INGOT_CLONES float exponentials(int64_t n, float *s)
{
  float top = s[0], sum = 0;
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < n; i++) top = s[i] > top ? s[i] : top;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) {
    s[i] = ingot_cpu_exp(s[i] - top);
    sum += s[i];
  }
  return sum;
}

static INGOT_CLONES void scale_row(int64_t n, float factor, float *x)
{
  for (int64_t i = 0; i < n; i++) x[i] *= factor;
}

/* Where a token of a layer lies. */
static float *cache_at(const ingot_nn_cache *c, void *memory, int64_t layer, int64_t slot, int64_t time)
{
  return (float *)memory + ((layer * c->n_slot + slot) * c->n_time + time) * c->width;
}

ingot_status ingot_cpu_cache_store(ingot_nn *nn, const ingot_nn_cache *cache, int64_t layer, int64_t n_token,
                                   const int32_t *place, const void *k, int64_t ld_k, const void *v, int64_t ld_v)
{
  const float *from_k = k, *from_v = v;
  const size_t bytes = (size_t)cache->width * sizeof(float);
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, n_token * cache->width)) schedule(static)
  for (int64_t i = 0; i < n_token; i++) {
    if (place[i] < 0) continue;
    memcpy(cache_at(cache, cache->keys, layer, 0, place[i]), from_k + i * ld_k, bytes);
    memcpy(cache_at(cache, cache->values, layer, 0, place[i]), from_v + i * ld_v, bytes);
  }
  return INGOT_OK;
}

ingot_status ingot_cpu_cache_copy(ingot_nn *nn, const ingot_nn_cache *cache, int64_t n_copy, const int32_t *copies,
                                  int64_t most_token)
{
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, cache->n_layer *n_copy *most_token * cache->width)) \
    schedule(static)
  for (int64_t i = 0; i < cache->n_layer * n_copy; i++) {
    const int64_t  layer = i / n_copy;
    const int32_t *copy = copies + 3 * (i % n_copy);
    const size_t   bytes = (size_t)(copy[2] * cache->width) * sizeof(float);
    memcpy(cache_at(cache, cache->keys, layer, copy[1], 0), cache_at(cache, cache->keys, layer, copy[0], 0), bytes);
    memcpy(cache_at(cache, cache->values, layer, copy[1], 0), cache_at(cache, cache->values, layer, copy[0], 0), bytes);
  }
  return INGOT_OK;
}

/* The heads of row `row` that share key head `kv`; scores is room for [group][n_key]. */
static void attend(const ingot_blas *blas, const ingot_nn_cached *shape, const ingot_nn_cache *cache, int64_t row,
                   int kv, const float *q, float *o, float *scores)
{
  const int     d = shape->head_dim, group = shape->n_head / shape->n_kv_head;
  const int64_t first = shape->window > 0 && shape->n_key[row] > shape->window ? shape->n_key[row] - shape->window : 0;
  const int64_t n_key = shape->n_key[row] - first;
  const float  *keys = cache_at(cache, cache->keys, shape->layer, shape->slot[row], first) + kv * d;
  const float  *values = cache_at(cache, cache->values, shape->layer, shape->slot[row], first) + kv * d;
  q += row * shape->ld_q + kv * group * d;
  o += row * shape->ld_o + kv * group * d;
  blas->sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, group, (blasint)n_key, d, shape->scale, q, d, keys,
              (blasint)cache->width, 0, scores, (blasint)n_key);
  for (int h = 0; h < group; h++) {
    const float sum = exponentials(n_key, scores + h * n_key);
    scale_row(n_key, 1.0f / sum, scores + h * n_key);
  }
  blas->sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, group, d, (blasint)n_key, 1, scores, (blasint)n_key, values,
              (blasint)cache->width, 0, o, d);
}

ingot_status ingot_cpu_attention_cached(ingot_nn *nn, const ingot_nn_cached *shape, const ingot_nn_cache *cache,
                                        const void *q, void *o)
{
  int64_t total = 0;
  for (int64_t r = 0; r < shape->n_row; r++) {
    INGOT_ASSERT(shape->n_key[r] > 0 && shape->n_key[r] <= shape->most_key);
    total += shape->n_key[r];
  }
  const int64_t floats = ingot_cpu_padded(shape->most_key * (shape->n_head / shape->n_kv_head)),
                n_part = shape->n_row * shape->n_kv_head;
  const ingot_blas *blas = ingot_cpu_blas(nn);
  float            *memory;
  ingot_status      st = ingot_cpu_scratch(nn, (size_t)(floats * nn->n_thread) * sizeof(float), &memory);
  if (st != INGOT_OK) return st;
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, total * shape->n_head * shape->head_dim / 16)) \
    schedule(dynamic, 1)
  for (int64_t i = 0; i < n_part; i++)
    attend(blas, shape, cache, i / shape->n_kv_head, (int)(i % shape->n_kv_head), q, o,
           memory + ingot_cpu_thread() * floats);
  return INGOT_OK;
}
