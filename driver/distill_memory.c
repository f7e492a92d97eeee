/* What a training takes of memory: where the teachers go, and windows of a pass. */
#include <stdio.h>

#include "driver/distill_builder.h"
#include "driver/placement.h"

enum { RANKS_MAX = 4096 };

typedef ingot_distill_builder builder;

static uint64_t host_bytes_on(const builder *b, int n_rank)
{
  return ingot_distill_host_bytes(b->plan, &b->spec, n_rank, b->planner->options.n_thread, b->body->on_device);
}

static uint64_t bytes_on(const builder *b, int n_rank)
{
  return ingot_rank_memory_need(b->body->on_device, ingot_distill_bytes(b->plan, &b->spec, b->specs, n_rank),
                                host_bytes_on(b, n_rank));
}

/* Of the host beside a GPU: models are read with the best of the training still to come. */
static uint64_t host_need(const builder *b)
{
  int           n_thread = b->planner->options.n_thread;
  bool          gpu = b->body->on_device;
  ingot_compute compute = b->plan->validation.compute;
  uint64_t      own = host_bytes_on(b, b->planner->options.n_rank);
  uint64_t      student = ingot_rank_host_need(gpu, compute, &b->spec, 1, n_thread, own);
  uint64_t      teachers = ingot_rank_host_need(gpu, compute, b->specs, b->plan->n_teacher, n_thread, own);
  return student > teachers ? student : teachers;
}

/* What would make the training fit, for the message. */
static void suggest(const builder *b, uint64_t limit, char text[160])
{
  int n_rank = b->planner->options.n_rank;
  if (!b->plan->recompute) {
    b->plan->recompute = true;
    bool fits = bytes_on(b, n_rank) <= limit;
    b->plan->recompute = false;
    if (fits) {
      snprintf(text, 160, "it fits with recompute = true");
      return;
    }
  }
  if (b->settings->placement != INGOT_PLACE_REPLICATED) b->plan->placement = INGOT_PLACEMENT_SPREAD;
  uint64_t bytes = bytes_on(b, n_rank), least = bytes;
  while (n_rank < RANKS_MAX && bytes > limit) {
    n_rank *= 2;
    bytes = bytes_on(b, n_rank);
    if (bytes < least) least = bytes; /* of very many ranks, what they exchange takes more than what they share saves */
  }
  char need[32];
  if (bytes <= limit)
    snprintf(text, 160, "it fits on %d ranks, which share the optimiser's state%s", n_rank,
             b->plan->placement == INGOT_PLACEMENT_SPREAD && b->plan->n_teacher > 0 ? " and the teachers" : "");
  else
    snprintf(text, 160,
             "weights, teachers and gradients alone are %s: fewer teachers, a logits file instead, shorter windows or "
             "a smaller student",
             ingot_bytes_text(least, need));
}

/* Teachers placed like this, with as many windows in a pass as fit; one, when none do. *bytes is what that takes. */
static bool try_placement(builder *b, ingot_placement placement, int64_t wanted, uint64_t limit, uint64_t *bytes)
{
  int n_rank = b->planner->options.n_rank;
  b->plan->placement = placement;
  b->plan->micro_batch = wanted;
  *bytes = bytes_on(b, n_rank);
  while (b->settings->micro_batch == 0 && b->plan->micro_batch > 1 && limit > 0 && *bytes > limit) {
    b->plan->micro_batch /= 2;
    *bytes = bytes_on(b, n_rank);
  }
  return limit == 0 || *bytes <= limit;
}

/* What the plan says of the teachers' places. bytes: replicated, spread. */
static ingot_status say_placement(builder *b, const ingot_rank_memory *limit, const uint64_t bytes[2])
{
  char        all[32], apart[32], have[32];
  int         n = b->plan->n_teacher, n_rank = b->planner->options.n_rank;
  bool        spread = b->plan->placement == INGOT_PLACEMENT_SPREAD;
  const char *by = b->settings->placement == INGOT_PLACE_AUTO ? "" : ", as set";
  b->held = "";
  if (n == 0 || n_rank == 1) return INGOT_OK;
  ingot_bytes_text(bytes[0], all);
  ingot_bytes_text(bytes[1], apart);
  ingot_bytes_text(limit->bytes, have);
  if (spread)
    b->held =
        ingot_arena_printf(b->arena, "; teachers: spread over %d ranks%s: %s a rank; %s with all %d on each; %s %s",
                           n_rank, by, apart, all, n, limit->what, have);
  else
    b->held = ingot_arena_printf(b->arena, "; teachers: all %d on each rank%s: %s a rank; %s spread over the %d; %s %s",
                                 n, by, all, apart, n_rank, limit->what, have);
  return b->held ? INGOT_OK : INGOT_ERR_NOMEM;
}

ingot_status ingot_distill_fit_memory(builder *b)
{
  ingot_status                  st = INGOT_OK;
  const ingot_distill_settings *s = b->settings;
  ingot_rank_memory             limit;
  uint64_t                      bytes[2];
  char                          need[32], have[32], hint[160];
  int                           n_rank = b->planner->options.n_rank;
  int64_t                       wanted = ingot_batch_default(b->body->on_device, b->plan->window.length),
          own = (s->batch + n_rank - 1) / n_rank;
  INGOT_TRY(ingot_rank_memory_find(b->planner, b->body->on_device, s->memory_limit_bytes, &limit));
  if (s->micro_batch > 0) wanted = s->micro_batch;
  if (wanted > own) wanted = own;
  bool apart = s->placement != INGOT_PLACE_REPLICATED && n_rank > 1 && b->plan->n_teacher > 0;
  bool spread_fits = try_placement(b, INGOT_PLACEMENT_SPREAD, wanted, limit.bytes, &bytes[1]);
  bool all_fit = try_placement(b, INGOT_PLACEMENT_REPLICATED, wanted, limit.bytes, &bytes[0]);
  if (apart && (s->placement == INGOT_PLACE_SPREAD || !all_fit)) {
    (void)try_placement(b, INGOT_PLACEMENT_SPREAD, wanted, limit.bytes, &bytes[1]);
    all_fit = spread_fits;
  }
  b->out->memory_bytes = bytes[b->plan->placement == INGOT_PLACEMENT_SPREAD];
  b->out->host_bytes = host_need(b);
  b->plan->validation.batch = b->plan->micro_batch;
  for (int i = 0; b->plan->placement == INGOT_PLACEMENT_SPREAD && i < b->plan->n_teacher;
       i++) /* read by one rank, not by all */
    b->out->bytes_read -= ingot_input_bytes(b->teachers[i]) * (uint64_t)(n_rank - 1);
  INGOT_TRY(say_placement(b, &limit, bytes));
  if (!all_fit) {
    suggest(b, limit.bytes, hint);
    ingot_problems_add(&b->planner->problems, INGOT_ERR_TOO_LARGE,
                       "%s: the student does not fit: a rank needs %s with %lld window%s in a pass, and %s %s; %s",
                       b->place, ingot_bytes_text(b->out->memory_bytes, need), (long long)b->plan->micro_batch,
                       b->plan->micro_batch == 1 ? "" : "s", limit.what, ingot_bytes_text(limit.bytes, have), hint);
  }
done:
  return st;
}
