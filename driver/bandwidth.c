#define _XOPEN_SOURCE 700
#include "driver/bandwidth.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "driver/output_check.h"

enum { CHUNK_BYTES = 4 << 20, READ_MAX = 256 << 20, WRITE_BYTES = 64 << 20 };

ingot_status ingot_bandwidth_parse(const char *text, ingot_bandwidth *out)
{
  double read_gb, write_gb;
  int    used = 0;
  if (sscanf(text, "%lf,%lf%n", &read_gb, &write_gb, &used) != 2 || text[used] != '\0' || !(read_gb > 0.0) ||
      !(write_gb > 0.0))
    return ingot_fail(INGOT_ERR_USAGE,
                      "--bandwidth: expected GB/s of reading and writing such as 3.5,1.2; found \"%s\"", text);
  *out = (ingot_bandwidth){read_gb * 1e9, write_gb * 1e9};
  return INGOT_OK;
}

double ingot_bandwidth_estimate(const ingot_bandwidth *b, uint64_t bytes_read, uint64_t bytes_written)
{
  if (!(b->read_bytes_per_s > 0.0) || !(b->write_bytes_per_s > 0.0)) return 0.0;
  return (double)bytes_read / b->read_bytes_per_s + (double)bytes_written / b->write_bytes_per_s;
}

static void measure_read(const ingot_planner *planner, void *buffer, ingot_bandwidth *out)
{
  uint64_t done = 0;
  double   start = ingot_clock_s();
  for (int i = 0; i < planner->job->n_step && done < READ_MAX; i++) {
    const ingot_step_plan *plan = &planner->steps[i];
    for (int k = 0; plan->type && k < plan->n_input && done < READ_MAX; k++) {
      ingot_source *source = NULL;
      if (ingot_source_open(plan->inputs[k].path, &source) != INGOT_OK) {
        ingot_error_clear(); /* an earlier step's output, perhaps */
        continue;
      }
      for (int t = 0; t < ingot_source_count(source) && done < READ_MAX; t++) {
        const ingot_tensor_info *info = ingot_source_tensor(source, t);
        for (uint64_t at = 0; at < info->bytes && done < READ_MAX; at += CHUNK_BYTES) {
          uint64_t size = info->bytes - at < CHUNK_BYTES ? info->bytes - at : CHUNK_BYTES;
          if (ingot_source_read(source, t, at, (size_t)size, buffer) != INGOT_OK) {
            ingot_error_clear();
            break;
          }
          done += size;
        }
      }
      ingot_source_close(&source);
    }
  }
  double seconds = ingot_clock_s() - start;
  if (done > 0 && seconds > 0.0) out->read_bytes_per_s = (double)done / seconds;
}

static ingot_status measure_write(const ingot_step_plan *plan, const void *buffer, ingot_bandwidth *out)
{
  ingot_status st = INGOT_OK;
  ingot_text   path = {0};
  int          file = -1;
  INGOT_TRY(ingot_existing_folder(plan->output, &path));
  INGOT_TRY(ingot_text_printf(&path, "/.ingot-bandwidth-XXXXXX"));
  file = mkstemp(path.bytes);
  if (file < 0) goto done;
  unlink(path.bytes);
  double start = ingot_clock_s();
  int    done = 0;
  while (done < WRITE_BYTES && write(file, buffer, CHUNK_BYTES) == CHUNK_BYTES) done += CHUNK_BYTES;
  if (plan->sink.durable && fdatasync(file) != 0) done = 0;
  double seconds = ingot_clock_s() - start;
  if (done > 0 && seconds > 0.0) out->write_bytes_per_s = (double)done / seconds;
done:
  if (file >= 0) close(file);
  ingot_text_release(&path);
  return st;
}

ingot_status ingot_bandwidth_measure(const ingot_planner *planner, ingot_bandwidth *out)
{
  ingot_status st = INGOT_OK;
  void        *buffer = malloc(CHUNK_BYTES);
  *out = (ingot_bandwidth){0.0, 0.0};
  INGOT_CHECK(buffer, INGOT_ERR_NOMEM, "no memory for %d bytes", CHUNK_BYTES);
  memset(buffer, 0x5a, CHUNK_BYTES);
  measure_read(planner, buffer, out);
  for (int i = 0; i < planner->job->n_step; i++) {
    const ingot_step_plan *plan = &planner->steps[i];
    if (!plan->type || plan->complete) continue;
    INGOT_TRY(measure_write(plan, buffer, out));
    break;
  }
done:
  free(buffer);
  return st;
}
