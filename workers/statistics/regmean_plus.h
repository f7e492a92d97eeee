/**
 * RegMean++ (Nguyen et al. 2025, arXiv 2508.03121): RegMean's systems, block after block, with the Gram matrices that
 * each model's block has on the model's own data behind the merged blocks before it.
 *
 * The model in memory begins with the merged embedding. For each block: every model's block in its turn is put behind
 * the merged ones, the model's windows run through, and the Gram matrices of the block's linear layers are gathered;
 * then the layers are solved as `regmean` solves them, written, and the merged block takes its place. Everything but
 * these layers is the mean, as with `regmean`; the head too. Nothing of a window is kept from one block to the next:
 * the merged blocks run again (half as many blocks as layers squared, for each model), and memory is that of one model
 * and one block's matrices.
 *
 * Data parallel as gather.h has it: the number of ranks, and of windows in a pass, changes results by rounding alone. A
 * run that was stopped goes on with the first block whose layers are not all written.
 */
#ifndef INGOT_WORKERS_STATISTICS_REGMEAN_PLUS_H
#define INGOT_WORKERS_STATISTICS_REGMEAN_PLUS_H

#include "workers/merge.h"
#include "workers/model/spec.h"
#include "workers/statistics/gather.h"

/** Whether a tensor of that name is the weight of a linear layer in a block, which is solved; all others are averaged.
 *  *transposed: it is stored as [in, out], what the merge's view has to say too. */
bool ingot_regmean_plus_solves(const ingot_model_layout *layout, const char *name, bool *transposed);

/** Bytes that a rank holds at most where its model is: weights, pass, one block's sums. */
uint64_t ingot_regmean_plus_bytes(const ingot_gather_plan *gather, const ingot_model_spec *spec,
                                  const ingot_model_layout *layout);
/** Bytes of the host besides, solving left out (ingot_merge_memory_bytes): windows, and one block's Gram matrices of
 * all models. */
uint64_t ingot_regmean_plus_host_bytes(const ingot_gather_plan *gather, const ingot_model_layout *layout);

/**
 * Collective; as ingot_merge_run, with its results and errors, and those of running models.
 *
 * @param gather  models: those of the merge, in its order; data: one set a model, named as the model's id, in any
 * order.
 * @param merge   A plan of `regmean` over the same models. The tensors that ingot_regmean_plus_solves names have the
 * grain MATRIX, n_statistic = n_model, and no inputs of statistics; all others have the grain ELEMENT.
 * @param timing  Of the gathering; result->timing has the merge's alone.
 */
ingot_status ingot_regmean_plus_run(ingot_comm *comm, const ingot_gather_plan *gather,
                                    const ingot_gather_options *gather_options, const ingot_merge_plan *merge,
                                    const ingot_merge_options *merge_options, ingot_merge_result *result,
                                    ingot_merge_timing *timing);

#endif
