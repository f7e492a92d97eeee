/* Choosing tokens without a model: draws against their distribution, truncation, beams of a worked teacher,
 * similarity. */
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

#include "workers/generate/beam.h"
#include "workers/generate/choose.h"
#include "workers/generate/similarity.h"

enum { N_VOCAB = 8, N_DRAW = 20000 };

static const float logits[N_VOCAB] = {0.5F, -1.0F, 2.0F, 0.0F, 1.5F, -3.0F, 2.0F, 1.0F};

/* Pearson's statistic of draws under `how` against probabilities p. */
static double statistic(const ingot_choice *how, const double *p)
{
  int     count[N_VOCAB] = {0};
  int32_t room[N_VOCAB];
  double  sum = 0.0;
  for (int i = 0; i < N_DRAW; i++) {
    int32_t id = ingot_choose_sample(how, N_VOCAB, logits, ingot_choose_uniform(7, i, 3), room);
    assert_in_range(id, 0, N_VOCAB - 1);
    count[id]++;
  }
  for (int v = 0; v < N_VOCAB; v++) {
    double expected = N_DRAW * p[v], off = count[v] - expected;
    if (p[v] > 0.0) sum += off * off / expected;
    else assert_int_equal(count[v], 0);
  }
  return sum;
}

/* Probabilities of the ids in `kept` at a temperature. */
static void softmax(double temperature, const int *kept, int n, double *p)
{
  double total = 0.0;
  for (int v = 0; v < N_VOCAB; v++) p[v] = 0.0;
  for (int i = 0; i < n; i++) total += exp((double)logits[kept[i]] / temperature);
  for (int i = 0; i < n; i++) p[kept[i]] = exp((double)logits[kept[i]] / temperature) / total;
}

/* 18.48, 9.21, 11.34: the 0.01 quantiles of chi-square with 7, 2 and 3 degrees of freedom. */
static void test_draws(void **state)
{
  static const int all[] = {0, 1, 2, 3, 4, 5, 6, 7}, three[] = {2, 6, 4}, four[] = {2, 6, 4, 7};
  double           p[N_VOCAB];
  (void)state;
  softmax(1.0, all, 8, p);
  assert_true(statistic(&(ingot_choice){1.0, 0, 1.0}, p) < 18.48);
  softmax(0.7, all, 8, p);
  assert_true(statistic(&(ingot_choice){0.7, 0, 1.0}, p) < 18.48);
  assert_true(statistic(&(ingot_choice){1.0, 0, 1.0}, p) > 100.0); /* it would tell */
  softmax(1.0, three, 3, p);
  assert_true(statistic(&(ingot_choice){1.0, 3, 1.0}, p) < 9.21);
  /* Cumulative probabilities in order: .295, .590, .769, .878, .943 */
  assert_true(statistic(&(ingot_choice){1.0, 0, 0.7}, p) < 9.21);
  softmax(1.0, four, 4, p);
  assert_true(statistic(&(ingot_choice){1.0, 0, 0.85}, p) < 11.34);
  /* Of the first four, .336, .672, .876: the fourth goes. */
  softmax(1.0, three, 3, p);
  assert_true(statistic(&(ingot_choice){1.0, 4, 0.8}, p) < 9.21);
}

static void test_edges(void **state)
{
  (void)state;
  int32_t     room[N_VOCAB], ids[3];
  const float bad[3] = {0.0F, NAN, 1.0F}, never[3] = {-INFINITY, 0.0F, -INFINITY}, none[2] = {-INFINITY, -INFINITY};
  assert_int_equal(ingot_choose_largest(N_VOCAB, logits), 2); /* equal ones: the smaller id */
  assert_int_equal(ingot_choose_sample(&(ingot_choice){1.0, 1, 1.0}, N_VOCAB, logits, 0.999, room), 2);
  assert_int_equal(ingot_choose_sample(&(ingot_choice){1.0, 0, 1e-9}, N_VOCAB, logits, 0.999, room), 2);
  assert_int_equal(ingot_choose_largest(3, bad), -1);
  assert_int_equal(ingot_choose_largest(2, none), -1);
  assert_int_equal(ingot_choose_sample(&(ingot_choice){1.0, 0, 1.0}, 3, bad, 0.5, room), -1);
  for (int i = 0; i < 20; i++)
    assert_int_equal(ingot_choose_sample(&(ingot_choice){1.0, 0, 1.0}, 3, never, (i + 0.5) / 20, room), 1);
  assert_int_equal(ingot_choose_best(N_VOCAB, logits, 3, ids, room), 3);
  assert_true(ids[0] == 2 && ids[1] == 6 && ids[2] == 4);
  /* A place's number depends on seed, sequence and place alone. */
  assert_true(ingot_choose_uniform(1, 5, 2) == ingot_choose_uniform(1, 5, 2));
  assert_true(ingot_choose_uniform(1, 5, 2) != ingot_choose_uniform(1, 5, 3));
  assert_true(ingot_choose_uniform(1, 5, 2) != ingot_choose_uniform(1, 6, 2));
  assert_true(ingot_choose_uniform(1, 5, 2) != ingot_choose_uniform(2, 5, 2));
}

/* ---- beams ---- */

/* A teacher of two steps with three tokens: p1 = (.5, .4, .1); p2 behind 0, 1, 2. The best pair is (1, 0) with 0.36,
 * the greedy one (0, 0) with 0.20. */
static const double first[3] = {.5, .4, .1}, second[3][3] = {{.4, .35, .25}, {.9, .05, .05}, {.2, .2, .6}};

static void search(ingot_beam *b, int width, double penalty)
{
  float           z[9];
  int32_t         room[6], from[9], token[9];
  ingot_beam_spec spec = {.width = width, .max_length = 2, .end = -1, .penalty = penalty};
  check_ok(ingot_beam_init(b, &spec));
  for (int v = 0; v < 3; v++) z[v] = (float)log(first[v]) + 5.0F; /* unnormalised */
  check_ok(ingot_beam_step(b, 3, z, NULL, 3, room, from, token));
  assert_false(b->over);
  assert_int_equal(b->n_run, width < 3 ? width : 3);
  for (int r = 0; r < b->n_run; r++) {
    assert_int_equal(from[r], 0);
    assert_int_equal(token[r], r);
    for (int v = 0; v < 3; v++) z[3 * r + v] = (float)log(second[token[r]][v]);
  }
  check_ok(ingot_beam_step(b, 3, z, NULL, 3, room, from, token));
  assert_true(b->over);
}

static void is_hypothesis(const ingot_hypothesis *h, int32_t a, int32_t b, double p)
{
  assert_int_equal(h->length, 2);
  assert_int_equal(h->tokens[0], a);
  assert_int_equal(h->tokens[1], b);
  assert_true(fabs(exp(h->sum) - p) < 1e-6);
}

static void test_two_steps(void **state)
{
  (void)state;
  ingot_beam b;
  search(&b, 1, 0.0);
  is_hypothesis(&b.done[0], 0, 0, 0.20);
  ingot_beam_release(&b);
  search(&b, 2, 0.0);
  is_hypothesis(&b.done[0], 1, 0, 0.36);
  is_hypothesis(&b.done[1], 0, 0, 0.20);
  ingot_beam_release(&b);
  search(&b, 9, 1.0); /* all of them */
  assert_int_equal(b.n_done, 9);
  is_hypothesis(&b.done[0], 1, 0, 0.36);
  is_hypothesis(&b.done[2], 0, 1, 0.175);
  is_hypothesis(&b.done[3], 0, 2, 0.125);
  is_hypothesis(&b.done[4], 2, 2, 0.06);
  assert_true(fabs(b.done[0].score - log(0.36) / 2) < 1e-6);
  ingot_beam_release(&b);
}

/* The same teacher by the best tokens of each row and their log-probabilities: the same hypotheses. */
static void test_best_rows(void **state)
{
  (void)state;
  const float     one[3] = {logf(.5F), logf(.4F), logf(.1F)};
  const float     two[9] = {logf(.4F),  logf(.35F), logf(.25F), logf(.9F), logf(.05F),
                            logf(.05F), logf(.6F),  logf(.2F),  logf(.2F)};
  const int32_t   id_one[3] = {0, 1, 2}, id_two[9] = {0, 1, 2, 0, 1, 2, 2, 0, 1};
  const float     bad[3] = {NAN, NAN, NAN};
  int32_t         from[3], token[3];
  ingot_beam      b, all;
  ingot_beam_spec spec = {.width = 3, .max_length = 2, .end = -1, .penalty = 1.0};
  check_ok(ingot_beam_init(&b, &spec));
  check_ok(ingot_beam_step(&b, 3, one, id_one, 3, NULL, from, token));
  assert_true(b.n_run == 3 && token[0] == 0 && token[1] == 1 && token[2] == 2);
  check_ok(ingot_beam_step(&b, 3, two, id_two, 3, NULL, from, token));
  search(&all, 3, 1.0);
  assert_int_equal(b.n_done, all.n_done);
  for (int i = 0; i < all.n_done; i++) {
    assert_memory_equal(b.done[i].tokens, all.done[i].tokens, 2 * sizeof(int32_t));
    assert_true(fabs(b.done[i].sum - all.done[i].sum) < 1e-6);
  }
  ingot_beam_start(&b);
  check_fails(ingot_beam_step(&b, 3, bad, id_one, 3, NULL, from, token), INGOT_ERR_NUMERIC, "not finite");
  ingot_beam_release(&b);
  ingot_beam_release(&all);
}

/* Token 0 ends. One that ended early waits for the others: with a length penalty they may become better, without one
 * they cannot. */
static void test_end(void **state)
{
  (void)state;
  const float     one[3] = {-0.51082563F, -0.91629073F, -INFINITY}; /* log .6, .4 */
  const float     two[6] = {-0.051293294F, -2.9957323F, -INFINITY,
                            -0.051293294F, -2.9957323F, -INFINITY}; /* log .95, .05 */
  int32_t         room[6], from[2], token[2];
  ingot_beam      b;
  ingot_beam_spec spec = {.width = 1, .max_length = 3, .end = 0, .penalty = 0.0};
  check_ok(ingot_beam_init(&b, &spec));
  check_ok(ingot_beam_step(&b, 3, one, NULL, 3, room, from, token));
  assert_true(b.over && b.n_done == 1 && b.done[0].ended && b.done[0].length == 1);
  ingot_beam_release(&b);
  spec.penalty = 2.0;
  check_ok(ingot_beam_init(&b, &spec));
  check_ok(ingot_beam_step(&b, 3, one, NULL, 3, room, from, token));
  assert_true(!b.over && b.n_run == 1 && token[0] == 1);
  check_ok(ingot_beam_step(&b, 3, two, NULL, 3, room, from, token)); /* log(.4 .95) / 4 = -.242 is better than -.511 */
  assert_true(b.done[0].length == 2 && b.done[0].tokens[0] == 1 && b.done[0].tokens[1] == 0);
  ingot_beam_release(&b);
}

/* A token without probability continues nothing, however many beams are free; a search whose only tokens end is
 * over. */
static void test_ruled_out(void **state)
{
  (void)state;
  const float one[4] = {-INFINITY, -0.69314718F, -INFINITY, -0.69314718F},
              two[8] = {0.0F, -INFINITY, -INFINITY, -INFINITY, 0.0F, -INFINITY, -INFINITY, -INFINITY};
  int32_t         room[8], from[3], token[3];
  ingot_beam      b;
  ingot_beam_spec spec = {.width = 3, .max_length = 4, .end = 0, .penalty = 0.0};
  check_ok(ingot_beam_init(&b, &spec));
  check_ok(ingot_beam_step(&b, 4, one, NULL, 4, room, from, token));
  assert_true(!b.over && b.n_run == 2 && token[0] == 1 && token[1] == 3);
  check_ok(ingot_beam_step(&b, 4, two, NULL, 4, room, from, token));
  assert_true(b.over && b.n_run == 0 && b.n_done == 2 && isfinite(b.done[1].score));
  ingot_beam_release(&b);
}

static void test_not_finite(void **state)
{
  (void)state;
  const float     z[3] = {0.0F, NAN, 0.0F};
  int32_t         room[6], from[1], token[1];
  ingot_beam      b;
  ingot_beam_spec spec = {.width = 1, .max_length = 2, .end = -1};
  check_ok(ingot_beam_init(&b, &spec));
  check_fails(ingot_beam_step(&b, 3, z, NULL, 3, room, from, token), INGOT_ERR_NUMERIC, "not finite");
  ingot_beam_release(&b);
}

/* ---- similarity ---- */

static void test_similarity(void **state)
{
  (void)state;
  static const int32_t gold[] = {1, 2, 3, 4, 5}, same[] = {1, 2, 3, 4, 5}, near[] = {1, 2, 3, 9}, far[] = {7, 8};
  assert_true(fabs(ingot_similarity_bleu(same, 5, gold, 5) - 1.0) < 1e-12);
  /* 1-grams 3 of 4; 2-grams 2 of 3, 3-grams 1 of 2, 4-grams 0 of 1, each with one more; brevity exp(1 - 5/4). */
  assert_true(fabs(ingot_similarity_bleu(near, 4, gold, 5) - exp(-0.25) * pow(0.75 * 0.75 * (2.0 / 3) * 0.5, 0.25)) <
              1e-12);
  assert_true(ingot_similarity_bleu(far, 2, gold, 5) <= 0.0);
  assert_true(ingot_similarity_bleu(NULL, 0, gold, 5) <= 0.0);
  assert_true(fabs(ingot_similarity_f1(near, 4, gold, 5) - 2.0 * 3 / 9) < 1e-12);
  static const int32_t twice[] = {2, 2, 2}; /* counted once */
  assert_true(fabs(ingot_similarity_f1(twice, 3, gold, 5) - 2.0 * 1 / 8) < 1e-12);
  assert_true(ingot_similarity_f1(far, 2, gold, 5) <= 0.0);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_draws),     cmocka_unit_test(test_edges),      cmocka_unit_test(test_two_steps),
      cmocka_unit_test(test_end),       cmocka_unit_test(test_ruled_out),  cmocka_unit_test(test_not_finite),
      cmocka_unit_test(test_best_rows), cmocka_unit_test(test_similarity),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
