#include "workers/model/spec.h"

#include <stdlib.h>
#include <string.h>

#include "base/text.h"

enum { ALIGN_ELEM = 128 };

/* One parameter of a family's naming. `name` follows "model.layers.<i>." (gpt2: "transformer.h.<i>."), or
 * "model." ("transformer."), or nothing for the head. */
typedef struct row {
  ingot_param_role role;
  const char      *llama, *gpt2;
} row;

static const row layer_rows[] = {
    {INGOT_ROLE_NORM1_WEIGHT, "input_layernorm.weight", "ln_1.weight"},
    {INGOT_ROLE_NORM1_BIAS, NULL, "ln_1.bias"},
    {INGOT_ROLE_Q, "self_attn.q_proj.weight", "attn.c_attn.weight"},
    {INGOT_ROLE_K, "self_attn.k_proj.weight", NULL},
    {INGOT_ROLE_V, "self_attn.v_proj.weight", NULL},
    {INGOT_ROLE_Q_BIAS, "self_attn.q_proj.bias", "attn.c_attn.bias"},
    {INGOT_ROLE_K_BIAS, "self_attn.k_proj.bias", NULL},
    {INGOT_ROLE_V_BIAS, "self_attn.v_proj.bias", NULL},
    {INGOT_ROLE_Q_NORM, "self_attn.q_norm.weight", NULL},
    {INGOT_ROLE_K_NORM, "self_attn.k_norm.weight", NULL},
    {INGOT_ROLE_O, "self_attn.o_proj.weight", "attn.c_proj.weight"},
    {INGOT_ROLE_O_BIAS, "self_attn.o_proj.bias", "attn.c_proj.bias"},
    {INGOT_ROLE_NORM2_WEIGHT, "post_attention_layernorm.weight", "ln_2.weight"},
    {INGOT_ROLE_NORM2_BIAS, NULL, "ln_2.bias"},
    {INGOT_ROLE_GATE, "mlp.gate_proj.weight", NULL},
    {INGOT_ROLE_UP, "mlp.up_proj.weight", "mlp.c_fc.weight"},
    {INGOT_ROLE_GATE_BIAS, "mlp.gate_proj.bias", NULL},
    {INGOT_ROLE_UP_BIAS, "mlp.up_proj.bias", "mlp.c_fc.bias"},
    {INGOT_ROLE_DOWN, "mlp.down_proj.weight", "mlp.c_proj.weight"},
    {INGOT_ROLE_DOWN_BIAS, "mlp.down_proj.bias", "mlp.c_proj.bias"},
};
static const row first_rows[] = {
    {INGOT_ROLE_EMBEDDING, "embed_tokens.weight", "wte.weight"},
    {INGOT_ROLE_POSITION, NULL, "wpe.weight"},
};
static const row last_rows[] = {
    {INGOT_ROLE_FINAL_NORM_WEIGHT, "norm.weight", "ln_f.weight"},
    {INGOT_ROLE_FINAL_NORM_BIAS, NULL, "ln_f.bias"},
};
enum {
  N_LAYER_ROW = sizeof layer_rows / sizeof layer_rows[0],
  N_FIRST_ROW = sizeof first_rows / sizeof first_rows[0],
  N_LAST_ROW = sizeof last_rows / sizeof last_rows[0],
};

static bool has_role(const ingot_model_spec *spec, ingot_param_role role)
{
  switch (role) {
  case INGOT_ROLE_Q_BIAS: return spec->qkv_bias;
  case INGOT_ROLE_K_BIAS:
  case INGOT_ROLE_V_BIAS: return spec->qkv_bias && !spec->conv1d;
  case INGOT_ROLE_Q_NORM:
  case INGOT_ROLE_K_NORM: return spec->qk_norm;
  case INGOT_ROLE_O_BIAS: return spec->o_bias;
  case INGOT_ROLE_GATE_BIAS: return spec->mlp_bias && spec->gated;
  case INGOT_ROLE_UP_BIAS:
  case INGOT_ROLE_DOWN_BIAS: return spec->mlp_bias;
  case INGOT_ROLE_HEAD: return !spec->tied;
  default: return true;
  }
}

/* Extents in memory: [out, in] of a matrix, or one. */
static ingot_shape memory_shape(const ingot_model_spec *spec, ingot_param_role role)
{
  const int64_t h = spec->hidden, q = (int64_t)spec->n_head * spec->head_dim,
                kv = (int64_t)spec->n_kv_head * spec->head_dim;
  const int64_t first = spec->conv1d ? q + 2 * kv : q; /* of the parameter in the role of Q */
  switch (role) {
  case INGOT_ROLE_EMBEDDING:
  case INGOT_ROLE_HEAD: return (ingot_shape){2, {spec->n_vocab, h}};
  case INGOT_ROLE_POSITION: return (ingot_shape){2, {spec->n_position, h}};
  case INGOT_ROLE_Q: return (ingot_shape){2, {first, h}};
  case INGOT_ROLE_K:
  case INGOT_ROLE_V: return (ingot_shape){2, {kv, h}};
  case INGOT_ROLE_Q_BIAS: return (ingot_shape){1, {first}};
  case INGOT_ROLE_K_BIAS:
  case INGOT_ROLE_V_BIAS: return (ingot_shape){1, {kv}};
  case INGOT_ROLE_Q_NORM:
  case INGOT_ROLE_K_NORM: return (ingot_shape){1, {spec->head_dim}};
  case INGOT_ROLE_O: return (ingot_shape){2, {h, q}};
  case INGOT_ROLE_GATE:
  case INGOT_ROLE_UP: return (ingot_shape){2, {spec->inner, h}};
  case INGOT_ROLE_GATE_BIAS:
  case INGOT_ROLE_UP_BIAS: return (ingot_shape){1, {spec->inner}};
  case INGOT_ROLE_DOWN: return (ingot_shape){2, {h, spec->inner}};
  default: return (ingot_shape){1, {h}};
  }
}

static int64_t padded(int64_t n_elem)
{
  return (n_elem + ALIGN_ELEM - 1) / ALIGN_ELEM * ALIGN_ELEM;
}

enum { NO_ROLE = -1 };

/* Part of the same matrix (or vector of biases) as the parameter before it: no padding between them. */
static bool continues_run(int before, ingot_param_role role)
{
  switch (role) {
  case INGOT_ROLE_K: return before == INGOT_ROLE_Q;
  case INGOT_ROLE_V: return before == INGOT_ROLE_K;
  case INGOT_ROLE_K_BIAS: return before == INGOT_ROLE_Q_BIAS;
  case INGOT_ROLE_V_BIAS: return before == INGOT_ROLE_K_BIAS;
  case INGOT_ROLE_UP: return before == INGOT_ROLE_GATE;
  case INGOT_ROLE_UP_BIAS: return before == INGOT_ROLE_GATE_BIAS;
  default: return false;
  }
}

/* Where a parameter begins, behind one that ends at `end`. */
static int64_t begin_behind(int64_t end, int before, ingot_param_role role)
{
  return continues_run(before, role) ? end : padded(end);
}

static int64_t element_count(const ingot_shape *shape)
{
  return shape->dim[0] * (shape->n_dim == 2 ? shape->dim[1] : 1);
}

static ingot_status add_param(ingot_model_layout *layout, const ingot_model_spec *spec, ingot_param_role role,
                              int layer, const char *name)
{
  ingot_text text = {0};
  if (!name || !has_role(spec, role)) return INGOT_OK;
  ingot_status st;
  if (role == INGOT_ROLE_HEAD) st = ingot_text_printf(&text, "%s", name);
  else if (layer < 0) st = ingot_text_printf(&text, "%s.%s", spec->conv1d ? "transformer" : "model", name);
  else st = ingot_text_printf(&text, "%s.%d.%s", spec->conv1d ? "transformer.h" : "model.layers", layer, name);
  if (st != INGOT_OK) return st;
  layout->n_elem =
      begin_behind(layout->n_elem, layout->n_param > 0 ? (int)layout->params[layout->n_param - 1].role : NO_ROLE, role);
  ingot_model_param *p = &layout->params[layout->n_param++];
  *p = (ingot_model_param){.name = text.bytes, .role = role, .layer = layer, .offset = layout->n_elem};
  p->shape = memory_shape(spec, role);
  p->n_elem = element_count(&p->shape);
  layout->n_elem += p->n_elem;
  p->transposed = spec->conv1d && layer >= 0 && p->shape.n_dim == 2;
  if (p->transposed) p->shape = (ingot_shape){2, {p->shape.dim[1], p->shape.dim[0]}};
  return INGOT_OK;
}

static ingot_status add_rows(ingot_model_layout *layout, const ingot_model_spec *spec, int layer, const row *rows,
                             int n_row)
{
  ingot_status st = INGOT_OK;
  for (int i = 0; i < n_row && st == INGOT_OK; i++)
    st = add_param(layout, spec, rows[i].role, layer, spec->conv1d ? rows[i].gpt2 : rows[i].llama);
  return st;
}

static void add_linear(ingot_model_layout *layout, int layer, int first, int n_param, int first_bias)
{
  ingot_model_linear *linear = &layout->linears[layout->n_linear++];
  *linear = (ingot_model_linear){.first_param = first, .n_param = n_param, .first_bias = first_bias, .layer = layer};
  for (int i = 0; i < n_param; i++) {
    const ingot_model_param *p = &layout->params[first + i];
    linear->n_in = p->shape.dim[p->transposed ? 0 : 1];
    linear->n_out += p->shape.dim[p->transposed ? 1 : 0];
  }
}

static void add_linears(ingot_model_layout *layout, const ingot_model_spec *spec)
{
  for (int layer = 0; layer < spec->n_layer; layer++) {
    const ingot_param_role inner = spec->gated ? INGOT_ROLE_GATE : INGOT_ROLE_UP;
    const ingot_param_role inner_bias = spec->gated ? INGOT_ROLE_GATE_BIAS : INGOT_ROLE_UP_BIAS;
    add_linear(layout, layer, ingot_model_layout_find(layout, INGOT_ROLE_Q, layer), spec->conv1d ? 1 : 3,
               ingot_model_layout_find(layout, INGOT_ROLE_Q_BIAS, layer));
    add_linear(layout, layer, ingot_model_layout_find(layout, INGOT_ROLE_O, layer), 1,
               ingot_model_layout_find(layout, INGOT_ROLE_O_BIAS, layer));
    add_linear(layout, layer, ingot_model_layout_find(layout, inner, layer), spec->gated ? 2 : 1,
               ingot_model_layout_find(layout, inner_bias, layer));
    add_linear(layout, layer, ingot_model_layout_find(layout, INGOT_ROLE_DOWN, layer), 1,
               ingot_model_layout_find(layout, INGOT_ROLE_DOWN_BIAS, layer));
  }
  add_linear(layout, -1, ingot_model_layout_find(layout, spec->tied ? INGOT_ROLE_EMBEDDING : INGOT_ROLE_HEAD, -1), 1,
             -1);
}

ingot_status ingot_model_layout_make(const ingot_model_spec *spec, ingot_model_layout *out)
{
  ingot_status st = INGOT_OK;
  *out = (ingot_model_layout){0};
  out->params = calloc((size_t)N_FIRST_ROW + N_LAST_ROW + 1 + (size_t)spec->n_layer * N_LAYER_ROW, sizeof *out->params);
  out->linears = calloc((size_t)spec->n_layer * 4 + 1, sizeof *out->linears);
  INGOT_CHECK(out->params && out->linears, INGOT_ERR_NOMEM, "no memory for the parameters of %d layers", spec->n_layer);
  INGOT_TRY(add_rows(out, spec, -1, first_rows, N_FIRST_ROW));
  for (int layer = 0; layer < spec->n_layer; layer++) INGOT_TRY(add_rows(out, spec, layer, layer_rows, N_LAYER_ROW));
  INGOT_TRY(add_rows(out, spec, -1, last_rows, N_LAST_ROW));
  INGOT_TRY(add_param(out, spec, INGOT_ROLE_HEAD, -1, "lm_head.weight"));
  out->n_elem = padded(out->n_elem);
  add_linears(out, spec);
done:
  if (st != INGOT_OK) ingot_model_layout_release(out);
  return st;
}

static int64_t end_of_rows(const ingot_model_spec *spec, const row *rows, int n_row, int64_t end)
{
  int before = NO_ROLE;
  for (int i = 0; i < n_row; i++) {
    if (!(spec->conv1d ? rows[i].gpt2 : rows[i].llama) || !has_role(spec, rows[i].role)) continue;
    ingot_shape shape = memory_shape(spec, rows[i].role);
    end = begin_behind(end, before, rows[i].role) + element_count(&shape);
    before = (int)rows[i].role;
  }
  return end;
}

/* As many as the layout has. Without memory for one: callers take the answer for a size, and ranks for one that all of
 * them have. */
int64_t ingot_model_elements(const ingot_model_spec *spec)
{
  static const row head = {INGOT_ROLE_HEAD, "lm_head.weight", "lm_head.weight"};
  int64_t          end = end_of_rows(spec, first_rows, N_FIRST_ROW, 0);
  for (int layer = 0; layer < spec->n_layer; layer++) end = end_of_rows(spec, layer_rows, N_LAYER_ROW, end);
  end = end_of_rows(spec, last_rows, N_LAST_ROW, end);
  return padded(end_of_rows(spec, &head, 1, end));
}

void ingot_model_layout_release(ingot_model_layout *layout)
{
  for (int i = 0; i < layout->n_param; i++) free(layout->params[i].name);
  free(layout->params);
  free(layout->linears);
  *layout = (ingot_model_layout){0};
}

int ingot_model_layout_find(const ingot_model_layout *layout, ingot_param_role role, int layer)
{
  for (int i = 0; i < layout->n_param; i++)
    if (layout->params[i].role == role && layout->params[i].layer == layer) return i;
  return -1;
}

const char *ingot_model_short_name(const char *name)
{
  if (strncmp(name, "model.", 6) == 0) return name + 6;
  if (strncmp(name, "transformer.", 12) == 0) return name + 12;
  return name;
}

static bool ends_with(const char *name, const char *end)
{
  const size_t n = strlen(name), n_end = strlen(end);
  return n >= n_end && strcmp(name + n - n_end, end) == 0;
}

/* Tensors that older checkpoints carry and nobody needs. */
static bool is_buffer(const ingot_model_spec *spec, const char *name)
{
  if (ends_with(name, ".rotary_emb.inv_freq")) return true;
  if (spec->conv1d && (ends_with(name, ".attn.bias") || ends_with(name, ".attn.masked_bias"))) return true;
  return spec->tied && strcmp(name, "lm_head.weight") == 0;
}

static ingot_status bind_one(const ingot_model_param *param, const ingot_source *src, int *tensor)
{
  ingot_status st = INGOT_OK;
  char         wanted[INGOT_SHAPE_TEXT], found[INGOT_SHAPE_TEXT];
  *tensor = ingot_source_find(src, param->name);
  if (*tensor < 0) *tensor = ingot_source_find(src, ingot_model_short_name(param->name));
  INGOT_CHECK(*tensor >= 0, INGOT_ERR_MISMATCH, "%s: no tensor %s, which config.json asks for", ingot_source_path(src),
              param->name);
  const ingot_tensor_info *info = ingot_source_tensor(src, *tensor);
  INGOT_CHECK(ingot_shape_equal(&info->shape, &param->shape), INGOT_ERR_MISMATCH,
              "%s: %s is %s, and config.json asks for %s", ingot_source_path(src), info->name,
              ingot_shape_text(&info->shape, found), ingot_shape_text(&param->shape, wanted));
  INGOT_CHECK(ingot_dtype_is_float(info->dtype), INGOT_ERR_MISMATCH, "%s: %s is %s, not a floating-point dtype",
              ingot_source_path(src), info->name, ingot_dtype_name(info->dtype));
done:
  return st;
}

ingot_status ingot_model_layout_bind(const ingot_model_layout *layout, const ingot_model_spec *spec,
                                     const ingot_source *src, int *tensor)
{
  ingot_status st = INGOT_OK;
  const int    n_tensor = ingot_source_count(src);
  bool        *used = calloc((size_t)n_tensor + 1, sizeof *used);
  INGOT_CHECK(used, INGOT_ERR_NOMEM, "no memory for the names of %d tensors", n_tensor);
  for (int i = 0; i < layout->n_param; i++) {
    INGOT_TRY(bind_one(&layout->params[i], src, &tensor[i]));
    used[tensor[i]] = true;
  }
  for (int i = 0; i < n_tensor; i++) {
    const char *name = ingot_source_tensor(src, i)->name;
    INGOT_CHECK(used[i] || is_buffer(spec, name), INGOT_ERR_MISMATCH,
                "%s: tensor %s is not a part of a %s model as config.json describes it", ingot_source_path(src), name,
                spec->family);
  }
done:
  free(used);
  return st;
}
