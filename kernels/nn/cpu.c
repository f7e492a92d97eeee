#define _GNU_SOURCE
#include "kernels/nn/cpu.h"

#include <stdlib.h>
#include <string.h>

#include <omp.h>
#include <sys/mman.h>

enum {
  ALIGNMENT = 256,
  HUGE_PAGE = 2 << 20,
  SMALL_WORK = 1 << 15, /* elements: about what a thread does while others are woken */
  PIECE = 1 << 20       /* bytes, of copying and clearing */
};

static ingot_status allocate(size_t bytes, void **out)
{
  *out = NULL;
  size_t alignment = bytes >= 4 * (size_t)HUGE_PAGE ? HUGE_PAGE : ALIGNMENT;
  size_t rounded = (bytes / ALIGNMENT + 1) * ALIGNMENT;
  if (rounded < bytes || posix_memalign(out, alignment, rounded) != 0)
    return ingot_fail(INGOT_ERR_NOMEM, "no memory for %zu bytes of a model's tensors and activations", bytes);
#ifdef MADV_HUGEPAGE
  if (alignment == HUGE_PAGE) (void)madvise(*out, rounded, MADV_HUGEPAGE); /* a hint: matrices walk over many pages */
#endif
  return INGOT_OK;
}

static ingot_status cpu_alloc(ingot_nn *nn, size_t bytes, void **out)
{
  (void)nn;
  return allocate(bytes, out);
}

static void cpu_free(ingot_nn *nn, void *memory)
{
  (void)nn;
  free(memory);
}

static ingot_status cpu_copy(ingot_nn *nn, void *dst, const void *src, size_t bytes)
{
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, (int64_t)bytes / 16)) schedule(static)
  for (size_t i = 0; i < bytes; i += PIECE)
    memcpy((char *)dst + i, (const char *)src + i, bytes - i < PIECE ? bytes - i : PIECE);
  return INGOT_OK;
}

static ingot_status cpu_zero(ingot_nn *nn, void *dst, size_t bytes)
{
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, (int64_t)bytes / 16)) schedule(static)
  for (size_t i = 0; i < bytes; i += PIECE) memset((char *)dst + i, 0, bytes - i < PIECE ? bytes - i : PIECE);
  return INGOT_OK;
}

static ingot_status cpu_wait(ingot_nn *nn)
{
  (void)nn;
  return INGOT_OK;
}

static void cpu_close(ingot_nn *nn)
{
  ingot_nn_cpu *cpu = (ingot_nn_cpu *)nn;
  free(cpu->scratch);
  free(cpu);
}

static const ingot_nn_ops cpu_ops = {
    .close = cpu_close,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .copy_in = cpu_copy,
    .copy_out = cpu_copy,
    .copy = cpu_copy,
    .zero = cpu_zero,
    .wait = cpu_wait,
    .matmul = ingot_cpu_matmul,
    .gram = ingot_cpu_gram,
    .norm = ingot_cpu_norm,
    .norm_backward = ingot_cpu_norm_backward,
    .rope = ingot_cpu_rope,
    .attention = ingot_cpu_attention,
    .attention_backward = ingot_cpu_attention_backward,
    .cache_store = ingot_cpu_cache_store,
    .cache_copy = ingot_cpu_cache_copy,
    .attention_cached = ingot_cpu_attention_cached,
    .swiglu = ingot_cpu_swiglu,
    .swiglu_backward = ingot_cpu_swiglu_backward,
    .gelu = ingot_cpu_gelu,
    .gelu_backward = ingot_cpu_gelu_backward,
    .embedding = ingot_cpu_embedding,
    .embedding_backward = ingot_cpu_embedding_backward,
    .column_sum = ingot_cpu_column_sum,
    .add = ingot_cpu_add,
    .add_squares = ingot_cpu_add_squares,
    .cross_entropy = ingot_cpu_cross_entropy,
    .sample_labels = ingot_cpu_sample_labels,
    .draw = ingot_cpu_draw,
    .top_k = ingot_cpu_top_k,
    .mix = ingot_cpu_mix,
    .rule_out = ingot_cpu_rule_out,
    .distill = ingot_cpu_distill,
    .distill_top_k = ingot_cpu_distill_top_k,
    .moments = ingot_cpu_moments,
    .log_softmax = ingot_cpu_log_softmax,
    .sum_squares = ingot_cpu_sum_squares,
    .adamw = ingot_cpu_adamw,
    .round_to = ingot_cpu_round_to,
    .widen = ingot_cpu_widen,
};

ingot_status ingot_nn_cpu_open(const ingot_nn_options *options, ingot_nn **out)
{
  INGOT_ASSERT(options->dtype == INGOT_DTYPE_F32 && options->n_thread >= 1);
  *out = NULL;
  ingot_nn_cpu *cpu = calloc(1, sizeof *cpu);
  if (!cpu) return ingot_fail(INGOT_ERR_NOMEM, "no memory for the CPU back end");
  cpu->head = (ingot_nn){.ops = &cpu_ops,
                         .kind = INGOT_NN_CPU,
                         .dtype = INGOT_DTYPE_F32,
                         .n_thread = options->n_thread,
                         .device = 0};
  ingot_status st = ingot_blas_load(&cpu->blas);
  if (st != INGOT_OK) {
    free(cpu);
    return st;
  }
  *out = &cpu->head;
  return INGOT_OK;
}

ingot_status ingot_cpu_scratch(ingot_nn *nn, size_t bytes, float **out)
{
  ingot_nn_cpu *cpu = (ingot_nn_cpu *)nn;
  if (bytes > cpu->scratch_bytes) {
    free(cpu->scratch);
    cpu->scratch_bytes = 0;
    ingot_status st = allocate(bytes, &cpu->scratch);
    if (st != INGOT_OK) return st;
    cpu->scratch_bytes = bytes;
  }
  *out = cpu->scratch;
  return INGOT_OK;
}

int ingot_cpu_threads(const ingot_nn *nn, int64_t n_elem)
{
  return n_elem < SMALL_WORK ? 1 : nn->n_thread;
}

int ingot_cpu_thread(void)
{
  return omp_get_thread_num();
}
