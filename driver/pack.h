/**
 * Plans as bytes, from rank 0 to the other ranks of the same program: numbers in the machine's own layout, strings with
 * their length in front. Unpacking checks lengths only.
 */
#ifndef INGOT_DRIVER_PACK_H
#define INGOT_DRIVER_PACK_H

#include <stdint.h>

#include "base/comm.h"
#include "base/text.h"
#include "driver/arena.h"
#include "driver/step.h"

ingot_status ingot_pack_i64(ingot_text *bytes, int64_t value);
ingot_status ingot_pack_u64(ingot_text *bytes, uint64_t value);
/** size bytes with their count; data may be NULL when size is 0. */
ingot_status ingot_pack_blob(ingot_text *bytes, const void *data, size_t size);
/** NULL stays NULL. */
ingot_status ingot_pack_string(ingot_text *bytes, const char *s);

/** A position in packed bytes. After a failure everything reads as zero, and `status` says which:
 * INGOT_ERR_INTERNAL: the bytes are not a plan's; INGOT_ERR_NOMEM: no memory for a copy. */
typedef struct ingot_unpacker {
  const char  *at, *end;
  ingot_status status;
} ingot_unpacker;

int64_t  ingot_unpack_i64(ingot_unpacker *u);
uint64_t ingot_unpack_u64(ingot_unpacker *u);
/** Lends the bytes in place. */
const void *ingot_unpack_blob(ingot_unpacker *u, size_t *size);
/** Copies a blob that is to have this very size. INGOT_ERR_INTERNAL when it has another, or none came. */
ingot_status ingot_unpack_exact(ingot_unpacker *u, void *to, size_t size);
/** Copies into the arena; NULL for a packed NULL and after a failure. */
const char *ingot_unpack_string(ingot_unpacker *u, ingot_arena *arena);
/** The failure with its message, if there was one. */
ingot_status ingot_unpack_status(const ingot_unpacker *u);

/** A whole step plan with its body. */
ingot_status ingot_step_plan_pack(const ingot_step_plan *plan, ingot_text *bytes);
ingot_status ingot_step_plan_unpack(const void *bytes, size_t size, ingot_step_plan *plan);
/**
 * Collective: rank 0 passes its plan; the other ranks pass an empty one, which they get filled and release. On one rank
 * nothing happens.
 */
ingot_status ingot_step_plan_share(ingot_comm *comm, ingot_step_plan *plan);

#endif
