/*
 * Distillation losses and their gradients. A block works on a row. One reading of student and teacher gives both
 * distributions and the mean of their log-ratio, which is the loss (the Jensen-Shannon divergence needs another); a
 * second one, mostly from the cache, writes the gradient. T: the temperature; p, q: teacher and student at T.
 */
#include "kernels/nn/cuda_reduce.cuh"
#include "kernels/nn/cuda_rows.cuh"

enum { BLOCK = INGOT_NN_ROW_BLOCK, N_WARP = INGOT_NN_ROW_WARPS };

/** Less than this is not told from nothing by a stored top-k, nor by sums in float32. */
#define LEAST_TAIL 1e-6

static __device__ __forceinline__ float minus_infinity()
{
  return -cuda::std::numeric_limits<float>::infinity();
}

/**
 * Of some of a row's logits: the largest; sums of exp((z - largest) / T), of exp(z - largest), and of the first kind's
 * terms times what they are weighted for.
 */
struct soft_part {
  float largest, sum, hard, cross;
};

static __device__ __forceinline__ void raise(soft_part &s, float largest, float inverse)
{
  if (!(s.sum == 0.0f)) { /* NaN stays */
    float factor = expf((s.largest - largest) * inverse);
    s.sum *= factor;
    s.cross *= factor;
    s.hard *= expf(s.largest - largest);
  }
  s.largest = largest;
}

static __device__ __forceinline__ soft_part merge(soft_part a, soft_part b, float inverse)
{
  float largest = fmaxf(a.largest, b.largest);
  raise(a, largest, inverse);
  raise(b, largest, inverse);
  a.sum += b.sum;
  a.hard += b.hard;
  a.cross += b.cross;
  return a;
}

/** Over COUNT neighbouring lanes; every lane gets the same bits. */
template <int COUNT> static __device__ __forceinline__ soft_part merge_lanes(soft_part s, float inverse)
{
#pragma unroll
  for (int d = COUNT / 2; d > 0; d /= 2) {
    soft_part other = {__shfl_xor_sync(0xffffffffu, s.largest, d), __shfl_xor_sync(0xffffffffu, s.sum, d),
                       __shfl_xor_sync(0xffffffffu, s.hard, d), __shfl_xor_sync(0xffffffffu, s.cross, d)};
    s = merge(s, other, inverse);
  }
  return s;
}

/** Over the block, in a fixed order; every thread gets it. shared: [N_WARP]. */
static __device__ __forceinline__ soft_part merge_block(soft_part s, float inverse, soft_part *shared)
{
  s = merge_lanes<32>(s, inverse);
  __syncthreads(); /* the last call's values have been read */
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = s;
  __syncthreads();
  return merge_lanes<N_WARP>(shared[threadIdx.x % N_WARP], inverse);
}

/** Four logits of one row; `other`: the row that log-ratios are taken with. */
template <bool HARD, bool CROSS>
static __device__ __forceinline__ void add_four(soft_part &s, const float z[4], const float other[4], float inverse)
{
  float high = fmaxf(fmaxf(z[0], z[1]), fmaxf(z[2], z[3]));
  if (high > s.largest) raise(s, high, inverse);
  float from = s.largest == minus_infinity() ? 0.0f : s.largest;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    float e = expf((z[i] - from) * inverse);
    s.sum += e;
    if constexpr (CROSS) s.cross += e == 0.0f ? 0.0f : e * (z[i] - other[i]);
    if constexpr (HARD) s.hard += inverse == 1.0f ? e : expf(z[i] - from);
  }
}

/** What a row's numbers are made from. */
struct row_sums {
  float top_z, top_t;     /* largest logits of student and teacher */
  float scale_z, scale_t; /* 1 / sum at T */
  float hard;             /* sum of exp(z - top) */
  float offset;           /* log p - log q = (t - z) / T - offset */
  float mean;             /* KL(p || q) or KL(q || p); of JSD: see sum_mixture */
  float value;            /* the divergence */
};

template <ingot_nn_divergence KIND>
static __device__ __forceinline__ row_sums sum_rows(const float *z, const float *t, int64_t n, float inverse, bool wide,
                                                    soft_part *shared)
{
  soft_part student = {minus_infinity(), 0.0f, 0.0f, 0.0f}, teacher = student;
#pragma unroll 2
  for (int64_t at = threadIdx.x * 4; at < n; at += BLOCK * 4) {
    float v[4], w[4];
    ingot_nn_load_four(z + at, n - at, wide, v);
    ingot_nn_load_four(t + at, n - at, wide, w);
    add_four<true, KIND == INGOT_NN_REVERSE_KL>(student, v, w, inverse);
    add_four<false, KIND == INGOT_NN_FORWARD_KL>(teacher, w, v, inverse);
  }
  student = merge_block(student, inverse, shared);
  teacher = merge_block(teacher, inverse, shared);
  row_sums r = {};
  r.top_z = student.largest;
  r.top_t = teacher.largest;
  r.scale_z = 1.0f / student.sum;
  r.scale_t = 1.0f / teacher.sum;
  r.hard = student.hard;
  r.offset = (teacher.largest - student.largest) * inverse + (logf(teacher.sum) - logf(student.sum));
  if (KIND == INGOT_NN_FORWARD_KL) r.mean = teacher.cross * r.scale_t * inverse - r.offset;
  else r.mean = student.cross * r.scale_z * inverse + r.offset;
  r.value = r.mean;
  return r;
}

/** Of the mixture m = beta p + (1 - beta) q. */
struct mixture_weights {
  float beta, log_beta, log_rest; /* log_rest: of 1 - beta */
};

/** log(1 + exp(x)), and at other log(1 + exp(-x)); 0 for -inf */
static __device__ __forceinline__ float softplus(float x, float &other)
{
  float rest = log1pf(expf(-fabsf(x)));
  other = fmaxf(-x, 0.0f) + rest;
  return fmaxf(x, 0.0f) + rest;
}

/**
 * The divergence from the mixture, and r.mean = E_q softplus(share). share, the ratio plus log(beta / (1 - beta)): its
 * logistic function is the teacher's share in m; log m is log q + log(1 - beta) + softplus(share), and log p +
 * log(beta)
 * + softplus(-share).
 */
static __device__ __forceinline__ void sum_mixture(const float *z, const float *t, int64_t n, float inverse, bool wide,
                                                   const mixture_weights &w, row_sums &r, float2 *shared)
{
  float2 sums = make_float2(0.0f, 0.0f);
  for (int64_t at = threadIdx.x * 4; at < n; at += BLOCK * 4) {
    float v[4], u[4];
    ingot_nn_load_four(z + at, n - at, wide, v);
    ingot_nn_load_four(t + at, n - at, wide, u);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float q = r.scale_z * expf((v[i] - r.top_z) * inverse), p = r.scale_t * expf((u[i] - r.top_t) * inverse);
      float share = (u[i] - v[i]) * inverse - r.offset + (w.log_beta - w.log_rest);
      float below, above = softplus(share, below);
      if (!(q == 0.0f)) sums.x += q * above;
      if (!(p == 0.0f)) sums.y += p * below;
    }
  }
  sums = ingot_nn_sum_pair<BLOCK>(sums, shared);
  r.mean = sums.x;
  r.value = w.beta * (-w.log_beta - sums.y) + (1.0f - w.beta) * (-w.log_rest - sums.x);
}

/** Factors of the gradient: of dD/dz times T, of exp(z - top), and of the label. */
struct gradient_factors {
  float soft, hard, label;
};

static __device__ __forceinline__ gradient_factors factors_of(const ingot_nn_distill &loss, float hard_sum)
{
  float share = 1.0f - loss.alpha;
  return {loss.scale * loss.alpha * loss.temperature, share == 0.0f ? 0.0f : loss.scale * share / hard_sum,
          loss.scale * share};
}

static __device__ __forceinline__ float hard_gradient(const gradient_factors &f, float z, float top, bool is_label)
{
  float d = f.hard == 0.0f ? 0.0f : f.hard * expf(z - top);
  return is_label ? d - f.label : d;
}

template <ingot_nn_divergence KIND, typename T>
static __device__ __forceinline__ void write_gradient(const float *z, const float *t, int64_t n, int64_t ld,
                                                      float inverse, int32_t label, const row_sums &r,
                                                      const mixture_weights &w, gradient_factors f, bool wide, T *d)
{
  if (KIND == INGOT_NN_JSD) f.soft *= 1.0f - w.beta;
  for (int64_t at = threadIdx.x * 8; at < ld; at += BLOCK * 8) {
    float v[8], u[8];
    ingot_nn_load(z + at, n - at, wide, v);
    ingot_nn_load(t + at, n - at, wide, u);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      float q = r.scale_z * expf((v[i] - r.top_z) * inverse), slope, other;
      float ratio = (u[i] - v[i]) * inverse - r.offset;
      if (KIND == INGOT_NN_FORWARD_KL) slope = q - r.scale_t * expf((u[i] - r.top_t) * inverse);
      else if (q == 0.0f) slope = 0.0f;
      else if (KIND == INGOT_NN_REVERSE_KL) slope = q * (-ratio - r.mean);
      else slope = q * (r.mean - softplus(ratio + (w.log_beta - w.log_rest), other));
      float all = f.soft * slope + hard_gradient(f, v[i], r.top_z, at + i == label);
      v[i] = at + i < n ? all : 0.0f;
    }
    ingot_nn_store(d + at, ld - at, wide, v);
  }
}

/** A row without a label. */
template <typename T>
static __device__ __forceinline__ void clear_row(int64_t row, int64_t ld, bool wide, float *soft, float *nll, T *d)
{
  const float none[8] = {};
  if (threadIdx.x == 0 && soft != nullptr) soft[row] = 0.0f;
  if (threadIdx.x == 0 && nll != nullptr) nll[row] = 0.0f;
  if (d == nullptr) return;
  for (int64_t at = threadIdx.x * 8; at < ld; at += BLOCK * 8) ingot_nn_store(d + row * ld + at, ld - at, wide, none);
}

template <ingot_nn_divergence KIND, typename T>
static __global__ void __launch_bounds__(BLOCK)
    distill_kernel(ingot_nn_distill loss, ingot_nn_logits logits, const float *teacher,
                   const int32_t *__restrict__ labels, mixture_weights weights, float *soft, float *nll, T *d_logits,
                   bool wide)
{
  __shared__ soft_part shared[N_WARP];
  __shared__ float2    pairs[N_WARP];
  int64_t              row = blockIdx.x, n = logits.n_vocab, ld = logits.ld;
  const float         *z = logits.data + row * ld, *t = teacher + row * ld;
  int32_t              label = labels[row];
  float                inverse = 1.0f / loss.temperature;
  if (label == INGOT_NN_IGNORE) {
    clear_row(row, ld, wide, soft, nll, d_logits);
    return;
  }
  row_sums r = sum_rows<KIND>(z, t, n, inverse, wide, shared);
  if (KIND == INGOT_NN_JSD) sum_mixture(z, t, n, inverse, wide, weights, r, pairs);
  if (threadIdx.x == 0) {
    if (soft != nullptr) soft[row] = r.value * loss.temperature * loss.temperature;
    if (nll != nullptr) nll[row] = r.top_z - z[label] + logf(r.hard);
  }
  if (d_logits == nullptr) return;
  write_gradient<KIND>(z, t, n, ld, inverse, label, r, weights, factors_of(loss, r.hard), wide, d_logits + row * ld);
}

template <typename T>
static void launch_distill(ingot_nn_cuda *nn, const ingot_nn_distill *loss, const ingot_nn_logits *z,
                           const float *teacher, const int32_t *labels, float *soft, float *nll, T *d, bool wide)
{
  unsigned        grid = static_cast<unsigned>(z->n_row);
  mixture_weights w = {loss->beta, logf(loss->beta), log1pf(-loss->beta)};
  if (loss->divergence == INGOT_NN_FORWARD_KL) {
    distill_kernel<INGOT_NN_FORWARD_KL>
        <<<grid, BLOCK, 0, nn->stream>>>(*loss, *z, teacher, labels, w, soft, nll, d, wide);
  } else if (loss->divergence == INGOT_NN_REVERSE_KL) {
    distill_kernel<INGOT_NN_REVERSE_KL>
        <<<grid, BLOCK, 0, nn->stream>>>(*loss, *z, teacher, labels, w, soft, nll, d, wide);
  } else {
    distill_kernel<INGOT_NN_JSD><<<grid, BLOCK, 0, nn->stream>>>(*loss, *z, teacher, labels, w, soft, nll, d, wide);
  }
}

static bool rows_are_wide(const ingot_nn_logits *z, const float *teacher, const void *d)
{
  return z->ld % 8 == 0 && ingot_nn_wide(z->data, z->ld) && reinterpret_cast<uintptr_t>(teacher) % 16 == 0 &&
         reinterpret_cast<uintptr_t>(d) % 16 == 0;
}

/** Without a soft part, loss and gradient are cross_entropy's to the bit. What is left to do: *nll and *d_logits
 * NULL. */
static ingot_status hard_alone(ingot_nn *back_end, const ingot_nn_distill *loss, const ingot_nn_logits *z,
                               const int32_t *labels, float **nll, void **d_logits)
{
  if (loss->alpha != 0.0f || (*nll == nullptr && *d_logits == nullptr)) return INGOT_OK;
  ingot_status st = ingot_nn_cuda_cross_entropy(back_end, z, labels, loss->scale, *nll, nullptr, *d_logits);
  *nll = nullptr;
  *d_logits = nullptr;
  return st;
}

ingot_status ingot_nn_cuda_distill(ingot_nn *back_end, const ingot_nn_distill *loss, const ingot_nn_logits *z,
                                   const float *teacher, const int32_t *labels, float *soft, float *nll, void *d_logits)
{
  ingot_status   st = INGOT_OK;
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  bool           wide = rows_are_wide(z, teacher, d_logits);
  if (z->n_row == 0) return INGOT_OK;
  INGOT_TRY(hard_alone(back_end, loss, z, labels, &nll, &d_logits));
  if (soft == nullptr && nll == nullptr && d_logits == nullptr) goto done;
  if (nn->head.dtype == INGOT_DTYPE_BF16) {
    launch_distill(nn, loss, z, teacher, labels, soft, nll, static_cast<__nv_bfloat16 *>(d_logits), wide);
  } else {
    launch_distill(nn, loss, z, teacher, labels, soft, nll, static_cast<float *>(d_logits), wide);
  }
  INGOT_TRY(ingot_nn_cuda_launched("distill_kernel"));
done:
  return st;
}

/* ---- from a stored top-k ---- */

struct three {
  double a, b, c;
};

/** Over the block, in a fixed order; every thread gets it. shared: [N_WARP]. */
static __device__ __forceinline__ three sum_three(three v, three *shared)
{
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {
    v.a += __shfl_xor_sync(0xffffffffu, v.a, d);
    v.b += __shfl_xor_sync(0xffffffffu, v.b, d);
    v.c += __shfl_xor_sync(0xffffffffu, v.c, d);
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
  __syncthreads();
  v = shared[0];
  for (int w = 1; w < N_WARP; w++) v.a += shared[w].a, v.b += shared[w].b, v.c += shared[w].c;
  return v;
}

/** A teacher's row at T: p of a stored class is exp(logp / T) * scale; `tail` is what the others have together. */
struct stored_row {
  const int32_t *ids;
  const float   *logp;
  int            k;
  double         inverse, scale, tail;
};

static __device__ __forceinline__ stored_row read_stored(const ingot_nn_top_k &teacher, int64_t row, int64_t n_other,
                                                         double inverse, three *shared)
{
  stored_row out = {teacher.ids + row * teacher.k, teacher.logp + row * teacher.k, teacher.k, inverse, 0.0, 0.0};
  three      sums = {0.0, 0.0, 0.0};
  for (int i = static_cast<int>(threadIdx.x); i < out.k; i += BLOCK) {
    double logp = static_cast<double>(out.logp[i]);
    sums.a += exp(logp);
    sums.b += exp(logp * inverse);
  }
  sums = sum_three(sums, shared);
  if (teacher.tail != INGOT_NN_TAIL_NONE && n_other > 0) {
    double rest = 1.0 - sums.a > LEAST_TAIL ? 1.0 - sums.a : LEAST_TAIL, others = static_cast<double>(n_other);
    out.tail = others * pow(rest / others, inverse);
  }
  out.scale = 1.0 / (sums.b + out.tail);
  out.tail *= out.scale;
  return out;
}

/** The student's row: exp((z - top) / T) / sum. */
struct student_row {
  const float *z;
  float        top, inverse, scale, hard;
  double       log_sum, sum_z; /* sum_z: of z - top over the vocabulary, where it is wanted */
};

static __device__ __forceinline__ student_row read_student(const float *z, int64_t n, float inverse, bool sum_wanted,
                                                           bool wide, soft_part *shared, three *triples)
{
  soft_part s = {minus_infinity(), 0.0f, 0.0f, 0.0f};
  three     sums = {0.0, 0.0, 0.0};
  for (int64_t at = threadIdx.x * 4; at < n; at += BLOCK * 4) {
    float v[4];
    ingot_nn_load_four(z + at, n - at, wide, v);
    add_four<true, false>(s, v, v, inverse);
    if (!sum_wanted) continue;
#pragma unroll
    for (int i = 0; i < 4; i++) sums.a += at + i < n ? static_cast<double>(v[i]) : 0.0;
  }
  s = merge_block(s, inverse, shared);
  if (sum_wanted) sums = sum_three(sums, triples);
  student_row out = {z, s.largest, inverse, 1.0f / s.sum, s.hard, log(static_cast<double>(s.sum)), 0.0};
  out.sum_z = sums.a - static_cast<double>(n) * static_cast<double>(s.largest);
  return out;
}

/** Of the stored classes: KL, what the student gives them, and the sum of its log q. */
static __device__ __forceinline__ three sum_stored(const stored_row &t, const student_row &s, three *shared)
{
  three  sums = {0.0, 0.0, 0.0};
  double log_scale = log(t.scale);
  for (int i = static_cast<int>(threadIdx.x); i < t.k; i += BLOCK) {
    double logp = static_cast<double>(t.logp[i]) * t.inverse + log_scale, p = exp(logp);
    double logq = (static_cast<double>(s.z[t.ids[i]]) - static_cast<double>(s.top)) * t.inverse - s.log_sum;
    if (p > 0.0) sums.a += p * (logp - logq);
    sums.b += exp(logq);
    sums.c += logq;
  }
  return sum_three(sums, shared);
}

/** First as if nothing were stored: soft (share q - each); then the stored classes. */
template <typename T>
static __device__ __forceinline__ void write_stored_gradient(const stored_row &t, const student_row &s, int64_t n,
                                                             int64_t ld, int32_t label, float share, float each,
                                                             gradient_factors f, bool wide, T *d)
{
  for (int64_t at = threadIdx.x * 8; at < ld; at += BLOCK * 8) {
    float v[8];
    ingot_nn_load(s.z + at, n - at, wide, v);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      float q = s.scale * expf((v[i] - s.top) * s.inverse);
      float all = f.soft * (share * q - each) + hard_gradient(f, v[i], s.top, at + i == label);
      v[i] = at + i < n ? all : 0.0f;
    }
    ingot_nn_store(d + at, ld - at, wide, v);
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < t.k; i += BLOCK) {
    int32_t v = t.ids[i];
    float   z = s.z[v], p = static_cast<float>(exp(static_cast<double>(t.logp[i]) * t.inverse) * t.scale);
    float   q = s.scale * expf((z - s.top) * s.inverse);
    d[v] = ingot_nn_narrow<T>(f.soft * (q - p) + hard_gradient(f, z, s.top, v == label));
  }
}

template <typename T>
static __global__ void __launch_bounds__(BLOCK)
    distill_top_k_kernel(ingot_nn_distill loss, ingot_nn_logits logits, ingot_nn_top_k teacher,
                         const int32_t *__restrict__ labels, float *soft, float *nll, T *d_logits, bool wide)
{
  __shared__ soft_part shared[N_WARP];
  __shared__ three     triples[N_WARP];
  int64_t              row = blockIdx.x, n = logits.n_vocab, ld = logits.ld, n_other = n - teacher.k;
  int32_t              label = labels[row];
  double               inverse = 1.0 / static_cast<double>(loss.temperature), share = 1.0, each = 0.0;
  if (label == INGOT_NN_IGNORE) {
    clear_row(row, ld, wide, soft, nll, d_logits);
    return;
  }
  bool        even = teacher.tail == INGOT_NN_TAIL_UNIFORM;
  student_row s =
      read_student(logits.data + row * ld, n, 1.0f / loss.temperature, even && soft != nullptr, wide, shared, triples);
  stored_row t = read_stored(teacher, row, n_other, inverse, triples);
  three      sums = sum_stored(t, s, triples);
  double     value = sums.a;
  if (t.tail > 0.0 && !even) {
    double rest = 1.0 - sums.b > LEAST_TAIL ? 1.0 - sums.b : LEAST_TAIL;
    value += t.tail * log(t.tail / rest);
    share = 1.0 - t.tail / rest;
  } else if (t.tail > 0.0) {
    each = t.tail / static_cast<double>(n_other);
    value += t.tail * log(each) - each * (s.sum_z * inverse - static_cast<double>(n) * s.log_sum - sums.c);
  }
  if (threadIdx.x == 0) {
    if (soft != nullptr) soft[row] = static_cast<float>(value) * loss.temperature * loss.temperature;
    if (nll != nullptr) nll[row] = s.top - s.z[label] + logf(s.hard);
  }
  if (d_logits == nullptr) return;
  write_stored_gradient(t, s, n, ld, label, static_cast<float>(share), static_cast<float>(each),
                        factors_of(loss, s.hard), wide, d_logits + row * ld);
}

ingot_status ingot_nn_cuda_distill_top_k(ingot_nn *back_end, const ingot_nn_distill *loss, const ingot_nn_logits *z,
                                         const ingot_nn_top_k *teacher, const int32_t *labels, float *soft, float *nll,
                                         void *d_logits)
{
  ingot_status   st = INGOT_OK;
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  bool           wide = rows_are_wide(z, nullptr, d_logits);
  unsigned       grid = static_cast<unsigned>(z->n_row);
  INGOT_ASSERT(teacher->k >= 1 && teacher->k <= z->n_vocab);
  if (z->n_row == 0) return INGOT_OK;
  INGOT_TRY(hard_alone(back_end, loss, z, labels, &nll, &d_logits));
  if (soft == nullptr && nll == nullptr && d_logits == nullptr) goto done;
  if (nn->head.dtype == INGOT_DTYPE_BF16) {
    distill_top_k_kernel<<<grid, BLOCK, 0, nn->stream>>>(*loss, *z, *teacher, labels, soft, nll,
                                                         static_cast<__nv_bfloat16 *>(d_logits), wide);
  } else {
    distill_top_k_kernel<<<grid, BLOCK, 0, nn->stream>>>(*loss, *z, *teacher, labels, soft, nll,
                                                         static_cast<float *>(d_logits), wide);
  }
  INGOT_TRY(ingot_nn_cuda_launched("distill_top_k_kernel"));
done:
  return st;
}
