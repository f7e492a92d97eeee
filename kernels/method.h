/**
 * Merge methods: the registry, and the interface between a method and the worker that feeds it.
 *
 * A method is a const descriptor in kernels/methods/<name>.c, one row in kernels/methods.def, a test and a row in
 * docs/methods.md. The worker reads tiles, widens every input to float32 and hands blocks to the method; the method
 * never sees files, ranks or threads. On a GPU the worker hands over raw device buffers, and the method's kernel widens
 * in registers (kernels/methods/<name>.cu or a family shared by several methods).
 *
 * Numerics (docs/methods.md, "Arithmetic"): element-wise arithmetic is float32 in the order written in the method's
 * page, contraction off; norms, dots, sums and thresholds are float64 (or exact integers); sums are per block of
 * INGOT_BLOCK elements, added in block order. Same inputs, same bytes: for any ranks, threads, and on CPU and GPU.
 */
#ifndef INGOT_KERNELS_METHOD_H
#define INGOT_KERNELS_METHOD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/params.h"
#include "base/shape.h"
#include "base/status.h"
#include "base/tile.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { INGOT_SAMPLE_RUN = 256 }; /* elements read together by a sampled pass */

/** What must be known of the model before one element of the output can be computed. */
typedef enum ingot_grain {
  INGOT_GRAIN_ELEMENT, /* nothing: any tile anywhere */
  INGOT_GRAIN_TENSOR,  /* a summary of the tensor: passes over its tiles on one rank, then element-wise */
  INGOT_GRAIN_MATRIX,  /* the whole matrix at once, on one rank */
  INGOT_GRAIN_MODEL,   /* a summary of the whole model: passes over all ranks, then as TENSOR or ELEMENT */
  INGOT_GRAIN_COUNT
} ingot_grain;

/** What a method makes of a step's `base`. */
typedef enum ingot_base_rule {
  INGOT_BASE_UNUSED,      /* only a listed model may be the base; it is an ordinary input and lends its config */
  INGOT_BASE_TASK_VECTOR, /* required; input 0; models are base + task vector; dropped when also listed as a model */
  INGOT_BASE_ENDPOINT,    /* required; input 0; one of the (two) models */
  INGOT_BASE_START,       /* may be given; input 0 then; where an iteration starts, not one of the models */
} ingot_base_rule;

/** Statistics a method reads besides the weights (bit set). */
enum {
  INGOT_NEED_FISHER = 1,     /* diagonal Fisher information: a tensor of the parameter's shape */
  INGOT_NEED_GRAM = 2,       /* Gram matrix of a linear layer's input */
  INGOT_NEED_OUTPUT_GRAM = 4 /* Gram matrix of the gradients at its output */
};

/** One output tensor as a method sees it. All pointers are borrowed and outlive the calls. */
typedef struct ingot_method_tensor {
  const char   *name; /* output name */
  uint64_t      key;  /* ingot_hash_string(name): for random streams */
  ingot_shape   shape;
  int64_t       n_elem;
  int64_t       model_offset; /* elements of the merged tensors before this one, in file order (model grain) */
  int           n_input;      /* (has_base ? 1 : 0) + n_model + n_statistic */
  int           n_model;      /* models that take part, in the step's order */
  int           n_statistic;  /* 0, or statistics of every model: all models' first, then all models' second (K-FAC) */
  bool          has_base;     /* input 0 is the base */
  bool          transposed;   /* a linear layer stored as [in, out]; false where no statistics say so */
  const double *global;       /* [n_global]: the method's GLOBAL parameters in table order */
  const double *per_model;    /* [n_model][n_per_model]: its PER_MODEL parameters in table order */
  uint64_t      seed;
  const void   *model_state; /* model grain: the finished whole-model state; else NULL */
} ingot_method_tensor;

/** Elements first .. first + n of a tensor, widened to float32. */
typedef struct ingot_chunk {
  int64_t             first; /* flat index; a multiple of INGOT_BLOCK except in sampled passes */
  int64_t             n;     /* 1 .. INGOT_BLOCK */
  const float *const *in;    /* [n_input][n]; 64-byte aligned */
} ingot_chunk;

/** What a pass over a tensor (or the model) shall gather. Filled by `next`. */
typedef struct ingot_scan_plan {
  int            pass;          /* the method's own number of this pass; INGOT_SCAN_DONE when the state is ready */
  size_t         slot_bytes;    /* every tile gets a zeroed slot of this size; 0 for none */
  int64_t        n_sum;         /* integer sums over all tiles, zeroed; order does not matter; 0 for none */
  int64_t        sample_stride; /* 0: all elements. Else only INGOT_SAMPLE_RUN elements at every multiple of this */
  const int64_t *tiles;         /* NULL: all tiles. Else ascending tile indices [n_tiles]; lives in the state */
  int64_t        n_tiles;
  bool keep_slots; /* the method may go on using result->slots until the tensor is merged; not with model grain */
} ingot_scan_plan;

enum { INGOT_SCAN_DONE = -1 };

/** What a pass has gathered. */
typedef struct ingot_scan_result {
  const ingot_scan_plan *plan;   /* the pass that was run */
  int64_t                n_slot; /* tiles scanned, in order: all tiles, or plan->n_tiles */
  const void            *slots;  /* [n_slot][slot_bytes], in tile order */
  const int64_t         *sums;   /* [n_sum] */
} ingot_scan_result;

/**
 * Summary passes on the CPU. For model grain: `state` is the model state, tiles and slots count through all tensors of
 * the plan, and `next` gets the last merged tensor, so that model_offset + n_elem is the length of the whole vector.
 */
typedef struct ingot_scan_ops {
  /**
   * Decide the next pass: with result NULL the first one, else after looking at the pass just run. Called by one
   * thread at a time for a given state; with model grain on every rank, with the same result.
   */
  ingot_status (*next)(const ingot_method_tensor *t, void *state, const ingot_scan_result *result,
                       ingot_scan_plan *plan);
  /**
   * Gather from one chunk. Chunks of a tile come in order; tiles come in any order, on several threads at once: state
   * is read-only here. slot belongs to the tile; sums is private to the tile and added up by the worker.
   */
  void (*scan)(const ingot_method_tensor *t, const void *state, const ingot_scan_plan *plan, const ingot_chunk *c,
               void *slot, int64_t *sums);
  /**
   * The same from elements first .. first + n with all inputs stored as bfloat16, as ingot_method.apply_bf16 takes
   * them. True: gathered, exactly as scan does. False: nothing was, because an input is NaN or infinite, or there is no
   * such loop for this pass; the caller takes the general path. NULL: none.
   */
  bool (*scan_bf16)(const ingot_method_tensor *t, const void *state, const ingot_scan_plan *plan, int64_t first,
                    int64_t n, const void *const *in, void *slot, int64_t *sums);
} ingot_scan_ops;

/** What to do with NaN and infinities in inputs. */
typedef enum ingot_nonfinite {
  INGOT_NONFINITE_FAIL, /* count, finish looking, fail */
  INGOT_NONFINITE_KEEP, /* count, go on with IEEE rules */
  INGOT_NONFINITE_ZERO  /* count; the base's value (a zero task vector), or 0 without base or in the base */
} ingot_nonfinite;

/** A stretch of a tensor in device memory, in storage dtypes. All pointers but `in`, `in_dtype` are device pointers. */
typedef struct ingot_device_chunk {
  int64_t            first;    /* flat index, a multiple of INGOT_BLOCK */
  int64_t            n;        /* 1 .. INGOT_TILE */
  const void *const *in;       /* host array [n_input] of device pointers, 256-byte aligned */
  const ingot_dtype *in_dtype; /* host array [n_input] */
  void              *out;      /* apply only; 256-byte aligned */
  ingot_dtype        out_dtype;
  ingot_nonfinite    nonfinite;
  uint64_t          *n_nonfinite; /* [n_input], added to; NULL: do not count (a later pass over counted data) */
  void              *workspace;   /* of the descriptor's device workspace_bytes */
  void              *stream;      /* cudaStream_t; work is enqueued, nothing waits */
} ingot_device_chunk;

/** The GPU side of a method. Slots and sums have the same layout rules as on the CPU but live in device memory. */
typedef struct ingot_device_ops {
  /** May ask for other passes than the CPU; the finished state must be the same. NULL: no summary. */
  ingot_status (*next)(const ingot_method_tensor *t, void *state, const ingot_scan_result *result,
                       ingot_scan_plan *plan);
  /** Enqueue the gathering from one chunk; chunks of a tile come in order on one stream. sums: atomic adds. */
  ingot_status (*scan)(const ingot_method_tensor *t, const void *state, const ingot_scan_plan *plan,
                       const ingot_device_chunk *c, void *slot, int64_t *sums);
  /** Enqueue the merge of one chunk. state is a host pointer: pass what the kernel needs by value. */
  ingot_status (*apply)(const ingot_method_tensor *t, const void *state, const ingot_device_chunk *c);
  size_t (*workspace_bytes)(const ingot_method_tensor *t); /* per stream; NULL: none */
  int max_input; /* inputs that one launch can take; a step with more runs on the CPU */
} ingot_device_ops;

struct ingot_matrix_ops; /* kernels/matrix.h */

typedef struct ingot_method {
  const char             *name;
  const char             *summary; /* one line */
  const char             *source;  /* paper or program */
  const ingot_param_spec *params;  /* [n_param]; in scope order: indices count GLOBAL and PER_MODEL separately */
  int                     n_param;
  ingot_base_rule         base;
  int                     min_models, max_models; /* models besides a TASK_VECTOR or ENDPOINT base; max 0: any */
  unsigned                needs;                  /* INGOT_NEED_ bits that some tensor may want; 0: no statistics */

  /**
   * Which statistics this tensor wants (n_statistic not yet set), once in each input for every bit. A tensor for which
   * no model has them is merged with n_statistic 0. NULL when needs is 0.
   */
  unsigned (*wants)(const ingot_method_tensor *t);
  /** Grain for these parameters: TIES with density 1 everywhere needs no summary. */
  ingot_grain (*grain)(const ingot_method_tensor *t);
  /** Arithmetic per output element in units of one multiply-add: weighs tiles against each other, no more. */
  double (*cost)(const ingot_method_tensor *t);
  /** Rules between parameters, such as weights that sum to zero under normalize. NULL: none. INGOT_ERR_JOB. */
  ingot_status (*check)(const ingot_method_tensor *t);
  /** When true, an output in the dtype of its only input is copied byte for byte, without arithmetic. NULL: never. */
  bool (*is_copy)(const ingot_method_tensor *t);

  /** Bytes of state for one tensor; the state is plain memory, zeroed before `begin`, freed without a call. */
  size_t (*state_bytes)(const ingot_method_tensor *t);
  ingot_status (*begin)(const ingot_method_tensor *t, void *state);

  /** MODEL grain only: the passes over all tensors, run on the CPU, and the state they fill. */
  size_t (*model_state_bytes)(const ingot_method_tensor *any);
  ingot_scan_ops model;

  /**
   * TENSOR grain: memory that a tensor's passes on the CPU will take, about and rather too much: slots, sums, and what
   * `next` works with. NULL: slots and sums of the first pass.
   */
  uint64_t (*summary_bytes)(const ingot_method_tensor *t);
  ingot_scan_ops tensor; /* TENSOR grain (and MODEL, if it wants both); next NULL: no summary */
  /** One chunk of output, float32 [n]. Any thread; state is read-only. */
  void (*apply)(const ingot_method_tensor *t, const void *state, const ingot_chunk *c, float *out);
  /**
   * The same chunk (first and n as in ingot_chunk) with all inputs and the output stored as bfloat16, without widened
   * copies; pointers need no alignment. True: out has the bytes that apply, rounded, gives. False: an input is NaN or
   * infinite, or the block is none that this loop is made for, and out is undefined; the caller takes the general path,
   * which counts by input and replaces. NULL: none.
   */
  bool (*apply_bf16)(const ingot_method_tensor *t, const void *state, int64_t first, int64_t n, const void *const *in,
                     void *out);

  const ingot_device_ops        *device; /* NULL: CPU only, or built without CUDA */
  const struct ingot_matrix_ops *matrix; /* MATRIX grain; NULL: none */
} ingot_method;

/** All methods, in methods.def order. */
int                 ingot_method_count(void);
const ingot_method *ingot_method_at(int i);
/** By name, or NULL. */
const ingot_method *ingot_method_find(const char *name);
/** The nearest method name, or NULL. */
const char *ingot_method_nearest(const char *name);
/** Index of a parameter within its scope, or -1; *spec (may be NULL) gets its row. */
int ingot_method_param(const ingot_method *m, const char *name, const ingot_param_spec **spec);
/** Number of parameters of a scope. */
int ingot_method_n_param(const ingot_method *m, ingot_param_scope scope);

#ifdef __cplusplus
}
#endif
#endif
