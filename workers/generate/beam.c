#include "workers/generate/beam.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "workers/generate/choose.h"

typedef struct ingot_beam_candidate {
  double            sum;
  int               row; /* of the running hypotheses */
  int32_t           token;
  const ingot_beam *beam;
} candidate;

ingot_status ingot_beam_init(ingot_beam *b, const ingot_beam_spec *spec)
{
  ingot_status st = INGOT_OK;
  size_t       width = (size_t)spec->width, length = (size_t)spec->max_length;
  INGOT_ASSERT(spec->width >= 1 && spec->max_length >= 1);
  *b = (ingot_beam){.spec = *spec};
  b->all = calloc(3 * width + 1, sizeof *b->all); /* one more: what is inserted */
  b->tokens = calloc((3 * width + 1) * length, sizeof *b->tokens);
  b->candidates = calloc(2 * width * width, sizeof *b->candidates);
  INGOT_CHECK(b->all && b->tokens && b->candidates, INGOT_ERR_NOMEM, "no memory for %d beams of %lld tokens",
              spec->width, (long long)spec->max_length);
  for (size_t i = 0; i < 3 * width + 1; i++) b->all[i].tokens = b->tokens + i * length;
  b->run = b->all;
  b->next = b->all + width;
  b->done = b->all + 2 * width;
  ingot_beam_start(b);
done:
  return st;
}

void ingot_beam_release(ingot_beam *b)
{
  free(b->all);
  free(b->tokens);
  free(b->candidates);
  *b = (ingot_beam){0};
}

void ingot_beam_start(ingot_beam *b)
{
  b->n_run = 1;
  b->n_done = 0;
  b->over = false;
  b->run[0].sum = 0.0;
  b->run[0].length = 0;
}

static int compare_tokens(const int32_t *a, int64_t n_a, const int32_t *b, int64_t n_b)
{
  int64_t n = n_a < n_b ? n_a : n_b;
  for (int64_t i = 0; i < n; i++)
    if (a[i] != b[i]) return a[i] < b[i] ? -1 : 1;
  return n_a < n_b ? -1 : n_a > n_b;
}

static int compare_candidates(const void *x, const void *y)
{
  const candidate *a = x, *b = y;
  if (a->sum > b->sum || a->sum < b->sum) return a->sum > b->sum ? -1 : 1;
  const ingot_hypothesis *ha = &a->beam->run[a->row], *hb = &b->beam->run[b->row];
  int                     order = compare_tokens(ha->tokens, ha->length, hb->tokens, hb->length);
  return order ? order : (a->token > b->token) - (a->token < b->token);
}

/* h = the candidate's hypothesis. */
static void extend(const ingot_beam *b, const candidate *c, ingot_hypothesis *h)
{
  const ingot_hypothesis *from = &b->run[c->row];
  memcpy(h->tokens, from->tokens, (size_t)from->length * sizeof *h->tokens);
  h->tokens[from->length] = c->token;
  h->length = from->length + 1;
  h->sum = c->sum;
  h->ended = c->token == b->spec.end;
}

static bool is_better(const ingot_hypothesis *a, const ingot_hypothesis *b)
{
  if (a->score > b->score || a->score < b->score) return a->score > b->score;
  return compare_tokens(a->tokens, a->length, b->tokens, b->length) < 0;
}

/* Into the finished ones, in its order; the worst of more than K goes. */
static void finish(ingot_beam *b, const candidate *c)
{
  int               at = b->n_done;
  ingot_hypothesis *h = &b->done[at];
  extend(b, c, h);
  h->score = h->sum / pow((double)h->length, b->spec.penalty);
  for (; at > 0 && is_better(&b->done[at], &b->done[at - 1]); at--) {
    ingot_hypothesis swap = b->done[at];
    b->done[at] = b->done[at - 1];
    b->done[at - 1] = swap;
  }
  if (b->n_done < b->spec.width) b->n_done++;
}

/* Whether a running hypothesis can become better than the worst finished one. A sum only falls; dividing it by a larger
 * length helps where the penalty is positive. */
static bool can_improve(const ingot_beam *b)
{
  if (b->n_run == 0) return false;
  if (b->n_done < b->spec.width) return true;
  int64_t length = b->spec.penalty > 0.0 ? b->spec.max_length : b->run[0].length;
  return b->run[0].sum / pow((double)length, b->spec.penalty) > b->done[b->n_done - 1].score;
}

/* The best continuations of a hypothesis; a token that is ruled out continues nothing. */
static ingot_status gather(ingot_beam *b, int r, int64_t n, const float *z, const int32_t *ids, int32_t *room,
                           int *n_candidate)
{
  ingot_status st = INGOT_OK;
  int64_t      most = 2 * (int64_t)b->spec.width;
  double       log_sum = ids ? 0.0 : ingot_choose_log_sum(n, z);
  INGOT_CHECK(isfinite(ids ? (double)z[0] : log_sum), INGOT_ERR_NUMERIC, "the logits are not finite");
  n = ids ? (most < n ? most : n) : ingot_choose_best(n, z, most, room, room + n);
  for (int64_t i = 0; i < n; i++) {
    float value = ids ? z[i] : z[room[i]];
    if (!(value > -INFINITY)) break;
    b->candidates[(*n_candidate)++] =
        (candidate){b->run[r].sum + (double)value - log_sum, r, ids ? ids[i] : room[i], b};
  }
done:
  return st;
}

ingot_status ingot_beam_step(ingot_beam *b, int64_t n, const float *z, const int32_t *ids, int64_t ld, int32_t *room,
                             int32_t *from, int32_t *token)
{
  ingot_status st = INGOT_OK;
  int          n_candidate = 0, n_run = 0, width = b->spec.width;
  bool         last = b->run[0].length + 1 == b->spec.max_length;
  INGOT_ASSERT(!b->over && b->n_run > 0);
  for (int r = 0; r < b->n_run; r++)
    INGOT_TRY(gather(b, r, n, z + r * ld, ids ? ids + r * ld : NULL, room, &n_candidate));
  qsort(b->candidates, (size_t)n_candidate, sizeof *b->candidates, compare_candidates);
  for (int i = 0; i < n_candidate && i < 2 * width; i++) {
    const candidate *c = &b->candidates[i];
    if (last || c->token == b->spec.end) {
      if (i < width) finish(b, c);
    } else if (n_run < width) {
      from[n_run] = c->row;
      token[n_run] = c->token;
      extend(b, c, &b->next[n_run++]);
    }
  }
  ingot_hypothesis *swap = b->run;
  b->run = b->next;
  b->next = swap;
  b->n_run = n_run;
  b->over = !can_improve(b);
done:
  return st;
}
