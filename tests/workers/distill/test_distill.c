/*
 * Training of tiny students: draws and schedules by their definitions, gradients against differences, trajectories
 * against PyTorch (make_reference.py), saved states, and what bad data gets.
 */
#define _XOPEN_SOURCE 700
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

#include "io/tokens.h"
#include "tests/io/scratch.h"
#include "workers/distill/trainer.h"

enum { N_STEP = 8, N_WINDOW = 4, LENGTH = 16, PATH = 1024 };

typedef struct training_reference {
  double loss[N_STEP], norm[N_STEP], end[4];
} training_reference;

#include "reference.inc"

typedef struct distill_case {
  scratch               s;
  ingot_comm           *comm;
  char                  student[PATH], teacher_path[2][PATH], data_path[PATH], output[PATH];
  ingot_gather_model    teachers[2];
  double                weights[2];
  ingot_distill_data    data;
  ingot_distill_plan    plan;
  ingot_distill_options options;
  ingot_distill_history history;
  ingot_merge_timing    timing;
  ingot_trainer         trainer;
} distill_case;

static void model_path(char path[PATH], const char *name)
{
  snprintf(path, PATH, "%s/workers/model/reference/%s", INGOT_TEST_DIR, name);
}

/* The settings that make_reference.py has for all cases. */
static void open_case(distill_case *c)
{
  memset(c, 0, sizeof *c);
  scratch_begin(&c->s);
  check_ok(ingot_comm_init(NULL, NULL, &c->comm));
  model_path(c->student, "llama_bias_tied");
  model_path(c->teacher_path[0], "llama");
  model_path(c->teacher_path[1], "qwen3");
  snprintf(c->data_path, PATH, "%s/workers/statistics/reference/tokens.u16", INGOT_TEST_DIR);
  snprintf(c->output, PATH, "%s/student", c->s.dir);
  for (int i = 0; i < 2; i++) c->teachers[i] = (ingot_gather_model){"teacher", c->teacher_path[i]};
  c->weights[0] = c->weights[1] = 0.5;
  c->data = (ingot_distill_data){"data", c->data_path, NULL, 1.0, N_WINDOW};
  c->plan = (ingot_distill_plan){
      .student = c->student,
      .teachers = c->teachers,
      .n_teacher = 2,
      .weights = c->weights,
      .floor = -30.0,
      .data = &c->data,
      .n_data = 1,
      .window = {.length = LENGTH, .document = -1},
      .n_step = N_STEP,
      .batch = N_WINDOW,
      .micro_batch = 3,
      .loss = {.beta = 0.5f, .temperature = 1.0f, .alpha = 1.0f},
      .optimizer =
          {.rate = 1e-2, .final_rate = 1e-3, .warmup = 2, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .decay = 0.1},
      .validation = {.window = {.length = LENGTH, .document = -1}, .batch = 3, .output = c->output, .fingerprint = 7}};
  c->options.gather.n_thread = 1;
}

static void start(distill_case *c)
{
  check_ok(ingot_trainer_init(&c->trainer, c->comm, &c->plan, &c->options, &c->history, &c->timing));
}

static void stop(distill_case *c)
{
  ingot_trainer_release(&c->trainer);
  ingot_distill_history_release(&c->history);
}

static void close_case(distill_case *c)
{
  ingot_comm_finalize(&c->comm);
  scratch_end(&c->s);
}

/* ---- schedules and draws ---- */

static void check_rate(double found, double wanted)
{
  if (fabs(found - wanted) > 1e-12) fail_msg("rate %g instead of %g", found, wanted);
}

static void test_rate(void **state)
{
  (void)state;
  ingot_distill_optimizer o = {.rate = 3e-4, .final_rate = 3e-5, .warmup = 100, .schedule = INGOT_SCHEDULE_COSINE};
  check_rate(ingot_distill_rate(&o, 0, 1000), 3e-6);
  check_rate(ingot_distill_rate(&o, 99, 1000), 3e-4);
  check_rate(ingot_distill_rate(&o, 100, 1000), 3e-4);
  check_rate(ingot_distill_rate(&o, 550, 1000), 1.65e-4);
  check_rate(ingot_distill_rate(&o, 1000, 1000), 3e-5);
  o.schedule = INGOT_SCHEDULE_LINEAR;
  check_rate(ingot_distill_rate(&o, 325, 1000), 2.325e-4);
  o.schedule = INGOT_SCHEDULE_CONSTANT;
  check_rate(ingot_distill_rate(&o, 999, 1000), 3e-4);
}

static void test_draws(void **state)
{
  (void)state;
  enum { STEPS = 400, BATCH = 16 };
  ingot_distill_data data[2] = {{.weight = 3.0, .n_window = 50}, {.weight = 1.0, .n_window = 1000}};
  ingot_distill_plan plan =
      {.data = data, .n_data = 2, .n_step = STEPS, .batch = BATCH, .seed = 5, .shift = true, .window = {.length = 64}};
  int64_t    n_shifted = 0, shift[100] = {0}; /* of data set 0, by round */
  int64_t    drawn[2] = {0, 0}, counted[2];
  int        seen[50] = {0};
  ingot_draw draws[BATCH], again[BATCH];
  for (int64_t step = 0; step < STEPS; step++) {
    int64_t before[2] = {drawn[0], drawn[1]}, count = drawn[0];
    ingot_stream_draw(&plan, step, drawn, draws);
    ingot_stream_draw(&plan, step, before, again);
    for (int i = 0; i < BATCH; i++) {
      assert_true(draws[i].data == again[i].data && draws[i].window == again[i].window);
      assert_true(i == 0 || draws[i].data >= draws[i - 1].data);
      assert_true(draws[i].window >= 0 && draws[i].window < data[draws[i].data].n_window);
      assert_true(draws[i].shift >= 0 && draws[i].shift < 64 && draws[i].shift == again[i].shift);
      if (draws[i].data == 0) {
        int64_t round = count++ / 50; /* one place for all windows of a round, the file's own in the first */
        assert_true(round > 0 || draws[i].shift == 0);
        assert_true(count % 50 == 1 || draws[i].shift == shift[round]);
        shift[round] = draws[i].shift;
        seen[draws[i].window]++;
      }
    }
  }
  int64_t rounds = drawn[0] / 50; /* every window once a round */
  for (int64_t r = 1; r < rounds; r++) n_shifted += shift[r] != shift[r - 1];
  assert_true(n_shifted > rounds / 2);
  for (int i = 0; i < 50; i++) assert_true(seen[i] == rounds || seen[i] == rounds + 1);
  assert_in_range((uint64_t)drawn[0], 4600, 5000); /* 4800 of 6400 expected, deviation 35 */
  assert_int_equal(drawn[0] + drawn[1], STEPS * BATCH);
  ingot_distill_count_draws(&plan, counted);
  assert_memory_equal(counted, drawn, sizeof drawn);
}

static void test_slices(void **state)
{
  (void)state;
  int64_t begin, end, before = 0;
  for (int r = 0; r < 4; r++) {
    ingot_optimizer_slice(1000, r, 4, &begin, &end);
    assert_int_equal(begin, before);
    before = end;
  }
  assert_int_equal(before, 1000);
  ingot_optimizer_slice(128, 3, 4, &begin, &end);
  assert_int_equal(begin, end);
}

/* ---- trajectories ---- */

static void check_near(const char *what, int step, double found, double wanted, double limit)
{
  if (!(fabs(found - wanted) <= limit * (fabs(wanted) + 1e-3)))
    fail_msg("%s of step %d: %.9g instead of %.9g", what, step + 1, found, wanted);
}

static void follow(distill_case *c, const training_reference *r)
{
  start(c);
  for (int i = 0; i < N_STEP; i++) {
    check_ok(ingot_trainer_step(&c->trainer));
    check_near("loss", i, c->history.records[i].loss, r->loss[i], 2e-4);
    check_near("gradient norm", i, c->history.records[i].norm, r->norm[i], 2e-3);
  }
  const ingot_model *m = c->trainer.g.model;
  const float       *w = ingot_model_weight(m, ingot_model_layout_find(&m->layout, INGOT_ROLE_DOWN, 1));
  for (int k = 0; k < 4; k++) check_near("a weight at the end", N_STEP - 1, (double)w[k], r->end[k], 1e-3);
  stop(c);
}

static void test_linear(void **state)
{
  (void)state;
  distill_case c;
  open_case(&c);
  c.weights[0] = 0.6;
  c.weights[1] = 0.4;
  c.plan.loss = (ingot_nn_distill){.divergence = INGOT_NN_FORWARD_KL, .beta = 0.5f, .temperature = 2.0f, .alpha = 0.7f};
  c.plan.optimizer.clip = 0.5;
  follow(&c, &linear_reference);
  close_case(&c);
}

static void test_log_linear(void **state)
{
  (void)state;
  distill_case c;
  open_case(&c);
  c.weights[0] = 1.5;
  c.weights[1] = -0.5;
  c.plan.combine = INGOT_COMBINE_LOG_LINEAR;
  c.plan.loss.divergence = INGOT_NN_REVERSE_KL;
  follow(&c, &log_linear_reference);
  close_case(&c);
}

static void test_average_loss(void **state)
{
  (void)state;
  distill_case c;
  open_case(&c);
  c.weights[0] = 0.25;
  c.weights[1] = 0.75;
  c.plan.combine = INGOT_COMBINE_AVERAGE_LOSS;
  c.plan.loss = (ingot_nn_distill){.divergence = INGOT_NN_JSD, .beta = 0.3f, .temperature = 1.5f, .alpha = 0.8f};
  c.plan.optimizer.clip = 1.0;
  follow(&c, &average_loss_reference);
  close_case(&c);
}

/* ---- gradients against differences ---- */

/* The loss of the first step with the weights moved by t along the gradient's direction. */
static double loss_at(distill_case *c, const float *weights, const float *gradient, double norm, double t)
{
  ingot_distill_record record = {0};
  float               *w = c->trainer.g.model->weights;
  int64_t              n = c->trainer.g.model->layout.n_elem;
  for (int64_t i = 0; i < n; i++) w[i] = (float)((double)weights[i] + t * (double)gradient[i] / norm);
  memset(c->trainer.drawn, 0, sizeof *c->trainer.drawn);
  check_ok(ingot_trainer_gradient(&c->trainer, &record));
  return record.loss;
}

static void check_gradient(distill_case *c)
{
  ingot_distill_record record = {0};
  start(c);
  check_ok(ingot_trainer_gradient(&c->trainer, &record));
  int64_t n = c->trainer.g.model->layout.n_elem;
  float  *weights = malloc((size_t)n * sizeof *weights), *gradient = malloc((size_t)n * sizeof *gradient);
  assert_true(weights && gradient);
  memcpy(weights, c->trainer.g.model->weights, (size_t)n * sizeof *weights);
  memcpy(gradient, c->trainer.optimizer.gradient, (size_t)n * sizeof *gradient);
  double h = 5e-3,
         rise = loss_at(c, weights, gradient, record.norm, h) - loss_at(c, weights, gradient, record.norm, -h);
  check_near("slope along the gradient", 0, rise / (2.0 * h), record.norm, 5e-3);
  free(weights);
  free(gradient);
  stop(c);
}

static void test_gradients(void **state)
{
  (void)state;
  distill_case c;
  open_case(&c);
  for (int combine = 0; combine < 3; combine++)
    for (int divergence = 0; divergence < 3; divergence++)
      for (int t = 1; t <= 2; t++) {
        c.plan.combine = (ingot_distill_combine)combine;
        c.plan.loss = (ingot_nn_distill){.divergence = (ingot_nn_divergence)divergence,
                                         .beta = 0.4f,
                                         .temperature = (float)t,
                                         .alpha = t == 1 ? 1.0f : 0.5f};
        check_gradient(&c);
      }
  c.plan.loss.alpha = 0.0f; /* labels alone: no teacher is loaded */
  check_gradient(&c);
  close_case(&c);
}

/* Micro batches of any size, and teachers that answer for one data set alone, change nothing but rounding. */
static void test_micro_batches_and_routes(void **state)
{
  (void)state;
  distill_case c;
  open_case(&c);
  ingot_distill_data   two[2] = {c.data, c.data};
  double               routed[4] = {1.0, 0.0, 0.0, 1.0};
  ingot_distill_record whole = {0}, parts = {0};
  c.plan.data = two;
  c.plan.n_data = 2;
  c.plan.weights = routed;
  c.plan.batch = 7;
  c.plan.micro_batch = c.plan.validation.batch = 7;
  start(&c);
  check_ok(ingot_trainer_gradient(&c.trainer, &whole));
  stop(&c);
  c.plan.micro_batch = c.plan.validation.batch = 2;
  start(&c);
  check_ok(ingot_trainer_gradient(&c.trainer, &parts));
  check_near("loss", 0, parts.loss, whole.loss, 1e-5);
  check_near("norm", 0, parts.norm, whole.norm, 1e-4);
  stop(&c);
  close_case(&c);
}

/* ---- saved states ---- */

static void test_save(void **state)
{
  (void)state;
  distill_case      c;
  ingot_gather_data check = {"check", NULL, NULL, N_WINDOW};
  open_case(&c);
  check.path = c.data_path;
  c.plan.validation.data = &check;
  c.plan.validation.n_data = 1;
  c.plan.validate_every = 2;
  c.plan.keep_best = true;
  start(&c);
  size_t bytes = (size_t)c.trainer.g.model->layout.n_elem * sizeof(float);
  float *straight = malloc(bytes);
  assert_non_null(straight);
  check_ok(ingot_trainer_validate(&c.trainer));
  for (int i = 0; i < 6; i++) {
    if (i == 3 || i == 5) check_ok(ingot_trainer_save(&c.trainer));
    check_ok(ingot_trainer_step(&c.trainer));
  }
  memcpy(straight, c.trainer.g.model->weights, bytes);
  double loss = c.history.records[5].loss, perplexity = c.history.checks[0].mean_nll;
  stop(&c);
  for (int broken = 0; broken < 2; broken++) {
    start(&c);
    check_ok(ingot_trainer_resume(&c.trainer));
    assert_int_equal(c.trainer.step, broken ? 3 : 5); /* without the newest, the one before */
    assert_int_equal(c.history.n_check, 1);
    assert_true(c.history.checks[0].mean_nll == perplexity);
    while (c.trainer.step < 6) check_ok(ingot_trainer_step(&c.trainer));
    assert_memory_equal(straight, c.trainer.g.model->weights, bytes);
    assert_true(c.history.records[5].loss == loss);
    stop(&c);
    char path[PATH + 32];
    snprintf(path, sizeof path, "%s.state.1.0-of-1", c.output);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, -9, SEEK_END), 0);
    int byte = fgetc(f);
    assert_true(byte != EOF && fseek(f, -9, SEEK_END) == 0 && fputc(byte ^ 1, f) != EOF);
    assert_int_equal(fclose(f), 0);
  }
  c.plan.validation.fingerprint = 8; /* of another job: begins anew */
  start(&c);
  check_ok(ingot_trainer_resume(&c.trainer));
  assert_int_equal(c.trainer.step, 0);
  stop(&c);
  free(straight);
  close_case(&c);
}

/* ---- random students, failures ---- */

static void test_random_student(void **state)
{
  (void)state;
  distill_case c;
  char         config[2048];
  open_case(&c);
  snprintf(config, sizeof config, "%s/config.json", c.teacher_path[0]);
  FILE *f = fopen(config, "rb");
  assert_non_null(f);
  size_t n = fread(config, 1, sizeof config - 1, f);
  config[n] = '\0';
  fclose(f);
  c.plan.student = NULL;
  c.plan.config = config;
  c.plan.seed = 3;
  start(&c);
  const ingot_model *m = c.trainer.g.model;
  const float       *norm = ingot_model_weight(m, ingot_model_layout_find(&m->layout, INGOT_ROLE_NORM1_WEIGHT, 0));
  int                q = ingot_model_layout_find(&m->layout, INGOT_ROLE_EMBEDDING, -1),
      down = ingot_model_layout_find(&m->layout, INGOT_ROLE_DOWN, 0);
  double squares[2] = {0.0, 0.0};
  int    params[2] = {q, down};
  for (int k = 0; k < 2; k++) {
    const float *w = ingot_model_weight(m, params[k]);
    int64_t      count = m->layout.params[params[k]].n_elem;
    for (int64_t i = 0; i < count; i++) squares[k] += (double)w[i] * (double)w[i] / (double)count;
  }
  assert_true(norm[0] == 1.0f);
  check_near("deviation", 0, sqrt(squares[0]), 0.02, 0.06);
  check_near("deviation into the residual stream of two layers", 0, sqrt(squares[1]), 0.01, 0.06);
  for (int i = 0; i < N_STEP; i++) check_ok(ingot_trainer_step(&c.trainer));
  assert_true(c.history.records[N_STEP - 1].loss < 0.9 * c.history.records[0].loss);
  stop(&c);
  close_case(&c);
}

static void test_not_finite(void **state)
{
  (void)state;
  distill_case c;
  open_case(&c);
  start(&c);
  check_ok(ingot_trainer_step(&c.trainer));
  float *w = c.trainer.g.model->weights;
  w[0] = INFINITY;
  check_fails(ingot_trainer_step(&c.trainer), INGOT_ERR_NUMERIC, "step 2 of 8, window");
  assert_int_equal(c.trainer.step, 1);
  stop(&c);
  close_case(&c);
}

static void test_changed_data(void **state)
{
  (void)state;
  distill_case c;
  open_case(&c);
  c.data.n_window = 5;
  check_fails(ingot_trainer_init(&c.trainer, c.comm, &c.plan, &c.options, &c.history, &c.timing), INGOT_ERR_FORMAT,
              "tokens.u16: the file was changed");
  stop(&c);
  close_case(&c);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_rate),       cmocka_unit_test(test_draws),
      cmocka_unit_test(test_slices),     cmocka_unit_test(test_linear),
      cmocka_unit_test(test_log_linear), cmocka_unit_test(test_average_loss),
      cmocka_unit_test(test_gradients),  cmocka_unit_test(test_micro_batches_and_routes),
      cmocka_unit_test(test_save),       cmocka_unit_test(test_random_student),
      cmocka_unit_test(test_not_finite), cmocka_unit_test(test_changed_data),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
