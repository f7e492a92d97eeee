/*
 * Speed of a random Llama: forward, and forward and backward, beside the speed of matrix products in the same run.
 *
 *   bench_model [--device cpu|cuda] [--dtype float32|bfloat16] [--tf32] [--threads N] [--layers N] [--hidden N]
 * [--inner N]
 *               [--heads N] [--kv-heads N] [--vocabulary N] [--batch N] [--time N] [--repeats N] [--no-backward]
 * [--gram]
 *
 * CPU: 8 layers of 1024 (feed-forward 2816, 16 and 8 heads, vocabulary 8192), one window of 512; beside it OpenBLAS's
 * own sgemm, with its own threads, on the shapes of every product of the forward pass. CUDA: 16 layers of 2048 (8192,
 * 32 and 8 heads, vocabulary 32000: 1.1 G parameters), 8 windows of 2048, bfloat16; beside it one product of 8192^3.
 *
 * The head is plain cross-entropy; gradients go to one flat float32 array. FLOP: 2 a multiply-add of the matrices,
 * causal attention at half, backward twice forward. Passes and products take turns; the median and the fastest are
 * printed.
 * --gram: also a forward pass without the head that sums X^T X of every linear input, beside one without sums.
 */
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/philox.h"
#include "kernels/convert.h"
#include "workers/model/model.h"

enum { MAX_REPEAT = 64, N_TOKEN_SHAPE = 5 };

typedef struct options {
  bool        cuda, tf32, backward, gram;
  ingot_dtype dtype;
  int         n_thread, n_repeat;
  int64_t     layers, hidden, inner, heads, kv_heads, vocabulary, batch, time;
} options;

typedef struct bench {
  options     o;
  ingot_nn   *nn;
  ingot_model model;
  ingot_pass *pass;
  ingot_batch batch;
  float      *nll;      /* back end: one chunk's losses */
  float      *gradient; /* back end: [layout.n_elem] */
  double    **gram;     /* back end: [n_linear] */
} bench;

static void must(ingot_status st)
{
  if (st == INGOT_OK) return;
  fprintf(stderr, "bench_model: %s: %s\n", ingot_status_name(st), ingot_error_message());
  exit(1);
}

static void *need(void *memory)
{
  if (memory) return memory;
  fprintf(stderr, "bench_model: out of memory\n");
  exit(1);
}

/* ---- what is timed ---- */

static ingot_status chunk(void *context, ingot_nn *nn, int64_t first_row, const ingot_nn_logits *z,
                          const int32_t *labels, void *d_logits)
{
  (void)first_row;
  const bench *b = context;
  return nn->ops->cross_entropy(nn, z, labels, 1 / (float)(b->o.batch * b->o.time), b->nll, NULL, d_logits);
}

static ingot_status open_gradient(void *context, ingot_nn *nn, int first, int n, float **memory, bool *add)
{
  (void)nn, (void)n;
  const bench *b = context;
  *memory = b->gradient + b->model.layout.params[first].offset;
  *add = false;
  return INGOT_OK;
}

static ingot_status add_gram(void *context, ingot_nn *nn, int linear, int64_t n_row, int64_t width, const void *x,
                             int64_t ld, const int32_t *valid)
{
  const bench *b = context;
  return nn->ops->gram(nn, n_row, width, x, ld, valid, b->gram[linear]);
}

typedef enum kind { FORWARD, BOTH, LAYERS, GRAM, PRODUCT, N_KIND } kind;

/* Every product of the forward pass once, by OpenBLAS. Operands come from one large array. */
static void blas_products(const bench *b, const float *x, const float *w, float *y)
{
  const options *o = &b->o;
  const int64_t  n = o->batch * o->time, head_dim = o->hidden / o->heads;
  const int64_t  shapes[N_TOKEN_SHAPE][3] = {{o->hidden + 2 * o->kv_heads * head_dim, o->hidden, o->layers},
                                             {o->hidden, o->hidden, o->layers},
                                             {2 * o->inner, o->hidden, o->layers},
                                             {o->hidden, o->inner, o->layers},
                                             {o->vocabulary, o->hidden, 1}};
  for (int s = 0; s < N_TOKEN_SHAPE; s++)
    for (int64_t i = 0; i < shapes[s][2]; i++)
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)n, (blasint)shapes[s][0], (blasint)shapes[s][1], 1,
                  x, (blasint)shapes[s][1], w, (blasint)shapes[s][1], 0, y, (blasint)shapes[s][0]);
}

static double product_flops(const bench *b)
{
  const options *o = &b->o;
  if (o->cuda) return 2.0 * 8192 * 8192 * 8192;
  const double q = (double)o->hidden, kv = (double)(o->hidden / o->heads * o->kv_heads);
  return 2.0 * (double)(o->batch * o->time) *
         ((double)o->layers * q * (2 * q + 2 * kv + 3 * (double)o->inner) + q * (double)o->vocabulary);
}

static void run_pass(bench *b, kind k)
{
  const ingot_head      head = {.context = b, .chunk = chunk};
  const ingot_taps      taps = {.context = b, .input = add_gram};
  const ingot_gradients gradients = {.context = b, .open = open_gradient};
  must(ingot_pass_run(b->pass, &b->batch, k == FORWARD || k == BOTH ? &head : NULL, k == GRAM ? &taps : NULL,
                      k == BOTH ? &gradients : NULL));
}

static double time_once(bench *b, kind k, void *const *operands)
{
  ingot_nn *nn = b->nn;
  must(nn->ops->wait(nn));
  const double begin = ingot_clock_s();
  if (k != PRODUCT) {
    run_pass(b, k);
  } else if (b->o.cuda) {
    const ingot_nn_matrix x = {operands[0], 8192, false}, w = {operands[1], 8192, true};
    must(nn->ops->matmul(nn, 8192, 8192, 8192, 1, x, w, 0, operands[2], 8192, nn->dtype, NULL));
  } else {
    openblas_set_num_threads(b->o.n_thread);
    blas_products(b, operands[0], operands[1], operands[2]);
    openblas_set_num_threads(1);
  }
  must(nn->ops->wait(nn));
  return ingot_clock_s() - begin;
}

/* ---- what it is made of ---- */

/* Random elements of nn->dtype in back-end memory. */
static void *random_array(ingot_nn *nn, int64_t n, float scale)
{
  enum { PIECE = 1 << 20 };
  const size_t size = ingot_dtype_size(nn->dtype);
  float       *wide = need(malloc(PIECE * sizeof *wide));
  void        *narrow = need(malloc(PIECE * sizeof *wide)), *out;
  for (int64_t i = 0; i < PIECE; i += 4) {
    uint32_t word[4];
    ingot_philox4x32(1, (uint64_t)i, word);
    for (int k = 0; k < 4; k++) wide[i + k] = scale * ((float)(word[k] >> 8) / (float)(1 << 23) - 1);
  }
  ingot_narrow(nn->dtype, wide, narrow, PIECE);
  must(nn->ops->alloc(nn, (size_t)n * size, &out));
  for (int64_t i = 0; i < n; i += PIECE)
    must(nn->ops->copy_in(nn, (char *)out + (size_t)i * size, narrow, (size_t)(n - i < PIECE ? n - i : PIECE) * size));
  free(wide);
  free(narrow);
  return out;
}

static void make_model(bench *b)
{
  char           json[1024];
  const options *o = &b->o;
  snprintf(json, sizeof json,
           "{\"model_type\": \"llama\", \"vocab_size\": %lld, \"hidden_size\": %lld, \"intermediate_size\": %lld,"
           " \"num_hidden_layers\": %lld, \"num_attention_heads\": %lld, \"num_key_value_heads\": %lld,"
           " \"max_position_embeddings\": %lld}",
           (long long)o->vocabulary, (long long)o->hidden, (long long)o->inner, (long long)o->layers,
           (long long)o->heads, (long long)o->kv_heads, (long long)o->time);
  b->model.nn = b->nn;
  must(ingot_model_spec_parse(json, strlen(json), "bench_model", &b->model.spec));
  must(ingot_model_layout_make(&b->model.spec, &b->model.layout));
  b->model.weights = random_array(b->nn, b->model.layout.n_elem, 0.05F);
}

static void make_batch(bench *b)
{
  const int64_t n = b->o.batch * b->o.time;
  int32_t      *tokens = need(malloc((size_t)n * sizeof *tokens)), *labels = need(malloc((size_t)n * sizeof *labels));
  for (int64_t i = 0; i < n; i++) tokens[i] = (int32_t)((i * 7919 + i / 13) % b->o.vocabulary);
  for (int64_t i = 0; i < n; i++) labels[i] = tokens[(i + 1) % n];
  b->batch = (ingot_batch){.n_batch = b->o.batch, .n_time = b->o.time, .tokens = tokens, .labels = labels};
  must(b->nn->ops->alloc(b->nn, (size_t)n * sizeof *b->nll, (void **)&b->nll));
}

static void make_gram(bench *b)
{
  const ingot_model_layout *layout = &b->model.layout;
  b->gram = need(calloc((size_t)layout->n_linear, sizeof *b->gram));
  for (int i = 0; i < layout->n_linear - 1; i++) {
    const size_t bytes = (size_t)(layout->linears[i].n_in * layout->linears[i].n_in) * sizeof(double);
    must(b->nn->ops->alloc(b->nn, bytes, (void **)&b->gram[i]));
    must(b->nn->ops->zero(b->nn, b->gram[i], bytes));
  }
}

static int compare(const void *a, const void *b)
{
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void report(const bench *b, kind k, double *seconds, const double *limits)
{
  static const char *const names[] = {"forward", "forward and backward", "forward, no head", "forward, no head, Gram",
                                      "products"};
  const double             n = (double)(b->o.batch * b->o.time);
  double                   flops = n * ingot_model_forward_flops(&b->model.spec, b->o.time, k == FORWARD || k == BOTH);
  if (k == BOTH) flops *= 3;
  if (k == PRODUCT) flops = product_flops(b);
  qsort(seconds, (size_t)b->o.n_repeat, sizeof *seconds, compare);
  const double median = seconds[b->o.n_repeat / 2], least = seconds[0];
  printf("%-24s %9.2f ms (least %.2f)", names[k], 1e3 * median, 1e3 * least);
  if (k != PRODUCT) printf("  %9.0f tokens/s", n / median);
  if (k != GRAM) printf("  %8.1f GFLOP/s", 1e-9 * flops / median);
  if (k == FORWARD || k == BOTH) {
    const double products = product_flops(b);
    printf("  %.3f of the products' rate (least: %.3f)", flops / median / (products / limits[b->o.n_repeat / 2]),
           flops / least / (products / limits[0]));
  }
  printf("\n");
}

static bool number(const char *name, const char *key, const char *value, int64_t *out)
{
  if (strcmp(name, key) != 0) return false;
  *out = strtoll(value, NULL, 10);
  return true;
}

static options parse(int argc, char **argv)
{
  options o = {.backward = true, .n_thread = 2, .n_repeat = 5, .dtype = INGOT_DTYPE_F32};
  for (int i = 1; i + 1 < argc; i++)
    if (strcmp(argv[i], "--device") == 0) o.cuda = strcmp(argv[i + 1], "cuda") == 0;
  o.layers = o.cuda ? 16 : 8, o.hidden = o.cuda ? 2048 : 1024, o.inner = o.cuda ? 8192 : 2816;
  o.heads = o.cuda ? 32 : 16, o.kv_heads = 8, o.vocabulary = o.cuda ? 32000 : 8192;
  o.batch = o.cuda ? 8 : 1, o.time = o.cuda ? 2048 : 512;
  if (o.cuda) o.dtype = INGOT_DTYPE_BF16;
  for (int i = 1; i < argc; i++) {
    int64_t     threads = o.n_thread, repeats = o.n_repeat;
    const char *key = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
    if (strcmp(key, "--tf32") == 0) o.tf32 = true;
    else if (strcmp(key, "--no-backward") == 0) o.backward = false;
    else if (strcmp(key, "--gram") == 0) o.gram = true;
    else if (strcmp(key, "--device") == 0 || (strcmp(key, "--dtype") == 0 && ingot_dtype_parse(value, &o.dtype)) ||
             number("--threads", key, value, &threads) || number("--repeats", key, value, &repeats) ||
             number("--layers", key, value, &o.layers) || number("--hidden", key, value, &o.hidden) ||
             number("--inner", key, value, &o.inner) || number("--heads", key, value, &o.heads) ||
             number("--kv-heads", key, value, &o.kv_heads) || number("--vocabulary", key, value, &o.vocabulary) ||
             number("--batch", key, value, &o.batch) || number("--time", key, value, &o.time)) {
      i++;
    } else {
      fprintf(stderr, "bench_model: unknown option %s\n", key);
      exit(2);
    }
    o.n_thread = (int)threads;
    o.n_repeat = (int)(repeats < 1 ? 1 : repeats > MAX_REPEAT ? MAX_REPEAT : repeats);
  }
  return o;
}

int main(int argc, char **argv)
{
  bench                    b = {.o = parse(argc, argv)};
  const ingot_nn_options   nn_options = {.kind = b.o.cuda ? INGOT_NN_CUDA : INGOT_NN_CPU,
                                         .n_thread = b.o.n_thread,
                                         .dtype = b.o.dtype,
                                         .tf32 = b.o.tf32};
  const ingot_pass_options pass_options = {.n_batch = b.o.batch, .n_time = b.o.time, .backward = b.o.backward};
  static double            seconds[N_KIND][MAX_REPEAT];
  must(ingot_nn_open(&nn_options, &b.nn));
  make_model(&b);
  make_batch(&b);
  if (b.o.gram) make_gram(&b);
  if (b.o.backward) must(b.nn->ops->alloc(b.nn, (size_t)b.model.layout.n_elem * sizeof(float), (void **)&b.gradient));
  must(ingot_pass_open(&b.model, &pass_options, &b.pass));
  const int64_t largest = b.o.inner * 2 > b.o.vocabulary ? b.o.inner * 2 : b.o.vocabulary, n = b.o.batch * b.o.time;
  const int64_t square = 8192 * 8192;
  void         *operands[3] = {random_array(b.nn, b.o.cuda ? square : n * b.o.inner, 1),
                               random_array(b.nn, b.o.cuda ? square : largest * b.o.inner, 1),
                               random_array(b.nn, b.o.cuda ? square : n * largest, 1)};
  const bool    wanted[N_KIND] =
      {[FORWARD] = true, [BOTH] = b.o.backward, [LAYERS] = b.o.gram, [GRAM] = b.o.gram, [PRODUCT] = true};
  printf("%lld parameters, %lld windows of %lld, %s; %.2f GB of weights, %.2f GB of working memory\n",
         (long long)b.model.layout.n_elem, (long long)b.o.batch, (long long)b.o.time,
         ingot_dtype_long_name(b.nn->dtype), 1e-9 * (double)ingot_model_bytes(&b.model.spec, b.nn->dtype),
         1e-9 * (double)ingot_pass_bytes(&b.model.spec, b.nn->dtype, &pass_options));
  for (int repeat = -1; repeat < b.o.n_repeat; repeat++) /* the first one warms up */
    for (kind k = 0; k < N_KIND; k++) {
      const double s = wanted[k] ? time_once(&b, k, operands) : 0;
      if (repeat >= 0) seconds[k][repeat] = s;
    }
  double limit[MAX_REPEAT];
  memcpy(limit, seconds[PRODUCT], sizeof limit);
  qsort(limit, (size_t)b.o.n_repeat, sizeof *limit, compare);
  for (kind k = 0; k < N_KIND; k++)
    if (wanted[k]) report(&b, k, seconds[k], limit);
  return 0;
}
