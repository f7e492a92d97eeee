#include "driver/report_html.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "driver/recipe.h"

static const char *const COLOURS[] = {"#2a6fb0", "#d1662b", "#3b8f4c", "#8a4fa3",
                                      "#b8860b", "#c23b55", "#3a9aa5", "#6b6b6b"};
enum { N_COLOUR = 8, WIDTH = 860, HEIGHT = 240, LEFT = 64, TOP = 12, BOTTOM = 34, LEGEND_MAX = 24, MATRIX_MAX = 32 };

typedef struct page {
  ingot_text          *html;
  const char *const   *names;
  const ingot_measure *measure;
} page;

static ingot_status escape(ingot_text *html, const char *text)
{
  ingot_status st = INGOT_OK;
  for (const char *c = text; *c; c++) {
    const char   *as = *c == '<'    ? "&lt;"
                       : *c == '>'  ? "&gt;"
                       : *c == '&'  ? "&amp;"
                       : *c == '"'  ? "&quot;"
                       : *c == '\'' ? "&#39;"
                                    : NULL;
    unsigned char byte = (unsigned char)*c;
    if (as) INGOT_TRY(ingot_text_printf(html, "%s", as));
    else if (byte < 32 && byte != '\n') INGOT_TRY(ingot_text_printf(html, " "));
    else INGOT_TRY(ingot_text_append(html, c, 1));
  }
done:
  return st;
}

/* ---- lines over the layers ---- */

/* The value of a row for a series; NAN where there is none. */
typedef double (*value_of)(const ingot_measure *m, const ingot_measure_row *row, int series);

static double norm(const ingot_measure *m, const ingot_measure_row *row, int series)
{
  (void)m;
  return row->n_elem > 0 ? sqrt(row->square[series]) : NAN;
}

static double kept(const ingot_measure *m, const ingot_measure_row *row, int series)
{
  (void)m;
  return row->mass[series] > 0.0 ? 100.0 * row->kept[series] / row->mass[series] : NAN;
}

static double conflicts(const ingot_measure *m, const ingot_measure_row *row, int series)
{
  (void)m;
  (void)series;
  return row->n_active > 0 ? 100.0 * (double)row->n_conflict / (double)row->n_active : NAN;
}

static double x_of(const ingot_measure *m, int row)
{
  return LEFT + (row + 0.5) * (WIDTH - LEFT - 8) / m->n_row;
}

static ingot_status axes(const page *p, double top, const char *unit)
{
  ingot_status st = INGOT_OK;
  int          every = p->measure->n_row / 12 + 1;
  for (int i = 0; i <= 4; i++) {
    double y = TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - i / 4.0);
    INGOT_TRY(ingot_text_printf(p->html,
                                "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" class=\"grid\"/>"
                                "<text x=\"%d\" y=\"%.1f\" class=\"y\">%.3g%s</text>\n",
                                (int)LEFT, WIDTH - 8, y, y, LEFT - 6, y + 4, top * i / 4.0, unit));
  }
  for (int i = 0; i < p->measure->n_row; i++) {
    bool end = i == 0 || i == p->measure->n_row - 1;
    if (!end && (i - 1) % every != 0) continue;
    if (end)
      INGOT_TRY(ingot_text_printf(p->html, "<text x=\"%.1f\" y=\"%d\" class=\"x\">%s</text>\n", x_of(p->measure, i),
                                  HEIGHT - 14, i == 0 ? "emb." : "head"));
    else
      INGOT_TRY(ingot_text_printf(p->html, "<text x=\"%.1f\" y=\"%d\" class=\"x\">%d</text>\n", x_of(p->measure, i),
                                  HEIGHT - 14, i - 1));
  }
done:
  return st;
}

static ingot_status line(const page *p, int series, value_of value, double top, const char *unit)
{
  ingot_status st = INGOT_OK;
  const char  *colour = COLOURS[series % N_COLOUR];
  INGOT_TRY(ingot_text_printf(p->html, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\" points=\"", colour));
  for (int pass = 0; pass < 2; pass++) {
    for (int i = 0; i < p->measure->n_row; i++) {
      double v = value(p->measure, &p->measure->rows[i], series);
      if (!isfinite(v)) continue;
      double x = x_of(p->measure, i), y = TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - v / top);
      if (pass == 0) INGOT_TRY(ingot_text_printf(p->html, "%.1f,%.1f ", x, y));
      else
        INGOT_TRY(ingot_text_printf(
            p->html, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"><title>%s: %.6g%s</title></circle>\n", x, y,
            colour, p->measure->rows[i].name, v, unit));
    }
    if (pass == 0) INGOT_TRY(ingot_text_printf(p->html, "\"/>\n"));
  }
done:
  return st;
}

static ingot_status legend(const page *p)
{
  ingot_status st = ingot_text_printf(p->html, "<p class=\"legend\">");
  int          n = p->measure->n_model < LEGEND_MAX ? p->measure->n_model : LEGEND_MAX;
  for (int k = 0; st == INGOT_OK && k < n; k++) {
    INGOT_TRY(ingot_text_printf(p->html, "<span><i style=\"background:%s\"></i>", COLOURS[k % N_COLOUR]));
    INGOT_TRY(escape(p->html, p->names[k]));
    INGOT_TRY(ingot_text_printf(p->html, "</span> "));
  }
  if (n < p->measure->n_model) INGOT_TRY(ingot_text_printf(p->html, "and %d more", p->measure->n_model - n));
  if (st == INGOT_OK) st = ingot_text_printf(p->html, "</p>\n");
done:
  return st;
}

static double largest(const page *p, int n_series, value_of value)
{
  double top = 0.0;
  for (int k = 0; k < n_series; k++)
    for (int i = 0; i < p->measure->n_row; i++) {
      double v = value(p->measure, &p->measure->rows[i], k);
      if (isfinite(v) && v > top) top = v;
    }
  return top > 0.0 ? top : 1.0;
}

/* top 0: as high as the largest value. */
static ingot_status chart(const page *p, const char *title, const char *note, int n_series, value_of value, double top,
                          const char *unit)
{
  ingot_status st = INGOT_OK;
  if (top == 0.0) top = largest(p, n_series, value);
  INGOT_TRY(ingot_text_printf(p->html, "<h2>%s</h2>\n<p>%s</p>\n<svg viewBox=\"0 0 %d %d\" role=\"img\">\n", title,
                              note, (int)WIDTH, (int)HEIGHT));
  INGOT_TRY(axes(p, top, unit));
  for (int k = 0; k < n_series; k++) INGOT_TRY(line(p, k, value, top, unit));
  INGOT_TRY(ingot_text_printf(p->html, "</svg>\n"));
  if (n_series > 1) INGOT_TRY(legend(p));
done:
  return st;
}

/* ---- kinship ---- */

static ingot_status kinship(const page *p)
{
  ingot_status st = INGOT_OK;
  int          all = p->measure->n_model, n = all < MATRIX_MAX ? all : MATRIX_MAX;
  INGOT_TRY(
      ingot_text_printf(p->html,
                        "<h2>Kinship</h2>\n<p>Cosine between task vectors (expert minus base) over all tensors%s.</p>\n"
                        "<table class=\"kin\"><tr><th></th>",
                        n < all ? "; the first of the experts" : ""));
  for (int a = 0; a < n; a++) {
    INGOT_TRY(ingot_text_printf(p->html, "<th>"));
    INGOT_TRY(escape(p->html, p->names[a]));
    INGOT_TRY(ingot_text_printf(p->html, "</th>"));
  }
  for (int a = 0; a < n; a++) {
    INGOT_TRY(ingot_text_printf(p->html, "</tr>\n<tr><th>"));
    INGOT_TRY(escape(p->html, p->names[a]));
    INGOT_TRY(ingot_text_printf(p->html, "</th>"));
    for (int b = 0; b < n; b++) {
      const double *dot = p->measure->dot;
      double length = sqrt(dot[a * all + a] * dot[b * all + b]), c = length > 0.0 ? dot[a * all + b] / length : 0.0;
      INGOT_TRY(ingot_text_printf(p->html, "<td style=\"background:rgba(%s,%.2f)\">%.3f</td>",
                                  c < 0 ? "209,102,43" : "42,111,176", fmin(fabs(c), 1.0) * 0.6, c));
    }
  }
  st = ingot_text_printf(p->html, "</tr></table>\n");
done:
  return st;
}

/* ---- what the method kept ---- */

static ingot_status percent(const page *p, double part, double whole)
{
  return whole > 0.0 ? ingot_text_printf(p->html, "<td>%.1f %%</td>", 100.0 * part / whole)
                     : ingot_text_printf(p->html, "<td>-</td>");
}

static ingot_status kept_by_method(const page *p, const ingot_kept *kept)
{
  ingot_status st = INGOT_OK;
  if (kept->n_model == 0) return INGOT_OK;
  INGOT_TRY(ingot_text_printf(p->html,
                              "<h2>Kept by the method</h2>\n<p>Of each task vector: the part of its absolute values "
                              "(L1) and of its squares (L2) "
                              "that trimming or drawing leaves, and the part whose sign is the elected "
                              "one.</p>\n<table class=\"kin\"><tr><th></th>"
                              "<th>kept, L1</th><th>kept, L2</th><th>elected sign, L1</th><th>elected sign, L2</th>"));
  for (int k = 0; k < kept->n_model; k++) {
    const ingot_kept_model *m = &kept->models[k];
    INGOT_TRY(ingot_text_printf(p->html, "</tr>\n<tr><th>"));
    INGOT_TRY(escape(p->html, kept->names[k]));
    INGOT_TRY(ingot_text_printf(p->html, "</th>"));
    INGOT_TRY(percent(p, m->kept_mass, m->mass));
    INGOT_TRY(percent(p, m->kept_square, m->square));
    INGOT_TRY(percent(p, m->agreed_mass, m->mass));
    INGOT_TRY(percent(p, m->agreed_square, m->square));
  }
  st = ingot_text_printf(p->html, "</tr></table>\n");
done:
  return st;
}

/* ---- time ---- */

static double member(const json_t *rank, const char *key)
{
  return json_number_value(json_object_get(rank, key));
}

static ingot_status timeline(const page *p, const json_t *run)
{
  static const char *const phases[][2] = {{"read_s", "read"},
                                          {"move_s", "move"},
                                          {"merge_s", "merge"},
                                          {"write_s", "write"},
                                          {"wait_s", "wait"}};
  ingot_status             st = INGOT_OK;
  const json_t            *ranks = json_object_get(run, "by_rank");
  size_t                   n = json_array_size(ranks);
  double                   longest = 0.0;
  for (size_t r = 0; r < n; r++) longest = fmax(longest, member(json_array_get(ranks, r), "wall_s"));
  if (n == 0 || !(longest > 0.0)) return INGOT_OK;
  INGOT_TRY(ingot_text_printf(
      p->html,
      "<h2>Time by rank</h2>\n<p>Each bar is a rank's wall time, %.3f s at most; its parts are the "
      "seconds of each phase, divided by the rank's threads. They show shares, not moments: threads are in "
      "different phases at once.</p>\n<svg viewBox=\"0 0 %d %zu\" role=\"img\">\n",
      longest, (int)WIDTH, n * 18 + 4));
  for (size_t r = 0; r < n; r++) {
    const json_t *rank = json_array_get(ranks, r);
    double        threads = fmax(member(rank, "threads"), 1.0), scale = (WIDTH - LEFT - 8) / longest, x = LEFT;
    INGOT_TRY(
        ingot_text_printf(p->html,
                          "<text x=\"%d\" y=\"%zu\" class=\"y\">rank %zu</text><rect x=\"%d\" y=\"%zu\" width=\"%.1f\" "
                          "height=\"14\" fill=\"#e6e6e6\"/>",
                          LEFT - 6, r * 18 + 13, r, (int)LEFT, r * 18 + 2, member(rank, "wall_s") * scale));
    for (int k = 0; k < 5; k++) {
      double seconds = member(rank, phases[k][0]) / threads;
      INGOT_TRY(ingot_text_printf(
          p->html,
          "<rect x=\"%.1f\" y=\"%zu\" width=\"%.1f\" height=\"14\" fill=\"%s\"><title>%s: %.3f s</title></rect>", x,
          r * 18 + 2, seconds * scale, COLOURS[k], phases[k][1], seconds));
      x += seconds * scale;
    }
    INGOT_TRY(ingot_text_printf(p->html, "\n"));
  }
  INGOT_TRY(ingot_text_printf(p->html, "</svg>\n<p class=\"legend\">"));
  for (int k = 0; k < 5; k++)
    INGOT_TRY(ingot_text_printf(p->html, "<span><i style=\"background:%s\"></i>%s</span> ", COLOURS[k], phases[k][1]));
  st = ingot_text_printf(p->html, "<span><i style=\"background:#e6e6e6\"></i>other</span></p>\n");
done:
  return st;
}

static ingot_status settings(const page *p, const json_t *manifest)
{
  char        *recipe = ingot_json_dump(json_object_get(manifest, "recipe"), JSON_INDENT(1));
  ingot_status st = recipe ? ingot_text_printf(p->html, "<h2>Settings</h2>\n<pre>")
                           : ingot_fail(INGOT_ERR_NOMEM, "no memory for the settings");
  if (st == INGOT_OK) st = escape(p->html, recipe);
  if (st == INGOT_OK) st = ingot_text_printf(p->html, "</pre>\n");
  free(recipe);
  return st;
}

static const char STYLE[] =
    "body{font:15px/1.45 system-ui,sans-serif;max-width:880px;margin:2em auto;padding:0 1em;color:#222;background:#fff}"
    "h1{font-size:1.5em;overflow-wrap:anywhere}h2{font-size:1.1em;margin:1.8em 0 .2em}p{margin:.2em 0 "
    ".6em;color:#555}svg{width:100%;height:auto}"
    ".grid{stroke:#ddd}text{font-size:11px;fill:#555}.y{text-anchor:end}.x{text-anchor:middle}"
    ".legend span{margin-right:1em;white-space:nowrap}.legend "
    "i{display:inline-block;width:.8em;height:.8em;margin-right:.3em}"
    ".kin{border-collapse:collapse;display:block;overflow-x:auto}.kin td,.kin th{padding:.3em "
    ".6em;text-align:right;font-weight:normal}"
    "pre{background:#f6f6f6;padding:.8em;overflow-x:auto;font-size:12px}";

ingot_status ingot_report_html(const char *title, const char *const *names, const ingot_measure *measure,
                               const ingot_kept *by_method, const json_t *manifest, ingot_text *html)
{
  ingot_status  st = INGOT_OK;
  page          p = {html, names, measure};
  const json_t *run = json_object_get(manifest, "run");
  const char   *finished = json_string_value(json_object_get(run, "finished"));
  INGOT_TRY(ingot_text_printf(html, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>"));
  INGOT_TRY(escape(html, title));
  INGOT_TRY(ingot_text_printf(html, "</title><style>%s</style></head><body>\n<h1>", STYLE));
  INGOT_TRY(escape(html, title));
  INGOT_TRY(ingot_text_printf(html, "</h1>\n<p>%d experts; finished ", measure->n_model));
  INGOT_TRY(escape(html, finished ? finished : "at an unknown time"));
  if (measure->n_skipped > 0)
    INGOT_TRY(ingot_text_printf(html, "; %lld tensors that are not in all models in one shape are left out",
                                (long long)measure->n_skipped));
  INGOT_TRY(ingot_text_printf(html, "</p>\n"));
  INGOT_TRY(chart(&p, "Norms of task vectors", "Euclidean norm of expert minus base, by layer.", measure->n_model, norm,
                  0.0, ""));
  INGOT_TRY(kinship(&p));
  INGOT_TRY(chart(
      &p, "Sign conflicts",
      "Of the elements where any expert differs from the base: the share where one is above it and another below.", 1,
      conflicts, 100.0, "%"));
  INGOT_TRY(chart(
      &p, "Kept mass",
      "Of the sum of a task vector's absolute values: the part at elements where the output differs from the base.",
      measure->n_model, kept, 100.0, "%"));
  INGOT_TRY(kept_by_method(&p, by_method));
  INGOT_TRY(timeline(&p, run));
  INGOT_TRY(settings(&p, manifest));
  st = ingot_text_printf(html, "</body></html>\n");
done:
  return st;
}
