#include "workers/statistics/regmean_plus.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/tile.h"
#include "workers/statistics/loop.h"

enum { ITEMS = 4 }; /* linear layers of a block that have an input of their own: q/k/v, o, gate/up, down */

/* One rank's run. */
typedef struct plus {
  ingot_gather            g;
  const ingot_merge_plan *merge;
  ingot_device_sum       *sum;    /* over GPUs; NULL: through the host */
  int                    *tensor; /* [n_param]: of the merge */
  int                    *own;    /* [n_param]: of a model's source, for the block that is being read */
  int                    *group;  /* [n_tensor]: block of a solved tensor */
  int                    *item;   /* [n_tensor]: which of the block's inputs it has */
  int64_t                *first;  /* [n_model]: a model's windows, counted through the data sets */
  int64_t                *count;  /* [n_model] */
  ingot_model_filler     *filler;
  float                  *values; /* a piece of a parameter */
  double                 *tile;   /* [INGOT_TILE] */
  int     n_merged;               /* blocks of the model in memory that are merged; -1: its embedding is not, either */
  int     block;                  /* in work */
  int64_t width[ITEMS];
  double *sums[ITEMS]; /* back end: [width][width] */
  void   *memory;      /* that they lie in */
  void   *packed;      /* GPU: [INGOT_TILE] floats */
  float **grams;       /* [n_model * ITEMS]: packed means of the block */
} plus;

/* The linear layer that a parameter is a weight of, or -1. */
static int linear_of(const ingot_model_layout *layout, int param)
{
  for (int i = 0; i < layout->n_linear; i++) {
    const ingot_model_linear *l = &layout->linears[i];
    if (l->layer >= 0 && param >= l->first_param && param < l->first_param + l->n_param) return i;
  }
  return -1;
}

/* Which of its block's inputs a linear layer has. */
static int item_of(const ingot_model_layout *layout, int linear)
{
  int item = 0;
  for (int i = 0; i < linear; i++) item += layout->linears[i].layer == layout->linears[linear].layer;
  return item;
}

static int find_param(const ingot_model_layout *layout, const char *name)
{
  for (int i = 0; i < layout->n_param; i++)
    if (strcmp(ingot_model_short_name(layout->params[i].name), ingot_model_short_name(name)) == 0) return i;
  return -1;
}

bool ingot_regmean_plus_solves(const ingot_model_layout *layout, const char *name, bool *transposed)
{
  int param = find_param(layout, name);
  if (param < 0 || linear_of(layout, param) < 0) return false;
  *transposed = layout->params[param].transposed;
  return true;
}

/* Inputs of block `block`, in the order of its linear layers. */
static int block_widths(const ingot_model_layout *layout, int block, int64_t width[ITEMS])
{
  int n = 0;
  for (int i = 0; i < layout->n_linear; i++)
    if (layout->linears[i].layer == block) width[n++] = layout->linears[i].n_in;
  return n;
}

static uint64_t sums_bytes(const int64_t *width, int n)
{
  uint64_t bytes = 0;
  for (int i = 0; i < n; i++) bytes += (uint64_t)width[i] * (uint64_t)width[i] * sizeof(double);
  return bytes;
}

uint64_t ingot_regmean_plus_bytes(const ingot_gather_plan *gather, const ingot_model_spec *spec,
                                  const ingot_model_layout *layout)
{
  ingot_dtype        dtype = ingot_compute_dtype(gather->compute);
  ingot_pass_options pass = ingot_gather_pass_options(gather, false, true);
  int64_t            width[ITEMS];
  int                n = block_widths(layout, 0, width);
  return ingot_model_bytes(spec, dtype) + ingot_pass_bytes(spec, dtype, &pass) + sums_bytes(width, n);
}

static int64_t of_a_tile(int64_t n)
{
  return n < INGOT_TILE ? n : INGOT_TILE;
}

uint64_t ingot_regmean_plus_host_bytes(const ingot_gather_plan *gather, const ingot_model_layout *layout)
{
  int64_t  width[ITEMS], largest = 0;
  int      n = block_widths(layout, 0, width);
  uint64_t packed = 0;
  for (int i = 0; i < n; i++) {
    int64_t count = ingot_gram_packed_count(width[i]);
    packed += (uint64_t)count * sizeof(float);
    if (count > largest) largest = count;
  }
  const int64_t piece = ingot_model_largest_piece(layout);
  uint64_t      pieces = (uint64_t)(piece + of_a_tile(piece)) * sizeof(float); /* one is as it is stored */
  return ingot_gather_batch_bytes(gather) + (uint64_t)gather->n_model * packed + pieces +
         ingot_model_filler_bytes(layout, ingot_compute_dtype(gather->compute)) +
         (uint64_t)of_a_tile(largest) * sizeof(double);
}

/* ---- what belongs to what ---- */

static ingot_status find_tensors(plus *p)
{
  ingot_status              st = INGOT_OK;
  const ingot_model_layout *layout = &p->g.model->layout;
  for (int i = 0; i < layout->n_param; i++) p->tensor[i] = p->own[i] = -1;
  for (int t = 0; t < p->merge->n_tensor; t++) {
    const ingot_merge_tensor *tensor = &p->merge->tensors[t];
    int                       param = find_param(layout, tensor->view.name);
    int                       linear = param < 0 ? -1 : linear_of(layout, param);
    p->group[t] = p->item[t] = -1;
    if (param >= 0) p->tensor[param] = t;
    INGOT_ASSERT((linear >= 0) == (tensor->grain == INGOT_GRAIN_MATRIX) &&
                 (linear < 0 || tensor->view.transposed == layout->params[param].transposed));
    if (linear < 0) continue;
    p->group[t] = layout->linears[linear].layer;
    p->item[t] = item_of(layout, linear);
  }
  for (int i = 0; i < layout->n_param; i++)
    INGOT_CHECK(p->tensor[i] >= 0, INGOT_ERR_MISMATCH, "%s: the merge has no tensor %s", p->g.plan->models[0].path,
                layout->params[i].name);
done:
  return st;
}

static ingot_status find_windows(plus *p)
{
  ingot_status             st = INGOT_OK;
  const ingot_gather_plan *plan = p->g.plan;
  for (int i = 0; i < plan->n_model; i++) {
    int64_t before = 0;
    p->count[i] = 0;
    for (int d = 0; d < plan->n_data; before += plan->data[d++].n_window) {
      if (strcmp(plan->data[d].name, plan->models[i].id) != 0) continue;
      p->first[i] = before;
      p->count[i] = plan->data[d].n_window;
    }
    INGOT_CHECK(p->count[i] > 0, INGOT_ERR_MISMATCH, "there are no windows for model \"%s\"", plan->models[i].id);
  }
done:
  return st;
}

static ingot_status open_lists(plus *p)
{
  ingot_status              st = INGOT_OK;
  const ingot_model_layout *layout = &p->g.model->layout;
  size_t n_param = (size_t)layout->n_param, n_model = (size_t)p->g.plan->n_model, n_tensor = (size_t)p->merge->n_tensor;
  p->tensor = malloc(n_param * sizeof *p->tensor);
  p->own = malloc(n_param * sizeof *p->own);
  p->group = malloc((n_tensor + 1) * sizeof *p->group);
  p->item = malloc((n_tensor + 1) * sizeof *p->item);
  p->first = calloc(n_model, sizeof *p->first);
  p->count = calloc(n_model, sizeof *p->count);
  p->grams = calloc(n_model * ITEMS, sizeof *p->grams);
  p->tile = malloc(INGOT_TILE * sizeof *p->tile);
  INGOT_CHECK(p->tensor && p->own && p->group && p->item && p->first && p->count && p->grams && p->tile,
              INGOT_ERR_NOMEM, "no memory for the books of %d models", p->g.plan->n_model);
  INGOT_TRY(find_tensors(p));
  INGOT_TRY(find_windows(p));
done:
  return st;
}

/* Room for one block: its sums where the model is, all models' means on the host. */
static ingot_status open_block(plus *p)
{
  ingot_status st = INGOT_OK;
  ingot_nn    *nn = p->g.nn;
  int64_t      piece = 0;
  int          n = block_widths(&p->g.model->layout, 0, p->width);
  INGOT_ASSERT(n == ITEMS);
  INGOT_TRY(nn->ops->alloc(nn, (size_t)sums_bytes(p->width, n), &p->memory));
  double *at = p->memory;
  for (int i = 0; i < ITEMS; at += p->width[i] * p->width[i], i++) p->sums[i] = at;
  if (nn->kind == INGOT_NN_CUDA) INGOT_TRY(nn->ops->alloc(nn, INGOT_TILE * sizeof(float), &p->packed));
  for (int i = 0; i < p->g.plan->n_model * ITEMS; i++) {
    p->grams[i] = malloc((size_t)ingot_gram_packed_count(p->width[i % ITEMS]) * sizeof(float));
    INGOT_CHECK(p->grams[i], INGOT_ERR_NOMEM, "no memory for the Gram matrices of a block of %d models",
                p->g.plan->n_model);
  }
  INGOT_TRY(ingot_model_filler_open(p->g.model, &p->filler));
  piece = ingot_model_largest_piece(&p->g.model->layout);
  p->values = malloc((size_t)piece * sizeof *p->values);
  INGOT_CHECK(p->values, INGOT_ERR_NOMEM, "no memory for weights in pieces of %lld elements", (long long)piece);
done:
  return st;
}

static void release(plus *p)
{
  ingot_device_sum_close(&p->sum);
  ingot_model_filler_close(&p->filler);
  if (p->g.nn) {
    p->g.nn->ops->free(p->g.nn, p->memory);
    p->g.nn->ops->free(p->g.nn, p->packed);
  }
  for (int i = 0; p->grams && i < p->g.plan->n_model * ITEMS; i++) free(p->grams[i]);
  free(p->grams);
  free(p->tensor);
  free(p->own);
  free(p->group);
  free(p->item);
  free(p->first);
  free(p->count);
  free(p->values);
  free(p->tile);
  ingot_gather_release(&p->g);
}

/* ---- the model in memory ---- */

/* A merged parameter from the partial output. Collective; what goes wrong on this rank alone is kept in *mine. */
static ingot_status take_merged(plus *p, int param, const ingot_merge_partial *partial, ingot_status *mine)
{
  ingot_status  st = INGOT_OK;
  const int64_t n_elem = p->g.model->layout.params[param].n_elem;
  const int64_t piece = ingot_model_piece(&p->g.model->layout.params[param]);
  for (int64_t first = 0; first < n_elem; first += piece) {
    int64_t n = n_elem - first < piece ? n_elem - first : piece;
    INGOT_TRY(ingot_merge_partial_read(partial, p->tensor[param], first, n, p->values));
    if (*mine == INGOT_OK) *mine = ingot_model_filler_put(p->filler, param, first, n, p->values);
  }
done:
  return st;
}

/* The embedding, and every block before `block`. */
static ingot_status take_merged_blocks(plus *p, int block, const ingot_merge_partial *partial)
{
  ingot_status              st = INGOT_OK, mine = INGOT_OK;
  const ingot_model_layout *layout = &p->g.model->layout;
  for (int i = 0; i < layout->n_param; i++) {
    const ingot_model_param *param = &layout->params[i];
    bool                     wanted = param->layer < 0
                                          ? p->n_merged < 0 && (param->role == INGOT_ROLE_EMBEDDING || param->role == INGOT_ROLE_POSITION)
                                          : param->layer >= p->n_merged && param->layer < block;
    if (wanted) INGOT_TRY(take_merged(p, i, partial, &mine));
  }
  p->n_merged = block;
  st = ingot_comm_agree(p->g.comm, mine);
done:
  return st;
}

/* A model's own block behind the merged ones. */
static ingot_status take_own_block(plus *p, int model)
{
  const ingot_model_layout *layout = &p->g.model->layout;
  const ingot_source       *source = NULL;
  int                       first = -1, n = 0;
  for (int i = 0; i < layout->n_param; i++) {
    if (layout->params[i].layer != p->block) continue;
    const ingot_merge_tensor *t = &p->merge->tensors[p->tensor[i]];
    p->own[i] = t->tensor[model];
    source = p->merge->sources[t->source[model]];
    if (first < 0) first = i;
    n = i + 1 - first; /* a block's parameters are neighbours */
  }
  return ingot_model_fill_from_file(p->g.model, source, p->own, first, n);
}

/* ---- one model's Gram matrices in a block ---- */

static ingot_status see_input(void *context, ingot_nn *nn, int linear, int64_t n_row, int64_t width, const void *x,
                              int64_t ld, const int32_t *valid)
{
  plus                     *p = context;
  const ingot_model_layout *layout = &p->g.model->layout;
  if (layout->linears[linear].layer != p->block) return INGOT_OK;
  return nn->ops->gram(nn, n_row, width, x, ld, valid, p->sums[item_of(layout, linear)]);
}

static ingot_status run_batch(void *context, ingot_batch *batch, int64_t first)
{
  plus      *p = context;
  ingot_taps taps = {.context = p, .input = see_input, .n_layer = p->block + 1};
  (void)first;
  return ingot_pass_run(p->g.pass, batch, NULL, &taps, NULL);
}

/* Elements first .. first + n - 1 of an item's mean, over all ranks. Collective. */
static ingot_status read_means(plus *p, int item, double scale, int64_t first, int64_t n, float *means)
{
  ingot_status st = INGOT_OK;
  ingot_nn    *nn = p->g.nn;
  ingot_comm  *comm = p->g.comm;
  if (p->packed && (p->sum || ingot_comm_size(comm) == 1))
    return ingot_comm_agree(comm,
                            ingot_gram_means(nn, p->width[item], p->sums[item], scale, first, n, p->packed, means));
  INGOT_TRY(ingot_comm_agree(comm, ingot_gram_rows(nn, p->width[item], p->sums[item], first, n, p->tile)));
  INGOT_TRY(ingot_comm_sum_f64(comm, p->tile, n));
  for (int64_t i = 0; i < n; i++) means[i] = (float)(p->tile[i] * scale);
done:
  return st;
}

static ingot_status keep_means(plus *p, int model)
{
  ingot_status st = INGOT_OK;
  double       scale = 1.0 / ((double)p->count[model] * (double)p->g.plan->window.length);
  if (p->sum)
    INGOT_TRY(ingot_device_sum_add(p->sum, INGOT_DTYPE_F64, (int64_t)(sums_bytes(p->width, ITEMS) / sizeof(double)),
                                   p->memory));
  for (int item = 0; item < ITEMS; item++) {
    int64_t n_elem = ingot_gram_packed_count(p->width[item]);
    float  *means = p->grams[model * ITEMS + item];
    for (int64_t first = 0; first < n_elem; first += INGOT_TILE)
      INGOT_TRY(
          read_means(p, item, scale, first, n_elem - first < INGOT_TILE ? n_elem - first : INGOT_TILE, means + first));
    for (int64_t i = 0; i < n_elem; i++)
      INGOT_CHECK(isfinite(means[i]), INGOT_ERR_NUMERIC,
                  "%s: inputs of block %d are not finite behind the merged blocks", p->g.plan->models[model].path,
                  p->block);
  }
done:
  return st;
}

/* As ingot_merge_live.make. */
static ingot_status make_block(void *context, int block, const ingot_merge_partial *partial)
{
  plus             *p = context;
  ingot_nn         *nn = p->g.nn;
  ingot_gather_work work = {.context = p, .batch = run_batch};
  int64_t           n = ingot_gather_window_count(p->g.plan);
  ingot_status      st = take_merged_blocks(p, block, partial);
  if (st != INGOT_OK) goto done;
  ingot_gather_look_at_device(&p->g); /* with what solving the last block took */
  p->block = block;
  p->g.n_window = n * p->g.model->spec.n_layer;
  p->g.windows_before = n * block;
  for (int model = 0; model < p->g.plan->n_model; model++) {
    st = take_own_block(p, model);
    if (st == INGOT_OK) st = nn->ops->zero(nn, p->memory, (size_t)sums_bytes(p->width, ITEMS));
    INGOT_TRY(ingot_comm_agree(p->g.comm, st));
    INGOT_TRY(ingot_gather_windows(&p->g, p->first[model], p->first[model] + p->count[model], 0, &work));
    INGOT_TRY(keep_means(p, model));
  }
done:
  return st;
}

/* As ingot_merge_live.gram. */
static ingot_status give_gram(void *context, int tensor, int k, double alpha, ingot_linalg *l, ingot_linalg_array *to)
{
  const plus        *p = context;
  int                item = p->item[tensor];
  ingot_linalg_input how = {.form = INGOT_LINALG_PACKED,
                            .dtype = INGOT_DTYPE_F32,
                            .rows = p->width[item],
                            .columns = p->width[item],
                            .alpha = alpha};
  ingot_linalg_found found;
  return ingot_linalg_load(l, &how, p->grams[k * ITEMS + item], to, &found);
}

ingot_status ingot_regmean_plus_run(ingot_comm *comm, const ingot_gather_plan *gather,
                                    const ingot_gather_options *gather_options, const ingot_merge_plan *merge,
                                    const ingot_merge_options *merge_options, ingot_merge_result *result,
                                    ingot_merge_timing *timing)
{
  double       start_s = ingot_clock_s(), start_cpu_s = ingot_clock_cpu_s();
  plus         p = {.g = {.plan = gather}, .merge = merge, .n_merged = -1};
  ingot_status st = ingot_gather_init(&p.g, comm, gather, gather_options, timing);
  *result = (ingot_merge_result){0};
  p.g.headless = true;
  if (st == INGOT_OK) st = ingot_gather_load(&p.g, 0, false);
  if (st == INGOT_OK) st = open_lists(&p);
  if (st == INGOT_OK) st = open_block(&p);
  INGOT_TRY(ingot_comm_agree(comm, st));
  INGOT_TRY(ingot_device_sum_open(&p.g, &p.sum));
  ingot_merge_live live = {.context = &p,
                           .on_device = gather_options->on_device,
                           .n_group = p.g.model->spec.n_layer,
                           .group = p.group,
                           .make = make_block,
                           .gram = give_gram};
  INGOT_TRY(ingot_merge_run_live(comm, merge, merge_options, &live, result));
done:
  release(&p);
  ingot_gather_stop_clock(timing, start_s, start_cpu_s);
  return st;
}
