#include "load.h"

#include <dlfcn.h>
#include <stdio.h>

const char *dt_stubs_load(void *lib);

const char *dt_load(const char *path) {
  static char why[4096];
  void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  const char *name = NULL;
  if (!lib)
    snprintf(why, sizeof why, "%s", dlerror()); /* its text is the thread's, which Go may change */
  else if ((name = dt_stubs_load(lib)))
    snprintf(why, sizeof why, "function %s is missing", name);
  else
    return NULL;
  return why;
}
