/*
 * Dense float64 on the CPU. Pieces of fixed sizes are handed to threads; each is one or a few BLAS calls on one thread.
 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/linalg/cpu_linalg.h"

enum {
  ALIGN = 64,
  PIECE = INGOT_CPU_PIECE,
  PRODUCT_ROWS = 256, /* rows and columns of a piece of a product */
  PRODUCT_COLUMNS = 1024,
  SOLVE_ROWS = 128,
  VECTOR = INGOT_CPU_VECTOR,
};

/* Threads for the tasks 0 .. n_task - 1, which may run in any order. */

typedef struct crew {
  void (*task)(void *context, int64_t task);
  void           *context;
  int64_t         n_task;
  _Atomic int64_t next;
} crew;

static void *crew_member(void *argument)
{
  crew *c = argument;
  for (int64_t i; (i = atomic_fetch_add(&c->next, 1)) < c->n_task;) c->task(c->context, i);
  return NULL;
}

void ingot_cpu_tasks(const cpu_linalg *l, int64_t n_task, void (*task)(void *context, int64_t task), void *context)
{
  enum { MOST = 256 };
  pthread_t threads[MOST];
  crew      c = {.task = task, .context = context, .n_task = n_task};
  int       n = (int)ingot_at_most(ingot_at_most(l->n_thread, n_task) - 1, MOST), started = 0;
  while (started < n && pthread_create(&threads[started], NULL, crew_member, &c) == 0) started++;
  crew_member(&c); /* fewer threads do the same work */
  for (int i = 0; i < started; i++) pthread_join(threads[i], NULL);
}

/* Memory. */

static ingot_status cpu_alloc(ingot_linalg *l, int64_t n, ingot_linalg_array *out)
{
  (void)l;
  size_t bytes = ((size_t)n * sizeof(double) + ALIGN) / ALIGN * ALIGN;
  *out = (ingot_linalg_array){aligned_alloc(ALIGN, bytes), n};
  if (!out->at) {
    *out = (ingot_linalg_array){0};
    return ingot_fail(INGOT_ERR_NOMEM, "no memory for a matrix of %zu bytes", bytes);
  }
  memset(out->at, 0, bytes);
  return INGOT_OK;
}

static void cpu_free(ingot_linalg *l, ingot_linalg_array *a)
{
  (void)l;
  free(a->at);
  *a = (ingot_linalg_array){0};
}

static ingot_status cpu_copy(ingot_linalg *l, const ingot_linalg_array *from, int64_t n, ingot_linalg_array *to)
{
  (void)l;
  memcpy(to->at, from->at, (size_t)n * sizeof(double));
  return INGOT_OK;
}

/* Vectors. */

typedef struct vectors {
  int64_t       n;
  const double *x;
  double       *y;
  double        a, b;
  double       *sums; /* of the pieces */
} vectors;

static void axpby_task(void *context, int64_t task)
{
  const vectors *v = context;
  double        *y = v->y;
  const double  *x = v->x, a = v->a, b = v->b;
  for (int64_t i = task * VECTOR, end = ingot_at_most(v->n, i + VECTOR); i < end; i++) y[i] = a * x[i] + b * y[i];
}

static ingot_status cpu_axpby(ingot_linalg *l, int64_t n, double a, const ingot_linalg_array *x, double b,
                              ingot_linalg_array *y)
{
  vectors v = {.n = n, .x = x->at, .y = y->at, .a = a, .b = b};
  ingot_cpu_tasks((cpu_linalg *)l, ingot_pieces(n, VECTOR), axpby_task, &v);
  return INGOT_OK;
}

static void dot_task(void *context, int64_t task)
{
  const vectors *v = context;
  double         lane[8] = {0};
  int64_t        i = task * VECTOR, end = ingot_at_most(v->n, i + VECTOR);
  for (; i + 8 <= end; i += 8)
    for (int k = 0; k < 8; k++) lane[k] += v->x[i + k] * v->y[i + k];
  for (int k = 0; i < end; i++, k++) lane[k] += v->x[i] * v->y[i];
  v->sums[task] = ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

static ingot_status cpu_dot(ingot_linalg *l, int64_t n, const ingot_linalg_array *x, const ingot_linalg_array *y,
                            double *out)
{
  int64_t n_piece = ingot_pieces(n, VECTOR);
  double *sums = calloc((size_t)n_piece + 1, sizeof *sums);
  vectors v = {.n = n, .x = x->at, .y = y->at, .sums = sums};
  if (!sums) return ingot_fail(INGOT_ERR_NOMEM, "no memory for %lld sums", (long long)n_piece);
  ingot_cpu_tasks((cpu_linalg *)l, n_piece, dot_task, &v);
  *out = 0;
  for (int64_t i = 0; i < n_piece; i++) *out += sums[i];
  free(sums);
  return INGOT_OK;
}

/* Matrices. */

static const ingot_blas *blas_of(const ingot_linalg *l)
{
  return &((const cpu_linalg *)l)->blas;
}

typedef struct product {
  const ingot_blas *blas;
  int64_t           m, n, k, n_column_piece;
  double            factor, keep;
  const double     *a, *b;
  double           *c;
} product;

static void multiply_task(void *context, int64_t task)
{
  const product *p = context;
  int64_t        i = task / p->n_column_piece * PRODUCT_ROWS, j = task % p->n_column_piece * PRODUCT_COLUMNS;
  p->blas->dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)ingot_at_most(PRODUCT_ROWS, p->m - i),
                 (blasint)ingot_at_most(PRODUCT_COLUMNS, p->n - j), (blasint)p->k, p->factor, p->a + i * p->k,
                 (blasint)p->k, p->b + j, (blasint)p->n, p->keep, p->c + i * p->n + j, (blasint)p->n);
}

static ingot_status cpu_multiply(ingot_linalg *l, int64_t m, int64_t n, int64_t k, double factor,
                                 const ingot_linalg_array *a, const ingot_linalg_array *b, double keep,
                                 ingot_linalg_array *c)
{
  product p = {blas_of(l), m, n, k, ingot_pieces(n, PRODUCT_COLUMNS), factor, keep, a->at, b->at, c->at};
  ingot_cpu_tasks((cpu_linalg *)l, ingot_pieces(m, PRODUCT_ROWS) * p.n_column_piece, multiply_task, &p);
  return INGOT_OK;
}

static ingot_status cpu_get_diagonal(ingot_linalg *l, int64_t n, const ingot_linalg_array *s, double *host)
{
  (void)l;
  for (int64_t i = 0; i < n; i++) host[i] = s->at[i * n + i];
  return INGOT_OK;
}

static ingot_status cpu_set_diagonal(ingot_linalg *l, int64_t n, const double *host, ingot_linalg_array *s)
{
  (void)l;
  for (int64_t i = 0; i < n; i++) s->at[i * n + i] = host[i];
  return INGOT_OK;
}

static ingot_status cpu_get_column(ingot_linalg *l, int64_t m, int64_t n, int64_t column, const ingot_linalg_array *x,
                                   double *host)
{
  (void)l;
  for (int64_t i = 0; i < m; i++) host[i] = x->at[i * n + column];
  return INGOT_OK;
}

static ingot_status cpu_set_column(ingot_linalg *l, int64_t m, int64_t n, int64_t column, const double *host,
                                   ingot_linalg_array *x)
{
  (void)l;
  for (int64_t i = 0; i < m; i++) x->at[i * n + column] = host[i];
  return INGOT_OK;
}

typedef struct factoring {
  const ingot_blas *blas;
  int64_t           n, n_piece;
  int64_t           k; /* piece column that is being finished */
  double           *s;
} factoring;

static void mirror_task(void *context, int64_t task)
{
  const factoring *f = context;
  int64_t          row_piece = task / f->n_piece, column_piece = task % f->n_piece, n = f->n;
  if (column_piece > row_piece) return;
  for (int64_t i = row_piece * PIECE, i_end = ingot_at_most(n, i + PIECE); i < i_end; i++)
    for (int64_t j = column_piece * PIECE, j_end = ingot_at_most(i, j + PIECE); j < j_end; j++)
      f->s[i * n + j] = f->s[j * n + i];
}

static ingot_status cpu_mirror(ingot_linalg *l, int64_t n, ingot_linalg_array *s)
{
  factoring f = {.blas = blas_of(l), .n = n, .n_piece = ingot_pieces(n, PIECE), .s = s->at};
  ingot_cpu_tasks((cpu_linalg *)l, f.n_piece * f.n_piece, mirror_task, &f);
  return INGOT_OK;
}

/* L[i, k] = S[i, k] L[k, k]^-T of the piece rows below the diagonal piece. */
static void panel_task(void *context, int64_t task)
{
  const factoring *f = context;
  int64_t          n = f->n, k = f->k * PIECE, i = (f->k + 1 + task) * PIECE;
  f->blas->dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, (blasint)ingot_at_most(PIECE, n - i),
                 PIECE, 1.0, f->s + k * n + k, (blasint)n, f->s + i * n + k, (blasint)n);
}

/* S[i, j] -= L[i, k] L[j, k]^T of one piece right of column k, on or below the diagonal. */
static void update_task(void *context, int64_t task)
{
  const factoring *f = context;
  int64_t          n = f->n, k = f->k * PIECE, row = 0;
  while ((row + 1) * (row + 2) / 2 <= task) row++;
  int64_t column = task - row * (row + 1) / 2;
  int64_t i = (f->k + 1 + row) * PIECE, j = (f->k + 1 + column) * PIECE;
  if (i == j)
    f->blas->dsyrk(CblasRowMajor, CblasLower, CblasNoTrans, (blasint)ingot_at_most(PIECE, n - i), PIECE, -1.0,
                   f->s + i * n + k, (blasint)n, 1.0, f->s + i * n + i, (blasint)n);
  else
    f->blas->dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)ingot_at_most(PIECE, n - i), PIECE, PIECE, -1.0,
                   f->s + i * n + k, (blasint)n, f->s + j * n + k, (blasint)n, 1.0, f->s + i * n + j, (blasint)n);
}

static ingot_status cpu_factor(ingot_linalg *l, int64_t n, ingot_linalg_array *s, int64_t *pivot)
{
  factoring f = {.blas = blas_of(l), .n = n, .n_piece = ingot_pieces(n, PIECE), .s = s->at};
  *pivot = 0;
  for (f.k = 0; f.k < f.n_piece; f.k++) {
    int64_t k = f.k * PIECE, below = f.n_piece - f.k - 1;
    /* a row-major lower triangle is a column-major upper one */
    const blasint size = (blasint)ingot_at_most(PIECE, n - k), ld = (blasint)n;
    blasint       info = 0;
    f.blas->dpotrf("U", &size, s->at + k * n + k, &ld, &info, 1);
    if (info > 0) {
      *pivot = k + info;
      return INGOT_OK;
    }
    if (info < 0) return ingot_fail(INGOT_ERR_INTERNAL, "dpotrf: argument %d is wrong", (int)-info);
    ingot_cpu_tasks((cpu_linalg *)l, below, panel_task, &f);
    ingot_cpu_tasks((cpu_linalg *)l, below * (below + 1) / 2, update_task, &f);
  }
  return INGOT_OK;
}

typedef struct solving {
  const ingot_blas *blas;
  int64_t           m, n;
  const double     *s;
  double           *x;
} solving;

static void solve_task(void *context, int64_t task)
{
  const solving *v = context;
  int64_t        i = task * SOLVE_ROWS, rows = ingot_at_most(SOLVE_ROWS, v->m - i), n = v->n;
  double        *x = v->x + i * n;
  v->blas->dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, (blasint)rows, (blasint)n, 1.0, v->s,
                 (blasint)n, x, (blasint)n);
  v->blas->dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasNoTrans, CblasNonUnit, (blasint)rows, (blasint)n, 1.0,
                 v->s, (blasint)n, x, (blasint)n);
}

static ingot_status cpu_solve(ingot_linalg *l, int64_t m, int64_t n, const ingot_linalg_array *s, ingot_linalg_array *x)
{
  solving v = {blas_of(l), m, n, s->at, x->at};
  ingot_cpu_tasks((cpu_linalg *)l, ingot_pieces(m, SOLVE_ROWS), solve_task, &v);
  return INGOT_OK;
}

static void cpu_close(ingot_linalg *head)
{
  cpu_linalg *l = (cpu_linalg *)head;
  free(l->room);
  free(l);
}

static const ingot_linalg_ops cpu_ops = {
    .alloc = cpu_alloc,
    .free = cpu_free,
    .begin = ingot_cpu_begin,
    .room = ingot_cpu_room,
    .take = ingot_cpu_take,
    .end = ingot_cpu_end,
    .give = ingot_cpu_give,
    .copy = cpu_copy,
    .axpby = cpu_axpby,
    .dot = cpu_dot,
    .multiply = cpu_multiply,
    .get_diagonal = cpu_get_diagonal,
    .set_diagonal = cpu_set_diagonal,
    .mirror = cpu_mirror,
    .factor = cpu_factor,
    .solve = cpu_solve,
    .get_column = cpu_get_column,
    .set_column = cpu_set_column,
    .close = cpu_close,
};

ingot_status ingot_linalg_open_cpu(int n_thread, ingot_linalg **out)
{
  cpu_linalg *l = calloc(1, sizeof *l);
  *out = NULL;
  if (!l) return ingot_fail(INGOT_ERR_NOMEM, "no memory for the linear algebra");
  *l = (cpu_linalg){.head = {.ops = &cpu_ops}, .n_thread = n_thread > 0 ? n_thread : 1};
  ingot_status st = ingot_blas_load(&l->blas);
  if (st != INGOT_OK) {
    free(l);
    return st;
  }
  *out = &l->head;
  return INGOT_OK;
}
