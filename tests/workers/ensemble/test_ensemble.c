/*
 * Ensembles of two tiny models of different architecture: scores against distributions that were written to logits
 * files and combined here in float64; members together and one by one; learnt weights; stopped runs; what logits files
 * are checked for.
 */
#define _XOPEN_SOURCE 700
#include "tests/check.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>

#include "base/fault.h"
#include "io/source.h"
#include "tests/io/scratch.h"
#include "workers/ensemble/ensemble.h"
#include "workers/ensemble/placement.h"

enum { N_WINDOW = 4, LENGTH = 16, N_VOCAB = 67, N_POSITION = N_WINDOW * (LENGTH - 1), PATH = 1024 };

static atomic_int stop_flag;

static void on_signal(int number)
{
  (void)number;
  atomic_store(&stop_flag, 1);
}

typedef struct ensemble_case {
  scratch              s;
  ingot_comm          *comm;
  char                 paths[2][PATH], data_path[PATH], output[PATH];
  ingot_gather_model   models[2];
  ingot_gather_data    data[2];
  double               weights[2];
  ingot_ensemble_plan  plan;
  ingot_gather_options options;
  ingot_sink_tensor    tensors[3];
  ingot_sink_file      file;
  ingot_text           json;
  ingot_logits_data    logits_data;
} ensemble_case;

static void open_case(ensemble_case *c)
{
  static const char *const names[2] = {"llama_bias_tied", "gpt2"};
  memset(c, 0, sizeof *c);
  scratch_begin(&c->s);
  check_ok(ingot_comm_init(NULL, NULL, &c->comm));
  for (int m = 0; m < 2; m++) {
    snprintf(c->paths[m], PATH, "%s/workers/model/reference/%s", INGOT_TEST_DIR, names[m]);
    c->models[m] = (ingot_gather_model){names[m], c->paths[m]};
  }
  snprintf(c->data_path, PATH, "%s/workers/statistics/reference/tokens.u16", INGOT_TEST_DIR);
  snprintf(c->output, PATH, "%s/out.h5", c->s.dir);
  c->data[0] = (ingot_gather_data){"d", c->data_path, NULL, N_WINDOW};
  c->data[1] = (ingot_gather_data){"learn", c->data_path, NULL, N_WINDOW};
  c->weights[0] = 0.3;
  c->weights[1] = 0.7;
  c->plan = (ingot_ensemble_plan){.gather = {.models = c->models,
                                             .n_model = 2,
                                             .data = c->data,
                                             .n_data = 1,
                                             .window = {.length = LENGTH, .document = -1},
                                             .batch = 3,
                                             .output = c->output,
                                             .fingerprint = 77},
                                  .n_score = 1,
                                  .n_row = 1,
                                  .weights = c->weights,
                                  .floor = log(1e-8),
                                  .l2 = 1e-3,
                                  .group = 2,
                                  .k = N_VOCAB,
                                  .logp_dtype = INGOT_DTYPE_F32};
  c->options = (ingot_gather_options){.n_thread = 1, .stop = &stop_flag};
  atomic_store(&stop_flag, 0);
  check_ok(ingot_fault_init(NULL, 0));
}

static void close_case(ensemble_case *c)
{
  ingot_text_release(&c->json);
  ingot_comm_finalize(&c->comm);
  scratch_end(&c->s);
}

/* ---- logits files ---- */

static void logits_sink(ensemble_case *c)
{
  static const ingot_logits_model model = {"m", "m.h5", 5};
  ingot_tokens                   *tokens = NULL;
  ingot_logits_info               info = {.k = c->plan.k,
                                          .dtype = c->plan.logp_dtype,
                                          .tail = INGOT_LOGITS_TAIL_BUCKET,
                                          .n_vocab = N_VOCAB,
                                          .tokenizer = 0x1234,
                                          .window = c->plan.gather.window,
                                          .teacher = "linear",
                                          .models = &model,
                                          .n_model = 1,
                                          .weights = c->weights,
                                          .n_weight_row = 1,
                                          .data = &c->logits_data,
                                          .n_data = 1};
  check_ok(ingot_tokens_open(c->data_path, NULL, &tokens));
  c->logits_data = (ingot_logits_data){"d", "d.u16", 0, ingot_tokens_count(tokens), N_WINDOW};
  check_ok(ingot_tokens_hash(tokens, &c->logits_data.hash));
  ingot_tokens_close(&tokens);
  ingot_text_release(&c->json);
  check_ok(ingot_logits_write_info(&info, &c->json));
  c->file = (ingot_sink_file){INGOT_LOGITS_FILE, ingot_text_string(&c->json), c->json.size};
  c->tensors[0] = (ingot_sink_tensor){"ids", INGOT_DTYPE_U16, {.n_dim = 2, .dim = {N_POSITION, c->plan.k}}};
  c->tensors[1] = (ingot_sink_tensor){"logp", c->plan.logp_dtype, {.n_dim = 2, .dim = {N_POSITION, c->plan.k}}};
  c->tensors[2] = (ingot_sink_tensor){"log_tail", INGOT_DTYPE_F32, {.n_dim = 1, .dim = {N_POSITION}}};
  c->plan.gather.sink = (ingot_sink_spec){.path = c->output,
                                          .format = INGOT_SINK_HDF5,
                                          .tensors = c->tensors,
                                          .n_tensor = 3,
                                          .files = &c->file,
                                          .n_file = 1};
}

static ingot_status write_logits(ensemble_case *c, ingot_merge_timing *timing)
{
  uint64_t checksums[3];
  return ingot_ensemble_write_logits(c->comm, &c->plan, &c->options, checksums, timing);
}

/* Log-probabilities [N_POSITION][N_VOCAB] of a mixture, by a logits file. */
static void distributions(ensemble_case *c, double *logp)
{
  ingot_merge_timing timing;
  ingot_logits      *l = NULL;
  int32_t            ids[LENGTH * N_VOCAB];
  float              values[LENGTH * N_VOCAB], tail[LENGTH];
  logits_sink(c);
  check_ok(write_logits(c, &timing));
  check_ok(ingot_logits_open(c->output, &l));
  assert_int_equal(ingot_logits_about(l)->k, N_VOCAB);
  for (int w = 0; w < N_WINDOW; w++) {
    check_ok(ingot_logits_read(l, 0, w, ids, values, tail));
    for (int t = 0; t < LENGTH - 1; t++) {
      double sum = 0.0;
      assert_true(isinf(tail[t]) && tail[t] < 0);
      for (int j = 0; j < N_VOCAB; j++) {
        logp[(w * (LENGTH - 1) + t) * N_VOCAB + ids[t * N_VOCAB + j]] = (double)values[t * N_VOCAB + j];
        sum += exp((double)values[t * N_VOCAB + j]);
        if (j) assert_true(values[t * N_VOCAB + j] <= values[t * N_VOCAB + j - 1]);
      }
      assert_true(fabs(sum - 1.0) < 1e-5);
    }
  }
  ingot_logits_close(&l);
  remove(c->output);
  check_ok(ingot_sink_remove_partial(c->output));
}

static void one_model(ensemble_case *c, int m, double *logp)
{
  double one = 1.0;
  c->plan.gather.models = c->models + m;
  c->plan.gather.n_model = 1;
  c->plan.weights = &one;
  distributions(c, logp);
  c->plan.gather.models = c->models;
  c->plan.gather.n_model = 2;
  c->plan.weights = c->weights;
}

static void labels_of(const ensemble_case *c, int32_t *labels)
{
  ingot_tokens *tokens = NULL;
  int32_t       ids[N_WINDOW * LENGTH];
  check_ok(ingot_tokens_open(c->data_path, NULL, &tokens));
  check_ok(ingot_tokens_read(tokens, 0, N_WINDOW * LENGTH, 0, ids));
  ingot_tokens_close(&tokens);
  for (int w = 0; w < N_WINDOW; w++)
    for (int t = 0; t < LENGTH - 1; t++) labels[w * (LENGTH - 1) + t] = ids[w * LENGTH + t + 1];
}

/* The loss of a mixture by its definition. */
static double expected_nll(ingot_ensemble_kind kind, const double *weights, double *const logp[2],
                           const int32_t *labels)
{
  double nll = 0.0, sum[2] = {0, 0};
  for (int i = 0; i < N_POSITION; i++) {
    double total = 0.0, of_label = 0.0, w[2] = {weights[0], weights[1]};
    if (kind == INGOT_ENSEMBLE_POSTERIOR) {
      double most = 0.0;
      for (int m = 0; m < 2; m++)
        sum[m] = i % (LENGTH - 1) == 0 ? 0.0 : sum[m] + logp[m][(i - 1) * N_VOCAB + labels[i - 1]];
      for (int m = 0; m < 2; m++) most += w[m] *= exp(sum[m]);
      for (int m = 0; m < 2; m++) w[m] /= most;
    }
    for (int v = 0; v < N_VOCAB; v++) {
      double a = logp[0][i * N_VOCAB + v], b = logp[1][i * N_VOCAB + v];
      double q = kind == INGOT_ENSEMBLE_LOG_LINEAR ? exp(w[0] * a + w[1] * b)
                 : kind == INGOT_ENSEMBLE_MAX      ? fmax(w[0] * exp(a), w[1] * exp(b))
                                                   : w[0] * exp(a) + w[1] * exp(b);
      total += q;
      if (v == labels[i]) of_label = q;
    }
    nll -= log(of_label / total);
  }
  return nll;
}

static void run(ensemble_case *c, ingot_ensemble_result *result)
{
  ingot_merge_timing timing;
  check_ok(ingot_ensemble_result_init(result, &c->plan));
  check_ok(ingot_ensemble_run(c->comm, &c->plan, &c->options, result, &timing));
  check_ok(ingot_gather_forget(c->output));
}

static void test_kinds(void **state)
{
  (void)state;
  ensemble_case         c;
  ingot_ensemble_result r;
  double               *logp[2];
  int32_t               labels[N_POSITION];
  open_case(&c);
  for (int m = 0; m < 2; m++) {
    logp[m] = calloc((size_t)N_POSITION * N_VOCAB, sizeof *logp[m]);
    one_model(&c, m, logp[m]);
  }
  labels_of(&c, labels);
  for (int kind = 0; kind < INGOT_ENSEMBLE_KIND_COUNT; kind++) {
    c.plan.kind = (ingot_ensemble_kind)kind;
    for (int one_by_one = 0; one_by_one < 2; one_by_one++) {
      c.plan.one_by_one = one_by_one;
      c.plan.gather.batch = one_by_one ? 1 : 3;
      run(&c, &r);
      for (int m = 0; m < 2; m++) {
        double own = 0.0;
        for (int i = 0; i < N_POSITION; i++) own -= logp[m][i * N_VOCAB + labels[i]];
        assert_true(fabs(r.scores[m].nll - own) < 1e-4 * own);
        assert_int_equal(r.scores[m].n_token, N_POSITION);
      }
      if (kind == INGOT_ENSEMBLE_VOTE) { /* the heavier of two voters decides alone */
        assert_true(isnan(r.scores[2].nll));
        assert_int_equal(r.scores[2].n_right, r.scores[1].n_right);
      } else {
        double expected = expected_nll((ingot_ensemble_kind)kind, c.weights, logp, labels);
        if (fabs(r.scores[2].nll - expected) > 1e-4 * expected)
          fail_msg("%s: %g instead of %g", ingot_ensemble_kind_name((ingot_ensemble_kind)kind), r.scores[2].nll,
                   expected);
      }
      ingot_ensemble_result_release(&r);
    }
  }
  free(logp[0]);
  free(logp[1]);
  close_case(&c);
}

/* The loss of a log-linear mixture by its definition, over the tokens that are left, and how many are. */
static double kept_nll(const double *weights, int reference, double share, double *const logp[2], const int32_t *labels,
                       int *n_kept)
{
  double nll = 0.0;
  *n_kept = 0;
  for (int i = 0; i < N_POSITION; i++) {
    const double *by = logp[reference] + (size_t)i * N_VOCAB;
    double        most = -INFINITY, total = 0.0, of_label = 0.0;
    for (int v = 0; v < N_VOCAB; v++) most = fmax(most, by[v]);
    for (int v = 0; v < N_VOCAB; v++) {
      double q = exp(by[v]) < share * exp(most)
                     ? 0.0
                     : exp(weights[0] * logp[0][i * N_VOCAB + v] + weights[1] * logp[1][i * N_VOCAB + v]);
      total += q;
      if (v == labels[i]) of_label = q;
    }
    if (of_label <= 0.0) continue;
    nll -= log(of_label / total);
    ++*n_kept;
  }
  return nll;
}

/* Tokens that the reference finds implausible have no probability: the loss of data with such tokens is infinite, that
 * of the others finite. */
static void test_plausible(void **state)
{
  (void)state;
  static const struct {
    double weights[2], share;
    int    reference;
  } of[] = {{{1.3, -0.3}, 0.2, 0}, {{0.5, 0.5}, 0.6, 1}, {{1.3, -0.3}, 1e-9, 0}};
  ensemble_case         c;
  ingot_ensemble_result r;
  double               *logp[2], *mixed = calloc((size_t)N_POSITION * N_VOCAB, sizeof *mixed);
  int32_t               labels[N_POSITION];
  open_case(&c);
  for (int m = 0; m < 2; m++) {
    logp[m] = calloc((size_t)N_POSITION * N_VOCAB, sizeof *logp[m]);
    one_model(&c, m, logp[m]);
  }
  labels_of(&c, labels);
  c.plan.kind = INGOT_ENSEMBLE_LOG_LINEAR;
  for (size_t k = 0; k < sizeof of / sizeof of[0]; k++) {
    int    n_kept, n_out = 0, n_expected = 0;
    double expected = kept_nll(of[k].weights, of[k].reference, of[k].share, logp, labels, &n_kept);
    memcpy(c.weights, of[k].weights, sizeof c.weights);
    c.plan.plausibility = of[k].share;
    c.plan.reference = of[k].reference;
    assert_true(k == 2 ? n_kept == N_POSITION : n_kept > 0 && n_kept < N_POSITION);
    for (int one_by_one = 0; one_by_one < 2; one_by_one++) {
      c.plan.one_by_one = one_by_one;
      run(&c, &r);
      assert_int_equal(r.kept[0].n_token, n_kept);
      assert_true(fabs(r.kept[0].nll - expected) < 1e-4 * expected);
      assert_int_equal(r.kept[0].n_right, r.scores[2].n_right);
      assert_int_equal(r.scores[2].n_token, N_POSITION);
      if (k == 2) assert_true(fabs(r.scores[2].nll - expected) < 1e-4 * expected);
      else assert_true(isinf(r.scores[2].nll) && r.scores[2].nll > 0);
      ingot_ensemble_result_release(&r);
    }
    distributions(&c, mixed); /* checks that they sum to 1 */
    for (int i = 0; i < N_POSITION * N_VOCAB; i++) {
      const double *by = logp[of[k].reference] + (size_t)(i / N_VOCAB) * N_VOCAB;
      double        most = -INFINITY;
      for (int v = 0; v < N_VOCAB; v++) most = fmax(most, by[v]);
      n_out += isinf(mixed[i]) != 0;
      n_expected += by[i % N_VOCAB] < most + log(of[k].share);
    }
    assert_int_equal(n_out, n_expected);
  }
  free(logp[0]);
  free(logp[1]);
  free(mixed);
  close_case(&c);
}

/* The loss at weights w, by a run. */
static double loss_at(ensemble_case *c, double w0, double w1)
{
  ingot_ensemble_result r;
  c->weights[0] = w0;
  c->weights[1] = w1;
  run(c, &r);
  double nll = r.scores[2].nll / N_POSITION;
  ingot_ensemble_result_release(&r);
  return nll;
}

static void test_learn(void **state)
{
  (void)state;
  ensemble_case         c;
  ingot_ensemble_result r;
  open_case(&c);
  for (int kind = INGOT_ENSEMBLE_LINEAR; kind <= INGOT_ENSEMBLE_LOG_LINEAR; kind++) {
    c.plan.kind = (ingot_ensemble_kind)kind;
    c.plan.learn = true;
    c.plan.gather.n_data = 2;
    c.weights[0] = c.weights[1] = 0.5;
    run(&c, &r);
    double w[2] = {r.weights[0], r.weights[1]}, at = r.scores[2].nll / N_POSITION, h = 1e-2;
    assert_true(r.learning[0].converged && r.learning[0].n_token == N_POSITION);
    assert_true(r.learning[0].end_nll <= r.learning[0].start_nll);
    assert_true(fabs(r.learning[0].end_nll - at) < 1e-5); /* learnt on what is scored */
    ingot_ensemble_result_release(&r);
    c.plan.learn = false;
    c.plan.gather.n_data = 1;
    if (kind == INGOT_ENSEMBLE_LINEAR) {
      assert_true(fabs(w[0] + w[1] - 1.0) < 1e-9);
      for (int side = -1; side <= 1; side += 2) {
        double other = w[0] + side * h;
        if (other > 0 && other < 1) assert_true(loss_at(&c, other, 1 - other) > at - 1e-6);
      }
    } else { /* the objective's differences vanish: central ones are exact to h^2 */
      for (int m = 0; m < 2; m++) {
        double up = loss_at(&c, w[0] + (m == 0) * h, w[1] + (m == 1) * h),
               down = loss_at(&c, w[0] - (m == 0) * h, w[1] - (m == 1) * h);
        assert_true(fabs((up - down) / (2 * h) + 1e-3 * w[m]) < 2e-3);
        assert_true(up + down > 2 * at - 1e-5); /* convex */
      }
    }
  }
  close_case(&c);
}

static void test_logits_resume(void **state)
{
  (void)state;
  ensemble_case      c;
  ingot_merge_timing timing;
  open_case(&c);
  c.plan.k = 3;
  c.plan.logp_dtype = INGOT_DTYPE_F16;
  c.plan.gather.batch = 1;
  logits_sink(&c);
  signal(SIGTERM, on_signal);
  check_ok(ingot_fault_init("stop@0:3", 0));
  check_fails(write_logits(&c, &timing), INGOT_STOPPED, "the same command continues");
  check_ok(ingot_fault_init(NULL, 0));
  atomic_store(&stop_flag, 0);
  check_ok(write_logits(&c, &timing));
  assert_true(timing.tiles_resumed > 0 && timing.tiles_resumed < N_WINDOW);

  ingot_logits *l = NULL;
  ingot_tokens *tokens = NULL;
  int32_t       ids[LENGTH * 3];
  float         logp[LENGTH * 3], tail[LENGTH];
  int           data;
  check_ok(ingot_logits_open(c.output, &l));
  for (int w = 0; w < N_WINDOW; w++) {
    check_ok(ingot_logits_read(l, 0, w, ids, logp, tail));
    for (int t = 0; t < LENGTH; t++) {
      double sum = exp((double)tail[t]);
      for (int j = 0; j < 3; j++) sum += exp((double)logp[t * 3 + j]);
      assert_true(fabs(sum - 1.0) < 2e-3); /* float16 */
    }
  }
  check_ok(ingot_tokens_open(c.data_path, NULL, &tokens));
  check_ok(ingot_logits_find_data(l, tokens, &c.plan.gather.window, &data));
  assert_int_equal(data, 0);
  ingot_window_spec longer = c.plan.gather.window, limited = c.plan.gather.window;
  longer.length = 32;
  limited.limit = 2;
  check_fails(ingot_logits_find_data(l, tokens, &longer, &data), INGOT_ERR_MISMATCH, "of windows of 16 tokens, not 32");
  check_fails(ingot_logits_find_data(l, tokens, &limited, &data), INGOT_ERR_MISMATCH, "other windows");
  ingot_tokens_close(&tokens);

  char     other[PATH];
  uint16_t changed[69] = {1, 2, 3};
  snprintf(other, PATH, "%s/other.u16", c.s.dir);
  FILE *f = fopen(other, "wb");
  assert_non_null(f);
  assert_int_equal(fwrite(changed, sizeof changed, 1, f), 1);
  fclose(f);
  check_ok(ingot_tokens_open(other, NULL, &tokens));
  check_fails(ingot_logits_find_data(l, tokens, &c.plan.gather.window, &data), INGOT_ERR_MISMATCH,
              "made from other tokens than those of");
  ingot_tokens_close(&tokens);
  check_ok(ingot_logits_check_tokenizer(l, N_VOCAB, 0x1234, "m"));
  check_ok(ingot_logits_check_tokenizer(l, N_VOCAB, 0, "m"));
  check_fails(ingot_logits_check_tokenizer(l, N_VOCAB, 0x4321, "m"), INGOT_ERR_MISMATCH, "another tokenizer");
  check_fails(ingot_logits_check_tokenizer(l, 100, 0x1234, "m"), INGOT_ERR_MISMATCH, "67 tokens, and m has 100");
  ingot_logits_close(&l);
  check_fails(ingot_logits_open(c.paths[0], &l), INGOT_ERR_FORMAT, "no logits file");
  close_case(&c);
}

static void test_resume_scores(void **state)
{
  (void)state;
  ensemble_case         c;
  ingot_ensemble_result whole, r;
  ingot_merge_timing    timing;
  open_case(&c);
  c.plan.kind = INGOT_ENSEMBLE_LOG_LINEAR;
  c.plan.learn = true;
  c.plan.gather.n_data = 2;
  c.plan.gather.batch = 1;
  c.weights[0] = c.weights[1] = 0.5;
  run(&c, &whole);
  signal(SIGTERM, on_signal);
  check_ok(ingot_fault_init("stop@0:7", 0)); /* in the second step of Newton's method */
  check_ok(ingot_ensemble_result_init(&r, &c.plan));
  assert_int_equal(ingot_ensemble_run(c.comm, &c.plan, &c.options, &r, &timing), INGOT_STOPPED);
  ingot_ensemble_result_release(&r);
  check_ok(ingot_fault_init(NULL, 0));
  atomic_store(&stop_flag, 0);
  run(&c, &r);
  assert_memory_equal(r.weights, whole.weights, 2 * sizeof *r.weights);
  assert_memory_equal(r.scores, whole.scores, 3 * sizeof *r.scores);
  assert_int_equal(r.learning[0].n_iteration, whole.learning[0].n_iteration);
  ingot_ensemble_result_release(&whole);
  ingot_ensemble_result_release(&r);
  close_case(&c);
}

static void check_homes(const uint64_t *bytes, int n, int n_rank, const int *expected)
{
  int home[8];
  ingot_placement_spread(bytes, n, n_rank, home);
  for (int i = 0; i < n; i++)
    if (home[i] != expected[i])
      fail_msg("member %d of %d is on rank %d of %d instead of %d", i, n, home[i], n_rank, expected[i]);
}

/* The largest first to the rank with least; equal ones in turn; fewer members than ranks. */
static void test_placement(void **state)
{
  (void)state;
  check_homes((const uint64_t[]){5, 9, 3, 9, 4}, 5, 2, (const int[]){0, 0, 1, 1, 1});
  check_homes((const uint64_t[]){7, 7, 7, 7, 7}, 5, 3, (const int[]){0, 1, 2, 0, 1});
  check_homes((const uint64_t[]){2, 3}, 2, 4, (const int[]){1, 0});
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_placement),     cmocka_unit_test(test_kinds),
                                     cmocka_unit_test(test_plausible),     cmocka_unit_test(test_learn),
                                     cmocka_unit_test(test_logits_resume), cmocka_unit_test(test_resume_scores)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
