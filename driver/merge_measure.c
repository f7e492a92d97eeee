#include "driver/merge_measure.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "driver/layers.h"
#include "kernels/convert.h"

enum { PIECE = 1 << 14 }; /* elements read at a time, of every model */

typedef struct reader {
  unsigned char *raw;          /* PIECE elements of the widest dtype */
  float         *wide;         /* [PIECE] */
  double        *delta;        /* [n_model][PIECE] expert - base */
  double        *base, *moved; /* [PIECE]: the base; the output - base */
} reader;

static ingot_status read_piece(const ingot_source *src, int tensor, int64_t first, int64_t n, reader *r, double *out)
{
  const ingot_tensor_info *t = ingot_source_tensor(src, tensor);
  size_t                   size = ingot_dtype_size(t->dtype);
  ingot_status             st = ingot_source_read(src, tensor, (uint64_t)first * size, (size_t)n * size, r->raw);
  if (st != INGOT_OK) return st;
  if (t->dtype == INGOT_DTYPE_F64) {
    memcpy(out, r->raw, (size_t)n * sizeof(double));
    return INGOT_OK;
  }
  ingot_widen(t->dtype, r->raw, r->wide, n);
  for (int64_t i = 0; i < n; i++) out[i] = (double)r->wide[i];
  return INGOT_OK;
}

static void add_piece(const reader *r, int64_t n, ingot_measure *m, ingot_measure_row *row)
{
  for (int64_t i = 0; i < n; i++) {
    bool up = false, down = false;
    for (int k = 0; k < m->n_model; k++) {
      double d = r->delta[(size_t)k * PIECE + (size_t)i];
      row->square[k] += d * d;
      row->mass[k] += fabs(d);
      if (r->moved[i] != 0.0) row->kept[k] += fabs(d);
      up = up || d > 0.0;
      down = down || d < 0.0;
    }
    row->n_active += up || down;
    row->n_conflict += up && down;
  }
  for (int a = 0; a < m->n_model; a++)
    for (int b = a; b < m->n_model; b++) {
      const double *x = r->delta + (size_t)a * PIECE, *y = r->delta + (size_t)b * PIECE;
      double        sum = 0.0;
      for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
      m->dot[a * m->n_model + b] += sum;
    }
}

static ingot_status add_tensor(const ingot_source *base, ingot_source *const *experts, const ingot_source *output,
                               const int *index, reader *r, ingot_measure *m, ingot_measure_row *row)
{
  ingot_status st = INGOT_OK;
  int64_t      n_elem = ingot_source_tensor(base, index[0])->n_elem;
  for (int64_t first = 0; first < n_elem; first += PIECE) {
    int64_t n = n_elem - first < PIECE ? n_elem - first : PIECE;
    INGOT_TRY(read_piece(base, index[0], first, n, r, r->base));
    INGOT_TRY(read_piece(output, index[1], first, n, r, r->moved));
    for (int64_t i = 0; i < n; i++) r->moved[i] -= r->base[i];
    for (int k = 0; k < m->n_model; k++) {
      double *delta = r->delta + (size_t)k * PIECE;
      INGOT_TRY(read_piece(experts[k], index[2 + k], first, n, r, delta));
      for (int64_t i = 0; i < n; i++) delta[i] -= r->base[i];
    }
    add_piece(r, n, m, row);
  }
  row->n_elem += n_elem;
done:
  return st;
}

/* The row that a tensor belongs to: 0 before the layers, 1 + i in layer i, the last after them. */
static int row_of(const char *name, int n_row)
{
  ingot_layer_name layer;
  if (ingot_layer_parse(name, &layer) && layer.index < n_row - 2) return 1 + (int)layer.index;
  return ingot_layer_is_before(name) ? 0 : n_row - 1;
}

static ingot_status make_rows(const ingot_source *output, ingot_measure *m)
{
  ingot_status st = INGOT_OK;
  int64_t      most = -1;
  for (int i = 0; i < ingot_source_count(output); i++) {
    ingot_layer_name layer;
    if (ingot_layer_parse(ingot_source_tensor(output, i)->name, &layer) && layer.index > most && layer.index < 100000)
      most = layer.index;
  }
  m->n_row = (int)most + 3;
  m->rows = calloc((size_t)m->n_row, sizeof *m->rows);
  INGOT_CHECK(m->rows, INGOT_ERR_NOMEM, "no memory for %d layers", m->n_row);
  for (int i = 0; i < m->n_row; i++) {
    ingot_measure_row *row = &m->rows[i];
    if (i == 0) snprintf(row->name, sizeof row->name, "embeddings");
    else if (i == m->n_row - 1) snprintf(row->name, sizeof row->name, "head and others");
    else snprintf(row->name, sizeof row->name, "layer %d", i - 1);
    row->square = calloc(3 * (size_t)m->n_model, sizeof(double));
    INGOT_CHECK(row->square, INGOT_ERR_NOMEM, "no memory for %d layers", m->n_row);
    row->mass = row->square + m->n_model;
    row->kept = row->mass + m->n_model;
  }
done:
  return st;
}

/* Find a tensor everywhere; false when it is to be left out. */
static bool find_everywhere(const ingot_source *base, ingot_source *const *experts, int n_model,
                            const ingot_tensor_info *t, int *index)
{
  for (int k = -1; k < n_model; k++) {
    const ingot_source *src = k < 0 ? base : experts[k];
    int                 at = ingot_source_find(src, t->name);
    if (at < 0 || !ingot_dtype_is_float(ingot_source_tensor(src, at)->dtype) ||
        !ingot_shape_equal(&ingot_source_tensor(src, at)->shape, &t->shape))
      return false;
    index[k < 0 ? 0 : 2 + k] = at;
  }
  return ingot_dtype_is_float(t->dtype);
}

ingot_status ingot_measure_make(const ingot_source *base, ingot_source *const *experts, int n_model,
                                const ingot_source *output, ingot_measure *out)
{
  ingot_status st = INGOT_OK;
  int          index[INGOT_MEASURE_MODELS + 2];
  size_t       n = (size_t)n_model;
  *out = (ingot_measure){.n_model = n_model};
  reader r = {malloc(PIECE * sizeof(double)), malloc(PIECE * sizeof(float)), malloc(n * PIECE * sizeof(double)),
              malloc(PIECE * sizeof(double)), malloc(PIECE * sizeof(double))};
  INGOT_ASSERT(n_model > 0 && n_model <= INGOT_MEASURE_MODELS);
  out->dot = calloc(n * n, sizeof(double));
  INGOT_CHECK(r.raw && r.wide && r.delta && r.base && r.moved && out->dot, INGOT_ERR_NOMEM,
              "no memory to compare %d models", n_model);
  INGOT_TRY(make_rows(output, out));
  for (int i = 0; i < ingot_source_count(output); i++) {
    const ingot_tensor_info *t = ingot_source_tensor(output, i);
    index[1] = i;
    if (!find_everywhere(base, experts, n_model, t, index)) {
      out->n_skipped++;
      continue;
    }
    INGOT_TRY(add_tensor(base, experts, output, index, &r, out, &out->rows[row_of(t->name, out->n_row)]));
  }
  for (int a = 0; a < n_model; a++)
    for (int b = 0; b < a; b++) out->dot[a * n_model + b] = out->dot[b * n_model + a];
done:
  free(r.raw);
  free(r.wide);
  free(r.delta);
  free(r.base);
  free(r.moved);
  return st;
}

void ingot_measure_release(ingot_measure *measure)
{
  for (int i = 0; measure->rows && i < measure->n_row; i++) free(measure->rows[i].square);
  free(measure->rows);
  free(measure->dot);
  *measure = (ingot_measure){0};
}
