/** Events of a run as JSON lines (`--json FILE`): one object a line, with "event" and "time_s" since the start. */
#ifndef INGOT_DRIVER_EVENTS_H
#define INGOT_DRIVER_EVENTS_H

#include <jansson.h>

#include "base/status.h"

typedef struct ingot_events ingot_events;

/** Append to a file, which is made when missing. INGOT_ERR_IO. */
ingot_status ingot_events_open(const char *path, ingot_events **out);
void         ingot_events_close(ingot_events **events);
/**
 * Write one event. `members` is an object with the rest of it, taken over in any case; NULL for none. Does nothing when
 * events is NULL. A failing write is reported once, as a warning: the run itself goes on.
 */
void ingot_events_write(ingot_events *events, const char *event, json_t *members);

#endif
