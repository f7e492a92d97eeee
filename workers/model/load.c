#include <inttypes.h>
#include <stdlib.h>

#include "kernels/convert.h"
#include "workers/model/load_file.h"

struct ingot_model_filler {
  ingot_model *model;
  float       *turned; /* a transposed parameter; NULL: there is none */
  void        *narrow; /* a piece in nn->dtype; NULL: float32 */
};

int64_t ingot_model_piece(const ingot_model_param *param)
{
  return param->transposed || param->n_elem < INGOT_MODEL_PIECE ? param->n_elem : INGOT_MODEL_PIECE;
}

int64_t ingot_model_largest_piece(const ingot_model_layout *layout)
{
  int64_t largest = 0;
  for (int i = 0; i < layout->n_param; i++) {
    const int64_t piece = ingot_model_piece(&layout->params[i]);
    if (piece > largest) largest = piece;
  }
  return largest;
}

/* Bytes of the largest piece in the weights' dtype; 0: float32, which needs no other form. */
static size_t narrow_bytes(const ingot_model_layout *layout, ingot_dtype dtype)
{
  return dtype == INGOT_DTYPE_F32 ? 0 : (size_t)ingot_model_largest_piece(layout) * ingot_dtype_size(dtype);
}

static size_t turned_bytes(const ingot_model_layout *layout)
{
  int64_t largest = 0;
  for (int i = 0; i < layout->n_param; i++)
    if (layout->params[i].transposed && layout->params[i].n_elem > largest) largest = layout->params[i].n_elem;
  return (size_t)largest * sizeof(float);
}

uint64_t ingot_model_filler_bytes(const ingot_model_layout *layout, ingot_dtype dtype)
{
  return narrow_bytes(layout, dtype) + turned_bytes(layout);
}

void ingot_model_filler_close(ingot_model_filler **filler)
{
  ingot_model_filler *f = *filler;
  if (!f) return;
  free(f->turned);
  free(f->narrow);
  free(f);
  *filler = NULL;
}

ingot_status ingot_model_filler_open(ingot_model *model, ingot_model_filler **out)
{
  ingot_status        st = INGOT_OK;
  const size_t        narrow = narrow_bytes(&model->layout, model->nn->dtype), turned = turned_bytes(&model->layout);
  ingot_model_filler *f = *out = calloc(1, sizeof *f);
  INGOT_CHECK(f, INGOT_ERR_NOMEM, "no memory to fill a model");
  f->model = model;
  f->narrow = narrow ? malloc(narrow) : NULL;
  f->turned = turned ? malloc(turned) : NULL;
  INGOT_CHECK((f->narrow || !narrow) && (f->turned || !turned), INGOT_ERR_NOMEM,
              "no memory for weights in pieces of %zu bytes", narrow > turned ? narrow : turned);
done:
  if (st != INGOT_OK) ingot_model_filler_close(out);
  return st;
}

ingot_status ingot_model_filler_put(ingot_model_filler *f, int param, int64_t first, int64_t n, const float *values)
{
  ingot_nn                *nn = f->model->nn;
  const ingot_model_param *p = &f->model->layout.params[param];
  const size_t             size = ingot_dtype_size(nn->dtype);
  char                    *weight = ingot_model_weight(f->model, param);
  if (p->transposed) {
    INGOT_ASSERT(first == 0 && n == p->n_elem);
    ingot_model_transpose(values, p->shape.dim[0], p->shape.dim[1], f->turned);
    values = f->turned;
  }
  const void *narrow = values;
  if (nn->dtype != INGOT_DTYPE_F32) {
    ingot_narrow(nn->dtype, values, f->narrow, n);
    narrow = f->narrow;
  }
  return nn->ops->copy_in(nn, weight + (size_t)first * size, narrow, (size_t)n * size);
}

ingot_status ingot_model_fill(ingot_model *model, const ingot_weight_source *weights)
{
  ingot_status        st = INGOT_OK;
  ingot_model_filler *f = NULL;
  float              *values = NULL;
  const int64_t       largest = ingot_model_largest_piece(&model->layout);
  INGOT_TRY(ingot_model_filler_open(model, &f));
  values = malloc((size_t)largest * sizeof *values);
  INGOT_CHECK(values, INGOT_ERR_NOMEM, "no memory for weights in pieces of %" PRId64 " elements", largest);
  for (int i = 0; i < model->layout.n_param; i++) {
    const int64_t n_elem = model->layout.params[i].n_elem, piece = ingot_model_piece(&model->layout.params[i]);
    for (int64_t first = 0; first < n_elem; first += piece) {
      const int64_t n = n_elem - first < piece ? n_elem - first : piece;
      INGOT_TRY(weights->read(weights->context, i, first, n, values));
      INGOT_TRY(ingot_model_filler_put(f, i, first, n, values));
    }
  }
  INGOT_TRY(model->nn->ops->wait(model->nn));
done:
  free(values);
  ingot_model_filler_close(&f);
  return st;
}

ingot_status ingot_model_load(ingot_nn *nn, const ingot_source *src, ingot_model **out)
{
  ingot_status st = INGOT_OK;
  int         *tensor = NULL;
  ingot_model *model = calloc(1, sizeof *model);
  *out = NULL;
  INGOT_CHECK(model, INGOT_ERR_NOMEM, "no memory for a model");
  model->nn = nn;
  INGOT_TRY(ingot_model_spec_read(src, &model->spec));
  INGOT_TRY(ingot_model_layout_make(&model->spec, &model->layout));
  tensor = malloc((size_t)model->layout.n_param * sizeof *tensor);
  INGOT_CHECK(tensor, INGOT_ERR_NOMEM, "no memory for a model");
  INGOT_TRY(ingot_model_layout_bind(&model->layout, &model->spec, src, tensor));
  const size_t bytes = (size_t)ingot_model_bytes(&model->spec, nn->dtype);
  INGOT_TRY(nn->ops->alloc(nn, bytes, &model->weights));
  INGOT_TRY(nn->ops->zero(nn, model->weights, bytes)); /* the padding too has values */
  INGOT_TRY(ingot_model_fill_from_file(model, src, tensor, 0, model->layout.n_param));
  *out = model;
  model = NULL;
done:
  free(tensor);
  ingot_model_close(&model);
  return st;
}

void ingot_model_close(ingot_model **model_address)
{
  ingot_model *model = *model_address;
  if (!model) return;
  if (model->nn) model->nn->ops->free(model->nn, model->weights);
  ingot_model_layout_release(&model->layout);
  ingot_model_spec_release(&model->spec);
  free(model);
  *model_address = NULL;
}

void *ingot_model_weight(const ingot_model *model, int param)
{
  return (char *)model->weights + (size_t)model->layout.params[param].offset * ingot_dtype_size(model->nn->dtype);
}

uint64_t ingot_model_bytes(const ingot_model_spec *spec, ingot_dtype dtype)
{
  return (uint64_t)ingot_model_elements(spec) * ingot_dtype_size(dtype);
}
