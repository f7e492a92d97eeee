#include "driver/ensemble_memory.h"

#include <stdio.h>

#include "base/process.h"
#include "driver/recipe.h"

/* What builds up. */
typedef struct chooser {
  const ingot_ensemble_fit *in;
  ingot_ensemble_plan      *plan;
  ingot_rank_memory         limit;
  int64_t                   batch; /* windows of a pass at most */
  int                       n_rank;
} chooser;

static uint64_t total_bytes(const chooser *c, int n_rank)
{
  ingot_ensemble_memory memory = ingot_ensemble_bytes(c->plan, c->in->specs, n_rank);
  return ingot_rank_memory_need(c->in->on_device, memory.device_bytes, memory.host_bytes);
}

static bool fits(const chooser *c)
{
  return c->limit.bytes == 0 || total_bytes(c, c->n_rank) <= c->limit.bytes;
}

/* Set the plan to this, with as many windows in a pass as fit; one, when none do. *bytes is what that takes. */
static bool try_together(const chooser *c, ingot_placement placement, uint64_t *bytes)
{
  c->plan->one_by_one = false;
  c->plan->placement = placement;
  c->plan->gather.batch = c->batch;
  while (c->in->settings->gather.batch == 0 && c->plan->gather.batch > 1 && !fits(c)) c->plan->gather.batch /= 2;
  *bytes = total_bytes(c, c->n_rank);
  return fits(c);
}

/* What a group of windows may take of the host beside a GPU: a share of the machine's memory. */
static uint64_t host_share(const chooser *c)
{
  uint64_t all = ingot_process_memory_bytes();
  int      n = c->in->planner->options.n_rank_node > 0 ? c->in->planner->options.n_rank_node : c->n_rank;
  return (all > 0 ? all : (uint64_t)4 << 30) / 4 / (uint64_t)n;
}

/* Windows of a group: as many as the memory has room for. */
static void choose_group(const chooser *c)
{
  ingot_ensemble_plan *plan = c->plan;
  int64_t              most = 1;
  for (int d = 0; d < plan->gather.n_data; d++)
    if (plan->gather.data[d].n_window > most) most = plan->gather.data[d].n_window;
  most = (most + c->n_rank - 1) / c->n_rank;
  plan->group = 1;
  uint64_t one = total_bytes(c, c->n_rank), one_host = ingot_ensemble_bytes(plan, c->in->specs, c->n_rank).host_bytes;
  plan->group = 2;
  uint64_t each = ingot_ensemble_bytes(plan, c->in->specs, c->n_rank).host_bytes - one_host;
  uint64_t room = c->in->on_device ? host_share(c) : c->limit.bytes > one ? c->limit.bytes - one : 0;
  plan->group = 1 + (int64_t)(room / each);
  if (plan->group > most) plan->group = most;
}

static bool try_one_by_one(const chooser *c, uint64_t *bytes)
{
  ingot_ensemble_plan *plan = c->plan;
  plan->placement = INGOT_PLACEMENT_REPLICATED;
  plan->one_by_one = true;
  plan->gather.batch = c->batch;
  choose_group(c);
  while (c->in->settings->gather.batch == 0 && plan->gather.batch > 1 && !fits(c)) {
    plan->gather.batch /= 2;
    choose_group(c);
  }
  if (plan->gather.batch > plan->group) plan->gather.batch = plan->group;
  *bytes = total_bytes(c, c->n_rank);
  return fits(c);
}

/* Ranks over which the models would fit, with one window in a pass; 0: no number does. The plan is left spread. */
static int enough_ranks(const chooser *c)
{
  c->plan->one_by_one = false;
  c->plan->placement = INGOT_PLACEMENT_SPREAD;
  c->plan->gather.batch = c->in->settings->gather.batch > 0 ? c->in->settings->gather.batch : 1;
  for (int n = 2; n <= c->plan->gather.n_model; n++)
    if (total_bytes(c, n) <= c->limit.bytes) return n;
  return 0;
}

/* Nothing fits: what is needed, what there is, and what would do. */
static void refuse(const chooser *c, const char *what, uint64_t needed)
{
  char need[32], have[32], hint[96] = "no number of ranks would do";
  int  n = enough_ranks(c);
  if (n > 0) snprintf(hint, sizeof hint, "spread over %d ranks they fit", n);
  ingot_problems_add(&c->in->planner->problems, INGOT_ERR_TOO_LARGE, "%s: %s, which needs %s a rank, and %s %s; %s",
                     c->in->place, what, ingot_bytes_text(needed, need), c->limit.what,
                     ingot_bytes_text(c->limit.bytes, have), hint);
}

/* Replicated or spread by the setting alone. */
static ingot_status say_together(const chooser *c, bool spread, bool chosen, const uint64_t bytes[2],
                                 ingot_arena *arena, const char **how)
{
  char        own[32], other[32], have[32];
  int         n = c->plan->gather.n_model, n_rank = c->n_rank;
  const char *by = chosen ? "" : ", as set", *why = "";
  ingot_bytes_text(bytes[spread], own);
  ingot_bytes_text(bytes[!spread], other);
  ingot_bytes_text(c->limit.bytes, have);
  if (c->limit.bytes > 0 && chosen)
    why = ingot_arena_printf(arena, spread ? "; all of them are too much, as %s %s" : "; %s %s", c->limit.what, have);
  if (n_rank == 1) *how = ingot_arena_printf(arena, "all %d on the only rank", n);
  else if (!spread && why)
    *how = ingot_arena_printf(arena, "all %d on each rank%s: %s a rank; %s spread over the %d%s", n, by, own, other,
                              n_rank, why);
  else if (why)
    *how = ingot_arena_printf(arena, "spread over %d ranks%s: %s a rank; %s with all %d on each%s", n_rank, by, own,
                              other, n, why);
  return *how ? INGOT_OK : INGOT_ERR_NOMEM;
}

static ingot_status say_one_by_one(const chooser *c, const uint64_t together[2], ingot_arena *arena, const char **how)
{
  char own[32], spread[32], have[32], apart[64] = "";
  ingot_bytes_text(together[0], own);
  if (c->n_rank > 1)
    snprintf(apart, sizeof apart, ", spread over the ranks %s,", ingot_bytes_text(together[1], spread));
  *how =
      ingot_arena_printf(arena,
                         "one after the other, for %lld windows at a time, as together they need %s a rank%s and %s %s",
                         (long long)c->plan->group, own, apart, c->limit.what, ingot_bytes_text(c->limit.bytes, have));
  return *how ? INGOT_OK : INGOT_ERR_NOMEM;
}

ingot_status ingot_ensemble_fit_memory(const ingot_ensemble_fit *fit, ingot_arena *arena, const char **how,
                                       uint64_t *bytes)
{
  ingot_status st = INGOT_OK;
  chooser  c = {.in = fit, .plan = fit->plan, .batch = fit->plan->gather.batch, .n_rank = fit->planner->options.n_rank};
  int      choice = fit->settings->placement;
  uint64_t together[2], one;
  bool     auto_choice = choice == INGOT_PLACE_AUTO, apart = choice != INGOT_PLACE_REPLICATED && c.n_rank > 1;
  bool     moments = fit->plan->learn && fit->plan->kind == INGOT_ENSEMBLE_LOG_LINEAR;
  *how = "";
  INGOT_TRY(ingot_rank_memory_find(fit->planner, fit->on_device, fit->settings->gather.memory_limit_bytes, &c.limit));
  bool spread_fits = try_together(&c, INGOT_PLACEMENT_SPREAD, &together[1]);
  bool all_fit = try_together(&c, INGOT_PLACEMENT_REPLICATED, &together[0]);
  *bytes = together[0];
  if (all_fit && (choice != INGOT_PLACE_SPREAD || c.n_rank == 1)) {
    st = say_together(&c, false, auto_choice, together, arena, how);
  } else if (apart && spread_fits) {
    (void)try_together(&c, INGOT_PLACEMENT_SPREAD, bytes);
    st = say_together(&c, true, auto_choice, together, arena, how);
  } else if (choice == INGOT_PLACE_SPREAD) {
    refuse(&c, c.n_rank > 1 ? "placement = \"spread\"" : "placement = \"spread\" on one rank",
           c.n_rank > 1 ? together[1] : together[0]);
  } else if (moments) {
    refuse(&c,
           "log-linear weights are learnt with all models in memory at once (linear ones: one model after the other)",
           together[0]);
  } else if (try_one_by_one(&c, &one)) {
    *bytes = one;
    st = say_one_by_one(&c, together, arena, how);
  } else {
    refuse(&c, "one model at a time", one);
  }
done:
  return st;
}
