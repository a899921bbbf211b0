#include "load.h"

#include <dlfcn.h>
#include <limits.h>
#include <malloc.h>
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

/* glibc gives each large activation its own mapping and returns it to the system when it is freed,
 * which costs a page fault per 4 KiB in every operation. One arena that is never trimmed keeps the
 * pages. One arena only: the thresholds do not hold in the arenas of other threads. It must be done
 * before threads allocate, hence a constructor. */
__attribute__((constructor)) static void keep_pages(void) {
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_MMAP_THRESHOLD, INT_MAX);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
}
