#include "workers/generate/choose.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/hash.h"
#include "base/philox.h"

static const char PURPOSE[] = "generate"; /* the seed's other uses have other streams */

double ingot_choose_uniform(uint64_t seed, int64_t sequence, int64_t place)
{
  uint32_t word[4];
  ingot_philox4x32_of(ingot_philox_key(seed, ingot_hash_string(PURPOSE), 0), (uint64_t)sequence, (uint32_t)place, word);
  return fmin(((double)word[0] + ((double)word[1] + 0.5) * 0x1p-32) * 0x1p-32,
              0x1.fffffffffffffp-1); /* below 1 after rounding, too */
}

int32_t ingot_choose_largest(int64_t n_vocab, const float *z)
{
  int64_t best = 0;
  for (int64_t v = 0; v < n_vocab; v++) {
    if (isnan(z[v])) return -1;
    if (z[v] > z[best]) best = v;
  }
  return isfinite(z[best]) ? (int32_t)best : -1;
}

double ingot_choose_log_sum(int64_t n_vocab, const float *z)
{
  double most = -INFINITY, sum = 0.0;
  for (int64_t v = 0; v < n_vocab; v++) most = fmax(most, (double)z[v]);
  for (int64_t v = 0; v < n_vocab; v++) sum += exp((double)z[v] - most);
  return most + log(sum);
}

/* ---- a heap of ids, the likeliest on top ---- */

static bool before(const float *z, int32_t a, int32_t b)
{
  return z[a] > z[b] || (!(z[a] < z[b]) && a < b);
}

static void sift(const float *z, int32_t *heap, int64_t n, int64_t at)
{
  for (int64_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
    if (child + 1 < n && before(z, heap[child + 1], heap[child])) child++;
    if (!before(z, heap[child], heap[at])) return;
    int32_t id = heap[at];
    heap[at] = heap[child];
    heap[child] = id;
    at = child;
  }
}

static void make_heap(const float *z, int32_t *heap, int64_t n)
{
  for (int64_t v = 0; v < n; v++) heap[v] = (int32_t)v;
  for (int64_t at = n / 2 - 1; at >= 0; at--) sift(z, heap, n, at);
}

/* The top of a heap of n goes behind the rest, which is a heap again. */
static int32_t pop(const float *z, int32_t *heap, int64_t n)
{
  int32_t id = heap[0];
  heap[0] = heap[n - 1];
  heap[n - 1] = id;
  sift(z, heap, n - 1, 0);
  return id;
}

int64_t ingot_choose_best(int64_t n_vocab, const float *z, int64_t k, int32_t *ids, int32_t *room)
{
  int64_t n = k < n_vocab ? k : n_vocab;
  make_heap(z, room, n_vocab);
  for (int64_t i = 0; i < n; i++) pop(z, room, n_vocab - i);
  for (int64_t i = 0; i < n; i++) ids[i] = room[n_vocab - 1 - i];
  return n;
}

/* ---- drawing ---- */

static double weight(const ingot_choice *how, float z, float most)
{
  return exp(((double)z - (double)most) / how->temperature);
}

static int32_t draw_from_all(const ingot_choice *how, int64_t n_vocab, const float *z, float most, double u)
{
  double  total = 0.0, sum = 0.0;
  int32_t last = -1;
  for (int64_t v = 0; v < n_vocab; v++) total += weight(how, z[v], most);
  for (int64_t v = 0; v < n_vocab; v++) {
    double w = weight(how, z[v], most);
    sum += w;
    if (w > 0.0) last = (int32_t)v;
    if (sum > u * total) return (int32_t)v;
  }
  return last;
}

/* The likeliest ids lie at the end of room, the first of them last. */
static int32_t draw_from_likeliest(const ingot_choice *how, int64_t n_vocab, const float *z, float most, double u,
                                   int32_t *room)
{
  int64_t n = how->top_k > 0 && how->top_k < n_vocab ? how->top_k : n_vocab, kept = 0;
  double  total = 0.0, sum = 0.0, drawn = 0.0;
  make_heap(z, room, n_vocab);
  for (int64_t i = 0; how->top_k > 0 && i < n; i++) total += weight(how, z[pop(z, room, n_vocab - i)], most);
  for (int64_t v = 0; how->top_k == 0 && v < n_vocab; v++) total += weight(how, z[v], most);
  while (kept < n && (kept == 0 || sum < how->top_p * total)) {
    if (how->top_k == 0) pop(z, room, n_vocab - kept);
    sum += weight(how, z[room[n_vocab - 1 - kept]], most);
    kept++;
  }
  for (int64_t i = 0; i < kept; i++) {
    drawn += weight(how, z[room[n_vocab - 1 - i]], most);
    if (drawn > u * sum) return room[n_vocab - 1 - i];
  }
  return room[n_vocab - kept];
}

int32_t ingot_choose_sample(const ingot_choice *how, int64_t n_vocab, const float *z, double u, int32_t *room)
{
  int32_t best = ingot_choose_largest(n_vocab, z);
  if (best < 0) return -1;
  if (how->top_k == 0 && how->top_p >= 1.0) return draw_from_all(how, n_vocab, z, z[best], u);
  return draw_from_likeliest(how, n_vocab, z, z[best], u, room);
}
