/* Distillation losses and their gradients, a row at a time. T: the temperature; p, q: teacher and student at T. */
#include "kernels/nn/cpu.h"

#include <math.h>
#include <string.h>

#include "kernels/nn/cpu_math.h"
#include "kernels/nn/cpu_rows.h"

/* Less than this is not told from nothing by a stored top-k, nor by sums in float32. */
static const double least_tail = 1e-6;

/* A row of logits as a distribution at a temperature: exp((z - top) / T) / sum. */
typedef struct soft_row {
  const float *z;
  float        top, inverse; /* 1 / T */
  double       log_sum;      /* of exp((z - top) / T) */
  float        scale;        /* 1 / sum */
} soft_row;

/* What the loss is made of at one logit: both distributions, and log p - log q. */
typedef struct soft_pair {
  soft_row teacher, student;
  float    offset;     /* log p - log q = (t - z) / T - offset */
  float    logit_beta; /* of JSD: log(beta / (1 - beta)) */
} soft_pair;

static soft_row soften(int64_t n, const float *z, float temperature)
{
  soft_row row = {.z = z, .top = ingot_cpu_row_top(n, z), .inverse = 1 / temperature};
  double   sum = ingot_cpu_row_sum(n, z, row.top, row.inverse);
  row.log_sum = log(sum);
  row.scale = (float)(1 / sum);
  return row;
}

INGOT_INLINE float probability(const soft_row *row, int64_t i)
{
  return row->scale * ingot_cpu_exp((row->z[i] - row->top) * row->inverse);
}

/* log p - log q; both rule i out: not a number, and not used. */
INGOT_INLINE float log_ratio(const soft_pair *pair, int64_t i)
{
  return (pair->teacher.z[i] - pair->student.z[i]) * pair->teacher.inverse - pair->offset;
}

/* The share of the teacher in the mixture m = beta p + (1 - beta) q is the logistic function of this: log m is log q +
 * log(1 - beta) + softplus of it, and log p + log(beta) + softplus of minus it. */
INGOT_INLINE float share_of_teacher(const soft_pair *pair, int64_t i)
{
  return log_ratio(pair, i) + pair->logit_beta;
}

static INGOT_CLONES float forward_sum(int64_t n, int64_t first, const soft_pair *rows)
{
  const soft_pair pair = *rows; /* not what a pointer may change */
  float           sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = first; i < first + n; i++) {
    float p = probability(&pair.teacher, i), ratio = log_ratio(&pair, i);
    sum += p == 0 ? 0 : p * ratio;
  }
  return sum;
}

static INGOT_CLONES float reverse_sum(int64_t n, int64_t first, const soft_pair *rows)
{
  const soft_pair pair = *rows; /* not what a pointer may change */
  float           sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = first; i < first + n; i++) {
    float q = probability(&pair.student, i), ratio = log_ratio(&pair, i);
    sum += q == 0 ? 0 : -q * ratio;
  }
  return sum;
}

/* E_q of softplus(share), and at *teacher E_p of softplus(-share). */
static INGOT_CLONES float mixture_sum(int64_t n, int64_t first, const soft_pair *rows, float *teacher)
{
  const soft_pair pair = *rows; /* not what a pointer may change */
  float           student_sum = 0, teacher_sum = 0;
#pragma omp simd reduction(+ : student_sum, teacher_sum)
  for (int64_t i = first; i < first + n; i++) {
    float p = probability(&pair.teacher, i), q = probability(&pair.student, i), share = share_of_teacher(&pair, i);
    float below, above = ingot_cpu_softplus(share, &below);
    student_sum += q == 0 ? 0 : q * above;
    teacher_sum += p == 0 ? 0 : p * below;
  }
  *teacher = teacher_sum;
  return student_sum;
}

/* D(teacher, student) of a row; *mean gets what the gradient subtracts: E_q of its factor of q (minus it, for JSD). */
static double divergence(const ingot_nn_distill *loss, int64_t n, const soft_pair *pair, double *mean)
{
  double student = 0, teacher = 0;
  for (int64_t i = 0; i < n; i += INGOT_CPU_ROW_PIECE) {
    int64_t count = n - i < INGOT_CPU_ROW_PIECE ? n - i : INGOT_CPU_ROW_PIECE;
    float   part = 0;
    if (loss->divergence == INGOT_NN_FORWARD_KL) teacher += (double)forward_sum(count, i, pair);
    else if (loss->divergence == INGOT_NN_REVERSE_KL) student += (double)reverse_sum(count, i, pair);
    else student += (double)mixture_sum(count, i, pair, &part);
    teacher += (double)part;
  }
  *mean = student;
  if (loss->divergence != INGOT_NN_JSD) return student + teacher;
  const double beta = (double)loss->beta;
  return beta * (-log(beta) - teacher) + (1 - beta) * (-log1p(-beta) - student);
}

/* Gradient of D by z, times T; `mean` as divergence gives it. */
INGOT_INLINE float soft_slope(ingot_nn_divergence kind, const soft_pair *pair, float mean, int64_t i)
{
  float q = probability(&pair->student, i), other, slope;
  if (kind == INGOT_NN_FORWARD_KL) return q - probability(&pair->teacher, i);
  if (kind == INGOT_NN_REVERSE_KL) slope = q * (-log_ratio(pair, i) - mean);
  else slope = q * (mean - ingot_cpu_softplus(share_of_teacher(pair, i), &other));
  return q == 0 ? 0 : slope;
}

/* d = soft * slope + hard * exp(z - top): the cross-entropy's part lacks its label. Inlined for each kind, with and
 * without a hard part. */
INGOT_INLINE void gradient_loop(ingot_nn_divergence kind, bool with_hard, int64_t n, const soft_pair *rows, float mean,
                                float soft, float hard, float *d)
{
  const soft_pair pair = *rows;
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    float slope = soft * soft_slope(kind, &pair, mean, i);
    d[i] = with_hard ? slope + hard * ingot_cpu_exp(pair.student.z[i] - pair.student.top) : slope;
  }
}

static INGOT_CLONES void forward_gradient(int64_t n, const soft_pair *pair, float soft, float hard, float *d)
{
  if (hard == 0) gradient_loop(INGOT_NN_FORWARD_KL, false, n, pair, 0, soft, hard, d);
  else gradient_loop(INGOT_NN_FORWARD_KL, true, n, pair, 0, soft, hard, d);
}

static INGOT_CLONES void reverse_gradient(int64_t n, const soft_pair *pair, float mean, float soft, float hard,
                                          float *d)
{
  if (hard == 0) gradient_loop(INGOT_NN_REVERSE_KL, false, n, pair, mean, soft, hard, d);
  else gradient_loop(INGOT_NN_REVERSE_KL, true, n, pair, mean, soft, hard, d);
}

static INGOT_CLONES void mixture_gradient(int64_t n, const soft_pair *pair, float mean, float soft, float hard,
                                          float *d)
{
  if (hard == 0) gradient_loop(INGOT_NN_JSD, false, n, pair, mean, soft, hard, d);
  else gradient_loop(INGOT_NN_JSD, true, n, pair, mean, soft, hard, d);
}

/* One row's outputs; d NULL: no gradient. */
typedef struct row_job {
  const ingot_nn_distill *loss;
  const ingot_nn_logits  *z;
  int64_t                 row;
  int32_t                 label;
  float                  *soft, *nll, *d;
} row_job;

static row_job job_of(const ingot_nn_distill *loss, const ingot_nn_logits *z, int64_t row, const int32_t *labels,
                      float *soft, float *nll, void *d_logits)
{
  return (row_job){.loss = loss,
                   .z = z,
                   .row = row,
                   .label = labels[row],
                   .soft = soft ? soft + row : NULL,
                   .nll = nll ? nll + row : NULL,
                   .d = d_logits ? (float *)d_logits + row * z->ld : NULL};
}

static void ignore_row(const row_job *job)
{
  if (job->soft) *job->soft = 0;
  if (job->nll) *job->nll = 0;
  if (job->d) memset(job->d, 0, (size_t)job->z->ld * sizeof *job->d);
}

/* The cross-entropy. Without a soft part its gradient is complete, and the bits are cross_entropy's; otherwise the
 * factor of exp(z - top) is returned, for the caller to add with its own. */
static float hard_part(const row_job *job, float top)
{
  const float *z = job->z->data + job->row * job->z->ld;
  const float  share = 1 - job->loss->alpha;
  const bool   gradient = job->d && share != 0;
  if (!job->nll && !gradient) return 0;
  double sum = ingot_cpu_row_sum(job->z->n_vocab, z, top, 1);
  if (job->nll) *job->nll = (float)(log(sum) + ((double)top - (double)z[job->label]));
  if (job->d && job->loss->alpha == 0)
    ingot_cpu_row_gradient(job->z, job->row, job->label, job->loss->scale, top, sum, job->d);
  return gradient ? (float)((double)job->loss->scale * (double)share / sum) : 0;
}

/* After the gradient of the vocabulary: the label's, and zeros. */
static void finish_gradient(const row_job *job)
{
  job->d[job->label] -= (1 - job->loss->alpha) * job->loss->scale;
  memset(job->d + job->z->n_vocab, 0, (size_t)(job->z->ld - job->z->n_vocab) * sizeof *job->d);
}

static void distill_row(const row_job *job, const float *teacher)
{
  const ingot_nn_distill *loss = job->loss;
  const int64_t           n = job->z->n_vocab;
  const float            *z = job->z->data + job->row * job->z->ld;
  const float             hard = hard_part(job, ingot_cpu_row_top(n, z));
  const bool              gradient = job->d && loss->alpha != 0;
  double                  mean = 0, value = 0;
  if (!job->soft && !gradient) return;
  soft_pair pair = {.teacher = soften(n, teacher, loss->temperature), .student = soften(n, z, loss->temperature)};
  pair.offset = (float)(((double)pair.teacher.top - (double)pair.student.top) * (double)pair.teacher.inverse +
                        pair.teacher.log_sum - pair.student.log_sum);
  if (loss->divergence == INGOT_NN_JSD) pair.logit_beta = (float)(log((double)loss->beta) - log1p(-(double)loss->beta));
  if (job->soft || loss->divergence != INGOT_NN_FORWARD_KL) value = divergence(loss, n, &pair, &mean);
  if (job->soft) *job->soft = (float)(value * (double)loss->temperature * (double)loss->temperature);
  if (!gradient) return;
  const float soft = loss->scale * loss->alpha * loss->temperature;
  if (loss->divergence == INGOT_NN_FORWARD_KL) forward_gradient(n, &pair, soft, hard, job->d);
  else if (loss->divergence == INGOT_NN_REVERSE_KL) reverse_gradient(n, &pair, (float)mean, soft, hard, job->d);
  else mixture_gradient(n, &pair, (float)mean, soft * (1 - loss->beta), hard, job->d);
  finish_gradient(job);
}

ingot_status ingot_cpu_distill(ingot_nn *nn, const ingot_nn_distill *loss, const ingot_nn_logits *z,
                               const float *teacher, const int32_t *labels, float *soft, float *nll, void *d_logits)
{
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, z->n_row * z->n_vocab)) schedule(static)
  for (int64_t row = 0; row < z->n_row; row++) {
    row_job job = job_of(loss, z, row, labels, soft, nll, d_logits);
    if (job.label == INGOT_NN_IGNORE) ignore_row(&job);
    else distill_row(&job, teacher + row * z->ld);
  }
  return INGOT_OK;
}

/* ---- from a stored top-k ---- */

/* A teacher's row at T: p of a stored class is exp(logp / T) * scale; `tail` is what the others have together. */
typedef struct stored_row {
  const int32_t *ids;
  const float   *logp;
  int            k;
  double         scale, tail;
  float          inverse; /* 1 / T */
} stored_row;

/* The tail at T is that of a tail spread evenly over the n_other classes: n_other (rest / n_other)^(1 / T). */
static stored_row read_stored(const ingot_nn_top_k *teacher, int64_t row, int64_t n_other, float temperature)
{
  stored_row out = {.ids = teacher->ids + row * teacher->k,
                    .logp = teacher->logp + row * teacher->k,
                    .k = teacher->k,
                    .inverse = 1 / temperature};
  double     stored = 0, softened = 0, tail = 0;
  for (int i = 0; i < out.k; i++) {
    stored += exp((double)out.logp[i]);
    softened += exp((double)out.logp[i] / (double)temperature);
  }
  if (teacher->tail != INGOT_NN_TAIL_NONE && n_other > 0) {
    double rest = 1 - stored > least_tail ? 1 - stored : least_tail;
    tail = (double)n_other * pow(rest / (double)n_other, 1 / (double)temperature);
  }
  out.scale = 1 / (softened + tail);
  out.tail = tail * out.scale;
  return out;
}

static double stored_probability(const stored_row *row, int i)
{
  return exp((double)row->logp[i] * (double)row->inverse) * row->scale;
}

static double student_log(const soft_row *student, int64_t v)
{
  return ((double)student->z[v] - (double)student->top) * (double)student->inverse - student->log_sum;
}

/* KL over the stored classes; what the student gives them: *mass, and the sum of its log q: *logs. */
static double stored_divergence(const stored_row *teacher, const soft_row *student, double *mass, double *logs)
{
  double sum = 0;
  *mass = *logs = 0;
  for (int i = 0; i < teacher->k; i++) {
    double p = stored_probability(teacher, i), logq = student_log(student, teacher->ids[i]);
    if (p > 0) sum += p * ((double)teacher->logp[i] * (double)teacher->inverse + log(teacher->scale) - logq);
    *mass += exp(logq);
    *logs += logq;
  }
  return sum;
}

static double sum_of(int64_t n, const float *z)
{
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += (double)z[i];
  return sum;
}

/* d = soft (share q - each) + hard exp(z - top): the classes that are not stored. */
static INGOT_CLONES void tail_gradient(int64_t n, const soft_row *row, float share, float each, float soft, float hard,
                                       float *d)
{
  const soft_row student = *row;
  const bool     same = student.inverse == 1; /* one exponential serves both */
  if (same || hard == 0) {
    const float factor = soft * share * student.scale + (same ? hard : 0), offset = soft * each;
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
      d[i] = factor * ingot_cpu_exp((student.z[i] - student.top) * student.inverse) - offset;
    return;
  }
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    float q = probability(&student, i);
    d[i] = soft * (share * q - each) + hard * ingot_cpu_exp(student.z[i] - student.top);
  }
}

static void stored_gradient(const row_job *job, const stored_row *teacher, const soft_row *student, float share,
                            float each, float hard)
{
  const float soft = job->loss->scale * job->loss->alpha * job->loss->temperature;
  tail_gradient(job->z->n_vocab, student, share, each, soft, hard, job->d);
  for (int i = 0; i < teacher->k; i++) {
    const int64_t v = teacher->ids[i];
    const float   difference = probability(student, v) - (float)stored_probability(teacher, i);
    job->d[v] = soft * difference + hard * ingot_cpu_exp(student->z[v] - student->top);
  }
  finish_gradient(job);
}

static void stored_distill_row(const row_job *job, const ingot_nn_top_k *top_k)
{
  const ingot_nn_distill *loss = job->loss;
  const int64_t           n = job->z->n_vocab, n_other = n - top_k->k;
  const float            *z = job->z->data + job->row * job->z->ld;
  const float             hard = hard_part(job, ingot_cpu_row_top(n, z));
  double                  mass, logs, share = 1, each = 0;
  if (!job->soft && (!job->d || loss->alpha == 0)) return;
  stored_row teacher = read_stored(top_k, job->row, n_other, loss->temperature);
  soft_row   student = soften(n, z, loss->temperature);
  double     value = stored_divergence(&teacher, &student, &mass, &logs);
  if (teacher.tail > 0 && top_k->tail == INGOT_NN_TAIL_BUCKET) {
    const double rest = 1 - mass > least_tail ? 1 - mass : least_tail;
    value += teacher.tail * log(teacher.tail / rest);
    share = 1 - teacher.tail / rest;
  } else if (teacher.tail > 0) {
    each = teacher.tail / (double)n_other;
    if (job->soft) {
      double all =
          (sum_of(n, z) - (double)n * (double)student.top) * (double)student.inverse - (double)n * student.log_sum;
      value += teacher.tail * log(each) - each * (all - logs);
    }
  }
  if (job->soft) *job->soft = (float)(value * (double)loss->temperature * (double)loss->temperature);
  if (job->d && loss->alpha != 0) stored_gradient(job, &teacher, &student, (float)share, (float)each, hard);
}

ingot_status ingot_cpu_distill_top_k(ingot_nn *nn, const ingot_nn_distill *loss, const ingot_nn_logits *z,
                                     const ingot_nn_top_k *teacher, const int32_t *labels, float *soft, float *nll,
                                     void *d_logits)
{
  INGOT_ASSERT(teacher->k >= 1 && teacher->k <= z->n_vocab);
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, z->n_row * z->n_vocab)) schedule(static)
  for (int64_t row = 0; row < z->n_row; row++) {
    row_job job = job_of(loss, z, row, labels, soft, nll, d_logits);
    if (job.label == INGOT_NN_IGNORE) ignore_row(&job);
    else stored_distill_row(&job, teacher);
  }
  return INGOT_OK;
}
