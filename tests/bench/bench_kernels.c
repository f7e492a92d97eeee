/*
 * Speed of the merge methods on one thread, without files: widening from bf16, passes, merging, rounding to bf16.
 *
 *   bench_kernels [REPEATS]
 *
 * Every method is first checked: its output has the same bytes as one made from the same data in smaller tensors or in
 * another order of tiles. Then it is timed on a tensor that stays in the nearest caches and on one of 256 MB of inputs,
 * and printed as nanoseconds an output element and as GB/s of inputs read (every pass) and output written, beside the
 * limit that memcpy reaches on the same bytes in the same run. Kernels that methods are made of come first.
 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/philox.h"
#include "kernels/block_sum.h"
#include "kernels/convert.h"
#include "kernels/random_mask.h"
#include "tests/kernels/run_method.h"

enum { MAX_INPUT = 5, SMALL = 16 * INGOT_BLOCK, MAX_PARAMETERS = 64 };

typedef struct bench {
  const char *method, *parameters;
  int         n_model;
} bench;

static const bench benches[] = {
    {"linear", "weight=0.25", 4},
    {"linear", "weight@0=0.3 weight@1=0.2 weight@2=0.4 weight@3=0.2", 4},
    {"slerp", "t=0.3", 1},
    {"task_arithmetic", "weight=0.3", 3},
    {"ties", "weight=1 density=0.5", 3},
    {"ties", "weight=1 density=0.2 normalize=false", 3},
    {"dare_linear", "weight=0.3 density=0.5", 3},
    {"dare_ties", "weight=0.3 density=0.5", 3},
    {"dare_ties", "weight=0.3 density=0.5 rescale=inv_density", 3},
    {"passthrough", "scale=0.5", 1},
};

static void *allocate(size_t bytes)
{
  void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (!memory) {
    fprintf(stderr, "bench_kernels: no memory for %zu bytes\n", bytes);
    exit(1);
  }
  return memory;
}

/* A base and models near it in bfloat16, as fine-tuning leaves them: most differences are a few units in the last
 * place. */
static void fill(uint16_t *const *in, int n_input, int64_t n)
{
  for (int64_t i = 0; i < n; i++) {
    uint32_t word[4];
    float    base = 0;
    ingot_philox4x32(1, (uint64_t)i, word);
    for (int k = 0; k < 4; k++) base += (float)(word[k] >> 8) * 0x1p-24f - 0.5f;
    base *= 0.04f;
    ingot_narrow(INGOT_DTYPE_BF16, &base, &in[0][i], 1);
    for (int m = 1; m < n_input; m++) {
      float moved = base + ((float)(word[m - 1] & 0xffffu) * 0x1p-16f - 0.5f) * 0.002f;
      ingot_narrow(INGOT_DTYPE_BF16, &moved, &in[m][i], 1);
    }
  }
}

static double best_of(int repeats, void (*run)(void *), void *context)
{
  double best = 1e30;
  for (int i = 0; i <= repeats; i++) {  /* the first is not counted: it brings the data in */
    double start = ingot_clock_cpu_s(); /* not wall time: other processes may share the core */
    run(context);
    double elapsed = ingot_clock_cpu_s() - start;
    if (i > 0 && elapsed < best) best = elapsed;
  }
  return best;
}

/* Kernels. */

typedef struct kernel_run {
  int       what, times;
  uint16_t *stored;
  float    *a, *b;
  uint32_t *word;
  uint16_t *keep;
  double    sink;
} kernel_run;

static void run_kernel(void *context)
{
  kernel_run *k = context;
  for (int i = 0; i < k->times; i++) {
    switch (k->what) {
    case 0: ingot_widen(INGOT_DTYPE_BF16, k->stored, k->a, INGOT_BLOCK); break;
    case 1: ingot_widen(INGOT_DTYPE_F16, k->stored, k->b, INGOT_BLOCK); break;
    case 2: ingot_widen(INGOT_DTYPE_F8_E4M3, k->stored, k->b, INGOT_BLOCK); break;
    case 3: ingot_narrow(INGOT_DTYPE_BF16, k->a, k->word, INGOT_BLOCK); break;
    case 4: ingot_narrow(INGOT_DTYPE_F16, k->a, k->word, INGOT_BLOCK); break;
    case 5: k->sink += (double)ingot_widen_counting(INGOT_DTYPE_BF16, k->stored, k->a, INGOT_BLOCK); break;
    case 6: k->sink += ingot_block_sum_abs(k->a, INGOT_BLOCK); break;
    case 7: k->sink += ingot_block_dot(k->a, k->b, INGOT_BLOCK); break;
    case 8: ingot_random_mask(5, 0x4ccccccccccdu, 4096L * i, INGOT_BLOCK, k->keep); break;
    default:
      ingot_random_mask_version((ingot_mask_version)(k->what - 9), 5, 0x4ccccccccccdu, 4096L * i, INGOT_BLOCK, k->keep);
      break;
    }
  }
}

static void bench_parts(int repeats)
{
  static const char *const names[] = {"widen bf16",  "widen f16",  "widen f8_e4m3",
                                      "narrow bf16", "narrow f16", "widen bf16, counting",
                                      "sum of |x|",  "dot",        "random mask",
                                      "mask, plain", "mask, avx2", "mask, avx512"};
  kernel_run               k = {.times = 1000,
                                .stored = allocate(INGOT_BLOCK * 2),
                                .a = allocate(INGOT_BLOCK * 4),
                                .b = allocate(INGOT_BLOCK * 4),
                                .word = allocate(INGOT_BLOCK * 4),
                                .keep = allocate(INGOT_BLOCK * 2)};
  fill(&k.stored, 1, INGOT_BLOCK);
  ingot_widen(INGOT_DTYPE_BF16, k.stored, k.a, INGOT_BLOCK);
  memcpy(k.b, k.a, INGOT_BLOCK * 4);
  for (k.what = 0; k.what < (int)(sizeof names / sizeof *names); k.what++)
    printf("  %-24s %7.3f ns/element\n", names[k.what], best_of(repeats, run_kernel, &k) / k.times / INGOT_BLOCK * 1e9);
  free(k.stored), free(k.a), free(k.b), free(k.word), free(k.keep);
}

/* Methods. */

typedef struct method_run {
  run_setup  setup;
  run_report report;
  int        times;
} method_run;

static void run_merge(void *context)
{
  method_run *r = context;
  for (int i = 0; i < r->times; i++) {
    if (run_method(&r->setup, &r->report) != INGOT_OK) {
      fprintf(stderr, "bench_kernels: %s\n", ingot_error_message());
      exit(1);
    }
  }
}

typedef struct copy_run {
  const void *const *from;
  void              *to;
  size_t             bytes;
  int                n_read, times;
} copy_run;

static void run_copy(void *context)
{
  copy_run *c = context;
  for (int t = 0; t < c->times; t++)
    for (int i = 0; i < c->n_read; i++) memcpy(c->to, c->from[i], c->bytes);
}

static void bench_method(const bench *b, int64_t n, const void *const *in, uint16_t *out, uint16_t *check, int repeats)
{
  const ingot_method *m = ingot_method_find(b->method);
  double              global[MAX_PARAMETERS], per_model[MAX_PARAMETERS];
  bool                has_base = m->base != INGOT_BASE_UNUSED;
  int                 n_input = b->n_model + has_base;
  const ingot_dtype   dtypes[MAX_INPUT] = {INGOT_DTYPE_BF16, INGOT_DTYPE_BF16, INGOT_DTYPE_BF16, INGOT_DTYPE_BF16,
                                           INGOT_DTYPE_BF16};
  run_tensor          tensor = {.name = "t",
                                .shape = {.n_dim = 1, .dim = {n}},
                                .in = in,
                                .in_dtype = dtypes,
                                .out = check,
                                .out_dtype = INGOT_DTYPE_BF16};
  method_run          r = {.setup = {.method = m,
                                     .tensors = &tensor,
                                     .n_tensor = 1,
                                     .n_model = b->n_model,
                                     .has_base = has_base,
                                     .global = global,
                                     .per_model = per_model,
                                     .seed = 1,
                                     .backwards = true},
                           .times = 1};
  if (run_parameters(m, b->n_model, b->parameters, global, per_model) != INGOT_OK) run_merge(&r);
  run_merge(&r);
  r.setup.backwards = false;
  tensor.out = out;
  run_merge(&r);
  if (memcmp(out, check, (size_t)n * sizeof *out) != 0) {
    fprintf(stderr, "bench_kernels: %s: two runs differ\n", b->method);
    exit(1);
  }
  r.times = n <= SMALL ? 50 : 1;
  double elapsed = best_of(repeats, run_merge, &r) / r.times;

  double   reads = 1 + (double)r.report.elements_scanned / (double)n; /* passes over all inputs */
  double   bytes = (double)n * 2 * (reads * n_input + 1);
  copy_run c = {.from = in, .to = check, .bytes = (size_t)n * 2, .n_read = n_input, .times = r.times};
  double   limit = best_of(repeats, run_copy, &c) / r.times;
  printf("  %-16s %-52s %7.3f ns/element %7.1f GB/s, memcpy of the inputs %7.1f GB/s\n", b->method, b->parameters,
         elapsed / (double)n * 1e9, bytes / elapsed / 1e9, (double)n * 2 * n_input / limit / 1e9);
}

int main(int argc, char **argv)
{
  const int     repeats = argc > 1 ? atoi(argv[1]) : 5;
  const int64_t large = (int64_t)32 << 20; /* four inputs of bf16: 256 MB */
  uint16_t     *in[MAX_INPUT], *out = allocate((size_t)large * 2), *check = allocate((size_t)large * 2);
  for (int i = 0; i < MAX_INPUT; i++) in[i] = allocate((size_t)large * 2);
  fill(in, MAX_INPUT, large);

  printf("kernels, blocks of %d elements in cache:\n", INGOT_BLOCK);
  bench_parts(repeats);
  for (int size = 0; size < 2; size++) {
    int64_t n = size ? large : SMALL;
    printf("methods, bf16 to bf16, %lld elements, one thread:\n", (long long)n);
    for (size_t i = 0; i < sizeof benches / sizeof *benches; i++)
      bench_method(&benches[i], n, (const void *const *)in, out, check, repeats);
  }
  for (int i = 0; i < MAX_INPUT; i++) free(in[i]);
  free(out);
  free(check);
  return 0;
}
