#define _POSIX_C_SOURCE 200809L
#include "driver/events.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/log.h"

struct ingot_events {
  FILE  *file;
  double start_s;
  bool   failed;
};

/* A file that is there holds events: anything else is not ours to write behind. */
static ingot_status check_events(const char *path)
{
  ingot_status st = INGOT_OK;
  struct stat  info;
  char         first[2];
  FILE        *f = NULL;
  if (stat(path, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size == 0) return INGOT_OK;
  f = fopen(path, "r");
  if (!f) return INGOT_OK; /* writable, as a log may be */
  INGOT_CHECK(fread(first, 1, sizeof first, f) == sizeof first && memcmp(first, "{\"", 2) == 0, INGOT_ERR_USAGE,
              "--json: %s is there and holds no events", path);
done:
  if (f) fclose(f);
  return st;
}

ingot_status ingot_events_open(const char *path, ingot_events **out)
{
  ingot_status  st = INGOT_OK;
  ingot_events *e = calloc(1, sizeof *e);
  INGOT_CHECK(e, INGOT_ERR_NOMEM, "no memory for events");
  e->start_s = ingot_clock_s();
  INGOT_TRY(check_events(path));
  e->file = fopen(path, "a");
  INGOT_CHECK(e->file, INGOT_ERR_IO, "--json: cannot write %s: %s", path, strerror(errno));
  *out = e;
  e = NULL;
done:
  free(e);
  return st;
}

void ingot_events_close(ingot_events **events)
{
  if (!*events) return;
  if ((*events)->file) fclose((*events)->file);
  free(*events);
  *events = NULL;
}

void ingot_events_write(ingot_events *events, const char *event, json_t *members)
{
  char *line = NULL;
  if (events && !events->failed) {
    json_t *all = json_pack("{s:s, s:f}", "event", event, "time_s", ingot_clock_s() - events->start_s);
    if (all && members) json_object_update(all, members);
    line = json_dumps(all, JSON_COMPACT);
    json_decref(all);
    if (!line || fprintf(events->file, "%s\n", line) < 0 || fflush(events->file) != 0) {
      events->failed = true;
      ingot_log_warning("--json: writing an event failed; no more events are written");
    }
  }
  free(line);
  json_decref(members);
}
