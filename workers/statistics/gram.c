/*
 * Gram matrices: means over tokens of x x^T at the inputs of linear layers, and of g g^T at their outputs, where g is
 * the gradient of the window's mean log-probability.
 *
 * Sums that do not fit into the memory that the plan gives them are gathered in groups of matrices, each by a pass of
 * its own over all windows, and written before the next group begins.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/tile.h"
#include "kernels/gram_pack.h"
#include "kernels/nn/cuda_open.h"
#include "workers/statistics/labels.h"

/* Where a run of several groups is, as it is saved. */
typedef struct frame {
  int64_t group, n_group;
} frame;

/* One rank's gathering. */
typedef struct gram {
  ingot_gather       g;
  ingot_label_head   head;
  ingot_gram_item   *items;  /* [n_item] */
  double           **sums;   /* [n_item]: [width][width] in memory; NULL: not of the group under way */
  int               *input;  /* [n_linear]: item of the linear layer's input, or -1 */
  int               *output; /* [n_param]: item of the parameter's output, or -1 */
  int                n_item;
  int                first, end; /* items of the group under way */
  bool               with_head;  /* it has the head's input */
  char              *memory;     /* of the back end: the sums of a group; behind them room for `at` and the hashes */
  size_t             memory_bytes;
  float             *packed; /* GPU: [INGOT_TILE] */
  frame              at;
  uint64_t          *hashes; /* of written tiles, of all tensors */
  size_t             hash_bytes;
  ingot_stat_writer *writer;
  ingot_device_sum  *sum; /* over GPUs; NULL: through the host */
  ingot_text         state;
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

enum { ALIGN = 256 };

static uint64_t item_bytes(const ingot_gram_item *item)
{
  uint64_t bytes = (uint64_t)item->width * (uint64_t)item->width * sizeof(double);
  return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* The end of the group that begins with item `first`: at least one, no more than limit bytes (0: no limit). *bytes: its
 * sums. */
static int group_end(const ingot_gram_item *items, int n_item, int first, uint64_t limit, uint64_t *bytes)
{
  int end = first;
  *bytes = 0;
  while (end < n_item && (end == first || limit == 0 || *bytes + item_bytes(&items[end]) <= limit))
    *bytes += item_bytes(&items[end++]);
  return end;
}

/* Groups that items come in, and the bytes of the largest. */
static int group_items(const ingot_gram_item *items, int n_item, uint64_t sums_bytes, uint64_t *most)
{
  int n = 0;
  *most = 0;
  for (int first = 0; first < n_item; n++) {
    uint64_t bytes;
    first = group_end(items, n_item, first, sums_bytes, &bytes);
    if (bytes > *most) *most = bytes;
  }
  return n;
}

/* For a plan's figures: 0 without memory for the list. */
static int count_groups(const ingot_gather_plan *plan, const ingot_model_layout *layout, uint64_t *most)
{
  int              n_item = ingot_gram_items(layout, plan->head, plan->outputs, NULL), n = 0;
  ingot_gram_item *items = calloc((size_t)n_item + 1, sizeof *items);
  *most = 0;
  if (!items) return 0;
  ingot_gram_items(layout, plan->head, plan->outputs, items);
  n = group_items(items, n_item, plan->sums_bytes, most);
  free(items);
  return n;
}

int ingot_gram_passes(const ingot_gather_plan *plan, const ingot_model_layout *layout)
{
  uint64_t most;
  return count_groups(plan, layout, &most);
}

uint64_t ingot_gram_sums_bytes(const ingot_gather_plan *plan, const ingot_model_layout *layout)
{
  uint64_t most;
  count_groups(plan, layout, &most);
  return most;
}

/* Logits: on the way to gradients, or to the head's input. */
static bool needs_head(const ingot_gather_plan *plan)
{
  return plan->head || plan->outputs;
}

uint64_t ingot_gram_bytes(const ingot_gather_plan *plan, const ingot_model_spec *spec, const ingot_model_layout *layout)
{
  ingot_dtype        dtype = ingot_compute_dtype(plan->compute);
  ingot_pass_options pass = ingot_gather_pass_options(plan, plan->outputs, !needs_head(plan));
  return ingot_model_bytes(spec, dtype) + ingot_pass_bytes(spec, dtype, &pass) + ingot_gram_sums_bytes(plan, layout);
}

uint64_t ingot_gram_host_bytes(const ingot_gather_plan *plan, const ingot_model_layout *layout, int n_thread,
                               bool on_device)
{
  int64_t widest = 0;
  for (int i = 0; i < layout->n_linear; i++) {
    const ingot_model_linear *l = &layout->linears[i];
    if ((l->layer >= 0 || plan->head) && l->n_in > widest) widest = l->n_in;
    for (int p = l->first_param; plan->outputs && l->layer >= 0 && p < l->first_param + l->n_param; p++)
      if (layout->params[p].n_elem / l->n_in > widest) widest = layout->params[p].n_elem / l->n_in;
  }
  ingot_dtype dtype = on_device ? INGOT_DTYPE_F32 : INGOT_DTYPE_F64; /* a GPU packs means, the host is given sums */
  return ingot_gather_batch_bytes(plan) + ingot_stat_writer_bytes(ingot_gram_packed_count(widest), dtype, n_thread);
}

static ingot_status open_items(gram *m)
{
  ingot_status              st = INGOT_OK;
  const ingot_gather_plan  *plan = m->g.plan;
  const ingot_model_layout *layout = &m->g.model->layout;
  m->n_item = ingot_gram_items(layout, plan->head, plan->outputs, NULL);
  INGOT_CHECK(m->n_item == plan->sink.n_tensor, INGOT_ERR_MISMATCH, "%s: %d Gram matrices, and the plan has %d",
              plan->models[0].path, m->n_item, plan->sink.n_tensor);
  m->items = calloc((size_t)m->n_item + 1, sizeof *m->items);
  m->sums = calloc((size_t)m->n_item + 1, sizeof *m->sums);
  m->input = calloc((size_t)layout->n_linear + 1, sizeof *m->input);
  m->output = calloc((size_t)layout->n_param + 1, sizeof *m->output);
  m->hashes = calloc((size_t)ingot_stat_writer_tiles(plan) + 1, sizeof *m->hashes);
  INGOT_CHECK(m->items && m->sums && m->input && m->output && m->hashes, INGOT_ERR_NOMEM,
              "no memory for %d Gram matrices", m->n_item);
  ingot_gram_items(layout, plan->head, plan->outputs, m->items);
  for (int i = 0; i < layout->n_linear; i++) m->input[i] = -1;
  for (int i = 0; i < layout->n_param; i++) m->output[i] = -1;
  for (int i = 0; i < m->n_item; i++) {
    if (m->items[i].param < 0) m->input[m->items[i].linear] = i;
    else m->output[m->items[i].param] = i;
  }
done:
  return st;
}

static ingot_status open_gram(gram *m)
{
  ingot_status             st = INGOT_OK;
  const ingot_gather_plan *plan = m->g.plan;
  ingot_nn                *nn = m->g.nn;
  uint64_t                 most;
  void                    *memory = NULL;
  INGOT_TRY(open_items(m));
  m->at = (frame){.n_group = group_items(m->items, m->n_item, plan->sums_bytes, &most)};
  m->memory_bytes = (size_t)most;
  m->hash_bytes = (size_t)ingot_stat_writer_tiles(plan) * sizeof *m->hashes;
  INGOT_TRY(nn->ops->alloc(nn, m->memory_bytes + sizeof m->at + m->hash_bytes, &memory));
  m->memory = memory;
  INGOT_TRY(nn->ops->zero(nn, memory, m->memory_bytes));
  if (nn->kind == INGOT_NN_CUDA) {
    INGOT_TRY(nn->ops->alloc(nn, INGOT_TILE * sizeof *m->packed, &memory));
    m->packed = memory;
  }
  if (plan->outputs) INGOT_TRY(ingot_label_head_init(&m->head, &m->g, plan->labels == INGOT_LABELS_SAMPLED));
done:
  return st;
}

static void close_gram(gram *m)
{
  ingot_device_sum_close(&m->sum);
  ingot_label_head_release(&m->head);
  if (m->g.nn) {
    m->g.nn->ops->free(m->g.nn, m->memory);
    m->g.nn->ops->free(m->g.nn, m->packed);
  }
  free(m->items);
  free(m->sums);
  free(m->input);
  free(m->output);
  free(m->hashes);
  ingot_text_release(&m->state);
  ingot_gather_release(&m->g);
}

/* The items of group `group`, with their places in memory. */
static void take_group(gram *m, int64_t group)
{
  uint64_t bytes, at = 0;
  m->end = 0;
  for (int64_t i = 0; i <= group; i++) {
    m->first = m->end;
    m->end = group_end(m->items, m->n_item, m->first, m->g.plan->sums_bytes, &bytes);
  }
  m->with_head = false;
  for (int i = 0; i < m->n_item; i++) {
    bool in = i >= m->first && i < m->end;
    m->sums[i] = in ? (double *)(void *)(m->memory + at) : NULL;
    if (in) at += item_bytes(&m->items[i]);
    m->with_head = m->with_head || (in && m->g.model->layout.linears[m->items[i].linear].layer < 0);
  }
}

static ingot_status see_input(void *context, ingot_nn *nn, int linear, int64_t n_row, int64_t width, const void *x,
                              int64_t ld, const int32_t *valid)
{
  gram *m = context;
  int   item = m->input[linear];
  return item < 0 || !m->sums[item] ? INGOT_OK : nn->ops->gram(nn, n_row, width, x, ld, valid, m->sums[item]);
}

static ingot_status see_gradient(void *context, ingot_nn *nn, int linear, int param, int64_t n_row, int64_t width,
                                 const void *dy, int64_t ld, const int32_t *valid)
{
  gram *m = context;
  int   item = m->output[param];
  (void)linear;
  return item < 0 || !m->sums[item] ? INGOT_OK : nn->ops->gram(nn, n_row, width, dy, ld, valid, m->sums[item]);
}

/* The head's input is tapped on the way to the logits, which nobody wants. */
static ingot_status no_loss(void *context, ingot_nn *nn, int64_t first_row, const ingot_nn_logits *z,
                            const int32_t *labels, void *d_logits)
{
  (void)context, (void)nn, (void)first_row, (void)z, (void)labels, (void)d_logits;
  return INGOT_OK;
}

static ingot_status run_pass(gram *m, const ingot_batch *batch, int64_t first)
{
  ingot_status             st = INGOT_OK;
  const ingot_gather_plan *plan = m->g.plan;
  ingot_taps               taps = {.context = m, .input = see_input, .head = m->with_head};
  ingot_head               head = {.context = m, .chunk = no_loss};
  if (!plan->outputs) return ingot_pass_run(m->g.pass, batch, m->with_head ? &head : NULL, &taps, NULL);
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

static ingot_state_part whole_memory(const gram *m)
{
  return (ingot_state_part){m->memory, m->memory_bytes + sizeof m->at + m->hash_bytes};
}

static ingot_status save_gram(void *context, int64_t n_done)
{
  ingot_status     st = INGOT_OK;
  gram            *m = context;
  ingot_nn        *nn = m->g.nn;
  ingot_state_part part = whole_memory(m);
  INGOT_TRY(nn->ops->copy_in(nn, m->memory + m->memory_bytes, &m->at, sizeof m->at));
  INGOT_TRY(nn->ops->copy_in(nn, m->memory + m->memory_bytes + sizeof m->at, m->hashes, m->hash_bytes));
  INGOT_TRY(ingot_state_save(ingot_text_string(&m->state), m->g.plan->fingerprint, n_done, nn, &part, 1));
done:
  return st;
}

static ingot_status resume_gram(gram *m, int64_t *n_done)
{
  ingot_status     st = INGOT_OK;
  ingot_nn        *nn = m->g.nn;
  ingot_state_part part = whole_memory(m);
  INGOT_TRY(nn->ops->copy_in(nn, m->memory + m->memory_bytes, &m->at, sizeof m->at)); /* what stays without a state */
  INGOT_TRY(nn->ops->copy_in(nn, m->memory + m->memory_bytes + sizeof m->at, m->hashes, m->hash_bytes));
  INGOT_TRY(ingot_gather_resume(&m->g, &m->state, &part, 1, n_done));
  INGOT_TRY(nn->ops->copy_out(nn, &m->at, m->memory + m->memory_bytes, sizeof m->at));
  INGOT_TRY(nn->ops->copy_out(nn, m->hashes, m->memory + m->memory_bytes + sizeof m->at, m->hash_bytes));
done:
  return st;
}

/* ---- the output ---- */

ingot_status ingot_gram_rows(ingot_nn *nn, int64_t width, const double *sums, int64_t first, int64_t n, double *values)
{
  ingot_status st = INGOT_OK;
  int64_t      row = 0, start = 0, done = 0;
  while (start + width - row <= first) start += width - row++;
  for (int64_t skip = first - start; done < n; skip = 0, row++) {
    int64_t part = width - row - skip < n - done ? width - row - skip : n - done;
    INGOT_TRY(nn->ops->copy_out(nn, values + done, sums + row * width + row + skip, (size_t)part * sizeof(double)));
    done += part;
  }
done:
  return st;
}

ingot_status ingot_gram_means(ingot_nn *nn, int64_t width, const double *sums, double scale, int64_t first, int64_t n,
                              float *packed, float *values)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(ingot_gram_pack(width, sums, scale, first, n, packed, ingot_nn_cuda_stream(nn)));
  INGOT_TRY(nn->ops->copy_out(nn, values, packed, (size_t)n * sizeof *packed));
done:
  return st;
}

static ingot_status read_rows(void *context, int item, int64_t first, int64_t n, void *values)
{
  gram *m = context;
  return ingot_gram_rows(m->g.nn, m->items[item].width, m->sums[item], first, n, values);
}

static double mean_scale(const gram *m)
{
  return 1.0 / ((double)ingot_gather_window_count(m->g.plan) * (double)m->g.plan->window.length);
}

static ingot_status read_packed(void *context, int item, int64_t first, int64_t n, void *values)
{
  gram *m = context;
  return ingot_gram_means(m->g.nn, m->items[item].width, m->sums[item], mean_scale(m), first, n, m->packed, values);
}

static ingot_status write_group(gram *m)
{
  ingot_status      st = INGOT_OK;
  double            start_s = ingot_clock_s();
  bool              alone = ingot_comm_size(m->g.comm) == 1;
  ingot_stat_values values = {.context = m,
                              .dtype = INGOT_DTYPE_F64,
                              .summed = alone,
                              .scale = mean_scale(m),
                              .read = read_rows};
  INGOT_TRY(ingot_device_sum_ready(&m->g, &m->sum));
  if (m->sum)
    INGOT_TRY(ingot_device_sum_add(m->sum, INGOT_DTYPE_F64, (int64_t)(m->memory_bytes / sizeof(double)), m->memory));
  if (m->at.group + 1 == m->at.n_group) ingot_device_sum_end(m->sum);
  if (m->sum || (alone && m->packed))
    values =
        (ingot_stat_values){.context = m, .dtype = INGOT_DTYPE_F32, .summed = true, .scale = 1.0, .read = read_packed};
  if (!m->writer) INGOT_TRY(ingot_stat_writer_open(m->g.comm, m->g.plan, m->g.options->n_thread, false, &m->writer));
  for (int i = m->first; i < m->end; i++) INGOT_TRY(ingot_stat_writer_put(m->writer, i, &values));
  INGOT_TRY(ingot_stat_writer_flush(m->writer));
done:
  m->g.timing->write_s += ingot_clock_s() - start_s;
  return st;
}

/* After a group: room for the next. */
static ingot_status next_group(gram *m)
{
  ingot_status st = INGOT_OK;
  m->at.group++;
  memcpy(m->hashes, ingot_stat_writer_hashes(m->writer), m->hash_bytes);
  INGOT_TRY(m->g.nn->ops->zero(m->g.nn, m->memory, m->memory_bytes));
  if (m->at.group < m->at.n_group && m->g.plan->save_every_s > 0) INGOT_TRY(save_gram(m, 0));
done:
  return st;
}

/* Begin with a group: nothing gathered of it. */
static ingot_status begin_at(gram *m, int64_t group, int64_t *n_done)
{
  m->at.group = group;
  *n_done = 0;
  return m->g.nn->ops->zero(m->g.nn, m->memory, m->memory_bytes);
}

/* All ranks to one group, and what the ones before it have written; what is not there is gathered again. */
static ingot_status agree_on_group(gram *m, int64_t *n_done, int64_t n_group)
{
  ingot_status st = INGOT_OK;
  int64_t group = m->at.n_group == n_group ? -m->at.group : 0; /* the least is the negative of the greatest negative */
  bool    good = true;
  if (m->at.n_group != n_group) *n_done = 0;
  INGOT_TRY(ingot_comm_max_i64(m->g.comm, &group, 1));
  group = -group;
  if (group > 0) {
    st = ingot_stat_writer_open(m->g.comm, m->g.plan, m->g.options->n_thread, true, &m->writer);
    good = st == INGOT_OK;
    if (st != INGOT_OK && st != INGOT_ERR_NOTFOUND) goto done;
    if (good) {
      memcpy(ingot_stat_writer_hashes(m->writer), m->hashes, m->hash_bytes);
      take_group(m, group);
      st = ingot_stat_writer_verify(m->writer, m->first, &good);
      INGOT_TRY(ingot_comm_agree(m->g.comm, st));
    }
    int64_t bad = !good;
    INGOT_TRY(ingot_comm_max_i64(m->g.comm, &bad, 1));
    if (bad) {
      ingot_stat_writer_close(&m->writer);
      ingot_log_info("%s: what was written is not there any more: begun anew", m->g.plan->output);
      group = 0;
    }
    good = !bad;
  }
  st = m->at.group != group || m->at.n_group != n_group || !good ? begin_at(m, group, n_done) : INGOT_OK;
  m->at.n_group = n_group;
  st = ingot_comm_agree(m->g.comm, st);
done:
  return st;
}

static ingot_status run_groups(gram *m, int64_t n_done, uint64_t *checksums)
{
  ingot_status      st = INGOT_OK;
  int64_t           n = ingot_gather_window_count(m->g.plan);
  ingot_gather_work work = {.context = m, .batch = gram_batch, .save = save_gram};
  m->g.n_window = n * m->at.n_group;
  m->g.windows_before = n * m->at.group;
  if (m->at.group < m->at.n_group) INGOT_TRY(ingot_device_sum_begin(&m->g, &m->sum));
  while (m->at.group < m->at.n_group) {
    take_group(m, m->at.group);
    INGOT_TRY(ingot_gather_windows(&m->g, 0, n, n_done, &work));
    INGOT_TRY(write_group(m));
    INGOT_TRY(ingot_comm_agree(m->g.comm, next_group(m)));
    n_done = 0;
  }
  INGOT_TRY(ingot_stat_writer_commit(&m->writer, checksums));
done:
  return st;
}

ingot_status ingot_gram_run(ingot_comm *comm, const ingot_gather_plan *plan, const ingot_gather_options *options,
                            uint64_t *checksums, ingot_merge_timing *timing)
{
  double       start_s = ingot_clock_s(), start_cpu_s = ingot_clock_cpu_s();
  int64_t      n_done = 0, n_group = 0;
  gram         m = {.g = {.plan = plan}};
  ingot_status st = ingot_gather_init(&m.g, comm, plan, options, timing);
  m.g.headless = !needs_head(plan);
  if (st == INGOT_OK) st = ingot_gather_load(&m.g, 0, plan->outputs);
  if (st == INGOT_OK) st = open_gram(&m);
  n_group = m.at.n_group;
  if (st == INGOT_OK) st = resume_gram(&m, &n_done);
  INGOT_TRY(ingot_comm_agree(comm, st));
  INGOT_TRY(agree_on_group(&m, &n_done, n_group));
  INGOT_TRY(run_groups(&m, n_done, checksums));
done:
  if (st == INGOT_STOPPED) ingot_stat_writer_close(&m.writer); /* a later run goes on with it */
  ingot_stat_writer_discard(&m.writer);
  close_gram(&m);
  ingot_gather_stop_clock(timing, start_s, start_cpu_s);
  return st;
}
