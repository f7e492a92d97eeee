/* Prompts: the beginnings of windows or of documents of token files. */
#include <stdlib.h>
#include <string.h>

#include "workers/generate/generate.h"

enum { READ_TOKENS = 1 << 16 };

/* A growing list of places; `stop` is where what they begin ends. */
typedef struct places {
  int64_t *start, *stop;
  int64_t  n, capacity;
} places;

static ingot_status add_place(places *p, int64_t start, int64_t stop)
{
  ingot_status st = INGOT_OK;
  if (p->n == p->capacity) {
    int64_t  capacity = p->capacity ? 2 * p->capacity : 1024;
    int64_t *starts = realloc(p->start, (size_t)capacity * sizeof *starts);
    if (starts) p->start = starts;
    int64_t *stops = realloc(p->stop, (size_t)capacity * sizeof *stops);
    if (stops) p->stop = stops;
    INGOT_CHECK(starts && stops, INGOT_ERR_NOMEM, "no memory for %lld prompts", (long long)capacity);
    p->capacity = capacity;
  }
  p->start[p->n] = start;
  p->stop[p->n++] = stop;
done:
  return st;
}

/* How much of [start, stop) a prompt takes, looking at its first tokens; 0: it gives none. */
static int64_t prompt_length(const ingot_generate_plan *plan, const int32_t *ids, int64_t n)
{
  int64_t room = plan->prompt - (plan->begin >= 0 && n > 0 && ids[0] != plan->begin);
  if (plan->prompt_end < 0) return n >= room ? room : -1;
  for (int64_t i = 0; i < n && i < room; i++)
    if (ids[i] == plan->prompt_end) return i + 1;
  return -1;
}

/* Keep the place when a prompt begins there. */
static ingot_status try_place(const ingot_generate_plan *plan, const ingot_tokens *tokens, int64_t n_vocab,
                              int64_t start, int64_t stop, int32_t *ids, places *out)
{
  ingot_status st = INGOT_OK;
  int64_t      n = stop - start < plan->prompt ? stop - start : plan->prompt;
  INGOT_TRY(ingot_tokens_read(tokens, start, n, n_vocab, ids));
  if (prompt_length(plan, ids, n) >= 0) INGOT_TRY(add_place(out, start, stop));
done:
  return st;
}

static ingot_status find_windows(const ingot_generate_plan *plan, const ingot_tokens *tokens, int64_t n_vocab,
                                 int32_t *ids, places *out)
{
  ingot_status      st = INGOT_OK;
  ingot_window_spec spec = plan->ensemble.gather.window;
  spec.limit = 0;
  int64_t n = ingot_window_count(tokens, &spec), stride = spec.stride > 0 ? spec.stride : spec.length;
  for (int64_t i = 0; i < n; i++)
    INGOT_TRY(try_place(plan, tokens, n_vocab, i * stride, i * stride + spec.length, ids, out));
done:
  return st;
}

static ingot_status find_documents(const ingot_generate_plan *plan, const ingot_tokens *tokens, int64_t n_vocab,
                                   int32_t *ids, places *out)
{
  ingot_status st = INGOT_OK;
  int64_t      count = ingot_tokens_count(tokens), begun = -1;
  int32_t     *block = malloc(READ_TOKENS * sizeof *block);
  INGOT_CHECK(block, INGOT_ERR_NOMEM, "no memory to look for documents");
  for (int64_t at = 0; at < count; at += READ_TOKENS) {
    int64_t n = count - at < READ_TOKENS ? count - at : READ_TOKENS;
    INGOT_TRY(ingot_tokens_read(tokens, at, n, n_vocab, block));
    for (int64_t i = 0; i < n; i++) {
      if (block[i] != plan->ensemble.gather.window.document) continue;
      if (begun >= 0) INGOT_TRY(try_place(plan, tokens, n_vocab, begun, at + i, ids, out));
      begun = at + i;
    }
  }
  if (begun >= 0) INGOT_TRY(try_place(plan, tokens, n_vocab, begun, count, ids, out));
done:
  free(block);
  return st;
}

/* In the order of the window spec, as many as it takes. */
static ingot_status take_places(const ingot_generate_plan *plan, const places *found, places *out, int64_t *n_taken)
{
  ingot_status             st = INGOT_OK;
  const ingot_window_spec *spec = &plan->ensemble.gather.window;
  *n_taken = spec->limit > 0 && spec->limit < found->n ? spec->limit : found->n;
  for (int64_t i = 0; i < *n_taken; i++) {
    int64_t from = spec->shuffle ? ingot_permuted(found->n, spec->seed, i) : i;
    INGOT_TRY(add_place(out, found->start[from], found->stop[from]));
  }
done:
  return st;
}

static ingot_status find_in_data(const ingot_generate_plan *plan, int d, int64_t n_vocab, places *out, int64_t *n_taken)
{
  ingot_status             st = INGOT_OK;
  const ingot_gather_data *data = &plan->ensemble.gather.data[d];
  ingot_tokens            *tokens = NULL;
  places                   found = {0};
  int32_t                 *ids = malloc((size_t)plan->prompt * sizeof *ids);
  INGOT_CHECK(ids, INGOT_ERR_NOMEM, "no memory for a prompt");
  INGOT_TRY(ingot_tokens_open(data->path, data->dtype, &tokens));
  INGOT_TRY(plan->documents ? find_documents(plan, tokens, n_vocab, ids, &found)
                            : find_windows(plan, tokens, n_vocab, ids, &found));
  if (plan->prompt_end >= 0)
    INGOT_CHECK(found.n > 0, INGOT_ERR_MISMATCH,
                "%s: no %s has token %d, which ends a prompt, among its first %lld tokens", data->path,
                plan->documents ? "document" : "window", plan->prompt_end, (long long)plan->prompt);
  INGOT_CHECK(found.n > 0, INGOT_ERR_MISMATCH, "%s: no %s of %lld tokens for a prompt", data->path,
              plan->documents ? "document" : "window",
              (long long)(plan->documents ? plan->prompt : plan->ensemble.gather.window.length));
  INGOT_TRY(take_places(plan, &found, out, n_taken));
done:
  free(found.start);
  free(found.stop);
  free(ids);
  ingot_tokens_close(&tokens);
  return st;
}

ingot_status ingot_prompts_find(const ingot_generate_plan *plan, int64_t n_vocab, ingot_prompts *out)
{
  ingot_status st = INGOT_OK;
  int          n_data = plan->ensemble.gather.n_data;
  places       all = {0};
  *out = (ingot_prompts){0};
  out->per_data = calloc((size_t)n_data + 1, sizeof *out->per_data);
  INGOT_CHECK(out->per_data, INGOT_ERR_NOMEM, "no memory for prompts");
  if (n_data == 0) {
    INGOT_ASSERT(plan->begin >= 0);
    INGOT_TRY(add_place(&all, 0, 0));
    out->per_data[0] = 1;
  }
  for (int d = 0; d < n_data; d++) INGOT_TRY(find_in_data(plan, d, n_vocab, &all, &out->per_data[d]));
done:
  out->start = all.start;
  out->stop = all.stop;
  out->n = all.n;
  return st;
}

void ingot_prompts_release(ingot_prompts *prompts)
{
  free(prompts->start);
  free(prompts->stop);
  free(prompts->per_data);
  *prompts = (ingot_prompts){0};
}

ingot_status ingot_prompts_read(const ingot_generate_plan *plan, const ingot_prompts *prompts,
                                ingot_tokens *const *tokens_of, int64_t i, int64_t n_vocab, int32_t *tokens, int32_t *n,
                                int32_t *gold, int32_t *n_gold)
{
  ingot_status st = INGOT_OK;
  *n = *n_gold = 0;
  if (plan->ensemble.gather.n_data == 0) {
    tokens[(*n)++] = plan->begin;
    goto done;
  }
  int     d = 0;
  int64_t first = 0;
  while (i >= first + prompts->per_data[d]) first += prompts->per_data[d++];
  int64_t start = prompts->start[i], stop = prompts->stop[i],
          room = stop - start < plan->prompt ? stop - start : plan->prompt;
  INGOT_TRY(ingot_tokens_read(tokens_of[d], start, room, n_vocab, tokens));
  int64_t taken = prompt_length(plan, tokens, room);
  INGOT_CHECK(taken >= 0, INGOT_ERR_FORMAT, "%s: the file was changed after it was looked at",
              ingot_tokens_path(tokens_of[d]));
  *n = (int32_t)taken;
  if (plan->begin >= 0 && tokens[0] != plan->begin) {
    memmove(tokens + 1, tokens, (size_t)taken * sizeof *tokens);
    tokens[0] = plan->begin;
    (*n)++;
  }
  int64_t n_rest = stop - start - taken < plan->length ? stop - start - taken : plan->length;
  INGOT_TRY(ingot_tokens_read(tokens_of[d], start + taken, n_rest, n_vocab, gold));
  while (*n_gold < n_rest && gold[*n_gold] != plan->end) (*n_gold)++;
done:
  return st;
}
