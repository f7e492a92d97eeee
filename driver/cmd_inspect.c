/* ingot inspect PATH: what a model's files hold, from their headers. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "driver/commands.h"
#include "io/json.h"
#include "io/source.h"

typedef struct totals {
  int64_t  n_tensor[INGOT_DTYPE_COUNT], n_elem[INGOT_DTYPE_COUNT];
  int64_t  n_parameter;
  uint64_t bytes, file_bytes;
} totals;

static totals add_up(const ingot_source *src)
{
  totals sum = {0};
  for (int i = 0; i < ingot_source_count(src); i++) {
    const ingot_tensor_info *t = ingot_source_tensor(src, i);
    sum.n_tensor[t->dtype]++;
    sum.n_elem[t->dtype] += t->n_elem;
    sum.n_parameter += t->n_elem;
    sum.bytes += t->bytes;
  }
  for (int i = 0; i < ingot_source_n_file(src); i++) sum.file_bytes += ingot_source_file_bytes(src, i);
  return sum;
}

static ingot_status text_table(const ingot_source *src, ingot_text *out)
{
  ingot_status st = INGOT_OK;
  char         shape[INGOT_SHAPE_TEXT];
  int          name_width = 4, shape_width = 5;
  for (int i = 0; i < ingot_source_count(src); i++) {
    const ingot_tensor_info *t = ingot_source_tensor(src, i);
    int                      n_name = (int)strlen(t->name), n_shape = (int)strlen(ingot_shape_text(&t->shape, shape));
    if (n_name > name_width) name_width = n_name;
    if (n_shape > shape_width) shape_width = n_shape;
  }
  if (ingot_source_count(src))
    INGOT_TRY(ingot_text_printf(out, "\n%-*s  %-7s  %-*s  %14s\n", name_width, "name", "dtype", shape_width, "shape",
                                "bytes"));
  for (int i = 0; i < ingot_source_count(src); i++) {
    const ingot_tensor_info *t = ingot_source_tensor(src, i);
    INGOT_TRY(ingot_text_printf(out, "%-*s  %-7s  %-*s  %14" PRIu64 "\n", name_width, t->name,
                                ingot_dtype_name(t->dtype), shape_width, ingot_shape_text(&t->shape, shape), t->bytes));
  }
done:
  return st;
}

static ingot_status text_report(const ingot_source *src, ingot_text *out)
{
  ingot_status st = INGOT_OK;
  totals       sum = add_up(src);
  char         text[32];
  const char  *separator = "";
  INGOT_TRY(ingot_text_printf(out, "path:        %s\nkind:        %s\n", ingot_source_path(src),
                              ingot_source_kind_name(ingot_source_kind_of(src))));
  INGOT_TRY(ingot_text_printf(out, "files:       %d (%s)\n", ingot_source_n_file(src),
                              ingot_bytes_text(sum.file_bytes, text)));
  for (int i = 0; i < ingot_source_n_file(src); i++)
    INGOT_TRY(ingot_text_printf(out, "  %s (%s)\n", ingot_source_file_path(src, i),
                                ingot_bytes_text(ingot_source_file_bytes(src, i), text)));
  if (ingot_source_n_side_file(src)) {
    INGOT_TRY(ingot_text_printf(out, "side files:  "));
    for (int i = 0; i < ingot_source_n_side_file(src); i++)
      INGOT_TRY(ingot_text_printf(out, "%s%s", i ? ", " : "", ingot_source_side_file_name(src, i)));
    INGOT_TRY(ingot_text_printf(out, "\n"));
  }
  INGOT_TRY(ingot_text_printf(out,
                              "tensors:     %d\nparameters:  %" PRId64 "\nbytes:       %" PRIu64 " (%s)\ndtypes:      ",
                              ingot_source_count(src), sum.n_parameter, sum.bytes, ingot_bytes_text(sum.bytes, text)));
  for (int d = 0; d < INGOT_DTYPE_COUNT; d++) {
    if (!sum.n_tensor[d]) continue;
    INGOT_TRY(ingot_text_printf(out, "%s%s (%" PRId64 " %s, %" PRId64 " elements)", separator,
                                ingot_dtype_name((ingot_dtype)d), sum.n_tensor[d],
                                sum.n_tensor[d] == 1 ? "tensor" : "tensors", sum.n_elem[d]));
    separator = ", ";
  }
  INGOT_TRY(ingot_text_printf(out, "\n"));
  INGOT_TRY(text_table(src, out));
done:
  return st;
}

static ingot_status json_tensor(const ingot_tensor_info *t, ingot_text *out)
{
  ingot_status st = INGOT_OK;
  char         shape[INGOT_SHAPE_TEXT];
  INGOT_TRY(ingot_text_printf(out, "{\"name\": "));
  INGOT_TRY(ingot_json_append_string(out, t->name));
  INGOT_TRY(ingot_text_printf(out,
                              ", \"dtype\": \"%s\", \"shape\": %s, \"bytes\": %" PRIu64
                              ", \"file\": %d, \"offset\": %" PRIu64,
                              ingot_dtype_name(t->dtype), ingot_shape_text(&t->shape, shape), t->bytes, t->file,
                              t->offset));
  if (t->has_checksum) INGOT_TRY(ingot_text_printf(out, ", \"checksum\": \"%016" PRIx64 "\"", t->checksum));
  INGOT_TRY(ingot_text_printf(out, "}"));
done:
  return st;
}

static ingot_status json_report(const ingot_source *src, ingot_text *out)
{
  ingot_status st = INGOT_OK;
  totals       sum = add_up(src);
  const char  *separator = "";
  INGOT_TRY(ingot_text_printf(out, "{\"path\": "));
  INGOT_TRY(ingot_json_append_string(out, ingot_source_path(src)));
  INGOT_TRY(ingot_text_printf(out, ",\n \"kind\": \"%s\",\n \"files\": [",
                              ingot_source_kind_name(ingot_source_kind_of(src))));
  for (int i = 0; i < ingot_source_n_file(src); i++) {
    INGOT_TRY(ingot_text_printf(out, "%s{\"path\": ", i ? ", " : ""));
    INGOT_TRY(ingot_json_append_string(out, ingot_source_file_path(src, i)));
    INGOT_TRY(ingot_text_printf(out, ", \"bytes\": %" PRIu64 "}", ingot_source_file_bytes(src, i)));
  }
  INGOT_TRY(ingot_text_printf(out, "],\n \"side_files\": ["));
  for (int i = 0; i < ingot_source_n_side_file(src); i++) {
    if (i) INGOT_TRY(ingot_text_printf(out, ", "));
    INGOT_TRY(ingot_json_append_string(out, ingot_source_side_file_name(src, i)));
  }
  INGOT_TRY(ingot_text_printf(out,
                              "],\n \"n_tensor\": %d,\n \"n_parameter\": %" PRId64 ",\n \"bytes\": %" PRIu64
                              ",\n \"dtypes\": {",
                              ingot_source_count(src), sum.n_parameter, sum.bytes));
  for (int d = 0; d < INGOT_DTYPE_COUNT; d++) {
    if (!sum.n_tensor[d]) continue;
    INGOT_TRY(ingot_text_printf(out, "%s\"%s\": {\"n_tensor\": %" PRId64 ", \"n_parameter\": %" PRId64 "}", separator,
                                ingot_dtype_name((ingot_dtype)d), sum.n_tensor[d], sum.n_elem[d]));
    separator = ", ";
  }
  INGOT_TRY(ingot_text_printf(out, "},\n \"tensors\": ["));
  for (int i = 0; i < ingot_source_count(src); i++) {
    INGOT_TRY(ingot_text_printf(out, i ? ",\n  " : "\n  "));
    INGOT_TRY(json_tensor(ingot_source_tensor(src, i), out));
  }
  INGOT_TRY(ingot_text_printf(out, "]}\n"));
done:
  return st;
}

static ingot_status run_inspect(const ingot_command_context *context, const ingot_command_line *line)
{
  ingot_status  st = INGOT_OK;
  ingot_source *src = NULL;
  ingot_text    out = {0};
  (void)context;
  INGOT_TRY(ingot_source_open(line->args[0], &src));
  INGOT_TRY(ingot_line_has(line, "--json") ? json_report(src, &out) : text_report(src, &out));
  fputs(ingot_text_string(&out), stdout);
done:
  ingot_text_release(&out);
  ingot_source_close(&src);
  return st;
}

static const ingot_option options[] = {
    {"--json", NULL, "print JSON instead of text"},
    {NULL, NULL, NULL},
};

const ingot_command ingot_command_inspect = {
    .name = "inspect",
    .arguments = "PATH",
    .summary = "show the tensors of a model: names, dtypes, shapes, bytes",
    .options = options,
    .min_args = 1,
    .max_args = 1,
    .run = run_inspect,
};
