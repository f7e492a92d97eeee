/* workers/merge: the times of lanes; statistics that are made while the merge runs. */
#define _XOPEN_SOURCE 700
#include <math.h>

#include "tests/check.h"
#include "tests/io/scratch.h"

#include "base/hash.h"
#include "workers/merge.h"

/* Half a second of reading by which three lanes went on is one and a half of theirs; the step's own times are not the
 * lanes'. */
static void test_timing_of_lanes(void **state)
{
  (void)state;
  ingot_merge_timing t = {.read_s = 0.5,
                          .move_s = 1,
                          .merge_s = 2,
                          .write_s = 4,
                          .wait_s = 8,
                          .device_s = 3,
                          .wall_s = 20,
                          .cpu_s = 30,
                          .n_lane = 1};
  ingot_timing_of_lanes(&t, 3);
  const double found[] = {t.read_s, t.move_s, t.merge_s, t.write_s, t.wait_s, t.device_s, t.wall_s, t.cpu_s};
  const double expected[] = {1.5, 3, 6, 12, 24, 9, 20, 30};
  for (size_t i = 0; i < sizeof found / sizeof *found; i++) assert_true(found[i] == expected[i]);
  assert_int_equal(t.n_lane, 3);
}

/*
 * The net y = v u x of two models, (u, v) = (1, 2) and (3, -1), on the data {1, 2} and {1}. The mean squares of u's
 * inputs are 2.5 and 1, so u = (2.5 * 1 + 1 * 3) / 3.5 = 11/7. Behind it, those of v's are 2.5 u^2 and u^2, so v = (2.5
 * * 2 - 1) / 3.5 = 8/7. The bias is no matrix: the mean of 1 and 3.
 */
enum { N_MODEL = 2, BIAS = 0, U, V, N_TENSOR };

typedef struct live_case {
  scratch            dir;
  ingot_comm        *comm;
  ingot_source      *sources[N_MODEL];
  const char        *names[N_MODEL];
  int                source[N_MODEL], tensor[N_TENSOR][N_MODEL];
  double             global[2], per_model[N_MODEL];
  ingot_merge_tensor tensors[N_TENSOR];
  ingot_sink_tensor  sink[N_TENSOR];
  ingot_merge_plan   plan;
  char               path[SCRATCH_PATH];
  double             grams[N_MODEL]; /* of the group made last */
  int                made[4], n_made, fails_at;
} live_case;

static const int groups[N_TENSOR] = {-1, 0, 1};

static ingot_status make_group(void *context, int group, const ingot_merge_partial *partial)
{
  ingot_status st = INGOT_OK;
  live_case   *c = context;
  float        value[N_TENSOR] = {0};
  c->made[c->n_made++] = group;
  INGOT_CHECK(group != c->fails_at, INGOT_ERR_IO, "planned to fail");
  INGOT_TRY(ingot_merge_partial_read(partial, BIAS, 0, 1, &value[BIAS]));
  assert_true(value[BIAS] == 2.0f);
  value[U] = 1.0f;
  if (group == 1) INGOT_TRY(ingot_merge_partial_read(partial, U, 0, 1, &value[U]));
  c->grams[0] = 2.5 * (double)value[U] * (double)value[U];
  c->grams[1] = (double)value[U] * (double)value[U];
done:
  return st;
}

static ingot_status give_gram(void *context, int tensor, int k, double alpha, ingot_linalg *l, ingot_linalg_array *to)
{
  const live_case   *c = context;
  float              gram = (float)c->grams[k];
  ingot_linalg_input how = {.form = INGOT_LINALG_PACKED,
                            .dtype = INGOT_DTYPE_F32,
                            .rows = 1,
                            .columns = 1,
                            .alpha = alpha};
  ingot_linalg_found found;
  assert_int_equal(groups[tensor], c->made[c->n_made - 1]);
  return ingot_linalg_load(l, &how, &gram, to, &found);
}

static void open_live(live_case *c)
{
  static const char        header[] = "{\"bias\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                                      "\"u\":{\"dtype\":\"F32\",\"shape\":[1,1],\"data_offsets\":[4,8]},"
                                      "\"v\":{\"dtype\":\"F32\",\"shape\":[1,1],\"data_offsets\":[8,12]}}";
  static const float       values[N_MODEL][N_TENSOR] = {{1, 1, 2}, {3, 3, -1}};
  static const char *const files[N_MODEL] = {"m0.safetensors", "m1.safetensors"}, *const names[N_TENSOR] = {"bias", "u",
                                                                                                            "v"};
  char path[SCRATCH_PATH];
  *c = (live_case){.global = {1.0, 0.0}, .per_model = {1.0, 1.0}, .fails_at = -1};
  scratch_begin(&c->dir);
  check_ok(ingot_comm_init(NULL, NULL, &c->comm));
  for (int i = 0; i < N_MODEL; i++) {
    scratch_safetensors(&c->dir, files[i], header, values[i], sizeof values[i]);
    check_ok(ingot_source_open(scratch_path(&c->dir, files[i], path), &c->sources[i]));
    c->names[i] = files[i];
    c->source[i] = i;
  }
  for (int k = 0; k < N_TENSOR; k++) {
    for (int i = 0; i < N_MODEL; i++) c->tensor[k][i] = ingot_source_find(c->sources[i], names[k]);
    c->tensors[k] = (ingot_merge_tensor){.view = {.name = names[k],
                                                  .key = ingot_hash_string(names[k]),
                                                  .shape = {.n_dim = k == BIAS ? 1 : 2, .dim = {1, 1}},
                                                  .n_elem = 1,
                                                  .n_input = N_MODEL,
                                                  .n_model = N_MODEL,
                                                  .n_statistic = k == BIAS ? 0 : N_MODEL,
                                                  .global = c->global,
                                                  .per_model = c->per_model},
                                         .dtype = INGOT_DTYPE_F32,
                                         .source = c->source,
                                         .tensor = c->tensor[k],
                                         .grain = k == BIAS ? INGOT_GRAIN_ELEMENT : INGOT_GRAIN_MATRIX,
                                         .first_tile = k};
    c->sink[k] = (ingot_sink_tensor){names[k], INGOT_DTYPE_F32, c->tensors[k].view.shape};
  }
  scratch_path(&c->dir, "out.safetensors", c->path);
  c->plan = (ingot_merge_plan){.method = ingot_method_find("regmean"),
                               .sources = c->sources,
                               .source_names = c->names,
                               .n_source = N_MODEL,
                               .tensors = c->tensors,
                               .n_tensor = N_TENSOR,
                               .n_tile = N_TENSOR,
                               .nonfinite = INGOT_NONFINITE_FAIL,
                               .fingerprint = 7,
                               .sink = {.path = c->path,
                                        .format = INGOT_SINK_SAFETENSORS,
                                        .tensors = c->sink,
                                        .n_tensor = N_TENSOR}};
}

static void close_live(live_case *c)
{
  for (int i = 0; i < N_MODEL; i++) ingot_source_close(&c->sources[i]);
  ingot_comm_finalize(&c->comm);
  scratch_end(&c->dir);
}

static ingot_status run_live(live_case *c)
{
  ingot_merge_options options = {.n_thread = 2, .device = INGOT_DEVICE_CPU};
  ingot_merge_live    live = {.context = c, .n_group = 2, .group = groups, .make = make_group, .gram = give_gram};
  ingot_merge_result  result;
  c->n_made = 0;
  ingot_status st = ingot_merge_run_live(c->comm, &c->plan, &options, &live, &result);
  if (st == INGOT_OK) assert_int_equal(result.timing.tiles_done + result.timing.tiles_resumed, N_TENSOR);
  ingot_merge_result_release(&result);
  return st;
}

static void check_output(const live_case *c)
{
  static const float expected[N_TENSOR] = {2.0f, 11.0f / 7.0f, 8.0f / 7.0f};
  ingot_source      *out = NULL;
  check_ok(ingot_source_open(c->path, &out));
  for (int k = 0; k < N_TENSOR; k++) {
    float value;
    check_ok(ingot_source_read(out, ingot_source_find(out, c->sink[k].name), 0, sizeof value, &value));
    if (fabsf(value - expected[k]) > 2e-7f)
      fail_msg("%s is %.9g, not %.9g", c->sink[k].name, (double)value, (double)expected[k]);
  }
  ingot_source_close(&out);
}

static void test_live(void **state)
{
  (void)state;
  live_case c;
  open_live(&c);
  check_ok(run_live(&c));
  assert_int_equal(c.n_made, 2);
  assert_true(c.made[0] == 0 && c.made[1] == 1);
  check_output(&c);
  close_live(&c);
}

/* What was solved before a failure is taken up: its statistics are not made again. */
static void test_live_resumes(void **state)
{
  (void)state;
  live_case c;
  open_live(&c);
  c.fails_at = 1;
  assert_int_equal(run_live(&c), INGOT_ERR_IO);
  assert_int_equal(c.n_made, 2);
  c.fails_at = -1;
  check_ok(run_live(&c));
  assert_int_equal(c.n_made, 1);
  assert_int_equal(c.made[0], 1);
  check_output(&c);
  close_live(&c);
}

/* By hand, for 1 x 1: regmean holds two Gram and two weight matrices in float64, and 40 bytes a column; on a GPU the
 * weight and the Gram matrix on their way, in float32, come on top, and the host has none of it. */
static void test_matrix_memory(void **state)
{
  (void)state;
  live_case c;
  uint64_t  device_bytes = 0;
  open_live(&c);
  uint64_t host = ingot_merge_host_bytes(&c.plan, 2, false, &device_bytes);
  assert_int_equal(device_bytes, 4 * 8 + 40 + 2 * 4);
  assert_int_equal(ingot_merge_memory_bytes(&c.plan, 2, false) - host, 4 * 8 + 40);
  close_live(&c);
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_timing_of_lanes), cmocka_unit_test(test_live),
                                     cmocka_unit_test(test_live_resumes), cmocka_unit_test(test_matrix_memory)};
  return cmocka_run_group_tests_name("merge", tests, NULL, NULL);
}
