#include <string.h>

#include "kernels/method.h"

#define INGOT_METHOD(name) extern const ingot_method ingot_method_##name;
#include "kernels/methods.def"
#undef INGOT_METHOD

static const ingot_method *const methods[] = {
#define INGOT_METHOD(name) &ingot_method_##name,
#include "kernels/methods.def"
#undef INGOT_METHOD
};

enum { N_METHOD = sizeof methods / sizeof *methods };

int ingot_method_count(void)
{
  return N_METHOD;
}

const ingot_method *ingot_method_at(int i)
{
  return methods[i];
}

const ingot_method *ingot_method_find(const char *name)
{
  for (int i = 0; i < N_METHOD; i++)
    if (strcmp(methods[i]->name, name) == 0) return methods[i];
  return NULL;
}

const char *ingot_method_nearest(const char *name)
{
  const char *names[N_METHOD];
  for (int i = 0; i < N_METHOD; i++) names[i] = methods[i]->name;
  return ingot_nearest_name(name, names, N_METHOD);
}

int ingot_method_param(const ingot_method *m, const char *name, const ingot_param_spec **spec)
{
  int index[2] = {0, 0};
  for (int i = 0; i < m->n_param; i++) {
    const ingot_param_spec *p = &m->params[i];
    if (strcmp(p->name, name) == 0) {
      if (spec) *spec = p;
      return index[p->scope];
    }
    index[p->scope]++;
  }
  return -1;
}

int ingot_method_n_param(const ingot_method *m, ingot_param_scope scope)
{
  int n = 0;
  for (int i = 0; i < m->n_param; i++) n += m->params[i].scope == scope;
  return n;
}
