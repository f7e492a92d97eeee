/*
 * Scores, Fisher information and Gram matrices of whole models against PyTorch (make_reference.py); stops and saved states;
 * what bad models and data get.
 */
#define _XOPEN_SOURCE 700
#include "tests/check.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>

#include "base/fault.h"
#include "io/source.h"
#include "tests/io/scratch.h"
#include "workers/model/spec.h"
#include "workers/statistics/gather.h"

enum { N_WINDOW = 4, LENGTH = 16, PATH = 1024 };

static atomic_int stop_flag;

static void on_signal(int number)
{
  (void)number;
  atomic_store(&stop_flag, 1);
}

/* A plan for one model on the reference's tokens. */
typedef struct plan_case {
  scratch            s;
  ingot_comm        *comm;
  ingot_source      *source, *reference;
  ingot_model_spec   spec;
  ingot_model_layout layout;
  int               *tensor;
  char               model_path[PATH], data_path[PATH], output[PATH];
  char               names[256][96];
  ingot_sink_tensor *tensors;
  ingot_gather_model model;
  ingot_gather_data  data;
  ingot_gather_plan  plan;
  ingot_gather_options options;
} plan_case;

static void open_case(plan_case *c, const char *name)
{
  char path[PATH];
  memset(c, 0, sizeof *c);
  scratch_begin(&c->s);
  check_ok(ingot_comm_init(NULL, NULL, &c->comm));
  snprintf(c->model_path, PATH, "%s/workers/model/reference/%s", INGOT_TEST_DIR, name);
  snprintf(c->data_path, PATH, "%s/workers/statistics/reference/tokens.u16", INGOT_TEST_DIR);
  snprintf(c->output, PATH, "%s/out.h5", c->s.dir);
  snprintf(path, PATH, "%s/workers/statistics/reference/%s.safetensors", INGOT_TEST_DIR, name);
  check_ok(ingot_source_open(c->model_path, &c->source));
  check_ok(ingot_source_open(path, &c->reference));
  check_ok(ingot_model_spec_read(c->source, &c->spec));
  check_ok(ingot_model_layout_make(&c->spec, &c->layout));
  c->tensor = calloc((size_t)c->layout.n_param, sizeof *c->tensor);
  check_ok(ingot_model_layout_bind(&c->layout, &c->spec, c->source, c->tensor));
  c->model = (ingot_gather_model){"m", c->model_path};
  c->data = (ingot_gather_data){"d", c->data_path, NULL, N_WINDOW};
  c->plan = (ingot_gather_plan){.models = &c->model, .n_model = 1, .data = &c->data, .n_data = 1,
                                .window = {.length = LENGTH, .document = -1}, .batch = 3, .top_k = 3, .output = c->output,
                                .sink = {.path = c->output, .format = INGOT_SINK_HDF5}, .fingerprint = 77};
  c->options = (ingot_gather_options){.n_thread = 1, .stop = &stop_flag};
  atomic_store(&stop_flag, 0);
  check_ok(ingot_fault_init(NULL, 0));
}

static void close_case(plan_case *c)
{
  ingot_source_close(&c->source);
  ingot_source_close(&c->reference);
  ingot_model_layout_release(&c->layout);
  ingot_model_spec_release(&c->spec);
  free(c->tensor);
  free(c->tensors);
  ingot_comm_finalize(&c->comm);
  scratch_end(&c->s);
}

static void fisher_tensors(plan_case *c)
{
  c->plan.batch = 1;
  c->tensors = calloc((size_t)c->layout.n_param, sizeof *c->tensors);
  for (int p = 0; p < c->layout.n_param; p++)
    c->tensors[p] = (ingot_sink_tensor){c->layout.params[p].name, INGOT_DTYPE_F32, c->layout.params[p].shape};
  c->plan.sink.tensors = c->tensors;
  c->plan.sink.n_tensor = c->layout.n_param;
}

static void gram_tensors(plan_case *c)
{
  ingot_gram_item items[256];
  int             n = ingot_gram_items(&c->layout, c->plan.head, c->plan.outputs, NULL);
  assert_true(n > 0 && n <= 256);
  ingot_gram_items(&c->layout, c->plan.head, c->plan.outputs, items);
  c->tensors = calloc((size_t)n, sizeof *c->tensors);
  for (int i = 0; i < n; i++) {
    int param = items[i].param >= 0 ? items[i].param : c->layout.linears[items[i].linear].first_param;
    snprintf(c->names[i], sizeof c->names[i], "%s%s", c->layout.params[param].name, items[i].param >= 0 ? "#output" : "");
    c->tensors[i] = (ingot_sink_tensor){.name = c->names[i], .dtype = INGOT_DTYPE_F32};
    c->tensors[i].shape.n_dim = 1;
    c->tensors[i].shape.dim[0] = ingot_gram_packed_count(items[i].width);
  }
  c->plan.sink.tensors = c->tensors;
  c->plan.sink.n_tensor = n;
}

/* A whole tensor; the caller frees it. */
static void *read_all(const ingot_source *src, const char *name, int64_t *n)
{
  int i = ingot_source_find(src, name);
  if (i < 0) fail_msg("no tensor %s", name);
  const ingot_tensor_info *t = ingot_source_tensor(src, i);
  void                    *values = malloc((size_t)t->bytes + 1);
  check_ok(ingot_source_read(src, i, 0, (size_t)t->bytes, values));
  *n = t->n_elem;
  return values;
}

/* Largest difference over the largest magnitude is at most the limit. */
static void check_close(const char *name, const float *found, const float *expected, int64_t n, double limit)
{
  double worst = 0.0, most = 0.0;
  for (int64_t i = 0; i < n; i++) {
    worst = fmax(worst, fabs((double)found[i] - (double)expected[i]));
    most = fmax(most, fabs((double)expected[i]));
    if (!isfinite(found[i])) fail_msg("%s: element %lld is not finite", name, (long long)i);
  }
  if (worst > limit * most + 1e-30) fail_msg("%s: differs by %g of its largest value", name, worst / most);
}

/* Every tensor of the output that the reference has under this prefix; how many. */
static int check_output(const plan_case *c, const char *prefix, double limit)
{
  ingot_source *out = NULL;
  int           n_checked = 0;
  check_ok(ingot_source_open(c->output, &out));
  assert_int_equal(ingot_source_count(out), c->plan.sink.n_tensor);
  for (int i = 0; i < ingot_source_count(out); i++) {
    const char *name = ingot_source_tensor(out, i)->name;
    char        wanted[128];
    int64_t     n, n_expected;
    snprintf(wanted, sizeof wanted, "%s/%s", prefix, name);
    if (ingot_source_find(c->reference, wanted) < 0) continue;
    float *found = read_all(out, name, &n), *expected = read_all(c->reference, wanted, &n_expected);
    assert_int_equal(n, n_expected);
    check_close(wanted, found, expected, n, limit);
    free(found);
    free(expected);
    n_checked++;
  }
  ingot_source_close(&out);
  return n_checked;
}

static ingot_status run_fisher(plan_case *c)
{
  uint64_t           checksums[256];
  ingot_merge_timing timing;
  assert_true(c->plan.sink.n_tensor <= 256);
  return ingot_fisher_run(c->comm, &c->plan, &c->options, checksums, &timing);
}

static ingot_status run_gram(plan_case *c)
{
  uint64_t           checksums[256];
  ingot_merge_timing timing;
  return ingot_gram_run(c->comm, &c->plan, &c->options, checksums, &timing);
}

static ingot_status run_evaluate(plan_case *c, ingot_score *score)
{
  ingot_merge_timing timing;
  return ingot_evaluate_run(c->comm, &c->plan, &c->options, score, &timing);
}

static double sum_of(const ingot_source *src, const char *name)
{
  int64_t n;
  double *values = read_all(src, name, &n), sum = 0.0;
  for (int64_t i = 0; i < n; i++) sum += values[i];
  free(values);
  return sum;
}

static void test_evaluate(void **state)
{
  (void)state;
  static const char *const names[] = {"llama_bias_tied", "gpt2"};
  for (int i = 0; i < 2; i++) {
    plan_case   c;
    ingot_score score = {0};
    open_case(&c, names[i]);
    check_ok(run_evaluate(&c, &score));
    assert_int_equal(score.n_token, N_WINDOW * (LENGTH - 1));
    assert_true(fabs(score.nll / sum_of(c.reference, "nll") - 1) < 1e-5);
    assert_true((double)score.n_right == sum_of(c.reference, "top1"));
    /* documents alone: 5 more tokens are not predicted (one of the six begins a window) */
    check_ok(ingot_gather_forget(c.output));
    c.plan.window.document = 0;
    c.plan.window.separate = true;
    check_ok(run_evaluate(&c, &score));
    assert_int_equal(score.n_token, N_WINDOW * (LENGTH - 1) - 5);
    assert_true(fabs(score.nll / sum_of(c.reference, "nll_separate") - 1) < 1e-5);
    close_case(&c);
  }
}

/* The part of the data that overlapping windows predict does not depend on how they overlap. */
static void test_evaluate_overlap(void **state)
{
  (void)state;
  plan_case   c;
  ingot_score score = {0};
  open_case(&c, "llama_bias_tied");
  c.plan.window.stride = 8;
  c.plan.window.partial = true;
  c.data.n_window = 8; /* at 0, 8, ... 48; and 56 to 68 for 64 to 68 */
  check_ok(run_evaluate(&c, &score));
  assert_int_equal(score.n_token, 68);
  close_case(&c);
}

static void test_fisher(void **state)
{
  (void)state;
  static const char *const names[] = {"llama_bias_tied", "gpt2"};
  for (int i = 0; i < 2; i++) {
    plan_case c;
    open_case(&c, names[i]);
    fisher_tensors(&c);
    assert_int_equal(ingot_fisher_examples(&c.plan), N_WINDOW);
    check_ok(run_fisher(&c));
    assert_int_equal(check_output(&c, "fisher", 1e-4), c.layout.n_param);
    close_case(&c);
  }
}

static void test_fisher_spans(void **state)
{
  (void)state;
  plan_case c;
  open_case(&c, "llama_bias_tied");
  fisher_tensors(&c);
  c.plan.example = 4;
  c.plan.loss = INGOT_LOSS_SUM;
  assert_int_equal(ingot_fisher_examples(&c.plan), N_WINDOW * 4);
  check_ok(run_fisher(&c));
  assert_int_equal(check_output(&c, "spans", 1e-4), c.layout.n_param);
  close_case(&c);
}

static void test_fisher_exact(void **state)
{
  (void)state;
  plan_case c;
  open_case(&c, "llama_bias_tied");
  fisher_tensors(&c);
  c.plan.labels = INGOT_LABELS_EXACT;
  c.plan.window.limit = c.data.n_window = 1;
  check_ok(run_fisher(&c));
  assert_int_equal(check_output(&c, "exact", 1e-4), c.layout.n_param);
  close_case(&c);
}

/* Sampled labels: the same for one seed, others for another; and on average over draws the exact information. */
static void test_fisher_sampled(void **state)
{
  (void)state;
  enum { N_DRAW = 400 };
  plan_case c;
  double    trace = 0.0, exact = 0.0, one[3];
  open_case(&c, "llama_bias_tied");
  fisher_tensors(&c);
  c.plan.window.limit = c.data.n_window = 1;
  for (int k = -1; k < N_DRAW; k++) {
    ingot_source *out = NULL;
    c.plan.labels = k < 0 ? INGOT_LABELS_EXACT : INGOT_LABELS_SAMPLED;
    c.plan.top_k = 67; /* all classes */
    c.plan.seed = k == 1 ? 0 : (uint64_t)(k < 0 ? 0 : k);
    check_ok(run_fisher(&c));
    check_ok(ingot_source_open(c.output, &out));
    int64_t n;
    float  *values = read_all(out, "model.norm.weight", &n);
    double  sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)values[i];
    if (k < 0) exact = sum;
    else trace += sum / N_DRAW;
    if (k >= 0 && k < 3) one[k] = sum;
    free(values);
    ingot_source_close(&out);
  }
  assert_true(one[0] == one[1] && one[0] != one[2]);
  assert_true(fabs(trace / exact - 1) < 0.2); /* 400 draws of a sum of squares of 15 parts: about 5 % off */
  close_case(&c);
}

/* The reference's matrices are full, ours the upper triangle by rows. */
static int check_triangles(const plan_case *c, const char *prefix, bool outputs, double limit)
{
  ingot_source *out = NULL;
  int           n_checked = 0;
  check_ok(ingot_source_open(c->output, &out));
  for (int i = 0; i < ingot_source_count(out); i++) {
    const char *name = ingot_source_tensor(out, i)->name;
    size_t      length = strlen(name);
    bool        is_output = length > 7 && strcmp(name + length - 7, "#output") == 0;
    char        wanted[160];
    int64_t     n, n_expected, k = 0;
    if (is_output != outputs) continue;
    snprintf(wanted, sizeof wanted, "%s/%.*s", prefix, (int)(is_output ? length - 7 : length), name);
    if (strstr(name, "embed_tokens") || strstr(name, "wte")) snprintf(wanted, sizeof wanted, "%s/lm_head.weight", prefix);
    float  *found = read_all(out, name, &n), *expected = read_all(c->reference, wanted, &n_expected);
    int64_t width = (int64_t)sqrt((double)n_expected);
    assert_int_equal(width * width, n_expected);
    assert_int_equal(n, width * (width + 1) / 2);
    for (int64_t row = 0; row < width; row++)
      for (int64_t column = row; column < width; column++) expected[k++] = expected[row * width + column];
    check_close(wanted, found, expected, n, limit);
    free(found);
    free(expected);
    n_checked++;
  }
  ingot_source_close(&out);
  return n_checked;
}

static void test_gram(void **state)
{
  (void)state;
  static const char *const names[] = {"llama_bias_tied", "gpt2"};
  static const int         n_input[] = {4, 4}, n_output[] = {7, 4}; /* a layer */
  for (int i = 0; i < 2; i++) {
    for (int64_t batch = 1; batch <= 3; batch += 2) {
      plan_case c;
      open_case(&c, names[i]);
      c.plan.head = c.plan.outputs = true;
      c.plan.batch = batch;
      gram_tensors(&c);
      check_ok(run_gram(&c));
      assert_int_equal(check_triangles(&c, "gram", false, 1e-5), n_input[i] * c.spec.n_layer + 1);
      assert_int_equal(check_triangles(&c, "output", true, 1e-4), n_output[i] * c.spec.n_layer);
      close_case(&c);
    }
  }
}

static void read_file(const char *path, char **bytes, size_t *size)
{
  FILE *f = fopen(path, "rb");
  assert_non_null(f);
  *bytes = malloc(1 << 22);
  *size = fread(*bytes, 1, 1 << 22, f);
  fclose(f);
}

static void check_same_file(const char *a, const char *b)
{
  char  *x, *y;
  size_t n, m;
  read_file(a, &x, &n);
  read_file(b, &y, &m);
  assert_int_equal(n, m);
  assert_memory_equal(x, y, n);
  free(x);
  free(y);
}

/* Matrices that do not fit take several passes over the data; stopped in the second one, and gone on with. */
static void test_gram_passes(void **state)
{
  (void)state;
  plan_case c;
  char      first[PATH + 8];
  open_case(&c, "llama_bias_tied");
  c.plan.head = c.plan.outputs = true;
  c.plan.batch = 1;
  gram_tensors(&c);
  snprintf(first, sizeof first, "%s.first", c.output);
  assert_int_equal(ingot_gram_passes(&c.plan, &c.layout), 1);
  check_ok(run_gram(&c));
  assert_int_equal(rename(c.output, first), 0);

  c.plan.sums_bytes = 1; /* one matrix at a time */
  assert_int_equal(ingot_gram_passes(&c.plan, &c.layout), c.plan.sink.n_tensor);
  c.plan.sums_bytes = ingot_gram_sums_bytes(&c.plan, &c.layout) * 4;
  const int n_pass = ingot_gram_passes(&c.plan, &c.layout);
  assert_true(n_pass > 2 && n_pass < c.plan.sink.n_tensor);
  check_ok(run_gram(&c));
  check_same_file(c.output, first);
  assert_int_equal(unlink(c.output), 0);

  signal(SIGTERM, on_signal);
  check_ok(ingot_fault_init("stop@0:6", 0));
  check_fails(run_gram(&c), INGOT_STOPPED, "the same command continues");
  signal(SIGTERM, SIG_DFL);
  atomic_store(&stop_flag, 0);
  char fault[32]; /* six windows are done: one read more than what is left would be an error */
  snprintf(fault, sizeof fault, "read@0:%d", n_pass * N_WINDOW - 6 + 1);
  check_ok(ingot_fault_init(fault, 0));
  check_ok(run_gram(&c));
  check_same_file(c.output, first);
  check_ok(ingot_gather_forget(c.output));

  /* what was written is lost: begun anew */
  char partial[PATH + 16];
  snprintf(partial, sizeof partial, "%s.partial", c.output);
  assert_int_equal(unlink(c.output), 0);
  signal(SIGTERM, on_signal);
  check_ok(ingot_fault_init("stop@0:6", 0));
  check_fails(run_gram(&c), INGOT_STOPPED, "the same command continues");
  signal(SIGTERM, SIG_DFL);
  atomic_store(&stop_flag, 0);
  assert_int_equal(unlink(partial), 0);
  check_ok(ingot_fault_init(NULL, 0));
  check_ok(run_gram(&c));
  check_same_file(c.output, first);
  close_case(&c);
}

/* Without head and outputs: inputs alone, and no logits. */
static void test_gram_inputs(void **state)
{
  (void)state;
  plan_case c;
  open_case(&c, "gpt2");
  gram_tensors(&c);
  check_ok(run_gram(&c));
  assert_int_equal(check_triangles(&c, "gram", false, 1e-5), 4 * c.spec.n_layer);
  close_case(&c);
}

/* Stopped before its third window, a run goes on from there to the same bytes; states that do not fit are left. */
static void test_stop_and_resume(void **state)
{
  (void)state;
  for (int kind = 0; kind < 2; kind++) {
    plan_case c;
    char      first[PATH + 8], saved[PATH + 32];
    open_case(&c, "llama_bias_tied");
    c.plan.outputs = kind == 1;
    if (kind == 0) fisher_tensors(&c);
    else gram_tensors(&c);
    c.plan.batch = 1;
    ingot_status (*run)(plan_case *) = kind == 0 ? run_fisher : run_gram;
    snprintf(first, sizeof first, "%s.first", c.output);
    snprintf(saved, sizeof saved, "%s.state.0-of-1", c.output);
    check_ok(run(&c));
    assert_int_equal(rename(c.output, first), 0);

    signal(SIGTERM, on_signal);
    check_ok(ingot_fault_init("stop@0:3", 0));
    check_fails(run(&c), INGOT_STOPPED, "the same command continues");
    signal(SIGTERM, SIG_DFL);
    assert_int_equal(access(saved, F_OK), 0);
    assert_int_not_equal(access(c.output, F_OK), 0);
    atomic_store(&stop_flag, 0);
    /* three windows are done: a read that fails at the second one of the rest would be the fifth of four */
    check_ok(ingot_fault_init("read@0:2", 0));
    check_ok(run(&c));
    check_same_file(c.output, first);

    /* of other settings; and damaged: begun anew, with the same result */
    c.plan.fingerprint++;
    check_ok(ingot_fault_init("read@0:4", 0));
    check_fails(run(&c), INGOT_ERR_IO, "");
    c.plan.fingerprint--;
    FILE *f = fopen(saved, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, 200, SEEK_SET), 0);
    assert_int_equal(fputc(77, f), 77);
    fclose(f);
    check_ok(ingot_fault_init("read@0:4", 0));
    check_fails(run(&c), INGOT_ERR_IO, "");
    check_ok(ingot_fault_init(NULL, 0));
    check_ok(run(&c));
    check_same_file(c.output, first);
    check_ok(ingot_gather_forget(c.output));
    assert_int_not_equal(access(saved, F_OK), 0);
    close_case(&c);
  }
}

/* What is done of an evaluation is kept by model and data set. */
static void test_evaluate_resume(void **state)
{
  (void)state;
  plan_case          c;
  ingot_score        scores[2], again[2];
  ingot_merge_timing timing;
  open_case(&c, "gpt2");
  ingot_gather_data two[2] = {c.data, c.data};
  c.plan.data = two;
  c.plan.n_data = 2;
  c.plan.batch = 1;
  check_ok(ingot_fault_init("read@0:6", 0)); /* in the second data set */
  check_fails(ingot_evaluate_run(c.comm, &c.plan, &c.options, scores, &timing), INGOT_ERR_IO, "");
  check_ok(ingot_fault_init("read@0:5", 0)); /* four windows are left */
  check_ok(ingot_evaluate_run(c.comm, &c.plan, &c.options, scores, &timing));
  assert_int_equal(timing.tiles_resumed, N_WINDOW);
  check_ok(ingot_fault_init(NULL, 0));
  c.options.fresh = true;
  check_ok(ingot_evaluate_run(c.comm, &c.plan, &c.options, again, &timing));
  assert_int_equal(timing.tiles_resumed, 0);
  for (int i = 0; i < 2; i++) assert_true(again[i].nll == scores[i].nll && again[i].n_right == scores[i].n_right);
  close_case(&c);
}

static void test_bad_data(void **state)
{
  (void)state;
  plan_case   c;
  ingot_score score;
  char        path[SCRATCH_PATH];
  uint16_t    ids[N_WINDOW * LENGTH] = {0};
  open_case(&c, "gpt2");
  ids[40] = 67;
  scratch_write(&c.s, "big.u16", ids, sizeof ids);
  c.data.path = scratch_path(&c.s, "big.u16", path);
  check_fails(run_evaluate(&c, &score), INGOT_ERR_FORMAT,
              "big.u16: token 40 is 67, and ids go from 0 to 66 (the model's vocabulary)");
  c.data.n_window = 3;
  check_fails(run_evaluate(&c, &score), INGOT_ERR_FORMAT, "the file was changed after it was looked at");
  c.plan.window.length = 128; /* the model has 64 positions */
  static uint16_t zeros[256];
  scratch_write(&c.s, "big.u16", zeros, sizeof zeros);
  c.data.n_window = 2;
  check_fails(run_evaluate(&c, &score), INGOT_ERR_MISMATCH, "windows of 128 tokens, and the model has ");
  close_case(&c);
}

/* A copy of the model with weights of the final norm so large that logits are infinite. */
static void break_model(plan_case *c, char path[SCRATCH_PATH])
{
  char  *bytes, from[PATH + 32];
  size_t size;
  scratch_mkdir(&c->s, "bad");
  snprintf(from, sizeof from, "%s/config.json", c->model_path);
  read_file(from, &bytes, &size);
  scratch_write(&c->s, "bad/config.json", bytes, size);
  free(bytes);
  snprintf(from, sizeof from, "%s/model.safetensors", c->model_path);
  read_file(from, &bytes, &size);
  memset(bytes + size - 8, 0x7f, 8); /* two float32 of 3.4e38 */
  scratch_write(&c->s, "bad/model.safetensors", bytes, size);
  free(bytes);
  scratch_path(&c->s, "bad", path);
}

static void test_not_finite(void **state)
{
  (void)state;
  plan_case   c;
  ingot_score score;
  char        path[SCRATCH_PATH], partial[PATH + 16];
  open_case(&c, "llama_bias_tied");
  break_model(&c, path);
  c.model.path = path;
  check_fails(run_evaluate(&c, &score), INGOT_ERR_NUMERIC, "tokens.u16: the loss is not finite");
  assert_non_null(strstr(ingot_error_message(), "window 1 of 4 of "));
  fisher_tensors(&c);
  check_fails(run_fisher(&c), INGOT_ERR_NUMERIC, "the loss is not finite");
  free(c.tensors);
  c.plan.head = true;
  gram_tensors(&c);
  check_fails(run_gram(&c), INGOT_ERR_NUMERIC, "model.embed_tokens.weight: the mean of element 14 is not finite");
  assert_int_not_equal(access(c.output, F_OK), 0);
  snprintf(partial, sizeof partial, "%s.partial", c.output);
  assert_int_not_equal(access(partial, F_OK), 0); /* another run would find the same: nothing is kept */
  close_case(&c);
}

static void test_plan_mismatch(void **state)
{
  (void)state;
  plan_case c;
  open_case(&c, "gpt2");
  fisher_tensors(&c);
  c.plan.sink.n_tensor--;
  check_fails(run_fisher(&c), INGOT_ERR_MISMATCH, "28 parameters, and the plan has 27");
  close_case(&c);
}

/* Bytes grow with what is held. */
static void test_bytes(void **state)
{
  (void)state;
  plan_case c;
  open_case(&c, "gpt2");
  uint64_t evaluate = ingot_evaluate_bytes(&c.plan, &c.spec), fisher = ingot_fisher_bytes(&c.plan, &c.spec, &c.layout);
  uint64_t inputs = ingot_gram_bytes(&c.plan, &c.spec, &c.layout);
  c.plan.outputs = true;
  uint64_t both = ingot_gram_bytes(&c.plan, &c.spec, &c.layout), weights = (uint64_t)c.layout.n_elem * 4;
  assert_true(evaluate > weights && fisher > 2 * weights && inputs > weights && both > inputs);
  close_case(&c);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_evaluate),       cmocka_unit_test(test_evaluate_overlap),
      cmocka_unit_test(test_fisher),         cmocka_unit_test(test_fisher_spans),
      cmocka_unit_test(test_fisher_exact),   cmocka_unit_test(test_fisher_sampled),
      cmocka_unit_test(test_gram),           cmocka_unit_test(test_gram_inputs),
      cmocka_unit_test(test_stop_and_resume), cmocka_unit_test(test_gram_passes), cmocka_unit_test(test_evaluate_resume),
      cmocka_unit_test(test_bad_data),       cmocka_unit_test(test_not_finite),
      cmocka_unit_test(test_plan_mismatch),  cmocka_unit_test(test_bytes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
