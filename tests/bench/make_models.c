/*
 * Makes a family of large checkpoints to measure with: a base and experts of Llama's tensor names and shapes, bfloat16,
 * Hugging Face directories DIR/base, DIR/expert-1, ... The values are random with the spread of real weights; an
 * expert's difference from the base is about a hundredth of it and, as in real fine-tuning, exactly zero in places.
 *
 *   make_models DIR N_EXPERT MILLIONS_OF_PARAMETERS
 *
 * DIR/tokens.u16: 8 Mi random token ids, for steps that run the models.
 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/comm.h"
#include "io/sink.h"

enum { MAX_TENSORS = 4096, NAME_BYTES = 64, PIECE = 1 << 20 };

typedef struct model {
  char              name[MAX_TENSORS][NAME_BYTES];
  ingot_sink_tensor tensor[MAX_TENSORS];
  int               n;
} model;

typedef struct size {
  int64_t hidden, ffn, kv, vocab, layers;
} size;

static void add(model *m, const char *name, int64_t rows, int64_t cols)
{
  INGOT_ASSERT(m->n < MAX_TENSORS);
  snprintf(m->name[m->n], NAME_BYTES, "%s", name);
  m->tensor[m->n] = (ingot_sink_tensor){m->name[m->n], INGOT_DTYPE_BF16, {cols ? 2 : 1, {rows, cols}}};
  m->n++;
}

static size choose_size(double millions)
{
  size s = millions < 300 ? (size){512, 2048, 128, 8000, 0} : (size){2048, 8192, 512, 32000, 0};
  if (millions < 12) s = (size){256, 1024, 64, 6000, 0}; /* its embeddings are still longer than a tile */
  double layer = (double)(2 * s.hidden * s.hidden + 2 * s.hidden * s.kv + 3 * s.hidden * s.ffn) / 1e6;
  s.layers = (int64_t)((millions - 2.0 * (double)(s.vocab * s.hidden) / 1e6) / layer + 0.5);
  if (s.layers < 1) s.layers = 1;
  return s;
}

static void lay_out(model *m, const size *s)
{
  add(m, "model.embed_tokens.weight", s->vocab, s->hidden);
  for (int64_t i = 0; i < s->layers; i++) {
    const struct {
      const char *name;
      int64_t     rows, cols;
    } parts[] = {{"input_layernorm", s->hidden, 0},          {"self_attn.q_proj", s->hidden, s->hidden},
                 {"self_attn.k_proj", s->kv, s->hidden},     {"self_attn.v_proj", s->kv, s->hidden},
                 {"self_attn.o_proj", s->hidden, s->hidden}, {"post_attention_layernorm", s->hidden, 0},
                 {"mlp.gate_proj", s->ffn, s->hidden},       {"mlp.up_proj", s->ffn, s->hidden},
                 {"mlp.down_proj", s->hidden, s->ffn}};
    for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) {
      char name[NAME_BYTES];
      snprintf(name, sizeof name, "model.layers.%d.%s.weight", (int)i, parts[k].name);
      add(m, name, parts[k].rows, parts[k].cols);
    }
  }
  add(m, "model.norm.weight", s->hidden, 0);
  add(m, "lm_head.weight", s->vocab, s->hidden);
}

static uint64_t next_random(uint64_t *state)
{
  uint64_t z = *state += 0x9E3779B97F4A7C15u; /* splitmix64 */
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

/* Sum of four 16-bit uniforms, centred: nearly normal, standard deviation about 0.58. */
static float bell(uint64_t r)
{
  int sum = (int)(r & 0xffff) + (int)(r >> 16 & 0xffff) + (int)(r >> 32 & 0xffff) + (int)(r >> 48);
  return (float)(sum - 131070) * (1.0f / 65536.0f);
}

static uint16_t to_bf16(float f)
{
  uint32_t bits;
  memcpy(&bits, &f, sizeof bits);
  return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

static ingot_status write_model(ingot_comm *comm, const char *path, const model *m, const char *config, int expert)
{
  ingot_status    st = INGOT_OK;
  ingot_sink     *sink = NULL;
  ingot_sink_file file = {"config.json", config, strlen(config)};
  ingot_sink_spec spec = {.path = path,
                          .format = INGOT_SINK_HF_DIR,
                          .tensors = m->tensor,
                          .n_tensor = m->n,
                          .files = &file,
                          .n_file = 1,
                          .shard_bytes = (uint64_t)1 << 40};
  uint64_t       *checksums = calloc((size_t)m->n, sizeof *checksums);
  uint16_t       *piece = malloc(PIECE * sizeof *piece);
  INGOT_CHECK(checksums && piece, INGOT_ERR_NOMEM, "no memory");
  INGOT_TRY(ingot_sink_create(comm, &spec, &sink));
  for (int i = 0; i < m->n; i++) {
    int64_t  n = m->tensor[i].shape.dim[0] * (m->tensor[i].shape.n_dim == 2 ? m->tensor[i].shape.dim[1] : 1);
    uint64_t base_state = (uint64_t)i << 40, delta_state = (uint64_t)(i + 1) << 40 ^ (uint64_t)expert << 56;
    for (int64_t at = 0; at < n; at += PIECE) {
      int64_t part = n - at < PIECE ? n - at : PIECE;
      for (int64_t k = 0; k < part; k++) {
        float value = 0.04f * bell(next_random(&base_state));
        if (expert > 0) value += 0.0004f * bell(next_random(&delta_state));
        piece[k] = to_bf16(value);
      }
      INGOT_TRY(ingot_sink_write(sink, i, (uint64_t)at * 2, (size_t)part * 2, piece));
    }
  }
  st = ingot_sink_commit(comm, &sink, checksums);
done:
  ingot_sink_close(&sink);
  free(checksums);
  free(piece);
  return st;
}

static bool write_tokens(const char *path, int64_t n_vocab)
{
  enum { N_TOKEN = 8 << 20 };
  uint64_t  state = 1;
  FILE     *f = fopen(path, "wb");
  uint16_t *ids = malloc(N_TOKEN * sizeof *ids);
  for (int64_t i = 0; ids && i < N_TOKEN; i++) ids[i] = (uint16_t)(next_random(&state) % (uint64_t)n_vocab);
  bool good = f && ids && fwrite(ids, sizeof *ids, N_TOKEN, f) == N_TOKEN;
  if (f) good = fclose(f) == 0 && good;
  free(ids);
  return good;
}

int main(int argc, char **argv)
{
  if (argc != 4) {
    fprintf(stderr, "usage: make_models DIR N_EXPERT MILLIONS_OF_PARAMETERS\n");
    return 2;
  }
  ingot_comm *comm = NULL;
  model      *m = calloc(1, sizeof *m);
  size        s = choose_size(atof(argv[3]));
  char        config[1024], path[4096];
  if (!m || ingot_comm_init(&argc, &argv, &comm) != INGOT_OK) return 1;
  lay_out(m, &s);
  snprintf(config, sizeof config,
           "{\n  \"architectures\": [\"LlamaForCausalLM\"],\n  \"model_type\": \"llama\",\n  \"hidden_size\": %lld,\n"
           "  \"intermediate_size\": %lld,\n  \"num_hidden_layers\": %lld,\n  \"num_attention_heads\": %lld,\n"
           "  \"num_key_value_heads\": %lld,\n  \"vocab_size\": %lld,\n  \"tie_word_embeddings\": false,\n"
           "  \"max_position_embeddings\": 4096,\n  \"rms_norm_eps\": 1e-5,\n  \"rope_theta\": 10000.0,\n  "
           "\"hidden_act\": \"silu\",\n"
           "  \"dtype\": \"bfloat16\"\n}\n",
           (long long)s.hidden, (long long)s.ffn, (long long)s.layers, (long long)(s.hidden / 64),
           (long long)(s.kv / 64), (long long)s.vocab);
  mkdir(argv[1], 0777);
  snprintf(path, sizeof path, "%s/tokens.u16", argv[1]);
  if (!write_tokens(path, s.vocab)) {
    fprintf(stderr, "make_models: %s cannot be written\n", path);
    return 1;
  }
  for (int expert = 0; expert <= atoi(argv[2]); expert++) {
    if (expert == 0) snprintf(path, sizeof path, "%s/base", argv[1]);
    else snprintf(path, sizeof path, "%s/expert-%d", argv[1], expert);
    if (write_model(comm, path, m, config, expert) != INGOT_OK) {
      fprintf(stderr, "make_models: %s\n", ingot_error_message());
      return 1;
    }
  }
  ingot_comm_finalize(&comm);
  free(m);
  return 0;
}
