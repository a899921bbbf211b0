// The kernels of libditcuda.so, behind the functions of plugin.h.
#include "group_norm.cuh"
#include "plugin.h"
#include "random.cuh"

namespace {

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

}  // namespace

void dt_plugin_fill_kernels(dt_plugin *out) {
  out->normals = normals;
  out->uniforms = uniforms;
  out->group_norm_workspace = group_norm_workspace;
  out->group_norm = group_norm;
  out->group_norm_backward = group_norm_backward;
}
