/** Shapes of tensors: up to INGOT_MAX_DIMS extents, row-major. */
#ifndef INGOT_BASE_SHAPE_H
#define INGOT_BASE_SHAPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { INGOT_MAX_DIMS = 8, INGOT_SHAPE_TEXT = 192 };

/** n_dim 0 is a scalar of one element; an extent of 0 makes an empty tensor. Extents are never negative. */
typedef struct ingot_shape {
  int     n_dim;
  int64_t dim[INGOT_MAX_DIMS];
} ingot_shape;

/** Number of elements; returns false when the product (or an extent) does not fit in int64_t. */
bool ingot_shape_count(const ingot_shape *s, int64_t *n_elem);
bool ingot_shape_equal(const ingot_shape *a, const ingot_shape *b);
/** "[4096, 1024]", "[]" for a scalar. Writes into text, which holds INGOT_SHAPE_TEXT bytes, and returns it. */
const char *ingot_shape_text(const ingot_shape *s, char text[INGOT_SHAPE_TEXT]);
/** "[17, 3]": the position of a flat row-major index. Same buffer rule. */
const char *ingot_shape_position(const ingot_shape *s, int64_t index, char text[INGOT_SHAPE_TEXT]);

#ifdef __cplusplus
}
#endif
#endif
