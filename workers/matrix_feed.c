#include "workers/matrix_feed.h"

#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/fault.h"
#include "kernels/linalg/input.h"

/* All elements of an input, as they are stored, tile by tile. */
static ingot_status read_elements(ingot_matrix_reader *r, int input, ingot_linalg_input *how, ingot_linalg *l,
                                  ingot_linalg_array *to, ingot_linalg_found *found)
{
  const ingot_merge_tensor *t = r->tensor;
  const ingot_source       *source = r->plan->sources[t->source[input]];
  ingot_status              st = INGOT_OK;
  void                     *room;
  how->dtype = ingot_source_tensor(source, t->tensor[input])->dtype;
  size_t  size = ingot_dtype_size(how->dtype);
  int64_t count = ingot_linalg_input_count(how);
  INGOT_TRY(l->ops->begin(l, how, to));
  for (int64_t first = 0; first < count; first += INGOT_TILE) {
    int64_t n = count - first < INGOT_TILE ? count - first : INGOT_TILE;
    INGOT_TRY(l->ops->room(l, &room));
    double start = ingot_clock_s();
    st = ingot_fault_check(INGOT_FAULT_READ);
    if (st == INGOT_OK)
      st = ingot_source_read(source, t->tensor[input], (uint64_t)first * size, (size_t)n * size, room);
    r->timing->read_s += ingot_clock_s() - start;
    INGOT_TRY(ingot_wrap(st, "%s", r->plan->source_names[t->source[input]]));
    r->timing->bytes_read += (uint64_t)n * size;
    INGOT_TRY(l->ops->take(l, room, n));
  }
  INGOT_TRY(l->ops->end(l, found));
done:
  return st;
}

/* Bad values in a weight: counted once an input, or an error, as the step says. */
static ingot_status treat_nonfinite(ingot_matrix_reader *r, int input, const ingot_linalg_found *found)
{
  int  source = r->tensor->source[input];
  bool is_nan = isnan(found->nonfinite), counted = r->counted[input];
  r->counted[input] = true;
  if (found->n_nonfinite == 0) return INGOT_OK;
  if (r->plan->nonfinite == INGOT_NONFINITE_FAIL) {
    char where[INGOT_SHAPE_TEXT];
    return ingot_fail(
        INGOT_ERR_NUMERIC,
        "%s: values are not finite; the first is %s in %s%s\n(nonfinite = \"zero\" or \"keep\" merges all the "
        "same)",
        r->plan->source_names[source], is_nan ? "NaN" : "infinite", r->tensor->view.name,
        ingot_shape_position(&r->tensor->view.shape, found->first_nonfinite, where));
  }
  if (counted) return INGOT_OK;
  ingot_bad_report *report = &r->nonfinite[source];
  report->count += (uint64_t)found->n_nonfinite;
  if (report->tensor < 0 || r->tensor_index < report->tensor) {
    report->tensor = r->tensor_index;
    report->element = found->first_nonfinite;
    report->is_nan = is_nan;
  }
  return INGOT_OK;
}

ingot_status ingot_matrix_read_weight(void *context, int input, ingot_linalg *l, ingot_linalg_array *to)
{
  ingot_matrix_reader *r = context;
  ingot_linalg_input   how = {.form = r->tensor->view.transposed ? INGOT_LINALG_COLUMNS : INGOT_LINALG_ROWS,
                              .rows = r->n_out,
                              .columns = r->n_in,
                              .zero_nonfinite = r->plan->nonfinite == INGOT_NONFINITE_ZERO};
  ingot_linalg_found   found;
  ingot_status         st = read_elements(r, input, &how, l, to, &found);
  return st == INGOT_OK ? treat_nonfinite(r, input, &found) : st;
}

static ingot_status bad_gram(const ingot_matrix_reader *r, int input, const char *what, int64_t i, int64_t j)
{
  const ingot_source *source = r->plan->sources[r->tensor->source[input]];
  return ingot_fail(INGOT_ERR_NUMERIC, "%s: %s: %s at [%lld, %lld]", r->plan->source_names[r->tensor->source[input]],
                    ingot_source_tensor(source, r->tensor->tensor[input])->name, what, (long long)i, (long long)j);
}

ingot_status ingot_matrix_read_gram(void *context, int k, double alpha, ingot_linalg *l, ingot_linalg_array *to)
{
  ingot_matrix_reader       *r = context;
  const ingot_method_tensor *v = &r->tensor->view;
  int                        input = v->n_input - v->n_statistic + k;
  const ingot_source        *source = r->plan->sources[r->tensor->source[input]];
  bool                       packed = ingot_source_tensor(source, r->tensor->tensor[input])->shape.n_dim == 1;
  int64_t                    n = k < v->n_model ? r->n_in : r->n_out;
  ingot_linalg_input         how = {.form = packed ? INGOT_LINALG_PACKED : INGOT_LINALG_SYMMETRIC,
                                    .rows = n,
                                    .columns = n,
                                    .alpha = alpha};
  ingot_linalg_found         found;
  ingot_status               st = read_elements(r, input, &how, l, to, &found);
  if (st != INGOT_OK) return st;
  int64_t at = found.first_nonfinite;
  if (at >= 0 && packed) {
    int64_t i = ingot_packed_row(n, at);
    return bad_gram(r, input, "not finite", i, i + (at - ingot_packed_row_start(n, i)));
  }
  if (at >= 0) return bad_gram(r, input, "not finite", at / n, at % n);
  if (found.asymmetric >= 0) return bad_gram(r, input, "not symmetric", found.asymmetric / n, found.asymmetric % n);
  return INGOT_OK;
}
