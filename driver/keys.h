/**
 * Key tables: one row a key of a group in a job file. The rows feed the parser, the errors, the help and the check of
 * docs/job-file.md.
 */
#ifndef INGOT_DRIVER_KEYS_H
#define INGOT_DRIVER_KEYS_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/problems.h"
#include "driver/value.h"

/** The type of a key, and of the field that it fills. */
typedef enum ingot_key_type {
  INGOT_KEY_STRING, /* const char *: lent by the settings; never empty */
  INGOT_KEY_INT,    /* int64_t; without a range of its own 0 or more */
  INGOT_KEY_BOOL,   /* bool */
  INGOT_KEY_SIZE,   /* uint64_t bytes: "5GB", "512MiB" or a whole number */
  INGOT_KEY_CHOICE, /* int: index into the names allowed */
  INGOT_KEY_GROUP,  /* const ingot_value *, as are the next */
  INGOT_KEY_LIST,   /* ( ) or [ ] */
  INGOT_KEY_RANGE,  /* [first, end): whole numbers, checked */
  INGOT_KEY_ANY,    /* whatever was written */
  INGOT_KEY_REAL,   /* double: any number that is finite */
} ingot_key_type;

/** The numbers that a key allows: low to high, each among them unless its end is open. Infinite: no limit. */
typedef struct ingot_key_range {
  double low, high;
  bool   low_open, high_open;
} ingot_key_range;

/* What goes into `allowed` of INT and REAL rows of a table at file scope. */
#define INGOT_FROM_TO(low, high) (&(const ingot_key_range){(low), (high), false, false})
#define INGOT_AT_LEAST(low) (&(const ingot_key_range){(low), INFINITY, false, false})
#define INGOT_AT_MOST(high) (&(const ingot_key_range){-INFINITY, (high), false, false})
#define INGOT_ABOVE(low) (&(const ingot_key_range){(low), INFINITY, true, false})
#define INGOT_ABOVE_TO(low, high) (&(const ingot_key_range){(low), (high), true, false})
#define INGOT_ABOVE_TO_BELOW(low, high) (&(const ingot_key_range){(low), (high), true, true})
#define INGOT_FROM_TO_BELOW(low, high) (&(const ingot_key_range){(low), (high), false, true})

/** The floating-point dtypes, for the help of keys that take one. */
#define INGOT_FLOAT_DTYPES "float64, float32, float16, bfloat16, float8_e4m3fn, float8_e5m2"

typedef struct ingot_key {
  const char    *name;
  ingot_key_type type;
  bool           required;
  const char    *default_text; /* as a job file would write it; NULL: none */
  const void    *allowed;      /* CHOICE: const char *const[], NULL-terminated; INT, REAL: an ingot_key_range or NULL */
  size_t         offset;       /* of the field in the structure that is filled; INGOT_KEY_NO_FIELD: only checked */
  const char    *help;         /* one line */
} ingot_key;

#define INGOT_KEY_NO_FIELD ((size_t)-1)

/** How docs and messages name a type: "string", "a|b", "integer, 1 to 256". Appended to text. */
ingot_status ingot_key_type_text(const ingot_key *key, ingot_text *text);

/**
 * Read a group by its table ([n_key]) into *target: every field gets the written value or its default; unknown keys,
 * wrong types and missing keys are added to problems. Keys named in other_names [n_other] are somebody else's: they are
 * left alone, and offered as nearest names too.
 */
void ingot_keys_read(const ingot_key *keys, int n_key, const ingot_value *group, void *target,
                     const char *const *other_names, int n_other, ingot_problems *problems);

/** The range of an INT or REAL key; NULL: any number. */
const ingot_key_range *ingot_key_range_of(const ingot_key *key);

/** Rows of a table that ends with a row whose name is NULL. */
int ingot_keys_count(const ingot_key *keys);

/** "5GB" (10^9), "512MiB" (2^20), "4096": bytes. False when it is no size. */
bool ingot_parse_size(const char *text, uint64_t *bytes);

/** Index of a name in a NULL-terminated list, or -1. */
int ingot_choice_index(const char *const *choices, const char *name);

#endif
