/** The report of a merge as one HTML page: inline SVG, no scripts, nothing loaded from elsewhere. */
#ifndef INGOT_DRIVER_REPORT_HTML_H
#define INGOT_DRIVER_REPORT_HTML_H

#include <jansson.h>

#include "base/text.h"
#include "driver/merge_kept.h"
#include "driver/merge_measure.h"

/** `title` and `names` [n_model] are of any bytes; `manifest` lends the settings and the run. INGOT_ERR_NOMEM. */
ingot_status ingot_report_html(const char *title, const char *const *names, const ingot_measure *measure,
                               const ingot_kept *by_method, const json_t *manifest, ingot_text *html);

#endif
