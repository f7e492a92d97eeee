#include "driver/pack.h"

#include <stdlib.h>
#include <string.h>

ingot_status ingot_pack_i64(ingot_text *bytes, int64_t value)
{
  return ingot_text_append(bytes, &value, sizeof value);
}

ingot_status ingot_pack_u64(ingot_text *bytes, uint64_t value)
{
  return ingot_text_append(bytes, &value, sizeof value);
}

ingot_status ingot_pack_blob(ingot_text *bytes, const void *data, size_t size)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(ingot_pack_u64(bytes, size));
  if (size) INGOT_TRY(ingot_text_append(bytes, data, size));
done:
  return st;
}

ingot_status ingot_pack_string(ingot_text *bytes, const char *s)
{
  return s ? ingot_pack_blob(bytes, s, strlen(s) + 1) : ingot_pack_blob(bytes, NULL, 0);
}

static void take(ingot_unpacker *u, void *value, size_t size)
{
  memset(value, 0, size);
  if (u->status == INGOT_OK && (size_t)(u->end - u->at) < size) u->status = INGOT_ERR_INTERNAL;
  if (u->status != INGOT_OK) return;
  memcpy(value, u->at, size);
  u->at += size;
}

int64_t ingot_unpack_i64(ingot_unpacker *u)
{
  int64_t value;
  take(u, &value, sizeof value);
  return value;
}

uint64_t ingot_unpack_u64(ingot_unpacker *u)
{
  uint64_t value;
  take(u, &value, sizeof value);
  return value;
}

const void *ingot_unpack_blob(ingot_unpacker *u, size_t *size)
{
  uint64_t n = ingot_unpack_u64(u);
  *size = 0;
  if (u->status == INGOT_OK && (uint64_t)(u->end - u->at) < n) u->status = INGOT_ERR_INTERNAL;
  if (u->status != INGOT_OK) return NULL;
  const void *data = u->at;
  *size = (size_t)n;
  u->at += n;
  return data;
}

const char *ingot_unpack_string(ingot_unpacker *u, ingot_arena *arena)
{
  size_t      size;
  const char *data = ingot_unpack_blob(u, &size);
  if (!data || size == 0) return NULL;
  const char *copy = ingot_arena_copy(arena, data, size - 1);
  if (!copy) u->status = INGOT_ERR_NOMEM;
  return copy;
}

ingot_status ingot_unpack_status(const ingot_unpacker *u)
{
  if (u->status == INGOT_ERR_NOMEM) return ingot_fail(u->status, "no memory for a copy of rank 0's plan");
  return u->status == INGOT_OK ? INGOT_OK : ingot_fail(u->status, "a plan came broken from rank 0");
}

ingot_status ingot_unpack_exact(ingot_unpacker *u, void *to, size_t size)
{
  ingot_status st = INGOT_OK;
  size_t       found;
  const void  *data = ingot_unpack_blob(u, &found);
  INGOT_TRY(ingot_unpack_status(u));
  INGOT_CHECK(found == size, INGOT_ERR_INTERNAL, "a plan of another size came from rank 0");
  if (size > 0) memcpy(to, data, size);
done:
  return st;
}

static ingot_status pack_sink(const ingot_sink_spec *s, ingot_text *bytes)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(ingot_pack_string(bytes, s->path));
  INGOT_TRY(ingot_pack_i64(bytes, (int64_t)s->format));
  INGOT_TRY(ingot_pack_u64(bytes, s->shard_bytes));
  INGOT_TRY(ingot_pack_u64(bytes, s->alignment_bytes));
  INGOT_TRY(ingot_pack_i64(bytes, s->io.n_stripe));
  INGOT_TRY(ingot_pack_u64(bytes, s->io.stripe_bytes));
  INGOT_TRY(ingot_pack_i64(bytes, s->io.n_hint));
  INGOT_TRY(ingot_pack_i64(bytes, s->durable));
  INGOT_TRY(ingot_pack_i64(bytes, s->n_tensor));
  INGOT_TRY(ingot_pack_i64(bytes, s->n_file));
  INGOT_TRY(ingot_pack_i64(bytes, s->n_attribute));
  for (int i = 0; i < s->n_tensor; i++) {
    INGOT_TRY(ingot_pack_string(bytes, s->tensors[i].name));
    INGOT_TRY(ingot_pack_i64(bytes, (int64_t)s->tensors[i].dtype));
    INGOT_TRY(ingot_pack_blob(bytes, &s->tensors[i].shape, sizeof s->tensors[i].shape));
  }
  for (int i = 0; i < s->n_file; i++) {
    INGOT_TRY(ingot_pack_string(bytes, s->files[i].name));
    INGOT_TRY(ingot_pack_blob(bytes, s->files[i].bytes, s->files[i].size));
  }
  for (int i = 0; i < s->n_attribute; i++) {
    INGOT_TRY(ingot_pack_string(bytes, s->attributes[i].name));
    INGOT_TRY(ingot_pack_string(bytes, s->attributes[i].text));
  }
  for (int i = 0; i < s->io.n_hint; i++) {
    INGOT_TRY(ingot_pack_string(bytes, s->io.hints[i].name));
    INGOT_TRY(ingot_pack_string(bytes, s->io.hints[i].value));
  }
done:
  return st;
}

static ingot_status unpack_sink(ingot_unpacker *u, ingot_arena *arena, ingot_sink_spec *s)
{
  ingot_status st = INGOT_OK;
  s->path = ingot_unpack_string(u, arena);
  s->format = (ingot_sink_format)ingot_unpack_i64(u);
  s->shard_bytes = ingot_unpack_u64(u);
  s->alignment_bytes = ingot_unpack_u64(u);
  s->io.n_stripe = ingot_unpack_i64(u);
  s->io.stripe_bytes = ingot_unpack_u64(u);
  s->io.n_hint = (int)ingot_unpack_i64(u);
  s->durable = ingot_unpack_i64(u) != 0;
  s->n_tensor = (int)ingot_unpack_i64(u);
  s->n_file = (int)ingot_unpack_i64(u);
  s->n_attribute = (int)ingot_unpack_i64(u);
  INGOT_TRY(ingot_unpack_status(u));
  ingot_sink_tensor    *tensors = ingot_arena_alloc(arena, (size_t)s->n_tensor, sizeof *tensors);
  ingot_sink_file      *files = ingot_arena_alloc(arena, (size_t)s->n_file, sizeof *files);
  ingot_sink_attribute *attributes = ingot_arena_alloc(arena, (size_t)s->n_attribute, sizeof *attributes);
  ingot_sink_hint      *hints = ingot_arena_alloc(arena, (size_t)s->io.n_hint, sizeof *hints);
  INGOT_TRY_ALLOC(tensors && files && attributes && hints);
  size_t size;
  for (int i = 0; i < s->n_tensor; i++) {
    tensors[i].name = ingot_unpack_string(u, arena);
    tensors[i].dtype = (ingot_dtype)ingot_unpack_i64(u);
    const void *shape = ingot_unpack_blob(u, &size);
    if (shape && size == sizeof tensors[i].shape) memcpy(&tensors[i].shape, shape, size);
  }
  for (int i = 0; i < s->n_file; i++) {
    files[i].name = ingot_unpack_string(u, arena);
    const void *data = ingot_unpack_blob(u, &size);
    files[i].bytes = ingot_arena_copy(arena, data, size);
    files[i].size = size;
    INGOT_TRY_ALLOC(files[i].bytes);
  }
  for (int i = 0; i < s->n_attribute; i++) {
    attributes[i].name = ingot_unpack_string(u, arena);
    attributes[i].text = ingot_unpack_string(u, arena);
  }
  for (int i = 0; i < s->io.n_hint; i++) {
    hints[i].name = ingot_unpack_string(u, arena);
    hints[i].value = ingot_unpack_string(u, arena);
  }
  s->io.hints = hints;
  s->tensors = tensors;
  s->files = files;
  s->attributes = attributes;
  st = ingot_unpack_status(u);
done:
  return st;
}

ingot_status ingot_step_plan_pack(const ingot_step_plan *p, ingot_text *bytes)
{
  ingot_status st = INGOT_OK;
  ingot_text   body = {0};
  INGOT_TRY(ingot_pack_string(bytes, p->type->name));
  INGOT_TRY(ingot_pack_i64(bytes, p->number));
  INGOT_TRY(ingot_pack_string(bytes, p->title));
  INGOT_TRY(ingot_pack_u64(bytes, p->fingerprint));
  INGOT_TRY(ingot_pack_u64(bytes, p->bytes_read));
  INGOT_TRY(ingot_pack_u64(bytes, p->bytes_written));
  INGOT_TRY(ingot_pack_u64(bytes, p->memory_bytes));
  INGOT_TRY(ingot_pack_u64(bytes, p->host_bytes));
  INGOT_TRY(ingot_pack_i64(bytes, p->n_tile));
  INGOT_TRY(ingot_pack_i64(bytes, p->n_thread));
  INGOT_TRY(pack_sink(&p->sink, bytes));
  INGOT_TRY(p->type->pack(p, &body));
  INGOT_TRY(ingot_pack_blob(bytes, ingot_text_string(&body), body.size));
done:
  ingot_text_release(&body);
  return st;
}

ingot_status ingot_step_plan_unpack(const void *bytes, size_t size, ingot_step_plan *p)
{
  ingot_status   st = INGOT_OK;
  ingot_unpacker u = {bytes, (const char *)bytes + size, INGOT_OK};
  *p = (ingot_step_plan){0};
  const char *type_name = ingot_unpack_string(&u, &p->arena);
  INGOT_TRY(ingot_unpack_status(&u));
  const ingot_step_type *type = type_name ? ingot_step_type_find(type_name) : NULL;
  INGOT_CHECK(type, INGOT_ERR_INTERNAL, "a plan of an unknown type came from rank 0");
  p->number = (int)ingot_unpack_i64(&u);
  p->title = ingot_unpack_string(&u, &p->arena);
  p->fingerprint = ingot_unpack_u64(&u);
  p->bytes_read = ingot_unpack_u64(&u);
  p->bytes_written = ingot_unpack_u64(&u);
  p->memory_bytes = ingot_unpack_u64(&u);
  p->host_bytes = ingot_unpack_u64(&u);
  p->n_tile = ingot_unpack_i64(&u);
  p->n_thread = (int)ingot_unpack_i64(&u);
  p->ready = true;
  INGOT_TRY(unpack_sink(&u, &p->arena, &p->sink));
  p->output = p->sink.path;
  size_t      body_size;
  const void *body = ingot_unpack_blob(&u, &body_size);
  INGOT_TRY(ingot_unpack_status(&u));
  p->type = type;
  INGOT_TRY(type->unpack(body, body_size, p));
done:
  return st;
}

ingot_status ingot_step_plan_share(ingot_comm *comm, ingot_step_plan *plan)
{
  ingot_status st = INGOT_OK;
  ingot_text   bytes = {0};
  char        *copy = NULL;
  int64_t      size = 0;
  bool         root = ingot_comm_rank(comm) == 0;
  if (ingot_comm_size(comm) == 1) return INGOT_OK;
  st = root ? ingot_step_plan_pack(plan, &bytes) : INGOT_OK;
  INGOT_TRY(ingot_comm_agree(comm, st));
  size = (int64_t)bytes.size;
  INGOT_TRY(ingot_comm_bcast(comm, &size, sizeof size, 0));
  if (!root) copy = malloc((size_t)size + 1);
  st = root || copy ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for a plan of %lld bytes", (long long)size);
  INGOT_TRY(ingot_comm_agree(comm, st));
  INGOT_TRY(ingot_comm_bcast(comm, root ? bytes.bytes : copy, (size_t)size, 0));
  if (!root) st = ingot_step_plan_unpack(copy, (size_t)size, plan);
  INGOT_TRY(ingot_comm_agree(comm, st));
done:
  free(copy);
  ingot_text_release(&bytes);
  return st;
}
