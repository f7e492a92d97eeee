/* Directories whose tensors do not fit their config.json: a tiny one-layer model, with one thing wrong each time; and
 * weights that are given piece by piece. */
#define _GNU_SOURCE
#include "tests/io/scratch.h"

#include <math.h>

#include "kernels/convert.h"
#include "tests/check.h"
#include "tests/workers/model/model_case.h"

static const char config[] = "{\"model_type\": \"llama\", \"vocab_size\": 8, \"hidden_size\": 8,"
                             " \"intermediate_size\": 8, \"num_hidden_layers\": 1, \"num_attention_heads\": 1}";
static const char tied_config[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 8, \"hidden_size\": 8, \"intermediate_size\": 8,"
    " \"num_hidden_layers\": 1, \"num_attention_heads\": 1, \"tie_word_embeddings\": true}";

enum { ELEM = 64, MATRIX_BYTES = ELEM * 4, MAX_TENSOR = 16 };

typedef struct tensor {
  const char *name, *dtype, *shape;
} tensor;

#define LAYER "model.layers.0."
static const tensor all[] = {
    {"lm_head.weight", "F32", "8,8"},
    {"model.embed_tokens.weight", "F32", "8,8"},
    {LAYER "self_attn.q_proj.weight", "F32", "8,8"},
    {LAYER "self_attn.k_proj.weight", "F32", "8,8"},
    {LAYER "self_attn.v_proj.weight", "F32", "8,8"},
    {LAYER "self_attn.o_proj.weight", "F32", "8,8"},
    {LAYER "mlp.gate_proj.weight", "F32", "8,8"},
    {LAYER "mlp.up_proj.weight", "F32", "8,8"},
    {LAYER "mlp.down_proj.weight", "F32", "8,8"},
    {LAYER "input_layernorm.weight", "F32", "8"},
    {LAYER "post_attention_layernorm.weight", "F32", "8"},
    {"model.norm.weight", "F32", "8"},
};
enum { N_TENSOR = sizeof all / sizeof all[0] };

/* A model with tensor `at` replaced by another, or left out; at N_TENSOR it is added. */
static ingot_status load(ingot_nn *nn, const char *json, int at, const tensor *other, float value)
{
  scratch       s;
  char          header[4096] = "{", path[SCRATCH_PATH];
  float         payload[(N_TENSOR + 1) * ELEM];
  size_t        end = 0;
  ingot_source *src;
  ingot_model  *model = NULL;
  for (int i = 0; i < (N_TENSOR + 1) * ELEM; i++) payload[i] = value;
  for (int i = 0; i <= N_TENSOR; i++) {
    const tensor *t = i == at ? other : i < N_TENSOR ? &all[i] : NULL;
    if (!t) continue;
    const size_t bytes = (strchr(t->shape, ',') ? MATRIX_BYTES : MATRIX_BYTES / 8);
    sprintf(header + strlen(header), "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
            end ? "," : "", t->name, t->dtype, t->shape, end, end + bytes);
    end += bytes;
  }
  strcat(header, "}");
  scratch_begin(&s);
  scratch_mkdir(&s, "m");
  scratch_text(&s, "m/config.json", json);
  scratch_safetensors(&s, "m/model.safetensors", header, payload, end);
  check_ok(ingot_source_open(scratch_path(&s, "m", path), &src));
  const ingot_status st = ingot_model_load(nn, src, &model);
  assert_true((st == INGOT_OK) == (model != NULL));
  ingot_model_close(&model);
  ingot_source_close(&src);
  scratch_end(&s);
  return st;
}

static void test_binding(void **state)
{
  ingot_nn    *nn = *state;
  const tensor extra = {LAYER "self_attn.q_proj.bias", "F32", "8"};
  const tensor buffer = {LAYER "self_attn.rotary_emb.inv_freq", "F32", "8"};
  const tensor shape = {LAYER "self_attn.k_proj.weight", "F32", "4,16"};
  const tensor integer = {LAYER "self_attn.k_proj.weight", "I32", "8,8"};
  const tensor bare = {"layers.0.self_attn.k_proj.weight", "F32", "8,8"};
  check_ok(load(nn, config, N_TENSOR, NULL, 0.5F));
  check_ok(load(nn, config, N_TENSOR, &buffer, 0.5F));
  check_ok(load(nn, config, 3, &bare, 0.5F));
  check_ok(load(nn, tied_config, N_TENSOR, NULL, 0.5F)); /* a stored tied head is passed over */
  check_ok(load(nn, tied_config, 0, NULL, 0.5F));
  check_fails(load(nn, config, 0, NULL, 0.5F), INGOT_ERR_MISMATCH,
              "no tensor lm_head.weight, which config.json asks for");
  check_fails(load(nn, config, N_TENSOR, &extra, 0.5F), INGOT_ERR_MISMATCH,
              "tensor model.layers.0.self_attn.q_proj.bias is not a part of a llama model");
  check_fails(load(nn, config, 3, &shape, 0.5F), INGOT_ERR_MISMATCH,
              "model.layers.0.self_attn.k_proj.weight is [4, 16], and config.json asks for [8, 8]");
  check_fails(load(nn, config, 3, &integer, 0.5F), INGOT_ERR_MISMATCH, "is I32, not a floating-point dtype");
  check_fails(load(nn, config, N_TENSOR, NULL, INFINITY), INGOT_ERR_NUMERIC,
              "model.embed_tokens.weight holds values that are not finite");
}

static void test_no_config(void **state)
{
  ingot_nn     *nn = *state;
  scratch       s;
  char          path[SCRATCH_PATH];
  ingot_source *src;
  ingot_model  *model;
  scratch_begin(&s);
  scratch_safetensors(&s, "a.safetensors", "{}", NULL, 0);
  check_ok(ingot_source_open(scratch_path(&s, "a.safetensors", path), &src));
  check_fails(ingot_model_load(nn, src, &model), INGOT_ERR_FORMAT, "no config.json, which says what model this is");
  assert_null(model);
  ingot_source_close(&src);
  scratch_end(&s);
}

typedef struct stored {
  const ingot_source *source;
  int                *tensor; /* [n_param] */
} stored;

static ingot_status read_stored(void *context, int param, int64_t first, int64_t n, float *values)
{
  const stored            *s = context;
  const ingot_tensor_info *info = ingot_source_tensor(s->source, s->tensor[param]);
  const size_t             size = ingot_dtype_size(info->dtype);
  void                    *bytes = calloc((size_t)n + 1, size);
  assert_non_null(bytes);
  ingot_status st = ingot_source_read(s->source, s->tensor[param], (uint64_t)first * size, (size_t)n * size, bytes);
  if (st == INGOT_OK) ingot_widen(info->dtype, bytes, values, n);
  free(bytes);
  return st;
}

/* Filled from values, a model has the bytes that it has when it is read from its file. */
static void check_fill(ingot_nn *nn, const char *name)
{
  model_case c;
  model_case_open(nn, name, &c);
  const ingot_model_layout *layout = &c.model->layout;
  const size_t              bytes = (size_t)ingot_model_bytes(&c.model->spec, nn->dtype);
  stored                    s = {c.source, calloc((size_t)layout->n_param, sizeof(int))};
  char                     *read = malloc(bytes), *filled = malloc(bytes);
  assert_true(s.tensor && read && filled);
  check_ok(ingot_model_layout_bind(layout, &c.model->spec, c.source, s.tensor));
  check_ok(nn->ops->copy_out(nn, read, c.model->weights, bytes));
  check_ok(nn->ops->zero(nn, c.model->weights, bytes));
  check_ok(ingot_model_fill(c.model, &(ingot_weight_source){&s, read_stored}));
  check_ok(nn->ops->copy_out(nn, filled, c.model->weights, bytes));
  assert_memory_equal(read, filled, bytes);
  free(read);
  free(filled);
  free(s.tensor);
  model_case_close(&c);
}

static void test_fill(void **state)
{
  ingot_nn         *nn = *state;
  const ingot_dtype dtype = nn->dtype;
  check_fill(nn, "llama");
  check_fill(nn, "gpt2"); /* has transposed weights */
  if (nn->kind != INGOT_NN_CPU) return;
  nn->dtype = INGOT_DTYPE_BF16; /* as on a GPU: what reads and fills models does not compute with them */
  check_fill(nn, "llama");
  check_fill(nn, "gpt2");
  nn->dtype = dtype;
}

int main(void)
{
  ingot_nn *nn = model_case_open_nn();
  if (!nn) return 77;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_prestate(test_binding, nn),
      cmocka_unit_test_prestate(test_no_config, nn),
      cmocka_unit_test_prestate(test_fill, nn),
  };
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  ingot_nn_close(&nn);
  return failed;
}
