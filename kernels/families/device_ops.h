/**
 * The GPU sides of the methods, by name, so that a descriptor can name one without CUDA being there:
 * `.device = INGOT_DEVICE_OPS(sum)` is NULL in a build without CUDA.
 *
 *   sum    apply of families/sum.h: linear, passthrough
 *   slerp  three dots, then sum's apply
 *   delta  apply of families/delta.h: task_arithmetic
 *   dare   the L1 summary of families/delta.h, then delta's apply: dare_linear, dare_ties
 *   ties   selection (families/select.h) and the L1 summary, then delta's apply
 *   fisher apply of families/fisher.h
 *   mats   fisher's apply for tensors with statistics, sum's for those without; matrices never come here
 */
#ifndef INGOT_KERNELS_FAMILIES_DEVICE_OPS_H
#define INGOT_KERNELS_FAMILIES_DEVICE_OPS_H

#include "kernels/method.h"

#ifdef __cplusplus
extern "C" {
#endif

#if defined(INGOT_HAVE_CUDA) && INGOT_HAVE_CUDA
extern const ingot_device_ops ingot_device_sum;
extern const ingot_device_ops ingot_device_slerp;
extern const ingot_device_ops ingot_device_delta;
extern const ingot_device_ops ingot_device_dare;
extern const ingot_device_ops ingot_device_ties;
extern const ingot_device_ops ingot_device_fisher;
extern const ingot_device_ops ingot_device_mats;
#define INGOT_DEVICE_OPS(family) (&ingot_device_##family)
#else
#define INGOT_DEVICE_OPS(family) NULL
#endif

#ifdef __cplusplus
}
#endif
#endif
