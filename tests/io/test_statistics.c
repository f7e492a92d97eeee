/* The JSON of statistics files: what is written is read back; every broken member is named; lookups by name. */
#define _GNU_SOURCE

#include "scratch.h"

#include "io/statistics.h"

static ingot_statistics_info example(void)
{
  static const ingot_statistics_data  data[] = {{"a \"b\".u16", 0x0123456789abcdefu, 7}, {"c.u16", 2, 0}};
  static const ingot_statistics_share shared[] = {{"l.0.k.weight", "l.0.q.weight"}, {"l.0.v.weight", "l.0.q.weight"}};
  static const char *const            transposed[] = {"h.0.c_attn.weight"};
  return (ingot_statistics_info){.kind = INGOT_STATISTICS_GRAM,
                                 .model_path = "models/de",
                                 .model_identity = 0xfedcba9876543210u,
                                 .n_example = 64,
                                 .n_token = 32768,
                                 .n_window_token = 512,
                                 .labels = INGOT_LABELS_SAMPLED,
                                 .loss = INGOT_LOSS_SUM,
                                 .data = data,
                                 .n_data = 2,
                                 .shared = shared,
                                 .n_shared = 2,
                                 .transposed = transposed,
                                 .n_transposed = 1};
}

static void test_round_trip(void **state)
{
  (void)state;
  ingot_text            json = {0};
  ingot_statistics_info info = example(), *back = NULL;
  assert_int_equal(ingot_statistics_write(&info, &json), INGOT_OK);
  assert_non_null(strstr(json.bytes, "\"identity\": \"fedcba9876543210\""));
  assert_int_equal(ingot_statistics_parse("x", json.bytes, json.size, &back), INGOT_OK);
  assert_int_equal(back->kind, INGOT_STATISTICS_GRAM);
  assert_string_equal(back->model_path, "models/de");
  assert_true(back->model_identity == info.model_identity);
  assert_int_equal(back->n_example, 64);
  assert_int_equal(back->n_token, 32768);
  assert_int_equal(back->n_window_token, 512);
  assert_int_equal(back->labels, INGOT_LABELS_SAMPLED);
  assert_int_equal(back->loss, INGOT_LOSS_SUM);
  assert_int_equal(back->n_data, 2);
  assert_string_equal(back->data[0].path, "a \"b\".u16");
  assert_true(back->data[0].identity == 0x0123456789abcdefu);
  assert_int_equal(back->data[0].n_window, 7);
  assert_int_equal(back->n_shared, 2);
  assert_string_equal(back->shared[1].name, "l.0.v.weight");
  assert_string_equal(back->shared[1].holder, "l.0.q.weight");
  assert_true(ingot_statistics_is_transposed(back, "h.0.c_attn.weight"));
  assert_false(ingot_statistics_is_transposed(back, "l.0.q.weight"));
  assert_false(ingot_statistics_is_transposed(NULL, "h.0.c_attn.weight"));
  ingot_statistics_free(&back);
  assert_null(back);
  ingot_text_release(&json);
}

/* The least that is accepted, with one member replaced. */
static void expect_bad(const char *member, const char *value, const char *message)
{
  static const struct {
    const char *name, *value;
  } members[] = {{"format", "1"},
                 {"kind", "\"fisher\""},
                 {"model", "{\"path\": \"m\", \"identity\": \"00000000000000ff\"}"},
                 {"examples", "1"},
                 {"tokens", "2"},
                 {"window", "3"},
                 {"labels", "\"given\""},
                 {"loss", "\"mean\""},
                 {"data", "[]"},
                 {"shared", "{}"},
                 {"transposed", "[]"}};
  ingot_text             json = {0};
  ingot_statistics_info *info = NULL;
  for (size_t i = 0; i < sizeof members / sizeof *members; i++)
    ingot_text_printf(&json, "%s\"%s\": %s", i ? ", " : "{", members[i].name,
                      strcmp(members[i].name, member) == 0 ? value : members[i].value);
  ingot_text_printf(&json, "}");
  ingot_status st = ingot_statistics_parse("f.json", json.bytes, json.size, &info);
  if (message) {
    assert_int_equal(st, INGOT_ERR_FORMAT);
    assert_message(ingot_error_message(), message);
    assert_null(info);
  } else {
    assert_int_equal(st, INGOT_OK);
  }
  ingot_statistics_free(&info);
  ingot_text_release(&json);
}

static void test_broken(void **state)
{
  (void)state;
  expect_bad("", "", NULL);
  expect_bad("format", "2", "f.json: \"format\" is 2, this program reads 1");
  expect_bad("kind", "\"hessian\"", "f.json: \"kind\" is \"hessian\", expected \"fisher\" or \"gram\"");
  expect_bad("model", "3", "f.json: \"model\" is an integer, expected an object");
  expect_bad("model", "{\"path\": \"m\", \"identity\": \"00\"}",
             "\"identity\" is \"00\", expected 16 hexadecimal digits");
  expect_bad("model", "{\"path\": \"m\", \"identity\": \"000000000000000G\"}", "expected 16 hexadecimal digits");
  expect_bad("model", "{\"identity\": \"0000000000000000\"}", "\"path\" is nothing, expected a string");
  expect_bad("examples", "-1", "\"examples\" is an integer, expected a whole number, not negative");
  expect_bad("tokens", "1.5", "\"tokens\" is a number with a fraction or exponent");
  expect_bad("window", "null", "\"window\" is null");
  expect_bad("labels", "\"true\"", "\"labels\" is \"true\", expected \"given\", \"sampled\" or \"exact\"");
  expect_bad("loss", "[]", "\"loss\" is an array, expected \"mean\" or \"sum\"");
  expect_bad("data", "{}", "\"data\" is an object, expected an array");
  expect_bad("data", "[1]", "\"data\" is an integer, expected an array of objects");
  expect_bad("shared", "{\"a\": 1}", "\"shared\" is an integer, expected an object of strings");
  expect_bad("transposed", "[1]", "\"transposed\" is an integer, expected an array of strings");
  ingot_statistics_info *info = NULL;
  assert_int_equal(ingot_statistics_parse("f.json", "[]", 2, &info), INGOT_ERR_FORMAT);
  assert_message(ingot_error_message(), "f.json: expected an object, found an array");
}

static int lookup(const void *context, const char *name)
{
  const char *const *names = context;
  for (int i = 0; names[i]; i++)
    if (strcmp(names[i], name) == 0) return i;
  return -1;
}

static int found(const ingot_statistics_info *info, const char *const *names, const char *name,
                 ingot_statistics_use use)
{
  int index = -2;
  assert_int_equal(ingot_statistics_find(info, lookup, names, name, use, &index), INGOT_OK);
  return index;
}

static void test_find(void **state)
{
  (void)state;
  const char *const     own[] = {"l.0.q.weight", "l.0.q.weight#output", "l.0.k.weight#output", "l.0.o", NULL};
  const char *const     other[] = {"l.0.q", "l.0.k.weight", "b", "l.0.k#output", NULL};
  ingot_statistics_info info = example();
  assert_int_equal(found(&info, own, "l.0.q.weight", INGOT_USE_GRAM), 0);
  assert_int_equal(found(&info, own, "l.0.k.weight", INGOT_USE_GRAM), 0);
  assert_int_equal(found(&info, own, "l.0.k.weight", INGOT_USE_OUTPUT_GRAM), 2);
  assert_int_equal(found(&info, own, "l.0.k.weight", INGOT_USE_FISHER), -1);
  assert_int_equal(found(&info, own, "l.0.o.weight", INGOT_USE_GRAM), -1);
  assert_int_equal(found(NULL, other, "l.0.q.weight", INGOT_USE_GRAM), 0);
  assert_int_equal(found(NULL, other, "l.0.k.weight", INGOT_USE_GRAM), 1);
  assert_int_equal(found(NULL, other, "l.0.k.weight", INGOT_USE_OUTPUT_GRAM), 3);
  assert_int_equal(found(NULL, other, "l.0.q.weight", INGOT_USE_FISHER), -1);
  assert_int_equal(found(NULL, other, "b", INGOT_USE_FISHER), 2);
}

static void test_width(void **state)
{
  (void)state;
  bool              packed = false;
  const ingot_shape cases[] = {{1, {6}},       {1, {7}}, {2, {5, 5}},      {2, {5, 4}},
                               {3, {1, 1, 1}}, {1, {0}}, {1, {102767616}}, {0, {0}}};
  const int64_t     expected[] = {3, -1, 5, -1, -1, 0, 14336, -1};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    assert_int_equal(ingot_gram_width(&cases[i], &packed), expected[i]);
    assert_int_equal(packed, cases[i].n_dim == 1);
  }
}

/* As a side file of a directory, and a directory without it. */
static void test_source(void **state)
{
  (void)state;
  scratch                folder;
  ingot_text             json = {0};
  ingot_source          *source = NULL;
  ingot_statistics_info *info = NULL, written = example();
  scratch_begin(&folder);
  scratch_safetensors(&folder, "model.safetensors", "{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
                      "", 0);
  assert_int_equal(ingot_source_open(folder.dir, &source), INGOT_OK);
  assert_int_equal(ingot_statistics_of_source(source, &info), INGOT_OK);
  assert_null(info);
  ingot_source_close(&source);
  assert_int_equal(ingot_statistics_write(&written, &json), INGOT_OK);
  scratch_text(&folder, "ingot_statistics.json", json.bytes);
  assert_int_equal(ingot_source_open(folder.dir, &source), INGOT_OK);
  assert_int_equal(ingot_statistics_of_source(source, &info), INGOT_OK);
  assert_int_equal(info->n_token, 32768);
  ingot_statistics_free(&info);
  ingot_source_close(&source);
  scratch_text(&folder, "ingot_statistics.json", "{");
  assert_int_equal(ingot_source_open(folder.dir, &source), INGOT_OK);
  assert_int_equal(ingot_statistics_of_source(source, &info), INGOT_ERR_FORMAT);
  assert_message(ingot_error_message(), folder.dir);
  assert_message(ingot_error_message(), ": ingot_statistics.json: broken JSON at line 1");
  ingot_source_close(&source);
  ingot_text_release(&json);
  scratch_end(&folder);
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_broken),
                                     cmocka_unit_test(test_find), cmocka_unit_test(test_width),
                                     cmocka_unit_test(test_source)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
