/* Opening the shim at run time. */
#ifndef DITRUN_LOAD_H
#define DITRUN_LOAD_H

#include "dt.h"

/* dt_load opens the shim and resolves its functions; it returns why that failed, NULL if it did
 * not. The text stays valid until the next call. */
const char *dt_load(const char *path);

#endif
