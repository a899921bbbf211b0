// libditcuda.so: the kernels behind a C interface. Functions queue work on a stream (cudaStream_t)
// of the current device and return 0, or the number of an error of CUDA.
#include "group_norm.cuh"
#include "random.cuh"

#define DT_PLUGIN extern "C" __attribute__((visibility("default")))

namespace {

template <class T>
int norm(const void *x, const float *weight, const float *bias, int64_t n, int64_t pixels,
         int32_t channels, int32_t groups, float eps, void *workspace, void *y, void *stream) {
  return dt::group_norm_silu(static_cast<const T *>(x), weight, bias, n, pixels, channels, groups,
                             eps, workspace, static_cast<T *>(y), static_cast<dt::Stream>(stream));
}

}  // namespace

DT_PLUGIN int dt_cuda_normals(float *out, int64_t n, int64_t row, uint64_t seed, uint32_t tag,
                              uint32_t step, const int64_t *indices, void *stream) {
  return dt::draw_normals(out, n, row, seed, tag, step, indices, static_cast<dt::Stream>(stream));
}

DT_PLUGIN int dt_cuda_integers(int64_t *out, int64_t n, uint32_t below, uint64_t seed, uint32_t tag,
                               uint32_t step, const int64_t *indices, void *stream) {
  return dt::draw_integers(out, n, below, seed, tag, step, indices,
                           static_cast<dt::Stream>(stream));
}

DT_PLUGIN int dt_cuda_chances(bool *out, int64_t n, double probability, uint64_t seed, uint32_t tag,
                              uint32_t step, const int64_t *indices, void *stream) {
  return dt::draw_chances(out, n, probability, seed, tag, step, indices,
                          static_cast<dt::Stream>(stream));
}

DT_PLUGIN int64_t dt_cuda_group_norm_workspace(int64_t n, int64_t pixels, int32_t channels,
                                               int32_t groups) {
  return dt::group_norm_workspace(n, pixels, channels, groups);
}

// x and y are bfloat16 where half is 1, else float32.
DT_PLUGIN int dt_cuda_group_norm_silu(int32_t half, const void *x, const float *weight,
                                      const float *bias, int64_t n, int64_t pixels,
                                      int32_t channels, int32_t groups, float eps, void *workspace,
                                      void *y, void *stream) {
  return half
             ? norm<dt::bfloat16>(x, weight, bias, n, pixels, channels, groups, eps, workspace, y,
                                  stream)
             : norm<float>(x, weight, bias, n, pixels, channels, groups, eps, workspace, y, stream);
}
