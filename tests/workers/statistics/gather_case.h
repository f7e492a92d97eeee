/** A plan for one of the reference's models (make_reference.py), run here: for the tests of statistics. */
#ifndef INGOT_TESTS_WORKERS_STATISTICS_GATHER_CASE_H
#define INGOT_TESTS_WORKERS_STATISTICS_GATHER_CASE_H

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

static inline void on_signal(int number)
{
  (void)number;
  atomic_store(&stop_flag, 1);
}

/* A plan for one model on the reference's tokens. */
typedef struct plan_case {
  scratch              s;
  ingot_comm          *comm;
  ingot_source        *source, *reference;
  ingot_model_spec     spec;
  ingot_model_layout   layout;
  int                 *tensor;
  char                 model_path[PATH], data_path[PATH], output[PATH];
  char                 names[256][96];
  ingot_sink_tensor   *tensors;
  ingot_gather_model   model;
  ingot_gather_data    data;
  ingot_gather_plan    plan;
  ingot_gather_options options;
} plan_case;

static inline void open_case(plan_case *c, const char *name)
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
  c->plan = (ingot_gather_plan){.models = &c->model,
                                .n_model = 1,
                                .data = &c->data,
                                .n_data = 1,
                                .window = {.length = LENGTH, .document = -1},
                                .batch = 3,
                                .top_k = 3,
                                .output = c->output,
                                .sink = {.path = c->output, .format = INGOT_SINK_HDF5},
                                .fingerprint = 77};
  c->options = (ingot_gather_options){.n_thread = 1, .stop = &stop_flag};
  atomic_store(&stop_flag, 0);
  check_ok(ingot_fault_init(NULL, 0));
}

static inline void close_case(plan_case *c)
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

static inline void fisher_tensors(plan_case *c)
{
  c->plan.batch = 1;
  c->tensors = calloc((size_t)c->layout.n_param, sizeof *c->tensors);
  for (int p = 0; p < c->layout.n_param; p++)
    c->tensors[p] = (ingot_sink_tensor){c->layout.params[p].name, INGOT_DTYPE_F32, c->layout.params[p].shape};
  c->plan.sink.tensors = c->tensors;
  c->plan.sink.n_tensor = c->layout.n_param;
}

static inline void gram_tensors(plan_case *c)
{
  ingot_gram_item items[256];
  int             n = ingot_gram_items(&c->layout, c->plan.head, c->plan.outputs, NULL);
  assert_true(n > 0 && n <= 256);
  ingot_gram_items(&c->layout, c->plan.head, c->plan.outputs, items);
  c->tensors = calloc((size_t)n, sizeof *c->tensors);
  for (int i = 0; i < n; i++) {
    int param = items[i].param >= 0 ? items[i].param : c->layout.linears[items[i].linear].first_param;
    snprintf(c->names[i], sizeof c->names[i], "%s%s", c->layout.params[param].name,
             items[i].param >= 0 ? "#output" : "");
    c->tensors[i] = (ingot_sink_tensor){.name = c->names[i], .dtype = INGOT_DTYPE_F32};
    c->tensors[i].shape.n_dim = 1;
    c->tensors[i].shape.dim[0] = ingot_gram_packed_count(items[i].width);
  }
  c->plan.sink.tensors = c->tensors;
  c->plan.sink.n_tensor = n;
}

/* A whole tensor; the caller frees it. */
static inline void *read_all(const ingot_source *src, const char *name, int64_t *n)
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
static inline void check_close(const char *name, const float *found, const float *expected, int64_t n, double limit)
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
static inline int check_output(const plan_case *c, const char *prefix, double limit)
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

static inline ingot_status run_fisher(plan_case *c)
{
  uint64_t           checksums[256];
  ingot_merge_timing timing;
  assert_true(c->plan.sink.n_tensor <= 256);
  return ingot_fisher_run(c->comm, &c->plan, &c->options, checksums, &timing);
}

static inline ingot_status run_gram(plan_case *c)
{
  uint64_t           checksums[256];
  ingot_merge_timing timing;
  return ingot_gram_run(c->comm, &c->plan, &c->options, checksums, &timing);
}

static inline ingot_status run_evaluate(plan_case *c, ingot_score *score)
{
  ingot_merge_timing timing;
  return ingot_evaluate_run(c->comm, &c->plan, &c->options, score, &timing);
}

/* Runs until a fault of the kind "stop". */
static inline void run_until_stop(plan_case *c, ingot_status (*run)(plan_case *), const char *fault)
{
  signal(SIGTERM, on_signal);
  check_ok(ingot_fault_init(fault, 0));
  check_fails(run(c), INGOT_STOPPED, "the same command continues");
  signal(SIGTERM, SIG_DFL);
  atomic_store(&stop_flag, 0);
}

static inline void read_file(const char *path, char **bytes, size_t *size)
{
  FILE *f = fopen(path, "rb");
  assert_non_null(f);
  *bytes = malloc(1 << 22);
  *size = fread(*bytes, 1, 1 << 22, f);
  fclose(f);
}

static inline void check_same_file(const char *a, const char *b)
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

#endif
