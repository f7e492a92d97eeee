/* The layers, forwards. A block's output is added to the residual stream by the norm that follows it. */
#include <math.h>

#include "workers/model/pass_internal.h"

void *ingot_pass_at(const ingot_pass_state *run, const void *rows, int64_t column)
{
  return (char *)(uintptr_t)rows + (size_t)column * ingot_dtype_size(run->nn->dtype);
}

int ingot_pass_param(const ingot_pass_state *run, ingot_param_role role, int layer)
{
  const int row = layer < 0 ? run->model->spec.n_layer : layer;
  return run->pass->params[row * INGOT_ROLE_COUNT + (int)role];
}

const void *ingot_pass_weight(const ingot_pass_state *run, ingot_param_role role, int layer)
{
  const int param = ingot_pass_param(run, role, layer);
  return param < 0 ? NULL : ingot_model_weight(run->model, param);
}

void *ingot_pass_qk(const ingot_pass_layer *layer)
{
  return layer->qk ? layer->qk : layer->qkv;
}

ingot_nn_norm ingot_pass_norm_shape(const ingot_pass_state *run)
{
  const ingot_model_spec *spec = &run->model->spec;
  return (ingot_nn_norm){.centred = spec->layer_norm,
                         .eps = spec->eps,
                         .n_token = run->n_token,
                         .n_group = 1,
                         .width = spec->hidden,
                         .ld_x = spec->hidden,
                         .ld_y = spec->hidden};
}

/* q or k heads: from their columns of qkv to their columns of qk. */
ingot_nn_norm ingot_pass_head_norm_shape(const ingot_pass_state *run, int n_group)
{
  const ingot_model_spec *spec = &run->model->spec;
  const int64_t           q = ingot_spec_q(spec), kv = ingot_spec_kv(spec);
  return (ingot_nn_norm){.eps = spec->eps,
                         .n_token = run->n_token,
                         .n_group = n_group,
                         .width = spec->head_dim,
                         .ld_x = q + 2 * kv,
                         .ld_y = q + kv};
}

/* Heads of q and k follow each other: one call turns both. */
ingot_nn_rope ingot_pass_rope_shape(const ingot_pass_state *run)
{
  const ingot_model_spec *spec = &run->model->spec;
  const int64_t           q = ingot_spec_q(spec), kv = ingot_spec_kv(spec);
  return (ingot_nn_rope){.n_token = run->n_token,
                         .n_head = spec->n_head + spec->n_kv_head,
                         .head_dim = spec->head_dim,
                         .rotary_dim = spec->head_dim,
                         .ld = spec->qk_norm ? q + kv : q + 2 * kv,
                         .cos = run->pass->cos,
                         .sin = run->pass->sin,
                         .positions = run->pass->positions};
}

ingot_nn_attention ingot_pass_attention_shape(const ingot_pass_state *run, int layer)
{
  const ingot_model_spec *spec = &run->model->spec;
  const int64_t           q = ingot_spec_q(spec), kv = ingot_spec_kv(spec);
  const int64_t           ld_qk = spec->qk_norm ? q + kv : q + 2 * kv;
  return (ingot_nn_attention){.n_batch = run->n_batch,
                              .n_time = run->n_time,
                              .n_head = spec->n_head,
                              .n_kv_head = spec->n_kv_head,
                              .head_dim = spec->head_dim,
                              .scale = (float)(1 / sqrt((double)spec->head_dim)),
                              .window = spec->layer_windowed[layer] ? spec->window : 0,
                              .first_key = run->first_key,
                              .ld_q = ld_qk,
                              .ld_k = ld_qk,
                              .ld_v = q + 2 * kv,
                              .ld_o = q};
}

ingot_status ingot_pass_tap_input(const ingot_pass_state *run, int linear, int64_t width, const void *x)
{
  if (!run->taps || !run->taps->input) return INGOT_OK;
  return run->taps->input(run->taps->context, run->nn, linear, run->n_token, width, x, width, run->valid);
}

/* y [n_out] = x W^T + bias of one linear layer, after its tap. */
static ingot_status apply_linear(const ingot_pass_state *run, int linear, const void *x, void *y)
{
  const ingot_model_linear *l = &run->model->layout.linears[linear];
  ingot_status              st = ingot_pass_tap_input(run, linear, l->n_in, x);
  if (st != INGOT_OK) return st;
  return run->ops->matmul(run->nn, run->n_token, l->n_out, l->n_in, 1, (ingot_nn_matrix){x, l->n_in, false},
                          (ingot_nn_matrix){ingot_model_weight(run->model, l->first_param), l->n_in, true}, 0, y,
                          l->n_out, run->nn->dtype,
                          l->first_bias < 0 ? NULL : ingot_model_weight(run->model, l->first_bias));
}

static ingot_status norm_heads(const ingot_pass_state *run, int index, const ingot_pass_layer *layer)
{
  ingot_status            st = INGOT_OK;
  const ingot_model_spec *spec = &run->model->spec;
  const int64_t           q = ingot_spec_q(spec);
  const ingot_nn_norm     q_shape = ingot_pass_head_norm_shape(run, spec->n_head);
  const ingot_nn_norm     k_shape = ingot_pass_head_norm_shape(run, spec->n_kv_head);
  INGOT_TRY(run->ops->norm(run->nn, &q_shape, layer->qkv, NULL, NULL, ingot_pass_weight(run, INGOT_ROLE_Q_NORM, index),
                           NULL, layer->qk, layer->stats_q));
  INGOT_TRY(run->ops->norm(run->nn, &k_shape, ingot_pass_at(run, layer->qkv, q), NULL, NULL,
                           ingot_pass_weight(run, INGOT_ROLE_K_NORM, index), NULL, ingot_pass_at(run, layer->qk, q),
                           layer->stats_k));
done:
  return st;
}

/* From norm1 to delta. */
static ingot_status attention_block(const ingot_pass_state *run, int index, const ingot_pass_layer *layer)
{
  ingot_status             st = INGOT_OK;
  const ingot_model_spec  *spec = &run->model->spec;
  const int64_t            q = ingot_spec_q(spec), kv = ingot_spec_kv(spec);
  const int                linear = index * INGOT_LINEARS_OF_LAYER;
  const ingot_nn_attention shape = ingot_pass_attention_shape(run, index);
  INGOT_TRY(apply_linear(run, linear + INGOT_LINEAR_QKV, layer->norm1, layer->qkv));
  if (spec->qk_norm) INGOT_TRY(norm_heads(run, index, layer));
  void *qk = ingot_pass_qk(layer);
  if (!spec->learned_positions) {
    const ingot_nn_rope rope = ingot_pass_rope_shape(run);
    INGOT_TRY(run->ops->rope(run->nn, &rope, qk, false));
  }
  if (run->cache) INGOT_TRY(ingot_pass_cache_layer(run, index, layer));
  else
    INGOT_TRY(run->ops->attention(run->nn, &shape, qk, ingot_pass_at(run, qk, q),
                                  ingot_pass_at(run, layer->qkv, q + kv), layer->heads, layer->lse));
  INGOT_TRY(apply_linear(run, linear + INGOT_LINEAR_O, layer->heads, run->pass->delta));
done:
  return st;
}

static int layers_of(const ingot_pass_state *run)
{
  return run->taps && run->taps->n_layer > 0 ? run->taps->n_layer : run->model->spec.n_layer;
}

/* Something follows the layers. */
static bool needs_final(const ingot_pass_state *run)
{
  return run->head || (run->taps && run->taps->head) || run->pass->options.hidden;
}

/* From norm2 to the activation. */
static ingot_status activate(const ingot_pass_state *run, int index, const ingot_pass_layer *layer)
{
  const ingot_model_spec *spec = &run->model->spec;
  ingot_status st = apply_linear(run, index * INGOT_LINEARS_OF_LAYER + INGOT_LINEAR_INNER, layer->norm2, layer->inner);
  if (st != INGOT_OK) return st;
  if (spec->gated) return run->ops->swiglu(run->nn, run->n_token, spec->inner, layer->inner, layer->active);
  return run->ops->gelu(run->nn, run->n_token * spec->inner, layer->inner, layer->active);
}

/* From norm2 to delta. */
static ingot_status inner_block(const ingot_pass_state *run, int index, const ingot_pass_layer *layer)
{
  ingot_status            st = INGOT_OK;
  const ingot_model_spec *spec = &run->model->spec;
  const int               linear = index * INGOT_LINEARS_OF_LAYER;
  INGOT_TRY(activate(run, index, layer));
  if (index == layers_of(run) - 1 && !needs_final(run)) /* nobody reads the last product */
    INGOT_TRY(ingot_pass_tap_input(run, linear + INGOT_LINEAR_DOWN, spec->inner, layer->active));
  else INGOT_TRY(apply_linear(run, linear + INGOT_LINEAR_DOWN, layer->active, run->pass->delta));
done:
  return st;
}

/* The stream plus delta into `sum`, and its norm. */
static ingot_status norm_stream(const ingot_pass_state *run, int index, bool second, const void *stream,
                                const void *delta, void *sum, const ingot_pass_layer *layer)
{
  const ingot_nn_norm    norm = ingot_pass_norm_shape(run);
  const ingot_param_role weight = second ? INGOT_ROLE_NORM2_WEIGHT : INGOT_ROLE_NORM1_WEIGHT;
  const ingot_param_role bias = second ? INGOT_ROLE_NORM2_BIAS : INGOT_ROLE_NORM1_BIAS;
  return run->ops->norm(run->nn, &norm, stream, delta, sum, ingot_pass_weight(run, weight, index),
                        ingot_pass_weight(run, bias, index), second ? layer->norm2 : layer->norm1,
                        second ? layer->stats2 : layer->stats1);
}

ingot_status ingot_pass_forward_again(const ingot_pass_state *run, int index)
{
  ingot_status            st = INGOT_OK;
  ingot_pass_state        again = *run;
  const ingot_pass_layer *layer = &run->pass->layers[index];
  again.taps = NULL; /* they have seen it */
  INGOT_TRY(norm_stream(&again, index, false, layer->input, NULL, NULL, layer));
  INGOT_TRY(attention_block(&again, index, layer));
  INGOT_TRY(norm_stream(&again, index, true, layer->input, run->pass->delta, layer->middle, layer));
  INGOT_TRY(activate(&again, index, layer));
done:
  return st;
}

ingot_status ingot_pass_forward(const ingot_pass_state *run)
{
  ingot_status            st = INGOT_OK;
  ingot_pass             *pass = run->pass;
  const ingot_model_spec *spec = &run->model->spec;
  const ingot_nn_norm     norm = ingot_pass_norm_shape(run);
  const void             *stream = pass->layers[0].input, *delta = NULL;
  INGOT_TRY(run->ops->embedding(run->nn, run->n_token, spec->hidden, pass->tokens,
                                ingot_pass_weight(run, INGOT_ROLE_EMBEDDING, -1),
                                spec->learned_positions ? pass->positions : NULL,
                                ingot_pass_weight(run, INGOT_ROLE_POSITION, -1), pass->layers[0].input));
  for (int i = 0; i < layers_of(run); i++) {
    const ingot_pass_layer *layer = &pass->layers[i];
    INGOT_TRY(norm_stream(run, i, false, stream, delta, delta ? layer->input : NULL, layer));
    INGOT_TRY(attention_block(run, i, layer));
    INGOT_TRY(norm_stream(run, i, true, layer->input, pass->delta, layer->middle, layer));
    INGOT_TRY(inner_block(run, i, layer));
    stream = layer->middle;
    delta = pass->delta;
  }
  if (!needs_final(run)) goto done;
  INGOT_TRY(run->ops->norm(run->nn, &norm, stream, delta, pass->final_input,
                           ingot_pass_weight(run, INGOT_ROLE_FINAL_NORM_WEIGHT, -1),
                           ingot_pass_weight(run, INGOT_ROLE_FINAL_NORM_BIAS, -1), pass->final_norm,
                           pass->final_stats));
done:
  return st;
}
