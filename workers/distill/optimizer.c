#include "workers/distill/optimizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "kernels/nn/cuda_open.h"

enum { SLICE_MULTIPLE = 128, PIECE = 1 << 22 };

static int64_t slice_length(int64_t n_elem, int size)
{
  int64_t length = (n_elem + size - 1) / size;
  return (length + SLICE_MULTIPLE - 1) / SLICE_MULTIPLE * SLICE_MULTIPLE;
}

void ingot_optimizer_slice(int64_t n_elem, int rank, int size, int64_t *begin, int64_t *end)
{
  int64_t length = slice_length(n_elem, size);
  *begin = rank * length < n_elem ? rank * length : n_elem;
  *end = *begin + length < n_elem ? *begin + length : n_elem;
}

uint64_t ingot_optimizer_bytes(int64_t n_elem, ingot_dtype dtype, int n_rank)
{
  int64_t begin, end;
  ingot_optimizer_slice(n_elem, 0, n_rank, &begin, &end);
  uint64_t arrays = dtype == INGOT_DTYPE_F32 ? 2 : 3;
  return ((uint64_t)(slice_length(n_elem, n_rank) * n_rank) + arrays * (uint64_t)(end - begin)) * sizeof(float);
}

static ingot_status alloc(ingot_optimizer *o, int64_t n, float **out)
{
  ingot_nn    *nn = o->model->nn;
  void        *memory = NULL;
  size_t       bytes = (size_t)(n > 0 ? n : 1) * sizeof(float);
  ingot_status st = nn->ops->alloc(nn, bytes, &memory);
  *out = memory;
  return st == INGOT_OK ? nn->ops->zero(nn, memory, bytes) : st;
}

static char *own_weights(const ingot_optimizer *o)
{
  return (char *)o->model->weights + (size_t)o->begin * ingot_dtype_size(o->model->nn->dtype);
}

static ingot_status init_own(ingot_optimizer *o)
{
  ingot_status st = INGOT_OK;
  ingot_nn    *nn = o->model->nn;
  int64_t      n_elem = o->model->layout.n_elem, n;
  ingot_optimizer_slice(n_elem, ingot_comm_rank(o->comm), ingot_comm_size(o->comm), &o->begin, &o->end);
  n = o->end - o->begin;
  INGOT_TRY(alloc(o, slice_length(n_elem, ingot_comm_size(o->comm)) * ingot_comm_size(o->comm), &o->gradient));
  INGOT_TRY(alloc(o, n, &o->m));
  INGOT_TRY(alloc(o, n, &o->v));
  if (nn->dtype == INGOT_DTYPE_F32) {
    o->master = (float *)(void *)own_weights(o);
  } else {
    INGOT_TRY(alloc(o, n, &o->master));
    INGOT_TRY(nn->ops->widen(nn, n, own_weights(o), o->master));
  }
done:
  return st;
}

static ingot_status open_host(ingot_optimizer *o)
{
  int64_t n_elem = o->model->layout.n_elem;
  if (ingot_comm_size(o->comm) == 1 || o->model->nn->kind != INGOT_NN_CUDA || o->nccl) return INGOT_OK;
  o->host = malloc((size_t)n_elem * sizeof(float));
  return o->host ? INGOT_OK
                 : ingot_fail(INGOT_ERR_NOMEM, "no memory on the host for %lld parameters", (long long)n_elem);
}

/* NCCL where every rank has a GPU of its own; else sums go through the host. */
static ingot_status open_nccl(ingot_optimizer *o)
{
  ingot_status  st = INGOT_OK;
  ingot_nn     *nn = o->model->nn;
  unsigned char id[INGOT_NCCL_ID_BYTES] = {0};
  int64_t       shared = 0, first = -1;
  if (ingot_comm_size(o->comm) == 1 || nn->kind != INGOT_NN_CUDA || !ingot_nccl_built()) return INGOT_OK;
  first = ingot_comm_local_rank(o->comm) != nn->device; /* as many GPUs as ranks: rank r of the node has GPU r */
  shared = first;
  INGOT_TRY(ingot_comm_max_i64(o->comm, &shared, 1));
  if (shared) goto done;
  st = ingot_comm_rank(o->comm) == 0 ? ingot_nccl_id_make(id) : INGOT_OK;
  INGOT_TRY(ingot_comm_agree(o->comm, st));
  INGOT_TRY(ingot_comm_bcast(o->comm, id, sizeof id, 0));
  st = ingot_nccl_open(nn->device, ingot_comm_rank(o->comm), ingot_comm_size(o->comm), id, &o->nccl);
  INGOT_TRY(ingot_comm_agree(o->comm, st));
done:
  return st;
}

ingot_status ingot_optimizer_init(ingot_optimizer *o, ingot_comm *comm, ingot_model *model)
{
  *o = (ingot_optimizer){.comm = comm, .model = model};
  ingot_status st = ingot_comm_agree(comm, init_own(o));
  if (st == INGOT_OK) st = open_nccl(o);
  return st == INGOT_OK ? ingot_comm_agree(comm, open_host(o)) : st;
}

void ingot_optimizer_release(ingot_optimizer *o)
{
  if (!o->model) return;
  ingot_nn *nn = o->model->nn;
  ingot_nccl_close(&o->nccl);
  nn->ops->free(nn, o->gradient);
  nn->ops->free(nn, o->m);
  nn->ops->free(nn, o->v);
  if (nn->dtype != INGOT_DTYPE_F32) nn->ops->free(nn, o->master);
  free(o->host);
  *o = (ingot_optimizer){0};
}

static ingot_status open_gradient(void *context, ingot_nn *nn, int first, int n, float **memory, bool *add)
{
  ingot_optimizer *o = context;
  (void)nn;
  (void)n;
  *memory = o->gradient + o->model->layout.params[first].offset;
  *add = true;
  return INGOT_OK;
}

ingot_gradients ingot_optimizer_door(ingot_optimizer *o)
{
  return (ingot_gradients){.context = o, .open = open_gradient};
}

ingot_status ingot_optimizer_clear(ingot_optimizer *o)
{
  ingot_nn *nn = o->model->nn;
  return nn->ops->zero(nn, o->gradient, (size_t)o->model->layout.n_elem * sizeof(float));
}

/* What came before is over, the exchange is waited for, and its time is counted. All ranks end with the same status. */
static ingot_status timed(ingot_optimizer *o, ingot_status (*exchange)(ingot_optimizer *))
{
  ingot_status st = INGOT_OK;
  ingot_nn    *nn = o->model->nn;
  double       start_s;
  if (ingot_comm_size(o->comm) == 1) return INGOT_OK;
  INGOT_TRY(ingot_comm_agree(o->comm, nn->ops->wait(nn)));
  start_s = ingot_clock_s();
  st = exchange(o);
  if (st == INGOT_OK) st = nn->ops->wait(nn);
  INGOT_TRY(ingot_comm_agree(o->comm, st));
  o->exchange_s += ingot_clock_s() - start_s;
done:
  return st;
}

static ingot_status exchange_gradient(ingot_optimizer *o)
{
  ingot_status st = INGOT_OK;
  ingot_nn    *nn = o->model->nn;
  int64_t      n = o->model->layout.n_elem;
  if (nn->kind == INGOT_NN_CPU) return ingot_comm_sum_f32(o->comm, o->gradient, n);
  if (o->nccl)
    return ingot_nccl_sum_slices(o->nccl, slice_length(n, ingot_comm_size(o->comm)), o->gradient,
                                 ingot_nn_cuda_stream(nn));
  INGOT_TRY(ingot_comm_agree(o->comm, nn->ops->copy_out(nn, o->host, o->gradient, (size_t)n * sizeof(float))));
  INGOT_TRY(ingot_comm_sum_f32(o->comm, (float *)(void *)o->host, n));
  INGOT_TRY(nn->ops->copy_in(nn, o->gradient, o->host, (size_t)n * sizeof(float)));
done:
  return st;
}

ingot_status ingot_optimizer_sum(ingot_optimizer *o, double *norm)
{
  ingot_status st = INGOT_OK;
  ingot_nn    *nn = o->model->nn;
  double       sum = 0.0;
  st = timed(o, exchange_gradient);
  if (st == INGOT_OK && o->end > o->begin)
    st = nn->ops->sum_squares(nn, o->end - o->begin, o->gradient + o->begin, &sum);
  INGOT_TRY(ingot_comm_agree(o->comm, st));
  INGOT_TRY(ingot_comm_sum_f64(o->comm, &sum, 1));
  *norm = sqrt(sum);
done:
  return st;
}

/* Every rank's slice of the weights to all. */
static ingot_status exchange_weights(ingot_optimizer *o)
{
  ingot_status st = INGOT_OK;
  ingot_nn    *nn = o->model->nn;
  int          size = ingot_comm_size(o->comm);
  size_t       width = ingot_dtype_size(nn->dtype);
  int64_t     *begin = NULL, n_elem = o->model->layout.n_elem, end;
  begin = calloc((size_t)size + 1, sizeof *begin);
  st = begin ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for %d slices", size);
  if (st == INGOT_OK && o->host)
    st = nn->ops->copy_out(nn, o->host + (size_t)o->begin * width, own_weights(o), (size_t)(o->end - o->begin) * width);
  INGOT_TRY(ingot_comm_agree(o->comm, st));
  for (int r = 0; r < size; r++) {
    ingot_optimizer_slice(n_elem, r, size, &begin[r], &end);
    begin[r] *= (int64_t)width;
  }
  begin[size] = n_elem * (int64_t)width;
  if (o->nccl) {
    INGOT_TRY(ingot_nccl_share(o->nccl, o->model->weights, begin, ingot_nn_cuda_stream(nn)));
    goto done;
  }
  INGOT_TRY(ingot_comm_share(o->comm, o->host ? o->host : o->model->weights, begin));
  if (o->host) INGOT_TRY(nn->ops->copy_in(nn, o->model->weights, o->host, (size_t)n_elem * width));
done:
  free(begin);
  return st;
}

ingot_status ingot_optimizer_step(ingot_optimizer *o, const ingot_distill_optimizer *how, double rate,
                                  double gradient_scale, int64_t step)
{
  ingot_status st = INGOT_OK;
  ingot_nn    *nn = o->model->nn;
  bool         whole = nn->dtype == INGOT_DTYPE_F32;
  for (int p = 0; p < o->model->layout.n_param && st == INGOT_OK; p++) {
    const ingot_model_param *param = &o->model->layout.params[p];
    int64_t                  a = param->offset > o->begin ? param->offset : o->begin;
    int64_t                  b = param->offset + param->n_elem < o->end ? param->offset + param->n_elem : o->end;
    if (a >= b) continue;
    int64_t        at = a - o->begin;
    ingot_nn_adamw adamw = {.rate = (float)rate,
                            .beta1 = (float)how->beta1,
                            .beta2 = (float)how->beta2,
                            .epsilon = (float)how->epsilon,
                            .decay = param->shape.n_dim >= 2 ? (float)how->decay : 0.0f,
                            .gradient_scale = (float)gradient_scale,
                            .step = step};
    char          *weight = whole ? NULL : own_weights(o) + (size_t)at * ingot_dtype_size(nn->dtype);
    st = nn->ops->adamw(nn, &adamw, b - a, o->gradient + a, o->master + at, o->m + at, o->v + at, weight);
  }
  INGOT_TRY(ingot_comm_agree(o->comm, st));
  INGOT_TRY(timed(o, exchange_weights));
done:
  return st;
}

ingot_status ingot_optimizer_publish(ingot_optimizer *o)
{
  ingot_status st = INGOT_OK;
  ingot_nn    *nn = o->model->nn;
  if (nn->dtype != INGOT_DTYPE_F32) st = nn->ops->round_to(nn, o->end - o->begin, o->master, own_weights(o));
  INGOT_TRY(ingot_comm_agree(o->comm, st));
  INGOT_TRY(timed(o, exchange_weights));
done:
  return st;
}
