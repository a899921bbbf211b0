// Draws of the counter-based generator on the device. Row or element i of a result depends on seed,
// tag, *step and indices[i] alone: uniforms equal those of the Go package torch/philox, normals are
// within 1e-6. Pointers are the device's; the functions that start kernels return 0 or the number
// of an error of CUDA.
#pragma once

#include "device.cuh"
#include "philox.h"

namespace dt {

constexpr int kDrawThreads = 256;

inline dim3 draw_grid(int64_t threads) {
  return dim3(static_cast<unsigned>((threads + kDrawThreads - 1) / kDrawThreads));
}

__device__ inline int64_t draw_thread() {
  return static_cast<int64_t>(blockIdx.x) * kDrawThreads + threadIdx.x;
}

// The number of the step, which lies on the device. Nobody there can refuse one that is too large.
__device__ inline uint32_t draw_step(const int64_t *step) {
  return static_cast<uint32_t>(*step) & kPhiloxMaxStep;
}

// A thread draws a block of the generator, which is four normals.
__global__ void __launch_bounds__(kDrawThreads)
    normals_kernel(float *out, int64_t n, int64_t row, uint64_t seed, uint32_t tag,
                   const int64_t *step, const int64_t *indices) {
  const int64_t blocks = (row + 3) / 4, k = draw_thread();
  if (k >= n * blocks) return;
  const int64_t i = k / blocks, block = k % blocks;
  float four[4];
  normals4(philox_block(seed, static_cast<uint32_t>(block), tag, draw_step(step),
                        static_cast<uint64_t>(indices[i])),
           four);
  float *to = out + i * row + 4 * block;
  for (int j = 0; j < 4; j++)
    if (4 * block + j < row) to[j] = four[j];
}

__global__ void __launch_bounds__(kDrawThreads)
    uniforms_kernel(double *out, int64_t n, uint64_t seed, uint32_t tag, const int64_t *step,
                    const int64_t *indices) {
  const int64_t i = draw_thread();
  if (i < n) out[i] = philox_uniform(seed, tag, draw_step(step), static_cast<uint64_t>(indices[i]));
}

// out [n, row]: row i has the first standard normals of draw indices[i], as noise is drawn.
inline int draw_normals(float *out, int64_t n, int64_t row, uint64_t seed, uint32_t tag,
                        const int64_t *step, const int64_t *indices, Stream stream) {
  if (n == 0 || row == 0) return 0;
  return launch(normals_kernel, draw_grid(n * ((row + 3) / 4)), dim3(kDrawThreads), stream, out, n,
                row, seed, tag, step, indices);
}

// out [n]: uniforms in [0, 1), of which timesteps and yes-or-no draws are made.
inline int draw_uniforms(double *out, int64_t n, uint64_t seed, uint32_t tag, const int64_t *step,
                         const int64_t *indices, Stream stream) {
  if (n == 0) return 0;
  return launch(uniforms_kernel, draw_grid(n), dim3(kDrawThreads), stream, out, n, seed, tag, step,
                indices);
}

}  // namespace dt
