/*
 * near A B LIMIT: whether two checkpoints of float32 tensors have the same names and shapes, and values that differ by
 * at most LIMIT times the tensor's largest magnitude. Exit code 1 and the first tensor that does not when not.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "io/source.h"

static float *read_all(const ingot_source *src, int i)
{
  const ingot_tensor_info *t = ingot_source_tensor(src, i);
  float                   *values = malloc((size_t)t->bytes + 1);
  if (values && ingot_source_read(src, i, 0, (size_t)t->bytes, values) == INGOT_OK) return values;
  fprintf(stderr, "%s\n", ingot_error_message());
  exit(1);
}

int main(int argc, char **argv)
{
  ingot_source *a = NULL, *b = NULL;
  if (argc != 4 || ingot_source_open(argv[1], &a) != INGOT_OK || ingot_source_open(argv[2], &b) != INGOT_OK ||
      ingot_source_count(a) != ingot_source_count(b)) {
    fprintf(stderr, "near A B LIMIT: two checkpoints with as many tensors (%s)\n", ingot_error_message());
    return 1;
  }
  double limit = atof(argv[3]);
  for (int i = 0; i < ingot_source_count(a); i++) {
    const ingot_tensor_info *t = ingot_source_tensor(a, i);
    int                      k = ingot_source_find(b, t->name);
    if (k < 0 || t->dtype != INGOT_DTYPE_F32 || !ingot_shape_equal(&t->shape, &ingot_source_tensor(b, k)->shape)) {
      fprintf(stderr, "%s: not float32, or not there, or of another shape\n", t->name);
      return 1;
    }
    float *x = read_all(a, i), *y = read_all(b, k);
    double worst = 0.0, most = 0.0;
    for (int64_t e = 0; e < t->n_elem; e++) {
      worst = fmax(worst, fabs((double)x[e] - (double)y[e]));
      most = fmax(most, fabs((double)x[e]));
    }
    free(x);
    free(y);
    if (worst <= limit * most && most > 0.0) continue;
    fprintf(stderr, "%s: differs by %g, largest value %g\n", t->name, worst, most);
    return 1;
  }
  ingot_source_close(&a);
  ingot_source_close(&b);
  return 0;
}
