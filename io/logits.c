#include "io/logits.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "io/json.h"
#include "io/source.h"

enum { FORMAT = 1, HEX_DIGITS = 16, HASH_TOKENS = 1 << 16, K_MAX = 1 << 24 };

static const char *const tail_names[] = {"none", "bucket", "uniform"};

const char *ingot_logits_tail_name(ingot_logits_tail tail)
{
  return tail_names[tail];
}

ingot_dtype ingot_logits_id_dtype(int64_t n_vocab)
{
  return n_vocab <= 65536 ? INGOT_DTYPE_U16 : INGOT_DTYPE_U32;
}

ingot_status ingot_tokens_hash(const ingot_tokens *tokens, uint64_t *hash)
{
  ingot_status st = INGOT_OK;
  int64_t      count = ingot_tokens_count(tokens);
  int32_t     *ids = malloc(HASH_TOKENS * sizeof *ids);
  *hash = ingot_hash(&count, sizeof count);
  INGOT_CHECK(ids, INGOT_ERR_NOMEM, "%s: no memory to read it", ingot_tokens_path(tokens));
  for (int64_t at = 0; at < count; at += HASH_TOKENS) {
    int64_t n = count - at < HASH_TOKENS ? count - at : HASH_TOKENS;
    INGOT_TRY(ingot_tokens_read(tokens, at, n, 0, ids));
    *hash = ingot_hash_seeded(ids, (size_t)n * sizeof *ids, *hash);
  }
done:
  free(ids);
  return st;
}

/* ---- writing ---- */

static ingot_status append_member(ingot_text *json, const char *before, const char *value)
{
  ingot_status st = ingot_text_printf(json, "%s", before);
  return st == INGOT_OK ? ingot_json_append_string(json, value) : st;
}

static ingot_status append_teacher(const ingot_logits_info *info, ingot_text *json)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(append_member(json, " \"teacher\": {\"kind\": ", info->teacher));
  INGOT_TRY(ingot_text_printf(json, ",\n  \"models\": ["));
  for (int i = 0; i < info->n_model; i++) {
    INGOT_TRY(append_member(json, i ? ",\n   {\"id\": " : "\n   {\"id\": ", info->models[i].id));
    INGOT_TRY(append_member(json, ", \"path\": ", info->models[i].path));
    INGOT_TRY(ingot_text_printf(json, ", \"identity\": \"%016" PRIx64 "\"}", info->models[i].identity));
  }
  INGOT_TRY(ingot_text_printf(json, "],\n  \"weights\": ["));
  for (int r = 0; r < info->n_weight_row; r++)
    for (int i = 0; i < info->n_model; i++)
      INGOT_TRY(ingot_text_printf(json, "%s%.17g%s",
                                  i   ? ", "
                                  : r ? ",\n   ["
                                      : "[",
                                  info->weights[r * info->n_model + i], i == info->n_model - 1 ? "]" : ""));
  INGOT_TRY(ingot_text_printf(json, "]},\n"));
done:
  return st;
}

ingot_status ingot_logits_write_info(const ingot_logits_info *info, ingot_text *json)
{
  ingot_status             st = INGOT_OK;
  const ingot_window_spec *w = &info->window;
  INGOT_TRY(ingot_text_printf(
      json,
      "{\n \"format\": %d,\n \"kind\": \"logits\",\n \"k\": %d,\n \"dtype\": \"%s\",\n \"tail\": \"%s\",\n"
      " \"vocabulary\": %" PRId64 ",\n \"tokenizer\": \"%016" PRIx64 "\",\n",
      FORMAT, info->k, info->dtype == INGOT_DTYPE_F16 ? "float16" : "float32", tail_names[info->tail], info->n_vocab,
      info->tokenizer));
  INGOT_TRY(append_teacher(info, json));
  INGOT_TRY(ingot_text_printf(json,
                              " \"window\": {\"length\": %" PRId64 ", \"limit\": %" PRId64
                              ", \"partial\": %s, \"document\": %d, "
                              "\"separate\": %s, \"shuffle\": %s, \"seed\": %" PRIu64 "},\n \"data\": [",
                              w->length, w->limit, w->partial ? "true" : "false", (int)w->document,
                              w->separate ? "true" : "false", w->shuffle ? "true" : "false", w->shuffle ? w->seed : 0));
  for (int i = 0; i < info->n_data; i++) {
    const ingot_logits_data *d = &info->data[i];
    INGOT_TRY(append_member(json, i ? ",\n  {\"name\": " : "\n  {\"name\": ", d->name));
    INGOT_TRY(append_member(json, ", \"path\": ", d->path));
    INGOT_TRY(ingot_text_printf(json,
                                ", \"hash\": \"%016" PRIx64 "\", \"tokens\": %" PRId64 ", \"windows\": %" PRId64 "}",
                                d->hash, d->n_token, d->n_window));
  }
  INGOT_TRY(ingot_text_printf(json, "]\n}\n"));
done:
  return st;
}

/* ---- reading ---- */

struct ingot_logits {
  ingot_source       *source;
  json_t             *tree; /* holds the strings of info */
  ingot_logits_info   info;
  ingot_logits_data  *data;
  ingot_logits_model *models;
  double             *weights;
  int                 ids, logp, tail; /* tensors */
};

/* A member of a type that the message names. */
static ingot_status want(const char *path, const json_t *object, const char *name, json_type type, json_t **out)
{
  static const char *const names[] = {"an object",      "an array", "a string",
                                      "a whole number", "a number", "true or false"};
  ingot_status             st = INGOT_OK;
  *out = json_object_get(object, name);
  bool good = *out && (json_typeof(*out) == type || (type == JSON_REAL && json_is_number(*out)) ||
                       (type == JSON_TRUE && json_is_boolean(*out)));
  INGOT_CHECK(good, INGOT_ERR_FORMAT, "%s: " INGOT_LOGITS_FILE ": \"%s\" is to be %s, found %s", path, name,
              names[type < JSON_TRUE ? (int)type : 5], *out ? ingot_json_type_text(*out) : "none");
done:
  return st;
}

static ingot_status want_whole(const char *path, const json_t *object, const char *name, int64_t least, int64_t most,
                               int64_t *out)
{
  ingot_status st = INGOT_OK;
  json_t      *v;
  INGOT_TRY(want(path, object, name, JSON_INTEGER, &v));
  *out = json_integer_value(v);
  INGOT_CHECK(*out >= least && *out <= most, INGOT_ERR_FORMAT, "%s: " INGOT_LOGITS_FILE ": \"%s\" is %lld", path, name,
              (long long)*out);
done:
  return st;
}

static ingot_status want_string(const char *path, const json_t *object, const char *name, const char **out)
{
  json_t      *v;
  ingot_status st = want(path, object, name, JSON_STRING, &v);
  if (st == INGOT_OK) *out = json_string_value(v);
  return st;
}

static ingot_status want_hash(const char *path, const json_t *object, const char *name, uint64_t *out)
{
  ingot_status st = INGOT_OK;
  const char  *text = NULL;
  char        *end = NULL;
  INGOT_TRY(want_string(path, object, name, &text));
  *out = strtoull(text, &end, 16);
  INGOT_CHECK(strlen(text) == HEX_DIGITS && *end == 0, INGOT_ERR_FORMAT,
              "%s: " INGOT_LOGITS_FILE ": \"%s\" is to be %d hexadecimal digits, found \"%s\"", path, name, HEX_DIGITS,
              text);
done:
  return st;
}

static ingot_status want_choice(const char *path, const json_t *object, const char *name, const char *const *names,
                                int n, int *out)
{
  ingot_status st = INGOT_OK;
  const char  *text = NULL;
  INGOT_TRY(want_string(path, object, name, &text));
  for (*out = 0; *out < n && strcmp(names[*out], text) != 0;) (*out)++;
  INGOT_CHECK(*out < n, INGOT_ERR_FORMAT, "%s: " INGOT_LOGITS_FILE ": \"%s\" is \"%s\"", path, name, text);
done:
  return st;
}

static ingot_status parse_teacher(ingot_logits *l, const char *path)
{
  ingot_status st = INGOT_OK;
  json_t      *teacher, *models, *weights, *entry;
  size_t       i, k;
  INGOT_TRY(want(path, l->tree, "teacher", JSON_OBJECT, &teacher));
  INGOT_TRY(want_string(path, teacher, "kind", &l->info.teacher));
  INGOT_TRY(want(path, teacher, "models", JSON_ARRAY, &models));
  INGOT_TRY(want(path, teacher, "weights", JSON_ARRAY, &weights));
  size_t n = json_array_size(models), rows = json_array_size(weights);
  l->models = calloc(n + 1, sizeof *l->models);
  l->weights = calloc(n * rows + 1, sizeof *l->weights);
  INGOT_CHECK(l->models && l->weights, INGOT_ERR_NOMEM, "%s: no memory for its description", path);
  json_array_foreach(models, i, entry)
  {
    INGOT_TRY(want_string(path, entry, "id", &l->models[i].id));
    INGOT_TRY(want_string(path, entry, "path", &l->models[i].path));
    INGOT_TRY(want_hash(path, entry, "identity", &l->models[i].identity));
  }
  json_array_foreach(weights, i, entry)
  {
    INGOT_CHECK(json_array_size(entry) == n, INGOT_ERR_FORMAT, "%s: " INGOT_LOGITS_FILE ": %zu weights for %zu models",
                path, json_array_size(entry), n);
    for (k = 0; k < n; k++) l->weights[i * n + k] = json_number_value(json_array_get(entry, k));
  }
  l->info.models = l->models;
  l->info.n_model = (int)n;
  l->info.weights = l->weights;
  l->info.n_weight_row = (int)rows;
done:
  return st;
}

static ingot_status parse_data(ingot_logits *l, const char *path)
{
  ingot_status st = INGOT_OK;
  json_t      *data, *entry;
  size_t       i;
  INGOT_TRY(want(path, l->tree, "data", JSON_ARRAY, &data));
  l->data = calloc(json_array_size(data) + 1, sizeof *l->data);
  INGOT_CHECK(l->data, INGOT_ERR_NOMEM, "%s: no memory for its description", path);
  json_array_foreach(data, i, entry)
  {
    INGOT_TRY(want_string(path, entry, "name", &l->data[i].name));
    INGOT_TRY(want_string(path, entry, "path", &l->data[i].path));
    INGOT_TRY(want_hash(path, entry, "hash", &l->data[i].hash));
    INGOT_TRY(want_whole(path, entry, "tokens", 0, INT64_MAX, &l->data[i].n_token));
    INGOT_TRY(want_whole(path, entry, "windows", 0, INT64_MAX >> 32, &l->data[i].n_window));
  }
  l->info.data = l->data;
  l->info.n_data = (int)json_array_size(data);
done:
  return st;
}

static ingot_status parse_window(ingot_logits *l, const char *path)
{
  ingot_status       st = INGOT_OK;
  ingot_window_spec *w = &l->info.window;
  json_t            *window, *flag;
  int64_t            document = 0, seed = 0;
  INGOT_TRY(want(path, l->tree, "window", JSON_OBJECT, &window));
  INGOT_TRY(want_whole(path, window, "length", 2, 1 << 24, &w->length));
  INGOT_TRY(want_whole(path, window, "limit", 0, INT64_MAX, &w->limit));
  INGOT_TRY(want_whole(path, window, "document", -1, INT32_MAX, &document));
  INGOT_TRY(want_whole(path, window, "seed", INT64_MIN, INT64_MAX, &seed));
  INGOT_TRY(want(path, window, "partial", JSON_TRUE, &flag));
  w->partial = json_is_true(flag);
  INGOT_TRY(want(path, window, "separate", JSON_TRUE, &flag));
  w->separate = json_is_true(flag);
  INGOT_TRY(want(path, window, "shuffle", JSON_TRUE, &flag));
  w->shuffle = json_is_true(flag);
  w->document = (int32_t)document;
  w->seed = (uint64_t)seed;
done:
  return st;
}

static ingot_status parse(ingot_logits *l, const char *path)
{
  static const char *const kinds[] = {"logits"}, *const dtypes[] = {"float16", "float32"};
  ingot_status st = INGOT_OK;
  int          choice;
  int64_t      number;
  INGOT_TRY(want_whole(path, l->tree, "format", FORMAT, FORMAT, &number));
  INGOT_TRY(want_choice(path, l->tree, "kind", kinds, 1, &choice));
  INGOT_TRY(want_choice(path, l->tree, "dtype", dtypes, 2, &choice));
  l->info.dtype = choice == 0 ? INGOT_DTYPE_F16 : INGOT_DTYPE_F32;
  INGOT_TRY(want_choice(path, l->tree, "tail", tail_names, INGOT_LOGITS_TAIL_COUNT, &choice));
  l->info.tail = (ingot_logits_tail)choice;
  INGOT_TRY(want_whole(path, l->tree, "vocabulary", 1, INT32_MAX, &l->info.n_vocab));
  INGOT_TRY(want_whole(path, l->tree, "k", 1, l->info.n_vocab < K_MAX ? l->info.n_vocab : K_MAX, &number));
  l->info.k = (int)number;
  INGOT_TRY(want_hash(path, l->tree, "tokenizer", &l->info.tokenizer));
  INGOT_TRY(parse_teacher(l, path));
  INGOT_TRY(parse_window(l, path));
  INGOT_TRY(parse_data(l, path));
done:
  return st;
}

/* A tensor that must have this dtype and shape; width 0: one dimension. */
static ingot_status find(const ingot_logits *l, const char *name, ingot_dtype dtype, int64_t rows, int64_t width,
                         int *out)
{
  ingot_status st = INGOT_OK;
  const char  *path = ingot_source_path(l->source);
  *out = ingot_source_find(l->source, name);
  INGOT_CHECK(*out >= 0, INGOT_ERR_FORMAT, "%s: a logits file without the tensor \"%s\"", path, name);
  const ingot_tensor_info *t = ingot_source_tensor(l->source, *out);
  bool                     good = t->dtype == dtype && t->shape.n_dim == (width ? 2 : 1) && t->shape.dim[0] == rows &&
              (!width || t->shape.dim[1] == width);
  INGOT_CHECK(good, INGOT_ERR_FORMAT, "%s: \"%s\" is not %s [%lld%s%lld] as " INGOT_LOGITS_FILE " says", path, name,
              ingot_dtype_name(dtype), (long long)rows, width ? ", " : "] by ", (long long)width);
done:
  return st;
}

static ingot_status find_tensors(ingot_logits *l)
{
  ingot_status st = INGOT_OK;
  int64_t      n = 0;
  for (int i = 0; i < l->info.n_data; i++) n += l->info.data[i].n_window;
  n *= l->info.window.length - 1;
  INGOT_TRY(find(l, "ids", ingot_logits_id_dtype(l->info.n_vocab), n, l->info.k, &l->ids));
  INGOT_TRY(find(l, "logp", l->info.dtype, n, l->info.k, &l->logp));
  INGOT_TRY(find(l, "log_tail", INGOT_DTYPE_F32, n, 0, &l->tail));
done:
  return st;
}

ingot_status ingot_logits_open(const char *path, ingot_logits **out)
{
  ingot_status  st = INGOT_OK;
  ingot_text    bytes = {0}, what = {0};
  ingot_logits *l = calloc(1, sizeof *l);
  *out = NULL;
  INGOT_CHECK(l, INGOT_ERR_NOMEM, "%s: no memory to open it", path);
  INGOT_TRY(ingot_source_open(path, &l->source));
  int file = ingot_source_find_side_file(l->source, INGOT_LOGITS_FILE);
  INGOT_CHECK(file >= 0, INGOT_ERR_FORMAT, "%s: no logits file: it has no " INGOT_LOGITS_FILE, path);
  INGOT_TRY(ingot_source_side_file_read(l->source, file, &bytes));
  INGOT_TRY(ingot_text_printf(&what, "%s: " INGOT_LOGITS_FILE, path));
  INGOT_TRY(ingot_json_parse(ingot_text_string(&what), ingot_text_string(&bytes), bytes.size, &l->tree));
  INGOT_TRY(parse(l, path));
  INGOT_TRY(find_tensors(l));
  *out = l;
  l = NULL;
done:
  ingot_logits_close(&l);
  ingot_text_release(&bytes);
  ingot_text_release(&what);
  return st;
}

void ingot_logits_close(ingot_logits **logits)
{
  ingot_logits *l = *logits;
  if (!l) return;
  if (l->source) ingot_source_close(&l->source);
  json_decref(l->tree);
  free(l->data);
  free(l->models);
  free(l->weights);
  free(l);
  *logits = NULL;
}

const ingot_logits_info *ingot_logits_about(const ingot_logits *logits)
{
  return &logits->info;
}

ingot_status ingot_logits_check_tokenizer(const ingot_logits *l, int64_t n_vocab, uint64_t tokenizer, const char *model)
{
  ingot_status st = INGOT_OK;
  const char  *path = ingot_source_path(l->source);
  INGOT_CHECK(l->info.n_vocab == n_vocab, INGOT_ERR_MISMATCH, "%s is over a vocabulary of %lld tokens, and %s has %lld",
              path, (long long)l->info.n_vocab, model, (long long)n_vocab);
  INGOT_CHECK(l->info.tokenizer == 0 || tokenizer == 0 || l->info.tokenizer == tokenizer, INGOT_ERR_MISMATCH,
              "%s was made with another tokenizer than that of %s: their vocabularies have the hashes %016" PRIx64
              " and %016" PRIx64,
              path, model, l->info.tokenizer, tokenizer);
done:
  return st;
}

ingot_status ingot_logits_find_data(const ingot_logits *l, const ingot_tokens *tokens, const ingot_window_spec *spec,
                                    int *data)
{
  ingot_status             st = INGOT_OK;
  const char              *path = ingot_source_path(l->source), *of = ingot_tokens_path(tokens);
  const ingot_window_spec *own = &l->info.window;
  uint64_t                 hash = 0;
  *data = -1;
  INGOT_CHECK(own->length == spec->length, INGOT_ERR_MISMATCH, "%s is of windows of %lld tokens, not %lld", path,
              (long long)own->length, (long long)spec->length);
  INGOT_CHECK((spec->stride == 0 || spec->stride == spec->length) && own->partial == spec->partial &&
                  own->separate == spec->separate && (!own->separate || own->document == spec->document),
              INGOT_ERR_MISMATCH,
              "%s is of windows that were cut in another way (stride, partial, separate or document)", path);
  INGOT_CHECK(own->limit == spec->limit && own->shuffle == spec->shuffle && (!own->shuffle || own->seed == spec->seed),
              INGOT_ERR_MISMATCH, "%s is of other windows of the data (limit, shuffle or seed)", path);
  INGOT_TRY(ingot_tokens_hash(tokens, &hash));
  for (int i = 0; i < l->info.n_data && *data < 0; i++)
    if (l->info.data[i].hash == hash) *data = i;
  INGOT_CHECK(*data >= 0, INGOT_ERR_MISMATCH,
              "%s was made from other tokens than those of %s (%lld tokens with the hash %016" PRIx64 ")", path, of,
              (long long)ingot_tokens_count(tokens), hash);
done:
  return st;
}

/* IEEE half precision; exact. */
static float widen_half(uint16_t h)
{
  int   exponent = h >> 10 & 31, fraction = h & 1023;
  float value = exponent == 31 ? (fraction ? NAN : INFINITY)
                : exponent     ? ldexpf((float)(fraction + 1024), exponent - 25)
                               : ldexpf((float)fraction, -24);
  return h & 0x8000 ? -value : value;
}

static ingot_status check_row(const ingot_logits *l, int64_t position, const int32_t *ids, const float *logp)
{
  ingot_status st = INGOT_OK;
  for (int j = 0; j < l->info.k; j++) {
    INGOT_CHECK(ids[j] >= 0 && ids[j] < l->info.n_vocab, INGOT_ERR_FORMAT,
                "%s: \"ids\", position %lld: %ld is not below %lld", ingot_source_path(l->source), (long long)position,
                (long)ids[j], (long long)l->info.n_vocab);
    INGOT_CHECK(logp[j] <= 0.01f, INGOT_ERR_FORMAT,
                "%s: \"logp\", position %lld: %g is no logarithm of a probability", /* NaN too */
                ingot_source_path(l->source), (long long)position, (double)logp[j]);
  }
done:
  return st;
}

/* Stored elements at the front of the arrays become int32 and float32, from the back to the front. */
static void widen(const ingot_logits *l, int64_t n, int32_t *ids, float *logp)
{
  if (ingot_logits_id_dtype(l->info.n_vocab) == INGOT_DTYPE_U16) {
    for (int64_t i = n - 1; i >= 0; i--) {
      uint16_t id;
      memcpy(&id, (char *)ids + i * 2, sizeof id);
      ids[i] = id;
    }
  }
  if (l->info.dtype == INGOT_DTYPE_F16) {
    for (int64_t i = n - 1; i >= 0; i--) {
      uint16_t h;
      memcpy(&h, (char *)logp + i * 2, sizeof h);
      logp[i] = widen_half(h);
    }
  }
}

ingot_status ingot_logits_read(const ingot_logits *l, int data, int64_t window, int32_t *ids, float *logp,
                               float *log_tail)
{
  ingot_status st = INGOT_OK;
  int64_t      n = l->info.window.length - 1, k = l->info.k, first = window;
  size_t       id_size = ingot_dtype_size(ingot_logits_id_dtype(l->info.n_vocab)),
         logp_size = ingot_dtype_size(l->info.dtype);
  INGOT_ASSERT(data >= 0 && data < l->info.n_data && window >= 0 && window < l->info.data[data].n_window);
  for (int i = 0; i < data; i++) first += l->info.data[i].n_window;
  first *= n;
  INGOT_TRY(ingot_source_read(l->source, l->ids, (uint64_t)(first * k) * id_size, (size_t)(n * k) * id_size, ids));
  INGOT_TRY(
      ingot_source_read(l->source, l->logp, (uint64_t)(first * k) * logp_size, (size_t)(n * k) * logp_size, logp));
  if (log_tail)
    INGOT_TRY(
        ingot_source_read(l->source, l->tail, (uint64_t)first * sizeof(float), (size_t)n * sizeof(float), log_tail));
  widen(l, n * k, ids, logp);
  for (int64_t r = 0; r < n; r++) INGOT_TRY(check_row(l, first + r, ids + r * k, logp + r * k));
  memcpy(ids + n * k, ids + (n - 1) * k, (size_t)k * sizeof *ids);
  memcpy(logp + n * k, logp + (n - 1) * k, (size_t)k * sizeof *logp);
  if (log_tail) log_tail[n] = log_tail[n - 1];
done:
  return st;
}
