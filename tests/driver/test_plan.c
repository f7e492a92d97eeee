#define _XOPEN_SOURCE 700
#include "tests/driver/driver_case.h"

#include "driver/layers.h"
#include "driver/model_config.h"
#include "driver/pack.h"
#include "driver/placement.h"

static const char CONFIG[] =
    "{\"model_type\": \"llama\", \"num_hidden_layers\": 4, \"vocab_size\": 8, \"dtype\": \"float32\"}\n";
#define EMBED "model.embed_tokens.weight"
#define DOWN(n) "model.layers." #n ".mlp.down_proj.weight"
#define Q(n) "model.layers." #n ".self_attn.q_proj.weight"

/* Four layers, embeddings, a norm, a head of its own. */
static const char *const LAYERS4[] = {EMBED ":F32:8,2",          Q(0) ":F32:2,2",         DOWN(0) ":F32:2,3",
                                      Q(1) ":F32:2,2",           DOWN(1) ":F32:2,3",      Q(2) ":F32:2,2",
                                      DOWN(2) ":F32:2,3",        Q(3) ":F32:2,2",         DOWN(3) ":F32:2,3",
                                      "model.norm.weight:F32:2", "lm_head.weight:F32:8,2"};
#define LAYERS4_COUNT (int)(sizeof LAYERS4 / sizeof LAYERS4[0])

#define MODELS "models = { a = \"a\"; b = \"b\"; base = \"base\"; };\n"
#define JOB(body) MODELS "steps = (\n  { type = \"merge\"; output = \"out/x.h5\";\n" body " }\n);\n"
#define LINEAR_AB \
  "method = \"linear\"; models = ( { model = \"a\"; weight = 1.0; }, { model = \"b\"; weight = 2.0; } );"
#define TIES_AB "method = \"ties\"; base = \"base\"; models = ( \"a\", \"b\" );"

static void make_models(driver_case *c)
{
  case_model(c, "a", CONFIG, LAYERS4, LAYERS4_COUNT);
  case_model(c, "b", CONFIG, LAYERS4, LAYERS4_COUNT);
  case_model(c, "base", CONFIG, LAYERS4, LAYERS4_COUNT);
}

static void test_linear(void **state)
{
  driver_case *c = *state;
  make_models(c);
  check_ok(case_plan(c, JOB(LINEAR_AB)));
  const ingot_merge_plan *m = case_merge(c, 1);
  assert_int_equal(m->n_tensor, LAYERS4_COUNT);
  assert_int_equal(m->n_source, 2);
  assert_int_equal(m->n_tile, LAYERS4_COUNT); /* each tensor is smaller than a tile */
  for (int i = 0; i < m->n_tensor; i++) {     /* the first model's file order */
    assert_true(strncmp(m->tensors[i].view.name, LAYERS4[i], strlen(m->tensors[i].view.name)) == 0);
    assert_int_equal(m->tensors[i].first_tile, i);
    assert_int_equal(m->tensors[i].view.n_input, 2);
    assert_false(m->tensors[i].view.has_base);
    assert_true(m->tensors[i].view.key == ingot_hash_string(m->tensors[i].view.name));
  }
  assert_true(case_value(c, EMBED, "weight", 0) == 1.0);
  assert_true(case_value(c, EMBED, "weight", 1) == 2.0);
  /* embed 16, 4 layers of 4 + 6, norm 2, head 16: 74 elements of 4 bytes, in one pass over two models */
  assert_int_equal(c->planner.steps[0].bytes_written, 74 * 4);
  assert_int_equal(c->planner.steps[0].bytes_read, 2 * 74 * 4);
  assert_int_equal(case_tensor(c, Q(1))->view.model_offset, 16 + 10);
}

/* Levels: with the model, then parameters, then the default; gradients over layers, first entry outside the stack. */
static void test_parameters(void **state)
{
  driver_case *c = *state;
  make_models(c);
  check_ok(
      case_plan(c, JOB("method = \"ties\"; base = \"base\"; models = ("
                       "{ model = \"a\"; weight = [0.0, 3.0]; density = ( { filter = \"mlp\"; value = 0.25; } ); },"
                       "{ model = \"b\"; } );"
                       "parameters = { weight = 7; density = 0.5;"
                       "  lambda = ( { filter = \"q_proj\"; value = [0.0, 0.5, 1.0, 0.25]; }, { filter = \"*\"; value "
                       "= 2; } ); };")));
  assert_true(case_value(c, EMBED, "weight", 0) == 0.0);
  assert_true(case_value(c, Q(0), "weight", 0) == 0.0);
  assert_true(case_value(c, Q(1), "weight", 0) == 1.0);
  assert_true(case_value(c, Q(2), "weight", 0) == 2.0);
  assert_true(case_value(c, Q(3), "weight", 0) == 3.0);
  assert_true(case_value(c, "lm_head.weight", "weight", 0) == 0.0);
  assert_true(case_value(c, Q(3), "weight", 1) == 7.0);
  assert_true(case_value(c, DOWN(2), "density", 0) == 0.25);
  assert_true(case_value(c, Q(2), "density", 0) == 0.5);
  assert_true(case_value(c, DOWN(2), "density", 1) == 0.5);
  assert_true(case_value(c, Q(1), "lambda", 0) == 0.5);
  assert_true(case_value(c, Q(3), "lambda", 0) == 0.25);
  assert_true(case_value(c, DOWN(3), "lambda", 0) == 2.0);
}

static void test_base_is_input_0(void **state)
{
  driver_case *c = *state;
  make_models(c);
  check_ok(case_plan(
      c,
      JOB("method = \"ties\"; base = \"base\"; models = ( \"a\", \"base\", \"b\" ); parameters = { weight = 1.0; };")));
  const ingot_merge_tensor *t = case_tensor(c, Q(0));
  assert_true(t->view.has_base);
  assert_int_equal(t->view.n_input, 3); /* the base, listed too, is dropped from the models */
  assert_int_equal(t->view.n_model, 2);
  assert_non_null(strstr(case_merge(c, 1)->source_names[t->source[0]], "base"));
  assert_non_null(strstr(case_merge(c, 1)->source_names[t->source[1]], "a ("));
  assert_non_null(strstr(case_merge(c, 1)->source_names[t->source[2]], "b ("));
}

/* [0, 3) of a and [1, 4) of b: a0 a1 a2 b1 b2 b3. */
static void test_slices(void **state)
{
  static const char *const layers[] = {Q(0), Q(1), Q(2), Q(3), Q(4), Q(5)};
  static const char *const from[] = {Q(0), Q(1), Q(2), Q(1), Q(2), Q(3)};
  driver_case             *c = *state;
  make_models(c);
  check_ok(
      case_plan(c, JOB("method = \"passthrough\"; slices = ( { sources = ( { model = \"a\"; layers = [0, 3]; } ); },"
                       "{ sources = ( { model = \"b\"; layers = [1, 4]; scale = ( { filter = \"layers.2.mlp.down\"; "
                       "value = 0.5; } ); } ); } );")));
  const ingot_merge_plan *m = case_merge(c, 1);
  assert_int_equal(m->n_tensor, 3 + 6 * 2);
  for (int i = 0; i < 6; i++) {
    const ingot_merge_tensor *t = case_tensor(c, layers[i]);
    assert_int_equal(t->view.n_input, 1);
    assert_string_equal(ingot_source_tensor(m->sources[t->source[0]], t->tensor[0])->name, from[i]);
    assert_int_equal(t->source[0], i < 3 ? 0 : 1);
    assert_true(t->copy);
  }
  assert_int_equal(case_tensor(c, EMBED)->source[0], 0);
  assert_int_equal(case_tensor(c, "lm_head.weight")->source[0], 1);
  assert_int_equal(case_tensor(c, "model.norm.weight")->source[0], 1);
  assert_false(case_tensor(c, DOWN(4))->copy); /* b's layer 2: the filter looks at b's own name */
  assert_true(case_value(c, DOWN(4), "scale", 0) == 0.5);
  assert_true(case_tensor(c, DOWN(2))->copy);
  const ingot_sink_spec *sink = &m->sink;
  assert_int_equal(sink->n_file, 1);
  assert_non_null(strstr(sink->files[0].bytes, "\"num_hidden_layers\": 6"));
  assert_non_null(strstr(sink->files[0].bytes, "\"vocab_size\": 8"));
}

/* t runs inside a slice: 0 to 1 over its layers, 1 for a single one; 0 outside the stack. */
static void test_slice_gradients(void **state)
{
  driver_case *c = *state;
  make_models(c);
  check_ok(case_plan(c, JOB("method = \"linear\"; parameters = { weight = 9.0; }; slices = ("
                            "{ sources = ( { model = \"a\"; layers = [0, 3]; weight = [0.0, 4.0]; }, { model = \"b\"; "
                            "layers = [1, 4]; } ); },"
                            "{ sources = ( { model = \"a\"; layers = [3, 4]; weight = [5.0, 6.0]; }, { model = \"b\"; "
                            "layers = [0, 1]; } );"
                            "  parameters = { weight = 3.0; }; } );")));
  assert_true(case_value(c, Q(0), "weight", 0) == 0.0);
  assert_true(case_value(c, Q(1), "weight", 0) == 2.0);
  assert_true(case_value(c, Q(2), "weight", 0) == 4.0);
  assert_true(case_value(c, Q(2), "weight", 1) == 9.0);
  assert_true(case_value(c, Q(3), "weight", 0) == 6.0);
  assert_true(case_value(c, Q(3), "weight", 1) == 3.0);
  assert_true(case_value(c, EMBED, "weight", 0) == 0.0);
  assert_true(case_value(c, "lm_head.weight", "weight", 0) == 5.0);
  const ingot_merge_plan   *m = case_merge(c, 1);
  const ingot_merge_tensor *t = case_tensor(c, Q(1));
  assert_string_equal(ingot_source_tensor(m->sources[t->source[1]], t->tensor[1])->name, Q(2));
}

static void test_slice_errors(void **state)
{
  driver_case             *c = *state;
  static const char *const flat[] = {"w:F32:2"};
  make_models(c);
  case_model(c, "flat", CONFIG, flat, 1);
  check_fails(
      case_plan(c,
                JOB("method = \"passthrough\"; slices = ( { sources = ( { model = \"a\"; layers = [2, 6]; } ); } );")),
      INGOT_ERR_JOB, "layers [2, 6] of \"a\", which has 4 layers");
  check_fails(
      case_plan(c,
                "models = { f = \"flat\"; }; steps = ( { type = \"merge\"; output = \"x.h5\"; method = \"passthrough\";"
                "slices = ( { sources = ( { model = \"f\"; layers = [0, 1]; } ); } ); } );"),
      INGOT_ERR_MISMATCH, "slices need layers, and \"f\"");
}

/* One tensor changed in b: NULL leaves it out. */
static void change_b(driver_case *c, int index, const char *tensor)
{
  const char *tensors[LAYERS4_COUNT + 1];
  int         n = 0;
  for (int i = 0; i < LAYERS4_COUNT; i++) {
    const char *t = i == index ? tensor : LAYERS4[i];
    if (t) tensors[n++] = t;
  }
  if (index >= LAYERS4_COUNT) tensors[n++] = tensor;
  case_model(c, "a", CONFIG, LAYERS4, LAYERS4_COUNT);
  case_model(c, "base", CONFIG, LAYERS4, LAYERS4_COUNT);
  case_model(c, "b", CONFIG, tensors, n);
}

static void test_missing_tensor(void **state)
{
  driver_case *c = *state;
  change_b(c, 3, NULL);
  check_fails(case_plan(c, JOB(LINEAR_AB)), INGOT_ERR_MISMATCH, "tensor " Q(1) " is missing in \"b\" (");
  assert_message(ingot_error_message(), "job.cfg:3: step 1 (linear): ");
  check_ok(case_plan(c, JOB(LINEAR_AB " missing = \"skip\";")));
  assert_int_equal(case_merge(c, 1)->n_tensor, LAYERS4_COUNT - 1);
  check_ok(case_plan(c, JOB(TIES_AB " parameters = { weight = 1.0; }; missing = \"base\";")));
  assert_int_equal(case_merge(c, 1)->n_tensor, LAYERS4_COUNT);
  assert_int_equal(case_tensor(c, Q(1))->view.n_model, 1);
  assert_int_equal(case_tensor(c, Q(2))->view.n_model, 2);
}

static void test_extra_tensor(void **state)
{
  driver_case *c = *state;
  change_b(c, LAYERS4_COUNT, "model.extra:F32:2");
  check_fails(case_plan(c, JOB(LINEAR_AB)), INGOT_ERR_MISMATCH, "tensor model.extra of \"b\" (");
  check_ok(case_plan(c, JOB(LINEAR_AB " missing = \"skip\";")));
  assert_int_equal(case_merge(c, 1)->n_tensor, LAYERS4_COUNT);
}

static void test_shape_mismatch(void **state)
{
  driver_case *c = *state;
  change_b(c, 4, DOWN(1) ":F32:3,2");
  check_fails(case_plan(c, JOB(LINEAR_AB)), INGOT_ERR_MISMATCH, "tensor " DOWN(1) ": [3, 2] in \"b\" (");
  assert_message(ingot_error_message(), "[2, 3] in \"a\" (");
}

static void test_dtype_mismatch(void **state)
{
  driver_case *c = *state;
  change_b(c, 4, DOWN(1) ":I32:2,3");
  check_fails(case_plan(c, JOB(LINEAR_AB)), INGOT_ERR_MISMATCH, "tensor " DOWN(1) ": I32 in \"b\" (");
}

static void test_missing_weight(void **state)
{
  driver_case *c = *state;
  make_models(c);
  check_fails(case_plan(c, JOB("method = \"linear\"; models = ( { model = \"a\"; weight = 1.0; }, \"b\" );")),
              INGOT_ERR_JOB, "no value of weight for model \"b\"");
  check_fails(case_plan(c, JOB("method = \"slerp\"; base = \"a\"; models = ( \"a\", \"b\" );")), INGOT_ERR_JOB,
              "no value of t (tensor");
}

static void test_zero_sum(void **state)
{
  driver_case *c = *state;
  make_models(c);
  check_fails(case_plan(c, JOB("method = \"linear\"; models = ( { model = \"a\"; weight = 1.0; }, { model = \"b\"; "
                               "weight = -1.0; } );")),
              INGOT_ERR_JOB, "step 1 (linear): tensor " EMBED ": ");
  check_ok(case_plan(
      c, JOB("method = \"linear\"; models = ( { model = \"a\"; weight = 1.0; }, { model = \"b\"; weight = -1.0; } );"
             "parameters = { normalize = false; };")));
}

static void test_missing_input(void **state)
{
  driver_case *c = *state;
  case_model(c, "a", CONFIG, LAYERS4, LAYERS4_COUNT);
  check_fails(case_plan(c, JOB(LINEAR_AB)), INGOT_ERR_NOTFOUND, "job.cfg:4: steps[0].models[1]: model \"b\": ");
}

static void test_tied_heads(void **state)
{
  static const char TIED[] = "{\"tie_word_embeddings\": true, \"num_hidden_layers\": 4, \"vocab_size\": 8}";
  driver_case      *c = *state;
  case_model(c, "a", TIED, LAYERS4, LAYERS4_COUNT);      /* tied, and the head stored all the same */
  case_model(c, "b", TIED, LAYERS4, LAYERS4_COUNT - 1);  /* tied, stored once */
  case_model(c, "base", CONFIG, LAYERS4, LAYERS4_COUNT); /* a head of its own */
  check_ok(case_plan(c, JOB(LINEAR_AB)));
  assert_int_equal(case_merge(c, 1)->n_tensor, LAYERS4_COUNT - 1);
  check_fails(case_plan(c, JOB("method = \"linear\"; models = ( \"a\", \"base\" ); parameters = { weight = 1.0; };")),
              INGOT_ERR_MISMATCH, "\"a\" (");
  assert_message(ingot_error_message(), "ties its output head to its embeddings, and \"base\" (");
  assert_message(ingot_error_message(), "has an output head of its own (lm_head.weight)");
  check_ok(case_plan(
      c, JOB("method = \"linear\"; models = ( \"a\", \"base\" ); parameters = { weight = 1.0; }; tied = \"keep\";")));
  assert_int_equal(case_merge(c, 1)->n_tensor, LAYERS4_COUNT);
}

static void test_vocabularies(void **state)
{
  driver_case *c = *state;
  make_models(c);
  case_file(c, "a", "tokenizer.json", "{\"model\": {\"vocab\": {\"x\": 0, \"y\": 1, \"z\": 2}}, \"added_tokens\": []}");
  case_file(c, "b", "tokenizer.json", "{\"model\": {\"vocab\": {\"z\": 2, \"y\": 1, \"x\": 0}}, \"added_tokens\": []}");
  check_ok(case_plan(c, JOB(LINEAR_AB))); /* the same tokens in another order */
  case_file(c, "b", "tokenizer.json",
            "{\"model\": {\"vocab\": {\"x\": 0, \"q\": 1, \"z\": 2}}, \"added_tokens\": [{\"id\": 3, \"content\": "
            "\"<end>\"}]}");
  check_fails(case_plan(c, JOB(LINEAR_AB)), INGOT_ERR_MISMATCH, "different vocabularies: 2 tokens of \"a\" (");
  assert_message(ingot_error_message(), "the first is number 1: \"y\" and \"q\"");
  check_ok(case_plan(c, JOB(LINEAR_AB " vocabulary = \"ignore\";")));
  case_file(c, "b", "tokenizer.json", "{\"model\": {\"vocab\": {\"x\": -5}}}");
  check_fails(case_plan(c, JOB(LINEAR_AB)), INGOT_ERR_FORMAT, "tokenizer.json: token \"x\" has the number -5");
}

static void test_vocab_size(void **state)
{
  driver_case *c = *state;
  make_models(c);
  case_file(c, "b", "config.json", "{\"vocab_size\": 9}");
  check_fails(case_plan(c, JOB(LINEAR_AB)), INGOT_ERR_MISMATCH, "vocab_size is 8 in \"a\"");
}

static void test_integers_are_copied(void **state)
{
  static const char *const a[] = {"ids:I64:3", "w:F32:2"}, *const b[] = {"ids:I64:4", "w:F32:2"};
  driver_case *c = *state;
  case_model(c, "a", "{}", a, 2);
  case_model(c, "b", "{}", b, 2);
  check_ok(case_plan(c, JOB(LINEAR_AB " base = \"b\"; dtype = \"bfloat16\";")));
  const ingot_merge_tensor *t = case_tensor(c, "ids");
  assert_true(t->copy);
  assert_int_equal(t->dtype, INGOT_DTYPE_I64);
  assert_int_equal(t->view.n_elem, 4); /* of the base, which leads */
  assert_int_equal(case_tensor(c, "w")->dtype, INGOT_DTYPE_BF16);
}

static void test_memory_limit(void **state)
{
  driver_case *c = *state;
  make_models(c);
  check_fails(case_plan(c, JOB(LINEAR_AB " memory_limit = 1000;")), INGOT_ERR_TOO_LARGE, "and memory_limit is 1000 B");
  check_ok(case_plan(c, JOB(LINEAR_AB)));
  uint64_t two = c->planner.steps[0].memory_bytes;
  char     job[1024];
  snprintf(job, sizeof job, JOB(LINEAR_AB " memory_limit = %llu;"), (unsigned long long)two - 1);
  check_ok(case_plan(c, job));
  assert_int_equal(c->planner.steps[0].n_thread, 1); /* one thread less */
}

/* A rank's share of the machine, or memory_limit where that is less; of another machine nothing is known. */
static void test_rank_memory(void **state)
{
  ingot_planner     planner = {.options = {.n_rank = 8, .n_rank_node = 2}};
  ingot_rank_memory one, half, limited;
  (void)state;
  check_ok(ingot_rank_memory_find(&planner, false, 0, &half));
  planner.options.n_rank_node = 1;
  check_ok(ingot_rank_memory_find(&planner, false, 0, &one));
  assert_true(half.bytes > 0 && half.bytes == one.bytes / 2);
  assert_string_equal(half.what, "a rank's share of the machine's memory is");
  check_ok(ingot_rank_memory_find(&planner, false, 1000, &limited));
  assert_true(limited.bytes == 1000 && limited.stated && !one.stated);
  check_ok(ingot_rank_memory_find(&planner, false, one.bytes + 1, &limited));
  assert_true(limited.bytes == one.bytes && !limited.stated);
  planner.options.other_host = true;
  check_ok(ingot_rank_memory_find(&planner, false, one.bytes + 1, &limited));
  assert_true(limited.bytes == one.bytes + 1 && limited.stated);
  check_ok(ingot_rank_memory_find(&planner, false, 0, &limited));
  assert_int_equal(limited.bytes, 0);
}

/* On a CPU everything is of the host; beside a GPU the host has page-locked slots (32 MiB) and what reading or the step
 * takes. */
static void test_memory_beside_gpu(void **state)
{
  const uint64_t mib = 1 << 20;
  (void)state;
  assert_int_equal(ingot_rank_memory_need(false, 100 * mib, 10 * mib), 115 * mib); /* 5: the process */
  assert_int_equal(ingot_rank_memory_need(true, 100 * mib, 10 * mib), 100 * mib);
  assert_int_equal(ingot_rank_host_need(false, INGOT_COMPUTE_BF16, NULL, 0, 2, 10 * mib), 0);
  assert_int_equal(ingot_rank_host_need(true, INGOT_COMPUTE_BF16, NULL, 0, 2, 10 * mib), 42 * mib);
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
  uint64_t first = fingerprint_of(c, JOB(LINEAR_AB));
  assert_true(first == fingerprint_of(c, "// a comment\n" JOB(LINEAR_AB)));
  assert_true(first == fingerprint_of(c, JOB(LINEAR_AB " durable = false; memory_limit = \"1GB\";")));
  assert_true(first == fingerprint_of(c, JOB(LINEAR_AB " parameters = { normalize = true; };"))); /* the default */
  assert_true(first != fingerprint_of(c, JOB(LINEAR_AB " parameters = { normalize = false; };")));
  assert_true(first != fingerprint_of(c, JOB(LINEAR_AB " seed = 1;")));
  assert_true(first != fingerprint_of(c, JOB(LINEAR_AB " dtype = \"float16\";")));
  assert_true(first != fingerprint_of(c, JOB(LINEAR_AB " shard_size = 77;")));
  /* stripes and hints change the layout of the file only where they change its alignment */
  assert_true(
      first ==
      fingerprint_of(c, "io = { striping_factor = 8; striping_unit = \"1MiB\"; hints = { cb_nodes = 1; }; };" JOB(
                            LINEAR_AB)));
  uint64_t wide = fingerprint_of(c, "io = { striping_unit = \"4MiB\"; };" JOB(LINEAR_AB));
  assert_true(first != wide);
  assert_true(wide == fingerprint_of(c, JOB(LINEAR_AB " alignment = \"4MiB\";")));
  case_file(c, "a", "generation_config.json", "{}"); /* goes into the output */
  assert_true(first != fingerprint_of(c, JOB(LINEAR_AB)));
}

static void test_pack(void **state)
{
  driver_case    *c = *state;
  ingot_text      bytes = {0};
  ingot_step_plan copy = {0};
  make_models(c);
  check_ok(case_plan(c, "io = { striping_factor = 3; striping_unit = 65536; hints = { cb_nodes = 2; romio_cb_write = "
                        "\"enable\"; }; };" JOB(
                            "method = \"ties\"; base = \"base\"; models = ( { model = \"a\"; weight = [1.0, 2.0]; }, { "
                            "model = \"b\"; weight = 3.0; } );")));
  const ingot_step_plan *plan = &c->planner.steps[0];
  check_ok(ingot_step_plan_pack(plan, &bytes));
  check_ok(ingot_step_plan_unpack(bytes.bytes, bytes.size, &copy));
  const ingot_merge_plan *m = case_merge(c, 1), *n = &((const ingot_merge_body *)copy.body)->plan;
  assert_true(n->fingerprint == m->fingerprint);
  assert_ptr_equal(n->method, m->method);
  assert_int_equal(n->n_tile, m->n_tile);
  assert_int_equal(n->n_tensor, m->n_tensor);
  assert_string_equal(n->sink.path, m->sink.path);
  assert_int_equal(n->sink.n_file, m->sink.n_file);
  assert_int_equal(n->sink.files[0].size, m->sink.files[0].size);
  assert_string_equal(n->sink.attributes[1].text, m->sink.attributes[1].text);
  assert_int_equal(n->sink.io.n_stripe, 3);
  assert_int_equal(n->sink.io.stripe_bytes, 65536);
  assert_int_equal(n->sink.io.n_hint, 2);
  assert_string_equal(n->sink.io.hints[0].value, "2");
  assert_string_equal(n->sink.io.hints[1].name, "romio_cb_write");
  for (int i = 0; i < m->n_tensor; i++) {
    const ingot_merge_tensor *a = &m->tensors[i], *b = &n->tensors[i];
    assert_string_equal(a->view.name, b->view.name);
    assert_memory_equal(a->view.per_model, b->view.per_model,
                        2 * (size_t)ingot_method_n_param(m->method, INGOT_PARAM_PER_MODEL) * sizeof(double));
    assert_memory_equal(a->source, b->source, 3 * sizeof(int));
    assert_memory_equal(a->tensor, b->tensor, 3 * sizeof(int));
    assert_int_equal(n->sink.tensors[i].dtype, m->sink.tensors[i].dtype);
  }
  ingot_step_plan_release(&copy);
  for (size_t cut = 0; cut < bytes.size; cut += 37) { /* never beyond the end */
    ingot_step_plan broken = {0};
    assert_int_not_equal(ingot_step_plan_unpack(bytes.bytes, cut, &broken), INGOT_OK);
    ingot_step_plan_release(&broken);
  }
  ingot_text_release(&bytes);
}

/* A later step is planned from what the earlier one will write. */
static void test_promise(void **state)
{
  driver_case *c = *state;
  make_models(c);
  check_ok(
      case_plan(c, MODELS
                "steps = ( { type = \"merge\"; name = \"m\"; output = \"out/x.h5\"; dtype = \"float16\"; " LINEAR_AB
                "},"
                "{ type = \"export\"; model = \"m\"; output = \"hf\"; } );"));
  const ingot_step_plan *export = &c->planner.steps[1];
  assert_false(export->ready);
  assert_int_equal(export->sink.n_tensor, LAYERS4_COUNT);
  assert_int_equal(export->sink.tensors[0].dtype, INGOT_DTYPE_F16);
  assert_int_equal(export->sink.n_file, 1);
  assert_non_null(strstr(export->sink.files[0].bytes, "\"dtype\": \"float16\"")); /* changed by the merge */
  /* What is wrong with the promise is found now, not after the first step has run. */
  static const char *const small[] = {"w:F32:2"};
  case_model(c, "small", "{}", small, 1);
  check_fails(
      case_plan(c, "models = { a = \"a\"; b = \"b\"; s = \"small\"; }; steps = ("
                   "{ type = \"merge\"; name = \"m\"; output = \"out/x.h5\"; " LINEAR_AB "},"
                   "{ type = \"merge\"; method = \"linear\"; models = ( \"m\", \"s\" ); parameters = { weight = 1.0; };"
                   "  tied = \"keep\"; output = \"y.h5\"; } );"),
      INGOT_ERR_MISMATCH, "tensor " EMBED " is missing in \"s\" (");
}

static void test_layer_names(void **state)
{
  static const struct {
    const char *name, *stack, *rest;
    int         index;
  } cases[] = {
      {"model.layers.12.mlp.up_proj.weight", "model.layers", ".mlp.up_proj.weight", 12},
      {"transformer.h.0.attn.c_attn.bias", "transformer.h", ".attn.c_attn.bias", 0},
      {"bert.encoder.layer.3.output.dense.weight", "bert.encoder.layer", ".output.dense.weight", 3},
      {"encoder.block.5.layer.0.SelfAttention.q.weight", "encoder.block", ".layer.0.SelfAttention.q.weight", 5},
      {"h.7.ln_1.weight", "h", ".ln_1.weight", 7},
      {"model.layers.1.mlp.experts.4.w1.weight", "model.layers", ".mlp.experts.4.w1.weight", 1},
  };
  static const char *const outside[] = {"model.norm.weight", "layers",         "layers.3", "layers.x.w",
                                        "mylayers.3.w",      "lm_head.weight", "",         "layers.123456789.w"};
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    ingot_layer_name layer;
    assert_true(ingot_layer_parse(cases[i].name, &layer));
    assert_int_equal(layer.index, cases[i].index);
    assert_int_equal(layer.stack_length, strlen(cases[i].stack));
    assert_string_equal(layer.rest, cases[i].rest);
  }
  for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++) {
    ingot_layer_name layer;
    if (ingot_layer_parse(outside[i], &layer)) fail_msg("%s was taken for a layer", outside[i]);
  }
  assert_true(ingot_layer_is_before("model.embed_tokens.weight"));
  assert_true(ingot_layer_is_before("transformer.wte.weight"));
  assert_true(ingot_layer_is_before("bert.embeddings.LayerNorm.weight"));
  assert_false(ingot_layer_is_before("embed_out.weight"));
  assert_false(ingot_layer_is_before("model.norm.weight"));
  assert_false(ingot_layer_is_before("lm_head.weight"));
}

static void test_config(void **state)
{
  static const char text[] = "{\"z\": 1e-05, \"n_layer\": 2, \"num_hidden_layers\": 2, \"layer_types\": [\"full\", "
                             "\"slide\"], \"torch_dtype\": \"float32\", \"a\": {\"b\": [1]}}";
  ingot_text        written = {0}, out = {0};
  (void)state;
  check_ok(ingot_text_printf(&written, "%s", text));
  json_t             *config = json_loads(text, 0, NULL);
  ingot_config_slice  slices[] = {{config, 0, 2}, {config, 1, 1}};
  ingot_config_change change = {.slices = slices, .n_slice = 2, .new_dtype = true, .dtype = INGOT_DTYPE_BF16};
  check_ok(ingot_model_config_change(config, &change, &written, &out));
  json_t *got = json_loads(ingot_text_string(&out), 0, NULL);
  json_t *expected = json_loads(
      "{\"z\": 1e-05, \"n_layer\": 3, \"num_hidden_layers\": 3, \"layer_types\": [\"full\", \"slide\", \"slide\"],"
      "\"torch_dtype\": \"bfloat16\", \"a\": {\"b\": [1]}}",
      0, NULL);
  assert_true(json_equal(got, expected));
  json_decref(got);
  json_decref(expected);
  out.size = 0;
  change = (ingot_config_change){.new_dtype = true, .dtype = INGOT_DTYPE_F32};
  check_ok(ingot_model_config_change(config, &change, &written, &out));
  assert_string_equal(ingot_text_string(&out), text); /* nothing to change: byte for byte */
  json_decref(config);
  ingot_text_release(&written);
  ingot_text_release(&out);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, case_setup, case_teardown)
  const struct CMUnitTest tests[] = {
      CASE(test_linear),
      CASE(test_parameters),
      CASE(test_base_is_input_0),
      CASE(test_slices),
      CASE(test_slice_gradients),
      CASE(test_slice_errors),
      CASE(test_missing_tensor),
      CASE(test_extra_tensor),
      CASE(test_shape_mismatch),
      CASE(test_dtype_mismatch),
      CASE(test_missing_weight),
      CASE(test_zero_sum),
      CASE(test_missing_input),
      CASE(test_tied_heads),
      CASE(test_vocabularies),
      CASE(test_vocab_size),
      CASE(test_integers_are_copied),
      CASE(test_memory_limit),
      CASE(test_rank_memory),
      CASE(test_memory_beside_gpu),
      CASE(test_fingerprint),
      CASE(test_pack),
      CASE(test_promise),
      cmocka_unit_test(test_layer_names),
      cmocka_unit_test(test_config),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
