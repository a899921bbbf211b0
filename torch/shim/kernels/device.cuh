// What kernels are written with: plain CUDA C++ and the few names below. nvcc gets them from CUDA,
// another compiler from emulator/, which runs the same source on the CPU for the tests.
//
// So that the tests see what a GPU computes, kernels use no PTX, and what they compute must not
// depend on the order of blocks and threads: no atomics.
#pragma once

#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_runtime.h>

namespace dt {

using bfloat16 = __nv_bfloat16;
using Stream = cudaStream_t;

template <class T>
using Same = T;

// launch queues a kernel. It returns 0, or the number of an error of CUDA.
template <class... Params, class... Args>
int launch(void (*kernel)(Params...), dim3 grid, dim3 block, Stream stream, Args... args) {
  kernel<<<grid, block, 0, stream>>>(args...);
  return cudaGetLastError();
}

}  // namespace dt

// DT_SHARED(sums, float[8][32]) declares shared memory of a block.
#define DT_SHARED(name, ...) __shared__ ::dt::Same<__VA_ARGS__> name

#else
#include "emulator/emulator.h"
#endif

namespace dt {

// cudaErrorInvalidValue: what the functions that start kernels return for sizes they do not take.
constexpr int kInvalidValue = 1;

// Neighbouring elements that are read and written at once.
template <class T, int V>
struct alignas(sizeof(T) * V) Vector {
  T v[V];
};

// The sum over the 32 threads of a warp, the same bits in each.
__device__ inline float warp_sum(float x) {
  for (int bit = 16; bit; bit /= 2) x += __shfl_xor_sync(0xffffffffu, x, bit);
  return x;
}

}  // namespace dt
