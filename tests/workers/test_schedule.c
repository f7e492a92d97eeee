/*
 * workers/schedule: order and completeness of the work of one rank, with a method made for the purpose: two passes, of
 * which the second looks at one tile only, then the merge.
 */
#include "tests/check.h"

#include <pthread.h>
#include <stdlib.h>

#include "workers/schedule.h"

typedef struct toy_state {
  int     passes; /* seen by next */
  int64_t tile;
} toy_state;

/* Pass 0: each tile's slot gets its number plus one. Pass 1: the last tile alone. */
static ingot_status toy_next(const ingot_method_tensor *t, void *state, const ingot_scan_result *result,
                             ingot_scan_plan *plan)
{
  toy_state *s = state;
  if (!result) {
    *plan = (ingot_scan_plan){.pass = 0, .slot_bytes = sizeof(int64_t), .n_sum = 1};
    return INGOT_OK;
  }
  s->passes++;
  const int64_t *slot = result->slots;
  if (result->plan->pass == 0) {
    if (result->n_slot != ingot_tile_count(t->n_elem)) return ingot_fail(INGOT_ERR_INTERNAL, "slots");
    for (int64_t i = 0; i < result->n_slot; i++)
      if (slot[i] != i + 1) return ingot_fail(INGOT_ERR_INTERNAL, "tile %lld not scanned once", (long long)i);
    if (result->sums[0] != result->n_slot) return ingot_fail(INGOT_ERR_INTERNAL, "sums");
    s->tile = result->n_slot - 1;
    *plan = (ingot_scan_plan){.pass = 1, .slot_bytes = sizeof(int64_t), .tiles = &s->tile, .n_tiles = 1};
    return INGOT_OK;
  }
  if (result->n_slot != 1 || slot[0] != s->tile + 1) return ingot_fail(INGOT_ERR_INTERNAL, "one tile");
  plan->pass = INGOT_SCAN_DONE;
  return INGOT_OK;
}

static ingot_status failing_next(const ingot_method_tensor *t, void *state, const ingot_scan_result *result,
                                 ingot_scan_plan *plan)
{
  (void)t;
  (void)state;
  if (result) return ingot_fail(INGOT_ERR_NUMERIC, "the sums make no sense");
  *plan = (ingot_scan_plan){.pass = 0, .slot_bytes = 8};
  return INGOT_OK;
}

static size_t toy_state_bytes(const ingot_method_tensor *t)
{
  (void)t;
  return sizeof(toy_state);
}

static ingot_status toy_begin(const ingot_method_tensor *t, void *state)
{
  (void)t;
  return ((toy_state *)state)->passes == 0 ? INGOT_OK : ingot_fail(INGOT_ERR_INTERNAL, "state is not zeroed");
}

static const ingot_method toy = {.name = "toy",
                                 .state_bytes = toy_state_bytes,
                                 .begin = toy_begin,
                                 .tensor = {.next = toy_next}};
static const ingot_method failing = {.name = "failing",
                                     .state_bytes = toy_state_bytes,
                                     .begin = toy_begin,
                                     .tensor = {.next = failing_next}};

enum { GROWN_BYTES = 1 << 20 };

/* Pass 0 with small slots, pass 1 with large ones, then the merge. */
static ingot_status growing_next(const ingot_method_tensor *t, void *state, const ingot_scan_result *result,
                                 ingot_scan_plan *plan)
{
  (void)t;
  (void)state;
  *plan = (ingot_scan_plan){.pass = INGOT_SCAN_DONE};
  if (!result) *plan = (ingot_scan_plan){.pass = 0, .slot_bytes = 16};
  else if (result->plan->pass == 0) *plan = (ingot_scan_plan){.pass = 1, .slot_bytes = GROWN_BYTES};
  return INGOT_OK;
}

static const ingot_method growing = {.name = "growing",
                                     .state_bytes = toy_state_bytes,
                                     .begin = toy_begin,
                                     .tensor = {.next = growing_next}};

static const ingot_schedule_lanes cpu_lane = {.cpu = true};

enum { N_TENSOR = 6, N_TILE = 13 };

typedef struct fixture {
  ingot_merge_tensor tensors[N_TENSOR];
  ingot_merge_plan   plan;
  bool               done[N_TILE];
  ingot_schedule    *schedule;
  pthread_mutex_t    lock;
  int                applied[N_TILE], scanned[N_TILE];
  ingot_status       status;
} fixture;

/* Tiles: 3 (summary), none (empty), 1 (copy), 5 (summary), 1 (element-wise), 3 (element-wise). */
static void fixture_init(fixture *f, const ingot_method *method)
{
  static const int64_t tiles[N_TENSOR] = {3, 0, 1, 5, 1, 3};
  static const char   *names[N_TENSOR] = {"a", "empty", "copy", "b", "c", "d"};
  *f = (fixture){0};
  pthread_mutex_init(&f->lock, NULL);
  int64_t first = 0;
  for (int i = 0; i < N_TENSOR; i++) {
    f->tensors[i] = (ingot_merge_tensor){.view = {.name = names[i], .n_elem = tiles[i] ? tiles[i] * INGOT_TILE - 5 : 0},
                                         .grain = i == 0 || i == 3 ? INGOT_GRAIN_TENSOR : INGOT_GRAIN_ELEMENT,
                                         .copy = i == 2,
                                         .first_tile = first};
    first += tiles[i];
  }
  f->plan = (ingot_merge_plan){.method = method, .tensors = f->tensors, .n_tensor = N_TENSOR, .n_tile = N_TILE};
}

static void fixture_release(fixture *f)
{
  ingot_schedule_destroy(&f->schedule);
  assert_null(f->schedule);
  pthread_mutex_destroy(&f->lock);
}

static ingot_schedule_spec spec_of(fixture *f, int64_t begin, int64_t end)
{
  return (ingot_schedule_spec){.plan = &f->plan, .tile_begin = begin, .tile_end = end, .done = f->done, .n_task = 4};
}

/* A lane without data: what a scan of the toy method would leave, and a note of every merge. */
static void *toy_lane(void *argument)
{
  fixture     *f = argument;
  ingot_status st = INGOT_OK;
  for (;;) {
    ingot_task            task;
    ingot_schedule_answer answer;
    st = ingot_schedule_next(f->schedule, cpu_lane, true, &task, &answer);
    if (st != INGOT_OK || answer == INGOT_SCHEDULE_FINISHED) break;
    int64_t tile = task.tensor->first_tile + task.tile;
    if (task.kind == INGOT_TASK_SCAN) {
      *(int64_t *)task.slot += task.tile + 1;
      if (task.sums) {
        pthread_mutex_lock(task.sums_lock);
        task.sums[0]++;
        pthread_mutex_unlock(task.sums_lock);
      }
    }
    pthread_mutex_lock(&f->lock);
    if (task.kind == INGOT_TASK_SCAN) f->scanned[tile]++;
    else f->applied[tile]++;
    pthread_mutex_unlock(&f->lock);
    st = ingot_schedule_complete(f->schedule, &task);
    if (st != INGOT_OK) break;
  }
  if (st != INGOT_OK) {
    pthread_mutex_lock(&f->lock);
    f->status = st;
    pthread_mutex_unlock(&f->lock);
    ingot_schedule_cancel(f->schedule);
  }
  return NULL;
}

static void run_lanes(fixture *f, int n)
{
  pthread_t threads[8];
  for (int i = 0; i < n; i++) assert_int_equal(pthread_create(&threads[i], NULL, toy_lane, f), 0);
  for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
}

static void every_tile_once(void **state)
{
  (void)state;
  for (int lanes = 1; lanes <= 8; lanes++) {
    for (int round = 0; round < 20; round++) {
      fixture f;
      fixture_init(&f, &toy);
      ingot_schedule_spec spec = spec_of(&f, 0, N_TILE);
      spec.summaries_bytes = round % 2; /* without a limit, and with one that lets one summary be made at a time */
      check_ok(ingot_schedule_create(&spec, &f.schedule));
      run_lanes(&f, lanes);
      assert_int_equal(f.status, INGOT_OK);
      static const int scans[N_TILE] = {1, 1, 2, 0, 1, 1, 1, 1, 2, 0, 0, 0, 0};
      for (int i = 0; i < N_TILE; i++) {
        assert_int_equal(f.applied[i], 1);
        assert_int_equal(f.scanned[i], scans[i]);
      }
      fixture_release(&f);
    }
  }
}

static void done_tiles_are_left_out(void **state)
{
  (void)state;
  fixture f;
  fixture_init(&f, &toy);
  f.done[1] = true;                             /* a: two tiles left, its summary still needs all three */
  for (int i = 4; i < 9; i++) f.done[i] = true; /* b: all done, so no pass over it either */
  f.done[10] = true;
  ingot_schedule_spec spec = spec_of(&f, 0, N_TILE);
  check_ok(ingot_schedule_create(&spec, &f.schedule));
  run_lanes(&f, 3);
  assert_int_equal(f.status, INGOT_OK);
  static const int scans[N_TILE] = {1, 1, 2};
  for (int i = 0; i < N_TILE; i++) {
    assert_int_equal(f.applied[i], f.done[i] ? 0 : 1);
    assert_int_equal(f.scanned[i], scans[i]);
  }
  fixture_release(&f);
}

static void a_part_of_the_tiles(void **state)
{
  (void)state;
  fixture f;
  fixture_init(&f, &toy);
  ingot_schedule_spec spec = spec_of(&f, 3, 11); /* copy, b, c and the first tile of d */
  check_ok(ingot_schedule_create(&spec, &f.schedule));
  run_lanes(&f, 2);
  for (int i = 0; i < N_TILE; i++) assert_int_equal(f.applied[i], i >= 3 && i < 11);
  fixture_release(&f);

  fixture_init(&f, &toy);
  spec = spec_of(&f, 5, 5); /* an empty rank */
  check_ok(ingot_schedule_create(&spec, &f.schedule));
  run_lanes(&f, 2);
  for (int i = 0; i < N_TILE; i++) assert_int_equal(f.applied[i], 0);
  fixture_release(&f);
}

static void a_method_that_fails(void **state)
{
  (void)state;
  fixture f;
  fixture_init(&f, &failing);
  ingot_schedule_spec spec = spec_of(&f, 0, N_TILE);
  check_ok(ingot_schedule_create(&spec, &f.schedule));
  run_lanes(&f, 1);
  assert_int_equal(f.status, INGOT_ERR_NUMERIC);
  assert_string_equal(ingot_error_message(), ""); /* the lane's thread had it, not this one */
  assert_int_equal(f.applied[0], 0);
  fixture_release(&f);
}

static void cancelled(void **state)
{
  (void)state;
  fixture f;
  fixture_init(&f, &toy);
  ingot_schedule_spec   spec = spec_of(&f, 0, N_TILE);
  ingot_task            task;
  ingot_schedule_answer answer;
  check_ok(ingot_schedule_create(&spec, &f.schedule));
  check_ok(ingot_schedule_next(f.schedule, cpu_lane, true, &task, &answer));
  assert_int_equal(answer, INGOT_SCHEDULE_TASK);
  ingot_schedule_cancel(f.schedule);
  ingot_task other;
  check_ok(ingot_schedule_next(f.schedule, cpu_lane, true, &other, &answer));
  assert_int_equal(answer, INGOT_SCHEDULE_FINISHED);
  check_ok(ingot_schedule_complete(f.schedule, &task)); /* what was taken may still be handed back */
  fixture_release(&f);
}

static void a_pass_over_the_model(void **state)
{
  (void)state;
  fixture f;
  fixture_init(&f, &toy);
  int64_t             slots[N_TILE] = {0}, sum = 0;
  ingot_scan_plan     scan = {.pass = 0, .slot_bytes = sizeof(int64_t), .n_sum = 1};
  ingot_schedule_spec spec = spec_of(&f, 2, N_TILE);
  check_ok(ingot_schedule_create_model_scan(&spec, NULL, &scan, slots, &sum, &f.schedule));
  run_lanes(&f, 3);
  static const int64_t expected[N_TILE] = {0, 0, 3, 0, 1, 2, 3, 4, 5, 1, 1, 2, 3}; /* the copied tensor is left out */
  assert_memory_equal(slots, expected, sizeof slots);
  assert_int_equal(sum, 10);
  fixture_release(&f);
}

/* Tasks that there are now; *n_of[i] gets those of tensor i. */
static int take_all(fixture *f, ingot_task tasks[N_TILE], int n_of[N_TENSOR])
{
  int n = 0;
  for (int i = 0; i < N_TENSOR; i++) n_of[i] = 0;
  for (;;) {
    ingot_schedule_answer answer;
    ingot_task            task;
    check_ok(ingot_schedule_next(f->schedule, cpu_lane, false, &task, &answer));
    if (answer != INGOT_SCHEDULE_TASK) return n;
    assert_true(n < N_TILE);
    n_of[task.tensor_index]++;
    tasks[n++] = task;
  }
}

static void hand_back(fixture *f, const ingot_task *tasks, int n, int tensor)
{
  for (int i = 0; i < n; i++)
    if (tasks[i].tensor_index == tensor) check_ok(ingot_schedule_complete(f->schedule, &tasks[i]));
}

enum { A, B = 3 };

static void begins_when_there_is_room(void **state)
{
  (void)state;
  fixture f;
  fixture_init(&f, &toy);
  ingot_schedule_spec spec = spec_of(&f, 0, N_TILE);
  ingot_task          tasks[N_TILE];
  int                 n_of[N_TENSOR];
  for (int limited = 0; limited <= 1; limited++) {
    spec.summaries_bytes = limited ? 3 * 8 + 5 * 8 : 0; /* the slots, but not the states */
    check_ok(ingot_schedule_create(&spec, &f.schedule));
    take_all(&f, tasks, n_of);
    assert_int_equal(n_of[A], 3);
    assert_int_equal(n_of[B], limited ? 0 : 5);
    ingot_schedule_destroy(&f.schedule);
  }
  fixture_release(&f);
}

static void waits_for_room_between_passes(void **state)
{
  (void)state;
  fixture f;
  fixture_init(&f, &growing);
  ingot_schedule_spec spec = spec_of(&f, 0, N_TILE);
  spec.summaries_bytes = 3 * GROWN_BYTES; /* half of the slots counts: 1.5 for a, 2.5 for b */
  ingot_task first[N_TILE], second[N_TILE], third[N_TILE];
  int        n_of[N_TENSOR], n_first, n_second, n_third;
  check_ok(ingot_schedule_create(&spec, &f.schedule));
  n_first = take_all(&f, first, n_of);
  assert_int_equal(n_of[A], 3);
  assert_int_equal(n_of[B], 5);
  hand_back(&f, first, n_first, A);
  hand_back(&f, first, n_first, B);
  n_second = take_all(&f, second, n_of);
  assert_int_equal(n_of[A], 3);
  assert_int_equal(n_of[B], 0); /* a has the room */
  hand_back(&f, second, n_second, A);
  n_third = take_all(&f, third, n_of);
  assert_int_equal(n_of[A], 3); /* merging */
  assert_int_equal(n_of[B], 5);
  for (int i = 0; i < n_third; i++)
    assert_int_equal(third[i].kind, third[i].tensor_index == B ? INGOT_TASK_SCAN : INGOT_TASK_APPLY);
  for (int i = 0; i < N_TENSOR; i++) {
    if (i != A && i != B) hand_back(&f, first, n_first, i);
    if (i != A && i != B) hand_back(&f, second, n_second, i);
    hand_back(&f, third, n_third, i);
  }
  run_lanes(&f, 1); /* merges b */
  for (int i = 4; i < 9; i++) assert_int_equal(f.applied[i], 1);
  fixture_release(&f);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_tile_once),
      cmocka_unit_test(done_tiles_are_left_out),
      cmocka_unit_test(a_part_of_the_tiles),
      cmocka_unit_test(a_method_that_fails),
      cmocka_unit_test(cancelled),
      cmocka_unit_test(a_pass_over_the_model),
      cmocka_unit_test(begins_when_there_is_room),
      cmocka_unit_test(waits_for_room_between_passes),
  };
  return cmocka_run_group_tests_name("workers/schedule", tests, NULL, NULL);
}
