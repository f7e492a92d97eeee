#define _GNU_SOURCE
#include "kernels/library.h"

#include <dlfcn.h>
#include <stdio.h>

ingot_status ingot_library_load(const char *name, const char *folder, void **out)
{
  char path[1024], reason[512] = "";
  *out = dlopen(name, RTLD_LAZY | RTLD_LOCAL | RTLD_NODELETE);
  if (*out != NULL) return INGOT_OK;
  const char *text = dlerror();
  snprintf(reason, sizeof reason, "%s", text != NULL ? text : "no reason given");
  if (folder != NULL && snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path) {
    *out = dlopen(path, RTLD_LAZY | RTLD_LOCAL | RTLD_NODELETE);
    if (*out != NULL) return INGOT_OK;
  }
  return ingot_fail(INGOT_ERR_DEVICE, "the library %s, which this step needs, could not be loaded: %s", name, reason);
}

ingot_status ingot_library_function(void *library, const char *library_name, const char *function, void **out)
{
  *out = dlsym(library, function);
  if (*out != NULL) return INGOT_OK;
  return ingot_fail(INGOT_ERR_DEVICE, "the library %s has no function %s: another version is installed", library_name,
                    function);
}
