/* What a finished training says: numbers for programs, curves for people. */
#include <math.h>
#include <stdlib.h>

#include "driver/distill_plan.h"
#include "driver/recipe.h"

static json_t *check_json(const ingot_distill_plan *plan, const ingot_distill_history *h, int64_t i)
{
  const ingot_gather_plan *v = &plan->validation;
  json_t                  *data = json_object();
  for (int d = 0; d < v->n_data; d++)
    json_object_set_new(data, v->data[d].name, ingot_json_number(exp(h->check_nll[i * v->n_data + d])));
  return json_pack("{s:I, s:o, s:o}", "step", (json_int_t)h->checks[i].step, "geometric_mean_perplexity",
                   ingot_json_number(exp(h->checks[i].mean_nll)), "perplexity", data);
}

ingot_status ingot_distill_report(const ingot_distill_plan *plan, const ingot_distill_history *h, bool best,
                                  ingot_text *text)
{
  json_t *loss = json_array(), *soft = json_array(), *hard = json_array(), *rate = json_array(), *norm = json_array();
  json_t *checks = json_array();
  for (int64_t i = 0; i < h->n_step; i++) {
    const ingot_distill_record *r = &h->records[i];
    json_array_append_new(loss, ingot_json_number(r->loss));
    json_array_append_new(soft, ingot_json_number(r->soft));
    json_array_append_new(hard, ingot_json_number(r->hard));
    json_array_append_new(rate, ingot_json_number(r->rate));
    json_array_append_new(norm, ingot_json_number(r->norm));
  }
  for (int64_t i = 0; i < h->n_check; i++) json_array_append_new(checks, check_json(plan, h, i));
  int64_t kept = best && h->best >= 0 ? h->checks[h->best].step : h->n_step;
  json_t *tree = json_pack("{s:i, s:s, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o}", "format", 1, "kind", "training",
                           "steps", (json_int_t)h->n_step, "kept_step", (json_int_t)kept, "tokens_a_step",
                           (json_int_t)(plan->batch * plan->window.length), "validation", checks, "loss", loss, "soft",
                           soft, "hard", hard, "rate", rate, "gradient_norm", norm);
  return ingot_json_append(tree, "the history of a training", text);
}

/* ---- the picture ---- */

enum { WIDTH = 760, PANEL = 190, LEFT = 70, RIGHT = 20, TOP = 34, GAP = 56, POINTS_MAX = 700 };

/* One curve: y over steps. */
typedef struct panel {
  const char *title;
  int         top;
  double      low, high;
  double      n_step;
} panel;

static double at_x(const panel *p, double step)
{
  return LEFT + (WIDTH - LEFT - RIGHT) * step / (p->n_step > 0 ? p->n_step : 1);
}

static double at_y(const panel *p, double y)
{
  double span = p->high > p->low ? p->high - p->low : 1.0;
  return p->top + PANEL - PANEL * (y - p->low) / span;
}

static ingot_status open_panel(const panel *p, ingot_text *text)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(ingot_text_printf(text, "<text x=\"%d\" y=\"%d\" class=\"t\">%s</text>\n", LEFT, p->top - 10, p->title));
  for (int i = 0; i <= 4; i++) {
    double y = p->low + (p->high - p->low) * i / 4.0;
    INGOT_TRY(ingot_text_printf(text,
                                "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" class=\"g\"/><text x=\"%d\" "
                                "y=\"%.1f\" class=\"y\">%.4g</text>\n",
                                LEFT, WIDTH - RIGHT, at_y(p, y), at_y(p, y), LEFT - 8, at_y(p, y) + 4, y));
  }
  for (int i = 0; i <= 4; i++)
    INGOT_TRY(ingot_text_printf(text, "<text x=\"%.1f\" y=\"%d\" class=\"x\">%.0f</text>\n",
                                at_x(p, p->n_step * i / 4.0), p->top + PANEL + 16, p->n_step * i / 4.0));
done:
  return st;
}

static double value_of(const ingot_distill_record *r, int kind)
{
  return kind == 0 ? r->loss : kind == 1 ? r->norm : r->rate;
}

/* Losses, norms or rates of the steps; with many steps each point is a mean. */
static ingot_status steps_panel(const ingot_distill_history *h, int kind, panel *p, ingot_text *text)
{
  ingot_status st = INGOT_OK;
  int64_t      each = (h->n_step + POINTS_MAX - 1) / POINTS_MAX;
  p->low = INFINITY;
  p->high = -INFINITY;
  for (int64_t i = 0; i < h->n_step; i++) {
    p->low = fmin(p->low, value_of(&h->records[i], kind));
    p->high = fmax(p->high, value_of(&h->records[i], kind));
  }
  if (kind != 0) p->low = 0.0;
  INGOT_TRY(open_panel(p, text));
  INGOT_TRY(ingot_text_printf(text, "<polyline class=\"c\" points=\""));
  for (int64_t i = 0; i < h->n_step; i += each) {
    int64_t n = h->n_step - i < each ? h->n_step - i : each;
    double  sum = 0.0;
    for (int64_t k = i; k < i + n; k++) sum += value_of(&h->records[k], kind);
    INGOT_TRY(
        ingot_text_printf(text, "%.1f,%.1f ", at_x(p, (double)i + 0.5 * (double)(n + 1)), at_y(p, sum / (double)n)));
  }
  INGOT_TRY(ingot_text_printf(text, "\"/>\n"));
done:
  return st;
}

static ingot_status checks_panel(const ingot_distill_history *h, panel *p, ingot_text *text)
{
  ingot_status st = INGOT_OK;
  p->low = INFINITY;
  p->high = -INFINITY;
  for (int64_t i = 0; i < h->n_check; i++) {
    p->low = fmin(p->low, exp(h->checks[i].mean_nll));
    p->high = fmax(p->high, exp(h->checks[i].mean_nll));
  }
  INGOT_TRY(open_panel(p, text));
  INGOT_TRY(ingot_text_printf(text, "<polyline class=\"c\" points=\""));
  for (int64_t i = 0; i < h->n_check; i++)
    INGOT_TRY(
        ingot_text_printf(text, "%.1f,%.1f ", at_x(p, (double)h->checks[i].step), at_y(p, exp(h->checks[i].mean_nll))));
  INGOT_TRY(ingot_text_printf(text, "\"/>\n"));
  if (h->best >= 0)
    INGOT_TRY(ingot_text_printf(
        text,
        "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" class=\"b\"><title>best: %.4g after step %lld</title></circle>\n",
        at_x(p, (double)h->checks[h->best].step), at_y(p, exp(h->checks[h->best].mean_nll)),
        exp(h->checks[h->best].mean_nll), (long long)h->checks[h->best].step));
done:
  return st;
}

ingot_status ingot_distill_picture(const ingot_distill_plan *plan, const ingot_distill_history *h, ingot_text *text)
{
  static const char *const titles[] = {"loss", "norm of the gradient", "learning rate"};
  ingot_status             st = INGOT_OK;
  int                      n_panel = h->n_check > 0 ? 4 : 3;
  (void)plan;
  INGOT_TRY(ingot_text_printf(
      text,
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\">\n"
      "<style>.t{font-size:14px}.x,.y{font-size:11px;fill:#555}.x{text-anchor:middle}.y{text-anchor:end}"
      ".g{stroke:#ddd}.c{fill:none;stroke:#1f5fa8;stroke-width:1.5}.b{fill:#b03020}</style>\n"
      "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
      WIDTH, n_panel * (PANEL + GAP) + TOP));
  for (int i = 0; i < n_panel; i++) {
    panel p = {.title = i < 3 ? titles[i] : "geometric mean of the validation perplexities",
               .top = TOP + i * (PANEL + GAP),
               .n_step = (double)h->n_step};
    INGOT_TRY(i < 3 ? steps_panel(h, i, &p, text) : checks_panel(h, &p, text));
  }
  INGOT_TRY(ingot_text_printf(text, "</svg>\n"));
done:
  return st;
}
