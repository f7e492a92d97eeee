/* config.json: what is read, what is refused and how; parameters, frequencies and operations that follow. Counts of
 * parameters are those of the published models. */
#include <math.h>
#include <stdlib.h>

#include "tests/check.h"
#include "workers/model/model.h"

static void parse(const char *json, ingot_model_spec *spec)
{
  check_ok(ingot_model_spec_parse(json, strlen(json), "config.json", spec));
}

static int64_t count_params(const char *json)
{
  ingot_model_spec   spec;
  ingot_model_layout layout;
  int64_t            n = 0, end = 0;
  parse(json, &spec);
  check_ok(ingot_model_layout_make(&spec, &layout));
  for (int i = 0; i < layout.n_param; i++) {
    const ingot_model_param *p = &layout.params[i];
    int64_t                  n_elem;
    assert_true(ingot_shape_count(&p->shape, &n_elem));
    assert_int_equal(n_elem, p->n_elem);
    assert_true(p->offset >= end && p->offset < end + 128); /* in order, without overlap or large gaps */
    end = p->offset + p->n_elem;
    n += p->n_elem;
  }
  assert_true(layout.n_elem >= end && layout.n_elem % 128 == 0);
  assert_int_equal(ingot_model_elements(&spec), layout.n_elem);
  ingot_model_layout_release(&layout);
  ingot_model_spec_release(&spec);
  return n;
}

static const char llama31_8b[] =
    "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 128256,"
    " \"hidden_size\": 4096, \"intermediate_size\": 14336, \"num_hidden_layers\": 32, \"num_attention_heads\": 32,"
    " \"num_key_value_heads\": 8, \"rms_norm_eps\": 1e-05, \"rope_theta\": 500000.0, \"hidden_act\": \"silu\","
    " \"max_position_embeddings\": 131072, \"tie_word_embeddings\": false, \"torch_dtype\": \"bfloat16\","
    " \"rope_scaling\": {\"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0,"
    " \"original_max_position_embeddings\": 8192, \"rope_type\": \"llama3\"}}";
static const char mistral_7b[] =
    "{\"model_type\": \"mistral\", \"vocab_size\": 32000, \"hidden_size\": 4096, \"intermediate_size\": 14336,"
    " \"num_hidden_layers\": 32, \"num_attention_heads\": 32, \"num_key_value_heads\": 8, \"sliding_window\": 4096,"
    " \"rms_norm_eps\": 1e-05, \"rope_theta\": 10000.0, \"max_position_embeddings\": 32768}";
static const char qwen25_05b[] =
    "{\"model_type\": \"qwen2\", \"vocab_size\": 151936, \"hidden_size\": 896, \"intermediate_size\": 4864,"
    " \"num_hidden_layers\": 24, \"num_attention_heads\": 14, \"num_key_value_heads\": 2, \"max_window_layers\": 21,"
    " \"sliding_window\": 32768, \"use_sliding_window\": false, \"tie_word_embeddings\": true, \"rope_theta\": 1e6}";
static const char qwen3_06b[] =
    "{\"model_type\": \"qwen3\", \"vocab_size\": 151936, \"hidden_size\": 1024, \"intermediate_size\": 3072,"
    " \"num_hidden_layers\": 28, \"num_attention_heads\": 16, \"num_key_value_heads\": 8, \"head_dim\": 128,"
    " \"sliding_window\": null, \"use_sliding_window\": false, \"tie_word_embeddings\": true, \"rope_theta\": 1000000}";
static const char gpt2[] = "{\"model_type\": \"gpt2\", \"vocab_size\": 50257, \"n_embd\": 768, \"n_head\": 12,"
                           " \"n_layer\": 12, \"n_positions\": 1024, \"activation_function\": \"gelu_new\"}";

static void test_counts(void **state)
{
  (void)state;
  assert_int_equal(count_params(llama31_8b), 8030261248);
  assert_int_equal(count_params(mistral_7b), 7241732096);
  assert_int_equal(count_params(qwen25_05b), 494032768);
  assert_int_equal(count_params(qwen3_06b), 596049920);
  assert_int_equal(count_params(gpt2), 124439808);
}

static void test_fields(void **state)
{
  (void)state;
  ingot_model_spec s;
  parse(llama31_8b, &s);
  assert_string_equal(s.family, "llama");
  assert_int_equal(s.head_dim, 128);
  assert_int_equal(s.n_kv_head, 8);
  assert_int_equal(s.n_position, 131072);
  assert_true(s.gated && !s.tied && !s.qkv_bias && !s.o_bias && !s.qk_norm && !s.layer_norm && !s.conv1d);
  assert_int_equal(s.window, 0);
  assert_int_equal(s.rope.type, INGOT_ROPE_LLAMA3);
  assert_int_equal(s.rope.original_positions, 8192);
  ingot_model_spec_release(&s);
  ingot_model_spec_release(&s); /* safe twice */
  parse(mistral_7b, &s);
  assert_int_equal(s.window, 4096);
  assert_true(s.layer_windowed[0] && s.layer_windowed[31]);
  ingot_model_spec_release(&s);
  parse(qwen25_05b, &s);
  assert_int_equal(s.window, 0);
  assert_true(s.qkv_bias && !s.o_bias && s.tied && !s.layer_windowed[23]);
  ingot_model_spec_release(&s);
  parse(qwen3_06b, &s);
  assert_true(s.qk_norm && !s.qkv_bias && s.head_dim == 128);
  ingot_model_spec_release(&s);
  parse(gpt2, &s);
  assert_true(s.layer_norm && s.tied && s.learned_positions && s.conv1d && s.o_bias && s.mlp_bias && !s.gated);
  assert_int_equal(s.inner, 3072);
  ingot_model_spec_release(&s);
}

/* Keys that a small valid config of the family is completed with. */
#define SIZES                                                                                     \
  "\"vocab_size\": 67, \"hidden_size\": 32, \"intermediate_size\": 48, \"num_hidden_layers\": 2," \
  " \"num_attention_heads\": 4, \"num_key_value_heads\": 2"
#define LLAMA(more) "{\"model_type\": \"llama\", " SIZES more "}"
#define MISTRAL(more) "{\"model_type\": \"mistral\", " SIZES more "}"
#define QWEN2(more) "{\"model_type\": \"qwen2\", " SIZES more "}"
#define GPT2(more) \
  "{\"model_type\": \"gpt2\", \"vocab_size\": 67, \"n_embd\": 24, \"n_head\": 3, \"n_layer\": 2" more "}"
#define ROPE(more) LLAMA(", \"rope_parameters\": {" more "}")

static void test_spellings(void **state)
{
  (void)state;
  ingot_model_spec s;
  parse(LLAMA(", \"rope_theta\": 7, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}"), &s);
  assert_int_equal(s.rope.type, INGOT_ROPE_LINEAR);
  assert_true(s.rope.theta == 7 && s.rope.factor == 2);
  ingot_model_spec_release(&s);
  parse(ROPE("\"rope_theta\": 9, \"rope_type\": \"dynamic\", \"factor\": 3"), &s);
  assert_int_equal(s.rope.type, INGOT_ROPE_DYNAMIC);
  assert_true(s.rope.theta == 9 && s.rope.factor == 3);
  assert_int_equal(s.rope.original_positions, 2048);
  ingot_model_spec_release(&s);
  parse(QWEN2(", \"use_sliding_window\": true, \"sliding_window\": 5, \"layer_types\": [\"full_attention\","
              " \"sliding_attention\"], \"rope_parameters\": {\"full_attention\": {\"rope_theta\": 5},"
              " \"sliding_attention\": {\"rope_theta\": 5}}"),
        &s);
  assert_true(s.rope.theta == 5 && s.window == 5 && !s.layer_windowed[0] && s.layer_windowed[1]);
  ingot_model_spec_release(&s);
  parse(QWEN2(", \"use_sliding_window\": true, \"sliding_window\": 5, \"max_window_layers\": 1"), &s);
  assert_true(s.window == 5 && !s.layer_windowed[0] && s.layer_windowed[1]);
  ingot_model_spec_release(&s);
  parse(MISTRAL(", \"sliding_window\": null"), &s);
  assert_int_equal(s.window, 0);
  ingot_model_spec_release(&s);
  parse(MISTRAL(""), &s); /* as the class has it */
  assert_int_equal(s.window, 4096);
  ingot_model_spec_release(&s);
  parse(GPT2(", \"n_inner\": 40, \"tie_word_embeddings\": false"), &s);
  assert_true(s.inner == 40 && !s.tied && s.n_position == 1024);
  ingot_model_spec_release(&s);
}

static const struct {
  const char  *json;
  ingot_status status;
  const char  *text;
} refused[] = {
    {"{", INGOT_ERR_FORMAT, "config.json: broken JSON"},
    {"[]", INGOT_ERR_FORMAT, "an array instead of an object"},
    {"{}", INGOT_ERR_FORMAT, "no model_type"},
    {"{\"model_type\": 3}", INGOT_ERR_FORMAT, "model_type is an integer, not a string"},
    {"{\"model_type\": \"gemma2\"}", INGOT_ERR_MISMATCH,
     "model_type \"gemma2\" is not supported; supported: llama, mistral, qwen2, qwen3, gpt2"},
    {LLAMA(", \"architectures\": [\"LlamaForSequenceClassification\"]"), INGOT_ERR_MISMATCH,
     "architecture \"LlamaForSequenceClassification\" is not supported"},
    {"{\"model_type\": \"llama\"}", INGOT_ERR_FORMAT, "no vocab_size"},
    {"{\"model_type\": \"llama\", \"vocab_size\": \"67\"}", INGOT_ERR_FORMAT, "vocab_size is a string, not an integer"},
    {"{\"model_type\": \"llama\", \"vocab_size\": 0}", INGOT_ERR_FORMAT, "vocab_size is 0, not in 1 to"},
    {"{\"model_type\": \"llama\", \"vocab_size\": 67, \"hidden_size\": 30, \"intermediate_size\": 48,"
     " \"num_hidden_layers\": 2, \"num_attention_heads\": 4}",
     INGOT_ERR_FORMAT, "hidden_size 30 is not a multiple of num_attention_heads 4"},
    {"{\"model_type\": \"llama\", \"vocab_size\": 67, \"hidden_size\": 32, \"intermediate_size\": 48,"
     " \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 3}",
     INGOT_ERR_FORMAT, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"},
    {LLAMA(", \"head_dim\": 7"), INGOT_ERR_FORMAT, "head_dim 7 is odd"},
    {LLAMA(", \"hidden_act\": \"gelu\""), INGOT_ERR_MISMATCH, "hidden_act \"gelu\" is not supported; supported: silu"},
    {LLAMA(", \"rms_norm_eps\": 0"), INGOT_ERR_FORMAT, "epsilon of the norms is 0"},
    {LLAMA(", \"attention_bias\": 1"), INGOT_ERR_FORMAT, "attention_bias is an integer, not true or false"},
    {LLAMA(", \"pretraining_tp\": 2"), INGOT_ERR_MISMATCH, "pretraining_tp 2 is not supported"},
    {LLAMA(", \"quantization_config\": {}"), INGOT_ERR_MISMATCH, "quantization_config is not supported"},
    {LLAMA(", \"final_logit_softcapping\": 30.0"), INGOT_ERR_MISMATCH, "final_logit_softcapping is not supported"},
    {LLAMA(", \"partial_rotary_factor\": 0.5"), INGOT_ERR_MISMATCH, "partial_rotary_factor 0.5 is not supported"},
    {ROPE("\"partial_rotary_factor\": 0.5"), INGOT_ERR_MISMATCH, "rope_parameters.partial_rotary_factor 0.5"},
    {ROPE("\"rope_type\": \"longrope\", \"factor\": 2"), INGOT_ERR_MISMATCH, "rope_type \"longrope\" is not supported"},
    {ROPE("\"mrope_section\": [2, 1, 1]"), INGOT_ERR_MISMATCH, "rope_parameters.mrope_section is not supported"},
    {ROPE("\"rope_type\": \"linear\""), INGOT_ERR_FORMAT, "no rope_parameters.factor"},
    {ROPE("\"rope_type\": \"linear\", \"factor\": -1"), INGOT_ERR_FORMAT, "factor is -1, not positive"},
    {ROPE("\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 1"),
     INGOT_ERR_FORMAT, "high_freq_factor 1 is not above low_freq_factor 4"},
    {ROPE("\"rope_type\": \"yarn\", \"factor\": 8, \"beta_fast\": 1, \"beta_slow\": 4"), INGOT_ERR_FORMAT,
     "beta_fast 1"},
    {ROPE("\"rope_theta\": 0"), INGOT_ERR_FORMAT, "rope_theta is 0, not above 1"},
    {LLAMA(", \"rope_scaling\": 2"), INGOT_ERR_FORMAT, "rope_scaling is not an object"},
    {QWEN2(", \"rope_parameters\": {\"full_attention\": {\"rope_theta\": 5},"
           " \"sliding_attention\": {\"rope_theta\": 6}}"),
     INGOT_ERR_MISMATCH, "rope_parameters differs between layer types"},
    {QWEN2(", \"layer_types\": [\"full_attention\"]"), INGOT_ERR_FORMAT, "layer_types is not an array of"},
    {QWEN2(", \"layer_types\": [\"full_attention\", \"chunked_attention\"]"), INGOT_ERR_MISMATCH,
     "layer_types[1] \"chunked_attention\" is not supported"},
    {QWEN2(", \"layer_types\": [\"full_attention\", \"sliding_attention\"]"), INGOT_ERR_FORMAT,
     "layer_types[1] is sliding_attention, and there is no sliding_window"},
    {MISTRAL(", \"layer_types\": [\"sliding_attention\", \"full_attention\"]"), INGOT_ERR_MISMATCH,
     "all layers of mistral are alike"},
    {GPT2(", \"scale_attn_by_inverse_layer_idx\": true"), INGOT_ERR_MISMATCH,
     "scale_attn_by_inverse_layer_idx = true is not supported"},
    {GPT2(", \"scale_attn_weights\": false"), INGOT_ERR_MISMATCH, "scale_attn_weights = false is not supported"},
    {GPT2(", \"add_cross_attention\": true"), INGOT_ERR_MISMATCH, "add_cross_attention = true is not supported"},
    {GPT2(", \"activation_function\": \"relu\""), INGOT_ERR_MISMATCH, "activation_function \"relu\" is not supported"},
    {"{\"model_type\": \"gpt2\", \"vocab_size\": 67, \"n_embd\": 25, \"n_head\": 3, \"n_layer\": 2}", INGOT_ERR_FORMAT,
     "n_embd 25 is not a multiple of n_head 3"},
};

static void test_refused(void **state)
{
  (void)state;
  for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
    ingot_model_spec s;
    check_fails(ingot_model_spec_parse(refused[i].json, strlen(refused[i].json), "config.json", &s), refused[i].status,
                refused[i].text);
    assert_null(s.layer_windowed);
  }
}

/* Llama 3.1: of 64 frequencies 29 stay, 6 are blended, 29 are divided by 8. */
static void test_llama3_frequencies(void **state)
{
  (void)state;
  ingot_model_spec s;
  double           inv[64], factor;
  int              kept = 0, blended = 0, divided = 0;
  parse(llama31_8b, &s);
  ingot_model_rope_frequencies(&s, 100, inv, &factor);
  for (int j = 0; j < 64; j++) {
    const double ratio = inv[j] / pow(500000, -2.0 * j / 128);
    if (fabs(ratio - 1) < 1e-12) kept++;
    else if (fabs(ratio - 0.125) < 1e-12) divided++;
    else if (ratio > 0.125 && ratio < 1) blended++;
  }
  assert_int_equal(kept, 29);
  assert_int_equal(blended, 6);
  assert_int_equal(divided, 29);
  assert_true(factor == 1);
  ingot_model_spec_release(&s);
}

/* theta 1e6, 128 dimensions, factor 4, 32768 positions: the ramp runs from 23 to 40, and the factor is 1.138629. */
static void test_yarn_frequencies(void **state)
{
  (void)state;
  static const char json[] =
      "{\"model_type\": \"qwen2\", \"vocab_size\": 67, \"hidden_size\": 256, \"intermediate_size\": 48,"
      " \"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"num_key_value_heads\": 2, \"rope_theta\": 1000000.0,"
      " \"max_position_embeddings\": 32768, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0,"
      " \"original_max_position_embeddings\": 32768}}";
  ingot_model_spec s;
  double           inv[64], factor;
  parse(json, &s);
  ingot_model_rope_frequencies(&s, 100, inv, &factor);
  assert_true(fabs(factor - 1.138629) < 1e-6);
  for (int j = 0; j < 64; j++) {
    const double ratio = inv[j] / pow(1e6, -2.0 * j / 128);
    const double ramp = j < 23 ? 0 : j > 40 ? 1 : (j - 23) / 17.0;
    assert_true(fabs(ratio - (1 - ramp * 0.75)) < 1e-12);
  }
  ingot_model_spec_release(&s);
}

/* dim 8, factor 2, 10 positions, 24 in the window: theta' = 10000 (2 * 24 / 10 - 1)^(8/6). */
static void test_dynamic_frequencies(void **state)
{
  (void)state;
  ingot_model_spec s;
  double           inv[4], factor;
  parse(LLAMA(", \"max_position_embeddings\": 10, \"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}"), &s);
  ingot_model_rope_frequencies(&s, 24, inv, &factor);
  const double theta = 10000 * pow(3.8, 8.0 / 6.0);
  for (int j = 0; j < 4; j++) assert_true(fabs(inv[j] * pow(theta, 2.0 * j / 8) - 1) < 1e-12);
  ingot_model_rope_frequencies(&s, 10, inv, &factor);
  for (int j = 0; j < 4; j++) assert_true(fabs(inv[j] * pow(10000, 2.0 * j / 8) - 1) < 1e-12);
  check_ok(ingot_model_check_window(&s, "model", 1000000));
  ingot_model_spec_release(&s);
}

static void test_window_limit(void **state)
{
  (void)state;
  ingot_model_spec s;
  parse(gpt2, &s);
  check_ok(ingot_model_check_window(&s, "model", 1024));
  check_fails(ingot_model_check_window(&s, "model/x", 1025), INGOT_ERR_MISMATCH,
              "model/x: windows of 1025 tokens are longer than the model's 1024 positions");
  ingot_model_spec_release(&s);
  parse(LLAMA(", \"max_position_embeddings\": 10, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}"), &s);
  check_ok(ingot_model_check_window(&s, "model", 20));
  check_fails(ingot_model_check_window(&s, "model", 21), INGOT_ERR_MISMATCH, "longer than the model's 20 positions");
  ingot_model_spec_release(&s);
}

static void test_device_sizes(void **state)
{
  (void)state;
  ingot_model_spec s;
  parse(LLAMA(""), &s);
  check_ok(ingot_model_check_device(&s, "model"));
  s.head_dim = 12;
  check_fails(ingot_model_check_device(&s, "model/x"), INGOT_ERR_MISMATCH,
              "model/x: on a GPU, hidden size 32, feed-forward size 48 and head size 12 must be multiples of 8");
  s.head_dim = 264;
  check_fails(ingot_model_check_device(&s, "model"), INGOT_ERR_MISMATCH, "the head size at most 256");
  ingot_model_spec_release(&s);
}

/* By hand: hidden 32, q 32, k and v 16 each, inner 48, 2 layers, 67 words. */
static void test_flops(void **state)
{
  (void)state;
  ingot_model_spec s;
  parse(LLAMA(""), &s);
  const double matrices = 2.0 * 2 * (32 * 64 + 32 * 32 + 3 * 32 * 48), head = 2.0 * 32 * 67;
  const double attention = 2 * (4.0 * 32 * 100 / 2);
  assert_true(fabs(ingot_model_forward_flops(&s, 100, false) - matrices - attention) < 1e-6);
  assert_true(fabs(ingot_model_forward_flops(&s, 100, true) - matrices - attention - head) < 1e-6);
  ingot_model_spec_release(&s);
}

static void test_linears(void **state)
{
  (void)state;
  ingot_model_spec   s;
  ingot_model_layout layout;
  parse(QWEN2(", \"tie_word_embeddings\": true"), &s);
  check_ok(ingot_model_layout_make(&s, &layout));
  assert_int_equal(layout.n_linear, 9);
  const ingot_model_linear *qkv = &layout.linears[4], *head = &layout.linears[8];
  assert_string_equal(layout.params[qkv->first_param].name, "model.layers.1.self_attn.q_proj.weight");
  assert_string_equal(layout.params[qkv->first_param + 2].name, "model.layers.1.self_attn.v_proj.weight");
  assert_string_equal(layout.params[qkv->first_bias].name, "model.layers.1.self_attn.q_proj.bias");
  assert_true(qkv->n_param == 3 && qkv->n_in == 32 && qkv->n_out == 64 && qkv->layer == 1);
  /* one matrix: no gaps */
  assert_int_equal(layout.params[qkv->first_param + 1].offset - layout.params[qkv->first_param].offset, 32 * 32);
  assert_int_equal(layout.params[qkv->first_param + 2].offset - layout.params[qkv->first_param + 1].offset, 16 * 32);
  assert_string_equal(layout.params[head->first_param].name, "model.embed_tokens.weight");
  assert_true(head->layer == -1 && head->n_in == 32 && head->n_out == 67 && head->first_bias == -1);
  assert_int_equal(ingot_model_layout_find(&layout, INGOT_ROLE_HEAD, -1), -1);
  ingot_model_layout_release(&layout);
  ingot_model_spec_release(&s);
  parse(GPT2(""), &s);
  check_ok(ingot_model_layout_make(&s, &layout));
  const ingot_model_linear *c_attn = &layout.linears[0];
  assert_string_equal(layout.params[c_attn->first_param].name, "transformer.h.0.attn.c_attn.weight");
  assert_true(c_attn->n_param == 1 && c_attn->n_in == 24 && c_attn->n_out == 72);
  assert_true(layout.params[c_attn->first_param].transposed);
  assert_int_equal(layout.params[c_attn->first_param].shape.dim[0], 24);
  ingot_model_layout_release(&layout);
  ingot_model_spec_release(&s);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_counts),
      cmocka_unit_test(test_fields),
      cmocka_unit_test(test_spellings),
      cmocka_unit_test(test_refused),
      cmocka_unit_test(test_llama3_frequencies),
      cmocka_unit_test(test_yarn_frequencies),
      cmocka_unit_test(test_dynamic_frequencies),
      cmocka_unit_test(test_window_limit),
      cmocka_unit_test(test_device_sizes),
      cmocka_unit_test(test_flops),
      cmocka_unit_test(test_linears),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
