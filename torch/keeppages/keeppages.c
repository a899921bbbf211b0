#include <limits.h>
#include <malloc.h>

#ifdef __GLIBC__
__attribute__((constructor)) static void keep_pages(void) {
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_MMAP_THRESHOLD, INT_MAX);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
}
#endif
