// The kernels of libditcuda.so, behind the functions of plugin.h.
#include "group_norm.cuh"
#include "plugin.h"
#include "random.cuh"

namespace {

dt::Stream of(void *stream) { return static_cast<dt::Stream>(stream); }

int normals(float *out, int64_t n, int64_t row, uint64_t seed, uint32_t tag, uint32_t step,
            const int64_t *indices, void *stream) {
  return dt::draw_normals(out, n, row, seed, tag, step, indices, of(stream));
}

int integers(int64_t *out, int64_t n, uint32_t below, uint64_t seed, uint32_t tag, uint32_t step,
             const int64_t *indices, void *stream) {
  return dt::draw_integers(out, n, below, seed, tag, step, indices, of(stream));
}

int chances(uint8_t *out, int64_t n, double probability, uint64_t seed, uint32_t tag, uint32_t step,
            const int64_t *indices, void *stream) {
  return dt::draw_chances(reinterpret_cast<bool *>(out), n, probability, seed, tag, step, indices,
                          of(stream));
}

int64_t group_norm_workspace(int64_t n, int64_t pixels, int32_t channels, int32_t groups) {
  return dt::group_norm_workspace(n, pixels, channels, groups);
}

template <class T>
int norm(const void *x, const float *weight, const float *bias, int64_t n, int64_t pixels,
         int32_t channels, int32_t groups, float eps, void *workspace, void *y, void *stream) {
  return dt::group_norm_silu(static_cast<const T *>(x), weight, bias, n, pixels, channels, groups,
                             eps, workspace, static_cast<T *>(y), of(stream));
}

int group_norm_silu(int32_t half, const void *x, const float *weight, const float *bias, int64_t n,
                    int64_t pixels, int32_t channels, int32_t groups, float eps, void *workspace,
                    void *y, void *stream) {
  return half
             ? norm<dt::bfloat16>(x, weight, bias, n, pixels, channels, groups, eps, workspace, y,
                                  stream)
             : norm<float>(x, weight, bias, n, pixels, channels, groups, eps, workspace, y, stream);
}

}  // namespace

void dt_plugin_fill_kernels(dt_plugin *out) {
  out->normals = normals;
  out->integers = integers;
  out->chances = chances;
  out->group_norm_workspace = group_norm_workspace;
  out->group_norm_silu = group_norm_silu;
}
