#include "tests/kernels/linalg_cases.h"

#include "tests/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/convert.h"

/* Element (i, j): a multiple of 1 / 4 below 16 in magnitude, which every dtype here holds exactly, and its half. */
static float value_at(int64_t i, int64_t j)
{
  return (float)((i * 7 + j * 13 + i * j) % 127 - 63) * 0.25f;
}

static float symmetric_at(int64_t i, int64_t j)
{
  return i <= j ? value_at(i, j) : value_at(j, i);
}

/* The element at position e of an input. */
static float input_at(const ingot_linalg_input *in, int64_t e, int64_t *row)
{
  int64_t n = in->columns;
  if (in->form == INGOT_LINALG_ROWS) return value_at(e / n, e % n);
  if (in->form == INGOT_LINALG_COLUMNS) return value_at(e % in->rows, e / in->rows);
  if (in->form == INGOT_LINALG_SYMMETRIC) return symmetric_at(e / n, e % n);
  while (*row + 1 < n && e >= (*row + 1) * n - (*row + 1) * *row / 2) ++*row; /* positions come in order */
  return symmetric_at(*row, *row + e - (*row * n - *row * (*row - 1) / 2));
}

static void *make_input(const ingot_linalg_input *in)
{
  int64_t count = ingot_linalg_input_count(in), row = 0;
  float  *wide = malloc((size_t)count * sizeof *wide);
  char   *stored = malloc((size_t)count * ingot_dtype_size(in->dtype));
  assert_true(wide && stored);
  for (int64_t e = 0; e < count; e++) wide[e] = input_at(in, e, &row);
  ingot_narrow(in->dtype, wide, stored, count);
  free(wide);
  return stored;
}

typedef struct taken {
  float  *to;
  int64_t n, fails_at; /* -1 */
} taken;

static ingot_status take(void *context, int64_t first, int64_t n, const float *values)
{
  taken *t = context;
  assert_int_equal(first, t->n);
  if (first == t->fails_at) return ingot_fail(INGOT_ERR_IO, "the disk is full");
  memcpy(t->to + first, values, (size_t)n * sizeof *values);
  t->n += n;
  return INGOT_OK;
}

static float *get(ingot_linalg *l, int64_t m, int64_t n, const ingot_linalg_array *x, ingot_linalg_form form)
{
  taken t = {.to = malloc((size_t)(m * n) * sizeof *t.to), .fails_at = -1};
  assert_non_null(t.to);
  check_ok(l->ops->give(l, m, n, x, form, take, &t));
  assert_int_equal(t.n, m * n);
  return t.to;
}

/* In pieces of `piece` elements through the handle's room; 0: whole, from memory of our own. */
static ingot_linalg_found put(ingot_linalg *l, const ingot_linalg_input *in, const char *stored, int64_t piece,
                              ingot_linalg_array *to)
{
  ingot_linalg_found found;
  int64_t            count = ingot_linalg_input_count(in);
  size_t             size = ingot_dtype_size(in->dtype);
  if (piece == 0) {
    check_ok(ingot_linalg_load(l, in, stored, to, &found));
    return found;
  }
  check_ok(l->ops->begin(l, in, to));
  for (int64_t first = 0; first < count; first += piece) {
    int64_t n = count - first < piece ? count - first : piece;
    void   *room;
    check_ok(l->ops->room(l, &room));
    memcpy(room, stored + (size_t)first * size, (size_t)n * size);
    check_ok(l->ops->take(l, room, n));
  }
  check_ok(l->ops->end(l, &found));
  return found;
}

static void check_one(ingot_linalg *l, const ingot_linalg_input *in, int64_t piece)
{
  int64_t            m = in->rows, n = in->columns;
  bool               symmetric = in->form == INGOT_LINALG_PACKED || in->form == INGOT_LINALG_SYMMETRIC;
  char              *stored = make_input(in);
  ingot_linalg_array x = {0};
  check_ok(l->ops->alloc(l, m * n, &x));
  float *zero = get(l, m, n, &x, INGOT_LINALG_ROWS);
  for (int64_t e = 0; e < m * n; e++) assert_true(zero[e] == 0);
  ingot_linalg_found found = put(l, in, stored, piece, &x);
  assert_int_equal(found.n_nonfinite, 0);
  assert_int_equal(found.first_nonfinite, -1);
  assert_int_equal(found.asymmetric, -1);
  float *by_rows = get(l, m, n, &x, INGOT_LINALG_ROWS), *by_columns = get(l, m, n, &x, INGOT_LINALG_COLUMNS);
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++) {
      float expected = !symmetric ? value_at(i, j) : i == j ? value_at(i, i) : 0.5f * symmetric_at(i, j);
      if (by_rows[i * n + j] != expected || by_columns[j * m + i] != expected)
        fail_msg("form %d, %s, %lld x %lld, pieces of %lld: [%lld, %lld] is %g and %g, expected %g", (int)in->form,
                 ingot_dtype_name(in->dtype), (long long)m, (long long)n, (long long)piece, (long long)i, (long long)j,
                 (double)by_rows[i * n + j], (double)by_columns[j * m + i], (double)expected);
    }
  l->ops->free(l, &x);
  free(stored), free(zero), free(by_rows), free(by_columns);
}

void linalg_check_transfer(ingot_linalg *l)
{
  static const int64_t     sizes[][2] = {{1, 1}, {3, 5}, {127, 64}, {70, 129}, {1100, 1000}, {33, 2}};
  static const ingot_dtype dtypes[] = {INGOT_DTYPE_F32, INGOT_DTYPE_BF16, INGOT_DTYPE_F16, INGOT_DTYPE_F64};
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++)
      for (int form = INGOT_LINALG_ROWS; form <= INGOT_LINALG_SYMMETRIC; form++) {
        bool               symmetric = form >= INGOT_LINALG_PACKED;
        int64_t            n = sizes[s][1], m = symmetric ? n : sizes[s][0];
        ingot_linalg_input in = {.form = (ingot_linalg_form)form,
                                 .dtype = dtypes[d],
                                 .rows = m,
                                 .columns = n,
                                 .alpha = 0.5};
        if (m * n > 100000 && dtypes[d] != INGOT_DTYPE_F32 && dtypes[d] != INGOT_DTYPE_BF16) continue;
        check_one(l, &in, 0);
        check_one(l, &in, m * n > 7777 ? 77777 : 7);
      }
}

/* A diagonal of 4 and zeros beside it, stored in full. */
static void make_plain(float *v, int64_t n)
{
  memset(v, 0, (size_t)(n * n) * sizeof *v);
  for (int64_t i = 0; i < n; i++) v[i * n + i] = 4;
}

static void check_bad_values(ingot_linalg *l, float *v, int64_t n, ingot_linalg_array *x)
{
  ingot_linalg_input in = {.form = INGOT_LINALG_ROWS, .dtype = INGOT_DTYPE_F32, .rows = n, .columns = n};
  make_plain(v, n);
  v[5 * n + 3] = NAN;
  v[2 * n + 1] = -INFINITY;
  ingot_linalg_found found = put(l, &in, (const char *)v, 1000, x);
  assert_int_equal(found.n_nonfinite, 2);
  assert_int_equal(found.first_nonfinite, 2 * n + 1);
  assert_true(isinf(found.nonfinite));
  float *out = get(l, n, n, x, INGOT_LINALG_ROWS);
  assert_true(isnan(out[5 * n + 3]) && out[2 * n + 1] == -INFINITY);
  free(out);
  in.zero_nonfinite = true;
  found = put(l, &in, (const char *)v, 0, x);
  assert_int_equal(found.n_nonfinite, 2);
  out = get(l, n, n, x, INGOT_LINALG_ROWS);
  assert_true(out[5 * n + 3] == 0 && out[2 * n + 1] == 0 && out[0] == 4);
  free(out);
  in.form = INGOT_LINALG_COLUMNS;
  v[0] = NAN;
  found = put(l, &in, (const char *)v, 0, x);
  assert_int_equal(found.n_nonfinite, 3);
  assert_int_equal(found.first_nonfinite, 0);
  assert_true(isnan(found.nonfinite));
  in.form = INGOT_LINALG_PACKED;
  memset(v, 0, (size_t)(n * n) * sizeof *v);
  v[ingot_linalg_packed_count(n) - 1] = NAN;
  found = put(l, &in, (const char *)v, 0, x);
  assert_int_equal(found.first_nonfinite, ingot_linalg_packed_count(n) - 1);
}

static void check_asymmetric(ingot_linalg *l, float *v, int64_t n, ingot_linalg_array *x)
{
  ingot_linalg_input in = {.form = INGOT_LINALG_SYMMETRIC,
                           .dtype = INGOT_DTYPE_F32,
                           .rows = n,
                           .columns = n,
                           .alpha = 2};
  make_plain(v, n);
  v[70 * n + 2] = 0.003f; /* 4e-3 of the diagonal's 4 are rounding: averaged with the 0 above */
  ingot_linalg_found found = put(l, &in, (const char *)v, 0, x);
  assert_int_equal(found.asymmetric, -1);
  float *out = get(l, n, n, x, INGOT_LINALG_ROWS);
  assert_true(out[70 * n + 2] == 0.003f && out[2 * n + 70] == 0.003f && out[0] == 4);
  free(out);
  v[3 * n + 90] = 1;
  v[80 * n + 79] = 0.005f;
  found = put(l, &in, (const char *)v, 0, x);
  assert_int_equal(found.asymmetric, 80 * n + 79);
  v[8 * n + 7] = -1;
  found = put(l, &in, (const char *)v, 0, x);
  assert_int_equal(found.asymmetric, 8 * n + 7);
}

/* An input that ends half way leaves nothing behind; a taker's failure ends the result. */
static void check_dropped(ingot_linalg *l)
{
  ingot_linalg_input in = {.form = INGOT_LINALG_ROWS, .dtype = INGOT_DTYPE_F32, .rows = 1100, .columns = 1000};
  ingot_linalg_array x = {0};
  void              *room;
  float             *to = malloc((size_t)(1100 * 1000) * sizeof *to);
  taken              t = {.to = to, .fails_at = INGOT_TILE};
  assert_non_null(to);
  check_ok(l->ops->alloc(l, in.rows * in.columns, &x));
  check_ok(l->ops->begin(l, &in, &x));
  for (int k = 0; k < 6; k++) {
    check_ok(l->ops->room(l, &room));
    for (int i = 0; i < 1000; i++) ((float *)room)[i] = NAN;
    check_ok(l->ops->take(l, room, 1000));
  }
  check_fails(l->ops->give(l, in.rows, in.columns, &x, INGOT_LINALG_ROWS, take, &t), INGOT_ERR_IO, "the disk is full");
  assert_int_equal(t.n, INGOT_TILE);
  check_one(l, &in, 77777);
  l->ops->free(l, &x);
  l->ops->free(l, &x); /* an empty one */
  free(to);
}

void linalg_check_found(ingot_linalg *l)
{
  enum { N = 100 };
  float             *v = malloc((size_t)N * N * sizeof *v);
  ingot_linalg_array x = {0};
  assert_non_null(v);
  check_ok(l->ops->alloc(l, (int64_t)N * N, &x));
  check_bad_values(l, v, N, &x);
  check_asymmetric(l, v, N, &x);
  l->ops->free(l, &x);
  free(v);
  check_dropped(l);
}

/* n on the diagonal and values of at most 0.5 beside it, packed: positive definite. */
static float *make_definite(int64_t n)
{
  float *v = malloc((size_t)ingot_linalg_packed_count(n) * sizeof *v);
  assert_non_null(v);
  for (int64_t i = 0, e = 0; i < n; i++)
    for (int64_t j = i; j < n; j++) v[e++] = i == j ? (float)n : value_at(i, j) / 32;
  return v;
}

static void solve_one(ingot_linalg *l, int64_t m, int64_t n)
{
  const ingot_linalg_ops *ops = l->ops;
  ingot_linalg_input      gram = {.form = INGOT_LINALG_PACKED,
                                  .dtype = INGOT_DTYPE_F32,
                                  .rows = n,
                                  .columns = n,
                                  .alpha = 1};
  ingot_linalg_input      right = {.form = INGOT_LINALG_ROWS, .dtype = INGOT_DTYPE_F32, .rows = m, .columns = n};
  ingot_linalg_array      s = {0}, x = {0}, r = {0};
  ingot_linalg_found      found;
  float                  *g = make_definite(n);
  char                   *w = make_input(&right);
  double                  ridge = 0, dot;
  check_ok(ops->alloc(l, n * n, &s));
  check_ok(ops->alloc(l, m * n, &x));
  check_ok(ops->alloc(l, m * n, &r));
  check_ok(ingot_linalg_load(l, &gram, g, &s, &found));
  check_ok(ingot_linalg_load(l, &right, w, &x, &found));
  check_ok(ops->copy(l, &x, m * n, &r));
  check_ok(ingot_linalg_factor_ridge(l, "s", n, &s, &ridge));
  assert_true(ridge == 0);
  check_ok(ops->solve(l, m, n, &s, &x));
  check_ok(ingot_linalg_load(l, &gram, g, &s, &found));
  check_ok(ops->multiply(l, m, n, n, -1, &x, &s, 1, &r)); /* R - X S */
  check_ok(ops->dot(l, m * n, &r, &r, &dot));
  assert_true(dot <= 1e-22 * (double)(m * n) * 256);
  ops->free(l, &s), ops->free(l, &x), ops->free(l, &r);
  free(g), free(w);
}

static void check_indefinite(ingot_linalg *l, int64_t n, int64_t at)
{
  ingot_linalg_input in = {.form = INGOT_LINALG_SYMMETRIC,
                           .dtype = INGOT_DTYPE_F32,
                           .rows = n,
                           .columns = n,
                           .alpha = 1};
  ingot_linalg_array s = {0};
  ingot_linalg_found found;
  int64_t            pivot;
  double             ridge = 0;
  float             *v = malloc((size_t)(n * n) * sizeof *v);
  assert_non_null(v);
  make_plain(v, n);
  v[at * n + at] = -100000;
  check_ok(l->ops->alloc(l, n * n, &s));
  check_ok(ingot_linalg_load(l, &in, v, &s, &found));
  check_ok(l->ops->factor(l, n, &s, &pivot));
  assert_int_equal(pivot, at + 1);
  check_ok(ingot_linalg_load(l, &in, v, &s, &found));
  check_fails(ingot_linalg_factor_ridge(l, "layer 3", n, &s, &ridge), INGOT_ERR_NUMERIC,
              "layer 3: the sum of Gram matrices");
  assert_non_null(strstr(ingot_error_message(), "is not positive definite"));
  make_plain(v, n); /* the handle goes on; a null row takes the first ridge: 1e-6 of the mean diagonal */
  v[at * n + at] = 0;
  ridge = 0;
  check_ok(ingot_linalg_load(l, &in, v, &s, &found));
  check_ok(ingot_linalg_factor_ridge(l, "layer 3", n, &s, &ridge));
  assert_true(ridge == 1e-6);
  l->ops->free(l, &s);
  free(v);
}

void linalg_check_solve(ingot_linalg *l)
{
  static const int64_t sizes[][2] = {{64, 1000}, {1, 1}, {3, 3}, {40, 127}, {127, 40}, {300, 513}};
  for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) solve_one(l, sizes[k][0], sizes[k][1]);
  check_indefinite(l, 127, 100);
  check_indefinite(l, 3, 0);
  check_indefinite(l, 1000, 999);
  solve_one(l, 40, 127);
}
