#include "tests/check.h"

#include <stdlib.h>

#include "kernels/method.h"

static void test_descriptors_are_complete(void **state)
{
  (void)state;
  assert_true(ingot_method_count() >= 7);
  for (int i = 0; i < ingot_method_count(); i++) {
    const ingot_method *m = ingot_method_at(i);
    assert_true(m->name && m->summary && m->source && m->grain && m->cost && m->state_bytes && m->begin && m->apply);
    assert_true(m->min_models >= 1 && (m->max_models == 0 || m->max_models >= m->min_models));
    assert_ptr_equal(ingot_method_find(m->name), m);
    assert_int_equal(ingot_method_n_param(m, INGOT_PARAM_GLOBAL) + ingot_method_n_param(m, INGOT_PARAM_PER_MODEL),
                     m->n_param);
    for (int k = 0; k < m->n_param; k++) {
      const ingot_param_spec *p = &m->params[k];
      assert_true(p->name && p->help);
      assert_true((p->type == INGOT_PARAM_CHOICE) == (p->choices != NULL));
      if (!p->required) check_ok(ingot_param_check(p, p->default_value));
    }
  }
}

static void test_lookup(void **state)
{
  (void)state;
  const ingot_param_spec *spec = NULL;
  assert_null(ingot_method_find("tie"));
  assert_string_equal(ingot_method_nearest("task_aritmetic"), "task_arithmetic");
  const ingot_method *ties = ingot_method_find("ties");
  assert_int_equal(ingot_method_param(ties, "normalize", NULL), 0);
  assert_int_equal(ingot_method_param(ties, "density", &spec), 1);
  assert_string_equal(spec->name, "density");
  assert_int_equal(ingot_method_param(ties, "densities", NULL), -1);
}

/* Every method has a section in the documentation that names all its parameters. */
static void test_documented(void **state)
{
  (void)state;
  static char text[1 << 18];
  FILE       *f = fopen(INGOT_TEST_DIR "/../docs/methods.md", "rb");
  assert_non_null(f);
  text[fread(text, 1, sizeof text - 1, f)] = 0;
  fclose(f);
  for (int i = 0; i < ingot_method_count(); i++) {
    const ingot_method *m = ingot_method_at(i);
    char                heading[80];
    snprintf(heading, sizeof heading, "\n### %s\n", m->name);
    char *section = strstr(text, heading);
    if (!section) fail_msg("docs/methods.md has no section \"### %s\"", m->name);
    char *end = strstr(section + 4, "\n### ");
    for (int k = 0; k < m->n_param; k++) {
      char row[80];
      snprintf(row, sizeof row, "| `%s`", m->params[k].name);
      char *found = strstr(section, row);
      if (!found || (end && found > end)) fail_msg("docs/methods.md, %s: no row for `%s`", m->name, m->params[k].name);
    }
  }
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_descriptors_are_complete),
      cmocka_unit_test(test_lookup),
      cmocka_unit_test(test_documented),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
