/* The search for a soup: which averages are tried, in which order, and what is kept. It knows nothing of models. */
#include <math.h>
#include <stdlib.h>

#include "base/log.h"
#include "workers/statistics/soup.h"

int ingot_soup_evaluations(int n, ingot_soup_kind kind)
{
  return kind == INGOT_SOUP_UNIFORM ? n + 1 : 2 * n - 1;
}

void ingot_soup_release(ingot_soup *soup)
{
  free(soup->scores);
  free(soup->order);
  free(soup->members);
  free(soup->trials);
  *soup = (ingot_soup){0};
}

static bool is_before(const ingot_soup *s, int a, int b)
{
  bool good_a = isfinite(s->scores[a]), good_b = isfinite(s->scores[b]);
  if (good_a != good_b) return good_a;
  if (good_a && s->scores[a] != s->scores[b]) return s->scores[a] > s->scores[b];
  return a < b;
}

/* Insertion: there are few candidates, and equal ones keep their order. */
static void rank(ingot_soup *s, const char *const *names)
{
  for (int i = 0; i < s->n; i++) {
    int at = i;
    for (; at > 0 && is_before(s, i, s->order[at - 1]); at--) s->order[at] = s->order[at - 1];
    s->order[at] = i;
  }
  for (int i = 1; i < s->n; i++)
    if (s->scores[s->order[i - 1]] == s->scores[s->order[i]])
      ingot_log_info("\"%s\" and \"%s\" have the same score, %.9g: taken in the order in which they are listed",
                     names[s->order[i - 1]], names[s->order[i]], s->scores[s->order[i]]);
}

static ingot_status try_all(ingot_soup *s, int *n_evaluation, ingot_soup_scorer score, void *context)
{
  ingot_status      st = INGOT_OK;
  ingot_soup_trial *t = &s->trials[s->n_trial++];
  for (int i = 0; i < s->n; i++) s->members[i] = i;
  s->n_member = s->n;
  *t = (ingot_soup_trial){.model = -1, .n_member = s->n, .evaluation = (*n_evaluation)++};
  INGOT_TRY(score(context, s->members, s->n, &t->score));
  INGOT_CHECK(isfinite(t->score), INGOT_ERR_NUMERIC, "the score of the average of all %d candidates is not finite",
              s->n);
  t->accepted = true;
  s->score = t->score;
done:
  return st;
}

static ingot_status try_one(ingot_soup *s, int model, ingot_soup_accept accept, int *n_evaluation,
                            ingot_soup_scorer score, void *context)
{
  ingot_status      st = INGOT_OK;
  ingot_soup_trial *t = &s->trials[s->n_trial++];
  *t = (ingot_soup_trial){.model = model, .n_member = s->n_member + 1, .evaluation = (*n_evaluation)++};
  s->members[s->n_member] = model;
  INGOT_TRY(score(context, s->members, t->n_member, &t->score));
  t->accepted = isfinite(t->score) && (t->score > s->score || (accept == INGOT_SOUP_GE && t->score == s->score));
  if (!t->accepted) goto done;
  s->n_member = t->n_member;
  s->score = t->score;
done:
  return st;
}

ingot_status ingot_soup_init(int n, ingot_soup *s)
{
  *s = (ingot_soup){.n = n};
  s->scores = calloc((size_t)n + 1, sizeof *s->scores);
  s->order = calloc((size_t)n + 1, sizeof *s->order);
  s->members = calloc((size_t)n + 1, sizeof *s->members);
  s->trials = calloc((size_t)n + 1, sizeof *s->trials);
  if (s->scores && s->order && s->members && s->trials) return INGOT_OK;
  return ingot_fail(INGOT_ERR_NOMEM, "no memory for %d candidates", n);
}

ingot_status ingot_soup_search(const char *const *names, ingot_soup_kind kind, ingot_soup_accept accept,
                               ingot_soup_scorer score, void *context, ingot_soup *s)
{
  ingot_status st = INGOT_OK;
  int          n_evaluation = s->n;
  for (int i = 0; i < s->n; i++) INGOT_TRY(score(context, &i, 1, &s->scores[i]));
  rank(s, names);
  if (kind == INGOT_SOUP_UNIFORM) {
    st = try_all(s, &n_evaluation, score, context);
    goto done;
  }
  INGOT_CHECK(isfinite(s->scores[s->order[0]]), INGOT_ERR_NUMERIC, "none of the %d candidates has a finite score",
              s->n);
  s->members[0] = s->order[0];
  s->n_member = 1;
  s->score = s->scores[s->order[0]];
  for (int i = 1; i < s->n && isfinite(s->scores[s->order[i]]); i++)
    INGOT_TRY(try_one(s, s->order[i], accept, &n_evaluation, score, context));
done:
  return st;
}
