/*
 * Diagonal Fisher information: the mean over examples of the squared gradient of the example's loss. Squared example by
 * example, after the gradients of its tokens and of tied uses are added up; never is there a second array of all
 * gradients.
 *
 * EXACT: given the text before them the labels of an example's tokens are drawn independently, and each token's
 * expected gradient is 0; so the expectation of the square of the sum is the sum over tokens and classes of p(class)
 * times the square of that token's gradient for that class.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "kernels/convert.h"
#include "workers/statistics/labels.h"

enum { SCRATCH_MAX = 16 };

/* Memory for the gradient of a run of parameters, from its opening until it is squared. */
typedef struct scratch {
  void  *memory;
  size_t bytes;
  int    first; /* -1: free */
} scratch;

/* The tail of one token's distribution as a class: all but ids [k]. */
typedef struct tail_class {
  int64_t        row; /* of the batch; -1: none wanted */
  const int32_t *ids;
  int            k;
  float         *logits; /* [2][n_vocab] room on the host */
} tail_class;

typedef struct fisher {
  ingot_gather      g;
  ingot_label_head  head;
  float            *sums;   /* [layout.n_elem], of the back end */
  float             weight; /* of the squares of the example under way */
  scratch           pool[SCRATCH_MAX];
  void             *top_ids, *top_logp; /* EXACT: [length][k], of the back end */
  int32_t          *host_ids, *labels;  /* EXACT: [length][k]; [length] */
  float            *host_logp;
  int               k;
  tail_class        tail;
  ingot_device_sum *sum;    /* over GPUs; NULL: through the host */
  float            *turned; /* sums of turned_param as the checkpoint has them; NULL: of none */
  int               turned_param;
  ingot_text        state;
} fisher;

uint64_t ingot_fisher_bytes(const ingot_gather_plan *plan, const ingot_model_spec *spec,
                            const ingot_model_layout *layout)
{
  ingot_dtype        dtype = ingot_compute_dtype(plan->compute);
  ingot_pass_options pass = {.n_batch = 1, .n_time = plan->window.length, .backward = true};
  uint64_t           most = 0;
  for (int i = 0; i < layout->n_param; i++)
    if ((uint64_t)layout->params[i].n_elem > most) most = (uint64_t)layout->params[i].n_elem;
  for (int i = 0; i < layout->n_linear; i++) {
    uint64_t n = (uint64_t)layout->linears[i].n_in * (uint64_t)layout->linears[i].n_out;
    if (n > most) most = n;
  }
  uint64_t scratches = spec->tied ? 2 : 1;
  return ingot_model_bytes(spec, dtype) + ingot_pass_bytes(spec, dtype, &pass) +
         ((uint64_t)layout->n_elem + scratches * most) * sizeof(float);
}

uint64_t ingot_fisher_host_bytes(const ingot_gather_plan *plan, const ingot_model_layout *layout, int64_t n_vocab,
                                 int n_thread)
{
  uint64_t rows = (uint64_t)plan->window.length, labels = rows * sizeof(float);
  int64_t  largest = 0, turned = 0;
  for (int i = 0; i < layout->n_param; i++) {
    const ingot_model_param *p = &layout->params[i];
    if (p->n_elem > largest) largest = p->n_elem;
    if (p->transposed && p->n_elem > turned) turned = p->n_elem;
  }
  if (plan->labels == INGOT_LABELS_EXACT)
    labels += (rows * (uint64_t)(2 * plan->top_k + 1) + 2 * (uint64_t)n_vocab) * sizeof(float);
  return ingot_gather_batch_bytes(plan) + labels + ingot_stat_writer_bytes(largest, INGOT_DTYPE_F32, n_thread) +
         2 * (uint64_t)turned * sizeof(float);
}

/* ---- gradients ---- */

static scratch *find_scratch(fisher *f, int first)
{
  for (int i = 0; i < SCRATCH_MAX; i++)
    if (f->pool[i].memory && f->pool[i].first == first) return &f->pool[i];
  return NULL;
}

static size_t run_bytes(const fisher *f, int first, int n)
{
  const ingot_model_param *a = &f->g.model->layout.params[first], *b = a + n - 1;
  return (size_t)(b->offset + b->n_elem - a->offset) * sizeof(float);
}

/* A free piece that is large enough, as small as possible; else a new one. */
static ingot_status take_scratch(fisher *f, ingot_nn *nn, size_t bytes, scratch **out)
{
  ingot_status st = INGOT_OK;
  scratch     *best = NULL, *empty = NULL;
  for (int i = 0; i < SCRATCH_MAX; i++) {
    scratch *s = &f->pool[i];
    if (!s->memory) empty = s;
    else if (s->first < 0 && s->bytes >= bytes && (!best || s->bytes < best->bytes)) best = s;
  }
  for (int i = 0; !best && i < SCRATCH_MAX; i++) { /* a free one that is too small gives way to a larger one */
    scratch *s = &f->pool[i];
    if (!s->memory || s->first >= 0) continue;
    nn->ops->free(nn, s->memory);
    *s = (scratch){.first = -1};
    empty = s;
  }
  if (!best) {
    INGOT_CHECK(empty, INGOT_ERR_INTERNAL, "more than %d runs of gradients are open", SCRATCH_MAX);
    INGOT_TRY(nn->ops->alloc(nn, bytes, &empty->memory));
    empty->bytes = bytes;
    best = empty;
  }
  *out = best;
done:
  return st;
}

static ingot_status open_gradient(void *context, ingot_nn *nn, int first, int n, float **memory, bool *add)
{
  ingot_status st = INGOT_OK;
  fisher      *f = context;
  scratch     *s = find_scratch(f, first);
  *add = s != NULL; /* a tied embedding's second time */
  if (!s) INGOT_TRY(take_scratch(f, nn, run_bytes(f, first, n), &s));
  s->first = first;
  *memory = s->memory;
done:
  return st;
}

static ingot_status square_gradient(void *context, ingot_nn *nn, int first, int n)
{
  ingot_status             st = INGOT_OK;
  fisher                  *f = context;
  const ingot_model_param *params = f->g.model->layout.params;
  scratch                 *s = find_scratch(f, first);
  INGOT_CHECK(s, INGOT_ERR_INTERNAL, "%s: its gradient was not opened", params[first].name);
  for (int p = first; p < first + n; p++) { /* what lies between parameters is not looked at */
    const float *gradient = (const float *)s->memory + (params[p].offset - params[first].offset);
    INGOT_TRY(nn->ops->add_squares(nn, params[p].n_elem, f->weight, gradient, f->sums + params[p].offset));
  }
  s->first = -1;
done:
  return st;
}

/* ---- the head of the tail class ---- */

/* Gradient of -log of the tail's probability at one row: softmax, less softmax / p(tail) over the tail. */
static ingot_status write_tail_row(fisher *f, ingot_nn *nn, const ingot_nn_logits *z, int64_t row, void *d_logits)
{
  ingot_status st = INGOT_OK;
  double       most = -INFINITY, all = 0.0, top = 0.0;
  float       *v = f->tail.logits;
  INGOT_TRY(nn->ops->copy_out(nn, v, z->data + row * z->ld, (size_t)z->n_vocab * sizeof *v));
  for (int64_t i = 0; i < z->n_vocab; i++) most = fmax(most, (double)v[i]);
  for (int64_t i = 0; i < z->n_vocab; i++) all += exp((double)v[i] - most);
  for (int i = 0; i < f->tail.k; i++) top += exp((double)v[f->tail.ids[i]] - most) / all;
  double rest = 1.0 - top;
  for (int64_t i = 0; i < z->n_vocab; i++) {
    double p = exp((double)v[i] - most) / all;
    bool   is_top = false;
    for (int c = 0; c < f->tail.k; c++) is_top = is_top || f->tail.ids[c] == i;
    v[i] = (float)((double)f->head.scale * (is_top ? p : p - p / rest));
  }
  size_t width = ingot_dtype_size(nn->dtype);
  ingot_narrow(nn->dtype, v, v + z->n_vocab, z->n_vocab);
  INGOT_TRY(nn->ops->copy_in(nn, (char *)d_logits + (size_t)(row * z->ld) * width, v + z->n_vocab,
                             (size_t)z->n_vocab * width));
done:
  return st;
}

static ingot_status exact_chunk(void *context, ingot_nn *nn, int64_t first_row, const ingot_nn_logits *z,
                                const int32_t *labels, void *d_logits)
{
  fisher      *f = context;
  ingot_status st = INGOT_OK;
  if (!d_logits) { /* the first pass: which classes there are */
    st = nn->ops->top_k(nn, z, f->k, (int32_t *)f->top_ids + first_row * f->k, (float *)f->top_logp + first_row * f->k);
    if (st == INGOT_OK) st = nn->ops->cross_entropy(nn, z, labels, 0.0f, (float *)f->head.nll + first_row, NULL, NULL);
    return st;
  }
  INGOT_TRY(ingot_label_head_chunk(&f->head, nn, first_row, z, labels, d_logits));
  if (f->tail.row >= first_row && f->tail.row < first_row + z->n_row)
    st = write_tail_row(f, nn, z, f->tail.row - first_row, d_logits);
done:
  return st;
}

/* ---- examples ---- */

static ingot_status backward(fisher *f, const ingot_batch *batch, const ingot_head *head)
{
  ingot_gradients gradients = {.context = f, .open = open_gradient, .done = square_gradient};
  return ingot_pass_run(f->g.pass, batch, head, NULL, &gradients);
}

/* All classes of the tokens [begin, end) of a window: a pass for each. */
static ingot_status exact_example(fisher *f, ingot_batch *batch, const int32_t *given, int64_t begin, int64_t end)
{
  ingot_status st = INGOT_OK;
  ingot_head   head = {.context = f, .chunk = exact_chunk};
  batch->labels = f->labels;
  for (int64_t t = begin; t < end; t++) {
    if (given[t] == INGOT_NN_IGNORE) continue;
    double rest = 1.0;
    for (int c = 0; c < f->k; c++) {
      double p = exp((double)f->host_logp[t * f->k + c]);
      rest -= p;
      f->weight = (float)p;
      f->labels[t] = f->host_ids[t * f->k + c];
      INGOT_TRY(backward(f, batch, &head));
    }
    f->labels[t] = INGOT_NN_IGNORE;
    if (f->k >= f->g.model->spec.n_vocab || rest < 1e-7) continue; /* float32 holds no smaller rest */
    f->weight = (float)rest;
    f->tail.row = t;
    f->tail.ids = f->host_ids + t * f->k;
    INGOT_TRY(backward(f, batch, &head));
    f->tail.row = -1;
  }
done:
  return st;
}

/* The classes of all tokens of a window. */
static ingot_status find_classes(fisher *f, const ingot_batch *batch, int64_t first)
{
  ingot_status st = INGOT_OK;
  ingot_nn    *nn = f->g.nn;
  ingot_head   head = {.context = f, .chunk = exact_chunk};
  size_t       n = (size_t)batch->n_time * (size_t)f->k;
  INGOT_TRY(ingot_pass_run(f->g.pass, batch, &head, NULL, NULL));
  INGOT_TRY(ingot_label_head_check(&f->head, batch, first));
  INGOT_TRY(nn->ops->copy_out(nn, f->host_ids, f->top_ids, n * sizeof *f->host_ids));
  INGOT_TRY(nn->ops->copy_out(nn, f->host_logp, f->top_logp, n * sizeof *f->host_logp));
done:
  return st;
}

/* The labels of tokens [begin, end), all others none. */
static void mask_labels(fisher *f, const int32_t *given, int64_t n, int64_t begin, int64_t end)
{
  for (int64_t t = 0; t < n; t++) f->labels[t] = t >= begin && t < end ? given[t] : INGOT_NN_IGNORE;
}

static ingot_status fisher_batch(void *context, ingot_batch *batch, int64_t first)
{
  ingot_status             st = INGOT_OK;
  fisher                  *f = context;
  const ingot_gather_plan *plan = f->g.plan;
  const int32_t           *given = batch->labels;
  bool                     exact = plan->labels == INGOT_LABELS_EXACT;
  int64_t                  span = plan->example > 0 ? plan->example : batch->n_time;
  ingot_head               head = {.context = &f->head, .chunk = ingot_label_head_chunk};
  if (exact) INGOT_TRY(find_classes(f, batch, first));
  for (int64_t begin = 0; begin < batch->n_time - 1; begin += span) {
    int64_t end = begin + span < batch->n_time ? begin + span : batch->n_time;
    batch->labels = given;
    int64_t n = ingot_label_count(batch, begin, end);
    if (n == 0) continue; /* nothing is predicted: no gradient */
    f->head.scale = plan->loss == INGOT_LOSS_MEAN ? 1.0f / (float)n : 1.0f;
    f->head.counter = (uint64_t)first * (uint64_t)batch->n_time;
    mask_labels(f, given, batch->n_time, exact ? 0 : begin, exact ? 0 : end);
    batch->labels = f->labels;
    if (exact) {
      INGOT_TRY(exact_example(f, batch, given, begin, end));
      continue;
    }
    f->weight = 1.0f;
    INGOT_TRY(backward(f, batch, &head));
    INGOT_TRY(ingot_label_head_check(&f->head, batch, first));
  }
done:
  batch->labels = given;
  return st;
}

/* ---- the run ---- */

static ingot_status open_exact(fisher *f)
{
  ingot_status st = INGOT_OK;
  ingot_nn    *nn = f->g.nn;
  int64_t      n_vocab = f->g.model->spec.n_vocab;
  f->k = f->g.plan->top_k < n_vocab ? f->g.plan->top_k : (int)n_vocab;
  size_t n = (size_t)f->g.plan->window.length * (size_t)f->k;
  f->host_ids = calloc(n, sizeof *f->host_ids);
  f->host_logp = calloc(n, sizeof *f->host_logp);
  f->tail = (tail_class){.row = -1, .k = f->k, .logits = calloc(2 * (size_t)n_vocab, sizeof(float))};
  INGOT_CHECK(f->host_ids && f->host_logp && f->tail.logits, INGOT_ERR_NOMEM, "no memory for %d classes of %lld tokens",
              f->k, (long long)f->g.plan->window.length);
  INGOT_TRY(nn->ops->alloc(nn, n * sizeof(int32_t), &f->top_ids));
  INGOT_TRY(nn->ops->alloc(nn, n * sizeof(float), &f->top_logp));
done:
  return st;
}

static ingot_status open_fisher(fisher *f)
{
  ingot_status              st = INGOT_OK;
  const ingot_model_layout *layout = &f->g.model->layout;
  ingot_nn                 *nn = f->g.nn;
  size_t                    bytes = (size_t)layout->n_elem * sizeof(float);
  void                     *sums = NULL;
  f->tail.row = -1;
  INGOT_CHECK(layout->n_param == f->g.plan->sink.n_tensor, INGOT_ERR_MISMATCH, "%s: %d parameters, and the plan has %d",
              f->g.plan->models[0].path, layout->n_param, f->g.plan->sink.n_tensor);
  f->labels = calloc((size_t)f->g.plan->window.length, sizeof *f->labels);
  INGOT_CHECK(f->labels, INGOT_ERR_NOMEM, "no memory for the labels of a window");
  INGOT_TRY(nn->ops->alloc(nn, bytes, &sums));
  f->sums = sums;
  INGOT_TRY(nn->ops->zero(nn, sums, bytes));
  INGOT_TRY(ingot_label_head_init(&f->head, &f->g, f->g.plan->labels == INGOT_LABELS_SAMPLED));
  if (f->g.plan->labels == INGOT_LABELS_EXACT) INGOT_TRY(open_exact(f));
done:
  return st;
}

static void close_fisher(fisher *f)
{
  ingot_nn *nn = f->g.nn;
  ingot_device_sum_close(&f->sum);
  ingot_label_head_release(&f->head);
  for (int i = 0; nn && i < SCRATCH_MAX; i++) nn->ops->free(nn, f->pool[i].memory);
  if (nn) {
    nn->ops->free(nn, f->sums);
    nn->ops->free(nn, f->top_ids);
    nn->ops->free(nn, f->top_logp);
  }
  free(f->host_ids);
  free(f->host_logp);
  free(f->labels);
  free(f->tail.logits);
  free(f->turned);
  ingot_text_release(&f->state);
  ingot_gather_release(&f->g);
}

static ingot_status save_fisher(void *context, int64_t n_done)
{
  fisher          *f = context;
  ingot_state_part part = {f->sums, (size_t)f->g.model->layout.n_elem * sizeof(float)};
  return ingot_state_save(ingot_text_string(&f->state), f->g.plan->fingerprint, n_done, f->g.nn, &part, 1);
}

/* A weight kept as [out, in], written as [in, out]. room: [n_elem]. */
static void transpose(const float *from, int64_t n_out, int64_t n_in, float *to)
{
  for (int64_t i = 0; i < n_in; i++)
    for (int64_t j = 0; j < n_out; j++) to[i * n_out + j] = from[j * n_in + i];
}

/* Sums in the order of the checkpoint. A transposed parameter is turned whole, and kept until another one is asked
 * for. */
static ingot_status read_sums(void *context, int p, int64_t first, int64_t n, void *values)
{
  ingot_status             st = INGOT_OK;
  fisher                  *f = context;
  ingot_nn                *nn = f->g.nn;
  const ingot_model_param *param = &f->g.model->layout.params[p];
  float                   *kept = NULL;
  if (!param->transposed)
    return nn->ops->copy_out(nn, values, f->sums + param->offset + first, (size_t)n * sizeof(float));
  if (!f->turned || f->turned_param != p) {
    free(f->turned);
    f->turned = malloc((size_t)param->n_elem * sizeof(float));
    kept = malloc((size_t)param->n_elem * sizeof(float));
    INGOT_CHECK(f->turned && kept, INGOT_ERR_NOMEM, "no memory to write %s", param->name);
    INGOT_TRY(nn->ops->copy_out(nn, kept, f->sums + param->offset, (size_t)param->n_elem * sizeof(float)));
    transpose(kept, param->shape.dim[1], param->shape.dim[0], f->turned);
    f->turned_param = p;
  }
  memcpy(values, f->turned + first, (size_t)n * sizeof(float));
done:
  free(kept);
  return st;
}

int64_t ingot_fisher_examples(const ingot_gather_plan *plan)
{
  int64_t n_predicted = plan->window.length - 1, span = plan->example > 0 ? plan->example : n_predicted;
  return ingot_gather_window_count(plan) * ((n_predicted + span - 1) / span);
}

static ingot_status write_fisher(fisher *f, uint64_t *checksums)
{
  ingot_status       st = INGOT_OK;
  ingot_stat_writer *w = NULL;
  double             start_s = ingot_clock_s();
  ingot_stat_values  values = {.context = f,
                               .dtype = INGOT_DTYPE_F32,
                               .scale = 1.0 / (double)ingot_fisher_examples(f->g.plan),
                               .read = read_sums,
                               .summed = ingot_comm_size(f->g.comm) == 1};
  INGOT_TRY(ingot_device_sum_ready(&f->g, &f->sum));
  if (f->sum) INGOT_TRY(ingot_device_sum_add(f->sum, INGOT_DTYPE_F32, f->g.model->layout.n_elem, f->sums));
  ingot_device_sum_end(f->sum);
  values.summed = values.summed || f->sum;
  INGOT_TRY(ingot_stat_writer_open(f->g.comm, f->g.plan, f->g.options->n_thread, false, &w));
  for (int p = 0; p < f->g.model->layout.n_param; p++) INGOT_TRY(ingot_stat_writer_put(w, p, &values));
  INGOT_TRY(ingot_stat_writer_flush(w));
  INGOT_TRY(ingot_stat_writer_commit(&w, checksums));
done:
  ingot_stat_writer_discard(&w);
  f->g.timing->write_s += ingot_clock_s() - start_s;
  return st;
}

ingot_status ingot_fisher_run(ingot_comm *comm, const ingot_gather_plan *plan, const ingot_gather_options *options,
                              uint64_t *checksums, ingot_merge_timing *timing)
{
  double            start_s = ingot_clock_s(), start_cpu_s = ingot_clock_cpu_s();
  int64_t           n = ingot_gather_window_count(plan), n_done = 0;
  fisher            f = {.g = {.plan = plan}};
  ingot_gather_work work = {.context = &f, .batch = fisher_batch, .save = save_fisher};
  ingot_status      st = ingot_gather_init(&f.g, comm, plan, options, timing);
  if (st == INGOT_OK) st = ingot_gather_load(&f.g, 0, true);
  if (st == INGOT_OK) st = open_fisher(&f);
  if (st == INGOT_OK) {
    ingot_state_part part = {f.sums, (size_t)f.g.model->layout.n_elem * sizeof(float)};
    st = ingot_gather_resume(&f.g, &f.state, &part, 1, &n_done);
  }
  INGOT_TRY(ingot_comm_agree(comm, st));
  f.g.n_window = n;
  INGOT_TRY(ingot_device_sum_begin(&f.g, &f.sum));
  INGOT_TRY(ingot_gather_windows(&f.g, 0, n, n_done, &work));
  INGOT_TRY(write_fisher(&f, checksums));
done:
  close_fisher(&f);
  ingot_gather_stop_clock(timing, start_s, start_cpu_s);
  return st;
}
