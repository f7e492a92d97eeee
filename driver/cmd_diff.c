/* ingot diff A B: how two models differ, tensor by tensor, reading both once in pieces. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "driver/commands.h"
#include "io/json.h"
#include "io/source.h"
#include "kernels/convert.h"

enum { PIECE = 1 << 16 }; /* elements read at a time */

typedef enum difference_kind {
  DIFFERENCE_NONE, /* same dtype, shape and bytes */
  DIFFERENCE_VALUES,
  DIFFERENCE_SHAPE,
  DIFFERENCE_DTYPE,
  DIFFERENCE_ONLY_A,
  DIFFERENCE_ONLY_B,
} difference_kind;

typedef struct difference {
  difference_kind kind;
  const char     *name;
  int             a, b; /* tensors of the two sources; -1 when absent */
  int64_t         n_elem;
  int64_t         n_differing; /* elements whose bits differ */
  int64_t         n_nonfinite; /* of these, the ones whose difference is no finite number */
  double          max, mean;   /* absolute difference; floats only; over all pairs with a finite difference */
} difference;

typedef struct buffers {
  unsigned char raw[2][PIECE * 8];
  float         wide[2][PIECE];
  double        value[2][PIECE];
} buffers;

/* Values as doubles: float64 as it is stored, the others through float32, which holds them exactly. */
static void to_double(ingot_dtype dtype, buffers *work, int side, int64_t n)
{
  if (dtype == INGOT_DTYPE_F64) {
    memcpy(work->value[side], work->raw[side], (size_t)n * sizeof(double));
    return;
  }
  ingot_widen(dtype, work->raw[side], work->wide[side], n);
  for (int64_t i = 0; i < n; i++) work->value[side][i] = (double)work->wide[side][i];
}

static void compare_piece(ingot_dtype dtype, buffers *work, int64_t n, difference *d, double *sum)
{
  size_t size = ingot_dtype_size(dtype);
  if (memcmp(work->raw[0], work->raw[1], (size_t)n * size) == 0) return;
  bool is_float = ingot_dtype_is_float(dtype);
  if (is_float) {
    to_double(dtype, work, 0, n);
    to_double(dtype, work, 1, n);
  }
  for (int64_t i = 0; i < n; i++) {
    if (memcmp(work->raw[0] + (size_t)i * size, work->raw[1] + (size_t)i * size, size) == 0) continue;
    d->n_differing++;
    if (!is_float) continue;
    double apart = fabs(work->value[0][i] - work->value[1][i]);
    if (!isfinite(apart)) d->n_nonfinite++;
    else {
      *sum += apart;
      if (apart > d->max) d->max = apart;
    }
  }
}

static ingot_status compare_tensor(const ingot_source *a, const ingot_source *b, buffers *work, difference *d)
{
  ingot_status             st = INGOT_OK;
  const ingot_tensor_info *x = ingot_source_tensor(a, d->a), *y = ingot_source_tensor(b, d->b);
  double                   sum = 0.0;
  d->n_elem = x->n_elem;
  if (x->dtype != y->dtype) d->kind = DIFFERENCE_DTYPE;
  else if (!ingot_shape_equal(&x->shape, &y->shape)) d->kind = DIFFERENCE_SHAPE;
  if (d->kind != DIFFERENCE_NONE) return INGOT_OK;
  size_t size = ingot_dtype_size(x->dtype);
  for (int64_t first = 0; first < x->n_elem; first += PIECE) {
    int64_t  n = x->n_elem - first < PIECE ? x->n_elem - first : PIECE;
    uint64_t at = (uint64_t)first * size;
    INGOT_TRY(ingot_source_read(a, d->a, at, (size_t)n * size, work->raw[0]));
    INGOT_TRY(ingot_source_read(b, d->b, at, (size_t)n * size, work->raw[1]));
    compare_piece(x->dtype, work, n, d, &sum);
  }
  int64_t n_finite = x->n_elem - d->n_nonfinite;
  d->mean = n_finite > 0 ? sum / (double)n_finite : 0.0;
  if (d->n_differing) d->kind = DIFFERENCE_VALUES;
done:
  return st;
}

static ingot_status text_line(const ingot_source *a, const ingot_source *b, const difference *d, ingot_text *out)
{
  char                     left[INGOT_SHAPE_TEXT], right[INGOT_SHAPE_TEXT];
  const ingot_tensor_info *x = d->a >= 0 ? ingot_source_tensor(a, d->a) : NULL;
  const ingot_tensor_info *y = d->b >= 0 ? ingot_source_tensor(b, d->b) : NULL;
  switch (d->kind) {
  case DIFFERENCE_ONLY_A: return ingot_text_printf(out, "%s: only in %s\n", d->name, ingot_source_path(a));
  case DIFFERENCE_ONLY_B: return ingot_text_printf(out, "%s: only in %s\n", d->name, ingot_source_path(b));
  case DIFFERENCE_DTYPE:
    return ingot_text_printf(out, "%s: dtype %s and %s\n", d->name, ingot_dtype_name(x->dtype),
                             ingot_dtype_name(y->dtype));
  case DIFFERENCE_SHAPE:
    return ingot_text_printf(out, "%s: shape %s and %s\n", d->name, ingot_shape_text(&x->shape, left),
                             ingot_shape_text(&y->shape, right));
  case DIFFERENCE_NONE: return ingot_text_printf(out, "%s: identical\n", d->name);
  case DIFFERENCE_VALUES: break;
  }
  ingot_status st =
      ingot_text_printf(out, "%s: %" PRId64 " of %" PRId64 " elements differ", d->name, d->n_differing, d->n_elem);
  if (st == INGOT_OK && ingot_dtype_is_float(x->dtype))
    st = ingot_text_printf(out, ", max %.6g, mean %.6g", d->max, d->mean);
  if (st == INGOT_OK && d->n_nonfinite) st = ingot_text_printf(out, ", %" PRId64 " by NaN or infinity", d->n_nonfinite);
  return st == INGOT_OK ? ingot_text_printf(out, "\n") : st;
}

static ingot_status json_line(const ingot_source *a, const ingot_source *b, const difference *d, ingot_text *out)
{
  static const char *const kinds[] = {"identical", "values", "shape", "dtype", "only in a", "only in b"};
  ingot_status             st = INGOT_OK;
  char                     shape[INGOT_SHAPE_TEXT];
  INGOT_TRY(ingot_text_printf(out, "{\"name\": "));
  INGOT_TRY(ingot_json_append_string(out, d->name));
  INGOT_TRY(ingot_text_printf(out, ", \"difference\": \"%s\"", kinds[d->kind]));
  for (int side = 0; side < 2; side++) {
    int tensor = side ? d->b : d->a;
    if (tensor < 0) continue;
    const ingot_tensor_info *t = ingot_source_tensor(side ? b : a, tensor);
    INGOT_TRY(ingot_text_printf(out, ", \"dtype_%c\": \"%s\", \"shape_%c\": %s", "ab"[side], ingot_dtype_name(t->dtype),
                                "ab"[side], ingot_shape_text(&t->shape, shape)));
  }
  if (d->kind == DIFFERENCE_NONE || d->kind == DIFFERENCE_VALUES) {
    INGOT_TRY(
        ingot_text_printf(out, ", \"elements\": %" PRId64 ", \"differing\": %" PRId64, d->n_elem, d->n_differing));
    if (ingot_dtype_is_float(ingot_source_tensor(a, d->a)->dtype))
      INGOT_TRY(ingot_text_printf(out, ", \"nonfinite\": %" PRId64 ", \"max\": %.17g, \"mean\": %.17g", d->n_nonfinite,
                                  d->max, d->mean));
  }
  INGOT_TRY(ingot_text_printf(out, "}"));
done:
  return st;
}

typedef struct report {
  bool json, quiet, all;
  int  n_tensor, n_differing, n_line;
} report;

/* Add one tensor to the report, and print it at once: a run over a large model shows where it is. */
static ingot_status report_difference(report *r, const ingot_source *a, const ingot_source *b, const difference *d)
{
  ingot_status st = INGOT_OK;
  ingot_text   out = {0};
  r->n_tensor++;
  if (d->kind != DIFFERENCE_NONE) r->n_differing++;
  if (r->quiet || (d->kind == DIFFERENCE_NONE && !r->all && !r->json)) return INGOT_OK;
  if (r->json) {
    INGOT_TRY(ingot_text_printf(&out, r->n_line++ ? ",\n  " : "\n  "));
    INGOT_TRY(json_line(a, b, d, &out));
  } else INGOT_TRY(text_line(a, b, d, &out));
  fputs(ingot_text_string(&out), stdout);
  fflush(stdout);
done:
  ingot_text_release(&out);
  return st;
}

static ingot_status compare_all(const ingot_source *a, const ingot_source *b, report *r)
{
  ingot_status st = INGOT_OK;
  buffers     *work = malloc(sizeof *work);
  INGOT_CHECK(work, INGOT_ERR_NOMEM, "no memory for %zu bytes of buffers", sizeof *work);
  for (int i = 0; i < ingot_source_count(a); i++) {
    const char *name = ingot_source_tensor(a, i)->name;
    difference  d = {.name = name, .a = i, .b = ingot_source_find(b, name)};
    if (d.b < 0) d.kind = DIFFERENCE_ONLY_A;
    else INGOT_TRY(compare_tensor(a, b, work, &d));
    INGOT_TRY(report_difference(r, a, b, &d));
  }
  for (int i = 0; i < ingot_source_count(b); i++) {
    const char *name = ingot_source_tensor(b, i)->name;
    difference  d = {.name = name, .kind = DIFFERENCE_ONLY_B, .a = -1, .b = i};
    if (ingot_source_find(a, name) < 0) INGOT_TRY(report_difference(r, a, b, &d));
  }
done:
  free(work);
  return st;
}

static ingot_status begin_json(const ingot_source *a, const ingot_source *b)
{
  ingot_status st = INGOT_OK;
  ingot_text   out = {0};
  INGOT_TRY(ingot_text_printf(&out, "{\"a\": "));
  INGOT_TRY(ingot_json_append_string(&out, ingot_source_path(a)));
  INGOT_TRY(ingot_text_printf(&out, ",\n \"b\": "));
  INGOT_TRY(ingot_json_append_string(&out, ingot_source_path(b)));
  INGOT_TRY(ingot_text_printf(&out, ",\n \"tensors\": ["));
  fputs(ingot_text_string(&out), stdout);
done:
  ingot_text_release(&out);
  return st;
}

static ingot_status run_diff(const ingot_command_context *context, const ingot_command_line *line)
{
  ingot_status  st = INGOT_OK;
  ingot_source *a = NULL, *b = NULL;
  report        r = {.json = ingot_line_has(line, "--json"),
                     .quiet = ingot_line_has(line, "--quiet"),
                     .all = ingot_line_has(line, "--all")};
  (void)context;
  INGOT_CHECK(!r.json || !r.quiet, INGOT_ERR_USAGE, "diff: --json and --quiet do not go together");
  INGOT_TRY(ingot_source_open(line->args[0], &a));
  INGOT_TRY(ingot_source_open(line->args[1], &b));
  if (r.json) INGOT_TRY(begin_json(a, b));
  INGOT_TRY(compare_all(a, b, &r));
  if (r.json)
    printf("],\n \"n_tensor\": %d,\n \"n_differing\": %d,\n \"identical\": %s}\n", r.n_tensor, r.n_differing,
           r.n_differing ? "false" : "true");
  else if (r.n_differing) printf("%d of %d tensors differ\n", r.n_differing, r.n_tensor);
  else printf("identical\n");
  INGOT_CHECK(!r.n_differing, INGOT_ERR_MISMATCH, "%s and %s: %d of %d tensors differ", line->args[0], line->args[1],
              r.n_differing, r.n_tensor);
done:
  ingot_source_close(&a);
  ingot_source_close(&b);
  return st;
}

static const ingot_option options[] = {
    {"--json", NULL, "print JSON instead of text"},
    {"--quiet", NULL, "print the last line only"},
    {"--all", NULL, "print identical tensors too"},
    {NULL, NULL, NULL},
};

const ingot_command ingot_command_diff = {
    .name = "diff",
    .arguments = "A B",
    .summary = "compare two models tensor by tensor; exit code 3 when they differ",
    .options = options,
    .min_args = 2,
    .max_args = 2,
    .run = run_diff,
};
