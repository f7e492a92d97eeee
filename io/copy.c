#include "io/copy.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/partition.h"
#include "base/tile.h"

/* Written by the driver for one output at one place: not part of the model. */
static const char manifest_name[] = "ingot_manifest.json";

typedef struct copy {
  ingot_comm        *comm;
  ingot_source      *src;
  ingot_sink_spec    spec;
  ingot_sink_tensor *tensors;
  ingot_sink_file   *files;
  ingot_text        *texts; /* [n_side_file] contents of side files */
  int                n_text;
  int64_t            n_tile;     /* of all tensors */
  int64_t           *first_tile; /* [n_tensor + 1] */
  int64_t           *begin;      /* [n_rank + 1] tiles of each rank, then bytes of their hashes */
  uint64_t          *hashes;     /* [n_tile] */
  uint64_t          *checksums;  /* [n_tensor] */
  unsigned char     *tile;
} copy;

static void copy_release(copy *c)
{
  for (int i = 0; i < c->n_text; i++) ingot_text_release(&c->texts[i]);
  free(c->tensors);
  free(c->files);
  free(c->texts);
  free(c->first_tile);
  free(c->begin);
  free(c->hashes);
  free(c->checksums);
  free(c->tile);
}

static ingot_status list_side_files(copy *c)
{
  ingot_status st = INGOT_OK;
  int          n = ingot_source_n_side_file(c->src);
  c->files = calloc((size_t)n + 1, sizeof *c->files);
  c->texts = calloc((size_t)n + 1, sizeof *c->texts);
  INGOT_CHECK(c->files && c->texts, INGOT_ERR_NOMEM, "no memory for %d side files", n);
  for (int i = 0; i < n; i++) {
    const char *name = ingot_source_side_file_name(c->src, i);
    if (strcmp(name, manifest_name) == 0) continue;
    ingot_text *text = &c->texts[c->n_text++];
    INGOT_TRY(ingot_source_side_file_read(c->src, i, text));
    c->files[c->spec.n_file++] = (ingot_sink_file){name, ingot_text_string(text), text->size};
  }
done:
  return st;
}

static ingot_status list_tensors(copy *c)
{
  ingot_status st = INGOT_OK;
  int          n = ingot_source_count(c->src);
  size_t       width = 1;
  c->tensors = calloc((size_t)n + 1, sizeof *c->tensors);
  c->first_tile = calloc((size_t)n + 1, sizeof *c->first_tile);
  c->checksums = calloc((size_t)n + 1, sizeof *c->checksums);
  INGOT_CHECK(c->tensors && c->first_tile && c->checksums, INGOT_ERR_NOMEM, "no memory for %d tensors", n);
  for (int i = 0; i < n; i++) {
    const ingot_tensor_info *t = ingot_source_tensor(c->src, i);
    c->tensors[i] = (ingot_sink_tensor){t->name, t->dtype, t->shape};
    c->first_tile[i] = c->n_tile;
    c->n_tile += ingot_tile_count(t->n_elem);
    if (ingot_dtype_size(t->dtype) > width) width = ingot_dtype_size(t->dtype);
  }
  c->first_tile[n] = c->n_tile;
  c->spec.n_tensor = n;
  c->hashes = calloc((size_t)c->n_tile + 1, sizeof *c->hashes);
  c->tile = malloc((size_t)INGOT_TILE * width);
  INGOT_CHECK(c->hashes && c->tile, INGOT_ERR_NOMEM, "no memory for a tile and %" PRId64 " checksums", c->n_tile);
done:
  return st;
}

/* Bytes [*at, *at + *size) of a tensor are its tile k. */
static void tile_range(const ingot_tensor_info *t, int64_t k, uint64_t *at, size_t *size)
{
  uint64_t whole = (uint64_t)INGOT_TILE * ingot_dtype_size(t->dtype);
  *at = (uint64_t)k * whole;
  *size = (size_t)(t->bytes - *at < whole ? t->bytes - *at : whole);
}

static ingot_status partition(copy *c)
{
  ingot_status st = INGOT_OK;
  double      *cost = malloc(((size_t)c->n_tile + 1) * sizeof *cost);
  c->begin = calloc((size_t)ingot_comm_size(c->comm) + 1, sizeof *c->begin);
  INGOT_CHECK(cost && c->begin, INGOT_ERR_NOMEM, "no memory for %" PRId64 " tiles", c->n_tile);
  for (int i = 0; i < c->spec.n_tensor; i++) {
    for (int64_t k = c->first_tile[i]; k < c->first_tile[i + 1]; k++) {
      uint64_t at;
      size_t   size;
      tile_range(ingot_source_tensor(c->src, i), k - c->first_tile[i], &at, &size);
      cost[k] = (double)size;
    }
  }
  ingot_partition_by_cost(c->n_tile, cost, ingot_comm_size(c->comm), c->begin);
done:
  free(cost);
  return st;
}

static ingot_status copy_tiles(copy *c, ingot_sink *sink, const ingot_copy_options *options)
{
  ingot_status st = INGOT_OK;
  int64_t      first = c->begin[ingot_comm_rank(c->comm)], end = c->begin[ingot_comm_rank(c->comm) + 1];
  int          tensor = 0;
  for (int64_t k = first; k < end; k++) {
    uint64_t at;
    size_t   size;
    while (k >= c->first_tile[tensor + 1]) tensor++;
    const ingot_tensor_info *t = ingot_source_tensor(c->src, tensor);
    int64_t                  local = k - c->first_tile[tensor];
    INGOT_CHECK(!options->stopped || !options->stopped(options->stopped_context), INGOT_STOPPED, "stopped on request");
    if (k + 1 < c->first_tile[tensor + 1]) {
      tile_range(t, local + 1, &at, &size);
      ingot_source_prefetch(c->src, tensor, at, size);
    }
    tile_range(t, local, &at, &size);
    INGOT_TRY(ingot_source_read(c->src, tensor, at, size, c->tile));
    c->hashes[k] = ingot_hash(c->tile, size);
    INGOT_TRY(ingot_sink_write(sink, tensor, at, size, c->tile));
  }
done:
  return st;
}

/* All ranks learn all hashes, and compare with what the source has stored. */
static ingot_status check_sums(copy *c)
{
  ingot_status st = INGOT_OK;
  for (int r = 0; r <= ingot_comm_size(c->comm); r++) c->begin[r] *= (int64_t)sizeof *c->hashes;
  INGOT_TRY(ingot_comm_share(c->comm, c->hashes, c->begin));
  for (int i = 0; i < c->spec.n_tensor; i++) {
    const ingot_tensor_info *t = ingot_source_tensor(c->src, i);
    c->checksums[i] = ingot_tensor_checksum(&c->hashes[c->first_tile[i]], c->first_tile[i + 1] - c->first_tile[i]);
    INGOT_CHECK(!t->has_checksum || t->checksum == c->checksums[i], INGOT_ERR_FORMAT,
                "%s: %s is damaged: its data has checksum %016" PRIx64 ", expected %016" PRIx64,
                ingot_source_path(c->src), t->name, c->checksums[i], t->checksum);
  }
done:
  return st;
}

ingot_status ingot_copy_checkpoint(ingot_comm *comm, ingot_source *src, const ingot_copy_options *options,
                                   ingot_copy_result *result)
{
  copy         c = {.comm = comm, .src = src};
  ingot_sink  *sink = NULL;
  bool         created = false;
  ingot_status st = ingot_source_load_checksums(src);
  if (st == INGOT_OK) st = list_tensors(&c);
  if (st == INGOT_OK) st = list_side_files(&c);
  if (st == INGOT_OK) st = partition(&c);
  INGOT_TRY(ingot_comm_agree(comm, st));
  c.spec.path = options->path;
  c.spec.format = ingot_sink_format_of(options->path);
  c.spec.tensors = c.tensors;
  c.spec.files = c.files;
  c.spec.attributes = options->attributes;
  c.spec.n_attribute = options->n_attribute;
  c.spec.shard_bytes = options->shard_bytes;
  c.spec.durable = options->durable;
  c.spec.lock = options->lock;
  INGOT_TRY(ingot_sink_create(comm, &c.spec, &sink));
  created = true;
  INGOT_TRY(ingot_comm_agree(comm, copy_tiles(&c, sink, options)));
  INGOT_TRY(ingot_comm_agree(comm, check_sums(&c)));
  INGOT_TRY(ingot_sink_commit(comm, &sink, c.checksums));
  *result = (ingot_copy_result){.n_tensor = c.spec.n_tensor, .n_side_file = c.spec.n_file};
  for (int i = 0; i < c.spec.n_tensor; i++) result->bytes += ingot_source_tensor(src, i)->bytes;
done:
  ingot_sink_close(&sink);
  /* The error stands (BUSY: all of it is another run's by now); what cannot be removed stays behind under its temporary
   * name. */
  if (st != INGOT_OK && st != INGOT_ERR_BUSY && created && ingot_comm_rank(comm) == 0) {
    ingot_error first;
    ingot_error_save(&first);
    (void)ingot_sink_remove_partial(options->path);
    ingot_error_restore(&first);
  }
  copy_release(&c);
  return st;
}
