/**
 * Layer stacks, by the names of tensors: "<stack>.<N>.<rest>", where the last part of <stack> is layers, layer, blocks,
 * block or h. The leftmost match counts ("model.layers.3.mlp.experts.0.w1" is layer 3 of "model.layers").
 */
#ifndef INGOT_DRIVER_LAYERS_H
#define INGOT_DRIVER_LAYERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "driver/input.h"

typedef struct ingot_layer_name {
  size_t      stack_length; /* of "model.layers" at the start of the name */
  int64_t     index;
  const char *rest; /* after the number: ".mlp.up_proj.weight" */
} ingot_layer_name;

/** False for a tensor outside any stack. */
bool ingot_layer_parse(const char *name, ingot_layer_name *out);
/** True for a tensor that comes before the stack: embeddings. Everything else outside a stack comes after it. */
bool ingot_layer_is_before(const char *name);
/** Number of layers of the stack that a tensor's name belongs to: the highest index of that stack and one. */
int64_t ingot_layer_count(const ingot_input *input, const char *stack, size_t stack_length);
/** Position of layer `index` among `count`, as gradients use it: index / (count - 1), and 1 for a single layer. */
double ingot_layer_depth(int64_t index, int64_t count);

#endif
