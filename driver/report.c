#include "driver/report.h"

#include <stdio.h>

static const char *const phase_names[INGOT_PHASE_COUNT] = {"read", "move", "merge", "write", "wait"};

static void spread_add(ingot_spread *s, double value, int index, int n)
{
  if (index == 0 || value < s->min) s->min = value;
  if (index == 0 || value > s->max) s->max = value;
  s->mean = (index == 0 ? 0.0 : s->mean) + value / n;
}

void ingot_report_make(const ingot_merge_timing *timing, int n_rank, ingot_report *out)
{
  *out = (ingot_report){.n_rank = n_rank};
  for (int r = 0; r < n_rank; r++) {
    const ingot_merge_timing *t = &timing[r];
    double                    lanes = t->n_lane > 0 ? (double)t->n_lane : 1.0;
    double                    seconds[INGOT_PHASE_COUNT] = {t->read_s, t->move_s, t->merge_s, t->write_s, t->wait_s};
    for (int p = 0; p < INGOT_PHASE_COUNT; p++) spread_add(&out->phase_s[p], seconds[p] / lanes, r, n_rank);
    spread_add(&out->wall_s, t->wall_s, r, n_rank);
    spread_add(&out->cpu_s, t->cpu_s, r, n_rank);
    /* A step that ran models on a GPU did all of its work there; lanes of a merge say it themselves. */
    bool all_there = t->on_device && t->tiles_on_device == 0 && t->device_s == 0.0;
    spread_add(&out->device_s, (all_there ? t->move_s + t->merge_s : t->device_s) / lanes, r, n_rank);
    spread_add(&out->memory_bytes, (double)t->peak_anon_bytes, r, n_rank);
    if (t->library_bytes > out->library_bytes) out->library_bytes = t->library_bytes;
    if (t->peak_device_bytes > out->device_bytes) out->device_bytes = t->peak_device_bytes;
    out->bytes_read += t->bytes_read;
    out->bytes_written += t->bytes_written;
    out->tiles_done += t->tiles_done;
    out->tiles_resumed += t->tiles_resumed;
    out->tiles_on_device += t->tiles_on_device;
    out->n_lane += t->n_lane;
    out->n_on_device += t->on_device;
  }
}

static double rate(uint64_t bytes, double seconds)
{
  return seconds > 0.0 ? (double)bytes / 1e9 / seconds : 0.0;
}

static ingot_status row(ingot_text *text, const char *name, const ingot_spread *s, uint64_t bytes)
{
  ingot_status st = ingot_text_printf(text, "  %-6s %9.3f %9.3f %9.3f", name, s->min, s->mean, s->max);
  if (st == INGOT_OK && bytes > 0)
    st = ingot_text_printf(text, " %9.2f %9.2f", (double)bytes / 1e9, rate(bytes, s->max));
  return st == INGOT_OK ? ingot_text_printf(text, "\n") : st;
}

ingot_status ingot_report_text(const ingot_report *r, ingot_text *text)
{
  ingot_status st = INGOT_OK;
  char         least[32], mean[32], most[32], where[48] = "CPU";
  if (r->n_on_device > 0) snprintf(where, sizeof where, "GPU");
  if (r->n_on_device > 0 && r->tiles_on_device < r->tiles_done)
    snprintf(where, sizeof where, "CPU and GPU (%lld tiles)", (long long)r->tiles_on_device);
  INGOT_TRY(ingot_text_printf(text, "  seconds      min      mean       max        GB      GB/s\n"));
  for (int p = 0; p < INGOT_PHASE_COUNT; p++) {
    uint64_t bytes = p == INGOT_PHASE_READ ? r->bytes_read : p == INGOT_PHASE_WRITE ? r->bytes_written : 0;
    INGOT_TRY(row(text, phase_names[p], &r->phase_s[p], bytes));
  }
  if (r->n_on_device > 0) INGOT_TRY(row(text, "on GPU", &r->device_s, 0));
  INGOT_TRY(row(text, "wall", &r->wall_s, r->bytes_read + r->bytes_written));
  INGOT_TRY(row(text, "cpu", &r->cpu_s, 0));
  INGOT_TRY(ingot_text_printf(text,
                              "  %d rank%s, %lld thread%s, %s; %lld %s, %lld taken over\n"
                              "  memory of a rank: %s min, %s mean, %s max",
                              r->n_rank, r->n_rank == 1 ? "" : "s", (long long)r->n_lane, r->n_lane == 1 ? "" : "s",
                              where, (long long)r->tiles_done, r->windows ? "windows run" : "tiles merged",
                              (long long)r->tiles_resumed, ingot_bytes_text((uint64_t)r->memory_bytes.min, least),
                              ingot_bytes_text((uint64_t)r->memory_bytes.mean, mean),
                              ingot_bytes_text((uint64_t)r->memory_bytes.max, most)));
  if (r->library_bytes > 0 && r->planned_host_bytes > 0)
    INGOT_TRY(ingot_text_printf(text, "; planned %s, of which %s are the GPU libraries'",
                                ingot_bytes_text(r->planned_host_bytes + r->library_bytes, mean),
                                ingot_bytes_text(r->library_bytes, least)));
  if (r->n_on_device == 0 && r->planned_bytes > 0)
    INGOT_TRY(ingot_text_printf(text, "; planned %s", ingot_bytes_text(r->planned_bytes, mean)));
  if (r->device_bytes > 0)
    INGOT_TRY(ingot_text_printf(text, "\n  GPU memory of a rank: %s at most; planned %s",
                                ingot_bytes_text(r->device_bytes, most), ingot_bytes_text(r->planned_bytes, mean)));
done:
  return st;
}

static json_t *spread_json(const ingot_spread *s)
{
  return json_pack("{s:f, s:f, s:f}", "min", s->min, "mean", s->mean, "max", s->max);
}

json_t *ingot_report_json(const ingot_report *r)
{
  json_t *j = json_object();
  for (int p = 0; p < INGOT_PHASE_COUNT; p++) {
    char name[16];
    snprintf(name, sizeof name, "%s_s", phase_names[p]);
    json_object_set_new(j, name, spread_json(&r->phase_s[p]));
  }
  json_object_set_new(j, "wall_s", spread_json(&r->wall_s));
  json_object_set_new(j, "cpu_s", spread_json(&r->cpu_s));
  json_object_set_new(j, "device_s", spread_json(&r->device_s));
  json_object_set_new(j, "memory_bytes", spread_json(&r->memory_bytes));
  json_object_set_new(j, "planned_memory_bytes", json_integer((json_int_t)r->planned_bytes));
  json_object_set_new(j, "planned_host_bytes", json_integer((json_int_t)r->planned_host_bytes));
  json_object_set_new(j, "gpu_library_bytes", json_integer((json_int_t)r->library_bytes));
  json_object_set_new(j, "peak_device_bytes", json_integer((json_int_t)r->device_bytes));
  json_object_set_new(j, "bytes_read", json_integer((json_int_t)r->bytes_read));
  json_object_set_new(j, "bytes_written", json_integer((json_int_t)r->bytes_written));
  json_object_set_new(j, "gb_per_s", json_real(rate(r->bytes_read + r->bytes_written, r->wall_s.max)));
  json_object_set_new(j, "tiles_done", json_integer(r->tiles_done));
  json_object_set_new(j, "tiles_resumed", json_integer(r->tiles_resumed));
  json_object_set_new(j, "ranks", json_integer(r->n_rank));
  json_object_set_new(j, "threads", json_integer(r->n_lane));
  json_object_set_new(j, "on_device", json_boolean(r->n_on_device > 0));
  json_object_set_new(j, "tiles_on_device", json_integer(r->tiles_on_device));
  json_object_set_new(j, "peak_anon_bytes", json_integer((json_int_t)r->memory_bytes.max));
  return j;
}
