/**
 * Task vectors: out = base + lambda * combination of masked, rescaled, weighted task vectors. Serves task_arithmetic,
 * ties, dare_linear and dare_ties. Input 0 is the base, input 1 + i is model i.
 *
 * Order of the float32 operations for one element, the same on CPU and GPU, none fused:
 *   for every model i, in order:
 *     tau   = x_i - base
 *     t     = kept by the model's mask (see below) ? tau : 0
 *     y_i   = weight_i * (scale_i * t)
 *   without vote:
 *     acc   = 0;  acc = acc + y_i  for every i;  if divide: acc = acc / divisor
 *   with vote:
 *     total = 0;  total = total + y_i  for every i
 *     elect + when total > 0, - when total < 0 or NaN, zero_sign when total == 0
 *     a model agrees when y_i > 0 (elected +) or y_i < 0 (elected -); zeros and NaN never agree
 *     acc   = 0;  acc = acc + y_i       for every agreeing i
 *     den   = 0;  den = den + weight_i  for every agreeing i
 *     if divide: acc = acc / (den == 0 ? 1 : den)
 *   out = base + lambda * acc
 *
 * Masks:
 *   ALL     kept
 *   CUT     key > threshold, or key == threshold and flat index < cut, with key = ingot_delta_key(tau). On the CPU
 * only, `nth` may be set: cut is then the first element of a block, and in that block the first nth elements whose key
 *           equals the threshold are kept as well
 *   RANDOM  ingot_philox_keep(stream, keep_below, flat index)
 */
#ifndef INGOT_KERNELS_FAMILIES_DELTA_H
#define INGOT_KERNELS_FAMILIES_DELTA_H

#include "kernels/convert_scalar.h"
#include "kernels/method.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { INGOT_MASK_ALL, INGOT_MASK_CUT, INGOT_MASK_RANDOM };

/** What a masked task vector is multiplied with: the values of the `rescale` parameters. */
enum { INGOT_RESCALE_NONE, INGOT_RESCALE_L1, INGOT_RESCALE_INV_DENSITY };

/** Key of a NaN: larger than that of infinity, so that a NaN sorts as the largest magnitude. */
#define INGOT_DELTA_KEY_MAX 0x7f800001u

/** The magnitude of a task vector's element as an integer of 31 bits, in the same order as the magnitudes. */
static inline INGOT_HOST_DEVICE uint32_t ingot_delta_key(float tau)
{
  uint32_t u = ingot_bits_of_f32(tau) & 0x7fffffffu;
  return u < INGOT_DELTA_KEY_MAX ? u : INGOT_DELTA_KEY_MAX;
}

typedef struct ingot_delta_model {
  float    weight;
  float    scale;     /* 1: none */
  uint32_t mask;      /* INGOT_MASK_ */
  uint32_t threshold; /* CUT: a key */
  union {
    int64_t  cut;        /* CUT */
    uint64_t keep_below; /* RANDOM: ingot_philox_threshold(density) */
  };
  union {
    uint64_t stream; /* RANDOM: ingot_philox_key of the tensor and the model */
    int64_t  nth;    /* CUT: see above; 0 on the GPU */
  };
} ingot_delta_model;

/** Plain memory: this header, then ingot_delta_model model[n_model], then what the method's summary needs. */
typedef struct ingot_delta_state {
  int32_t n_model;   /* at least 1 */
  int32_t vote;      /* 0 or 1: elect signs */
  int32_t zero_sign; /* +1 or -1: elected where the sum is 0 */
  int32_t divide;    /* 0 or 1 */
  float   divisor;   /* without vote; never 0 */
  float   lambda;
  int32_t rescale; /* INGOT_RESCALE_; with L1 the summary fills the models' scale */
  int32_t reserved;
  /* Random masks that the L1 pass has drawn (families/dare.h), or NULL: of the models one after the other in every
   * tile. */
  const unsigned char *masks;
  uint32_t             mask_tile_bytes, mask_model_bytes; /* from one tile's masks to the next, from one model's */
} ingot_delta_state;

static inline ingot_delta_model *ingot_delta_models(ingot_delta_state *s)
{
  return (ingot_delta_model *)(s + 1);
}

static inline const ingot_delta_model *ingot_delta_models_const(const ingot_delta_state *s)
{
  return (const ingot_delta_model *)(s + 1);
}

/** Bytes of the header and the models; a multiple of 16. */
size_t ingot_delta_state_bytes(int n_model);
/** ingot_method.apply of the family. */
void ingot_delta_apply(const ingot_method_tensor *t, const void *state, const ingot_chunk *c, float *out);
/** ingot_method.apply_bf16 of the family: false also for more than 8 models, and for a block in which a cut falls. */
bool ingot_delta_apply_bf16(const ingot_method_tensor *t, const void *state, int64_t first, int64_t n,
                            const void *const *in, void *out);

/**
 * y_i of one model for elements at .. at + n of a chunk.
 *
 * @param at  A multiple of INGOT_MASK_ROUND.
 * @param x  [c->n] the model's elements of the chunk; the base's are c->in[0]. Borrowed.
 * @param y  [n], filled.
 */
void ingot_delta_values(const ingot_delta_model *m, const ingot_chunk *c, const float *x, int64_t at, int64_t n,
                        float *y);

/**
 * The L1 summary. Slot of a tile: double sum[n_model][2], the sums of |tau| and of |kept ? tau : 0|, added up over
 * blocks (ingot_block_sum_abs) in block order; models with mask ALL are left at 0. From the sums S and K over the tiles
 * in tile order: scale = (float)(S / K) when both are at least 1e-7, else 1.
 */
size_t ingot_delta_l1_slot_bytes(int n_model);
/** True when some model has a mask other than ALL and the state asks for L1. */
bool ingot_delta_l1_needed(const ingot_delta_state *s);
void ingot_delta_l1_scan(const ingot_delta_state *s, const ingot_chunk *c, void *slot);
/** The same from bfloat16; false, and nothing added, when an input is NaN or infinite, or a model's mask is a cut. */
bool ingot_delta_l1_scan_bf16(const ingot_delta_state *s, int64_t first, int64_t n, const void *const *in, void *slot);
/** The same, and the masks that it draws are left at mask_bits[i * mask_model_bytes] for model i; NULL: they are
 * not. */
bool ingot_delta_l1_scan_masks(const ingot_delta_state *s, int64_t first, int64_t n, const void *const *in, void *slot,
                               unsigned char *mask_bits);
void ingot_delta_l1_finish(ingot_delta_state *s, const ingot_scan_result *result);

/** Pass number of the L1 summary in the plans of dare and ties. */
enum { INGOT_PASS_L1 = 100 };
/** tensor.next, scan and scan_bf16 of methods whose only summary is L1. A NULL result starts; slots as above. */
ingot_status ingot_delta_l1_next(const ingot_method_tensor *t, void *state, const ingot_scan_result *result,
                                 ingot_scan_plan *plan);
void         ingot_delta_l1_method_scan(const ingot_method_tensor *t, const void *state, const ingot_scan_plan *plan,
                                        const ingot_chunk *c, void *slot, int64_t *sums);
bool ingot_delta_l1_method_scan_bf16(const ingot_method_tensor *t, const void *state, const ingot_scan_plan *plan,
                                     int64_t first, int64_t n, const void *const *in, void *slot, int64_t *sums);

/** INGOT_ERR_JOB when weights that sum to (nearly) zero are to be divided by. weight_step: doubles between weights. */
ingot_status ingot_delta_check_weights(const ingot_method_tensor *t, int weight_step, bool normalize, double smallest);
/**
 * Fill header and models from parameters: weights at t->per_model[i * weight_step], no masks, scale 1.
 * The divisor is the float32 of the float64 sum of the weights.
 */
void ingot_delta_begin(const ingot_method_tensor *t, int weight_step, bool vote, bool normalize, double lambda,
                       ingot_delta_state *s);

#ifdef __cplusplus
}
#endif
#endif
