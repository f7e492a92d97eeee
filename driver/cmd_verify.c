/* ingot verify PATH: compare a model's payload with the checksums that were stored when it was written. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/tile.h"
#include "driver/commands.h"
#include "io/source.h"

/* Buffers for one tensor at a time. */
typedef struct work {
  void     *tile;   /* INGOT_TILE elements of the widest dtype */
  uint64_t *hashes; /* of the tiles of the largest tensor */
} work;

static ingot_status work_init(const ingot_source *src, work *w)
{
  int64_t most = 1;
  for (int i = 0; i < ingot_source_count(src); i++) {
    int64_t n = ingot_tile_count(ingot_source_tensor(src, i)->n_elem);
    if (n > most) most = n;
  }
  w->tile = malloc((size_t)INGOT_TILE * 8);
  w->hashes = malloc((size_t)most * sizeof *w->hashes);
  if (w->tile && w->hashes) return INGOT_OK;
  return ingot_fail(INGOT_ERR_NOMEM, "%s: no memory for a tile and %" PRId64 " checksums", ingot_source_path(src),
                    most);
}

static ingot_status compute(const ingot_source *src, int tensor, const work *w, uint64_t *checksum)
{
  ingot_status             st = INGOT_OK;
  const ingot_tensor_info *t = ingot_source_tensor(src, tensor);
  int64_t                  n_tile = ingot_tile_count(t->n_elem);
  uint64_t                 tile_bytes = (uint64_t)INGOT_TILE * ingot_dtype_size(t->dtype);
  for (int64_t k = 0; k < n_tile; k++) {
    uint64_t at = (uint64_t)k * tile_bytes;
    size_t   size = (size_t)(t->bytes - at < tile_bytes ? t->bytes - at : tile_bytes);
    if (k + 1 < n_tile) {
      uint64_t next = at + tile_bytes;
      ingot_source_prefetch(src, tensor, next, (size_t)(t->bytes - next < tile_bytes ? t->bytes - next : tile_bytes));
    }
    INGOT_TRY(ingot_source_read(src, tensor, at, size, w->tile));
    w->hashes[k] = ingot_hash(w->tile, size);
  }
  *checksum = ingot_tensor_checksum(w->hashes, n_tile);
done:
  return st;
}

static ingot_status verify(const ingot_source *src, const work *w)
{
  ingot_status st = INGOT_OK;
  ingot_text   damaged = {0};
  int          n_damaged = 0, n_checked = 0, n_tensor = ingot_source_count(src);
  for (int i = 0; i < n_tensor; i++) {
    const ingot_tensor_info *t = ingot_source_tensor(src, i);
    uint64_t                 found = 0;
    if (!t->has_checksum) continue;
    INGOT_TRY(compute(src, i, w, &found));
    n_checked++;
    if (found == t->checksum) continue;
    printf("damaged: %s: checksum %016" PRIx64 ", expected %016" PRIx64 "\n", t->name, found, t->checksum);
    INGOT_TRY(ingot_text_printf(&damaged, "%s%s", n_damaged++ ? ", " : "", t->name));
  }
  INGOT_CHECK(n_damaged == 0, INGOT_ERR_FORMAT, "%s: %d of %d tensors %s damaged: %s", ingot_source_path(src),
              n_damaged, n_tensor, n_damaged == 1 ? "is" : "are", ingot_text_string(&damaged));
  if (n_checked == n_tensor) printf("%s: all %d tensors match their checksums\n", ingot_source_path(src), n_tensor);
  else if (n_checked)
    printf("%s: %d of %d tensors match their checksums, the others have none\n", ingot_source_path(src), n_checked,
           n_tensor);
  else
    printf("%s: %d tensors, headers are sound; there are no checksums to compare the data with\n",
           ingot_source_path(src), n_tensor);
done:
  ingot_text_release(&damaged);
  return st;
}

static ingot_status run_verify(const ingot_command_context *context, const ingot_command_line *line)
{
  ingot_status  st = INGOT_OK;
  ingot_source *src = NULL;
  work          w = {0};
  (void)context;
  INGOT_TRY(ingot_source_open(line->args[0], &src));
  INGOT_TRY(ingot_source_load_checksums(src));
  INGOT_TRY(work_init(src, &w));
  INGOT_TRY(verify(src, &w));
done:
  free(w.tile);
  free(w.hashes);
  ingot_source_close(&src);
  return st;
}

const ingot_command ingot_command_verify = {
    .name = "verify",
    .arguments = "PATH",
    .summary = "compare a model's data with its stored checksums; exit code 3 when damaged",
    .min_args = 1,
    .max_args = 1,
    .run = run_verify,
};
