/* A stand-in for libditcuda.so, for tests without a GPU. It captures nothing: each call is a line
 * in the file LOG. Compiled with -DFAILS="graph_end", that function fails. -DNO_FILL leaves out
 * dt_plugin_fill, -DKERNELS adds one kernel, -DBROKEN one for the CPU that fails; VERSION and
 * LIBTORCH are what it says of itself. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

#ifndef VERSION
#define VERSION DT_PLUGIN_VERSION
#endif
#ifndef FAILS
#define FAILS ""
#endif

struct dt_graph_s {
  int captured;
};

static void write_log(const char *line) {
  FILE *f = fopen(LOG, "a");
  fprintf(f, "%s\n", line);
  fclose(f);
}

static char *call(const char *name) {
  write_log(name);
  if (strcmp(name, FAILS)) return NULL;
  char *why;
  if (asprintf(&why, "CUDA error: %s of the stand-in", name) < 0) abort();
  return why;
}

static char *graph_begin(dt_device dev, dt_graph *out) {
  (void)dev;
  char *why = call("graph_begin");
  if (!why) *out = calloc(1, sizeof(struct dt_graph_s));
  return why;
}

static char *graph_end(dt_graph g) {
  g->captured = 1;
  return call("graph_end");
}

static char *graph_replay(dt_graph g) {
  (void)g;
  return call("graph_replay");
}

static void graph_free(dt_graph g) {
  write_log(g->captured ? "graph_free" : "graph_free of a capture");
  free(g);
}

#ifdef KERNELS
static char *check_kernels(dt_device dev) {
  char *why = NULL;
  if (dev > 0 && asprintf(&why, "cuda:%d is too old", dev) < 0) abort();
  return why;
}

static int normals(float *out, int64_t n, int64_t row, uint64_t seed, uint32_t tag,
                   const int64_t *step, const int64_t *indices, void *stream) {
  (void)out, (void)n, (void)row, (void)seed, (void)tag, (void)step, (void)indices, (void)stream;
  return 1;
}
#endif

#ifdef BROKEN
static int gated_add(int32_t half, const dt_gated_add_args *a, void *stream) {
  (void)half, (void)a, (void)stream;
  return 700;
}
#endif

dt_plugin_version_function dt_plugin_version;
int32_t dt_plugin_version(void) { return VERSION; }

#ifndef NO_FILL
dt_plugin_fill_function dt_plugin_fill;
void dt_plugin_fill(dt_plugin *out) {
  memset(out, 0, sizeof *out);
  out->libtorch = LIBTORCH;
  out->graph_begin = graph_begin;
  out->graph_end = graph_end;
  out->graph_replay = graph_replay;
  out->graph_free = graph_free;
#ifdef KERNELS
  out->check_kernels = check_kernels;
  out->normals = normals;
#endif
#ifdef BROKEN
  out->emulated = 1;
  out->gated_add = gated_add;
#endif
}
#endif
