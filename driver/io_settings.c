#include "driver/io_settings.h"

#include <string.h>

enum { STRIPES_MAX = 65535, NAME_MAX_CHARS = 35, VALUE_MAX_CHARS = 255 }; /* Lustre's field; what Open MPI holds */
#define STRIPE_MIN ((uint64_t)1 << 16)
#define STRIPE_MAX ((uint64_t)1 << 30)

typedef struct io_group {
  int64_t            n_stripe;
  uint64_t           stripe_bytes;
  const ingot_value *hints;
} io_group;

const ingot_key ingot_io_keys[] = {
    {"striping_factor", INGOT_KEY_INT, false, "0", INGOT_FROM_TO(0, STRIPES_MAX), offsetof(io_group, n_stripe),
     "stripes of a new .h5 output; 0: as its folder has it"},
    {"striping_unit", INGOT_KEY_SIZE, false, "0", NULL, offsetof(io_group, stripe_bytes),
     "bytes of a stripe of a new .h5 output: a power of two from 64KiB to 1GiB; 0: as its folder has it"},
    {"hints", INGOT_KEY_GROUP, false, NULL, NULL, offsetof(io_group, hints),
     "other hints for MPI-IO: name = \"value\", or a whole number"},
};
const int ingot_io_n_key = sizeof ingot_io_keys / sizeof ingot_io_keys[0];

/* Of the MPI standard, ROMIO and Open MPI: a name near one of these is a slip of it. */
static const char *const known_hints[] = {"access_style",
                                          "cb_block_size",
                                          "cb_buffer_size",
                                          "cb_config_list",
                                          "cb_nodes",
                                          "chunked",
                                          "chunked_item",
                                          "chunked_size",
                                          "collective_buffering",
                                          "direct_read",
                                          "direct_write",
                                          "file_perm",
                                          "filename",
                                          "ind_rd_buffer_size",
                                          "ind_wr_buffer_size",
                                          "io_node_list",
                                          "nb_proc",
                                          "num_io_nodes",
                                          "panfs_concurrent_write",
                                          "panfs_layout_type",
                                          "romio_cb_alltoall",
                                          "romio_cb_ds_threshold",
                                          "romio_cb_fr_alignment",
                                          "romio_cb_fr_types",
                                          "romio_cb_pfr",
                                          "romio_cb_read",
                                          "romio_cb_write",
                                          "romio_ds_read",
                                          "romio_ds_write",
                                          "romio_lustre_co_ratio",
                                          "romio_lustre_coll_threshold",
                                          "romio_lustre_ds_in_coll",
                                          "romio_lustre_start_iodevice",
                                          "romio_min_fdomain_size",
                                          "romio_no_indep_rw",
                                          "romio_synchronized_flush",
                                          "romio_visibility_immediate",
                                          "start_iodevice"};
enum { N_KNOWN = sizeof known_hints / sizeof known_hints[0] };

/* Hints with a key of their own, and Open MPI's other names of them. */
static const char *const own_keys[][2] = {{"striping_factor", "striping_factor"},
                                          {"stripe_width", "striping_factor"},
                                          {"striping_unit", "striping_unit"},
                                          {"stripe_size", "striping_unit"}};

static bool is_known(const char *name)
{
  for (int i = 0; i < N_KNOWN; i++)
    if (strcmp(known_hints[i], name) == 0) return true;
  return false;
}

static ingot_status read_hint(const ingot_value *v, ingot_arena *arena, ingot_problems *problems, ingot_sink_hint *out)
{
  ingot_status st = INGOT_OK;
  const char  *nearest = is_known(v->name) ? NULL : ingot_nearest_name(v->name, known_hints, N_KNOWN);
  bool         text = v->kind == INGOT_VALUE_STRING;
  *out = (ingot_sink_hint){v->name, text ? v->string : ""};
  for (size_t i = 0; i < sizeof own_keys / sizeof own_keys[0]; i++) {
    if (strcmp(own_keys[i][0], v->name) != 0) continue;
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: not among the hints: %s is a key of io itself",
                       ingot_value_place(v), own_keys[i][1]);
    return INGOT_OK;
  }
  if (nearest)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: unknown hint \"%s\"; did you mean \"%s\"?", ingot_value_place(v),
                       v->name, nearest);
  if (!text && v->kind != INGOT_VALUE_INT) {
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: expected a string or a whole number, found %s",
                       ingot_value_place(v), ingot_value_kind_text(v->kind));
    return INGOT_OK;
  }
  if (!text) {
    out->value = ingot_arena_printf(arena, "%lld", (long long)v->integer);
    INGOT_TRY_ALLOC(out->value);
  }
  if (!out->value[0] || strlen(v->name) > NAME_MAX_CHARS || strlen(out->value) > VALUE_MAX_CHARS)
    ingot_problems_add(problems, INGOT_ERR_JOB,
                       "%s: a hint has a name of 1 to %d characters and a value of 1 to %d, found %zu and %zu",
                       ingot_value_place(v), NAME_MAX_CHARS, VALUE_MAX_CHARS, strlen(v->name), strlen(out->value));
done:
  return st;
}

ingot_status ingot_io_settings_read(const ingot_value *group, ingot_arena *arena, ingot_problems *problems,
                                    ingot_sink_io *out)
{
  ingot_status     st = INGOT_OK;
  io_group         io = {0};
  ingot_sink_hint *hints = NULL;
  *out = (ingot_sink_io){0};
  ingot_keys_read(ingot_io_keys, ingot_io_n_key, group, &io, NULL, 0, problems);
  uint64_t n = io.stripe_bytes;
  if (n != 0 && (n < STRIPE_MIN || n > STRIPE_MAX || (n & (n - 1)) != 0))
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: expected a power of two from 64KiB to 1GiB, or 0, found %llu",
                       ingot_value_place(ingot_value_member(group, "striping_unit")), (unsigned long long)n);
  out->n_stripe = io.n_stripe;
  out->stripe_bytes = n;
  if (!io.hints) goto done;
  hints = ingot_arena_alloc(arena, (size_t)io.hints->n_item, sizeof *hints);
  INGOT_TRY_ALLOC(hints);
  for (int i = 0; i < io.hints->n_item; i++) INGOT_TRY(read_hint(io.hints->item[i], arena, problems, &hints[i]));
  out->hints = hints;
  out->n_hint = io.hints->n_item;
done:
  return st;
}
