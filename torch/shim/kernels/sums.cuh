// Sums over rows without atomics, in two passes: blocks write the sums of some rows each, which
// sum_parts adds. The order is fixed by the number of rows alone.
#pragma once

#include "device.cuh"

namespace dt {

template <int N>
struct Constant {
  static constexpr int value = N;
};

inline int64_t sum_chunks(int64_t rows, int64_t chunk) { return (rows + chunk - 1) / chunk; }

// Where sums go: sum k of a sample to to[k] + sample * stride.
template <class T>
struct Sums {
  T *to[3];
  int64_t stride;
};

constexpr int kSumWarps = 8;

// Sums over the rows of a block [32, 8], once all threads have written them: f(i, sum) gets that of
// column i.
template <int kColumns, class F>
__device__ inline void sum_rows(const float (&rows)[kSumWarps][kColumns], F f) {
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.y * 32 + threadIdx.x); i < kColumns;
       i += kSumWarps * 32) {
    float sum = 0;
    for (int r = 0; r < kSumWarps; r++) sum += rows[r][i];
    f(i, sum);
  }
}

// parts [samples, chunks, sums, width]
template <class T>
__global__ void __launch_bounds__(32 * kSumWarps)
    sum_parts_kernel(const float *parts, int64_t chunks, int width, Sums<T> to) {
  DT_SHARED(rows, float[kSumWarps][32]);
  const int first = static_cast<int>(blockIdx.x) * 32;
  const int column = first + static_cast<int>(threadIdx.x);
  const int64_t sample = blockIdx.z, sums = gridDim.y, sum_index = blockIdx.y;
  float sum = 0;
  if (column < width)
    for (int64_t c = threadIdx.y; c < chunks; c += kSumWarps)
      sum += parts[((sample * chunks + c) * sums + sum_index) * width + column];
  rows[threadIdx.y][threadIdx.x] = sum;
  T *out = sum_index == 0 ? to.to[0] : sum_index == 1 ? to.to[1] : to.to[2];
  out += sample * to.stride + first;
  sum_rows(rows, [&](int i, float total) {
    if (first + i < width) out[i] = static_cast<T>(total);
  });
}

// Adds the parts [samples, chunks, sums, width]; without chunks the sums are zero.
template <class T>
int sum_parts(const float *parts, int64_t samples, int64_t chunks, int sums, int width,
              const Sums<T> &to, Stream stream) {
  return launch(sum_parts_kernel<T>,
                dim3(static_cast<unsigned>((width + 31) / 32), static_cast<unsigned>(sums),
                     static_cast<unsigned>(samples)),
                dim3(32, kSumWarps), stream, parts, chunks, width, to);
}

}  // namespace dt
