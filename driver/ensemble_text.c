/* What an ensemble step says: JSON for programs, tables for people. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "driver/ensemble_plan.h"
#include "driver/placement.h"
#include "driver/plausibility.h"
#include "driver/recipe.h"

/* "all", or the data set that a row of weights is for. */
static const char *row_name(const ingot_ensemble_plan *plan, int row)
{
  return plan->n_row > 1 ? plan->gather.data[row].name : "all";
}

static json_t *models_json(const ingot_gather_body *gather, const ingot_ensemble_plan *plan)
{
  json_t *list = json_array();
  for (int m = 0; m < plan->gather.n_model; m++)
    json_array_append_new(list, ingot_json_input("id", plan->gather.models[m].id, gather->model_written[m],
                                                 gather->model_identity[m]));
  return list;
}

static json_t *data_json(const ingot_gather_body *gather, const ingot_ensemble_plan *plan, int begin, int end)
{
  json_t *data = json_object();
  for (int d = begin; d < end; d++) {
    json_t *row = ingot_json_input(NULL, NULL, gather->data_written[d], gather->data_identity[d]);
    json_object_set_new(row, "windows", json_integer(plan->gather.data[d].n_window));
    json_object_set_new(data, plan->gather.data[d].name, row);
  }
  return data;
}

static json_t *weights_json(const ingot_ensemble_plan *plan, const ingot_ensemble_result *result)
{
  json_t *weights = json_object();
  int     n = plan->gather.n_model;
  for (int r = 0; r < plan->n_row; r++) {
    json_t *row = json_array();
    for (int m = 0; m < n; m++) json_array_append_new(row, json_real(result->weights[r * n + m]));
    json_object_set_new(weights, row_name(plan, r), row);
  }
  return weights;
}

static json_t *learning_json(const ingot_ensemble_plan *plan, const ingot_ensemble_result *result)
{
  json_t *rows = json_object();
  for (int r = 0; r < plan->n_row; r++) {
    const ingot_ensemble_learning *how = &result->learning[r];
    json_object_set_new(rows, row_name(plan, r),
                        json_pack("{s:o, s:o, s:I, s:I, s:b}", "start_nll", ingot_json_number(how->start_nll),
                                  "end_nll", ingot_json_number(how->end_nll), "tokens", (json_int_t)how->n_token,
                                  "steps", (json_int_t)how->n_iteration, "converged", (int)how->converged));
  }
  return rows;
}

/* Of the perplexities of one model over the data sets. */
static double geometric_mean(const ingot_ensemble_plan *plan, const ingot_score *of_model)
{
  double sum = 0.0;
  for (int d = 0; d < plan->n_score; d++) sum += of_model[d].nll / (double)of_model[d].n_token;
  return exp(sum / plan->n_score);
}

ingot_status ingot_ensemble_json(const ingot_ensemble_body *body, const ingot_ensemble_result *result, ingot_text *text)
{
  const ingot_ensemble_plan *plan = &body->plan;
  const ingot_gather_body   *gather = body->members.body;
  ingot_gather_plan          scored = plan->gather;
  int                        n = plan->gather.n_model;
  json_t                    *members = json_object(), *means = json_object();
  const ingot_score         *own = result->scores + n * plan->n_score;
  scored.n_data = plan->n_score;
  for (int m = 0; m < n; m++) {
    const ingot_score *of_model = result->scores + m * plan->n_score;
    json_object_set_new(members, plan->gather.models[m].id, ingot_evaluation_row(&scored, of_model));
    json_object_set_new(means, plan->gather.models[m].id, ingot_json_number(geometric_mean(plan, of_model)));
  }
  json_t *tree = json_pack("{s:i, s:s, s:s, s:I, s:s, s:o, s:o, s:o}", "format", 1, "kind", "ensemble", "combination",
                           ingot_ensemble_kind_name(plan->kind), "window", (json_int_t)plan->gather.window.length,
                           "dtype", ingot_compute_name(plan->gather.compute), "models", models_json(gather, plan),
                           "data", data_json(gather, plan, 0, plan->n_score), "weights", weights_json(plan, result));
  if (tree && plan->kind == INGOT_ENSEMBLE_LOG_LINEAR) json_object_set_new(tree, "floor", json_real(plan->floor));
  if (tree) ingot_plausibility_note(tree, plan->plausibility, plan->gather.models[plan->reference].id);
  if (tree && plan->learn) {
    json_object_set_new(tree, "learn_data", data_json(gather, plan, plan->n_score, plan->gather.n_data));
    json_object_set_new(tree, "learning", learning_json(plan, result));
  }
  if (tree) {
    json_object_set_new(tree, "ensemble", ingot_evaluation_row(&scored, own));
    if (plan->plausibility > 0.0) json_object_set_new(tree, "kept", ingot_evaluation_row(&scored, result->kept));
    json_object_set_new(tree, "members", members);
    json_object_set_new(tree, "geometric_mean_perplexity",
                        json_pack("{s:o, s:o}", "ensemble", ingot_json_number(geometric_mean(plan, own)), "members",
                                  means));
  }
  return ingot_json_append(tree, "the scores", text);
}

static ingot_status weights_table(const ingot_ensemble_plan *plan, const ingot_ensemble_result *result,
                                  ingot_text *text)
{
  ingot_status st = INGOT_OK;
  int          n = plan->gather.n_model;
  INGOT_TRY(ingot_text_printf(text, "| weights |"));
  for (int m = 0; m < n; m++) INGOT_TRY(ingot_text_printf(text, " %s |", plan->gather.models[m].id));
  INGOT_TRY(ingot_text_printf(text, "%s\n|---|", plan->learn ? " loss before | after |" : ""));
  for (int m = 0; m < n + (plan->learn ? 2 : 0); m++) INGOT_TRY(ingot_text_printf(text, "---|"));
  for (int r = 0; r < plan->n_row; r++) {
    INGOT_TRY(ingot_text_printf(text, "\n| %s |", row_name(plan, r)));
    for (int m = 0; m < n; m++) INGOT_TRY(ingot_text_printf(text, " %.4f |", result->weights[r * n + m]));
    if (plan->learn)
      INGOT_TRY(ingot_text_printf(text, " %.4f | %.4f |", result->learning[r].start_nll, result->learning[r].end_nll));
  }
  INGOT_TRY(ingot_text_printf(text, "\n\n"));
done:
  return st;
}

ingot_status ingot_ensemble_table(const ingot_ensemble_body *body, const ingot_ensemble_result *result,
                                  ingot_text *text)
{
  ingot_status               st = INGOT_OK;
  const ingot_ensemble_plan *plan = &body->plan;
  ingot_gather_plan          scored = plan->gather;
  int                        n = plan->gather.n_model;
  ingot_gather_model        *models = calloc((size_t)n + 1, sizeof *models);
  INGOT_CHECK(models, INGOT_ERR_NOMEM, "no memory for a table");
  memcpy(models, plan->gather.models, (size_t)n * sizeof *models);
  models[n].id = "ensemble";
  scored.models = models;
  scored.n_model = n + 1;
  scored.n_data = plan->n_score;
  INGOT_TRY(weights_table(plan, result, text));
  INGOT_TRY(ingot_evaluation_table(&scored, result->scores, text));
  for (int d = 0; d < plan->n_score && plan->plausibility > 0.0; d++) {
    const ingot_score *all = &result->scores[n * plan->n_score + d], *kept = &result->kept[d];
    INGOT_TRY(ingot_text_printf(text, "%s%s: %lld of %lld tokens are ruled out, perplexity of the others %.3f\n",
                                d == 0 ? "\n" : "", scored.data[d].name, (long long)(all->n_token - kept->n_token),
                                (long long)all->n_token, exp(kept->nll / (double)kept->n_token)));
  }
done:
  free(models);
  return st;
}
