/* Matrices into and out of the CPU's arrays: each element is placed by itself, so any pieces give the same bytes. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "kernels/convert.h"
#include "kernels/linalg/cpu_linalg.h"
#include "kernels/linalg/input.h"

enum { CHUNK = 4096 }; /* elements widened at a time */

ingot_status ingot_cpu_begin(ingot_linalg *head, const ingot_linalg_input *input, ingot_linalg_array *to)
{
  cpu_linalg *l = (cpu_linalg *)head;
  l->input = *input;
  l->to = to->at;
  l->taken = 0;
  l->found = (ingot_linalg_found){.first_nonfinite = -1, .asymmetric = -1};
  return INGOT_OK;
}

ingot_status ingot_cpu_room(ingot_linalg *head, void **room)
{
  cpu_linalg *l = (cpu_linalg *)head;
  if (!l->room) l->room = malloc(INGOT_LINALG_ROOM_BYTES);
  *room = l->room;
  return l->room ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for reading matrices");
}

/* The smaller of a position and one that may be none. */
static void note_first(_Atomic int64_t *first, int64_t at)
{
  int64_t seen = atomic_load(first);
  while ((seen < 0 || at < seen) && !atomic_compare_exchange_weak(first, &seen, at)) {
  }
}

typedef struct piece {
  const cpu_linalg *l;
  const char       *from;
  int64_t           n;
  _Atomic int64_t   n_nonfinite, first_nonfinite; /* counted from the piece's begin; -1 */
} piece;

static void place_packed(const cpu_linalg *l, int64_t e, const float *v, int64_t count)
{
  int64_t n = l->input.rows;
  for (int64_t i = ingot_packed_row(n, e); count > 0; i++) {
    int64_t j = i + (e - ingot_packed_row_start(n, i)), run = ingot_at_most(count, n - j);
    double *row = l->to + i * n;
    for (int64_t k = 0; k < run; k++) row[j + k] = l->input.alpha * (double)v[k];
    if (i == j) row[i] = (double)v[0];
    v += run, e += run, count -= run;
  }
}

static void place_columns(const cpu_linalg *l, int64_t e, const float *v, int64_t count)
{
  int64_t rows = l->input.rows, columns = l->input.columns;
  for (int64_t i = e % rows, j = e / rows, k = 0; k < count; k++) {
    l->to[i * columns + j] = (double)v[k];
    if (++i == rows) i = 0, j++;
  }
}

static void take_task(void *context, int64_t task)
{
  piece            *p = context;
  const cpu_linalg *l = p->l;
  size_t            size = ingot_dtype_size(l->input.dtype);
  float             wide[CHUNK];
  for (int64_t at = task * INGOT_CPU_VECTOR, end = ingot_at_most(p->n, at + INGOT_CPU_VECTOR); at < end; at += CHUNK) {
    int64_t count = ingot_at_most(end - at, CHUNK), e = l->taken + at;
    int64_t bad = ingot_widen_counting(l->input.dtype, p->from + (size_t)at * size, wide, count);
    if (bad > 0) {
      int64_t first = 0;
      while (isfinite(wide[first])) first++;
      atomic_fetch_add(&p->n_nonfinite, bad);
      note_first(&p->first_nonfinite, at + first);
      if (l->input.zero_nonfinite) ingot_replace_nonfinite(wide, NULL, count);
    }
    if (l->input.form == INGOT_LINALG_PACKED) place_packed(l, e, wide, count);
    else if (l->input.form == INGOT_LINALG_COLUMNS) place_columns(l, e, wide, count);
    else
      for (int64_t k = 0; k < count; k++) l->to[e + k] = (double)wide[k];
  }
}

ingot_status ingot_cpu_take(ingot_linalg *head, const void *from, int64_t n)
{
  cpu_linalg *l = (cpu_linalg *)head;
  piece       p = {.l = l, .from = from, .n = n, .first_nonfinite = -1};
  ingot_cpu_tasks(l, ingot_pieces(n, INGOT_CPU_VECTOR), take_task, &p);
  int64_t first = atomic_load(&p.first_nonfinite);
  if (first >= 0 && l->found.n_nonfinite == 0) {
    l->found.first_nonfinite = l->taken + first;
    ingot_widen(l->input.dtype, p.from + (size_t)first * ingot_dtype_size(l->input.dtype), &l->found.nonfinite, 1);
  }
  l->found.n_nonfinite += atomic_load(&p.n_nonfinite);
  l->taken += n;
  return INGOT_OK;
}

typedef struct symmetric {
  int64_t         n, n_piece;
  double          alpha;
  double         *s;
  _Atomic int64_t asymmetric;
} symmetric;

/* A square piece on or below the diagonal, and its image. */
static void symmetric_task(void *context, int64_t task)
{
  symmetric *y = context;
  int64_t    n = y->n, row_piece = task / y->n_piece, column_piece = task % y->n_piece;
  if (column_piece > row_piece) return;
  for (int64_t i = row_piece * INGOT_CPU_PIECE, i_end = ingot_at_most(n, i + INGOT_CPU_PIECE); i < i_end; i++)
    for (int64_t j = column_piece * INGOT_CPU_PIECE, j_end = ingot_at_most(i, j + INGOT_CPU_PIECE); j < j_end; j++) {
      float above = (float)y->s[j * n + i], below = (float)y->s[i * n + j];
      if (!ingot_symmetric_alike(above, below, (float)y->s[j * n + j])) note_first(&y->asymmetric, i * n + j);
      y->s[i * n + j] = y->s[j * n + i] = y->alpha * (double)ingot_symmetric_mean(above, below);
    }
}

ingot_status ingot_cpu_end(ingot_linalg *head, ingot_linalg_found *found)
{
  cpu_linalg  *l = (cpu_linalg *)head;
  ingot_status st = INGOT_OK;
  int64_t      n = l->input.rows, n_piece = ingot_pieces(n, INGOT_CPU_PIECE);
  INGOT_ASSERT(l->taken == ingot_linalg_input_count(&l->input));
  if (l->input.form == INGOT_LINALG_PACKED) {
    ingot_linalg_array s = {l->to, n * n};
    INGOT_TRY(head->ops->mirror(head, n, &s));
  } else if (l->input.form == INGOT_LINALG_SYMMETRIC) {
    symmetric y = {.n = n, .n_piece = n_piece, .alpha = l->input.alpha, .s = l->to, .asymmetric = -1};
    ingot_cpu_tasks(l, n_piece * n_piece, symmetric_task, &y);
    l->found.asymmetric = atomic_load(&y.asymmetric);
  }
  *found = l->found;
done:
  return st;
}

typedef struct rounding {
  int64_t           m, n, first, count;
  const double     *x;
  float            *to;
  ingot_linalg_form form;
} rounding;

static void round_task(void *context, int64_t task)
{
  const rounding *r = context;
  int64_t         at = task * INGOT_CPU_VECTOR, end = ingot_at_most(r->count, at + INGOT_CPU_VECTOR), e = r->first + at;
  if (r->form == INGOT_LINALG_ROWS) {
    for (; at < end; at++) r->to[at] = (float)r->x[r->first + at];
    return;
  }
  for (int64_t i = e % r->m, j = e / r->m; at < end; at++) {
    r->to[at] = (float)r->x[i * r->n + j];
    if (++i == r->m) i = 0, j++;
  }
}

ingot_status ingot_cpu_give(ingot_linalg *head, int64_t m, int64_t n, const ingot_linalg_array *x,
                            ingot_linalg_form form, ingot_linalg_taker taker, void *context)
{
  ingot_status st = INGOT_OK;
  void        *room = NULL;
  INGOT_TRY(ingot_cpu_room(head, &room));
  for (int64_t first = 0; first < m * n; first += INGOT_TILE) {
    rounding r = {.m = m,
                  .n = n,
                  .first = first,
                  .count = ingot_at_most(m * n - first, INGOT_TILE),
                  .x = x->at,
                  .to = room,
                  .form = form};
    ingot_cpu_tasks((cpu_linalg *)head, ingot_pieces(r.count, INGOT_CPU_VECTOR), round_task, &r);
    INGOT_TRY(taker(context, first, r.count, r.to));
  }
done:
  return st;
}
