#include "workers/matrix_feed.h"

#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/fault.h"
#include "kernels/convert.h"

/* Elements first .. first + n of an input, widened into reader->wide. */
static ingot_status read_elements(ingot_matrix_reader *r, int input, int64_t first, int64_t n)
{
  const ingot_merge_tensor *t = r->tensor;
  const ingot_source       *source = r->plan->sources[t->source[input]];
  ingot_dtype               dtype = ingot_source_tensor(source, t->tensor[input])->dtype;
  size_t                    size = ingot_dtype_size(dtype);
  double                    start = ingot_clock_s();
  ingot_status              st = ingot_fault_check(INGOT_FAULT_READ);
  if (st == INGOT_OK) st = ingot_source_read(source, t->tensor[input], (uint64_t)first * size, (size_t)n * size, r->raw);
  r->timing->read_s += ingot_clock_s() - start;
  if (st != INGOT_OK) return ingot_wrap(st, "%s", r->plan->source_names[t->source[input]]);
  r->timing->bytes_read += (uint64_t)n * size;
  ingot_widen(dtype, r->raw, r->wide, n);
  return INGOT_OK;
}

/* Bad values among n that have been read: counted once an input, replaced, or an error, as the step says. */
static ingot_status treat_nonfinite(ingot_matrix_reader *r, int input, int64_t first, int64_t n)
{
  int     source = r->tensor->source[input];
  int64_t count = 0, at = -1;
  for (int64_t i = 0; i < n; i++) {
    if (isfinite(r->wide[i])) continue;
    if (count++ == 0) at = i;
  }
  if (count == 0) return INGOT_OK;
  bool is_nan = isnan(r->wide[at]);
  if (r->plan->nonfinite == INGOT_NONFINITE_FAIL) {
    char where[INGOT_SHAPE_TEXT];
    return ingot_fail(INGOT_ERR_NUMERIC,
                      "%s: values are not finite; the first is %s in %s%s\n(nonfinite = \"zero\" or \"keep\" merges all the "
                      "same)",
                      r->plan->source_names[source], is_nan ? "NaN" : "infinite", r->tensor->view.name,
                      ingot_shape_position(&r->tensor->view.shape, first + at, where));
  }
  if (!r->counted[input]) {
    ingot_nonfinite_report *report = &r->nonfinite[source];
    report->count += (uint64_t)count;
    if (report->tensor < 0 || r->tensor_index < report->tensor) {
      report->tensor = r->tensor_index;
      report->element = first + at;
      report->is_nan = is_nan;
    }
  }
  if (r->plan->nonfinite == INGOT_NONFINITE_ZERO) ingot_replace_nonfinite(r->wide, NULL, n);
  return INGOT_OK;
}

ingot_status ingot_matrix_read_weight(void *context, int input, float *weight)
{
  ingot_matrix_reader *r = context;
  ingot_status         st = INGOT_OK;
  int64_t              n_elem = r->n_out * r->n_in;
  for (int64_t first = 0; first < n_elem; first += INGOT_TILE) {
    int64_t n = n_elem - first < INGOT_TILE ? n_elem - first : INGOT_TILE;
    INGOT_TRY(read_elements(r, input, first, n));
    INGOT_TRY(treat_nonfinite(r, input, first, n));
    if (!r->tensor->view.transposed)
      for (int64_t i = 0; i < n; i++) weight[first + i] = r->wide[i];
    else
      for (int64_t i = 0, in = first / r->n_out, out = first % r->n_out; i < n; i++) {
        weight[out * r->n_in + in] = r->wide[i];
        if (++out == r->n_out) out = 0, in++;
      }
  }
  r->counted[input] = true;
done:
  return st;
}

/* Where element (i, j), i <= j, of a packed matrix lies. */
static int64_t packed_index(int64_t n, int64_t i, int64_t j)
{
  return i * n - i * (i - 1) / 2 + (j - i);
}

static ingot_status bad_gram(const ingot_matrix_reader *r, int input, const char *what, int64_t i, int64_t j)
{
  const ingot_source *source = r->plan->sources[r->tensor->source[input]];
  return ingot_fail(INGOT_ERR_NUMERIC, "%s: %s: %s at [%lld, %lld]", r->plan->source_names[r->tensor->source[input]],
                    ingot_source_tensor(source, r->tensor->tensor[input])->name, what, (long long)i, (long long)j);
}

static ingot_status read_packed(ingot_matrix_reader *r, int input, int64_t n, float *packed)
{
  ingot_status st = INGOT_OK;
  int64_t      count = ingot_linalg_packed_count(n);
  for (int64_t first = 0; first < count; first += INGOT_TILE) {
    int64_t m = count - first < INGOT_TILE ? count - first : INGOT_TILE;
    INGOT_TRY(read_elements(r, input, first, m));
    for (int64_t i = 0; i < m; i++) packed[first + i] = r->wide[i];
  }
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = i; j < n; j++)
      if (!isfinite(packed[packed_index(n, i, j)])) INGOT_TRY(bad_gram(r, input, "not finite", i, j));
done:
  return st;
}

/* One element of a full matrix: the upper triangle is stored, the lower one compared and averaged. */
static ingot_status take_full(const ingot_matrix_reader *r, int input, int64_t n, int64_t i, int64_t j, float value,
                              float *packed)
{
  const float tolerance = 1e-3f;
  if (!isfinite(value)) return bad_gram(r, input, "not finite", i, j);
  if (j >= i) {
    packed[packed_index(n, i, j)] = value;
    return INGOT_OK;
  }
  float *upper = &packed[packed_index(n, j, i)], larger = fmaxf(fabsf(*upper), fabsf(value));
  if (fabsf(*upper - value) > tolerance * fmaxf(larger, packed[packed_index(n, j, j)]))
    return bad_gram(r, input, "not symmetric", i, j);
  *upper = 0.5f * *upper + 0.5f * value;
  return INGOT_OK;
}

ingot_status ingot_matrix_read_gram(void *context, int k, float *packed)
{
  ingot_matrix_reader       *r = context;
  const ingot_method_tensor *v = &r->tensor->view;
  ingot_status               st = INGOT_OK;
  int                        input = v->n_input - v->n_statistic + k;
  const ingot_source        *source = r->plan->sources[r->tensor->source[input]];
  int64_t                    n = k < v->n_model ? r->n_in : r->n_out;
  if (ingot_source_tensor(source, r->tensor->tensor[input])->shape.n_dim == 1) return read_packed(r, input, n, packed);
  for (int64_t first = 0; first < n * n; first += INGOT_TILE) {
    int64_t m = n * n - first < INGOT_TILE ? n * n - first : INGOT_TILE;
    INGOT_TRY(read_elements(r, input, first, m));
    for (int64_t e = 0, i = first / n, j = first % n; e < m; e++) {
      INGOT_TRY(take_full(r, input, n, i, j, r->wide[e], packed));
      if (++j == n) j = 0, i++;
    }
  }
done:
  return st;
}
