#include "workers/distill/stream.h"

#include "base/hash.h"
#include "base/philox.h"

/* The data set that a random word chooses. */
static int choose(const ingot_distill_plan *plan, uint32_t word)
{
  double total = 0.0, below = 0.0;
  for (int d = 0; d < plan->n_data; d++) total += plan->data[d].weight;
  double point = ((double)word + 0.5) / 4294967296.0 * total;
  for (int d = 0; d < plan->n_data - 1; d++) {
    below += plan->data[d].weight;
    if (point < below) return d;
  }
  return plan->n_data - 1;
}

/* Window `count` of all that are drawn from a data set. */
static ingot_draw draw_window(const ingot_distill_plan *plan, int d, int64_t count)
{
  uint32_t word[4];
  int64_t  n = plan->data[d].n_window;
  uint64_t key = ingot_philox_key(plan->seed, ingot_hash_string("distill: order of windows"), (uint32_t)d);
  ingot_philox4x32(key, (uint64_t)(count / n), word);
  return (ingot_draw){.data = d,
                      .window = ingot_permuted(n, (uint64_t)word[0] | (uint64_t)word[1] << 32, count % n),
                      .shift = plan->shift && count >= n ? (int64_t)(word[2] % (uint64_t)plan->window.length) : 0};
}

/* Choose the data set of slot i of a step. */
static int draw_data(const ingot_distill_plan *plan, int64_t step, int64_t i)
{
  uint32_t word[4];
  uint64_t key = ingot_philox_key(plan->seed, ingot_hash_string("distill: data sets"), 0);
  ingot_philox4x32(key, (uint64_t)(step * plan->batch + i), word);
  return choose(plan, word[0]);
}

void ingot_stream_draw(const ingot_distill_plan *plan, int64_t step, int64_t *drawn, ingot_draw *draws)
{
  int64_t n = 0;
  for (int d = 0; d < plan->n_data; d++) /* sorted: windows of one data set have the same teachers */
    for (int64_t i = 0; i < plan->batch; i++)
      if (draw_data(plan, step, i) == d) draws[n++] = draw_window(plan, d, drawn[d]++);
}

void ingot_distill_count_draws(const ingot_distill_plan *plan, int64_t *drawn)
{
  for (int d = 0; d < plan->n_data; d++) drawn[d] = 0;
  for (int64_t step = 0; step < plan->n_step; step++)
    for (int64_t i = 0; i < plan->batch; i++) drawn[draw_data(plan, step, i)]++;
}
