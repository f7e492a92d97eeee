/* base/dtype, base/shape, base/text, base/params, base/tile. */
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

#include "base/dtype.h"
#include "base/hash.h"
#include "base/params.h"
#include "base/shape.h"
#include "base/text.h"
#include "base/tile.h"

static void dtypes(void **state)
{
  (void)state;
  ingot_dtype d = INGOT_DTYPE_COUNT;
  assert_true(ingot_dtype_parse("bfloat16", &d));
  assert_int_equal(d, INGOT_DTYPE_BF16);
  assert_true(ingot_dtype_parse("F8_E4M3", &d));
  assert_int_equal(ingot_dtype_size(d), 1);
  assert_true(ingot_dtype_is_float(d));
  assert_false(ingot_dtype_parse("bf16x", &d));
  assert_int_equal(d, INGOT_DTYPE_F8_E4M3);
  assert_false(ingot_dtype_is_float(INGOT_DTYPE_BOOL));
  assert_int_equal(ingot_dtype_size(INGOT_DTYPE_I64), 8);
  assert_string_equal(ingot_dtype_long_name(INGOT_DTYPE_F16), "float16");
}

static void shapes(void **state)
{
  (void)state;
  char        text[INGOT_SHAPE_TEXT];
  int64_t     n = -1;
  ingot_shape scalar = {0}, matrix = {2, {3, 4}}, empty = {2, {INT64_MAX, 0}};
  ingot_shape huge = {2, {INT64_C(1) << 32, INT64_C(1) << 31}}, negative = {1, {-1}};
  assert_true(ingot_shape_count(&scalar, &n));
  assert_int_equal(n, 1);
  assert_true(ingot_shape_count(&matrix, &n));
  assert_int_equal(n, 12);
  assert_true(ingot_shape_count(&empty, &n));
  assert_int_equal(n, 0);
  assert_false(ingot_shape_count(&huge, &n));
  assert_false(ingot_shape_count(&negative, &n));
  assert_string_equal(ingot_shape_text(&matrix, text), "[3, 4]");
  assert_string_equal(ingot_shape_text(&scalar, text), "[]");
  assert_string_equal(ingot_shape_position(&matrix, 7, text), "[1, 3]");
  assert_true(ingot_shape_equal(&matrix, &matrix));
  assert_false(ingot_shape_equal(&matrix, &empty));
  assert_false(ingot_shape_equal(&matrix, &scalar));
}

static void nearest_names(void **state)
{
  (void)state;
  static const char *const names[] = {"linear", "slerp", "task_arithmetic"};
  assert_string_equal(ingot_nearest_name("linaer", names, 3), "linear");
  assert_string_equal(ingot_nearest_name("task_arithmatik", names, 3), "task_arithmetic");
  assert_null(ingot_nearest_name("quaternion", names, 3));
  assert_null(ingot_nearest_name("x", names, 0));
}

static void growing_text(void **state)
{
  (void)state;
  ingot_text t = {0};
  assert_string_equal(ingot_text_string(&t), "");
  for (int i = 0; i < 1000; i++) check_ok(ingot_text_printf(&t, "%03d,", i));
  assert_int_equal(t.size, 4000);
  assert_memory_equal(t.bytes + 3996, "999,", 5);
  check_ok(ingot_text_append(&t, "a\0b", 3));
  assert_int_equal(t.size, 4003);
  assert_int_equal(t.bytes[4003], 0);
  ingot_text_release(&t);
  assert_null(t.bytes);
}

static void byte_texts(void **state)
{
  (void)state;
  char text[32];
  assert_string_equal(ingot_bytes_text(312, text), "312 B");
  assert_string_equal(ingot_bytes_text(1536, text), "1.50 KiB");
  assert_string_equal(ingot_bytes_text((uint64_t)5 << 30, text), "5.00 GiB");
}

static const char *const      colours[] = {"red", "green", NULL};
static const ingot_param_spec density = {.name = "density",
                                         .type = INGOT_PARAM_REAL,
                                         .min = 0,
                                         .max = 1,
                                         .min_open = true};
static const ingot_param_spec weight = {.name = "weight", .type = INGOT_PARAM_REAL, .min = -INFINITY, .max = INFINITY};
static const ingot_param_spec rounds = {.name = "rounds", .type = INGOT_PARAM_INT, .min = 1, .max = INFINITY};
static const ingot_param_spec colour = {.name = "colour", .type = INGOT_PARAM_CHOICE, .choices = colours};
static const ingot_param_spec flag = {.name = "flag", .type = INGOT_PARAM_BOOL};

static void parameter_ranges(void **state)
{
  (void)state;
  check_ok(ingot_param_check(&density, 1.0));
  check_fails(ingot_param_check(&density, 0.0), INGOT_ERR_JOB, "density: 0 is outside (0, 1]");
  check_fails(ingot_param_check(&density, 1.5), INGOT_ERR_JOB, "density: 1.5 is outside (0, 1]");
  check_fails(ingot_param_check(&weight, NAN), INGOT_ERR_JOB, "weight: nan is outside the finite numbers");
  check_ok(ingot_param_check(&weight, -1e30));
  check_fails(ingot_param_check(&rounds, 1.5), INGOT_ERR_JOB, "rounds: 1.5 is not a whole number");
  check_fails(ingot_param_check(&rounds, 0), INGOT_ERR_JOB, "rounds: 0 is outside [1, inf)");
}

static void parameter_texts(void **state)
{
  (void)state;
  double     value = -1;
  ingot_text t = {0};
  check_ok(ingot_param_choice(&colour, "green", &value));
  assert_float_equal(value, 1.0, 0.0);
  check_fails(ingot_param_choice(&colour, "gren", &value), INGOT_ERR_JOB,
              "colour: \"gren\" is not one of red|green; did you mean \"green\"?");
  check_ok(ingot_param_value_text(&colour, 0, &t));
  check_ok(ingot_param_value_text(&flag, 1, &t));
  check_ok(ingot_param_value_text(&density, 0.5, &t));
  check_ok(ingot_param_type_text(&rounds, &t));
  assert_string_equal(ingot_text_string(&t), "redtrue0.5integer");
  ingot_text_release(&t);
  check_ok(ingot_param_value_text(&density, 0.9, &t));
  check_ok(ingot_text_printf(&t, " "));
  check_ok(ingot_param_value_text(&density, 1.0 / 3.0, &t));
  assert_string_equal(ingot_text_string(&t), "0.9 0.33333333333333331");
  ingot_text_release(&t);
}

/* Reference values: the packaged xxHash library's XXH3_64bits of the bytes i % 251. Lengths around the algorithm's
 * steps. */
static void hashes(void **state)
{
  (void)state;
  static const struct {
    size_t   n;
    uint64_t hash;
  } known[] = {{0, UINT64_C(0x2d06800538d394c2)},
               {3, UINT64_C(0x5f4299fc161c9cbb)},
               {240, UINT64_C(0x375a384d957fe865)},
               {241, UINT64_C(0x02e8cd95421c6d02)},
               {100003, UINT64_C(0xacf33ba3cf61e369)}};
  unsigned char *bytes = malloc(100003);
  assert_non_null(bytes);
  for (size_t i = 0; i < 100003; i++) bytes[i] = (unsigned char)(i % 251);
  for (size_t k = 0; k < sizeof known / sizeof *known; k++) assert_true(ingot_hash(bytes, known[k].n) == known[k].hash);
  free(bytes);
}

static void tiles(void **state)
{
  (void)state;
  assert_int_equal(ingot_tile_count(0), 0);
  assert_int_equal(ingot_tile_count(1), 1);
  assert_int_equal(ingot_tile_count(INGOT_TILE), 1);
  assert_int_equal(ingot_tile_count(INGOT_TILE + 1), 2);
  /* XXH3-64 of no bytes, from the xxHash specification's reference values. */
  assert_true(ingot_tensor_checksum(NULL, 0) == UINT64_C(0x2D06800538D394C2));
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(dtypes),          cmocka_unit_test(shapes),     cmocka_unit_test(nearest_names),
      cmocka_unit_test(growing_text),    cmocka_unit_test(byte_texts), cmocka_unit_test(parameter_ranges),
      cmocka_unit_test(parameter_texts), cmocka_unit_test(tiles),      cmocka_unit_test(hashes),
  };
  return cmocka_run_group_tests_name("base/values", tests, NULL, NULL);
}
