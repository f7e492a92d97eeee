/* Tokens one after the other against the whole sequence at once: every architecture, sequences of different lengths,
 * rows that are dropped, swapped and doubled. */
#include <stdlib.h>

#include "tests/check.h"
#include "tests/workers/model/model_case.h"
#include "workers/model/decode.h"

static const char *const cases[] = {"llama",     "llama_bias_tied", "rope_linear", "rope_dynamic", "rope_llama3",
                                    "rope_yarn", "mistral",         "qwen2",       "qwen3",        "gpt2"};
enum { N_CASE = sizeof cases / sizeof cases[0], N_ROW = 5 };

static ingot_nn *nn;

/* The logits behind each token of a sequence. For a rotary embedding of type dynamic, behind each token of its own
 * prefix. */
static float *whole_logits(const model_case *c, int64_t batch, bool dynamic)
{
  const int64_t      n_vocab = c->model->spec.n_vocab;
  float             *out = calloc((size_t)(c->n_time * n_vocab), sizeof *out);
  ingot_pass_options options = {.n_batch = 1, .n_time = c->n_time, .hidden = true};
  ingot_pass        *pass;
  ingot_nn_logits    z;
  assert_non_null(out);
  check_ok(ingot_pass_open(c->model, &options, &pass));
  for (int64_t n = dynamic ? 1 : c->n_time; n <= c->n_time; n++) {
    ingot_batch b = {.n_batch = 1, .n_time = n, .tokens = c->tokens + batch * c->n_time};
    check_ok(ingot_pass_run(pass, &b, NULL, NULL, NULL));
    for (int64_t t = dynamic ? n - 1 : 0; t < n; t++) {
      check_ok(ingot_pass_logits(pass, t, 1, &z));
      check_ok(nn->ops->copy_out(nn, out + t * n_vocab, z.data, (size_t)n_vocab * sizeof *out));
    }
  }
  ingot_pass_close(&pass);
  return out;
}

/* Rows of a decoder, and the sequence (a batch of the case) and length of each. */
typedef struct rows {
  const model_case *c;
  float           **expected; /* [n_batch] */
  int64_t           n;
  int32_t           batch[N_ROW], length[N_ROW];
} rows;

static void check_rows(const rows *r, const ingot_nn_logits *z)
{
  const int64_t n_vocab = r->c->model->spec.n_vocab;
  float        *found = calloc((size_t)n_vocab, sizeof *found);
  assert_int_equal(z->n_row, r->n);
  assert_int_equal(z->n_vocab, n_vocab);
  for (int64_t i = 0; i < r->n; i++) {
    check_ok(nn->ops->copy_out(nn, found, z->data + i * z->ld, (size_t)n_vocab * sizeof *found));
    const double distance =
        model_case_distance(found, r->expected[r->batch[i]] + (r->length[i] - 1) * n_vocab, n_vocab);
    if (getenv("INGOT_TEST_VERBOSE")) print_message("distance %.2e\n", distance);
    if (!(distance <= model_case_limit(1e-5)))
      fail_msg("row %d, token %d: distance %.3e", (int)i, r->length[i], distance);
  }
  free(found);
}

/* One more token for rows from[0 .. n - 1]. */
static void advance(rows *r, ingot_decoder *d, int64_t n, const int32_t *from)
{
  rows            old = *r;
  int32_t         tokens[N_ROW];
  ingot_nn_logits z;
  r->n = n;
  for (int64_t i = 0; i < n; i++) {
    r->batch[i] = old.batch[from[i]];
    r->length[i] = old.length[from[i]] + 1;
    tokens[i] = r->c->tokens[r->batch[i] * r->c->n_time + r->length[i] - 1];
  }
  check_ok(ingot_decoder_next(d, n, from, tokens, &z));
  check_rows(r, &z);
}

static void decode(const char *name)
{
  static const int32_t same[] = {0, 1, 2, 3, 4}, mixed[] = {1, 1, 0, 1, 0}, fewer[] = {4, 0, 3};
  model_case           c;
  ingot_decoder       *d;
  ingot_nn_logits      z;
  float               *expected[8];
  model_case_open(nn, name, &c);
  assert_true(c.n_batch >= 2 && c.n_batch <= 8 && c.n_time >= 12);
  for (int64_t b = 0; b < c.n_batch; b++) expected[b] = whole_logits(&c, b, strcmp(name, "rope_dynamic") == 0);
  ingot_decoder_options options = {.n_row = N_ROW, .n_prompt = 5, .n_time = c.n_time};
  rows                  r = {.c = &c, .expected = expected, .n = 2, .batch = {0, 1}, .length = {5, 2}};
  check_ok(ingot_decoder_open(c.model, &options, &d));
  for (int again = 0; again < 2; again++) {
    r.n = 2;
    r.batch[0] = 0, r.batch[1] = 1, r.length[0] = 5, r.length[1] = 2;
    check_ok(ingot_decoder_start(d, 2, c.tokens, c.n_time, r.length, &z));
    check_rows(&r, &z);
    advance(&r, d, 2, same);
    advance(&r, d, 5, mixed);
    advance(&r, d, 3, fewer);
    while (r.length[0] < c.n_time && r.length[1] < c.n_time && r.length[2] < c.n_time) advance(&r, d, 3, same);
    assert_true(r.length[0] == c.n_time || r.length[1] == c.n_time || r.length[2] == c.n_time);
  }
  ingot_decoder_close(&d);
  for (int64_t b = 0; b < c.n_batch; b++) free(expected[b]);
  model_case_close(&c);
}

static void test_cached(void **state)
{
  (void)state;
  for (int i = 0; i < N_CASE; i++) decode(cases[i]);
}

/* Which of them have a cache: all but a dynamic rotary embedding that is stretched. */
static void test_caches(void **state)
{
  (void)state;
  ingot_model_spec plain = {.rope = {.type = INGOT_ROPE_DEFAULT}};
  ingot_model_spec dynamic = {.rope = {.type = INGOT_ROPE_DYNAMIC, .original_positions = 16}};
  assert_true(ingot_decoder_caches(&plain, 1000));
  assert_true(ingot_decoder_caches(&dynamic, 16));
  assert_false(ingot_decoder_caches(&dynamic, 17));
}

static void test_too_long(void **state)
{
  (void)state;
  model_case            c;
  ingot_decoder        *d = NULL;
  ingot_decoder_options options = {.n_row = 1, .n_prompt = 1};
  model_case_open(nn, "gpt2", &c);
  options.n_time = c.model->spec.n_position + 1;
  check_fails(ingot_decoder_open(c.model, &options, &d), INGOT_ERR_MISMATCH, "positions");
  assert_null(d);
  options = (ingot_decoder_options){.n_row = 1 << 30, .n_prompt = 1, .n_time = 2};
  check_fails(ingot_decoder_open(c.model, &options, &d), INGOT_ERR_NOMEM,
              "1073741824 sequences of 2 tokens are too many");
  assert_null(d);
  model_case_close(&c);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_cached),
      cmocka_unit_test(test_caches),
      cmocka_unit_test(test_too_long),
  };
  nn = model_case_open_nn();
  if (!nn) return 77;
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  ingot_nn_close(&nn);
  return failed;
}
