/* Quantized weights: the numbers stored are not the weights without the scales beside them, which a merge does not
 * apply. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "driver/merge_plan.h"

enum { NAME_MAX_LENGTH = 1024 };

/* The weight that a tensor holds the scales of, as the field's formats name them; -1 when it holds none. */
static int weight_of(const ingot_input *input, const char *name)
{
  static const struct {
    const char *scale, *weight; /* ends of their names; the beginnings are the same */
  } pairs[] = {{"_scale_inv", ""}, {"_scale", ""}, {"_scale", "_packed"}, {".absmax", ""}, {".scales", ".qweight"}};
  size_t n = strlen(name);
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
    size_t n_end = strlen(pairs[i].scale);
    char   weight[NAME_MAX_LENGTH];
    if (n <= n_end || n >= sizeof weight || strcmp(name + n - n_end, pairs[i].scale) != 0) continue;
    int length = snprintf(weight, sizeof weight, "%.*s%s", (int)(n - n_end), name, pairs[i].weight);
    if (length < 0 || (size_t)length >= sizeof weight) continue;
    int         found = ingot_input_find(input, weight);
    ingot_dtype dtype = found < 0 ? INGOT_DTYPE_F32 : input->tensors[found].dtype;
    if (dtype == INGOT_DTYPE_F8_E4M3 || dtype == INGOT_DTYPE_F8_E5M2 || !ingot_dtype_is_float(dtype)) return found;
  }
  return -1;
}

/* Which tensors of an input an output is computed from: more than copied byte for byte. merged: [n_tensor], zeros. */
static void find_merged(const ingot_merge_builder *b, int input, bool *merged)
{
  for (int i = 0; i < b->n_tensor; i++) {
    const ingot_merge_tensor *t = &b->tensors[i];
    for (int k = 0; !t->copy && k < t->view.n_input; k++)
      if (t->source[k] == input) merged[t->tensor[k]] = true;
  }
}

static void report(ingot_merge_builder *b, const ingot_input *input, const ingot_sink_tensor *w, const char *scale)
{
  if (b->settings->scales == INGOT_SCALES_IGNORE)
    ingot_log_warning("%s: \"%s\" (%s) is quantized: weights (%s) and scales (%s) are merged as they are stored",
                      b->place, input->id, input->path, w->name, scale);
  else
    ingot_problems_add(&b->planner->problems, INGOT_ERR_MISMATCH,
                       "%s: \"%s\" (%s) is quantized: %s (%s) has scales (%s), which a merge does not apply; merge the "
                       "model in bfloat16 or the like%s",
                       b->place, input->id, input->path, w->name, ingot_dtype_name(w->dtype), scale,
                       ingot_merge_hint(b, "scales", " (scales = \"ignore\" merges both as they are stored)"));
}

ingot_status ingot_merge_check_scales(ingot_merge_builder *b)
{
  ingot_status st = INGOT_OK;
  for (int i = 0; i < b->n_checkpoint; i++) {
    const ingot_input *input = b->inputs[i];
    bool              *merged = NULL; /* made when there is something to look for */
    for (int k = 0; k < input->n_tensor; k++) {
      int weight = weight_of(input, input->tensors[k].name);
      if (weight < 0) continue;
      if (!merged) {
        merged = ingot_arena_alloc(b->arena, (size_t)input->n_tensor, sizeof *merged);
        INGOT_TRY_ALLOC(merged);
        find_merged(b, i, merged);
      }
      if (!merged[k] && !merged[weight]) continue;
      report(b, input, &input->tensors[weight], input->tensors[k].name);
      break;
    }
  }
done:
  return st;
}
