/*
 * Distillation: examples worked out in float64, gradients against differences of losses that are written here a second
 * time in float64, and what must hold for any rows.
 */
#include "tests/kernels/nn/nn_worked.h"

#include <stdlib.h>
#include <string.h>

#include "tests/kernels/nn/nn_cases.h"

enum { V = 4, MOST = 64 };
static const double  tolerance = 1e-6;
static const float   teacher4[V] = {3, 1, 0, -1}, student4[V] = {1, 1, 0, 0};
static const int32_t gold = 0;

typedef struct outcome {
  float soft, nll, d[MOST];
} outcome;

static ingot_nn_distill loss_of(ingot_nn_divergence divergence, float beta, float temperature, float alpha)
{
  return (ingot_nn_distill){divergence, beta, temperature, alpha, 1};
}

static outcome distill(ingot_nn *nn, ingot_nn_distill loss, int n, const float *z, const float *teacher, int32_t label)
{
  outcome               out;
  const ingot_nn_logits rows = {z, 1, n, n};
  memset(&out, 0x7f, sizeof out);
  check_ok(nn->ops->distill(nn, &loss, &rows, teacher, &label, &out.soft, &out.nll, out.d));
  return out;
}

static void check_loss(ingot_nn *nn, const char *what, ingot_nn_distill loss, const float *teacher, double value,
                       const double *gradient)
{
  const outcome out = distill(nn, loss, V, student4, teacher, gold);
  nn_worked_check(what, &out.soft, &value, 1, tolerance);
  nn_worked_check("nll", &out.nll, (const double[]){1.006409}, 1, tolerance);
  nn_worked_check(what, out.d, gradient, V, tolerance);
}

static void test_forward(void **state)
{
  ingot_nn *nn = *state;
  check_loss(nn, "T 1", loss_of(INGOT_NN_FORWARD_KL, 0, 1, 1), teacher4, 0.467912,
             (const double[]){-0.465423, 0.253072, 0.093100, 0.119251});
  check_loss(nn, "T 2", loss_of(INGOT_NN_FORWARD_KL, 0, 2, 1), teacher4, 0.645117,
             (const double[]){-0.536058, 0.196265, 0.119041, 0.220752});
  const outcome four = distill(nn, loss_of(INGOT_NN_FORWARD_KL, 0, 4, 1), V, student4, teacher4, gold);
  nn_worked_check("T 4", &four.soft, (const double[]){0.657239}, 1, tolerance);
  check_loss(nn, "half", loss_of(INGOT_NN_FORWARD_KL, 0, 2, 0.5f), teacher4, 0.645117,
             (const double[]){-0.585264, 0.280897, 0.126756, 0.177612});
  /* T to infinity: the difference of the logits, less their means, over V */
  const outcome far = distill(nn, loss_of(INGOT_NN_FORWARD_KL, 0, 1e4f, 1), V, student4, teacher4, gold);
  nn_worked_check("T 10^4", far.d, (const double[]){-0.4375, 0.0625, 0.0625, 0.3125}, V, 1e-3);
}

static void test_reverse(void **state)
{
  ingot_nn *nn = *state;
  check_loss(nn, "reverse", loss_of(INGOT_NN_REVERSE_KL, 0, 1, 1), teacher4, 0.582186,
             (const double[]){-0.512988, 0.218070, 0.080224, 0.214694});
}

static void test_jsd(void **state)
{
  ingot_nn *nn = *state;
  check_loss(nn, "0.1", loss_of(INGOT_NN_JSD, 0.1f, 1, 1), teacher4, 0.042174,
             (const double[]){-0.040926, 0.022106, 0.008132, 0.010688});
  check_loss(nn, "0.5", loss_of(INGOT_NN_JSD, 0.5f, 1, 1), teacher4, 0.121997,
             (const double[]){-0.110356, 0.057341, 0.021095, 0.031921});
  check_loss(nn, "0.9", loss_of(INGOT_NN_JSD, 0.9f, 1, 1), teacher4, 0.049477,
             (const double[]){-0.043408, 0.020171, 0.007421, 0.015817});
  /* at the end, the loss over beta is the forward KL */
  const outcome out = distill(nn, loss_of(INGOT_NN_JSD, 1e-4f, 1, 1), V, student4, teacher4, gold);
  const float   end = out.soft / 1e-4f;
  nn_worked_check("L / beta", &end, (const double[]){0.467865}, 1, 2e-5);
}

/* Teachers p and softmax(0, 2, 1, -1) by (0.6, 0.4): the mixture and the product as teachers, given unnormalised. */
static void test_ensemble_teacher(void **state)
{
  ingot_nn          *nn = *state;
  static const float other[V] = {0, 2, 1, -1};
  const float        linear[2] = {logf(0.6f), logf(0.4f)}, product[2] = {0.6f, 0.4f};
  float              mixed[V], geometric[V];
  double             average = 0, reverse = 0;
  for (int m = 0; m < 2; m++) {
    const ingot_nn_logits rows = {m ? other : teacher4, 1, V, V};
    check_ok(nn->ops->mix(nn, INGOT_NN_MIX_LINEAR, &rows, &linear[m], 0, m == 0, mixed));
    check_ok(nn->ops->mix(nn, INGOT_NN_MIX_LOG_LINEAR, &rows, &product[m], 0, m == 0, geometric));
    const outcome one = distill(nn, loss_of(INGOT_NN_FORWARD_KL, 0, 1, 1), V, student4, rows.data, gold);
    const outcome back = distill(nn, loss_of(INGOT_NN_REVERSE_KL, 0, 1, 1), V, student4, rows.data, gold);
    average += (double)product[m] * (double)one.soft;
    reverse += (double)product[m] * (double)back.soft;
  }
  check_loss(nn, "mixture", loss_of(INGOT_NN_FORWARD_KL, 0, 1, 1), mixed, 0.109638,
             (const double[]){-0.167900, 0.040489, 0.014895, 0.112516});
  assert_true(fabs(average - 0.411873) < 1e-6); /* 0.302234 above the mixture's */
  const outcome forward = distill(nn, loss_of(INGOT_NN_FORWARD_KL, 0, 1, 1), V, student4, geometric, gold);
  nn_worked_check("product", &forward.soft, (const double[]){0.083667}, 1, tolerance);
  const outcome back = distill(nn, loss_of(INGOT_NN_REVERSE_KL, 0, 1, 1), V, student4, geometric, gold);
  assert_true(fabs(reverse - 0.522824) < 1e-6);
  assert_true(fabs(reverse - ((double)back.soft + 0.405237)) < 1e-6);
}

/* ---- float64 twins ---- */

typedef struct teacher_rows {
  const float    *logits; /* whole rows, or */
  ingot_nn_top_k *top_k;
} teacher_rows;

static void log_softmax(int n, const double *z, double temperature, double *logp)
{
  double sum = 0, top = z[0];
  for (int i = 1; i < n; i++) top = fmax(top, z[i]);
  for (int i = 0; i < n; i++) sum += exp((z[i] - top) / temperature);
  for (int i = 0; i < n; i++) logp[i] = (z[i] - top) / temperature - log(sum);
}

/* log p at T of all classes, or of the stored ones and, last, of the rest as one class; returns their number. */
static int teacher_logp(const teacher_rows *teacher, int n, double temperature, double *logp, bool *stored)
{
  double z[MOST], rest = 1, sum = 0;
  memset(stored, teacher->top_k == NULL, MOST * sizeof *stored);
  if (!teacher->top_k) {
    for (int i = 0; i < n; i++) z[i] = (double)teacher->logits[i];
    log_softmax(n, z, temperature, logp);
    return n;
  }
  const ingot_nn_top_k *t = teacher->top_k;
  for (int i = 0; i < t->k; i++) {
    stored[t->ids[i]] = true;
    rest -= exp((double)t->logp[i]);
    logp[t->ids[i]] = (double)t->logp[i] / temperature;
    sum += exp(logp[t->ids[i]]);
  }
  const int n_other = n - t->k;
  for (int i = 0; i < n; i++)
    if (!stored[i]) logp[i] = t->tail == INGOT_NN_TAIL_NONE ? -INFINITY : log(rest / n_other) / temperature;
  if (t->tail != INGOT_NN_TAIL_NONE && n_other > 0) sum += n_other * pow(rest / n_other, 1 / temperature);
  for (int i = 0; i < n; i++) logp[i] -= log(sum);
  return n;
}

static double kl_term(double logp, double logq)
{
  return exp(logp) == 0 ? 0 : exp(logp) * (logp - logq);
}

/* D between rows of log-probabilities; classes that are not stored are one, where a bucket says so. */
static double divergence64(const ingot_nn_distill *loss, const teacher_rows *teacher, int n, const double *logp,
                           const double *logq, const bool *stored)
{
  const double beta = (double)loss->beta;
  const bool   bucket = teacher->top_k && teacher->top_k->tail == INGOT_NN_TAIL_BUCKET;
  double       sum = 0, rest_p = 0, rest_q = 0;
  for (int i = 0; i < n; i++) {
    const double m = log(beta * exp(logp[i]) + (1 - beta) * exp(logq[i]));
    if (!stored[i] && bucket) {
      rest_p += exp(logp[i]);
      rest_q += exp(logq[i]);
    } else if (loss->divergence == INGOT_NN_FORWARD_KL) {
      sum += kl_term(logp[i], logq[i]);
    } else if (loss->divergence == INGOT_NN_REVERSE_KL) {
      sum += kl_term(logq[i], logp[i]);
    } else {
      sum += beta * kl_term(logp[i], m) + (1 - beta) * kl_term(logq[i], m);
    }
  }
  return rest_p > 0 ? sum + rest_p * log(rest_p / rest_q) : sum;
}

static double loss64(const ingot_nn_distill *loss, const teacher_rows *teacher, int n, const double *z, int label,
                     double *soft)
{
  const double t = (double)loss->temperature;
  double       logp[MOST], logq[MOST], hard[MOST];
  bool         stored[MOST];
  teacher_logp(teacher, n, t, logp, stored);
  log_softmax(n, z, t, logq);
  log_softmax(n, z, 1, hard);
  *soft = t * t * divergence64(loss, teacher, n, logp, logq, stored);
  return (double)loss->alpha * *soft - (1 - (double)loss->alpha) * hard[label];
}

static void check_differences(ingot_nn *nn, const char *what, ingot_nn_distill loss, const teacher_rows *teacher, int n,
                              const float *z, int32_t label)
{
  const ingot_nn_logits rows = {z, 1, n, n};
  const double          step = 1e-5;
  outcome               out;
  double                wide[MOST], soft, expected[MOST];
  loss.scale = 0.25f;
  if (teacher->top_k)
    check_ok(nn->ops->distill_top_k(nn, &loss, &rows, teacher->top_k, &label, &out.soft, &out.nll, out.d));
  else check_ok(nn->ops->distill(nn, &loss, &rows, teacher->logits, &label, &out.soft, &out.nll, out.d));
  for (int i = 0; i < n; i++) wide[i] = (double)z[i];
  for (int i = 0; i < n; i++) {
    wide[i] += step;
    const double above = loss64(&loss, teacher, n, wide, label, &soft);
    wide[i] -= 2 * step;
    const double below = loss64(&loss, teacher, n, wide, label, &soft);
    wide[i] += step;
    expected[i] = 0.25 * (above - below) / (2 * step);
  }
  (void)loss64(&loss, teacher, n, wide, label, &soft);
  nn_worked_check(what, &out.soft, &soft, 1, 3e-6 * fmax(1, fabs(soft)));
  nn_worked_check(what, out.d, expected, n, 1e-6);
}

static const float temperatures[] = {1, 2, 0.75f}, alphas[] = {1, 0.5f, 0.125f};

static void test_differences(void **state)
{
  static const float betas[] = {0.5f, 0.1f, 0.9f};
  enum { N = 37 };
  float z[N], t[N];
  for (int i = 0; i < N; i++) {
    z[i] = 4 * nn_case_value(11, i);
    t[i] = 4 * nn_case_value(12, i);
  }
  const teacher_rows teacher = {t, NULL};
  for (ingot_nn_divergence d = INGOT_NN_FORWARD_KL; d <= INGOT_NN_JSD; d++)
    for (int i = 0; i < 9; i++) {
      char what[64];
      snprintf(what, sizeof what, "divergence %d, T %g, alpha %g", (int)d, (double)temperatures[i / 3],
               (double)alphas[i % 3]);
      check_differences(*state, what, loss_of(d, betas[i % 3], temperatures[i / 3], alphas[i % 3]), &teacher, N, z,
                        i % N);
    }
}

/* The k largest of a teacher's row. */
static void top_k_of(ingot_nn *nn, int n, const float *t, int k, int32_t *ids, float *logp)
{
  const ingot_nn_logits rows = {t, 1, n, n};
  check_ok(nn->ops->top_k(nn, &rows, k, ids, logp));
}

static void test_top_k_differences(void **state)
{
  enum { N = 37 };
  ingot_nn *nn = *state;
  float     z[N], t[N], logp[N];
  int32_t   ids[N];
  for (int i = 0; i < N; i++) {
    z[i] = 4 * nn_case_value(11, i);
    t[i] = 4 * nn_case_value(12, i);
  }
  for (ingot_nn_tail tail = INGOT_NN_TAIL_NONE; tail <= INGOT_NN_TAIL_UNIFORM; tail++)
    for (int i = 0; i < 9; i++) {
      ingot_nn_top_k     top_k = {3 + i, ids, logp, tail};
      const teacher_rows teacher = {NULL, &top_k};
      char               what[64];
      snprintf(what, sizeof what, "tail %d, T %g, alpha %g", (int)tail, (double)temperatures[i / 3],
               (double)alphas[i % 3]);
      top_k_of(nn, N, t, top_k.k, ids, logp);
      check_differences(nn, what, loss_of(INGOT_NN_FORWARD_KL, 0, temperatures[i / 3], alphas[i % 3]), &teacher, N, z,
                        i % 2 ? ids[1] : (ids[0] + 1) % N);
    }
}

/* Eight classes, three stored. */
static void test_top_k_worked(void **state)
{
  static const float  t[8] = {4, 3, 2, 1, 0, 0, -1, -1}, z[8] = {2, 2, 1, 1, 1, 0, 0, 0};
  static const double soft[3] = {0.513150, 0.317863, 0.325536};
  static const double gradient[3][8] = {
      {-0.380312, 0.040201, 0.014789, 0.104820, 0.104820, 0.038561, 0.038561, 0.038561},
      {-0.338859, 0.055450, 0.020399, 0.084742, 0.084742, 0.031175, 0.031175, 0.031175},
      {-0.338859, 0.055450, 0.020399, 0.092357, 0.092357, 0.026098, 0.026098, 0.026098},
  };
  ingot_nn              *nn = *state;
  const ingot_nn_logits  rows = {z, 1, 8, 8};
  const ingot_nn_distill loss = loss_of(INGOT_NN_FORWARD_KL, 0, 1, 1);
  int32_t                ids[3];
  float                  logp[3], got, d[8];
  top_k_of(nn, 8, t, 3, ids, logp);
  for (int tail = 0; tail < 3; tail++) {
    const ingot_nn_top_k top_k = {3, ids, logp, (ingot_nn_tail)tail};
    check_ok(nn->ops->distill_top_k(nn, &loss, &rows, &top_k, &gold, &got, NULL, d));
    nn_worked_check("soft", &got, &soft[tail], 1, tolerance);
    nn_worked_check("gradient", d, gradient[tail], 8, tolerance);
  }
  const outcome full = distill(nn, loss, 8, z, t, gold);
  nn_worked_check("full", &full.soft, (const double[]){0.325214}, 1, tolerance);
  nn_worked_check("full", full.d,
                  (const double[]){-0.338859, 0.055450, 0.020399, 0.073763, 0.093395, 0.027136, 0.034358, 0.034358}, 8,
                  tolerance);
  /* T 2, uniform tail: q - p of the three, with p = (0.372975, 0.226221, 0.137210) */
  const ingot_nn_distill two = loss_of(INGOT_NN_FORWARD_KL, 0, 2, 1);
  const ingot_nn_top_k   top_k = {3, ids, logp, INGOT_NN_TAIL_UNIFORM};
  double                 q[8], wide[8], expected[3];
  const double           p[3] = {0.372975, 0.226221, 0.137210};
  for (int i = 0; i < 8; i++) wide[i] = (double)z[i];
  log_softmax(8, wide, 2, q);
  for (int i = 0; i < 3; i++) expected[i] = 2 * (exp(q[i]) - p[i]);
  check_ok(nn->ops->distill_top_k(nn, &two, &rows, &top_k, &gold, NULL, NULL, d));
  nn_worked_check("T 2", d, expected, 3, 2e-6);
}

/* ---- what holds for any rows ---- */

/* Everything stored is the whole row, whatever is said of the rest. */
static void test_top_k_of_all(void **state)
{
  enum { N = 50 };
  ingot_nn *nn = *state;
  float     z[N], t[N], logp[N], soft, nll, d[N];
  int32_t   ids[N];
  for (int i = 0; i < N; i++) {
    z[i] = 5 * nn_case_value(3, i);
    t[i] = 5 * nn_case_value(4, i);
  }
  top_k_of(nn, N, t, N, ids, logp);
  for (int i = 0; i < 9; i++) {
    const ingot_nn_distill loss = loss_of(INGOT_NN_FORWARD_KL, 0, temperatures[i % 3], alphas[i / 3]);
    const outcome          dense = distill(nn, loss, N, z, t, 7);
    const ingot_nn_top_k   top_k = {N, ids, logp, (ingot_nn_tail)(i % 3)};
    const ingot_nn_logits  rows = {z, 1, N, N};
    const int32_t          label = 7;
    double                 expected[N];
    check_ok(nn->ops->distill_top_k(nn, &loss, &rows, &top_k, &label, &soft, &nll, d));
    for (int v = 0; v < N; v++) expected[v] = (double)dense.d[v];
    nn_worked_check("d", d, expected, N, 5e-7);
    assert_true(fabsf(soft - dense.soft) < 4e-6f && nll == dense.nll);
  }
}

/* The same rows: no loss, and no gradient but for roundings. alpha 0: cross_entropy bit for bit, also of rows that are
 * long. */
static void test_equal_and_hard(void **state)
{
  enum { WIDE = 2500 };
  static float          z[WIDE], t[WIDE], d[WIDE], expected[WIDE], logp[WIDE];
  static int32_t        ids[WIDE];
  ingot_nn             *nn = *state;
  const ingot_nn_logits rows = {z, 1, WIDE, WIDE};
  const int32_t         label = 1234;
  float                 soft, nll, expected_nll;
  for (int i = 0; i < WIDE; i++) {
    z[i] = 9 * nn_case_value(1, i);
    t[i] = 9 * nn_case_value(2, i);
  }
  for (ingot_nn_divergence kind = INGOT_NN_FORWARD_KL; kind <= INGOT_NN_JSD; kind++) {
    const ingot_nn_distill same = loss_of(kind, 0.5f, 2, 1);
    check_ok(nn->ops->distill(nn, &same, &rows, z, &label, &soft, NULL, d));
    if (kind != INGOT_NN_JSD) assert_true(soft == 0);
    assert_true(fabsf(soft) < 2e-6f); /* JSD: roundings of log 2, times T^2 */
    for (int i = 0; i < WIDE; i++) assert_true(fabsf(d[i]) < 5e-8f);
  }
  ingot_nn_distill hard = loss_of(INGOT_NN_FORWARD_KL, 0.5f, 2, 0);
  hard.scale = 0.3f;
  check_ok(nn->ops->cross_entropy(nn, &rows, &label, 0.3f, &expected_nll, NULL, expected));
  check_ok(nn->ops->distill(nn, &hard, &rows, t, &label, &soft, &nll, d));
  assert_true(nll == expected_nll && soft > 0.1f);
  assert_memory_equal(d, expected, sizeof d);
  memset(d, 0, sizeof d);
  top_k_of(nn, WIDE, t, 5, ids, logp);
  const ingot_nn_top_k top_k = {5, ids, logp, INGOT_NN_TAIL_BUCKET};
  check_ok(nn->ops->distill_top_k(nn, &hard, &rows, &top_k, &label, &soft, &nll, d));
  assert_true(nll == expected_nll);
  assert_memory_equal(d, expected, sizeof d);
}

/* A teacher that is sure: forward KL is the cross-entropy, reverse KL infinite, and JSD at most log 2. */
static void test_sure_teacher(void **state)
{
  ingot_nn          *nn = *state;
  static const float sure[V] = {0, -INFINITY, -INFINITY, -INFINITY}, z[V] = {-40, 1, 0, 0};
  const outcome      forward = distill(nn, loss_of(INGOT_NN_FORWARD_KL, 0, 1, 1), V, student4, sure, gold);
  assert_true(fabsf(forward.soft - forward.nll) < 1e-6f);
  nn_worked_check("d", forward.d, (const double[]){0.365529 - 1, 0.365529, 0.134471, 0.134471}, V, tolerance);
  const outcome reverse = distill(nn, loss_of(INGOT_NN_REVERSE_KL, 0, 1, 1), V, student4, sure, gold);
  assert_true(reverse.soft == INFINITY);
  const outcome apart = distill(nn, loss_of(INGOT_NN_JSD, 0.5f, 1, 1), V, z, sure, gold);
  nn_worked_check("log 2", &apart.soft, (const double[]){0.6931472}, 1, tolerance);
  const outcome there = distill(nn, loss_of(INGOT_NN_JSD, 0.5f, 1, 1), V, student4, teacher4, gold);
  const outcome back = distill(nn, loss_of(INGOT_NN_JSD, 0.5f, 1, 1), V, teacher4, student4, gold);
  assert_true(fabsf(there.soft - back.soft) < 1e-7f);
}

/* Rows without a label, NaN behind the vocabulary, and a bucket of a teacher and a student that leave nothing for
 * it. */
static void test_rows(void **state)
{
  ingot_nn              *nn = *state;
  const float            z[10] = {1, 1, 0, 0, NAN, 60, 1, 0, 0, NAN}, t[10] = {3, 1, 0, -1, NAN, 3, 1, 0, -1, NAN};
  const int32_t          labels[2] = {0, INGOT_NN_IGNORE}, both[2] = {0, 0}, ids[4] = {0, 1, 0, 1};
  const float            logp[4] = {0, -90, 0, -90};
  const ingot_nn_logits  rows = {z, 2, V, 5};
  const ingot_nn_distill loss = loss_of(INGOT_NN_FORWARD_KL, 0, 1, 1);
  float                  soft[2], nll[2], d[10];
  check_ok(nn->ops->distill(nn, &loss, &rows, t, labels, soft, nll, d));
  nn_worked_check("soft", soft, (const double[]){0.467912, 0}, 2, tolerance);
  nn_worked_check("nll", nll, (const double[]){1.006409, 0}, 2, tolerance);
  assert_true(d[4] == 0 && fabsf(d[0] + 0.465423f) < 1e-6f);
  for (int i = 5; i < 10; i++) assert_true(d[i] == 0);
  const ingot_nn_top_k top_k = {2, ids, logp, INGOT_NN_TAIL_BUCKET};
  check_ok(nn->ops->distill_top_k(nn, &loss, &rows, &top_k, labels, soft, nll, d));
  assert_true(soft[1] == 0 && nll[1] == 0 && d[4] == 0);
  for (int i = 5; i < 10; i++) assert_true(d[i] == 0);
  check_ok(nn->ops->distill_top_k(nn, &loss, &rows, &top_k, both, soft, nll, d));
  for (int i = 0; i < 10; i++) assert_true(isfinite(d[i]) && fabsf(d[i]) <= 1);
  assert_true(fabsf(soft[1]) < 1e-4f);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_forward),
      cmocka_unit_test(test_reverse),
      cmocka_unit_test(test_jsd),
      cmocka_unit_test(test_ensemble_teacher),
      cmocka_unit_test(test_differences),
      cmocka_unit_test(test_top_k_differences),
      cmocka_unit_test(test_top_k_worked),
      cmocka_unit_test(test_top_k_of_all),
      cmocka_unit_test(test_equal_and_hard),
      cmocka_unit_test(test_sure_teacher),
      cmocka_unit_test(test_rows),
  };
  return cmocka_run_group_tests(tests, nn_worked_open, nn_worked_close);
}
