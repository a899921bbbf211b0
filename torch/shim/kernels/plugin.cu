// The kernels of libditcuda.so, behind the functions of plugin.h.
#include "ada_layer_norm.cuh"
#include "adamw.cuh"
#include "bias_gelu.cuh"
#include "gated_add.cuh"
#include "group_norm.cuh"
#include "pack_qkv.cuh"
#include "plugin.h"
#include "random.cuh"

#include <stdio.h>
#include <string.h>

namespace {

// The least of what build.sh compiles for. On an older GPU a kernel would fail with error 209.
constexpr int kLeastCapability = 80;

char *check_kernels(dt_device dev) {
  int found = 0;
  const int error = dt::capability(dev, &found);
  if (!error && found >= kLeastCapability) return nullptr;
  char why[128];
  if (error)
    snprintf(why, sizeof why, "CUDA error %d in a question about cuda:%d", error, dev);
  else
    snprintf(why, sizeof why, "they need compute capability %d.%d, cuda:%d has %d.%d",
             kLeastCapability / 10, kLeastCapability % 10, dev, found / 10, found % 10);
  return strdup(why);
}

dt::Stream of(void *stream) { return static_cast<dt::Stream>(stream); }

int normals(float *out, int64_t n, int64_t row, uint64_t seed, uint32_t tag, const int64_t *step,
            const int64_t *indices, void *stream) {
  return dt::draw_normals(out, n, row, seed, tag, step, indices, of(stream));
}

int uniforms(double *out, int64_t n, uint64_t seed, uint32_t tag, const int64_t *step,
             const int64_t *indices, void *stream) {
  return dt::draw_uniforms(out, n, seed, tag, step, indices, of(stream));
}

int64_t group_norm_workspace(const dt_norm_shape *norm, int32_t backward) {
  return dt::group_norm_workspace(*norm, backward != 0);
}

template <class T>
int norm(const dt_norm_shape &norm, const void *x, const float *weight, const float *bias,
         void *workspace, float *normalisers, void *y, void *stream) {
  return dt::group_norm(norm, static_cast<const T *>(x), weight, bias, workspace,
                        reinterpret_cast<dt::Normaliser *>(normalisers), static_cast<T *>(y),
                        of(stream));
}

int group_norm(const dt_norm_shape *shape, int32_t half, const void *x, const float *weight,
               const float *bias, void *workspace, float *normalisers, void *y, void *stream) {
  return (half ? norm<dt::bfloat16> : norm<float>)(*shape, x, weight, bias, workspace, normalisers,
                                                   y, stream);
}

template <class T>
int norm_backward(const dt_norm_shape &norm, const void *x, const void *dy, const float *weight,
                  const float *bias, const float *normalisers, void *workspace, void *dx,
                  float *dweight, float *dbias, void *stream) {
  return dt::group_norm_backward(norm, static_cast<const T *>(x), static_cast<const T *>(dy),
                                 weight, bias,
                                 reinterpret_cast<const dt::Normaliser *>(normalisers), workspace,
                                 static_cast<T *>(dx), dweight, dbias, of(stream));
}

int group_norm_backward(const dt_norm_shape *shape, int32_t half, const void *x, const void *dy,
                        const float *weight, const float *bias, const float *normalisers,
                        void *workspace, void *dx, float *dweight, float *dbias, void *stream) {
  return (half ? norm_backward<dt::bfloat16> : norm_backward<float>)(*shape, x, dy, weight, bias,
                                                                     normalisers, workspace, dx,
                                                                     dweight, dbias, stream);
}

int ada_norm(int32_t half, const dt_ada_norm_args *a, void *stream) {
  return half ? dt::ada_layer_norm<dt::bfloat16>(*a, of(stream))
              : dt::ada_layer_norm<float>(*a, of(stream));
}

int64_t ada_norm_workspace(int64_t n, int64_t tokens, int32_t width, int32_t gate) {
  return dt::ada_layer_norm_workspace(n, tokens, width, gate);
}

int ada_norm_backward(int32_t half, const dt_ada_norm_backward_args *a, void *stream) {
  return half ? dt::ada_layer_norm_backward<dt::bfloat16>(*a, of(stream))
              : dt::ada_layer_norm_backward<float>(*a, of(stream));
}

int gated_add(int32_t half, const dt_gated_add_args *a, void *stream) {
  return half ? dt::gated_add<dt::bfloat16>(*a, of(stream)) : dt::gated_add<float>(*a, of(stream));
}

int64_t sums_workspace(int64_t samples, int64_t rows, int32_t width) {
  return dt::columns_workspace(samples, rows, width);
}

int gated_add_backward(int32_t half, const dt_gated_add_backward_args *a, void *stream) {
  return half ? dt::gated_add_backward<dt::bfloat16>(*a, of(stream))
              : dt::gated_add_backward<float>(*a, of(stream));
}

int adamw(int32_t half, const dt_adamw_args *a, void *stream) {
  return half ? dt::adamw<dt::bfloat16>(*a, of(stream)) : dt::adamw<float>(*a, of(stream));
}

int bias_gelu_backward(int32_t half, const dt_bias_gelu_backward_args *a, void *stream) {
  return half ? dt::bias_gelu_backward<dt::bfloat16>(*a, of(stream))
              : dt::bias_gelu_backward<float>(*a, of(stream));
}

int column_sums(int32_t half, const dt_column_sums_args *a, void *stream) {
  return half ? dt::column_sums<dt::bfloat16>(*a, of(stream))
              : dt::column_sums<float>(*a, of(stream));
}

int pack_qkv(int32_t half, const dt_pack_qkv_args *a, void *stream) {
  return half ? dt::pack_qkv<uint16_t>(*a, of(stream)) : dt::pack_qkv<uint32_t>(*a, of(stream));
}

}  // namespace

void dt_plugin_fill_kernels(dt_plugin *out) {
  out->check_kernels = check_kernels;
  out->normals = normals;
  out->uniforms = uniforms;
  out->group_norm_workspace = group_norm_workspace;
  out->group_norm = group_norm;
  out->group_norm_backward = group_norm_backward;
  out->ada_norm = ada_norm;
  out->ada_norm_workspace = ada_norm_workspace;
  out->ada_norm_backward = ada_norm_backward;
  out->gated_add = gated_add;
  out->sums_workspace = sums_workspace;
  out->gated_add_backward = gated_add_backward;
  out->adamw = adamw;
  out->bias_gelu_backward = bias_gelu_backward;
  out->column_sums = column_sums;
  out->pack_qkv = pack_qkv;
}
