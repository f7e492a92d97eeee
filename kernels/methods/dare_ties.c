/** dare_ties: random masks over the task vectors, then the rest as ties. */
#include "kernels/families/dare.h"
#include "kernels/families/device_ops.h"

const ingot_method ingot_method_dare_ties = {
    .name = "dare_ties",
    .summary = "task vectors thinned out at random, then merged by elected sign",
    INGOT_DARE_METHOD(ingot_dare_begin_vote),
};
