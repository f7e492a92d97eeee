/* Summary passes over bfloat16 as it is stored gather what passes over the same values in float32 do. */
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "kernels/convert.h"
#include "tests/check.h"
#include "tests/kernels/run_method.h"

enum { N_INPUT = 4, MAX_PARAMETERS = 64 };

typedef struct both {
  uint16_t *stored[N_INPUT];
  float    *wide[N_INPUT];
  int64_t   n;
} both;

static void *allocate(int64_t n, size_t size)
{
  void *memory = malloc((size_t)n * size);
  assert_non_null(memory);
  return memory;
}

/* A base and models near it: most differences are a few units in the last place, and many have the same magnitude. */
static void fill(both *b, int64_t n, uint64_t seed)
{
  b->n = n;
  for (int k = 0; k < N_INPUT; k++) b->stored[k] = allocate(n, 2), b->wide[k] = allocate(n, 4);
  for (int64_t i = 0; i < n; i++) {
    uint32_t word[4];
    ingot_philox4x32(seed, (uint64_t)i, word);
    uint32_t base = 0x3c00 + word[0] % 0x180 + (word[0] >> 16 & 0x8000);
    b->stored[0][i] = (uint16_t)base;
    for (int k = 1; k < N_INPUT; k++) b->stored[k][i] = (uint16_t)(base + (word[k] & 7) - 3);
  }
}

static void widen(both *b)
{
  for (int k = 0; k < N_INPUT; k++) ingot_widen(INGOT_DTYPE_BF16, b->stored[k], b->wide[k], b->n);
}

static void release(both *b)
{
  for (int k = 0; k < N_INPUT; k++) free(b->stored[k]), free(b->wide[k]);
}

static void merge(const both *b, bool stored, const char *method, const char *parameters, float *out)
{
  static const ingot_dtype wide[N_INPUT] = {INGOT_DTYPE_F32, INGOT_DTYPE_F32, INGOT_DTYPE_F32, INGOT_DTYPE_F32};
  static const ingot_dtype bf16[N_INPUT] = {INGOT_DTYPE_BF16, INGOT_DTYPE_BF16, INGOT_DTYPE_BF16, INGOT_DTYPE_BF16};
  const ingot_method      *m = ingot_method_find(method);
  double                   global[MAX_PARAMETERS], per_model[MAX_PARAMETERS];
  run_tensor               tensor = {.name = "t",
                                     .shape = {.n_dim = 1, .dim = {b->n}},
                                     .out = out,
                                     .out_dtype = INGOT_DTYPE_F32,
                                     .in = stored ? (const void *const *)b->stored : (const void *const *)b->wide,
                                     .in_dtype = stored ? bf16 : wide};
  run_setup                setup = {.method = m,
                                    .tensors = &tensor,
                                    .n_tensor = 1,
                                    .n_model = N_INPUT - 1,
                                    .has_base = true,
                                    .global = global,
                                    .per_model = per_model,
                                    .seed = 5};
  assert_non_null(m->tensor.scan_bf16);
  assert_int_equal(run_parameters(m, N_INPUT - 1, parameters, global, per_model), INGOT_OK);
  assert_int_equal(run_method(&setup, NULL), INGOT_OK);
}

static void check_same(const both *b, const char *method, const char *parameters)
{
  float *from_stored = allocate(b->n, 4), *from_wide = allocate(b->n, 4);
  merge(b, true, method, parameters, from_stored);
  merge(b, false, method, parameters, from_wide);
  if (memcmp(from_stored, from_wide, (size_t)b->n * 4) != 0)
    fail_msg("%s %s, %lld", method, parameters, (long long)b->n);
  free(from_stored), free(from_wide);
}

static void check_methods(const both *b)
{
  check_same(b, "dare_linear", "weight=1 density=0.3");
  check_same(b, "dare_ties", "weight=1 density@0=0.7 density@1=1 density@2=0.001");
  check_same(b, "ties", "weight=1 density@0=0.3 density@1=1 density@2=0.0005");
  check_same(b, "ties", "weight=1 density=0.6 rescale=l1");
}

static void test_same_as_wide(void **state)
{
  (void)state;
#ifdef INGOT_NO_AVX512 /* the same again: what is not about vectors need not be repeated */
  const int64_t lengths[] = {1, 2, 31, 127, 129, 4096, 4099, 20000};
#else
  const int64_t lengths[] = {1, 2, 31, 127, 129, 4096, 4099, 20000, INGOT_TILE + 4097, 2 * INGOT_TILE + 1000};
#endif
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    both b;
    fill(&b, lengths[i], 3 + i);
    widen(&b);
    check_methods(&b);
    release(&b);
  }
}

/* A block with a NaN or an infinity goes the general way; the other blocks do not. */
static void test_nonfinite(void **state)
{
  (void)state;
  both b;
  fill(&b, 5 * INGOT_BLOCK + 7, 99);
  b.stored[2][INGOT_BLOCK + 77] = 0x7fc0;
  b.stored[0][3 * INGOT_BLOCK - 1] = 0xff80;
  b.stored[3][b.n - 1] = 0x7f80;
  widen(&b);
  check_methods(&b);
  release(&b);
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_as_wide), cmocka_unit_test(test_nonfinite)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
