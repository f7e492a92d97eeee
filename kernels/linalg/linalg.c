#include "kernels/linalg/linalg.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

void ingot_linalg_close(ingot_linalg **l)
{
  if (*l) (*l)->ops->close(*l);
  *l = NULL;
}

ingot_status ingot_linalg_load(ingot_linalg *l, const ingot_linalg_input *input, const void *from,
                               ingot_linalg_array *to, ingot_linalg_found *found)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(l->ops->begin(l, input, to));
  INGOT_TRY(l->ops->take(l, from, ingot_linalg_input_count(input)));
  INGOT_TRY(l->ops->end(l, found));
done:
  return st;
}

/* The first pivot that is rounding error alone, from 1; 0 when there is none. */
static int64_t weak_pivot(int64_t n, const double *diagonal, const double *root)
{
  for (int64_t i = 0; i < n; i++)
    if (!(root[i] * root[i] > (double)n * DBL_EPSILON * diagonal[i])) return i + 1;
  return 0;
}

static const double RIDGE_FIRST = 1e-6, RIDGE_LAST = 1.0;

ingot_status ingot_linalg_factor_ridge(ingot_linalg *l, const char *what, int64_t n, ingot_linalg_array *s,
                                       double *ridge)
{
  ingot_status st = INGOT_OK;
  double *diagonal = malloc(((size_t)n + 1) * sizeof *diagonal), *raised = malloc(((size_t)n + 1) * sizeof *raised);
  double *root = malloc(((size_t)n + 1) * sizeof *root);
  double  mean = 0, r = *ridge;
  int64_t pivot = 0;
  INGOT_CHECK(diagonal && raised && root, INGOT_ERR_NOMEM, "no memory for the diagonal of %lld", (long long)n);
  INGOT_TRY(l->ops->get_diagonal(l, n, s, diagonal));
  for (int64_t i = 0; i < n; i++) mean += diagonal[i] / (double)n;
  INGOT_CHECK(isfinite(mean), INGOT_ERR_NUMERIC, "%s: the diagonal of the sum of Gram matrices is not finite", what);
  for (;;) {
    for (int64_t i = 0; i < n; i++) raised[i] = diagonal[i] + r * mean;
    INGOT_TRY(l->ops->set_diagonal(l, n, raised, s));
    INGOT_TRY(l->ops->factor(l, n, s, &pivot));
    if (pivot == 0) {
      INGOT_TRY(l->ops->get_diagonal(l, n, s, root));
      pivot = weak_pivot(n, raised, root);
    }
    if (pivot == 0) break;
    r = r > 0 ? 10 * r : RIDGE_FIRST;
    INGOT_CHECK(
        r <= RIDGE_LAST * 1.0001 && mean > 0, INGOT_ERR_NUMERIC,
        "%s: the sum of Gram matrices [%lld, %lld] is not positive definite (leading minor %lld), even with %g of "
        "its mean diagonal (%g) added",
        what, (long long)n, (long long)n, (long long)pivot, r / 10, mean);
    INGOT_TRY(l->ops->mirror(l, n, s));
  }
  *ridge = r;
done:
  free(diagonal);
  free(raised);
  free(root);
  return st;
}
