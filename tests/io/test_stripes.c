/* Stripes of a file: Lustre's attribute, byte for byte, and what is said of files that have others than asked for. */
#include "tests/check.h"

#include "io/stripes.h"

/* A lov_user_md of version 1 (magic 0x0BD10BD0): 12 stripes of 4 MiB, as a little-endian host has it. */
static const unsigned char plain[32] = {0xd0, 0x0b, 0xd1, 0x0b, 1, 0, 0, 0, 9, 9, 9,    9, 9,  9, 9, 9,
                                        9,    9,    9,    9,    9, 9, 9, 9, 0, 0, 0x40, 0, 12, 0, 3, 0};

static void lustre_layout(void **state)
{
  (void)state;
  ingot_stripes found = {.fs = INGOT_FS_LUSTRE};
  unsigned char other[32];
  assert_true(ingot_stripes_parse(plain, sizeof plain, &found));
  assert_true(found.known);
  assert_int_equal(found.n_stripe, 12);
  assert_int_equal(found.stripe_bytes, 4194304);
  assert_int_equal(found.fs, INGOT_FS_LUSTRE);
  memcpy(other, plain, sizeof other);
  other[2] = 0xd3; /* version 3: with the name of a pool behind */
  other[28] = 0x01;
  other[29] = 0x02;
  assert_true(ingot_stripes_parse(other, sizeof other, &found));
  assert_int_equal(found.n_stripe, 513);
}

static void no_plain_layout(void **state)
{
  (void)state;
  ingot_stripes found = {0};
  unsigned char other[32];
  assert_false(ingot_stripes_parse(plain, 31, &found));
  memcpy(other, plain, sizeof other);
  other[2] = 0xd6; /* composite */
  assert_false(ingot_stripes_parse(other, sizeof other, &found));
  memcpy(other, plain, sizeof other);
  other[28] = 0;
  assert_false(ingot_stripes_parse(other, sizeof other, &found));
  memcpy(other, plain, sizeof other);
  other[26] = 0;
  assert_false(ingot_stripes_parse(other, sizeof other, &found));
  assert_false(found.known);
}

static void look_at_nothing(void **state)
{
  (void)state;
  ingot_stripes found = {.fs = 7, .known = true};
  ingot_stripes_look("/nonexistent/file", &found);
  assert_false(found.known);
  assert_int_equal(found.fs, 0);
  ingot_stripes_look("/proc/self/stat", &found);
  assert_int_equal(found.fs, 0x9fa0); /* proc, by linux/magic.h */
}

/* The remark on a file; "" when there is none. */
static const char *remark(int64_t n, uint64_t bytes, const ingot_stripes *found, char text[512])
{
  ingot_text          t = {0};
  const ingot_sink_io asked = {.n_stripe = n, .stripe_bytes = bytes};
  check_ok(ingot_stripes_remark("o.h5", &asked, found, &t));
  snprintf(text, 512, "%s", t.size ? ingot_text_string(&t) : "");
  ingot_text_release(&t);
  return text;
}

static void remarks(void **state)
{
  (void)state;
  char                text[512];
  const ingot_stripes lustre = {INGOT_FS_LUSTRE, true, 8, 1 << 20}, hidden = {INGOT_FS_LUSTRE, false, 0, 0},
                      orange = {INGOT_FS_ORANGEFS, false, 0, 0}, panfs = {INGOT_FS_PANFS, false, 0, 0},
                      ext4 = {0xef53, false, 0, 0}, unknown = {0, false, 0, 0};
  assert_string_equal(remark(8, 0, &lustre, text), "");
  assert_string_equal(remark(8, 1 << 20, &lustre, text), "");
  assert_string_equal(remark(0, 0, &lustre, text), "");
  assert_non_null(strstr(remark(16, 0, &lustre, text),
                         "o.h5: striping_factor = 16 did not take effect: it has 8 of 1048576 bytes"));
  assert_non_null(
      strstr(remark(8, 1 << 22, &lustre, text), "striping_factor = 8 and striping_unit = 4194304 did not take effect"));
  assert_non_null(strstr(remark(0, 1 << 22, &lustre, text), "o.h5: striping_unit = 4194304 did not take effect"));
  assert_string_equal(remark(16, 0, &hidden, text), "");
  assert_string_equal(remark(16, 0, &orange, text), "");
  assert_string_equal(remark(16, 0, &panfs, text), "");
  assert_string_equal(remark(16, 0, &unknown, text), "");
  assert_string_equal(remark(0, 0, &ext4, text), "");
  assert_non_null(
      strstr(remark(16, 0, &ext4, text), "o.h5: striping_factor = 16 had no effect: its file system (type 0xef53)"));
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(lustre_layout),
      cmocka_unit_test(no_plain_layout),
      cmocka_unit_test(look_at_nothing),
      cmocka_unit_test(remarks),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
