/** What the tests of single methods share: all known cases of a method, and small merges written in one line. */
#ifndef INGOT_TESTS_KERNELS_METHOD_TEST_H
#define INGOT_TESTS_KERNELS_METHOD_TEST_H

#include "tests/check.h"

#include "tests/kernels/cases.h"
#include "tests/kernels/run_method.h"

/** Every case of the method: values within tolerance, same bytes when tiles are taken backwards. */
void method_check_cases(const char *method);

/**
 * Merge one float32 vector: `in` holds n_input pointers to n floats (base first when the method has one), out n floats.
 * Fails the test when the merge does; report may be NULL.
 */
void method_merge(const char *method, const char *parameters, int n_input, const float *const *in, int64_t n,
                  float *out, run_report *report);
/** The status of the same merge, with its message set. */
ingot_status method_try(const char *method, const char *parameters, int n_input, const float *const *in, int64_t n,
                        float *out, run_report *report);

/** n floats that look like trained weights, by a counter-based generator; free them. */
float *method_random(int64_t n, uint64_t seed, float scale);
/** The same rounded to bfloat16, so that differences fall on few values. */
float *method_random_bf16(int64_t n, uint64_t seed, float scale);
/** a + b * scale, a new array. */
float *method_near(const float *a, const float *b, int64_t n, float scale);

/** Every weight parameter's required flag, range and default row is in the descriptor; -1 when missing. */
void method_check_parameter(const char *method, const char *name, ingot_param_type type, ingot_param_scope scope,
                            bool required, double default_value);

#endif
