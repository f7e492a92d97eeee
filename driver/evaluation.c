/* What an evaluate step says: JSON for programs, tables for people. */
#include <math.h>
#include <stdlib.h>

#include "driver/gather_plan.h"
#include "driver/placement.h"
#include "driver/recipe.h"

static double mean_nll(const ingot_score *s)
{
  return s->n_token > 0 ? s->nll / (double)s->n_token : NAN;
}

static double accuracy(const ingot_score *s)
{
  return s->n_token > 0 ? (double)s->n_right / (double)s->n_token : NAN;
}

/* Of the perplexities of one model over the data sets. */
static double geometric_mean(const ingot_gather_plan *plan, const ingot_score *of_model)
{
  double sum = 0.0;
  for (int d = 0; d < plan->n_data; d++) sum += mean_nll(&of_model[d]);
  return exp(sum / plan->n_data);
}

json_t *ingot_evaluation_row(const ingot_gather_plan *plan, const ingot_score *of_model)
{
  json_t *row = json_object();
  for (int d = 0; d < plan->n_data; d++) {
    const ingot_score *s = &of_model[d];
    json_object_set_new(row, plan->data[d].name,
                        json_pack("{s:o, s:o, s:o, s:I}", "nll", ingot_json_number(mean_nll(s)), "perplexity",
                                  ingot_json_number(exp(mean_nll(s))), "top1", ingot_json_number(accuracy(s)), "tokens",
                                  (json_int_t)s->n_token));
  }
  return row;
}

ingot_status ingot_evaluation_json(const ingot_gather_body *body, const ingot_score *scores, ingot_text *text)
{
  const ingot_gather_plan *plan = &body->plan;
  json_t                  *models = json_object(), *data = json_object(), *rows = json_object(), *means = json_object();
  for (int m = 0; m < plan->n_model; m++) {
    const ingot_score *of_model = scores + m * plan->n_data;
    json_object_set_new(models, plan->models[m].id,
                        ingot_json_input(NULL, NULL, body->model_written[m], body->model_identity[m]));
    json_object_set_new(rows, plan->models[m].id, ingot_evaluation_row(plan, of_model));
    json_object_set_new(means, plan->models[m].id, ingot_json_number(geometric_mean(plan, of_model)));
  }
  for (int d = 0; d < plan->n_data; d++) {
    json_t *row = ingot_json_input(NULL, NULL, body->data_written[d], body->data_identity[d]);
    json_object_set_new(row, "windows", json_integer(plan->data[d].n_window));
    json_object_set_new(data, plan->data[d].name, row);
  }
  json_t *tree = json_pack("{s:i, s:s, s:I, s:s, s:o, s:o, s:o, s:o}", "format", 1, "kind", "evaluation", "window",
                           (json_int_t)plan->window.length, "dtype", ingot_compute_name(plan->compute), "models",
                           models, "data", data, "scores", rows, "geometric_mean_perplexity", means);
  return ingot_json_append(tree, "the scores", text);
}

static ingot_status table(const ingot_gather_plan *plan, const ingot_score *scores, bool perplexity, ingot_text *text)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(ingot_text_printf(text, "| %s |", perplexity ? "perplexity" : "top-1 accuracy"));
  for (int d = 0; d < plan->n_data; d++) INGOT_TRY(ingot_text_printf(text, " %s |", plan->data[d].name));
  INGOT_TRY(ingot_text_printf(text, "%s\n|---|", perplexity ? " geometric mean |" : " mean |"));
  for (int d = 0; d <= plan->n_data; d++) INGOT_TRY(ingot_text_printf(text, "---|"));
  for (int m = 0; m < plan->n_model; m++) {
    const ingot_score *row = scores + m * plan->n_data;
    double             sum = 0.0;
    INGOT_TRY(ingot_text_printf(text, "\n| %s |", plan->models[m].id));
    for (int d = 0; d < plan->n_data; d++) {
      sum += accuracy(&row[d]);
      if (perplexity) INGOT_TRY(ingot_text_printf(text, " %.3f |", exp(mean_nll(&row[d]))));
      else INGOT_TRY(ingot_text_printf(text, " %.2f %% |", 100.0 * accuracy(&row[d])));
    }
    if (perplexity) INGOT_TRY(ingot_text_printf(text, " %.3f |", geometric_mean(plan, row)));
    else INGOT_TRY(ingot_text_printf(text, " %.2f %% |", 100.0 * sum / plan->n_data));
  }
  INGOT_TRY(ingot_text_printf(text, "\n"));
done:
  return st;
}

ingot_status ingot_evaluation_table(const ingot_gather_plan *plan, const ingot_score *scores, ingot_text *text)
{
  ingot_status st = table(plan, scores, true, text);
  if (st == INGOT_OK) st = ingot_text_printf(text, "\n");
  return st == INGOT_OK ? table(plan, scores, false, text) : st;
}
