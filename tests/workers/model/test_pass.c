/* What must hold whatever the numbers are: batches against single windows, documents against windows of their own,
 * chunked heads, taps against gradients, memory as announced. */
#include <stdlib.h>

#include "tests/check.h"
#include "tests/workers/model/model_case.h"

static ingot_nn *nn;

/* One open pass with a head and gradients, for a case. */
typedef struct fixture {
  model_case     c;
  ingot_pass    *pass;
  loss_head      h;
  flat_gradients g;
} fixture;

static void begin(fixture *f, const char *name, ingot_pass_options options)
{
  model_case_open(nn, name, &f->c);
  options.backward = true;
  check_ok(ingot_pass_open(f->c.model, &options, &f->pass));
  loss_head_init(&f->h, nn, options.n_batch * options.n_time, f->c.model->spec.n_vocab, 0.125F);
  flat_gradients_init(&f->g, nn, &f->c.model->layout);
}

static void end(fixture *f)
{
  flat_gradients_release(&f->g, nn);
  loss_head_release(&f->h, nn);
  ingot_pass_close(&f->pass);
  model_case_close(&f->c);
}

static void run(fixture *f, const ingot_batch *batch, const ingot_taps *taps, bool add)
{
  f->g.add = add;
  check_ok(ingot_pass_run(f->pass, batch, &f->h.head, taps, &f->g.gradients));
}

/* Every gradient of a against that of b. */
static void same_gradients(const fixture *a, const fixture *b, double limit)
{
  for (int i = 0; i < a->c.model->layout.n_param; i++) {
    const ingot_model_param *p = &a->c.model->layout.params[i];
    float                   *x = flat_gradients_read(&a->g, nn, i, a->g.memory);
    float                   *y = flat_gradients_read(&b->g, nn, i, b->g.memory);
    const double             distance = model_case_distance(x, y, p->n_elem);
    if (!(distance <= model_case_limit(limit))) fail_msg("gradient of %s: distance %.3e", p->name, distance);
    free(x);
    free(y);
  }
}

static void same_logits(const fixture *f, int64_t first, const float *expected, int64_t n_token)
{
  const double distance = model_case_distance(f->h.logits + first * f->h.n_vocab, expected, n_token * f->h.n_vocab);
  if (!(distance <= model_case_limit(2e-6))) fail_msg("logits: distance %.3e", distance);
}

static const char *const families[] = {"llama", "mistral", "qwen2", "qwen3", "gpt2"};
enum { N_FAMILY = sizeof families / sizeof families[0] };

/* A batch of two windows is the two windows one after the other, gradients added; working memory made for more. */
static void test_batch(void **state)
{
  (void)state;
  for (int i = 0; i < N_FAMILY; i++) {
    fixture both, single;
    begin(&both, families[i], (ingot_pass_options){.n_batch = 3, .n_time = 32});
    begin(&single, families[i], (ingot_pass_options){.n_batch = 1, .n_time = 24});
    const ingot_batch batch = model_case_batch(&both.c);
    run(&both, &batch, NULL, false);
    for (int64_t b = 0; b < batch.n_batch; b++) {
      const int64_t     first = b * batch.n_time;
      const ingot_batch one = {.n_batch = 1,
                               .n_time = batch.n_time,
                               .tokens = batch.tokens + first,
                               .labels = batch.labels + first};
      run(&single, &one, NULL, b > 0);
      same_logits(&both, first, single.h.logits, batch.n_time);
    }
    same_gradients(&both, &single, 1e-4);
    end(&both);
    end(&single);
  }
}

/* Documents of 10 and 14 tokens in one window are two windows of their own. */
static void test_documents(void **state)
{
  (void)state;
  enum { FIRST = 10, SECOND = 14, ALL = FIRST + SECOND };
  for (int i = 0; i < N_FAMILY; i++) {
    fixture packed, apart;
    int32_t positions[ALL], first_key[ALL], labels[ALL];
    begin(&packed, families[i], (ingot_pass_options){.n_batch = 1, .n_time = ALL});
    begin(&apart, families[i], (ingot_pass_options){.n_batch = 1, .n_time = ALL});
    for (int t = 0; t < ALL; t++) {
      positions[t] = t < FIRST ? t : t - FIRST;
      first_key[t] = t < FIRST ? 0 : FIRST;
      labels[t] = t == FIRST - 1 ? INGOT_NN_IGNORE : packed.c.labels[t];
    }
    const ingot_batch window = {.n_batch = 1,
                                .n_time = ALL,
                                .tokens = packed.c.tokens,
                                .labels = labels,
                                .positions = positions,
                                .first_key = first_key};
    run(&packed, &window, NULL, false);
    const ingot_batch one = {.n_batch = 1, .n_time = FIRST, .tokens = packed.c.tokens, .labels = labels};
    run(&apart, &one, NULL, false);
    same_logits(&packed, 0, apart.h.logits, FIRST);
    const ingot_batch two = {.n_batch = 1,
                             .n_time = SECOND,
                             .tokens = packed.c.tokens + FIRST,
                             .labels = labels + FIRST};
    run(&apart, &two, NULL, true);
    same_logits(&packed, FIRST, apart.h.logits, SECOND);
    same_gradients(&packed, &apart, 1e-4);
    end(&packed);
    end(&apart);
  }
}

/* A head of 5 rows at a time; 48 rows make 10 chunks. */
static void test_chunks(void **state)
{
  (void)state;
  static const char *const names[] = {"llama", "gpt2"}; /* a head of its own, and a tied one */
  for (int i = 0; i < 2; i++) {
    fixture chunked, whole;
    begin(&chunked, names[i], (ingot_pass_options){.n_batch = 2, .n_time = 24, .head_rows = 5});
    begin(&whole, names[i], (ingot_pass_options){.n_batch = 2, .n_time = 24});
    const ingot_batch batch = model_case_batch(&whole.c);
    run(&chunked, &batch, NULL, false);
    run(&whole, &batch, NULL, false);
    assert_int_equal(chunked.h.n_chunk, 10);
    assert_int_equal(whole.h.n_chunk, 1);
    same_logits(&chunked, 0, whole.h.logits, 48);
    assert_true(model_case_distance(chunked.h.nll, whole.h.nll, 48) <= model_case_limit(2e-6));
    same_gradients(&chunked, &whole, 1e-4);
    end(&chunked);
    end(&whole);
  }
}

/* Logits that are asked for after a pass without a head, in any order. */
static void test_hidden(void **state)
{
  (void)state;
  static const char *const names[] = {"llama", "gpt2"};
  for (int i = 0; i < 2; i++) {
    const ingot_pass_options options = {.n_batch = 2, .n_time = 24, .hidden = true, .head_rows = 20};
    fixture                  whole;
    ingot_pass              *pass;
    begin(&whole, names[i], (ingot_pass_options){.n_batch = 2, .n_time = 24});
    const ingot_batch batch = model_case_batch(&whole.c);
    run(&whole, &batch, NULL, false);
    check_ok(ingot_pass_open(whole.c.model, &options, &pass));
    assert_int_equal(ingot_pass_head_rows(pass), 20);
    check_ok(ingot_pass_run(pass, &batch, NULL, NULL, NULL));
    for (int64_t first = 46; first >= 0; first -= 23) {
      const int64_t   n_row = first == 46 ? 2 : 20, n_vocab = whole.h.n_vocab;
      float           got[20 * 512];
      ingot_nn_logits z;
      check_ok(ingot_pass_logits(pass, first, n_row, &z));
      assert_true(z.n_row == n_row && z.n_vocab == n_vocab && z.ld <= 512);
      check_ok(nn->ops->copy_out(nn, got, z.data, (size_t)(n_row * z.ld) * sizeof *got));
      for (int64_t r = 0; r < n_row; r++) {
        const double distance = model_case_distance(got + r * z.ld, whole.h.logits + (first + r) * n_vocab, n_vocab);
        if (!(distance <= model_case_limit(2e-6))) fail_msg("row %d: distance %.3e", (int)(first + r), distance);
      }
    }
    ingot_pass_close(&pass);
    end(&whole);
  }
}

/* Frequencies of type dynamic follow each batch's length, in a pass made for longer windows. */
static void test_dynamic_length(void **state)
{
  (void)state;
  static const int64_t lengths[] = {8, 24, 12, 8};
  fixture              wide;
  begin(&wide, "rope_dynamic", (ingot_pass_options){.n_batch = 1, .n_time = 32});
  for (int i = 0; i < 4; i++) {
    fixture           exact;
    const ingot_batch batch = {.n_batch = 1, .n_time = lengths[i], .tokens = wide.c.tokens, .labels = wide.c.labels};
    begin(&exact, "rope_dynamic", (ingot_pass_options){.n_batch = 1, .n_time = lengths[i]});
    run(&wide, &batch, NULL, false);
    run(&exact, &batch, NULL, false);
    same_logits(&wide, 0, exact.h.logits, lengths[i]);
    end(&exact);
  }
  end(&wide);
}

enum { MAX_LINEAR = 16 };

/* Copies of the inputs; products with output gradients as they come. */
typedef struct tap_record {
  const fixture *f;
  float         *x[MAX_LINEAR];
  int            n_input, n_output;
  int            last_output; /* linears come backwards */
  int            n_valid;
} tap_record;

static float *copy_rows(const void *rows, int64_t n_row, int64_t width, int64_t ld)
{
  float *out = malloc((size_t)(n_row * width) * sizeof *out);
  assert_non_null(out);
  for (int64_t r = 0; r < n_row; r++)
    check_ok(nn->ops->copy_out(nn, out + r * width, (const float *)rows + r * ld, (size_t)width * sizeof *out));
  return out;
}

static ingot_status keep_input(void *context, ingot_nn *back_end, int linear, int64_t n_row, int64_t width,
                               const void *x, int64_t ld, const int32_t *valid)
{
  tap_record *r = context;
  int32_t     ids[48];
  assert_ptr_equal(back_end, nn);
  assert_int_equal(linear, r->n_input);
  r->x[linear] = copy_rows(x, n_row, width, ld);
  r->n_input++;
  assert_non_null(valid);
  check_ok(nn->ops->copy_out(nn, ids, valid, (size_t)n_row * sizeof ids[0]));
  for (int64_t i = 0; i < n_row; i++) r->n_valid += ids[i] == (i != 47);
  return INGOT_OK;
}

/* dW = dy^T x is the gradient that this pass, too, gives (which the reference has confirmed). */
static ingot_status check_output(void *context, ingot_nn *back_end, int linear, int param, int64_t n_row, int64_t width,
                                 const void *dy, int64_t ld, const int32_t *valid)
{
  (void)back_end;
  tap_record               *r = context;
  const ingot_model_layout *layout = &r->f->c.model->layout;
  const ingot_model_linear *l = &layout->linears[linear];
  assert_true(param >= l->first_param && param < l->first_param + l->n_param);
  assert_true(linear <= r->last_output);
  r->last_output = linear;
  r->n_output++;
  assert_non_null(valid);
  float *d = copy_rows(dy, n_row, width, ld);
  float *dw = calloc((size_t)(width * l->n_in), sizeof *dw), *expected = NULL;
  for (int64_t t = 0; t < n_row; t++)
    for (int64_t o = 0; o < width; o++)
      for (int64_t i = 0; i < l->n_in; i++) dw[o * l->n_in + i] += d[t * width + o] * r->x[linear][t * l->n_in + i];
  expected = malloc((size_t)(width * l->n_in) * sizeof *expected);
  check_ok(nn->ops->copy_out(nn, expected, r->f->g.memory + layout->params[param].offset,
                             (size_t)(width * l->n_in) * sizeof *expected));
  const double distance = model_case_distance(dw, expected, width * l->n_in);
  if (!(distance <= model_case_limit(1e-5)))
    fail_msg("output gradient of %s: distance %.3e", layout->params[param].name, distance);
  free(d);
  free(dw);
  free(expected);
  return INGOT_OK;
}

static void test_taps(void **state)
{
  (void)state;
  if (nn->dtype != INGOT_DTYPE_F32) skip();
  static const char *const names[] = {"llama", "qwen3", "llama_bias_tied"};
  for (int i = 0; i < 3; i++) {
    fixture f;
    begin(&f, names[i], (ingot_pass_options){.n_batch = 2, .n_time = 24});
    ingot_batch batch = model_case_batch(&f.c);
    int32_t     valid[48];
    for (int t = 0; t < 48; t++) valid[t] = t != 47;
    batch.valid = valid;
    run(&f, &batch, NULL, false); /* gradients to compare with */
    tap_record r = {.f = &f, .last_output = MAX_LINEAR};
    const int  n_linear = f.c.model->layout.n_linear;
    /* A tied head's weights hold the embedding's gradient too: its product is not compared. */
    const ingot_taps taps = {.context = &r,
                             .input = keep_input,
                             .output_gradient = check_output,
                             .head = !f.c.model->spec.tied};
    check_ok(ingot_pass_run(f.pass, &batch, &f.h.head, &taps, NULL)); /* taps alone go backward */
    assert_int_equal(r.n_input, n_linear - (taps.head ? 0 : 1));
    assert_int_equal(r.n_valid, 48 * r.n_input);
    assert_int_equal(r.n_output, 7 * f.c.model->spec.n_layer + (taps.head ? 1 : 0));
    for (int k = 0; k < MAX_LINEAR; k++) free(r.x[k]);
    end(&f);
  }
}

static ingot_status count_input(void *context, ingot_nn *back_end, int linear, int64_t n_row, int64_t width,
                                const void *x, int64_t ld, const int32_t *valid)
{
  int *n = context;
  (void)back_end, (void)n_row, (void)width, (void)x, (void)ld, (void)valid;
  assert_int_equal(linear, *n);
  ++*n;
  return INGOT_OK;
}

/* Layers that run again give the same gradients to the last bit, and taps see each input once. */
static void test_recompute(void **state)
{
  (void)state;
  for (int i = 0; i < N_FAMILY; i++) {
    fixture kept, again;
    int     n_input = 0;
    begin(&kept, families[i], (ingot_pass_options){.n_batch = 2, .n_time = 24});
    begin(&again, families[i], (ingot_pass_options){.n_batch = 2, .n_time = 24, .recompute = true});
    const ingot_batch batch = model_case_batch(&kept.c);
    const ingot_taps  taps = {.context = &n_input, .input = count_input};
    run(&kept, &batch, NULL, false);
    run(&again, &batch, &taps, false);
    assert_int_equal(n_input, kept.c.model->spec.n_layer * 4);
    for (int p = 0; p < kept.c.model->layout.n_param; p++) {
      float *x = flat_gradients_read(&kept.g, nn, p, kept.g.memory),
            *y = flat_gradients_read(&again.g, nn, p, again.g.memory);
      assert_memory_equal(x, y, (size_t)kept.c.model->layout.params[p].n_elem * sizeof *x);
      free(x);
      free(y);
    }
    end(&kept);
    end(&again);
  }
}

/* A table that counts what is allocated. */
static struct {
  const ingot_nn_ops *real;
  uint64_t            bytes;
} counted;

static ingot_status count_alloc(ingot_nn *back_end, size_t bytes, void **out)
{
  counted.bytes += bytes;
  return counted.real->alloc(back_end, bytes, out);
}

static void test_bytes(void **state)
{
  (void)state;
  for (int i = 0; i < N_FAMILY; i++) {
    model_case   c;
    ingot_nn_ops ops = *nn->ops;
    counted.real = nn->ops;
    ops.alloc = count_alloc;
    nn->ops = &ops;
    counted.bytes = 0;
    model_case_open(nn, families[i], &c);
    assert_int_equal(counted.bytes, ingot_model_bytes(&c.model->spec, nn->dtype));
    for (int kind = 0; kind < 3; kind++) {
      const ingot_pass_options options = {.n_batch = 2, .n_time = 24, .backward = kind > 0, .recompute = kind > 1};
      ingot_pass              *pass;
      counted.bytes = 0;
      check_ok(ingot_pass_open(c.model, &options, &pass));
      assert_int_equal(counted.bytes, ingot_pass_bytes(&c.model->spec, nn->dtype, &options));
      assert_true(counted.bytes > 0);
      ingot_pass_close(&pass);
    }
    model_case_close(&c);
    nn->ops = counted.real;
  }
}

/* Forward alone, a third layer costs weights and no working memory. */
static void test_forward_memory(void **state)
{
  (void)state;
  model_case               c;
  const ingot_pass_options forward = {.n_batch = 2, .n_time = 24},
                           both = {.n_batch = 2, .n_time = 24, .backward = true};
  model_case_open(nn, "llama", &c);
  ingot_model_spec more = c.model->spec;
  more.n_layer = 3;
  assert_int_equal(ingot_pass_bytes(&more, nn->dtype, &forward), ingot_pass_bytes(&c.model->spec, nn->dtype, &forward));
  assert_true(ingot_pass_bytes(&more, nn->dtype, &both) > ingot_pass_bytes(&c.model->spec, nn->dtype, &both));
  /* A layer that runs again costs its input: [token][hidden]. */
  const ingot_pass_options again = {.n_batch = 2, .n_time = 24, .backward = true, .recompute = true};
  assert_int_equal(ingot_pass_bytes(&more, nn->dtype, &again) - ingot_pass_bytes(&c.model->spec, nn->dtype, &again),
                   48 * (uint64_t)more.hidden * ingot_dtype_size(nn->dtype));
  model_case_close(&c);
}

static void test_long_window(void **state)
{
  (void)state;
  model_case  c;
  ingot_pass *pass;
  model_case_open(nn, "gpt2", &c);
  const ingot_pass_options options = {.n_batch = 1, .n_time = 33};
  check_fails(ingot_pass_open(c.model, &options, &pass), INGOT_ERR_MISMATCH,
              "windows of 33 tokens are longer than the model's 32 positions");
  assert_null(pass);
  model_case_close(&c);
}

int main(void)
{
  nn = model_case_open_nn();
  if (!nn) return 77;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_batch),          cmocka_unit_test(test_documents),   cmocka_unit_test(test_chunks),
      cmocka_unit_test(test_dynamic_length), cmocka_unit_test(test_taps),        cmocka_unit_test(test_bytes),
      cmocka_unit_test(test_forward_memory), cmocka_unit_test(test_long_window), cmocka_unit_test(test_hidden),
      cmocka_unit_test(test_recompute),
  };
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  ingot_nn_close(&nn);
  return failed;
}
