/* ingot report OUTPUT: what a merge did to its experts, as figures or as a page. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "driver/commands.h"
#include "driver/manifest.h"
#include "driver/merge_kept.h"
#include "driver/recipe.h"
#include "driver/report_html.h"
#include "io/atomic_file.h"
#include "io/json.h"

enum { MANIFEST_MAX = 1 << 30 };

static const ingot_option options[] = {
    {"--html", "FILE", "write a page with charts"},
    {"--json", NULL, "print the figures as JSON"},
    {NULL, NULL, NULL},
};

typedef struct work {
  json_t        *manifest;
  ingot_source  *output, *base;
  ingot_source **experts; /* [n_model] */
  const char   **names;   /* [n_model], of the manifest */
  int            n_model;
  ingot_measure  measure;
  ingot_kept     kept;
} work;

/* An input that changed since tells nothing about this merge. */
static ingot_status open_input(const json_t *input, ingot_source **out)
{
  ingot_status st = INGOT_OK;
  char         now[24];
  const char  *path = json_string_value(json_object_get(input, "path"));
  const char  *was = json_string_value(json_object_get(input, "identity"));
  INGOT_CHECK(path && was, INGOT_ERR_FORMAT, "the manifest has an input without path or identity");
  INGOT_TRY(ingot_source_open(path, out));
  snprintf(now, sizeof now, "%016llx", (unsigned long long)ingot_source_identity(*out));
  INGOT_CHECK(strcmp(was, now) == 0, INGOT_ERR_MISMATCH, "%s: has changed since the merge: identity was %s, is %s",
              path, was, now);
done:
  return st;
}

static ingot_status open_inputs(const char *output, work *w)
{
  ingot_status  st = INGOT_OK;
  const json_t *recipe = json_object_get(w->manifest, "recipe"), *inputs = json_object_get(w->manifest, "inputs");
  const char   *base = json_string_value(json_object_get(recipe, "base"));
  size_t        n = json_array_size(inputs);
  INGOT_CHECK(base, INGOT_ERR_JOB, "%s: was not made by a merge with a base: there are no task vectors to report on",
              output);
  INGOT_CHECK(n <= INGOT_MEASURE_MODELS, INGOT_ERR_JOB, "%s: has %zu inputs, a report takes %d at most", output, n,
              (int)INGOT_MEASURE_MODELS);
  w->experts = calloc(n + 1, sizeof(ingot_source *));
  w->names = calloc(n + 1, sizeof *w->names);
  INGOT_CHECK(w->experts && w->names, INGOT_ERR_NOMEM, "no memory for %zu inputs", n);
  for (size_t i = 0; i < n; i++) {
    const json_t *input = json_array_get(inputs, i);
    const char   *id = json_string_value(json_object_get(input, "id"));
    INGOT_CHECK(id, INGOT_ERR_FORMAT, "%s: the manifest has an input without a name", output);
    if (strcmp(id, base) == 0) {
      INGOT_TRY(open_input(input, &w->base));
      continue;
    }
    w->names[w->n_model] = id;
    INGOT_TRY(open_input(input, &w->experts[w->n_model]));
    w->n_model++;
  }
  INGOT_CHECK(w->base && w->n_model > 0, INGOT_ERR_FORMAT, "%s: the manifest's inputs lack the base or the experts",
              output);
done:
  return st;
}

static json_t *numbers(const double *values, int n)
{
  json_t *list = json_array();
  for (int i = 0; i < n; i++) json_array_append_new(list, json_real(values[i]));
  return list;
}

static ingot_status print_json(const work *w)
{
  const ingot_measure *m = &w->measure;
  json_t              *rows = json_array(), *models = json_array(), *dot = json_array();
  for (int k = 0; k < m->n_model; k++) {
    json_array_append_new(models, ingot_json_text(w->names[k]));
    json_array_append_new(dot, numbers(m->dot + (size_t)k * (size_t)m->n_model, m->n_model));
  }
  for (int i = 0; i < m->n_row; i++) {
    const ingot_measure_row *r = &m->rows[i];
    json_array_append_new(rows, json_pack("{s:s, s:I, s:I, s:I, s:o, s:o, s:o}", "name", r->name, "elements",
                                          (json_int_t)r->n_elem, "active", (json_int_t)r->n_active, "conflicts",
                                          (json_int_t)r->n_conflict, "square", numbers(r->square, m->n_model), "mass",
                                          numbers(r->mass, m->n_model), "kept", numbers(r->kept, m->n_model)));
  }
  json_t *tree = json_pack("{s:o, s:o, s:o, s:I}", "models", models, "rows", rows, "dot", dot, "skipped",
                           (json_int_t)m->n_skipped);
  json_t *method = json_array();
  for (int k = 0; k < w->kept.n_model; k++) {
    const ingot_kept_model *of = &w->kept.models[k];
    json_array_append_new(method, json_pack("{s:o, s:f, s:f, s:f, s:f, s:f, s:f}", "model",
                                            ingot_json_text(w->kept.names[k]), "mass", of->mass, "square", of->square,
                                            "kept_mass", of->kept_mass, "kept_square", of->kept_square, "agreed_mass",
                                            of->agreed_mass, "agreed_square", of->agreed_square));
  }
  json_object_set_new(tree, "method", method);
  char *text = tree ? ingot_json_dump(tree, JSON_INDENT(1)) : NULL;
  json_decref(tree);
  if (!text) return ingot_fail(INGOT_ERR_NOMEM, "no memory for the figures");
  printf("%s\n", text);
  free(text);
  return INGOT_OK;
}

static ingot_status run_report(const ingot_command_context *context, const ingot_command_line *line)
{
  ingot_status st = INGOT_OK;
  const char  *output = line->args[0], *page = ingot_line_value(line, "--html");
  work         w = {0};
  ingot_text   path = {0}, html = {0};
  (void)context;
  INGOT_CHECK(page || ingot_line_has(line, "--json"), INGOT_ERR_USAGE,
              "ingot report: say --html FILE or --json, or both");
  INGOT_TRY(ingot_manifest_path(output, &path));
  INGOT_TRY(ingot_json_read(ingot_text_string(&path), MANIFEST_MAX, &w.manifest));
  INGOT_TRY(open_inputs(output, &w));
  INGOT_TRY(ingot_source_open(output, &w.output));
  INGOT_TRY(ingot_measure_make(w.base, w.experts, w.n_model, w.output, &w.measure));
  INGOT_TRY(ingot_kept_make(w.manifest, output, &w.kept));
  if (ingot_line_has(line, "--json")) INGOT_TRY(print_json(&w));
  if (page) {
    INGOT_TRY(ingot_report_html(output, w.names, &w.measure, &w.kept, w.manifest, &html));
    INGOT_TRY(ingot_file_make_parents(page));
    INGOT_TRY(ingot_file_replace(page, ingot_text_string(&html), html.size, false));
  }
done:
  for (int k = 0; w.experts && k <= w.n_model; k++) ingot_source_close(&w.experts[k]);
  ingot_source_close(&w.base);
  ingot_source_close(&w.output);
  ingot_measure_release(&w.measure);
  ingot_kept_release(&w.kept);
  json_decref(w.manifest);
  free(w.experts);
  free((void *)w.names);
  ingot_text_release(&path);
  ingot_text_release(&html);
  return st;
}

const ingot_command ingot_command_report = {
    .name = "report",
    .arguments = "OUTPUT",
    .summary = "show what a merge did to its experts: norms, kinship, conflicts, kept mass, time",
    .options = options,
    .min_args = 1,
    .max_args = 1,
    .run = run_report,
};
