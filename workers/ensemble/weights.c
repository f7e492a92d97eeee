#include "workers/ensemble/weights.h"

#include <math.h>
#include <string.h>

enum { EVAL_MAX = 25 };
static const double TOLERANCE = 1e-6; /* of the gradient, and of the decrease that a step promises */

int64_t ingot_em_expect(int n_model, const double *weights, int64_t n_token, const float *logp, double *sums,
                        double *log_likelihood)
{
  int64_t n_counted = 0;
  for (int64_t t = 0; t < n_token; t++) {
    const float *row = logp + t * n_model;
    double       most = -INFINITY, total = 0.0;
    for (int m = 0; m < n_model; m++)
      if (weights[m] > 0 && (double)row[m] > most) most = (double)row[m];
    if (!isfinite(most)) continue;
    for (int m = 0; m < n_model; m++)
      if (weights[m] > 0) total += weights[m] * exp((double)row[m] - most);
    for (int m = 0; m < n_model; m++)
      if (weights[m] > 0) sums[m] += weights[m] * exp((double)row[m] - most) / total;
    *log_likelihood += most + log(total);
    n_counted++;
  }
  return n_counted;
}

/* Solve (hessian + damping I) x = -gradient by Cholesky; false when it is not positive definite. */
static bool solve(const ingot_newton *s, double *x)
{
  double l[INGOT_NEWTON_MAX][INGOT_NEWTON_MAX];
  int    n = s->n;
  for (int i = 0; i < n; i++) {
    for (int j = 0; j <= i; j++) {
      double sum = s->hessian[i * n + j] + (i == j ? s->damping : 0.0);
      for (int k = 0; k < j; k++) sum -= l[i][k] * l[j][k];
      if (i != j) l[i][j] = sum / l[j][j];
      else if (!(sum > 0.0)) return false;
      else l[i][i] = sqrt(sum);
    }
  }
  for (int i = 0; i < n; i++) {
    double sum = -s->gradient[i];
    for (int k = 0; k < i; k++) sum -= l[i][k] * x[k];
    x[i] = sum / l[i][i];
  }
  for (int i = n - 1; i >= 0; i--) {
    double sum = x[i];
    for (int k = i + 1; k < n; k++) sum -= l[k][i] * x[k];
    x[i] = sum / l[i][i];
  }
  return true;
}

void ingot_newton_begin(ingot_newton *s, int n, const double *w, double l2)
{
  *s = (ingot_newton){.n = n, .l2 = l2, .damping = 1e-8};
  memcpy(s->at, w, (size_t)n * sizeof *w);
  memcpy(s->trial, w, (size_t)n * sizeof *w);
}

/* The next point from the best one; done when a step promises next to nothing. */
static void propose(ingot_newton *s)
{
  double step[INGOT_NEWTON_MAX], steepest = 0.0, promise = 0.0;
  while (!solve(s, step)) {
    s->damping = s->damping > 0 ? s->damping * 10.0 : 1e-8;
    s->done = s->damping > 1e12; /* the Hessian is not finite */
    if (s->done) return;
  }
  for (int i = 0; i < s->n; i++) {
    steepest = fmax(steepest, fabs(s->gradient[i]));
    promise -= 0.5 * s->gradient[i] * step[i];
    s->trial[i] = s->at[i] + step[i];
  }
  s->converged = steepest < TOLERANCE || promise < TOLERANCE * 0.1;
  s->done = s->converged || s->n_eval >= EVAL_MAX;
}

void ingot_newton_tell(ingot_newton *s, double value, const double *gradient, const double *hessian)
{
  double norm = 0.0;
  for (int i = 0; i < s->n; i++) norm += s->trial[i] * s->trial[i];
  value += 0.5 * s->l2 * norm;
  bool better = s->n_eval == 0 || value < s->value;
  s->n_eval++;
  if (!better) { /* a shorter step, nearer to the direction of the gradient */
    s->damping = fmax(s->damping, 1e-3) * 10.0;
  } else {
    s->damping *= 0.1;
    s->value = value;
    memcpy(s->at, s->trial, (size_t)s->n * sizeof *s->at);
    for (int i = 0; i < s->n; i++) s->gradient[i] = gradient[i] + s->l2 * s->trial[i];
    memcpy(s->hessian, hessian, (size_t)(s->n * s->n) * sizeof *hessian);
    for (int i = 0; i < s->n; i++) s->hessian[i * s->n + i] += s->l2;
  }
  propose(s);
}
