#include "tests/workers/model/model_case.h"

#include <math.h>
#include <stdlib.h>

#include "tests/check.h"

static const char *kind(void)
{
  const char *name = getenv("INGOT_TEST_NN");
  return name ? name : "cpu";
}

ingot_nn *model_case_open_nn(void)
{
  ingot_nn        *nn = NULL;
  const bool       cuda = strncmp(kind(), "cuda", 4) == 0;
  ingot_nn_options options = {.kind = cuda ? INGOT_NN_CUDA : INGOT_NN_CPU, .n_thread = 2, .dtype = INGOT_DTYPE_F32};
  if (strcmp(kind(), "cuda-bf16") == 0) options.dtype = INGOT_DTYPE_BF16;
  options.tf32 = strcmp(kind(), "cuda-tf32") == 0;
  const ingot_status st = ingot_nn_open(&options, &nn);
  if (st == INGOT_ERR_DEVICE && cuda) return NULL;
  check_ok(st);
  return nn;
}

double model_case_limit(double limit)
{
  if (strcmp(kind(), "cuda-bf16") == 0) return 0.25; /* PyTorch, in bfloat16 on the same cases: up to 0.16 */
  return strcmp(kind(), "cuda-tf32") == 0 ? 0.02 : limit;
}

double model_case_distance(const float *a, const float *b, int64_t n)
{
  double difference = 0, magnitude = 0;
  for (int64_t i = 0; i < n; i++) {
    const double d = fabs((double)a[i] - (double)b[i]);
    if (!(d <= difference)) difference = d; /* NaN stays */
    magnitude = fmax(magnitude, fabs((double)b[i]));
  }
  return magnitude > 0 ? difference / magnitude : difference;
}

static void *read_tensor(const ingot_source *src, int i)
{
  const ingot_tensor_info *info = ingot_source_tensor(src, i);
  void                    *data = malloc(info->bytes + 1);
  assert_non_null(data);
  check_ok(ingot_source_read(src, i, 0, info->bytes, data));
  return data;
}

void model_case_open(ingot_nn *nn, const char *name, model_case *out)
{
  char path[512];
  *out = (model_case){0};
  snprintf(path, sizeof path, "%s/workers/model/reference/%s", INGOT_TEST_DIR, name);
  check_ok(ingot_source_open(path, &out->source));
  snprintf(path, sizeof path, "%s/workers/model/reference/%s.safetensors", INGOT_TEST_DIR, name);
  check_ok(ingot_source_open(path, &out->reference));
  check_ok(ingot_model_load(nn, out->source, &out->model));
  const int tokens = ingot_source_find(out->reference, "tokens");
  assert_true(tokens >= 0);
  out->n_batch = ingot_source_tensor(out->reference, tokens)->shape.dim[0];
  out->n_time = ingot_source_tensor(out->reference, tokens)->shape.dim[1];
  out->tokens = read_tensor(out->reference, tokens);
  out->labels = read_tensor(out->reference, ingot_source_find(out->reference, "labels"));
  for (int64_t i = 0; i < out->n_batch * out->n_time; i++) out->n_label += out->labels[i] >= 0;
}

void model_case_close(model_case *c)
{
  ingot_model_close(&c->model);
  ingot_source_close(&c->source);
  ingot_source_close(&c->reference);
  free(c->tokens);
  free(c->labels);
}

ingot_batch model_case_batch(const model_case *c)
{
  return (ingot_batch){.n_batch = c->n_batch, .n_time = c->n_time, .tokens = c->tokens, .labels = c->labels};
}

float *model_case_tensor(const model_case *c, const char *prefix, const char *name, int64_t *n_elem)
{
  char full[256];
  snprintf(full, sizeof full, "%s%s", prefix, name);
  const int i = ingot_source_find(c->reference, full);
  if (i < 0) return NULL;
  *n_elem = ingot_source_tensor(c->reference, i)->n_elem;
  return read_tensor(c->reference, i);
}

static ingot_status loss_chunk(void *context, ingot_nn *nn, int64_t first_row, const ingot_nn_logits *z,
                               const int32_t *labels, void *d_logits)
{
  ingot_status st = INGOT_OK;
  loss_head   *h = context;
  assert_int_equal(z->n_vocab, h->n_vocab);
  h->n_chunk++;
  INGOT_TRY(nn->ops->cross_entropy(nn, z, labels, h->scale, h->nll_memory, NULL, d_logits));
  INGOT_TRY(nn->ops->copy_out(nn, h->nll + first_row, h->nll_memory, (size_t)z->n_row * sizeof(float)));
  for (int64_t r = 0; r < z->n_row; r++)
    INGOT_TRY(nn->ops->copy_out(nn, h->logits + (first_row + r) * h->n_vocab, z->data + r * z->ld,
                                (size_t)h->n_vocab * sizeof(float)));
done:
  return st;
}

void loss_head_init(loss_head *h, ingot_nn *nn, int64_t n_token, int64_t n_vocab, float scale)
{
  *h = (loss_head){.scale = scale, .n_vocab = n_vocab};
  h->head = (ingot_head){.context = h, .chunk = loss_chunk};
  h->logits = calloc((size_t)(n_token * n_vocab), sizeof(float));
  h->nll = calloc((size_t)n_token, sizeof(float));
  check_ok(nn->ops->alloc(nn, (size_t)n_token * sizeof(float), (void **)&h->nll_memory));
}

void loss_head_release(loss_head *h, ingot_nn *nn)
{
  free(h->logits);
  free(h->nll);
  nn->ops->free(nn, h->nll_memory);
}

static ingot_status open_gradient(void *context, ingot_nn *nn, int first, int n, float **memory, bool *add)
{
  (void)nn;
  flat_gradients *g = context;
  *memory = g->memory + g->layout->params[first].offset;
  *add = g->add;
  for (int i = first; i < first + n; i++) g->n_open[i]++;
  return INGOT_OK;
}

static ingot_status gradient_done(void *context, ingot_nn *nn, int first, int n)
{
  (void)nn;
  flat_gradients *g = context;
  for (int i = first; i < first + n; i++) g->n_done[i]++;
  return INGOT_OK;
}

void flat_gradients_init(flat_gradients *g, ingot_nn *nn, const ingot_model_layout *layout)
{
  *g = (flat_gradients){.layout = layout};
  g->gradients = (ingot_gradients){.context = g, .open = open_gradient, .done = gradient_done};
  g->n_open = calloc((size_t)layout->n_param, sizeof(int));
  g->n_done = calloc((size_t)layout->n_param, sizeof(int));
  const size_t bytes = (size_t)layout->n_elem * sizeof(float);
  float       *noise = malloc(bytes); /* what must be overwritten is not zero by chance */
  for (int64_t i = 0; i < layout->n_elem; i++) noise[i] = 1e6F;
  check_ok(nn->ops->alloc(nn, bytes, (void **)&g->memory));
  check_ok(nn->ops->copy_in(nn, g->memory, noise, bytes));
  free(noise);
}

void flat_gradients_release(flat_gradients *g, ingot_nn *nn)
{
  nn->ops->free(nn, g->memory);
  free(g->n_open);
  free(g->n_done);
}

float *flat_gradients_read(const flat_gradients *g, ingot_nn *nn, int param, const float *memory)
{
  const ingot_model_param *p = &g->layout->params[param];
  const size_t             bytes = (size_t)p->n_elem * sizeof(float);
  float                   *values = malloc(bytes), *turned = malloc(bytes);
  assert_true(values && turned);
  check_ok(nn->ops->copy_out(nn, values, memory + p->offset, bytes));
  if (!p->transposed) {
    free(turned);
    return values;
  }
  const int64_t n_in = p->shape.dim[0], n_out = p->shape.dim[1];
  for (int64_t o = 0; o < n_out; o++)
    for (int64_t i = 0; i < n_in; i++) turned[i * n_out + o] = values[o * n_in + i];
  free(values);
  return turned;
}
