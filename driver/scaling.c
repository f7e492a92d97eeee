#include "driver/scaling.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "driver/merge_plan.h"

typedef struct site_key {
  const char *name;
  size_t      at; /* of the member */
  double      missing, scale;
} site_key;

/*
 * unit-ns from docs/performance.md: linear of four takes 1.5 to 2.1 CPU seconds for 10^9 parameters of 12.5 units each,
 * SLERP 2.2 to 2.5 of 14.5, TIES of three 4.1 to 4.7 of 33: 0.12 to 0.17 nanoseconds a unit.
 */
static const site_key site_keys[] = {
    {"read", offsetof(ingot_site, node_read), 10.0, 1e9},   {"write", offsetof(ingot_site, node_write), 5.0, 1e9},
    {"fs-read", offsetof(ingot_site, fs_read), 200.0, 1e9}, {"fs-write", offsetof(ingot_site, fs_write), 100.0, 1e9},
    {"cores", offsetof(ingot_site, cores), 32.0, 1.0},      {"unit-ns", offsetof(ingot_site, unit_ns), 0.15, 1.0},
};
enum { N_SITE_KEY = sizeof site_keys / sizeof site_keys[0] };

static double *member(ingot_site *site, const site_key *key)
{
  return (double *)(void *)((char *)site + key->at);
}

static ingot_status parse_site(const char *text, ingot_site *site)
{
  const char *at = text;
  for (int i = 0; i < N_SITE_KEY; i++) *member(site, &site_keys[i]) = site_keys[i].missing * site_keys[i].scale;
  while (at && *at) {
    size_t name = strcspn(at, "=,");
    int    found = -1;
    char  *end = NULL;
    for (int i = 0; i < N_SITE_KEY; i++)
      if (strlen(site_keys[i].name) == name && strncmp(at, site_keys[i].name, name) == 0) found = i;
    double value = found >= 0 && at[name] == '=' ? strtod(at + name + 1, &end) : 0.0;
    if (!(value > 0.0) || !isfinite(value) || (*end && (*end != ',' || !end[1])))
      return ingot_fail(INGOT_ERR_USAGE,
                        "--site: expected read, write, fs-read, fs-write (GB/s), cores and unit-ns such as "
                        "read=10,cores=32; found \"%s\"",
                        text);
    *member(site, &site_keys[found]) = value * site_keys[found].scale;
    at = *end ? end + 1 : end;
  }
  return INGOT_OK;
}

ingot_status ingot_scaling_parse(const char *nodes, const char *site, ingot_scaling *out)
{
  const char *at = nodes;
  *out = (ingot_scaling){0};
  do {
    char *end = NULL;
    long  n = strtol(at, &end, 10);
    bool  ascends = out->n_row == 0 || n > out->nodes[out->n_row - 1];
    if (end == at || n < 1 || n > 1 << 20 || !ascends || (*end && *end != ',') || out->n_row == INGOT_SCALING_ROWS)
      return ingot_fail(INGOT_ERR_USAGE,
                        "--nodes: expected ascending numbers of nodes such as 1,2,4 (at most %d); found \"%s\"",
                        INGOT_SCALING_ROWS, nodes);
    out->nodes[out->n_row++] = (int)n;
    at = *end ? end + 1 : NULL;
  } while (at);
  return parse_site(site, &out->site);
}

const char *ingot_scaling_refusal(const ingot_step_plan *plan)
{
  if (strcmp(plan->type->name, "merge") != 0 && strcmp(plan->type->name, "export") != 0)
    return "only merges and exports are modelled";
  if (!plan->ready) return "its inputs are yet to be made";
  if (((const ingot_merge_body *)plan->body)->plan.method->matrix) return "merges that solve matrices are not modelled";
  return NULL;
}

ingot_status ingot_scaling_row_make(const ingot_step_plan *plan, const ingot_site *site, int nodes,
                                    ingot_scaling_row *row)
{
  double       total = 0.0, largest = 0.0;
  ingot_status st = ingot_merge_cost(&((const ingot_merge_body *)plan->body)->plan, nodes, &total, &largest);
  if (st != INGOT_OK) return st;
  double share = total > 0.0 ? largest / total : 1.0 / nodes;
  double read = (double)plan->bytes_read, written = (double)plan->bytes_written;
  *row = (ingot_scaling_row){.nodes = nodes,
                             .share = share,
                             .read_s = fmax(read * share / site->node_read, read / site->fs_read),
                             .compute_s = largest * site->unit_ns * 1e-9 / site->cores,
                             .write_s = fmax(written * share / site->node_write, written / site->fs_write)};
  return INGOT_OK;
}

static double sum_of(const ingot_scaling_row *r)
{
  return r->read_s + r->compute_s + r->write_s;
}

static ingot_status append_table(const ingot_step_plan *plan, const ingot_scaling *scaling, ingot_text *text)
{
  ingot_status      st = INGOT_OK;
  ingot_scaling_row row, first = {0};
  INGOT_TRY(ingot_text_printf(text,
                              "  | nodes | largest share | read s | compute s | write s | sum s | times as fast |\n"
                              "  |---|---|---|---|---|---|---|\n"));
  for (int i = 0; i < scaling->n_row; i++) {
    INGOT_TRY(ingot_scaling_row_make(plan, &scaling->site, scaling->nodes[i], &row));
    if (i == 0) first = row;
    INGOT_TRY(ingot_text_printf(text, "  | %d | %.4f | %.3g | %.3g | %.3g | %.3g | %.1f |\n", row.nodes, row.share,
                                row.read_s, row.compute_s, row.write_s, sum_of(&row),
                                sum_of(&row) > 0.0 ? sum_of(&first) / sum_of(&row) : 1.0));
  }
done:
  return st;
}

ingot_status ingot_scaling_text(const ingot_planner *planner, const ingot_scaling *scaling, ingot_text *text)
{
  ingot_status      st = INGOT_OK;
  const ingot_site *s = &scaling->site;
  char              read[32], written[32];
  INGOT_TRY(ingot_text_printf(
      text,
      "assumed: a node reads %.4g and writes %.4g GB/s and has %.4g cores; the file system gives all nodes "
      "together %.4g and %.4g GB/s; a core takes %.4g ns for a unit of cost; nothing overlaps; start and metadata "
      "are not counted\n",
      s->node_read / 1e9, s->node_write / 1e9, s->cores, s->fs_read / 1e9, s->fs_write / 1e9, s->unit_ns));
  for (int i = 0; i < planner->job->n_step; i++) {
    const ingot_step_plan *p = &planner->steps[i];
    if (!p->type) continue;
    const char *refusal = ingot_scaling_refusal(p);
    INGOT_TRY(ingot_text_printf(text, "\nstep %d: %s", p->number, p->title));
    if (refusal) {
      INGOT_TRY(ingot_text_printf(text, ": no table: %s\n", refusal));
      continue;
    }
    double total = 0.0, largest = 0.0;
    INGOT_TRY(ingot_merge_cost(&((const ingot_merge_body *)p->body)->plan, 1, &total, &largest));
    INGOT_TRY(ingot_text_printf(text, ": %s to read, %s to write, %.4g CPU s of arithmetic\n\n",
                                ingot_bytes_text(p->bytes_read, read), ingot_bytes_text(p->bytes_written, written),
                                total * s->unit_ns * 1e-9));
    INGOT_TRY(append_table(p, scaling, text));
  }
done:
  return st;
}

json_t *ingot_scaling_json(const ingot_step_plan *plan, const ingot_scaling *scaling)
{
  if (ingot_scaling_refusal(plan)) return NULL;
  json_t *rows = json_array();
  for (int i = 0; i < scaling->n_row; i++) {
    ingot_scaling_row row;
    if (ingot_scaling_row_make(plan, &scaling->site, scaling->nodes[i], &row) != INGOT_OK) {
      json_decref(rows);
      return NULL;
    }
    json_array_append_new(rows, json_pack("{s:i, s:f, s:f, s:f, s:f}", "nodes", row.nodes, "share", row.share, "read_s",
                                          row.read_s, "compute_s", row.compute_s, "write_s", row.write_s));
  }
  return rows;
}
