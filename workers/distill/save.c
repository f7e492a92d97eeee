/*
 * Saved training: a file for each rank and one of two generations, "<output>.state.<generation>.<rank>-of-<ranks>", and
 * "<output>.state.last", text, which names the generations that are whole, newest first: "generation step ranks" a
 * line. It is written when all ranks have written theirs, so a run that is killed at any moment finds one that is
 * whole.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "io/atomic_file.h"
#include "workers/distill/trainer.h"

enum { PARTS_MAX = 14, MARKER_BYTES = 256 };

/* The fixed part of a state; what follows it has sizes that the plan and the step fix. */
typedef struct saved_head {
  int64_t step, validated, n_check, best, n_elem, n_rank;
} saved_head;

typedef struct generation {
  int     number; /* 0 or 1; -1: none */
  int64_t step;
  int     n_rank;
} generation;

static ingot_status state_path(const ingot_trainer *t, int number, int rank, int size, ingot_text *text)
{
  ingot_text   base = {0};
  ingot_status st = ingot_state_path(t->plan->validation.output, rank, size, &base);
  const char  *tail =
      st == INGOT_OK ? strstr(ingot_text_string(&base) + strlen(t->plan->validation.output) - 1, ".state.") : NULL;
  if (tail)
    st = ingot_text_printf(text, "%.*s.state.%d.%s", (int)(tail - ingot_text_string(&base)), ingot_text_string(&base),
                           number, tail + strlen(".state."));
  ingot_text_release(&base);
  return st;
}

static ingot_status marker_path(const ingot_trainer *t, ingot_text *text)
{
  char        *path = ingot_file_sibling(t->plan->validation.output, ".state.last");
  ingot_status st = path ? ingot_text_printf(text, "%s", path) : ingot_fail(INGOT_ERR_NOMEM, "no memory for a path");
  free(path);
  return st;
}

/* Rank 0: which generations are whole, newest first. */
static ingot_status read_marker(const ingot_trainer *t, generation g[2])
{
  ingot_text   path = {0};
  FILE        *f = NULL;
  ingot_status st = marker_path(t, &path);
  g[0] = g[1] = (generation){.number = -1};
  INGOT_TRY(st);
  f = fopen(ingot_text_string(&path), "r");
  for (int i = 0; f && i < 2; i++) {
    long long  step;
    generation read = {0};
    if (fscanf(f, "%d %lld %d", &read.number, &step, &read.n_rank) != 3) break;
    if (read.number < 0 || read.number > 1 || read.n_rank < 1 || step < 0 || step > t->plan->n_step) break;
    read.step = step;
    g[i] = read;
  }
done:
  if (f) fclose(f);
  ingot_text_release(&path);
  return st;
}

static ingot_status write_marker(const ingot_trainer *t, const generation g[2])
{
  ingot_status st = INGOT_OK;
  ingot_text   path = {0}, text = {0};
  INGOT_TRY(marker_path(t, &path));
  for (int i = 0; i < 2; i++)
    if (g[i].number >= 0)
      INGOT_TRY(ingot_text_printf(&text, "%d %lld %d\n", g[i].number, (long long)g[i].step, g[i].n_rank));
  INGOT_TRY(ingot_file_replace(ingot_text_string(&path), ingot_text_string(&text), text.size, false));
done:
  ingot_text_release(&path);
  ingot_text_release(&text);
  return st;
}

/* ---- what a state holds ---- */

/* Its small parts, in host memory. */
static int small_parts(const ingot_trainer *t, saved_head *head, int64_t *drawn, const ingot_distill_history *h,
                       ingot_state_part *parts)
{
  int n = 0;
  parts[n++] = (ingot_state_part){head, sizeof *head};
  parts[n++] = (ingot_state_part){drawn, (size_t)t->plan->n_data * sizeof *drawn};
  parts[n++] = (ingot_state_part){h->records, (size_t)t->plan->n_step * sizeof *h->records};
  parts[n++] = (ingot_state_part){h->checks, (size_t)h->capacity * sizeof *h->checks};
  parts[n++] =
      (ingot_state_part){h->check_nll, (size_t)(h->capacity * t->plan->validation.n_data) * sizeof *h->check_nll};
  return n;
}

enum { N_ARRAY = 4 };

/* Its arrays of one float a parameter: the best (host memory), the parameters, the moments. After the last step the
 * output alone is to be written: no moments. *n_array gets their number, the return value the host's. */
static int slice_arrays(const ingot_trainer *t, int64_t step, float *arrays[N_ARRAY], int *n_array)
{
  const ingot_optimizer *o = &t->optimizer;
  int                    n = 0;
  if (t->best) arrays[n++] = t->best;
  int n_host = n;
  arrays[n++] = o->master;
  if (step < t->plan->n_step) arrays[n++] = o->m;
  if (step < t->plan->n_step) arrays[n++] = o->v;
  *n_array = n;
  return n_host;
}

/* ---- saving ---- */

static ingot_status save_own(ingot_trainer *t, int number)
{
  ingot_status     st = INGOT_OK;
  int              rank = ingot_comm_rank(t->comm), size = ingot_comm_size(t->comm), n_array = 0;
  ingot_text       path = {0};
  float           *arrays[N_ARRAY];
  ingot_state_part parts[PARTS_MAX];
  saved_head       head = {.step = t->step,
                           .validated = t->validated,
                           .n_check = t->history->n_check,
                           .best = t->history->best,
                           .n_elem = t->optimizer.model->layout.n_elem,
                           .n_rank = size};
  INGOT_TRY(state_path(t, number, rank, size, &path));
  int n = small_parts(t, &head, t->drawn, t->history, parts), n_host = n + slice_arrays(t, t->step, arrays, &n_array);
  for (int i = 0; i < n_array; i++)
    parts[n++] = (ingot_state_part){arrays[i], (size_t)(t->optimizer.end - t->optimizer.begin) * sizeof(float)};
  INGOT_TRY(ingot_state_save_mixed(ingot_text_string(&path), t->plan->validation.fingerprint, t->step + 1, t->g.nn,
                                   parts, n, n_host));
done:
  ingot_text_release(&path);
  return st;
}

ingot_status ingot_trainer_save(ingot_trainer *t)
{
  ingot_status st = INGOT_OK;
  generation   g[2];
  bool         root = ingot_comm_rank(t->comm) == 0;
  st = root ? read_marker(t, g) : INGOT_OK;
  INGOT_TRY(ingot_comm_agree(t->comm, st));
  INGOT_TRY(ingot_comm_bcast(t->comm, g, sizeof g, 0));
  int next = g[0].number < 0 ? 0 : 1 - g[0].number;
  if (g[1].number == next) { /* no longer whole from here on */
    g[1].number = -1;
    INGOT_TRY(ingot_comm_agree(t->comm, root ? write_marker(t, g) : INGOT_OK));
  }
  INGOT_TRY(ingot_comm_agree(t->comm, save_own(t, next)));
  g[1] = g[0];
  g[0] = (generation){next, t->step, ingot_comm_size(t->comm)};
  INGOT_TRY(ingot_comm_agree(t->comm, root ? write_marker(t, g) : INGOT_OK));
  t->save_s = ingot_clock_s();
done:
  return st;
}

/* ---- taking up ---- */

/* The small parts, before anything of the trainer changes. */
typedef struct loading {
  saved_head            head;
  int64_t              *drawn;
  ingot_distill_history history;
} loading;

static void release_loading(loading *l)
{
  free(l->drawn);
  ingot_distill_history_release(&l->history);
}

static ingot_status make_loading(const ingot_trainer *t, loading *l)
{
  ingot_status st = INGOT_OK;
  int64_t      capacity = t->history->capacity;
  l->drawn = calloc((size_t)t->plan->n_data + 1, sizeof *l->drawn);
  l->history = (ingot_distill_history){.n_step = t->plan->n_step, .capacity = capacity};
  l->history.records = calloc((size_t)t->plan->n_step + 1, sizeof *l->history.records);
  l->history.checks = calloc((size_t)capacity + 1, sizeof *l->history.checks);
  l->history.check_nll = calloc((size_t)(capacity * t->plan->validation.n_data) + 1, sizeof *l->history.check_nll);
  INGOT_CHECK(l->drawn && l->history.records && l->history.checks && l->history.check_nll, INGOT_ERR_NOMEM,
              "no memory for a saved training");
done:
  return st;
}

/* Check one file of a generation and read its small parts. *why: it does not fit. */
static ingot_status check_file(const ingot_trainer *t, generation g, int old_rank, loading *l, const char **why)
{
  ingot_status     st = INGOT_OK;
  ingot_text       path = {0};
  float           *arrays[N_ARRAY];
  ingot_state_part parts[PARTS_MAX];
  int64_t          begin, end, n_done = 0, n_elem = t->optimizer.model->layout.n_elem;
  int              n_array = 0, n_small = small_parts(t, &l->head, l->drawn, &l->history, parts), n = n_small;
  ingot_optimizer_slice(n_elem, old_rank, g.n_rank, &begin, &end);
  INGOT_TRY(state_path(t, g.number, old_rank, g.n_rank, &path));
  (void)slice_arrays(t, g.step, arrays, &n_array);
  for (int i = 0; i < n_array; i++) parts[n++] = (ingot_state_part){NULL, (size_t)(end - begin) * sizeof(float)};
  INGOT_TRY(ingot_state_load_mixed(ingot_text_string(&path), t->plan->validation.fingerprint, &n_done, t->g.nn, parts,
                                   n, n_small, why));
  if (*why) goto done;
  if (n_done == 0) *why = "a file of it is missing";
  else if (l->head.step != g.step || l->head.n_elem != n_elem || l->head.n_rank != g.n_rank)
    *why = "its files do not belong together";
done:
  ingot_text_release(&path);
  return st;
}

/* What a checked file and this rank's slice have in common, straight to where it belongs. */
static ingot_status take_file(const ingot_trainer *t, generation g, int old_rank)
{
  ingot_status           st = INGOT_OK;
  const ingot_optimizer *o = &t->optimizer;
  ingot_text             path = {0};
  float                 *arrays[N_ARRAY];
  ingot_state_part       parts[PARTS_MAX + 1] = {{NULL, 0}};
  saved_head             unused;
  int64_t                begin, end;
  int                    n_array = 0, n = 0, n_small = small_parts(t, &unused, t->drawn, t->history, parts);
  int                    n_host = slice_arrays(t, g.step, arrays, &n_array);
  ingot_optimizer_slice(o->model->layout.n_elem, old_rank, g.n_rank, &begin, &end);
  int64_t a = begin > o->begin ? begin : o->begin, b = end < o->end ? end : o->end;
  if (a >= b) goto done;
  for (int i = 1; i < n_small; i++) parts[0].bytes += parts[i].bytes;
  parts[n++].memory = NULL;
  for (int i = 0; i < n_array; i++) {
    parts[n++] = (ingot_state_part){NULL, (size_t)(a - begin) * sizeof(float)};
    parts[n++] = (ingot_state_part){arrays[i] + (a - o->begin), (size_t)(b - a) * sizeof(float)};
    parts[n++] = (ingot_state_part){NULL, (size_t)(end - b) * sizeof(float)};
  }
  INGOT_TRY(state_path(t, g.number, old_rank, g.n_rank, &path));
  INGOT_TRY(ingot_state_take(ingot_text_string(&path), t->g.nn, parts, n, 1 + 3 * n_host));
done:
  ingot_text_release(&path);
  return st;
}

/* Whether a rank of a generation has something of this rank's slice, or is asked for the small parts alone. */
static bool is_needed(const ingot_trainer *t, generation g, int old_rank)
{
  int64_t begin, end;
  ingot_optimizer_slice(t->optimizer.model->layout.n_elem, old_rank, g.n_rank, &begin, &end);
  return (begin < t->optimizer.end && end > t->optimizer.begin) ||
         (old_rank == 0 && t->optimizer.begin == t->optimizer.end);
}

static ingot_status check_generation(const ingot_trainer *t, generation g, loading *l, const char **why)
{
  ingot_status st = make_loading(t, l);
  for (int r = 0; st == INGOT_OK && r < g.n_rank && !*why; r++)
    if (is_needed(t, g, r)) st = check_file(t, g, r, l, why);
  return st;
}

static ingot_status take_generation(ingot_trainer *t, generation g, loading *l)
{
  ingot_status st = INGOT_OK;
  for (int r = 0; r < g.n_rank; r++)
    if (is_needed(t, g, r)) INGOT_TRY(take_file(t, g, r));
  ingot_distill_history *h = t->history, old = *h;
  *h = l->history;
  l->history = old;
  h->n_check = l->head.n_check;
  h->best = l->head.best;
  memcpy(t->drawn, l->drawn, (size_t)t->plan->n_data * sizeof *t->drawn);
  t->step = l->head.step;
  t->validated = l->head.validated;
done:
  return st;
}

static ingot_status try_generation(ingot_trainer *t, generation g, bool *taken)
{
  ingot_status st = INGOT_OK;
  loading      l = {0};
  const char  *why = NULL;
  int64_t      bad = 0;
  INGOT_TRY(ingot_comm_agree(t->comm, check_generation(t, g, &l, &why)));
  bad = why != NULL;
  INGOT_TRY(ingot_comm_max_i64(t->comm, &bad, 1));
  if (why)
    ingot_log_info("%s: saved after step %lld, not taken up, because %s", t->plan->validation.output, (long long)g.step,
                   why);
  if (bad) goto done;
  INGOT_TRY(ingot_comm_agree(t->comm, take_generation(t, g, &l)));
  INGOT_TRY(ingot_optimizer_publish(&t->optimizer));
  t->timing->tiles_resumed = t->step * t->plan->batch;
  ingot_log_info("%s: goes on after step %lld of %lld%s", t->plan->validation.output, (long long)t->step,
                 (long long)t->plan->n_step,
                 g.n_rank == ingot_comm_size(t->comm) ? "" : ", on another number of ranks");
  *taken = true;
done:
  release_loading(&l);
  return st;
}

ingot_status ingot_trainer_resume(ingot_trainer *t)
{
  ingot_status st = INGOT_OK;
  generation   g[2];
  bool         taken = false;
  st = ingot_comm_rank(t->comm) == 0 ? read_marker(t, g) : INGOT_OK;
  INGOT_TRY(ingot_comm_agree(t->comm, st));
  INGOT_TRY(ingot_comm_bcast(t->comm, g, sizeof g, 0));
  for (int i = 0; i < 2 && !taken; i++)
    if (g[i].number >= 0) INGOT_TRY(try_generation(t, g[i], &taken));
done:
  return st;
}
