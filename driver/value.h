/**
 * Settings of a job file as a tree, free of the parser's library: what was written, and where. The tree and its
 * strings live in the arena that it was read into.
 */
#ifndef INGOT_DRIVER_VALUE_H
#define INGOT_DRIVER_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/text.h"
#include "driver/arena.h"

typedef enum ingot_value_kind {
  INGOT_VALUE_INT,
  INGOT_VALUE_REAL,
  INGOT_VALUE_BOOL,
  INGOT_VALUE_STRING,
  INGOT_VALUE_GROUP, /* { name = value; ... } */
  INGOT_VALUE_LIST,  /* ( ... ) and [ ... ] */
} ingot_value_kind;

typedef struct ingot_value ingot_value;
struct ingot_value {
  ingot_value_kind kind;
  const char      *name; /* NULL in a list and at the root */
  const char      *file; /* for messages */
  int              line; /* 0: from the command line */
  int64_t          integer;
  double           real; /* also of an INT */
  bool             boolean;
  const char      *string;
  ingot_value    **item;
  int              n_item, capacity;
  ingot_value     *parent; /* NULL at the root */
};

/**
 * Parse text in libconfig's syntax. @include is looked up in include_dir (NULL: not allowed there). name stands for the
 * text in messages. INGOT_ERR_JOB with file and line.
 */
ingot_status ingot_value_parse(const char *text, size_t size, const char *name, const char *include_dir,
                               ingot_arena *arena, ingot_value **root);
/** Read and parse a file; *text (may be NULL) gets its bytes. INGOT_ERR_JOB when it cannot be read. */
ingot_status ingot_value_read(const char *path, ingot_arena *arena, ingot_value **root, const char **text);

/** Set the value at a path such as steps[0].parameters.lambda: `assignment` is "path=value" as --set takes it. */
ingot_status ingot_value_set(ingot_value *root, const char *assignment, ingot_arena *arena);

/** Member of a group by name, or NULL. */
const ingot_value *ingot_value_member(const ingot_value *group, const char *name);
/** A number (INT or REAL). */
bool ingot_value_is_number(const ingot_value *v);
/** "a string", "a group { ... }": what was found, for messages. */
const char *ingot_value_kind_text(ingot_value_kind kind);
/** "job.cfg:12: steps[0].parameters" (or "--set: ..."): where, for messages. Borrowed from a thread-local buffer. */
const char *ingot_value_place(const ingot_value *v);

#endif
