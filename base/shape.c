#include "base/shape.h"

#include <inttypes.h>
#include <stdio.h>

bool ingot_shape_count(const ingot_shape *s, int64_t *n_elem)
{
  int64_t n = 1;
  bool    empty = false;
  for (int i = 0; i < s->n_dim; i++) {
    if (s->dim[i] < 0) return false;
    if (s->dim[i] == 0) empty = true;
    else if (n > INT64_MAX / s->dim[i]) return false;
    else n *= s->dim[i];
  }
  *n_elem = empty ? 0 : n;
  return true;
}

bool ingot_shape_equal(const ingot_shape *a, const ingot_shape *b)
{
  if (a->n_dim != b->n_dim) return false;
  for (int i = 0; i < a->n_dim; i++)
    if (a->dim[i] != b->dim[i]) return false;
  return true;
}

const char *ingot_shape_text(const ingot_shape *s, char text[INGOT_SHAPE_TEXT])
{
  int used = snprintf(text, INGOT_SHAPE_TEXT, "[");
  for (int i = 0; i < s->n_dim; i++)
    used += snprintf(text + used, INGOT_SHAPE_TEXT - (size_t)used, "%s%" PRId64, i ? ", " : "", s->dim[i]);
  snprintf(text + used, INGOT_SHAPE_TEXT - (size_t)used, "]");
  return text;
}

const char *ingot_shape_position(const ingot_shape *s, int64_t index, char text[INGOT_SHAPE_TEXT])
{
  ingot_shape at = *s;
  for (int i = s->n_dim - 1; i >= 0; i--) {
    at.dim[i] = s->dim[i] > 0 ? index % s->dim[i] : 0;
    index = s->dim[i] > 0 ? index / s->dim[i] : 0;
  }
  return ingot_shape_text(&at, text);
}
