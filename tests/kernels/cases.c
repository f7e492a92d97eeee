#include "tests/kernels/cases.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "kernels/convert.h"

enum { MAX_INPUTS = 4, MAX_ELEMENTS = 8 };

/* One worked example: vectors in float32, exact unless `absolute` says how many digits the source prints. */
typedef struct worked {
  const char *name, *method, *parameters;
  double      absolute;
  bool        has_base;
  int         n_model, n_elem;
  float       in[MAX_INPUTS][MAX_ELEMENTS];
  double      expected[MAX_ELEMENTS];
} worked;

/* The fixture of the reference: a base of 2 x 4 and three experts near it, all exact in bfloat16. */
#define F8_BASE                \
  {                            \
    1, -2, .5f, 0, 0, 1, -1, 2 \
  }
#define F8_A                                                  \
  {                                                           \
    1.5f, -2.125f, .5f, .375f, -.25f, 1.0625f, -.8125f, 1.25f \
  }
#define F8_B                                                    \
  {                                                             \
    .5625f, -2.375f, .8125f, .125f, .25f, .8125f, -.9375f, 2.5f \
  }
#define F8_C                                               \
  {                                                        \
    1.125f, -2, 0, .25f, .375f, 1.0625f, -1.3125f, 2.1875f \
  }
#define F8_ALL                \
  {                           \
    F8_BASE, F8_A, F8_B, F8_C \
  }
/* base + delta, for answers that the source gives as deltas */
#define ON_F8(a, b, c, d, e, f, g, h)                                 \
  {                                                                   \
    1 + (a), -2 + (b), .5 + (c), (d), (e), 1 + (f), -1 + (g), 2 + (h) \
  }

static const worked table[] = {
    {"F8 1 2 1",
     "linear",
     "weight@0=1 weight@1=2 weight@2=1",
     0,
     false,
     3,
     8,
     {F8_A, F8_B, F8_C},
     {.9375, -2.21875, .53125, .21875, .15625, .9375, -1, 2.109375}},
    {"F8 1 2 1 plain",
     "linear",
     "weight@0=1 weight@1=2 weight@2=1 normalize=false",
     0,
     false,
     3,
     8,
     {F8_A, F8_B, F8_C},
     {3.75, -8.875, 2.125, .875, .625, 3.75, -4, 8.4375}},
    {"one model", "linear", "weight=0.3", 0, false, 1, 8, {F8_A}, F8_A},
    {"quarter", "slerp", "t=0.25", 5e-7, true, 1, 2, {{2, 0}, {0, 1}}, {1.847759, .382683}},
    {"half", "slerp", "t=0.5", 5e-7, true, 1, 3, {{3, 4, 0}, {0, 3, 4}}, {1.743715, 4.068667, 2.324953}},
    {"antiparallel", "slerp", "t=0.25", 0, true, 1, 2, {{1, 0}, {-1, 0}}, {.5, 0}},
    {"zero base", "slerp", "t=0.5", 5e-7, true, 1, 2, {{0, 0}, {0, 3}}, {0, 2.121320}},
    {"parallel", "slerp", "t=0.5", 1e-9, true, 1, 2, {{1, 0}, {1, .01f}}, {1, .005}},
    {"F8 halves",
     "task_arithmetic",
     "weight=0.5",
     0,
     true,
     3,
     8,
     F8_ALL,
     {1.09375, -2.25, .40625, .375, .1875, .96875, -1.03125, 1.96875}},
    {"F8 halves normalized",
     "task_arithmetic",
     "weight=0.5 normalize=true",
     6e-7,
     true,
     3,
     8,
     F8_ALL,
     {1.0625, -2.166667, .4375, .25, .125, .979167, -1.020833, 1.979167}},
    {"F8 forget A",
     "task_arithmetic",
     "weight=-0.5",
     0,
     true,
     1,
     8,
     {F8_BASE, F8_A},
     {.75, -1.9375, .5, -.1875, .125, .96875, -1.09375, 2.375}},
    {"F8 analogy",
     "task_arithmetic",
     "weight@0=-1 weight@1=1 weight@2=1",
     0,
     true,
     3,
     8,
     F8_ALL,
     {.1875, -2.25, .3125, 0, .875, .8125, -1.4375, 3.4375}},
    {"F8 tensor", "ties", "weight=1 density=0.625", 0, true, 3, 8, F8_ALL,
     ON_F8(.5, -.375, -.5, .3125, .3125, 0, -.3125, -.75)},
    {"F8 1 2 1", "ties", "weight@0=1 weight@1=2 weight@2=1 density=0.625", 5e-7, true, 3, 8, F8_ALL,
     ON_F8(-.4375, -.375, .3125, .3125, .291667, 0, -.3125, .395833)},
    {"F8 plain", "ties", "weight=1 density=0.625 normalize=false", 0, true, 3, 8, F8_ALL,
     ON_F8(.5, -.375, -.5, .625, .625, 0, -.3125, -.75)},
    {"F8 zero sum",
     "ties",
     "weight=1",
     0,
     true,
     2,
     8,
     {F8_BASE, F8_A, F8_B},
     ON_F8(.5, -.25, .3125, .25, .25, -.1875, .125, -.75)},
    {"F8 model", "ties", "weight=1 density=0.625 scope=model", 0, true, 3, 8, F8_ALL,
     ON_F8(.3125, -.25, -.5, .3125, .3125, -.1875, -.3125, -.75)},
    {"zero sum, most are minus",
     "ties",
     "weight=1 scope=model",
     0,
     true,
     2,
     3,
     {{0, 0, 0}, {1, -1, -1}, {-1, -1, -2}},
     {-1, -1, -1.5}},
    {"zero sum, plus asked for",
     "ties",
     "weight=1 scope=model zero=plus",
     0,
     true,
     2,
     3,
     {{0, 0, 0}, {1, -1, -1}, {-1, -1, -2}},
     {1, -1, -1.5}},
    {"zero sum, most are plus",
     "ties",
     "weight=1 scope=model",
     0,
     true,
     2,
     3,
     {{0, 0, 0}, {1, 1, 1}, {-1, 1, 2}},
     {1, 1, 1.5}},
    {"density too small for one",
     "ties",
     "weight=1 density=0.01",
     0,
     true,
     1,
     8,
     {F8_BASE, F8_A},
     ON_F8(0, 0, 0, 0, 0, 0, 0, -.75)},
    {"density 1", "dare_linear", "weight=1", 0, true, 1, 8, {F8_BASE, F8_A}, F8_A},
    {"density 1 halves",
     "dare_linear",
     "weight=0.5",
     0,
     true,
     3,
     8,
     F8_ALL,
     {1.09375, -2.25, .40625, .375, .1875, .96875, -1.03125, 1.96875}},
    {"density 1",
     "dare_ties",
     "weight=1 normalize=true",
     0,
     true,
     2,
     8,
     {F8_BASE, F8_A, F8_B},
     ON_F8(.5, -.25, .3125, .25, .25, -.1875, .125, -.75)},
    {"as it is", "passthrough", "", 0, false, 1, 8, {F8_A}, F8_A},
    {"half", "passthrough", "scale=0.5", 0, false, 1, 8, {F8_BASE}, {.5, -1, .25, 0, 0, .5, -.5, 1}},
};

/* The same with statistics after the models. */
static const struct {
  worked example;
  int    n_statistic;
} statistics_table[] = {
    {{"max floor",
      "fisher",
      "floor=1e-6",
      1e-7,
      false,
      2,
      3,
      {{1, 2, -1}, {3, 0, 1}, {4, 0, 1e-7f}, {1, 0, 0}},
      {1.4, 1, 0}},
     2},
    {{"floor of the first",
      "fisher",
      "floor=1e-6 floor_rule=max_first",
      1e-7,
      false,
      2,
      3,
      {{1, 2, -1}, {3, 0, 1}, {4, 0, 1e-7f}, {1, 0, 0}},
      {1.4, 2, -1}},
     2},
    {{"added floor",
      "fisher",
      "floor=1e-6 floor_rule=add weight=0.5",
      1e-7,
      false,
      2,
      3,
      {{1, 2, -1}, {3, 0, 1}, {4, 0, 1e-7f}, {1, 0, 0}},
      {1.40000024, 1, -.04761905}},
     2},
    {{"norms 4 and 1",
      "fisher",
      "floor=1e-6 normalize=l2 weight=0.5",
      1e-7,
      false,
      2,
      3,
      {{1, 2, -1}, {3, 0, 1}, {4, 0, 1e-7f}, {1, 0, 0}},
      {2, .4, .6}},
     2},
    {{"no floor, mean where all vanish",
      "fisher",
      "",
      1e-7,
      false,
      2,
      3,
      {{1, 2, -1}, {3, 0, 1}, {4, 0, 1e-7f}, {1, 0, 0}},
      {1.4, 1, -1}},
     2},
    {{"no statistics: mean",
      "fisher",
      "weight@0=3 weight@1=1",
      0,
      false,
      2,
      3,
      {{1, 2, -1}, {3, 0, 1}},
      {1.5, 1.5, -.5}},
     0},
};

static void *allocate(size_t bytes)
{
  void *memory = calloc(bytes + 1, 1);
  INGOT_ASSERT(memory);
  return memory;
}

static void tensor_init(merge_case_tensor *t, int n_input)
{
  t->in = allocate((size_t)n_input * sizeof *t->in);
  t->in_dtype = allocate((size_t)n_input * sizeof *t->in_dtype);
}

static void worked_case(const worked *w, int n_statistic, merge_case *c)
{
  int n_input = w->n_model + w->has_base + n_statistic;
  *c = (merge_case){.absolute = w->absolute,
                    .has_base = w->has_base,
                    .n_model = w->n_model,
                    .n_statistic = n_statistic,
                    .n_tensor = 1,
                    .seed = 7};
  snprintf(c->name, sizeof c->name, "worked: %s", w->name);
  snprintf(c->method, sizeof c->method, "%s", w->method);
  snprintf(c->parameters, sizeof c->parameters, "%s", w->parameters);
  c->tensors = allocate(sizeof *c->tensors);
  merge_case_tensor *t = &c->tensors[0];
  tensor_init(t, n_input);
  snprintf(t->name, sizeof t->name, "w");
  t->n_elem = w->n_elem;
  t->shape = w->n_elem == 8 ? (ingot_shape){.n_dim = 2, .dim = {2, 4}} : (ingot_shape){.n_dim = 1, .dim = {w->n_elem}};
  t->out_dtype = INGOT_DTYPE_F32;
  for (int i = 0; i < n_input; i++) {
    t->in_dtype[i] = INGOT_DTYPE_F32;
    t->in[i] = allocate((size_t)w->n_elem * sizeof(float));
    memcpy(t->in[i], w->in[i], (size_t)w->n_elem * sizeof(float));
  }
  t->expected = allocate((size_t)w->n_elem * sizeof(double));
  memcpy(t->expected, w->expected, (size_t)w->n_elem * sizeof(double));
}

/* The reference file: see the top of merge_reference.py. */

static void take(FILE *f, void *into, size_t bytes)
{
  INGOT_ASSERT(bytes == 0 || fread(into, bytes, 1, f) == 1);
}

static ingot_dtype take_dtype(FILE *f)
{
  char        name[9] = {0};
  ingot_dtype d = INGOT_DTYPE_COUNT;
  take(f, name, 8);
  INGOT_ASSERT(ingot_dtype_parse(name, &d));
  return d;
}

static void take_tensor(FILE *f, int n_input, merge_case_tensor *t)
{
  uint32_t head[2];
  take(f, t->name, 32);
  t->out_dtype = take_dtype(f);
  take(f, head, sizeof head);
  t->shape.n_dim = (int)head[0];
  take(f, t->shape.dim, 8 * sizeof(int64_t));
  INGOT_ASSERT(ingot_shape_count(&t->shape, &t->n_elem));
  tensor_init(t, n_input);
  for (int i = 0; i < n_input; i++) {
    t->in_dtype[i] = take_dtype(f);
    size_t bytes = (size_t)t->n_elem * ingot_dtype_size(t->in_dtype[i]);
    t->in[i] = allocate(bytes);
    take(f, t->in[i], bytes);
  }
  t->expected = allocate((size_t)t->n_elem * sizeof(double));
  take(f, t->expected, (size_t)t->n_elem * sizeof(double));
}

static void take_case(FILE *f, merge_case *c)
{
  uint32_t counts[4];
  *c = (merge_case){0};
  take(f, c->name, 64);
  take(f, c->method, 32);
  take(f, c->parameters, 160);
  take(f, &c->seed, 8);
  take(f, &c->absolute, 8);
  take(f, &c->relative, 8);
  take(f, counts, sizeof counts);
  c->has_base = counts[0] != 0;
  c->n_model = (int)counts[1];
  c->n_tensor = (int)counts[2];
  c->n_statistic = (int)counts[3];
  c->tensors = allocate((size_t)c->n_tensor * sizeof *c->tensors);
  for (int i = 0; i < c->n_tensor; i++) take_tensor(f, c->n_model + c->has_base + c->n_statistic, &c->tensors[i]);
}

static void case_release(merge_case *c)
{
  for (int i = 0; i < c->n_tensor; i++) {
    merge_case_tensor *t = &c->tensors[i];
    for (int k = 0; k < c->n_model + c->has_base + c->n_statistic; k++) free(t->in[k]);
    free(t->in);
    free(t->in_dtype);
    free(t->expected);
  }
  free(c->tensors);
}

void merge_cases_load(const char *method, merge_cases *cases)
{
  const int n_plain = sizeof table / sizeof *table;
  const int n_worked = n_plain + (int)(sizeof statistics_table / sizeof *statistics_table);
  FILE     *f = fopen(INGOT_TEST_DIR "/golden/merge_reference.bin", "rb");
  char      magic[8];
  uint32_t  head[2];
  INGOT_ASSERT(f);
  take(f, magic, 8);
  take(f, head, sizeof head);
  INGOT_ASSERT(memcmp(magic, "INGOTREF", 8) == 0 && head[0] == 1);
  *cases = (merge_cases){.item = allocate(((size_t)n_worked + head[1]) * sizeof(merge_case))};
  for (int i = 0; i < n_worked + (int)head[1]; i++) {
    merge_case *c = &cases->item[cases->count];
    if (i < n_plain) worked_case(&table[i], 0, c);
    else if (i < n_worked)
      worked_case(&statistics_table[i - n_plain].example, statistics_table[i - n_plain].n_statistic, c);
    else take_case(f, c);
    if (!method || strcmp(c->method, method) == 0) cases->count++;
    else case_release(c);
  }
  INGOT_ASSERT(fgetc(f) == EOF);
  fclose(f);
}

void merge_cases_release(merge_cases *cases)
{
  for (int i = 0; i < cases->count; i++) case_release(&cases->item[i]);
  free(cases->item);
  *cases = (merge_cases){0};
}

void **merge_case_alloc_outputs(const merge_case *c)
{
  void **out = allocate((size_t)c->n_tensor * sizeof *out);
  for (int i = 0; i < c->n_tensor; i++)
    out[i] = allocate((size_t)c->tensors[i].n_elem * ingot_dtype_size(c->tensors[i].out_dtype));
  return out;
}

void merge_case_free_outputs(const merge_case *c, void **out)
{
  for (int i = 0; i < c->n_tensor; i++) free(out[i]);
  free(out);
}

bool merge_case_compare(const merge_case *c, void *const *out, char message[256])
{
  for (int i = 0; i < c->n_tensor; i++) {
    const merge_case_tensor *t = &c->tensors[i];
    size_t                   size = ingot_dtype_size(t->out_dtype);
    for (int64_t j = 0; j < t->n_elem; j++) {
      float  got;
      double expected = t->expected[j];
      ingot_widen(t->out_dtype, (const char *)out[i] + (size_t)j * size, &got, 1);
      if (fabs((double)got - expected) <= c->absolute + c->relative * fabs(expected)) continue;
      snprintf(message, 256, "%s, %s: %s[%lld] is %.9g, expected %.9g", c->method, c->name, t->name, (long long)j,
               (double)got, expected);
      return false;
    }
  }
  return true;
}
