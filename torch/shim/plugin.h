/* What libditcuda.so gives to the shim, which opens it at run time on machines with a GPU. It is
 * what needs CUDA's headers (graphs, by g++) or its compiler (kernels, by nvcc). Pure C. */
#ifndef DITRUN_PLUGIN_H
#define DITRUN_PLUGIN_H

#include "dt.h"
#include "kernels/block.h"

/* To be raised with every change to this file. */
#define DT_PLUGIN_VERSION 9

/* GroupNorm of x [n, pixels, channels] with weights [channels], and then SiLU if silu is set. */
typedef struct {
  int64_t n, pixels;
  int32_t channels, groups;
  float eps;
  int32_t silu;
} dt_norm_shape;

/* Where a function returns a text, that says what failed and is freed with free(); NULL is success.
 * The others of kernels queue work on a stream (cudaStream_t) of the current device and return 0,
 * or the number of an error of CUDA. */
typedef struct {
  const char *libtorch; /* the version it was compiled for */
  int32_t emulated;     /* 1: its kernels are for the CPU, in place of a GPU; for tests */

  /* What this thread starts on dev from graph_begin to graph_end becomes the graph: nothing of it
   * is computed, and its tensors lie in memory of the graph's own. In between, the current stream
   * is another one. graph_begin first waits for other threads' captures and for the device, and
   * gives memory that no tensor is in back to CUDA. graph_end fails where something could not be
   * captured. */
  char *(*graph_begin)(dt_device dev, dt_graph *out);
  char *(*graph_end)(dt_graph g);
  /* Computes it once, on the current stream. */
  char *(*graph_replay)(dt_graph g);
  /* Ends the capture first, where graph_end did not, on the same thread. */
  void (*graph_free)(dt_graph g);

  /* The kernels; NULL where the library has none. They were compiled for some GPUs alone:
   * check_kernels says why they cannot be started on dev. */
  char *(*check_kernels)(dt_device dev);
  int (*normals)(float *out, int64_t n, int64_t row, uint64_t seed, uint32_t tag,
                 const int64_t *step, const int64_t *indices, void *stream);
  int (*uniforms)(double *out, int64_t n, uint64_t seed, uint32_t tag, const int64_t *step,
                  const int64_t *indices, void *stream);
  /* Bytes of memory that group_norm needs for intermediate results, or group_norm_backward; less
   * than 0 where they do not take such sizes. */
  int64_t (*group_norm_workspace)(const dt_norm_shape *norm, int32_t backward);
  /* x, y, dy and dx are bfloat16 where half is 1, else float32, and aligned to 16 bytes.
   * normalisers [n, groups, 2] is what the backward pass takes from the forward pass. */
  int (*group_norm)(const dt_norm_shape *norm, int32_t half, const void *x, const float *weight,
                    const float *bias, void *workspace, float *normalisers, void *y, void *stream);
  int (*group_norm_backward)(const dt_norm_shape *norm, int32_t half, const void *x, const void *dy,
                             const float *weight, const float *bias, const float *normalisers,
                             void *workspace, void *dx, float *dweight, float *dbias, void *stream);

  /* Those of a transformer block and of the optimizer: kernels/block.h says what they compute, and
   * of which size a workspace is. half is 1 where the arguments that are void * are bfloat16. */
  int (*ada_norm)(int32_t half, const dt_ada_norm_args *a, void *stream);
  int64_t (*ada_norm_workspace)(int64_t n, int64_t tokens, int32_t width, int32_t gate);
  int (*ada_norm_backward)(int32_t half, const dt_ada_norm_backward_args *a, void *stream);
  int (*gated_add)(int32_t half, const dt_gated_add_args *a, void *stream);
  int64_t (*sums_workspace)(int64_t samples, int64_t rows, int32_t width);
  int (*gated_add_backward)(int32_t half, const dt_gated_add_backward_args *a, void *stream);
  int (*adamw)(int32_t half, const dt_adamw_args *a, void *stream);
  int (*bias_gelu_backward)(int32_t half, const dt_bias_gelu_backward_args *a, void *stream);
  int (*column_sums)(int32_t half, const dt_column_sums_args *a, void *stream);
  int (*pack_qkv)(int32_t half, const dt_pack_qkv_args *a, void *stream);
} dt_plugin;

#ifdef __cplusplus
extern "C" {
#endif

/* The two functions that the library exports. */
typedef int32_t dt_plugin_version_function(void);
typedef void dt_plugin_fill_function(dt_plugin *out);

/* Within the library: defined where there are kernels. */
void dt_plugin_fill_kernels(dt_plugin *out);

#ifdef __cplusplus
}
#endif
#endif
