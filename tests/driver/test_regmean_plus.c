/* Planning the step regmean_plus: which tensors are solved, with what; memory and traffic; and models that do not fit
 * together. */
#define _XOPEN_SOURCE 700
#include "tests/driver/driver_case.h"

#include "driver/data_merge.h"
#include "driver/pack.h"
#include "workers/memory.h"
#include "workers/statistics/regmean_plus.h"

#define CONFIG_WITH(layers, more)                                                                                      \
  "{\"model_type\": \"llama\", \"hidden_size\": 4, \"intermediate_size\": 6, \"num_attention_heads\": 2, "             \
  "\"num_key_value_heads\": 1,"                                                                                        \
  " \"num_hidden_layers\": " #layers ", \"vocab_size\": 8, \"max_position_embeddings\": 16, \"hidden_act\": \"silu\"," \
  " \"dtype\": \"float32\"" more "}\n"
static const char CONFIG[] = CONFIG_WITH(2, ", \"rms_norm_eps\": 1e-5");
#define L(n) "model.layers." #n
#define LAYER(n)                                                                                                     \
  L(n)                                                                                                               \
  ".input_layernorm.weight:F32:4", L(n) ".self_attn.q_proj.weight:F32:4,4", L(n) ".self_attn.k_proj.weight:F32:2,4", \
      L(n) ".self_attn.v_proj.weight:F32:2,4", L(n) ".self_attn.o_proj.weight:F32:4,4",                              \
      L(n) ".post_attention_layernorm.weight:F32:4", L(n) ".mlp.gate_proj.weight:F32:6,4",                           \
      L(n) ".mlp.up_proj.weight:F32:6,4", L(n) ".mlp.down_proj.weight:F32:4,6"
#define EMBED "model.embed_tokens.weight"
static const char *const TENSORS[] = {EMBED ":F32:8,4", LAYER(0), LAYER(1), "model.norm.weight:F32:4",
                                      "lm_head.weight:F32:8,4"};
enum {
  N_TENSOR = sizeof TENSORS / sizeof TENSORS[0],
  N_SOLVED = 2 * 7,
  N_ELEM = 32 + 2 * (4 + 16 + 8 + 8 + 16 + 4 + 3 * 24) + 4 + 32,
  N_TOKEN = 40
};

#define DATA "data = { b = \"b.u16\"; a = \"a.u16\"; };"
#define STEP(body) "{ type = \"regmean_plus\"; window = 8; output = \"out/x.h5\"; " body " }"
#define JOB(body) "models = { a = \"a\"; b = \"b\"; };\nsteps = (\n " STEP(body) " );\n"
#define AB "models = ( \"a\", \"b\" ); " DATA

static void make_data(driver_case *c, const char *name, int n)
{
  uint16_t tokens[N_TOKEN];
  for (int i = 0; i < n; i++) tokens[i] = (uint16_t)(i % 8);
  scratch_write(&c->dir, name, tokens, (size_t)n * sizeof *tokens);
}

static void make_models(driver_case *c)
{
  case_model(c, "a", CONFIG, TENSORS, N_TENSOR);
  case_model(c, "b", CONFIG, TENSORS, N_TENSOR);
  make_data(c, "a.u16", N_TOKEN);
  make_data(c, "b.u16", N_TOKEN - 8);
}

static const ingot_data_merge *parts_of(const driver_case *c, int number)
{
  return c->planner.steps[number - 1].body;
}

static const ingot_merge_plan *merge_of(const ingot_data_merge *d)
{
  return &((const ingot_merge_body *)d->merge.body)->plan;
}

static const ingot_gather_plan *gather_of(const ingot_data_merge *d)
{
  return &((const ingot_gather_body *)d->gather.body)->plan;
}

static double global_value(const ingot_merge_plan *m, const char *tensor, const char *name)
{
  for (int i = 0; i < m->n_tensor; i++)
    if (strcmp(m->tensors[i].view.name, tensor) == 0)
      return m->tensors[i].view.global[ingot_method_param(m->method, name, NULL)];
  fail_msg("no tensor %s", tensor);
  return 0;
}

/* The linear layers of the blocks are solved, without a file of statistics; everything else is averaged with weights
 * of 1. */
static void test_plan(void **state)
{
  driver_case *c = *state;
  make_models(c);
  check_ok(case_plan(c, JOB(AB)));
  const ingot_step_plan   *p = &c->planner.steps[0];
  const ingot_merge_plan  *m = merge_of(parts_of(c, 1));
  const ingot_gather_plan *g = gather_of(parts_of(c, 1));
  int                      n_solved = 0;
  assert_string_equal(m->method->name, "regmean");
  assert_int_equal(m->n_tensor, N_TENSOR);
  assert_int_equal(m->n_source, 2);
  for (int i = 0; i < m->n_tensor; i++) {
    const ingot_merge_tensor *t = &m->tensors[i];
    bool                      solved = strstr(t->view.name, "_proj.weight") != NULL;
    n_solved += solved;
    assert_int_equal(t->view.n_model, 2);
    assert_int_equal(t->view.n_input, 2);
    assert_int_equal(t->view.n_statistic, solved ? 2 : 0);
    assert_int_equal(t->grain, solved ? INGOT_GRAIN_MATRIX : INGOT_GRAIN_ELEMENT);
    assert_false(t->view.transposed);
    assert_true(t->view.per_model[0] == 1.0 && t->view.per_model[1] == 1.0);
  }
  assert_int_equal(n_solved, N_SOLVED);
  assert_true(global_value(m, L(1) ".mlp.up_proj.weight", "alpha") == 0.9);
  assert_true(global_value(m, L(1) ".mlp.up_proj.weight", "ridge") == 0.0);
  assert_int_equal(g->n_model, 2);
  assert_int_equal(g->n_data, 2);
  assert_string_equal(g->models[0].id, "a");
  assert_string_equal(g->data[0].name, "b"); /* as listed */
  assert_int_equal(g->data[0].n_window, 4);
  assert_int_equal(g->data[1].n_window, 5);
  assert_true(p->ready);
  assert_true(p->fingerprint == m->fingerprint && p->fingerprint == g->fingerprint);
  assert_int_equal(p->n_input, 4);
  assert_string_equal(p->title, "RegMean++ of 2 models");
  assert_string_equal(
      p->work, "2 blocks one after the other, each by 9 windows of 8 tokens, 64 in a pass, in float32 on the CPU");
  assert_int_equal(p->bytes_written, N_ELEM * 4);
  /* tensors to merge them; files of the models to run them; tokens of two bytes for each of two blocks */
  assert_int_equal(p->bytes_read, 2 * N_ELEM * 4 + p->inputs[0].bytes + p->inputs[1].bytes + 2 * 9 * 8 * 2);
  assert_string_equal(p->inputs[0].id, "a");
  assert_non_null(strstr(p->recipe, "\"alpha\": 0.9"));
  assert_non_null(strstr(p->recipe, "\"ridge\": 0"));
  assert_non_null(strstr(p->recipe, "\"output_dtype\": \"source\""));
  assert_null(strstr(p->recipe, "partial"));
}

/* As parameters of a merge: over layers, and by tensor names. */
static void test_parameters(void **state)
{
  driver_case *c = *state;
  make_models(c);
  check_ok(case_plan(
      c, JOB(AB " alpha = [0.25, 0.75]; ridge = ( { filter = \"mlp\"; value = 0.5; }, { filter = \"*\"; value = 0; } );"
                " output_dtype = \"bfloat16\"; stride = 4; limit = 3;")));
  const ingot_merge_plan *m = merge_of(parts_of(c, 1));
  assert_true(global_value(m, L(0) ".self_attn.q_proj.weight", "alpha") == 0.25);
  assert_true(global_value(m, L(1) ".self_attn.q_proj.weight", "alpha") == 0.75);
  assert_true(global_value(m, L(1) ".self_attn.q_proj.weight", "ridge") == 0.0);
  assert_true(global_value(m, L(1) ".mlp.up_proj.weight", "ridge") == 0.5);
  assert_int_equal(m->tensors[0].dtype, INGOT_DTYPE_BF16);
  assert_int_equal(gather_of(parts_of(c, 1))->data[1].n_window, 3);
  assert_int_equal(c->planner.steps[0].bytes_written, N_ELEM * 2);
}

/* One model is enough; a list names its data. */
static void test_one_model(void **state)
{
  driver_case *c = *state;
  make_models(c);
  check_ok(case_plan(c, JOB("models = ( \"a\" ); data = ( { name = \"a\"; path = \"b.u16\"; } );")));
  const ingot_merge_plan *m = merge_of(parts_of(c, 1));
  for (int i = 0; i < m->n_tensor; i++) assert_int_equal(m->tensors[i].view.n_input, 1);
}

/* Model, pass and sums with the host's part; the merge's buffers and matrices beside them. */
static void test_memory(void **state)
{
  driver_case       *c = *state;
  ingot_model_spec   spec = {0};
  ingot_model_layout layout = {0};
  char               job[1024];
  make_models(c);
  check_ok(case_plan(c, JOB(AB)));
  check_ok(ingot_model_spec_parse(CONFIG, strlen(CONFIG), "config", &spec));
  check_ok(ingot_model_layout_make(&spec, &layout));
  const ingot_gather_plan *g = gather_of(parts_of(c, 1));
  uint64_t need = ingot_regmean_plus_bytes(g, &spec, &layout) + ingot_regmean_plus_host_bytes(g, &layout) +
                  ingot_merge_memory_bytes(merge_of(parts_of(c, 1)), 2, false);
  assert_int_equal(c->planner.steps[0].memory_bytes, need); /* the process is in the merge's */
  assert_int_equal(c->planner.steps[0].host_bytes, 0);
  snprintf(job, sizeof job, JOB(AB " memory_limit = %llu;"), (unsigned long long)need - 1);
  check_ok(case_plan(c, job));
  assert_int_equal(gather_of(parts_of(c, 1))->batch, 32);
  snprintf(job, sizeof job, JOB(AB " batch = 64; memory_limit = %llu;"), (unsigned long long)need - 1);
  check_fails(case_plan(c, job), INGOT_ERR_TOO_LARGE, "step 1 (regmean_plus): a rank needs ");
  check_fails(case_plan(c, JOB(AB " memory_limit = 1000;")), INGOT_ERR_TOO_LARGE, "and memory_limit is 1000 B");
  ingot_model_layout_release(&layout);
  ingot_model_spec_release(&spec);
}

/* GPT-2 stores linear layers as [in, out]; names without their first part are known too. */
static void test_gpt2(void **state)
{
  static const char config[] =
      "{\"model_type\": \"gpt2\", \"n_embd\": 4, \"n_head\": 2, \"n_layer\": 1, \"vocab_size\": 8,"
      " \"n_positions\": 16, \"activation_function\": \"gelu_new\"}";
  static const char *const tensors[] = {"wte.weight:F32:8,4",
                                        "wpe.weight:F32:16,4",
                                        "h.0.ln_1.weight:F32:4",
                                        "h.0.ln_1.bias:F32:4",
                                        "h.0.attn.c_attn.weight:F32:4,12",
                                        "h.0.attn.c_attn.bias:F32:12",
                                        "h.0.attn.c_proj.weight:F32:4,4",
                                        "h.0.attn.c_proj.bias:F32:4",
                                        "h.0.ln_2.weight:F32:4",
                                        "h.0.ln_2.bias:F32:4",
                                        "h.0.mlp.c_fc.weight:F32:4,16",
                                        "h.0.mlp.c_fc.bias:F32:16",
                                        "h.0.mlp.c_proj.weight:F32:16,4",
                                        "h.0.mlp.c_proj.bias:F32:4",
                                        "ln_f.weight:F32:4",
                                        "ln_f.bias:F32:4"};
  enum { N = sizeof tensors / sizeof tensors[0] };
  driver_case *c = *state;
  make_models(c);
  case_model(c, "a", config, tensors, N);
  case_model(c, "b", config, tensors, N);
  check_ok(case_plan(c, JOB(AB)));
  const ingot_merge_plan *m = merge_of(parts_of(c, 1));
  assert_int_equal(m->n_tensor, N);
  for (int i = 0; i < m->n_tensor; i++) {
    bool solved = strstr(m->tensors[i].view.name, ".c_") && strstr(m->tensors[i].view.name, ".weight");
    assert_int_equal(m->tensors[i].grain, solved ? INGOT_GRAIN_MATRIX : INGOT_GRAIN_ELEMENT);
    assert_int_equal(m->tensors[i].view.transposed, solved);
  }
}

static void with_config(driver_case *c, const char *config, const char *message)
{
  case_model(c, "b", config, TENSORS, N_TENSOR);
  check_fails(case_plan(c, JOB(AB)), INGOT_ERR_MISMATCH, message);
}

/* A block of one model has to mean the same in another. */
static void test_other_architectures(void **state)
{
  driver_case *c = *state;
  make_models(c);
  with_config(c, CONFIG_WITH(2, ", \"rms_norm_eps\": 1e-6"),
              "step 1 (regmean_plus): models of one architecture are needed: epsilon of the norms: 1e-05 in \"a\" (");
  with_config(c, CONFIG_WITH(2, ", \"rms_norm_eps\": 1e-5, \"rope_theta\": 500.0"), "rope_theta: 10000 in \"a\" (");
  assert_message(ingot_error_message(), ", 500 in \"b\" (");
  with_config(c, CONFIG_WITH(2, ", \"rms_norm_eps\": 1e-5, \"head_dim\": 2, \"tie_word_embeddings\": true"),
              "an output head of its own");
  with_config(c, CONFIG_WITH(1, ", \"rms_norm_eps\": 1e-5"), "model.layers.1.");
  case_model(c, "b", "{}", TENSORS, N_TENSOR);
  check_fails(case_plan(c, JOB(AB)), INGOT_ERR_FORMAT, "model_type");
  /* families alike but for their names */
  char  mistral[1024];
  char *at;
  snprintf(mistral, sizeof mistral, "%s", CONFIG);
  at = strstr(mistral, "\"llama\"");
  assert_non_null(at);
  memmove(at + 9, at + 7, strlen(at + 7) + 1);
  memcpy(at, "\"mistral\"", 9);
  with_config(c, mistral, "\"a\" (");
  assert_message(ingot_error_message(), ") is llama, and \"b\" (");
  assert_message(ingot_error_message(), ") is mistral");
}

/* There is no key that would let them pass, and none is named. */
static void test_vocabularies(void **state)
{
  driver_case *c = *state;
  make_models(c);
  case_file(c, "a", "tokenizer.json", "{\"model\": {\"vocab\": {\"x\": 0, \"y\": 1}}, \"added_tokens\": []}");
  case_file(c, "b", "tokenizer.json", "{\"model\": {\"vocab\": {\"x\": 1, \"y\": 0}}, \"added_tokens\": []}");
  check_fails(case_plan(c, JOB(AB)), INGOT_ERR_MISMATCH, "different vocabularies: 2 tokens of \"a\" (");
  assert_null(strstr(ingot_error_message(), "vocabulary = "));
}

static void test_data(void **state)
{
  driver_case *c = *state;
  make_models(c);
  make_data(c, "b.u16", 7);
  check_fails(case_plan(c, JOB(AB)), INGOT_ERR_MISMATCH, "7 tokens, fewer than a window of 8");
  check_fails(case_plan(c, JOB("models = ( \"a\" ); data = { a = \"none.u16\"; };")), INGOT_ERR_NOTFOUND,
              "data \"a\": ");
  check_fails(case_plan(c, "models = { a = \"a\"; };\nsteps = ( { type = \"regmean_plus\"; window = 17; output = "
                           "\"out/x.h5\"; models = ( \"a\" );"
                           " data = { a = \"a.u16\"; }; } );\n"),
              INGOT_ERR_MISMATCH, "windows of 17 tokens, and model \"a\" (");
}

/* An input that is not there is reported once, and does not stop the search for other problems. */
static void test_missing_input(void **state)
{
  driver_case *c = *state;
  make_models(c);
  check_fails(case_plan(c, "models = { a = \"a\"; b = \"none\"; };\nsteps = ( " STEP(
                               AB) ",\n"
                                   " { type = \"regmean_plus\"; window = 8; output = \"out/y.h5\"; " AB " },\n"
                                   " { type = \"soup\"; window = 8; output = \"out/z.h5\"; " AB " } );\n"),
              INGOT_ERR_NOTFOUND, "model \"b\": ");
  const char *first = strstr(ingot_error_message(), "model \"b\": ");
  assert_null(strstr(first + 1, "model \"b\": "));
}

/* Models that earlier steps make: planned from what these promise. */
static void test_promise(void **state)
{
  driver_case *c = *state;
  make_models(c);
  check_ok(case_plan(c, "models = { a = \"a\"; b = \"b\"; };\nsteps = (\n"
                        " { type = \"merge\"; name = \"m\"; method = \"linear\"; models = ( \"a\", \"b\" ); parameters "
                        "= { weight = 1.0; };"
                        "   output = \"out/m.h5\"; },\n"
                        " { type = \"regmean_plus\"; window = 8; output = \"out/x.h5\"; models = ( \"m\", \"a\" );"
                        "   data = { m = \"b.u16\"; a = \"a.u16\"; }; } );\n"));
  assert_false(c->planner.steps[1].ready);
  const ingot_merge_plan *m = merge_of(parts_of(c, 2));
  int                     n_solved = 0;
  for (int i = 0; i < m->n_tensor; i++) n_solved += m->tensors[i].grain == INGOT_GRAIN_MATRIX;
  assert_int_equal(n_solved, N_SOLVED);
}

static uint64_t fingerprint_of(driver_case *c, const char *job)
{
  check_ok(case_plan(c, job));
  return c->planner.steps[0].fingerprint;
}

static void test_fingerprint(void **state)
{
  driver_case *c = *state;
  make_models(c);
  uint64_t first = fingerprint_of(c, JOB(AB));
  assert_true(first == fingerprint_of(c, JOB(AB " alpha = 0.9; durable = false; memory_limit = \"1GB\"; batch = 2;")));
  assert_true(first != fingerprint_of(c, JOB(AB " alpha = 0.5;")));
  assert_true(first != fingerprint_of(c, JOB(AB " ridge = 0.5;")));
  assert_true(first != fingerprint_of(c, JOB(AB " stride = 4;")));
  assert_true(first != fingerprint_of(c, JOB("models = ( \"a\", \"b\" ); data = { a = \"b.u16\"; b = \"a.u16\"; };")));
  assert_true(first != fingerprint_of(c, JOB(AB " output_dtype = \"bfloat16\";")));
}

static void test_pack(void **state)
{
  driver_case    *c = *state;
  ingot_text      bytes = {0};
  ingot_step_plan copy = {0};
  make_models(c);
  check_ok(case_plan(c, JOB(AB)));
  const ingot_step_plan *p = &c->planner.steps[0];
  check_ok(ingot_step_plan_pack(p, &bytes));
  check_ok(ingot_step_plan_unpack(bytes.bytes, bytes.size, &copy));
  const ingot_merge_plan  *m = merge_of(parts_of(c, 1)), *n = merge_of(copy.body);
  const ingot_gather_plan *g = gather_of(copy.body);
  assert_true(copy.fingerprint == p->fingerprint && n->fingerprint == p->fingerprint &&
              g->fingerprint == p->fingerprint);
  assert_string_equal(g->data[0].name, "b");
  assert_int_equal(n->n_tensor, m->n_tensor);
  for (int i = 0; i < m->n_tensor; i++) {
    assert_int_equal(n->tensors[i].view.n_statistic, m->tensors[i].view.n_statistic);
    assert_int_equal(n->tensors[i].grain, m->tensors[i].grain);
    assert_memory_equal(n->tensors[i].source, m->tensors[i].source, 2 * sizeof(int));
  }
  ingot_step_plan_release(&copy);
  for (size_t cut = 0; cut < bytes.size; cut += 37) {
    ingot_step_plan broken = {0};
    assert_int_not_equal(ingot_step_plan_unpack(bytes.bytes, cut, &broken), INGOT_OK);
    ingot_step_plan_release(&broken);
  }
  ingot_text_release(&bytes);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, case_setup, case_teardown)

int main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_plan),         TEST(test_parameters),  TEST(test_one_model),
      TEST(test_memory),       TEST(test_gpt2),        TEST(test_other_architectures),
      TEST(test_vocabularies), TEST(test_data),        TEST(test_missing_input),
      TEST(test_promise),      TEST(test_fingerprint), TEST(test_pack),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
