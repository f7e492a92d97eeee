/* What a soup step says of its search: JSON for programs, tables for people. */
#include <math.h>
#include <stdlib.h>

#include "driver/recipe.h"
#include "driver/soup_plan.h"

static const ingot_gather_plan *gather_of(const ingot_soup_body *body)
{
  return &((const ingot_gather_body *)body->parts.gather.body)->plan;
}

static json_t *number(double value)
{
  return isfinite(value) ? json_real(value) : json_null();
}

static json_t *members_json(const ingot_gather_plan *g, const ingot_soup *soup)
{
  json_t *list = json_array();
  for (int i = 0; i < soup->n_member; i++) json_array_append_new(list, ingot_json_text(g->models[soup->members[i]].id));
  return list;
}

static json_t *inputs_json(const ingot_gather_body *body)
{
  const ingot_gather_plan *g = &body->plan;
  json_t                  *models = json_object(), *data = json_object();
  for (int i = 0; i < g->n_model; i++)
    json_object_set_new(models, g->models[i].id, json_pack("{s:o}", "path", ingot_json_text(body->model_written[i])));
  for (int i = 0; i < g->n_data; i++)
    json_object_set_new(data, g->data[i].name,
                        json_pack("{s:o, s:I}", "path", ingot_json_text(body->data_written[i]), "windows",
                                  (json_int_t)g->data[i].n_window));
  return json_pack("{s:o, s:o}", "models", models, "data", data);
}

static json_t *ranking_json(const ingot_gather_plan *g, const ingot_soup *soup, const ingot_score *scores)
{
  json_t *list = json_array();
  for (int i = 0; i < soup->n; i++) {
    int m = soup->order[i];
    json_array_append_new(list, json_pack("{s:o, s:o, s:o}", "model", ingot_json_text(g->models[m].id), "score",
                                          number(soup->scores[m]), "scores",
                                          ingot_evaluation_row(g, scores + m * g->n_data)));
  }
  return list;
}

static json_t *trials_json(const ingot_gather_plan *g, const ingot_soup *soup, const ingot_score *scores)
{
  json_t *list = json_array();
  for (int i = 0; i < soup->n_trial; i++) {
    const ingot_soup_trial *t = &soup->trials[i];
    json_array_append_new(list,
                          json_pack("{s:o, s:i, s:o, s:b, s:o}", "add",
                                    t->model >= 0 ? ingot_json_text(g->models[t->model].id) : json_null(), "members",
                                    t->n_member, "score", number(t->score), "accepted", (int)t->accepted, "scores",
                                    ingot_evaluation_row(g, scores + t->evaluation * g->n_data)));
  }
  return list;
}

ingot_status ingot_soup_json(const ingot_soup_body *body, const ingot_soup *soup, const ingot_score *scores,
                             ingot_text *text)
{
  const ingot_gather_plan *g = gather_of(body);
  json_t                  *tree =
      json_pack("{s:i, s:s, s:s, s:s, s:s, s:I, s:o, s:o, s:o, s:o, s:o}", "format", 1, "kind", "soup", "search",
                ingot_soup_search_names[body->soup.kind], "accept", ingot_soup_accept_names[body->soup.accept],
                "metric", ingot_soup_metric_names[body->soup.metric], "window", (json_int_t)g->window.length, "inputs",
                inputs_json(body->parts.gather.body), "ranking", ranking_json(g, soup, scores), "trials",
                trials_json(g, soup, scores), "members", members_json(g, soup), "score", number(soup->score));
  return ingot_json_append(tree, "the table of a soup", text);
}

ingot_status ingot_soup_members(const ingot_soup_body *body, const ingot_soup *soup, ingot_text *text)
{
  ingot_status st = INGOT_OK;
  json_t      *tree = json_pack("{s:o}", "members", members_json(gather_of(body), soup));
  char        *plain = tree ? json_dumps(tree, JSON_COMPACT) : NULL;
  INGOT_CHECK(plain, INGOT_ERR_NOMEM, "no memory for the members of a soup");
  st = ingot_text_printf(text, "%s", plain);
done:
  free(plain);
  json_decref(tree);
  return st;
}

/* A score as people read it. */
static ingot_status cells(const ingot_soup_body *body, double score, ingot_text *text)
{
  if (!isfinite(score)) return ingot_text_printf(text, " not finite |");
  if (body->soup.metric == INGOT_SOUP_ACCURACY) return ingot_text_printf(text, " %.3f %% |", 100.0 * score);
  return ingot_text_printf(text, " %.5f (%.3f) |", -score, exp(-score));
}

ingot_status ingot_soup_table(const ingot_soup_body *body, const ingot_soup *soup, ingot_text *text)
{
  ingot_status             st = INGOT_OK;
  const ingot_gather_plan *g = gather_of(body);
  const char              *what = body->soup.metric == INGOT_SOUP_LOSS ? "mean loss (perplexity)" : "mean accuracy";
  INGOT_TRY(ingot_text_printf(text, "| candidate | %s |\n|---|---|\n", what));
  for (int i = 0; i < soup->n; i++) {
    INGOT_TRY(ingot_text_printf(text, "| %s |", g->models[soup->order[i]].id));
    INGOT_TRY(cells(body, soup->scores[soup->order[i]], text));
    INGOT_TRY(ingot_text_printf(text, "\n"));
  }
  INGOT_TRY(ingot_text_printf(text, "\n| average | %s | |\n|---|---|---|\n", what));
  for (int i = 0; i < soup->n_trial; i++) {
    const ingot_soup_trial *t = &soup->trials[i];
    if (t->model < 0) INGOT_TRY(ingot_text_printf(text, "| of all %d |", t->n_member));
    else INGOT_TRY(ingot_text_printf(text, "| of %d, with %s |", t->n_member, g->models[t->model].id));
    INGOT_TRY(cells(body, t->score, text));
    INGOT_TRY(ingot_text_printf(text, " %s |\n", t->accepted ? "accepted" : "rejected"));
  }
done:
  return st;
}
