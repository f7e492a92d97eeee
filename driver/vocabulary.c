#include "driver/vocabulary.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "io/json.h"

enum { VOCABULARY_MAX = 1 << 24 };

/* Tokens by number; NULL where a number has none. Strings are lent by `tree`. */
typedef struct vocabulary {
  json_t      *tree;
  const char **token;
  int64_t      n, capacity;
} vocabulary;

static void vocabulary_release(vocabulary *v)
{
  free(v->token);
  json_decref(v->tree);
  *v = (vocabulary){0};
}

static ingot_status vocabulary_add(vocabulary *v, const char *path, json_int_t id, const char *token)
{
  ingot_status st = INGOT_OK;
  INGOT_CHECK(id >= 0 && id < VOCABULARY_MAX, INGOT_ERR_FORMAT, "%s: tokenizer.json: token \"%s\" has the number %lld",
              path, token, (long long)id);
  if (id >= v->capacity) {
    int64_t capacity = v->capacity ? v->capacity : 1024;
    while (capacity <= id) capacity *= 2;
    const char **grown = realloc(v->token, (size_t)capacity * sizeof *grown);
    INGOT_CHECK(grown, INGOT_ERR_NOMEM, "no memory for a vocabulary of %lld tokens", (long long)capacity);
    memset(grown + v->capacity, 0, (size_t)(capacity - v->capacity) * sizeof *grown);
    v->token = grown;
    v->capacity = capacity;
  }
  v->token[id] = token;
  if (id >= v->n) v->n = id + 1;
done:
  return st;
}

static ingot_status vocabulary_load(vocabulary *v, const char *path, const ingot_text *bytes)
{
  ingot_status st = INGOT_OK;
  ingot_text   what = {0};
  INGOT_TRY(ingot_text_printf(&what, "%s: tokenizer.json", path));
  INGOT_TRY(ingot_json_parse(ingot_text_string(&what), ingot_text_string(bytes), bytes->size, &v->tree));
  json_t *vocab = json_object_get(json_object_get(v->tree, "model"), "vocab"); /* {token: id}, or [[token, score]] */
  const char *token = NULL;
  json_t     *value = NULL;
  size_t      i;
  if (json_is_object(vocab)) {
    json_object_foreach(vocab, token, value) INGOT_TRY(vocabulary_add(v, path, json_integer_value(value), token));
  } else {
    json_array_foreach(vocab, i, value)
    {
      token = json_string_value(json_array_get(value, 0));
      if (token) INGOT_TRY(vocabulary_add(v, path, (json_int_t)i, token));
    }
  }
  json_array_foreach(json_object_get(v->tree, "added_tokens"), i, value)
  {
    token = json_string_value(json_object_get(value, "content"));
    if (token) INGOT_TRY(vocabulary_add(v, path, json_integer_value(json_object_get(value, "id")), token));
  }
done:
  ingot_text_release(&what);
  return st;
}

static const char *token_of(const vocabulary *v, int64_t id)
{
  return id < v->n ? v->token[id] : NULL;
}

static ingot_status compare_tokens(const ingot_input *a, const vocabulary *va, const ingot_input *b,
                                   const vocabulary *vb, int64_t most)
{
  int64_t n = va->n > vb->n ? va->n : vb->n, n_differ = 0, first = -1;
  if (n > most) n = most;
  for (int64_t id = 0; id < n; id++) {
    const char *x = token_of(va, id), *y = token_of(vb, id);
    if (x == y || (x && y && strcmp(x, y) == 0)) continue;
    n_differ++;
    if (first < 0) first = id;
  }
  if (n_differ == 0) return INGOT_OK;
  const char *x = token_of(va, first), *y = token_of(vb, first);
  return ingot_fail(
      INGOT_ERR_MISMATCH,
      "different vocabularies: %lld token%s of \"%s\" (%s) and \"%s\" (%s) differ; the first is number %lld: "
      "%s%s%s and %s%s%s",
      (long long)n_differ, n_differ == 1 ? "" : "s", a->id, a->path, b->id, b->path, (long long)first, x ? "\"" : "",
      x ? x : "none", x ? "\"" : "", y ? "\"" : "", y ? y : "none", y ? "\"" : "");
}

ingot_status ingot_vocabulary_compare_first(const ingot_input *a, const ingot_input *b, int64_t n_token)
{
  ingot_status st = INGOT_OK;
  ingot_text   text_a = {0}, text_b = {0};
  vocabulary   va = {0}, vb = {0};
  bool         found_a = false, found_b = false;
  INGOT_TRY(ingot_input_side_file(a, "tokenizer.json", &text_a, &found_a));
  INGOT_TRY(ingot_input_side_file(b, "tokenizer.json", &text_b, &found_b));
  bool same =
      text_a.size == text_b.size && memcmp(ingot_text_string(&text_a), ingot_text_string(&text_b), text_a.size) == 0;
  if (found_a && found_b && !same) {
    INGOT_TRY(vocabulary_load(&va, a->path, &text_a));
    INGOT_TRY(vocabulary_load(&vb, b->path, &text_b));
    INGOT_TRY(compare_tokens(a, &va, b, &vb, n_token));
  }
done:
  ingot_text_release(&text_a);
  ingot_text_release(&text_b);
  vocabulary_release(&va);
  vocabulary_release(&vb);
  return st;
}

ingot_status ingot_vocabulary_compare(const ingot_input *a, const ingot_input *b)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(ingot_vocabulary_compare_first(a, b, VOCABULARY_MAX));
  json_t *size_a = json_object_get(a->config, "vocab_size"), *size_b = json_object_get(b->config, "vocab_size");
  if (json_is_integer(size_a) && json_is_integer(size_b) && json_integer_value(size_a) != json_integer_value(size_b))
    st = ingot_fail(INGOT_ERR_MISMATCH,
                    "different vocabularies: vocab_size is %lld in \"%s\" (%s) and %lld in \"%s\" (%s)",
                    (long long)json_integer_value(size_a), a->id, a->path, (long long)json_integer_value(size_b), b->id,
                    b->path);
done:
  return st;
}

/* *found is false for an input without tokenizer.json. */
static ingot_status vocabulary_of(const ingot_input *input, vocabulary *v, bool *found)
{
  ingot_status st = INGOT_OK;
  ingot_text   text = {0};
  *found = false;
  INGOT_TRY(ingot_input_side_file(input, "tokenizer.json", &text, found));
  if (*found) INGOT_TRY(vocabulary_load(v, input->path, &text));
done:
  ingot_text_release(&text);
  return st;
}

ingot_status ingot_vocabulary_size(const ingot_input *input, int64_t *n_token)
{
  vocabulary   v = {0};
  bool         found = false;
  ingot_status st = vocabulary_of(input, &v, &found);
  *n_token = v.n;
  vocabulary_release(&v);
  return st;
}

ingot_status ingot_vocabulary_hash(const ingot_input *input, uint64_t *hash)
{
  ingot_status st = INGOT_OK;
  vocabulary   v = {0};
  bool         found = false;
  *hash = 0;
  INGOT_TRY(vocabulary_of(input, &v, &found));
  if (!found) goto done;
  *hash = ingot_hash(&v.n, sizeof v.n);
  for (int64_t id = 0; id < v.n; id++) {
    const char *token = v.token[id] ? v.token[id] : "";
    *hash = ingot_hash_seeded(token, strlen(token) + 1, *hash);
  }
done:
  vocabulary_release(&v);
  return st;
}

void ingot_vocabulary_check_id(ingot_problems *problems, const ingot_job_step *step, const char *key, int64_t id,
                               int64_t n_token)
{
  const ingot_value *where = ingot_value_member(step->value, key);
  if (id >= n_token)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: %s = %lld, and the vocabulary has %lld tokens",
                       ingot_value_place(where ? where : step->value), key, (long long)id, (long long)n_token);
}
