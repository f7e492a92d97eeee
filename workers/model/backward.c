/* The layers, backwards. d_stream is the gradient of the residual stream at the point that has been reached. */
#include "workers/model/pass_internal.h"

/* Gradients of one linear layer from dy, the gradient of its output: its tap, its weights and biases, and dx. */
static ingot_status linear_backward(const ingot_pass_state *run, int linear, const void *x, const void *dy, void *dx)
{
  ingot_status              st = INGOT_OK;
  const ingot_model_linear *l = &run->model->layout.linears[linear];
  float                    *gradient, beta;
  INGOT_TRY(ingot_pass_tap_output(run, linear, 0, run->n_token, dy, l->n_out));
  if (run->gradients) {
    INGOT_TRY(ingot_pass_open_gradient(run, l->first_param, l->n_param, &gradient, &beta));
    INGOT_TRY(run->ops->matmul(run->nn, l->n_out, l->n_in, run->n_token, 1, (ingot_nn_matrix){dy, l->n_out, true},
                               (ingot_nn_matrix){x, l->n_in, false}, beta, gradient, l->n_in, INGOT_DTYPE_F32, NULL));
    INGOT_TRY(ingot_pass_close_gradient(run, l->first_param, l->n_param));
    if (l->first_bias >= 0) {
      INGOT_TRY(ingot_pass_open_cleared(run, l->first_bias, l->n_param, &gradient));
      INGOT_TRY(run->ops->column_sum(run->nn, run->n_token, l->n_out, dy, l->n_out, gradient));
      INGOT_TRY(ingot_pass_close_gradient(run, l->first_bias, l->n_param));
    }
  }
  INGOT_TRY(run->ops->matmul(run->nn, run->n_token, l->n_in, l->n_out, 1, (ingot_nn_matrix){dy, l->n_out, false},
                             (ingot_nn_matrix){ingot_model_weight(run->model, l->first_param), l->n_in, false}, 0, dx,
                             l->n_in, run->nn->dtype, NULL));
done:
  return st;
}

/* One norm with its gradients; weight and bias are adjacent parameters. */
static ingot_status norm_backward(const ingot_pass_state *run, const ingot_nn_norm *shape, ingot_param_role role,
                                  int layer, const void *x, const float *stats, const void *dy, const void *residual,
                                  void *dx)
{
  ingot_status st = INGOT_OK;
  const int    param = ingot_pass_param(run, role, layer);
  const int    n = shape->centred ? 2 : 1;
  float       *d_weight = NULL, *d_bias = NULL;
  INGOT_TRY(ingot_pass_open_cleared(run, param, n, &d_weight));
  if (d_weight && shape->centred) {
    const ingot_model_param *p = &run->model->layout.params[param];
    d_bias = d_weight + (p[1].offset - p[0].offset);
  }
  INGOT_TRY(run->ops->norm_backward(run->nn, shape, x, ingot_model_weight(run->model, param), stats, dy, residual, dx,
                                    d_weight, d_bias));
  INGOT_TRY(ingot_pass_close_gradient(run, param, n));
done:
  return st;
}

static ingot_status inner_block(const ingot_pass_state *run, int index, const ingot_pass_layer *layer)
{
  ingot_status            st = INGOT_OK;
  ingot_pass             *pass = run->pass;
  const ingot_model_spec *spec = &run->model->spec;
  const int               linear = index * INGOT_LINEARS_OF_LAYER;
  const void             *d_inner;
  INGOT_TRY(linear_backward(run, linear + INGOT_LINEAR_DOWN, layer->active, pass->d_stream, pass->d_active));
  if (spec->gated) {
    INGOT_TRY(
        run->ops->swiglu_backward(run->nn, run->n_token, spec->inner, layer->inner, pass->d_active, layer->inner));
    d_inner = layer->inner;
  } else { /* the activation has served: its place takes the gradient */
    INGOT_TRY(
        run->ops->gelu_backward(run->nn, run->n_token * spec->inner, layer->inner, pass->d_active, layer->active));
    d_inner = layer->active;
  }
  INGOT_TRY(linear_backward(run, linear + INGOT_LINEAR_INNER, layer->norm2, d_inner, pass->d_norm));
done:
  return st;
}

/* Back through rotation and q/k norms, to the gradient of the fused product in d_qkv. */
static ingot_status heads_backward(const ingot_pass_state *run, int index, const ingot_pass_layer *layer)
{
  ingot_status             st = INGOT_OK;
  ingot_pass              *pass = run->pass;
  const ingot_model_spec  *spec = &run->model->spec;
  const int64_t            q = ingot_spec_q(spec), kv = ingot_spec_kv(spec);
  const ingot_nn_attention shape = ingot_pass_attention_shape(run, index);
  void                    *qk = ingot_pass_qk(layer), *d_qk = spec->qk_norm ? pass->d_qk : pass->d_qkv;
  INGOT_TRY(run->ops->attention_backward(run->nn, &shape, qk, ingot_pass_at(run, qk, q),
                                         ingot_pass_at(run, layer->qkv, q + kv), layer->heads, layer->lse,
                                         pass->d_heads, d_qk, ingot_pass_at(run, d_qk, q),
                                         ingot_pass_at(run, pass->d_qkv, q + kv)));
  if (!spec->learned_positions) {
    const ingot_nn_rope rope = ingot_pass_rope_shape(run);
    INGOT_TRY(run->ops->rope(run->nn, &rope, d_qk, true));
  }
  if (!spec->qk_norm) goto done;
  const ingot_nn_norm q_shape = ingot_pass_head_norm_shape(run, spec->n_head);
  const ingot_nn_norm k_shape = ingot_pass_head_norm_shape(run, spec->n_kv_head);
  INGOT_TRY(norm_backward(run, &k_shape, INGOT_ROLE_K_NORM, index, ingot_pass_at(run, layer->qkv, q), layer->stats_k,
                          ingot_pass_at(run, d_qk, q), NULL, ingot_pass_at(run, pass->d_qkv, q)));
  INGOT_TRY(
      norm_backward(run, &q_shape, INGOT_ROLE_Q_NORM, index, layer->qkv, layer->stats_q, d_qk, NULL, pass->d_qkv));
done:
  return st;
}

static ingot_status embedding_backward(const ingot_pass_state *run)
{
  ingot_status            st = INGOT_OK;
  const ingot_pass       *pass = run->pass;
  const ingot_model_spec *spec = &run->model->spec;
  const int               table = ingot_pass_param(run, INGOT_ROLE_EMBEDDING, -1);
  const int               position = ingot_pass_param(run, INGOT_ROLE_POSITION, -1);
  float                  *gradient, beta;
  if (!run->gradients) goto done;
  if (position >= 0) {
    INGOT_TRY(ingot_pass_open_cleared(run, position, 1, &gradient));
    INGOT_TRY(run->ops->embedding_backward(run->nn, run->n_token, spec->hidden, spec->n_position, pass->positions,
                                           pass->d_stream, gradient));
    INGOT_TRY(ingot_pass_close_gradient(run, position, 1));
  }
  if (spec->tied) /* holds the head's gradient already */
    INGOT_TRY(ingot_pass_open_gradient(run, table, 1, &gradient, &beta));
  else INGOT_TRY(ingot_pass_open_cleared(run, table, 1, &gradient));
  INGOT_TRY(run->ops->embedding_backward(run->nn, run->n_token, spec->hidden, spec->n_vocab, pass->tokens,
                                         pass->d_stream, gradient));
  INGOT_TRY(ingot_pass_close_gradient(run, table, 1));
done:
  return st;
}

ingot_status ingot_pass_backward(const ingot_pass_state *run)
{
  ingot_status        st = INGOT_OK;
  ingot_pass         *pass = run->pass;
  const ingot_nn_norm norm = ingot_pass_norm_shape(run);
  INGOT_TRY(norm_backward(run, &norm, INGOT_ROLE_FINAL_NORM_WEIGHT, -1, pass->final_input, pass->final_stats,
                          pass->d_norm, NULL, pass->d_stream));
  for (int i = run->model->spec.n_layer - 1; i >= 0; i--) {
    const ingot_pass_layer *layer = &pass->layers[i];
    const int               linear = i * INGOT_LINEARS_OF_LAYER;
    /* The last layer's is still there from the pass forward. */
    if (pass->options.recompute && i < run->model->spec.n_layer - 1) INGOT_TRY(ingot_pass_forward_again(run, i));
    INGOT_TRY(inner_block(run, i, layer));
    INGOT_TRY(norm_backward(run, &norm, INGOT_ROLE_NORM2_WEIGHT, i, layer->middle, layer->stats2, pass->d_norm,
                            pass->d_stream, pass->d_stream));
    INGOT_TRY(linear_backward(run, linear + INGOT_LINEAR_O, layer->heads, pass->d_stream, pass->d_heads));
    INGOT_TRY(heads_backward(run, i, layer));
    INGOT_TRY(linear_backward(run, linear + INGOT_LINEAR_QKV, layer->norm1, pass->d_qkv, pass->d_norm));
    INGOT_TRY(norm_backward(run, &norm, INGOT_ROLE_NORM1_WEIGHT, i, layer->input, layer->stats1, pass->d_norm,
                            pass->d_stream, pass->d_stream));
  }
  INGOT_TRY(embedding_backward(run));
done:
  return st;
}
