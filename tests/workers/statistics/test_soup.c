/*
 * The search for a soup, through a scoring function of scalar models. Worked example: models 0, 1, 4, 2 and the score
 * 1 - |mean - 1.5| / 4 give .625, .875, .375, .875; with the second model 1, then the fourth, the mean is 1.5 and the
 * score 1.
 */
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

#include "workers/statistics/soup.h"

static const char *const names[] = {"a", "b", "c", "d"};

typedef struct scalars {
  double values[4];
  double bad; /* averages of this value have no finite score */
  int    n_call;
} scalars;

static ingot_status score(void *context, const int *members, int n_member, double *out)
{
  scalars *s = context;
  double   sum = 0.0;
  for (int i = 0; i < n_member; i++) sum += s->values[members[i]];
  sum /= n_member;
  s->n_call++;
  *out = sum == s->bad ? (double)NAN : 1.0 - fabs(sum - 1.5) / 4.0;
  return INGOT_OK;
}

static ingot_status stopping(void *context, const int *members, int n_member, double *out)
{
  scalars     *s = context;
  ingot_status st = score(context, members, n_member, out);
  return s->n_call == 5 ? ingot_fail(INGOT_STOPPED, "asked to stop") : st;
}

static void check_order(const int *found, const int *wanted, int n)
{
  for (int i = 0; i < n; i++) assert_int_equal(found[i], wanted[i]);
}

static void test_worked_example(void **state)
{
  (void)state;
  scalars    s = {{0, 1, 4, 2}, INFINITY, 0};
  ingot_soup soup;
  check_ok(ingot_soup_init(4, &soup));
  check_ok(ingot_soup_search(names, INGOT_SOUP_GREEDY, INGOT_SOUP_STRICT, score, &s, &soup));
  const double wanted[] = {0.625, 0.875, 0.375, 0.875};
  for (int i = 0; i < 4; i++) assert_true(soup.scores[i] == wanted[i]);
  check_order(soup.order, (const int[]){1, 3, 0, 2}, 4); /* equal scores as listed */
  assert_int_equal(soup.n_member, 2);
  check_order(soup.members, (const int[]){1, 3}, 2);
  assert_true(soup.score == 1.0);
  assert_int_equal(soup.n_trial, 3);
  assert_true(soup.trials[0].model == 3 && soup.trials[0].score == 1.0 && soup.trials[0].accepted);
  assert_true(soup.trials[1].model == 0 && soup.trials[1].score == 0.875 && !soup.trials[1].accepted);
  assert_int_equal(soup.trials[2].model, 2);
  assert_true(fabs(soup.trials[2].score - 19.0 / 24.0) < 1e-15); /* |7/3 - 3/2| = 5/6 */
  assert_false(soup.trials[2].accepted);
  assert_int_equal(s.n_call, ingot_soup_evaluations(4, INGOT_SOUP_GREEDY));
  for (int i = 0; i < 3; i++) assert_int_equal(soup.trials[i].evaluation, 4 + i);
  ingot_soup_release(&soup);
}

/* The same value again changes no score: `ge` takes it, `strict` does not. */
static void test_accept(void **state)
{
  (void)state;
  for (int accept = INGOT_SOUP_STRICT; accept <= INGOT_SOUP_GE; accept++) {
    scalars    s = {{4, 1, 1, 0}, INFINITY, 0};
    ingot_soup soup;
    check_ok(ingot_soup_init(4, &soup));
    check_ok(ingot_soup_search(names, INGOT_SOUP_GREEDY, (ingot_soup_accept)accept, score, &s, &soup));
    check_order(soup.order, (const int[]){1, 2, 3, 0}, 4);
    if (accept == INGOT_SOUP_STRICT) { /* {b}; c: 0.875 still; d: 0.75; a: 0.75 */
      assert_int_equal(soup.n_member, 1);
      check_order(soup.members, (const int[]){1}, 1);
      assert_true(soup.score == 0.875);
    } else { /* {b, c} at 1; d: 2/3 no; a: mean 2, |0.5|: 0.875 again, so taken */
      assert_int_equal(soup.n_member, 3);
      check_order(soup.members, (const int[]){1, 2, 0}, 3);
      assert_true(soup.score == 0.875);
    }
    ingot_soup_release(&soup);
  }
}

static void test_nan(void **state)
{
  (void)state;
  ingot_soup soup;
  scalars    s = {{0, 1, 4, 2}, 1.0, 0}; /* the second model is no use alone */
  check_ok(ingot_soup_init(4, &soup));
  check_ok(ingot_soup_search(names, INGOT_SOUP_GREEDY, INGOT_SOUP_GE, score, &s, &soup));
  check_order(soup.order, (const int[]){3, 0, 2, 1}, 4);
  assert_int_equal(soup.n_trial, 2); /* and is never tried */
  assert_true(isnan(soup.scores[1]));
  assert_false(soup.trials[0].accepted); /* (2 + 0) / 2 = 1: not finite */
  assert_int_equal(soup.n_member, 1);
  assert_int_equal(soup.members[0], 3);
  ingot_soup_release(&soup);
  s = (scalars){{1, 1, 1, 1}, 1.0, 0};
  check_ok(ingot_soup_init(4, &soup));
  check_fails(ingot_soup_search(names, INGOT_SOUP_GREEDY, INGOT_SOUP_STRICT, score, &s, &soup), INGOT_ERR_NUMERIC,
              "none of the 4 candidates has a finite score");
  ingot_soup_release(&soup);
}

static void test_uniform(void **state)
{
  (void)state;
  scalars    s = {{0, 1, 4, 2}, INFINITY, 0};
  ingot_soup soup;
  check_ok(ingot_soup_init(4, &soup));
  check_ok(ingot_soup_search(names, INGOT_SOUP_UNIFORM, INGOT_SOUP_STRICT, score, &s, &soup));
  assert_int_equal(soup.n_member, 4);
  check_order(soup.members, (const int[]){0, 1, 2, 3}, 4);
  check_order(soup.order, (const int[]){1, 3, 0, 2}, 4);
  assert_true(soup.score == 0.9375); /* mean 1.75 */
  assert_int_equal(s.n_call, ingot_soup_evaluations(4, INGOT_SOUP_UNIFORM));
  ingot_soup_release(&soup);
  s = (scalars){{0, 1, 4, 2}, 1.75, 0};
  check_ok(ingot_soup_init(4, &soup));
  check_fails(ingot_soup_search(names, INGOT_SOUP_UNIFORM, INGOT_SOUP_STRICT, score, &s, &soup), INGOT_ERR_NUMERIC,
              "average of all 4 candidates is not finite");
  ingot_soup_release(&soup);
}

static void test_stop(void **state)
{
  (void)state;
  scalars    s = {{0, 1, 4, 2}, INFINITY, 0};
  ingot_soup soup;
  check_ok(ingot_soup_init(4, &soup));
  check_fails(ingot_soup_search(names, INGOT_SOUP_GREEDY, INGOT_SOUP_STRICT, stopping, &s, &soup), INGOT_STOPPED,
              "asked to stop");
  assert_int_equal(soup.n_member, 1);
  ingot_soup_release(&soup);
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_worked_example), cmocka_unit_test(test_accept),
                                     cmocka_unit_test(test_nan), cmocka_unit_test(test_uniform),
                                     cmocka_unit_test(test_stop)};
  return cmocka_run_group_tests_name("soup", tests, NULL, NULL);
}
