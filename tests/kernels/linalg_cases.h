/** What every back end of kernels/linalg must do, checked on a handle: numbers that are known without it. */
#ifndef INGOT_TESTS_KERNELS_LINALG_CASES_H
#define INGOT_TESTS_KERNELS_LINALG_CASES_H

#include "kernels/linalg/linalg.h"

/** Every form and several dtypes, in pieces and whole, in and out again: exact. Arrays are reused from size to size. */
void linalg_check_transfer(ingot_linalg *l);
/** NaN, infinities and matrices that are not symmetric; inputs that were dropped half way; takers that fail. */
void linalg_check_found(ingot_linalg *l);
/** X S = R solved and multiplied out again, several sizes after another; matrices that are not positive definite. */
void linalg_check_solve(ingot_linalg *l);

#endif
