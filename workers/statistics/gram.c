/*
 * Gram matrices: means over tokens of x x^T at the inputs of linear layers, and of g g^T at their outputs, where g is the
 * gradient of the window's mean log-probability.
 */
#include <stdlib.h>

#include "base/clock.h"
#include "workers/statistics/labels.h"

/* One rank's gathering. */
typedef struct gram {
  ingot_gather      g;
  ingot_label_head  head;
  ingot_gram_item  *items;  /* [n_item] */
  double          **sums;   /* [n_item]: [width][width], of the back end */
  ingot_state_part *parts;  /* [n_item]: the sums */
  int              *input;  /* [n_linear]: item of the linear layer's input, or -1 */
  int              *output; /* [n_param]: item of the parameter's output, or -1 */
  int               n_item;
  ingot_text        state;
} gram;

int ingot_gram_items(const ingot_model_layout *layout, bool head, bool outputs, ingot_gram_item *items)
{
  int n = 0;
  for (int i = 0; i < layout->n_linear; i++) {
    const ingot_model_linear *linear = &layout->linears[i];
    if (linear->layer < 0 && !head) continue;
    if (items) items[n] = (ingot_gram_item){.linear = i, .param = -1, .width = linear->n_in};
    n++;
    for (int p = linear->first_param; outputs && linear->layer >= 0 && p < linear->first_param + linear->n_param; p++) {
      if (items) items[n] = (ingot_gram_item){i, p, layout->params[p].n_elem / linear->n_in};
      n++;
    }
  }
  return n;
}

uint64_t ingot_gram_bytes(const ingot_gather_plan *plan, const ingot_model_spec *spec, const ingot_model_layout *layout)
{
  ingot_dtype        dtype = plan->compute == INGOT_COMPUTE_BF16 ? INGOT_DTYPE_BF16 : INGOT_DTYPE_F32;
  ingot_pass_options pass = {.n_batch = plan->batch, .n_time = plan->window.length, .backward = plan->outputs};
  uint64_t           bytes = ingot_model_bytes(spec, dtype) + ingot_pass_bytes(spec, dtype, &pass);
  for (int i = 0; i < layout->n_linear; i++) {
    const ingot_model_linear *linear = &layout->linears[i];
    if (linear->layer < 0 && !plan->head) continue;
    bytes += (uint64_t)linear->n_in * (uint64_t)linear->n_in * sizeof(double);
    for (int p = 0; plan->outputs && linear->layer >= 0 && p < linear->n_param; p++) {
      uint64_t n_out = (uint64_t)(layout->params[linear->first_param + p].n_elem / linear->n_in);
      bytes += n_out * n_out * sizeof(double);
    }
  }
  return bytes;
}

static ingot_status open_gram(gram *m)
{
  ingot_status              st = INGOT_OK;
  const ingot_gather_plan  *plan = m->g.plan;
  const ingot_model_layout *layout = &m->g.model->layout;
  ingot_nn                 *nn = m->g.nn;
  m->n_item = ingot_gram_items(layout, plan->head, plan->outputs, NULL);
  INGOT_CHECK(m->n_item == plan->sink.n_tensor, INGOT_ERR_MISMATCH, "%s: %d Gram matrices, and the plan has %d",
              plan->models[0].path, m->n_item, plan->sink.n_tensor);
  m->items = calloc((size_t)m->n_item + 1, sizeof *m->items);
  m->sums = calloc((size_t)m->n_item + 1, sizeof *m->sums);
  m->parts = calloc((size_t)m->n_item + 1, sizeof *m->parts);
  m->input = calloc((size_t)layout->n_linear + 1, sizeof *m->input);
  m->output = calloc((size_t)layout->n_param + 1, sizeof *m->output);
  INGOT_CHECK(m->items && m->sums && m->parts && m->input && m->output, INGOT_ERR_NOMEM, "no memory for %d Gram matrices",
              m->n_item);
  ingot_gram_items(layout, plan->head, plan->outputs, m->items);
  for (int i = 0; i < layout->n_linear; i++) m->input[i] = -1;
  for (int i = 0; i < layout->n_param; i++) m->output[i] = -1;
  for (int i = 0; i < m->n_item; i++) {
    void  *memory = NULL;
    size_t bytes = (size_t)m->items[i].width * (size_t)m->items[i].width * sizeof(double);
    INGOT_TRY(nn->ops->alloc(nn, bytes, &memory));
    m->sums[i] = memory;
    m->parts[i] = (ingot_state_part){memory, bytes};
    INGOT_TRY(nn->ops->zero(nn, memory, bytes));
    if (m->items[i].param < 0) m->input[m->items[i].linear] = i;
    else m->output[m->items[i].param] = i;
  }
  if (plan->outputs) INGOT_TRY(ingot_label_head_init(&m->head, &m->g, plan->labels == INGOT_LABELS_SAMPLED));
done:
  return st;
}

static void close_gram(gram *m)
{
  ingot_label_head_release(&m->head);
  for (int i = 0; m->sums && i < m->n_item; i++)
    if (m->g.nn) m->g.nn->ops->free(m->g.nn, m->sums[i]);
  free(m->items);
  free(m->sums);
  free(m->parts);
  free(m->input);
  free(m->output);
  ingot_text_release(&m->state);
  ingot_gather_release(&m->g);
}

static ingot_status see_input(void *context, ingot_nn *nn, int linear, int64_t n_row, int64_t width, const void *x,
                              int64_t ld, const int32_t *valid)
{
  gram *m = context;
  int   item = m->input[linear];
  return item < 0 ? INGOT_OK : nn->ops->gram(nn, n_row, width, x, ld, valid, m->sums[item]);
}

static ingot_status see_gradient(void *context, ingot_nn *nn, int linear, int param, int64_t n_row, int64_t width,
                                 const void *dy, int64_t ld, const int32_t *valid)
{
  gram *m = context;
  int   item = m->output[param];
  (void)linear;
  return item < 0 ? INGOT_OK : nn->ops->gram(nn, n_row, width, dy, ld, valid, m->sums[item]);
}

/* The head's input is tapped on the way to the logits, which nobody wants. */
static ingot_status no_loss(void *context, ingot_nn *nn, int64_t first_row, const ingot_nn_logits *z, const int32_t *labels,
                            void *d_logits)
{
  (void)context, (void)nn, (void)first_row, (void)z, (void)labels, (void)d_logits;
  return INGOT_OK;
}

static ingot_status run_pass(gram *m, const ingot_batch *batch, int64_t first)
{
  ingot_status             st = INGOT_OK;
  const ingot_gather_plan *plan = m->g.plan;
  ingot_taps               taps = {.context = m, .input = see_input, .head = plan->head};
  ingot_head               head = {.context = m, .chunk = no_loss};
  if (!plan->outputs) return ingot_pass_run(m->g.pass, batch, plan->head ? &head : NULL, &taps, NULL);
  int64_t n = ingot_label_count(batch, 0, batch->n_time); /* of each window */
  taps.output_gradient = see_gradient;
  head = (ingot_head){.context = &m->head, .chunk = ingot_label_head_chunk};
  m->head.scale = n > 0 ? 1.0f / (float)n : 0.0f;
  m->head.counter = (uint64_t)first * (uint64_t)batch->n_time;
  INGOT_TRY(ingot_pass_run(m->g.pass, batch, &head, &taps, NULL));
  INGOT_TRY(ingot_label_head_check(&m->head, batch, first));
done:
  return st;
}

static ingot_status gram_batch(void *context, ingot_batch *batch, int64_t first)
{
  ingot_status st = INGOT_OK;
  gram        *m = context;
  int64_t      n_time = batch->n_time;
  bool         alike = true;
  for (int64_t b = 1; b < batch->n_batch; b++)
    alike = alike && ingot_label_count(batch, b * n_time, (b + 1) * n_time) == ingot_label_count(batch, 0, n_time);
  if (alike || !m->g.plan->outputs) return run_pass(m, batch, first);
  for (int64_t b = 0; b < batch->n_batch; b++) { /* means over other numbers of tokens: one window at a time */
    ingot_batch one = *batch;
    one.n_batch = 1;
    one.tokens += b * n_time;
    one.labels += b * n_time;
    if (one.positions) one.positions += b * n_time;
    if (one.first_key) one.first_key += b * n_time;
    if (one.valid) one.valid += b * n_time;
    INGOT_TRY(run_pass(m, &one, first + b));
  }
done:
  return st;
}

static ingot_status save_gram(void *context, int64_t n_done)
{
  gram *m = context;
  return ingot_state_save(ingot_text_string(&m->state), m->g.plan->fingerprint, n_done, m->g.nn, m->parts, m->n_item);
}

/* The upper triangle of one matrix by rows, in pieces of whole rows. */
static ingot_status write_item(gram *m, ingot_stat_writer *w, int item, double scale, double *rows, int64_t n_room)
{
  ingot_status st = INGOT_OK;
  int64_t      width = m->items[item].width, n = 0;
  for (int64_t i = 0; i < width; i++) {
    ingot_status mine = m->g.nn->ops->copy_out(m->g.nn, rows + n, m->sums[item] + i * width + i,
                                               (size_t)(width - i) * sizeof *rows);
    if (st == INGOT_OK) st = mine;
    n += width - i;
    if (i + 1 < width && n + width <= n_room) continue;
    INGOT_TRY(ingot_comm_agree(m->g.comm, st));
    INGOT_TRY(ingot_stat_writer_add_f64(w, item, rows, n, scale));
    n = 0;
  }
done:
  return st;
}

static ingot_status write_gram(gram *m, uint64_t *checksums)
{
  ingot_status             st = INGOT_OK;
  const ingot_gather_plan *plan = m->g.plan;
  ingot_stat_writer       *w = NULL;
  double                   start_s = ingot_clock_s(), n_token = (double)ingot_gather_window_count(plan) * (double)plan->window.length;
  int64_t                  room = 1 << 20;
  double                  *rows = NULL;
  for (int i = 0; i < m->n_item; i++)
    if (m->items[i].width > room) room = m->items[i].width;
  rows = malloc((size_t)room * sizeof *rows);
  INGOT_TRY(ingot_comm_agree(m->g.comm, rows ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory to write the output")));
  INGOT_TRY(ingot_stat_writer_open(m->g.comm, plan, &w));
  for (int i = 0; i < m->n_item; i++) INGOT_TRY(write_item(m, w, i, 1.0 / n_token, rows, room));
  INGOT_TRY(ingot_stat_writer_commit(&w, checksums));
done:
  ingot_stat_writer_discard(&w);
  free(rows);
  m->g.timing->write_s += ingot_clock_s() - start_s;
  return st;
}

ingot_status ingot_gram_run(ingot_comm *comm, const ingot_gather_plan *plan, const ingot_gather_options *options,
                            uint64_t *checksums, ingot_merge_timing *timing)
{
  double            start_s = ingot_clock_s(), start_cpu_s = ingot_clock_cpu_s();
  int64_t           n = ingot_gather_window_count(plan), n_done = 0;
  gram              m = {.g = {.plan = plan}};
  ingot_gather_work work = {.context = &m, .batch = gram_batch, .save = save_gram};
  ingot_status      st = ingot_gather_init(&m.g, comm, plan, options, timing);
  if (st == INGOT_OK) st = ingot_gather_load(&m.g, 0, plan->outputs);
  if (st == INGOT_OK) st = open_gram(&m);
  if (st == INGOT_OK) st = ingot_gather_resume(&m.g, &m.state, m.parts, m.n_item, &n_done);
  INGOT_TRY(ingot_comm_agree(comm, st));
  m.g.n_window = n;
  INGOT_TRY(ingot_gather_windows(&m.g, 0, n, n_done, &work));
  INGOT_TRY(write_gram(&m, checksums));
done:
  close_gram(&m);
  timing->wall_s = ingot_clock_s() - start_s;
  timing->cpu_s = ingot_clock_cpu_s() - start_cpu_s;
  return st;
}
