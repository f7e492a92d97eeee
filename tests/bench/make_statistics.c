/*
 * Makes statistics that look like a model's, to test and measure merges with: random, of the right shapes and signs.
 *
 *   make_statistics MODEL OUTPUT fisher|gram|kfac SEED [WINDOW [TOKENS [LABELS [LOSS]]]]
 *
 * With a window the output has ingot_statistics.json (OUTPUT is a .h5 file or a directory), with q, k and v sharing a
 * Gram matrix, and gate and up; without, it is as a file of others. Gram matrices are I + u u^T / n with small random
 * u.
 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/comm.h"
#include "io/sink.h"
#include "io/source.h"
#include "io/statistics.h"

enum { MAX_TENSORS = 8192, NAME_BYTES = 256 };

typedef struct list {
  char                   name[MAX_TENSORS][2 * NAME_BYTES];
  ingot_sink_tensor      tensor[MAX_TENSORS];
  int                    n;
  ingot_statistics_share share[MAX_TENSORS];
  int                    n_share;
} list;

static uint64_t next_random(uint64_t *state)
{
  uint64_t z = *state += 0x9E3779B97F4A7C15u; /* splitmix64 */
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

static float uniform(uint64_t *state)
{
  return (float)(next_random(state) >> 40) * (1.0f / 16777216.0f);
}

static void add(list *l, const char *name, const char *suffix, ingot_shape shape)
{
  INGOT_ASSERT(l->n < MAX_TENSORS && strlen(name) + strlen(suffix) < NAME_BYTES);
  snprintf(l->name[l->n], sizeof l->name[0], "%s%s", name, suffix);
  l->tensor[l->n] = (ingot_sink_tensor){l->name[l->n], INGOT_DTYPE_F32, shape};
  l->n++;
}

/* The weight whose Gram matrix a layer shares, in our own files. */
static bool holder_of(const char *name, char holder[NAME_BYTES])
{
  static const char *const shared[][2] = {{"self_attn.k_proj", "self_attn.q_proj"},
                                          {"self_attn.v_proj", "self_attn.q_proj"},
                                          {"mlp.up_proj", "mlp.gate_proj"}};
  for (int i = 0; i < 3; i++) {
    const char *at = strstr(name, shared[i][0]);
    if (!at) continue;
    snprintf(holder, NAME_BYTES, "%.*s%s%s", (int)(at - name), name, shared[i][1], at + strlen(shared[i][0]));
    return true;
  }
  return false;
}

static void lay_out(list *l, const ingot_source *model, const char *kind, bool own)
{
  static char holders[MAX_TENSORS][NAME_BYTES];
  for (int i = 0; i < ingot_source_count(model); i++) {
    const ingot_tensor_info *t = ingot_source_tensor(model, i);
    if (strcmp(kind, "fisher") == 0) {
      add(l, t->name, "", t->shape);
      continue;
    }
    if (!strstr(t->name, "_proj.") || t->shape.n_dim != 2) continue;
    if (own && holder_of(t->name, holders[l->n_share])) {
      l->share[l->n_share] = (ingot_statistics_share){t->name, holders[l->n_share]};
      l->n_share++;
    } else {
      add(l, t->name, "", (ingot_shape){1, {ingot_gram_packed_count(t->shape.dim[1])}});
    }
    if (strcmp(kind, "kfac") == 0)
      add(l, t->name, INGOT_STATISTICS_OUTPUT_SUFFIX, (ingot_shape){1, {ingot_gram_packed_count(t->shape.dim[0])}});
  }
}

static void fill(float *values, int64_t n, bool fisher, uint64_t *state)
{
  bool packed;
  if (fisher) {
    for (int64_t i = 0; i < n; i++) {
      float u = uniform(state);
      values[i] = 1e-6f * u * u * u;
    }
    return;
  }
  int64_t width = ingot_gram_width(&(ingot_shape){1, {n}}, &packed), at = 0;
  float  *u = malloc((size_t)width * sizeof *u);
  INGOT_ASSERT(u);
  for (int64_t i = 0; i < width; i++) u[i] = uniform(state);
  for (int64_t i = 0; i < width; i++)
    for (int64_t j = i; j < width; j++) values[at++] = u[i] * u[j] / (float)width + (i == j ? 1.0f : 0.0f);
  free(u);
}

static ingot_status write_all(ingot_comm *comm, const char *path, const list *l, const ingot_text *json, uint64_t seed,
                              bool fisher)
{
  ingot_status    st = INGOT_OK;
  ingot_sink     *sink = NULL;
  ingot_sink_file file = {INGOT_STATISTICS_FILE, ingot_text_string(json), json->size};
  ingot_sink_spec spec = {.path = path,
                          .format = ingot_sink_format_of(path),
                          .tensors = l->tensor,
                          .n_tensor = l->n,
                          .files = &file,
                          .n_file = json->size > 0 ? 1 : 0};
  uint64_t       *checksums = calloc((size_t)l->n + 1, sizeof *checksums);
  INGOT_CHECK(checksums, INGOT_ERR_NOMEM, "no memory");
  INGOT_TRY(ingot_sink_create(comm, &spec, &sink));
  for (int i = 0; i < l->n; i++) {
    int64_t  n = 0;
    uint64_t state = seed << 32 ^ (uint64_t)i << 8;
    INGOT_ASSERT(ingot_shape_count(&l->tensor[i].shape, &n));
    float *values = malloc((size_t)n * sizeof *values + 1);
    INGOT_CHECK(values, INGOT_ERR_NOMEM, "no memory");
    fill(values, n, fisher, &state);
    st = ingot_sink_write(sink, i, 0, (size_t)n * sizeof *values, values);
    free(values);
    if (st != INGOT_OK) goto done;
  }
  st = ingot_sink_commit(comm, &sink, checksums);
done:
  ingot_sink_close(&sink);
  free(checksums);
  return st;
}

int main(int argc, char **argv)
{
  ingot_status  st = INGOT_OK;
  ingot_comm   *comm = NULL;
  ingot_source *model = NULL;
  ingot_text    json = {0};
  list         *l = calloc(1, sizeof *l);
  if (argc < 5 || !l) {
    fprintf(stderr, "usage: make_statistics MODEL OUTPUT fisher|gram|kfac SEED [WINDOW [TOKENS [LABELS [LOSS]]]]\n");
    free(l);
    return 2;
  }
  bool fisher = strcmp(argv[3], "fisher") == 0;
  INGOT_TRY(ingot_comm_init(&argc, &argv, &comm));
  INGOT_TRY(ingot_source_open(argv[1], &model));
  lay_out(l, model, argv[3], argc > 5);
  if (argc > 5) {
    ingot_statistics_info info = {.kind = fisher ? INGOT_STATISTICS_FISHER : INGOT_STATISTICS_GRAM,
                                  .model_path = argv[1],
                                  .model_identity = ingot_source_identity(model),
                                  .n_example = argc > 6 ? atoll(argv[6]) : 4,
                                  .n_token = argc > 6 ? atoll(argv[6]) : 4096,
                                  .n_window_token = atoll(argv[5]),
                                  .labels = argc > 7 && strcmp(argv[7], "sampled") == 0 ? INGOT_LABELS_SAMPLED
                                                                                        : INGOT_LABELS_GIVEN,
                                  .loss = argc > 8 && strcmp(argv[8], "sum") == 0 ? INGOT_LOSS_SUM : INGOT_LOSS_MEAN,
                                  .shared = l->share,
                                  .n_shared = l->n_share};
    INGOT_TRY(ingot_statistics_write(&info, &json));
  }
  INGOT_TRY(write_all(comm, argv[2], l, &json, (uint64_t)atoll(argv[4]), fisher));
done:
  if (st != INGOT_OK) fprintf(stderr, "make_statistics: %s\n", ingot_error_message());
  if (model) ingot_source_close(&model);
  ingot_text_release(&json);
  if (comm) ingot_comm_finalize(&comm);
  free(l);
  return st == INGOT_OK ? 0 : 1;
}
