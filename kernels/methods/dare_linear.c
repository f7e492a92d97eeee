/** dare_linear: random masks over the task vectors, then the rest as task_arithmetic. */
#include "kernels/families/dare.h"
#include "kernels/families/device_ops.h"

const ingot_method ingot_method_dare_linear = {
    .name = "dare_linear",
    .summary = "task vectors thinned out at random, then summed",
    INGOT_DARE_METHOD(ingot_dare_begin_sum),
};
