/* Whole models against Transformers: logits, losses, every gradient, diagonal Fisher, Gram matrices. See
 * make_reference.py. Distance: the largest difference over the largest magnitude, of the logits or of one tensor. */
#include <stdlib.h>

#include "tests/check.h"
#include "tests/workers/model/model_case.h"

static const char *const cases[] = {"llama",     "llama_bias_tied", "rope_linear", "rope_dynamic", "rope_llama3",
                                    "rope_yarn", "mistral",         "qwen2",       "qwen3",        "gpt2"};
enum { N_CASE = sizeof cases / sizeof cases[0] };

static ingot_nn *nn;

static void need(const char *what, const char *name, double distance, double limit)
{
  if (getenv("INGOT_TEST_VERBOSE")) print_message("%s %s: %.2e\n", what, name, distance);
  limit = model_case_limit(limit);
  if (!(distance <= limit)) fail_msg("%s of %s: distance %.3e is above %.1e", what, name, distance, limit);
}

/* The name under which Transformers knows a parameter is ours. */
static int check_tensors(const model_case *c, const flat_gradients *g, const float *memory, const char *prefix,
                         double limit)
{
  int n_found = 0;
  for (int i = 0; i < c->model->layout.n_param; i++) {
    int64_t     n = 0;
    const char *name = c->model->layout.params[i].name;
    float      *expected = model_case_tensor(c, prefix, name, &n);
    if (!expected) continue;
    assert_int_equal(n, c->model->layout.params[i].n_elem);
    float *found = flat_gradients_read(g, nn, i, memory);
    need(prefix, name, model_case_distance(found, expected, n), limit);
    free(found);
    free(expected);
    n_found++;
  }
  return n_found;
}

static void test_logits(void **state)
{
  (void)state;
  for (int i = 0; i < N_CASE; i++) {
    model_case c;
    model_case_open(nn, cases[i], &c);
    const int64_t            n_token = c.n_batch * c.n_time;
    const ingot_batch        batch = model_case_batch(&c);
    const ingot_pass_options options = {.n_batch = c.n_batch, .n_time = c.n_time};
    ingot_pass              *pass;
    loss_head                h;
    int64_t                  n;
    check_ok(ingot_pass_open(c.model, &options, &pass));
    loss_head_init(&h, nn, n_token, c.model->spec.n_vocab, 0);
    check_ok(ingot_pass_run(pass, &batch, &h.head, NULL, NULL));
    float *logits = model_case_tensor(&c, "", "logits", &n), *nll = model_case_tensor(&c, "", "nll", &n);
    assert_int_equal(n, n_token);
    need("logits", cases[i], model_case_distance(h.logits, logits, n_token * h.n_vocab), 1e-5);
    need("nll", cases[i], model_case_distance(h.nll, nll, n_token), 1e-5);
    free(logits);
    free(nll);
    loss_head_release(&h, nn);
    ingot_pass_close(&pass);
    model_case_close(&c);
  }
}

static void test_gradients(void **state)
{
  (void)state;
  int n_found = 0;
  for (int i = 0; i < N_CASE; i++) {
    model_case c;
    model_case_open(nn, cases[i], &c);
    const ingot_batch        batch = model_case_batch(&c);
    const ingot_pass_options options = {.n_batch = c.n_batch, .n_time = c.n_time, .backward = true};
    ingot_pass              *pass;
    loss_head                h;
    flat_gradients           g;
    check_ok(ingot_pass_open(c.model, &options, &pass));
    loss_head_init(&h, nn, c.n_batch * c.n_time, c.model->spec.n_vocab, 1 / (float)c.n_label);
    flat_gradients_init(&g, nn, &c.model->layout);
    check_ok(ingot_pass_run(pass, &batch, &h.head, NULL, &g.gradients));
    const int n = check_tensors(&c, &g, g.memory, "gradient/", 1e-4);
    assert_true(n == c.model->layout.n_param || n == 2 * c.model->spec.n_layer);
    n_found += n;
    for (int p = 0; p < c.model->layout.n_param; p++) {
      const bool tied = c.model->spec.tied && c.model->layout.params[p].role == INGOT_ROLE_EMBEDDING;
      assert_int_equal(g.n_open[p], tied ? 2 : 1);
      assert_int_equal(g.n_done[p], 1);
    }
    flat_gradients_release(&g, nn);
    loss_head_release(&h, nn);
    ingot_pass_close(&pass);
    model_case_close(&c);
  }
  assert_true(n_found > 100);
}

/* One window an example: squares of its gradient, averaged. */
static void test_fisher(void **state)
{
  (void)state;
  static const char *const with_fisher[] = {"llama", "gpt2"};
  for (int i = 0; i < 2; i++) {
    model_case c;
    model_case_open(nn, with_fisher[i], &c);
    const ingot_pass_options options = {.n_batch = 1, .n_time = c.n_time, .backward = true};
    const size_t             n_elem = (size_t)c.model->layout.n_elem;
    float                   *fisher;
    ingot_pass              *pass;
    loss_head                h;
    flat_gradients           g;
    check_ok(ingot_pass_open(c.model, &options, &pass));
    loss_head_init(&h, nn, c.n_time, c.model->spec.n_vocab, 0);
    flat_gradients_init(&g, nn, &c.model->layout);
    check_ok(nn->ops->zero(nn, g.memory, n_elem * sizeof(float))); /* the padding is squared too */
    check_ok(nn->ops->alloc(nn, n_elem * sizeof(float), (void **)&fisher));
    check_ok(nn->ops->zero(nn, fisher, n_elem * sizeof(float)));
    for (int64_t b = 0; b < c.n_batch; b++) {
      const int32_t    *labels = c.labels + b * c.n_time;
      const ingot_batch batch = {.n_batch = 1, .n_time = c.n_time, .tokens = c.tokens + b * c.n_time, .labels = labels};
      int               n_label = 0;
      for (int64_t t = 0; t < c.n_time; t++) n_label += labels[t] >= 0;
      h.scale = 1 / (float)n_label;
      check_ok(ingot_pass_run(pass, &batch, &h.head, NULL, &g.gradients));
      check_ok(nn->ops->add_squares(nn, (int64_t)n_elem, 1 / (float)c.n_batch, g.memory, fisher));
    }
    assert_int_equal(check_tensors(&c, &g, fisher, "fisher/", 1e-4), c.model->layout.n_param);
    nn->ops->free(nn, fisher);
    flat_gradients_release(&g, nn);
    loss_head_release(&h, nn);
    ingot_pass_close(&pass);
    model_case_close(&c);
  }
}

typedef struct gram_tap {
  const model_case *c;
  int               n_seen;
} gram_tap;

static ingot_status see_input(void *context, ingot_nn *back_end, int linear, int64_t n_row, int64_t width,
                              const void *x, int64_t ld, const int32_t *valid)
{
  gram_tap                 *tap = context;
  const ingot_model_layout *layout = &tap->c->model->layout;
  const ingot_model_linear *l = &layout->linears[linear];
  const size_t              bytes = (size_t)(width * width) * sizeof(double);
  double                   *memory, *sum = malloc(bytes);
  int64_t                   n = 0;
  assert_int_equal(linear, tap->n_seen); /* in the order of the forward pass */
  assert_int_equal(width, l->n_in);
  assert_null(valid);
  tap->n_seen++;
  float *expected = model_case_tensor(tap->c, "gram/", layout->params[l->first_param].name, &n);
  if (!expected && tap->c->model->spec.tied && linear == layout->n_linear - 1)
    expected = model_case_tensor(tap->c, "gram/", "lm_head.weight", &n);
  assert_non_null(expected);
  assert_int_equal(n, width * width);
  check_ok(back_end->ops->alloc(back_end, bytes, (void **)&memory));
  check_ok(back_end->ops->zero(back_end, memory, bytes));
  check_ok(back_end->ops->gram(back_end, n_row, width, x, ld, valid, memory));
  check_ok(back_end->ops->copy_out(back_end, sum, memory, bytes));
  float *found = malloc((size_t)n * sizeof *found);
  for (int64_t i = 0; i < width; i++)
    for (int64_t j = 0; j < width; j++)
      found[i * width + j] = (float)(sum[i <= j ? i * width + j : j * width + i] / (double)n_row);
  need("gram", layout->params[l->first_param].name, model_case_distance(found, expected, n), 1e-5);
  back_end->ops->free(back_end, memory);
  free(found);
  free(sum);
  free(expected);
  return INGOT_OK;
}

static void test_gram(void **state)
{
  (void)state;
  static const char *const with_gram[] = {"llama", "gpt2"};
  for (int i = 0; i < 6; i++) {
    const bool with_head = i < 2;
    const int  n_layer = i < 4 ? 0 : 1; /* the first layer alone */
    model_case c;
    model_case_open(nn, with_gram[i % 2], &c);
    const ingot_batch        batch = model_case_batch(&c);
    const ingot_pass_options options = {.n_batch = c.n_batch, .n_time = c.n_time};
    gram_tap                 tap = {.c = &c};
    const ingot_taps         taps = {.context = &tap, .input = see_input, .head = with_head, .n_layer = n_layer};
    ingot_pass              *pass;
    check_ok(ingot_pass_open(c.model, &options, &pass));
    check_ok(ingot_pass_run(pass, &batch, NULL, &taps, NULL));
    assert_int_equal(tap.n_seen, 4 * (n_layer > 0 ? n_layer : c.model->spec.n_layer) + with_head);
    assert_true(c.model->spec.n_layer > 1);
    ingot_pass_close(&pass);
    model_case_close(&c);
  }
}

int main(void)
{
  nn = model_case_open_nn();
  if (!nn) return 77;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_logits),
      cmocka_unit_test(test_gradients),
      cmocka_unit_test(test_fisher),
      cmocka_unit_test(test_gram),
  };
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  ingot_nn_close(&nn);
  return failed;
}
