#include <inttypes.h>
#include <stdlib.h>

#include "kernels/convert.h"
#include "workers/model/load_file.h"

typedef struct stage {
  float  *wide; /* as in the checkpoint */
  float  *turned;
  void   *narrow; /* nn->dtype */
  int64_t capacity;
} stage;

static void stage_release(stage *s)
{
  free(s->wide);
  free(s->turned);
  free(s->narrow);
}

static ingot_status stage_make(const ingot_model_layout *layout, stage *s)
{
  s->capacity = INGOT_MODEL_PIECE;
  bool transposed = false;
  for (int i = 0; i < layout->n_param; i++) {
    const ingot_model_param *p = &layout->params[i];
    transposed = transposed || p->transposed;
    if (p->transposed && p->n_elem > s->capacity) s->capacity = p->n_elem;
  }
  s->wide = malloc((size_t)s->capacity * sizeof(float));
  s->turned = transposed ? malloc((size_t)s->capacity * sizeof(float)) : NULL;
  s->narrow = malloc((size_t)s->capacity * sizeof(float));
  if (s->wide && s->narrow && (s->turned || !transposed)) return INGOT_OK;
  return ingot_fail(INGOT_ERR_NOMEM, "no memory to read weights in pieces of %" PRId64 " elements", s->capacity);
}

static ingot_status fill_param(ingot_model *model, const ingot_weight_source *weights, int index, stage *s)
{
  ingot_status             st = INGOT_OK;
  ingot_nn                *nn = model->nn;
  const ingot_model_param *p = &model->layout.params[index];
  const size_t             size = ingot_dtype_size(nn->dtype);
  char                    *weight = ingot_model_weight(model, index);
  for (int64_t first = 0; first < p->n_elem; first += s->capacity) {
    const int64_t n = p->n_elem - first < s->capacity ? p->n_elem - first : s->capacity;
    INGOT_TRY(weights->read(weights->context, index, first, n, s->wide));
    const float *wide = s->wide;
    if (p->transposed) {
      ingot_model_transpose(s->wide, p->shape.dim[0], p->shape.dim[1], s->turned);
      wide = s->turned;
    }
    const void *narrow = wide;
    if (nn->dtype != INGOT_DTYPE_F32) {
      ingot_narrow(nn->dtype, wide, s->narrow, n);
      narrow = s->narrow;
    }
    INGOT_TRY(nn->ops->copy_in(nn, weight + (size_t)first * size, narrow, (size_t)n * size));
  }
done:
  return st;
}

ingot_status ingot_model_fill(ingot_model *model, const ingot_weight_source *weights)
{
  ingot_status st = INGOT_OK;
  stage        s = {0};
  INGOT_TRY(stage_make(&model->layout, &s));
  for (int i = 0; i < model->layout.n_param; i++) INGOT_TRY(fill_param(model, weights, i, &s));
  INGOT_TRY(model->nn->ops->wait(model->nn));
done:
  stage_release(&s);
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
  INGOT_TRY(ingot_model_fill_from_file(model, src, tensor));
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
