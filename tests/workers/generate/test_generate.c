/*
 * Token files from the models of tests/experts: greedy, beam search and mixtures against Transformers and PyTorch
 * (make_reference.py); drawn tokens against the distribution; the same bytes for any batch and number of threads, and
 * after a stop; how sequences are written.
 */
#define _XOPEN_SOURCE 700
#include "tests/check.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>

#include "base/fault.h"
#include "io/source.h"
#include "tests/io/scratch.h"
#include "tests/workers/generate/reference.inc"
#include "workers/generate/generate.h"
#include "workers/generate/lane.h"
#include "workers/model/model.h"

enum { PATH = 1024, N_VOCAB = 79 };

static atomic_int stop_flag;

static void on_signal(int number)
{
  (void)number;
  atomic_store(&stop_flag, 1);
}

typedef struct generate_case {
  scratch               s;
  ingot_comm           *comm;
  char                  paths[2][PATH], data_path[PATH], output[PATH];
  ingot_gather_model    models[2];
  ingot_gather_data     data[1];
  double                weights[2];
  ingot_generate_plan   plan;
  ingot_gather_options  options;
  ingot_generate_result result;
} generate_case;

/* The prompts of the reference as documents of a token file. */
static void open_case(generate_case *c, const char *first, const char *second)
{
  const char *names[2] = {first, second};
  uint16_t    ids[N_PROMPT * PROMPT];
  memset(c, 0, sizeof *c);
  scratch_begin(&c->s);
  check_ok(ingot_comm_init(NULL, NULL, &c->comm));
  for (int m = 0; m < 2 && names[m]; m++) {
    snprintf(c->paths[m], PATH, "%s/experts/%s", INGOT_TEST_DIR, names[m]);
    c->models[m] = (ingot_gather_model){names[m], c->paths[m]};
  }
  snprintf(c->data_path, PATH, "%s/prompts.u16", c->s.dir);
  snprintf(c->output, PATH, "%s/out.u16", c->s.dir);
  for (int i = 0; i < N_PROMPT * PROMPT; i++) ids[i] = (uint16_t)(&prompts[0][0])[i];
  FILE *f = fopen(c->data_path, "wb");
  assert_non_null(f);
  assert_int_equal(fwrite(ids, sizeof ids, 1, f), 1);
  fclose(f);
  c->data[0] = (ingot_gather_data){"prompts", c->data_path, NULL, N_PROMPT * PROMPT / (PROMPT + LENGTH)};
  c->weights[0] = 1.0;
  c->plan = (ingot_generate_plan){.ensemble = {.gather = {.models = c->models,
                                                          .n_model = second ? 2 : 1,
                                                          .data = c->data,
                                                          .n_data = 1,
                                                          .window = {.length = PROMPT + LENGTH, .document = 0},
                                                          .batch = 1,
                                                          .output = c->output,
                                                          .fingerprint = 5,
                                                          .sink = {.format = INGOT_SINK_HF_DIR}},
                                               .n_score = 1,
                                               .n_row = 1,
                                               .weights = c->weights,
                                               .floor = log(1e-8)},
                                  .documents = true,
                                  .prompt = PROMPT,
                                  .prompt_end = -1,
                                  .begin = -1,
                                  .end = END,
                                  .samples = 1,
                                  .length = LENGTH,
                                  .search = INGOT_SEARCH_GREEDY,
                                  .choice = {1.0, 0, 1.0},
                                  .beams = 4,
                                  .seed = 11,
                                  .batch = 5,
                                  .n_lane = 2,
                                  .width = 2,
                                  .n_prompt = N_PROMPT};
  c->options = (ingot_gather_options){.n_thread = 2, .stop = &stop_flag};
  atomic_store(&stop_flag, 0);
  check_ok(ingot_fault_init(NULL, 0));
}

static void close_case(generate_case *c)
{
  ingot_comm_finalize(&c->comm);
  scratch_end(&c->s);
}

static ingot_status run(generate_case *c)
{
  ingot_merge_timing timing;
  return ingot_generate_run(c->comm, &c->plan, &c->options, &c->result, &timing);
}

/* Run, and take away what a later run would go on from. The tokens that were written; the caller frees them. */
static int32_t *made(generate_case *c)
{
  char          journal[PATH + 16];
  ingot_tokens *tokens = NULL;
  check_ok(run(c));
  check_ok(ingot_tokens_open(c->output, NULL, &tokens));
  assert_int_equal(ingot_tokens_count(tokens), c->result.n_token);
  int32_t *ids = calloc((size_t)c->result.n_token + 1, sizeof *ids);
  assert_non_null(ids);
  check_ok(ingot_tokens_read(tokens, 0, c->result.n_token, N_VOCAB, ids));
  ingot_tokens_close(&tokens);
  check_ok(ingot_gather_forget(c->output));
  snprintf(journal, sizeof journal, "%s.journal", c->output);
  assert_int_equal(remove(journal), 0);
  return ids;
}

/* The stream that continuations make: an end is the beginning of the next sequence as well. */
static void check_stream(generate_case *c, const int32_t expected[N_PROMPT][LENGTH + 1])
{
  int32_t stream[N_PROMPT * (PROMPT + LENGTH)], *found = made(c);
  int64_t n = 0, n_ended = 0;
  for (int i = 0; i < N_PROMPT; i++) {
    for (int t = 0; t < PROMPT; t++) stream[n++] = prompts[i][t];
    for (int t = 0; expected[i][t] >= 0; t++)
      if (expected[i][t] == END) n_ended++;
      else stream[n++] = expected[i][t];
  }
  int last = 0;
  while (expected[N_PROMPT - 1][last + 1] >= 0) last++;
  if (expected[N_PROMPT - 1][last] == END) stream[n++] = END;
  assert_int_equal(c->result.n_token, n);
  for (int64_t i = 0; i < n; i++)
    if (found[i] != stream[i]) fail_msg("token %d is %d instead of %d", (int)i, found[i], stream[i]);
  assert_int_equal(c->result.n_sequence, N_PROMPT);
  assert_int_equal(c->result.n_ended, n_ended);
  free(found);
}

static void test_greedy(void **state)
{
  (void)state;
  generate_case c;
  open_case(&c, "base", NULL);
  check_stream(&c, greedy);
  c.plan.batch = 16;
  check_stream(&c, greedy);
  close_case(&c);
}

static void test_beams(void **state)
{
  (void)state;
  generate_case c;
  open_case(&c, "base", NULL);
  c.plan.search = INGOT_SEARCH_BEAM;
  check_stream(&c, beam_raw);
  c.plan.penalty = 1.0;
  check_stream(&c, beam_mean);
  c.plan.penalty = -1.0;
  c.plan.batch = 2;
  check_stream(&c, beam_short);
  c.plan.penalty = 0.0;
  c.plan.beams = 1; /* is greedy */
  check_stream(&c, greedy);
  close_case(&c);
}

static void test_mixtures(void **state)
{
  (void)state;
  generate_case c;
  open_case(&c, "add", "sort");
  c.weights[0] = 0.6, c.weights[1] = 0.4;
  check_stream(&c, mixed_linear);
  c.plan.ensemble.kind = INGOT_ENSEMBLE_LOG_LINEAR;
  c.weights[0] = 1.3, c.weights[1] = -0.3;
  check_stream(&c, mixed_log_linear);
  close_case(&c);
}

/* ---- drawn tokens ---- */

/* Probabilities behind token 0, from the model itself. */
static void first_token(const char *path, double *p)
{
  ingot_nn          *nn = NULL;
  ingot_source      *source = NULL;
  ingot_model       *model = NULL;
  ingot_pass        *pass = NULL;
  ingot_nn_options   options = {.kind = INGOT_NN_CPU, .n_thread = 1, .dtype = INGOT_DTYPE_F32};
  ingot_pass_options one = {.n_batch = 1, .n_time = 1, .hidden = true};
  ingot_batch        batch = {.n_batch = 1, .n_time = 1, .tokens = (const int32_t[1]){0}};
  ingot_nn_logits    z;
  double             total = 0.0;
  check_ok(ingot_nn_open(&options, &nn));
  check_ok(ingot_source_open(path, &source));
  check_ok(ingot_model_load(nn, source, &model));
  check_ok(ingot_pass_open(model, &one, &pass));
  check_ok(ingot_pass_run(pass, &batch, NULL, NULL, NULL));
  check_ok(ingot_pass_logits(pass, 0, 1, &z));
  for (int v = 0; v < N_VOCAB; v++) total += exp((double)z.data[v]);
  for (int v = 0; v < N_VOCAB; v++) p[v] = exp((double)z.data[v]) / total;
  ingot_pass_close(&pass);
  ingot_model_close(&model);
  ingot_source_close(&source);
  ingot_nn_close(&nn);
}

static void test_distribution(void **state)
{
  (void)state;
  generate_case c;
  double        p[N_VOCAB], sum = 0.0, rest = 0.0;
  int           count[N_VOCAB] = {0}, n_class = 0, n_rest = 0;
  enum { N_DRAW = 4000 };
  open_case(&c, "base", NULL);
  c.plan.ensemble.gather.n_data = 0;
  c.plan.begin = 0, c.plan.end = -1, c.plan.prompt = 1, c.plan.n_prompt = 1, c.plan.length = 1, c.plan.samples = N_DRAW,
  c.plan.batch = 64;
  c.plan.ensemble.gather.window.length = 2;
  c.plan.search = INGOT_SEARCH_SAMPLE;
  int32_t *ids = made(&c);
  assert_int_equal(c.result.n_token, 2 * N_DRAW);
  for (int i = 0; i < N_DRAW; i++) {
    assert_int_equal(ids[2 * i], 0);
    count[ids[2 * i + 1]]++;
  }
  first_token(c.paths[0], p);
  for (int v = 0; v < N_VOCAB; v++) {
    double expected = N_DRAW * p[v];
    if (expected < 10.0) {
      rest += expected;
      n_rest += count[v];
      continue;
    }
    sum += (count[v] - expected) * (count[v] - expected) / expected;
    n_class++;
  }
  if (rest > 1.0) sum += (n_rest - rest) * (n_rest - rest) / rest;
  assert_true(n_class > 20);
  /* A chi-square with n degrees of freedom is above n + 3 sqrt(2 n) about twice in a thousand. */
  if (!(sum < n_class + 3.0 * sqrt(2.0 * n_class))) fail_msg("chi-square %.1f with %d classes", sum, n_class);
  free(ids);
  close_case(&c);
}

/* The same tokens for another batch, number of threads; other ones for another seed. */
static void test_batches(void **state)
{
  (void)state;
  generate_case c;
  open_case(&c, "base", NULL);
  c.plan.search = INGOT_SEARCH_SAMPLE;
  c.plan.samples = 3;
  c.plan.choice = (ingot_choice){0.9, 20, 0.95};
  int32_t *one = made(&c);
  int64_t  n = c.result.n_token;
  c.plan.batch = 48;
  c.options.n_thread = 1;
  int32_t *other = made(&c);
  assert_int_equal(c.result.n_token, n);
  assert_memory_equal(one, other, (size_t)n * sizeof *one);
  free(other);
  c.plan.seed++;
  other = made(&c);
  assert_true(c.result.n_token != n || memcmp(one, other, (size_t)n * sizeof *one) != 0);
  free(one);
  free(other);
  close_case(&c);
}

/* All sequences by one lane as on a GPU, where n_thread threads choose tokens of all logits; the caller frees them. */
static int32_t *chosen_by(generate_case *c, ingot_model *model, int n_thread)
{
  const size_t  width = PROMPT + LENGTH;
  int64_t       chunk_first[2] = {0, c->plan.n_prompt * c->plan.samples};
  int           chunk_data[1] = {0};
  ingot_records records = {.plan = &c->plan,
                           .n_sequence = chunk_first[1],
                           .n_chunk = 1,
                           .chunk_first = chunk_first,
                           .chunk_data = chunk_data};
  ingot_prompts found = {0};
  ingot_tokens *tokens = NULL;
  bool          whole = false;
  ingot_lane    lane = {.plan = &c->plan,
                        .prompts = &found,
                        .records = &records,
                        .tokens_of = &tokens,
                        .cancelled = &stop_flag};
  int32_t      *all = calloc((size_t)chunk_first[1] * (width + 1), sizeof *all);
  assert_non_null(all);
  check_ok(ingot_prompts_find(&c->plan, N_VOCAB, &found));
  check_ok(ingot_tokens_open(c->data_path, NULL, &tokens));
  check_ok(ingot_lane_open(&lane, &model, true, n_thread));
  assert_int_equal(lane.taken.what, INGOT_TAKE_LOGITS);
  assert_int_equal(lane.n_thread, n_thread);
  check_ok(ingot_lane_run(&lane, 0, &whole));
  assert_true(whole);
  for (int64_t i = 0; i < chunk_first[1]; i++) {
    all[(size_t)i * (width + 1)] = lane.sequences[i].n_token;
    memcpy(all + (size_t)i * (width + 1) + 1, lane.sequences[i].tokens,
           (size_t)lane.sequences[i].n_token * sizeof *all);
  }
  ingot_lane_close(&lane);
  ingot_tokens_close(&tokens);
  ingot_prompts_release(&found);
  return all;
}

/* Threads share the rows of a step among them, each with room of its own: the same tokens for any number. */
static void test_choosing_threads(void **state)
{
  (void)state;
  generate_case    c;
  ingot_nn        *nn = NULL;
  ingot_source    *source = NULL;
  ingot_model     *model = NULL;
  ingot_nn_options options = {.kind = INGOT_NN_CPU, .n_thread = 1, .dtype = INGOT_DTYPE_F32};
  open_case(&c, "base", NULL);
  c.plan.search = INGOT_SEARCH_SAMPLE;
  c.plan.samples = 3;
  c.plan.choice = (ingot_choice){0.9, 0, 0.9};
  c.plan.batch = N_PROMPT * 3;
  check_ok(ingot_nn_open(&options, &nn));
  check_ok(ingot_source_open(c.paths[0], &source));
  check_ok(ingot_model_load(nn, source, &model));
  size_t   bytes = (size_t)(N_PROMPT * 3 * (PROMPT + LENGTH + 1)) * sizeof(int32_t);
  int32_t *one = chosen_by(&c, model, 1), *three = chosen_by(&c, model, 3);
  assert_true(one[0] > PROMPT);
  assert_memory_equal(one, three, bytes);
  c.plan.seed++;
  int32_t *other = chosen_by(&c, model, 3);
  assert_memory_not_equal(one, other, bytes);
  free(one);
  free(three);
  free(other);
  ingot_model_close(&model);
  ingot_source_close(&source);
  ingot_nn_close(&nn);
  close_case(&c);
}

/* ---- stopped runs, files ---- */

static void test_stop(void **state)
{
  (void)state;
  generate_case c;
  open_case(&c, "base", NULL);
  c.plan.batch = 2;
  c.options.n_thread = 1;
  signal(SIGTERM, on_signal);
  int32_t *whole = made(&c);
  int64_t  n = c.result.n_token;
  check_ok(ingot_fault_init("stop@0:3", 0));
  check_fails(run(&c), INGOT_STOPPED, "stopped on request");
  check_ok(ingot_fault_init(NULL, 0));
  atomic_store(&stop_flag, 0);
  ingot_merge_timing timing;
  check_ok(ingot_generate_run(c.comm, &c.plan, &c.options, &c.result, &timing));
  assert_true(timing.tiles_resumed >= 1 && timing.tiles_resumed < 8);
  int32_t *again = made(&c); /* all is done already: written once more */
  assert_int_equal(c.result.n_token, n);
  assert_memory_equal(whole, again, (size_t)n * sizeof *whole);
  free(whole);
  free(again);
  close_case(&c);
}

static void test_rows(void **state)
{
  (void)state;
  generate_case c;
  open_case(&c, "base", NULL);
  c.plan.row = 32;
  c.plan.fill = 78;
  int32_t *ids = made(&c);
  assert_int_equal(c.result.n_token % 32, 0);
  int64_t n_begin = 0;
  for (int64_t row = 0; row < c.result.n_token; row += 32) {
    assert_int_equal(ids[row], 0); /* a row begins with a prompt */
    bool filling = false;
    for (int t = 0; t < 32; t++) {
      assert_true(!filling || ids[row + t] == 78);
      filling = ids[row + t] == 78;
    }
    for (int i = 0; i < N_PROMPT; i++)
      for (int t = 0; t + PROMPT <= 32; t++) n_begin += memcmp(ids + row + t, prompts[i], sizeof prompts[i]) == 0;
  }
  assert_int_equal(n_begin, N_PROMPT);
  free(ids);
  close_case(&c);
}

static void test_left_out(void **state)
{
  (void)state;
  generate_case c;
  open_case(&c, "base", NULL);
  c.plan.drop = true;
  free(made(&c));
  assert_int_equal(c.result.n_dropped, N_PROMPT - c.result.n_ended);
  assert_true(c.result.n_dropped > 0 && c.result.n_written == c.result.n_ended);
  c.plan.drop = false;
  c.plan.unique = true;
  c.plan.samples = 2; /* twice the same */
  free(made(&c));
  assert_int_equal(c.result.n_duplicate, N_PROMPT);
  assert_int_equal(c.result.n_written, N_PROMPT);
  c.plan.samples = 1;
  c.plan.drop = true;
  c.plan.length = 1;
  c.plan.ensemble.gather.window.length = PROMPT + 1;
  c.data[0].n_window = N_PROMPT * PROMPT / (PROMPT + 1);
  check_fails(run(&c), INGOT_ERR_MISMATCH, "no sequence is left");
  close_case(&c);
}

static void test_hdf5(void **state)
{
  (void)state;
  generate_case c;
  open_case(&c, "base", NULL);
  int32_t *flat = made(&c);
  int64_t  n = c.result.n_token;
  snprintf(c.output, PATH, "%s/out.h5", c.s.dir);
  c.plan.ensemble.gather.sink = (ingot_sink_spec){.path = c.output, .format = INGOT_SINK_HDF5};
  int32_t *ids = made(&c);
  assert_int_equal(c.result.n_token, n);
  assert_memory_equal(flat, ids, (size_t)n * sizeof *ids);
  free(flat);
  free(ids);
  close_case(&c);
}

/* The hypothesis nearest to the data: with as many beams as there are, the data's own continuation where it is among
 * them. */
static void test_nearest(void **state)
{
  (void)state;
  generate_case c;
  open_case(&c, "add", NULL);
  snprintf(c.data_path, PATH, "%s/experts/data/add.val.u16", INGOT_TEST_DIR);
  c.plan.search = INGOT_SEARCH_BEAM;
  c.plan.prompt = 9, c.plan.length = 6, c.plan.prompt_end = 2, c.plan.beams = 16, c.plan.batch = 2, c.plan.n_prompt = 3;
  c.plan.ensemble.gather.window.length = 15;
  c.plan.ensemble.gather.window.limit = 3;
  c.data[0].n_window = 3;
  c.plan.select = INGOT_SELECT_BLEU;
  int32_t       gold[64], *ids = made(&c);
  ingot_tokens *tokens = NULL;
  check_ok(ingot_tokens_open(c.data_path, NULL, &tokens));
  check_ok(ingot_tokens_read(tokens, 0, 64, N_VOCAB, gold));
  ingot_tokens_close(&tokens);
  /* The data begins with these three documents, ended by the next one's beginning. */
  assert_memory_equal(ids, gold, (size_t)(c.result.n_token) * sizeof *ids);
  free(ids);
  close_case(&c);
}

static void test_no_prompt(void **state)
{
  (void)state;
  generate_case c;
  ingot_prompts p;
  open_case(&c, "base", NULL);
  c.plan.prompt_end = 77;
  check_fails(ingot_prompts_find(&c.plan, N_VOCAB, &p), INGOT_ERR_MISMATCH,
              "no document has token 77, which ends a prompt");
  ingot_prompts_release(&p);
  c.plan.prompt_end = -1;
  c.plan.prompt = 9;
  check_fails(ingot_prompts_find(&c.plan, N_VOCAB, &p), INGOT_ERR_MISMATCH, "no document of 9 tokens for a prompt");
  ingot_prompts_release(&p);
  check_fails(ingot_prompts_find(&c.plan, 20, &p), INGOT_ERR_FORMAT, "ids go from 0 to 19");
  ingot_prompts_release(&p);
  close_case(&c);
}

/* `begin` before a prompt that lacks it, within the prompt's length. */
static void test_begin(void **state)
{
  (void)state;
  generate_case c;
  ingot_prompts p;
  ingot_tokens *tokens = NULL;
  int32_t       ids[PROMPT], gold[LENGTH], n = 0, n_gold = 0;
  open_case(&c, "base", NULL);
  check_ok(ingot_tokens_open(c.data_path, NULL, &tokens));
  c.plan.begin = 5;
  check_ok(ingot_prompts_find(&c.plan, N_VOCAB, &p));
  check_ok(ingot_prompts_read(&c.plan, &p, &tokens, 1, N_VOCAB, ids, &n, gold, &n_gold));
  assert_true(n == PROMPT && ids[0] == 5 && ids[1] == 0 && ids[2] == prompts[1][1] && ids[3] == prompts[1][2]);
  assert_true(n_gold == 1 && gold[0] == prompts[1][3]);
  ingot_prompts_release(&p);
  ingot_tokens_close(&tokens);
  close_case(&c);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_greedy),       cmocka_unit_test(test_beams),   cmocka_unit_test(test_mixtures),
      cmocka_unit_test(test_distribution), cmocka_unit_test(test_batches), cmocka_unit_test(test_choosing_threads),
      cmocka_unit_test(test_stop),         cmocka_unit_test(test_rows),    cmocka_unit_test(test_left_out),
      cmocka_unit_test(test_hdf5),         cmocka_unit_test(test_nearest), cmocka_unit_test(test_no_prompt),
      cmocka_unit_test(test_begin),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
