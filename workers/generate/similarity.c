#include "workers/generate/similarity.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { ORDER = 4 };

static bool same(const int32_t *a, const int32_t *b, int n)
{
  return memcmp(a, b, (size_t)n * sizeof *a) == 0;
}

static int64_t count(const int32_t *x, int64_t n_x, const int32_t *gram, int n)
{
  int64_t found = 0;
  for (int64_t i = 0; i + n <= n_x; i++) found += same(x + i, gram, n);
  return found;
}

/* N-grams of a that b has too, each as often as in the one that has it less often. Sequences are short: no tables. */
static int64_t common(const int32_t *a, int64_t n_a, const int32_t *b, int64_t n_b, int n)
{
  int64_t sum = 0;
  for (int64_t i = 0; i + n <= n_a; i++) {
    bool seen = false;
    for (int64_t j = 0; j < i && !seen; j++) seen = same(a + j, a + i, n);
    if (seen) continue;
    int64_t in_a = count(a, n_a, a + i, n), in_b = count(b, n_b, a + i, n);
    sum += in_a < in_b ? in_a : in_b;
  }
  return sum;
}

double ingot_similarity_bleu(const int32_t *candidate, int64_t n_candidate, const int32_t *reference,
                             int64_t n_reference)
{
  double sum = 0.0;
  if (n_candidate == 0) return n_reference == 0 ? 1.0 : 0.0;
  for (int n = 1; n <= ORDER; n++) {
    double add = n > 1 ? 1.0 : 0.0, total = n <= n_candidate ? (double)(n_candidate - n + 1) : 0.0;
    double found = (double)common(candidate, n_candidate, reference, n_reference, n);
    if (found + add <= 0.0) return 0.0;
    sum += log((found + add) / (total + add));
  }
  double brief = n_candidate < n_reference ? 1.0 - (double)n_reference / (double)n_candidate : 0.0;
  return exp(brief + sum / ORDER);
}

double ingot_similarity_f1(const int32_t *candidate, int64_t n_candidate, const int32_t *reference, int64_t n_reference)
{
  if (n_candidate + n_reference == 0) return 1.0;
  return 2.0 * (double)common(candidate, n_candidate, reference, n_reference, 1) / (double)(n_candidate + n_reference);
}
