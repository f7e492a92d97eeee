/* The head, a chunk of rows at a time, and the doors for gradients of parameters. */
#include "workers/model/pass_internal.h"

ingot_status ingot_pass_open_gradient(const ingot_pass_state *run, int first, int n, float **memory, float *beta)
{
  bool add = true;
  *memory = NULL;
  *beta = 1;
  if (!run->gradients) return INGOT_OK;
  ingot_status st = run->gradients->open(run->gradients->context, run->nn, first, n, memory, &add);
  *beta = add ? 1 : 0;
  return st;
}

ingot_status ingot_pass_open_cleared(const ingot_pass_state *run, int first, int n, float **memory)
{
  float        beta;
  ingot_status st = ingot_pass_open_gradient(run, first, n, memory, &beta);
  if (st != INGOT_OK || !*memory || beta != 0) return st;
  const ingot_model_param *p = &run->model->layout.params[first], *last = p + n - 1;
  const size_t             n_elem = (size_t)(last->offset + last->n_elem - p->offset);
  return run->ops->zero(run->nn, *memory, n_elem * sizeof **memory);
}

ingot_status ingot_pass_close_gradient(const ingot_pass_state *run, int first, int n)
{
  if (!run->gradients || !run->gradients->done) return INGOT_OK;
  return run->gradients->done(run->gradients->context, run->nn, first, n);
}

ingot_status ingot_pass_tap_output(const ingot_pass_state *run, int linear, int64_t first_row, int64_t n_row,
                                   const void *dy, int64_t ld)
{
  ingot_status              st = INGOT_OK;
  const ingot_model_linear *l = &run->model->layout.linears[linear];
  if (!run->taps || !run->taps->output_gradient) return INGOT_OK;
  int64_t column = 0;
  for (int i = 0; i < l->n_param && st == INGOT_OK; i++) {
    const ingot_model_param *p = &run->model->layout.params[l->first_param + i];
    const int64_t            width = p->shape.dim[p->transposed ? 1 : 0];
    st = run->taps->output_gradient(run->taps->context, run->nn, linear, l->first_param + i, n_row, width,
                                    ingot_pass_at(run, dy, column), ld, run->valid ? run->valid + first_row : NULL);
    column += width;
  }
  return st;
}

/* Gradients of one chunk: its tap, the rows of d_norm, and the head's weights. */
static ingot_status chunk_backward(const ingot_pass_state *run, int linear, int64_t first, int64_t n_row, float beta,
                                   float *d_weight)
{
  ingot_status              st = INGOT_OK;
  const ingot_pass         *pass = run->pass;
  const ingot_model_linear *l = &run->model->layout.linears[linear];
  const void               *x = ingot_pass_at(run, pass->final_norm, first * l->n_in);
  if (run->taps && run->taps->head)
    INGOT_TRY(ingot_pass_tap_output(run, linear, first, n_row, pass->d_logits, pass->ld_logits));
  INGOT_TRY(run->ops->matmul(run->nn, n_row, l->n_in, l->n_out, 1,
                             (ingot_nn_matrix){pass->d_logits, pass->ld_logits, false},
                             (ingot_nn_matrix){ingot_model_weight(run->model, l->first_param), l->n_in, false}, 0,
                             ingot_pass_at(run, pass->d_norm, first * l->n_in), l->n_in, run->nn->dtype, NULL));
  if (d_weight)
    INGOT_TRY(run->ops->matmul(run->nn, l->n_out, l->n_in, n_row, 1,
                               (ingot_nn_matrix){pass->d_logits, pass->ld_logits, true},
                               (ingot_nn_matrix){x, l->n_in, false}, beta, d_weight, l->n_in, INGOT_DTYPE_F32, NULL));
done:
  return st;
}

ingot_status ingot_pass_head_logits(ingot_pass *pass, int64_t first_row, int64_t n_row, ingot_nn_logits *z)
{
  const char *x = pass->final_norm;
  x += (size_t)(first_row * pass->model->spec.hidden) * ingot_dtype_size(pass->nn->dtype);
  return ingot_pass_rows_logits(pass, x, n_row, z);
}

ingot_status ingot_pass_rows_logits(ingot_pass *pass, const void *x, int64_t n_row, ingot_nn_logits *z)
{
  const ingot_model_linear *l = &pass->model->layout.linears[pass->model->layout.n_linear - 1];
  *z = (ingot_nn_logits){pass->logits, n_row, l->n_out, pass->ld_logits};
  return pass->nn->ops->matmul(pass->nn, n_row, l->n_out, l->n_in, 1, (ingot_nn_matrix){x, l->n_in, false},
                               (ingot_nn_matrix){ingot_model_weight(pass->model, l->first_param), l->n_in, true}, 0,
                               pass->logits, pass->ld_logits, INGOT_DTYPE_F32, NULL);
}

ingot_status ingot_pass_run_head(const ingot_pass_state *run)
{
  ingot_status              st = INGOT_OK;
  const ingot_pass         *pass = run->pass;
  const int                 linear = run->model->layout.n_linear - 1;
  const ingot_model_linear *l = &run->model->layout.linears[linear];
  float                    *d_weight = NULL, beta = 0;
  if (run->taps && run->taps->head) INGOT_TRY(ingot_pass_tap_input(run, linear, l->n_in, pass->final_norm));
  if (!run->head) goto done;
  if (run->backward) INGOT_TRY(ingot_pass_open_gradient(run, l->first_param, 1, &d_weight, &beta));
  for (int64_t first = 0; first < run->n_token; first += pass->head_rows) {
    const int64_t   n_row = run->n_token - first < pass->head_rows ? run->n_token - first : pass->head_rows;
    ingot_nn_logits z;
    INGOT_TRY(ingot_pass_head_logits(run->pass, first, n_row, &z));
    INGOT_TRY(run->head->chunk(run->head->context, run->nn, first, &z, run->labels ? run->labels + first : NULL,
                               run->backward ? pass->d_logits : NULL));
    if (!run->backward) continue;
    INGOT_TRY(chunk_backward(run, linear, first, n_row, beta, d_weight));
    beta = 1;
  }
  /* A tied embedding is complete only when its rows have been added. */
  if (run->backward && !run->model->spec.tied) INGOT_TRY(ingot_pass_close_gradient(run, l->first_param, 1));
done:
  return st;
}
