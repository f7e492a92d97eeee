/**
 * Learning mixture weights: expectation maximisation for linear mixtures, damped Newton for log-linear ones. Arithmetic
 * alone.
 */
#ifndef INGOT_WORKERS_ENSEMBLE_WEIGHTS_H
#define INGOT_WORKERS_ENSEMBLE_WEIGHTS_H

#include <stdbool.h>
#include <stdint.h>

/**
 * One expectation: adds to sums [n_model] the responsibilities, and to *log_likelihood the logarithms of the mixture's
 * probabilities, of n_token tokens with log-probabilities logp [n_token][n_model]. A token that no member gives any
 * probability adds nothing and is not counted. Returns the tokens that count.
 */
int64_t ingot_em_expect(int n_model, const double *weights, int64_t n_token, const float *logp, double *sums,
                        double *log_likelihood);

/** Damped Newton on a convex function of w, told by value, gradient and Hessian at the points that it asks for. */
enum { INGOT_NEWTON_MAX = 16 };
typedef struct ingot_newton {
  int     n;
  int64_t n_eval; /* points told so far */
  int64_t done, converged;
  double  l2, damping;
  double  at[INGOT_NEWTON_MAX];                                                            /* the best point so far */
  double  value, gradient[INGOT_NEWTON_MAX], hessian[INGOT_NEWTON_MAX * INGOT_NEWTON_MAX]; /* there, with the L2 term */
  double  trial[INGOT_NEWTON_MAX]; /* the point to be evaluated next */
} ingot_newton;

/** Begins at w [n]; the first trial is w itself. */
void ingot_newton_begin(ingot_newton *s, int n, const double *w, double l2);
/** The mean loss at s->trial, its gradient [n] and Hessian [n][n], without the L2 term. Sets the next trial, or
 * s->done. */
void ingot_newton_tell(ingot_newton *s, double value, const double *gradient, const double *hessian);

#endif
