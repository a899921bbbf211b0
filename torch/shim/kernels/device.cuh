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

// capability finds the compute capability of a GPU, times 10. It returns 0, or the number of an
// error of CUDA.
inline int capability(int dev, int *out) {
  int major = 0, minor = 0;
  int error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, dev);
  if (!error) error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, dev);
  *out = 10 * major + minor;
  return error;
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

template <int V, class T>
__device__ inline Vector<T, V> load(const T *p) {
  return *reinterpret_cast<const Vector<T, V> *>(p);
}

template <class T, int V>
__device__ inline void store(T *p, const float (&x)[V]) {
  Vector<T, V> rounded;
  for (int i = 0; i < V; i++) rounded.v[i] = static_cast<T>(x[i]);
  *reinterpret_cast<Vector<T, V> *>(p) = rounded;
}

// Whether all pointers are aligned to that many bytes, as load and store want them.
template <class... Pointers>
__host__ __device__ inline bool aligned(size_t bytes, Pointers... ps) {
  return ((reinterpret_cast<uintptr_t>(ps) | ...) % bytes) == 0;
}

// The sum over the 32 threads of a warp, the same bits in each.
__device__ inline float warp_sum(float x) {
  for (int bit = 16; bit; bit /= 2) x += __shfl_xor_sync(0xffffffffu, x, bit);
  return x;
}

// M sums over a warp at once, with M - 1 + log2(32 / M) shuffles instead of 5 M: a thread gives
// away the half of them that it does not need. Thread i gets the sum of x[i / (32 / M)].
template <int M>
__device__ inline float warp_sums(const float (&x)[M], int bit = 16) {
  if constexpr (M == 1) {
    float sum = x[0];
    for (; bit; bit /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bit);
    return sum;
  } else {
    const bool upper = threadIdx.x & static_cast<unsigned>(bit);
    float half[M / 2];
    for (int i = 0; i < M / 2; i++) {
      const float low = x[i], high = x[i + M / 2];
      half[i] = (upper ? high : low) + __shfl_xor_sync(0xffffffffu, upper ? low : high, bit);
    }
    return warp_sums(half, bit / 2);
  }
}

// M sums over a block of whole warps in x: every thread gets all of them, the same bits. Calls one
// after another must take turns 0 and 1, then one barrier is enough.
template <int M>
__device__ inline void block_sums(float (&x)[M], int turn) {
  DT_SHARED(parts, Vector<float, M>[2][32]);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const float sum = warp_sums(x);
  if (lane % (32 / M) == 0) parts[turn][warp].v[lane / (32 / M)] = sum;
  __syncthreads();
  for (int i = 0; i < M; i++) x[i] = 0;
  const int warps = static_cast<int>(blockDim.x) / 32;
  for (int w = 0; w < warps; w++) {
    const Vector<float, M> part = parts[turn][w];
    for (int i = 0; i < M; i++) x[i] += part.v[i];
  }
}

}  // namespace dt
