/**
 * Dense float64 matrices for the merges with Gram matrices: on the CPU (OpenBLAS; cpu_linalg.c) or on a GPU
 * (cuBLAS, cuSOLVER; cuda_linalg.cu). All matrices are row-major and contiguous.
 *
 * CPU: every product and factorisation is cut into pieces whose sizes depend on the matrices alone, and each piece is
 * one call of a BLAS that runs on one thread. So the same library on the same kind of processor gives the same bytes
 * for any number of threads. Other libraries, processors and the GPU differ in the last digits of float64.
 *
 * A GPU handle keeps its libraries' handles, work space, page-locked buffers and freed arrays for the next matrix. Work
 * on the device is asynchronous: an operation that gives the host a number waits for it, the others do not.
 *
 * A handle is used by one thread.
 */
#ifndef INGOT_KERNELS_LINALG_LINALG_H
#define INGOT_KERNELS_LINALG_LINALG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"
#include "base/tile.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ingot_linalg ingot_linalg;

/** A matrix or vector of the back end: host or device memory. Zeroed when made. */
typedef struct ingot_linalg_array {
  double *at;
  int64_t n; /* elements */
} ingot_linalg_array;

/** The order in which the elements of an input or a result lie on the host. */
typedef enum ingot_linalg_form {
  INGOT_LINALG_ROWS,      /* the array's own */
  INGOT_LINALG_COLUMNS,   /* its columns one after the other */
  INGOT_LINALG_PACKED,    /* inputs: the upper triangle of a symmetric matrix by rows (io/statistics.h) */
  INGOT_LINALG_SYMMETRIC, /* inputs: all of a symmetric matrix; elements beside the diagonal are averaged with their
                             images */
} ingot_linalg_form;

/** A matrix on its way from host memory, in its storage dtype, into an array: widened to float32 as all merges do. */
typedef struct ingot_linalg_input {
  ingot_linalg_form form;
  ingot_dtype       dtype;          /* a floating-point one */
  int64_t           rows, columns;  /* of the array; equal for symmetric matrices */
  double            alpha;          /* of symmetric matrices: factor of the elements beside the diagonal */
  bool              zero_nonfinite; /* NaN and infinities become 0 */
} ingot_linalg_input;

/** What was seen on the way. Positions count elements in the order of the input. */
typedef struct ingot_linalg_found {
  int64_t n_nonfinite, first_nonfinite; /* NaN and infinities; -1: none */
  float   nonfinite;                    /* the first of them */
  int64_t
      asymmetric; /* SYMMETRIC: the first element below the diagonal that is not its image (linalg/input.h); -1: none */
} ingot_linalg_found;

/** Takes elements first .. first + n of a result: n is INGOT_TILE but for the last. values go when it returns. */
typedef ingot_status (*ingot_linalg_taker)(void *context, int64_t first, int64_t n, const float *values);

enum { INGOT_LINALG_ROOM_BYTES = INGOT_TILE * 8 };

/** What a back end fills in. m, n, k are extents, arrays hold at least as many elements. */
typedef struct ingot_linalg_ops {
  ingot_status (*alloc)(ingot_linalg *l, int64_t n, ingot_linalg_array *out); /* INGOT_ERR_NOMEM */
  void (*free)(ingot_linalg *l, ingot_linalg_array *a);                       /* a becomes {0}; {0} is fine */
  /**
   * An input in pieces: begin, then room and take for one piece after the other, then end. `to` is complete for the
   * operations that follow. A begun input that was not ended is dropped by the next begin.
   */
  ingot_status (*begin)(ingot_linalg *l, const ingot_linalg_input *input, ingot_linalg_array *to);
  /** Host memory for the next piece, of INGOT_LINALG_ROOM_BYTES; the handle's. Earlier pieces may still be on their
   * way. */
  ingot_status (*room)(ingot_linalg *l, void **room);
  /** The next n elements, from the room just given, or from memory that stays as it is until end or close returns. */
  ingot_status (*take)(ingot_linalg *l, const void *from, int64_t n);
  ingot_status (*end)(ingot_linalg *l, ingot_linalg_found *found);
  /** x [m][n] rounded once to float32, by rows or by columns, in order. Ends with the taker's first failure. */
  ingot_status (*give)(ingot_linalg *l, int64_t m, int64_t n, const ingot_linalg_array *x, ingot_linalg_form form,
                       ingot_linalg_taker taker, void *context);
  ingot_status (*copy)(ingot_linalg *l, const ingot_linalg_array *from, int64_t n, ingot_linalg_array *to);
  /** y = a * x + b * y. */
  ingot_status (*axpby)(ingot_linalg *l, int64_t n, double a, const ingot_linalg_array *x, double b,
                        ingot_linalg_array *y);
  ingot_status (*dot)(ingot_linalg *l, int64_t n, const ingot_linalg_array *x, const ingot_linalg_array *y,
                      double *out);
  /** c [m][n] = factor * a [m][k] b [k][n] + keep * c, keep 0 or 1. */
  ingot_status (*multiply)(ingot_linalg *l, int64_t m, int64_t n, int64_t k, double factor, const ingot_linalg_array *a,
                           const ingot_linalg_array *b, double keep, ingot_linalg_array *c);
  /** The diagonal of s [n][n] to or from host memory. */
  ingot_status (*get_diagonal)(ingot_linalg *l, int64_t n, const ingot_linalg_array *s, double *host);
  ingot_status (*set_diagonal)(ingot_linalg *l, int64_t n, const double *host, ingot_linalg_array *s);
  /** The strict lower triangle = the transposed strict upper one. */
  ingot_status (*mirror)(ingot_linalg *l, int64_t n, ingot_linalg_array *s);
  /**
   * s = L L^T from its lower triangle, which becomes L; the strict upper triangle stays. *pivot is 0, or the number
   * (from 1) of the first leading minor that is not positive.
   */
  ingot_status (*factor)(ingot_linalg *l, int64_t n, ingot_linalg_array *s, int64_t *pivot);
  /** x [m][n] = x (L L^T)^-1 with L in the lower triangle of s. */
  ingot_status (*solve)(ingot_linalg *l, int64_t m, int64_t n, const ingot_linalg_array *s, ingot_linalg_array *x);
  /** Elements of one column of x [m][n] to or from host memory. */
  ingot_status (*get_column)(ingot_linalg *l, int64_t m, int64_t n, int64_t column, const ingot_linalg_array *x,
                             double *host);
  ingot_status (*set_column)(ingot_linalg *l, int64_t m, int64_t n, int64_t column, const double *host,
                             ingot_linalg_array *x);
  void (*close)(ingot_linalg *l);
} ingot_linalg_ops;

/** The head of every back end's handle. */
struct ingot_linalg {
  const ingot_linalg_ops *ops;
  bool                    on_device;
};

/** n_thread threads of this process. */
ingot_status ingot_linalg_open_cpu(int n_thread, ingot_linalg **out);
/** The GPU of that number. INGOT_ERR_DEVICE; never when built without CUDA. */
ingot_status ingot_linalg_open_cuda(int device, ingot_linalg **out);
/** *l becomes NULL; NULL is fine. */
void ingot_linalg_close(ingot_linalg **l);

/** Elements of a packed symmetric matrix. */
static inline int64_t ingot_linalg_packed_count(int64_t n)
{
  return n * (n + 1) / 2;
}

/** Elements of an input. */
static inline int64_t ingot_linalg_input_count(const ingot_linalg_input *input)
{
  return input->form == INGOT_LINALG_PACKED ? ingot_linalg_packed_count(input->rows) : input->rows * input->columns;
}

/** All of an input that is in memory. */
ingot_status ingot_linalg_load(ingot_linalg *l, const ingot_linalg_input *input, const void *from,
                               ingot_linalg_array *to, ingot_linalg_found *found);

/**
 * Factor a symmetric s [n][n] (both triangles filled): s + ridge * mean(diagonal) * I, with the ridge growing tenfold
 * from 1e-6 (or from the given one) until the factorisation succeeds with every pivot above rounding error. *ridge is
 * the one asked for on entry, and the one used on return. INGOT_ERR_NUMERIC when 1 is not enough, or s has NaN or
 * infinities; `what` leads the message.
 */
ingot_status ingot_linalg_factor_ridge(ingot_linalg *l, const char *what, int64_t n, ingot_linalg_array *s,
                                       double *ridge);

#ifdef __cplusplus
}
#endif
#endif
