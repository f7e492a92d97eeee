#include "driver/layers.h"

#include <ctype.h>
#include <string.h>

static bool is_stack_part(const char *part, size_t length)
{
  static const char *const parts[] = {"layers", "layer", "blocks", "block", "h"};
  for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
    if (strlen(parts[i]) == length && memcmp(parts[i], part, length) == 0) return true;
  return false;
}

bool ingot_layer_parse(const char *name, ingot_layer_name *out)
{
  const char *part = name;
  for (;;) {
    size_t length = strcspn(part, ".");
    if (part[length] == '\0') return false;
    const char *number = part + length + 1;
    size_t      digits = strspn(number, "0123456789");
    if (is_stack_part(part, length) && digits > 0 && digits < 8 && number[digits] == '.') {
      out->stack_length = (size_t)(part + length - name);
      out->index = 0;
      for (size_t i = 0; i < digits; i++) out->index = 10 * out->index + (number[i] - '0');
      out->rest = number + digits;
      return true;
    }
    part = number;
  }
}

bool ingot_layer_is_before(const char *name)
{
  for (const char *part = name; part; part = strchr(part, '.') ? strchr(part, '.') + 1 : NULL) {
    size_t length = strcspn(part, ".");
    char   text[64];
    if (length >= sizeof text) continue;
    memcpy(text, part, length);
    text[length] = '\0';
    if (strcmp(text, "embed_out") == 0) continue; /* an output head */
    if (strstr(text, "embed") || strcmp(text, "wte") == 0 || strcmp(text, "wpe") == 0) return true;
  }
  return false;
}

int64_t ingot_layer_count(const ingot_input *input, const char *stack, size_t stack_length)
{
  int64_t count = 0;
  for (int i = 0; i < input->n_tensor; i++) {
    ingot_layer_name layer;
    const char      *name = input->tensors[i].name;
    if (!ingot_layer_parse(name, &layer) || layer.stack_length != stack_length) continue;
    if (memcmp(name, stack, stack_length) == 0 && layer.index + 1 > count) count = layer.index + 1;
  }
  return count;
}

double ingot_layer_depth(int64_t index, int64_t count)
{
  return count > 1 ? (double)index / (double)(count - 1) : 1.0;
}
