/**
 * Rows of key tables (driver/keys.h) for settings that every step with windows of data has: an ingot_gather_settings,
 * alone or within the settings of another step. Before including, define GATHER_FIELD(name) as the offset of its field
 * `name`.
 */
#ifndef INGOT_DRIVER_GATHER_ROWS_H
#define INGOT_DRIVER_GATHER_ROWS_H

/* clang-format off: rows of tables */
#define ROW_DATA                                                                       \
  {                                                                                    \
    "data", INGOT_KEY_ANY, true, NULL, NULL, GATHER_FIELD(data_value),                 \
        "token files: a group { name = \"path\"; ... }, or a list of paths and groups" \
  }
#define ROW_WINDOW                                                                                       \
  {                                                                                                      \
    "window", INGOT_KEY_INT, true, NULL, INGOT_WINDOW_TOKENS, GATHER_FIELD(window), "tokens of a window" \
  }
#define ROW_STRIDE                                                           \
  {                                                                          \
    "stride", INGOT_KEY_INT, false, "0", NULL, GATHER_FIELD(stride),         \
        "tokens from one window's start to the next; 0: as long as a window" \
  }
#define ROW_PARTIAL                                                                                            \
  {                                                                                                            \
    "partial", INGOT_KEY_BOOL, false, "false", NULL, GATHER_FIELD(partial), "keep a last window that is short" \
  }
#define ROW_LIMIT                                                                                          \
  {                                                                                                        \
    "limit", INGOT_KEY_INT, false, "0", NULL, GATHER_FIELD(limit), "windows of a data set at most; 0: all" \
  }
#define ROW_BATCH                                                              \
  {                                                                            \
    "batch", INGOT_KEY_INT, false, "0", NULL, GATHER_FIELD(batch),             \
        "windows of a pass, of 1073741824 tokens at most; 0: chosen by memory" \
  }
#define ROW_DOCUMENT                                                                \
  {                                                                                 \
    "document", INGOT_KEY_INT, false, NULL, INGOT_TOKEN_ID, GATHER_FIELD(document), \
        "id of the token that begins a document"                                    \
  }
#define ROW_SEPARATE                                                                \
  {                                                                                 \
    "separate", INGOT_KEY_BOOL, false, "false", NULL, GATHER_FIELD(separate),       \
        "documents do not see each other, and their first tokens are not predicted" \
  }
#define ROW_SHUFFLE                                                               \
  {                                                                               \
    "shuffle", INGOT_KEY_BOOL, false, "false", NULL, GATHER_FIELD(shuffle),       \
        "take windows in an order drawn from the seed, not from the file's start" \
  }
#define ROW_SEED                                                                                              \
  {                                                                                                           \
    "seed", INGOT_KEY_INT, false, "the job's", NULL, GATHER_FIELD(seed), "seed of this step's random choices" \
  }
#define ROW_DTYPE                                                                            \
  {                                                                                          \
    "dtype", INGOT_KEY_CHOICE, false, "auto", ingot_gather_dtype_names, GATHER_FIELD(dtype), \
        "arithmetic: bfloat16 and tf32 need a GPU; auto: bfloat16 there, float32 on a CPU"   \
  }
#define ROW_DURABLE                                                        \
  {                                                                        \
    "durable", INGOT_KEY_BOOL, false, "true", NULL, GATHER_FIELD(durable), \
        "flush the output to disk before it gets its name"                 \
  }
/** How windows are read and run: the same in every step. */
#define ROWS_OF_READING ROW_DOCUMENT, ROW_SEPARATE, ROW_SHUFFLE, ROW_SEED, ROW_DTYPE
/* clang-format on */

#endif
