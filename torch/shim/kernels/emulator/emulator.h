// Runs CUDA kernels on the CPU, for tests. Of CUDA it has what the kernels of this folder use:
// blocks, threads, shared memory, __syncthreads and a shuffle of a warp.
//
// Every thread of a block is a fiber, so a barrier is one. One thread runs at a time, until it
// waits or ends, and one warp until all its threads wait at a barrier or have ended. In which order
// blocks, warps and threads get their turns is set by order: a kernel whose result depends on it
// lacks a barrier, or adds in an order that a GPU does not promise.
// Shared memory is new for each block and full of NaNs.
//
// It does not show speed, nor what only real parallel threads do wrong.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <functional>

struct dim3 {
  unsigned x, y, z;
  explicit dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// Of the thread that runs.
inline dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace emulator {

// The order of blocks and threads in later runs, for each number another. 0 is the ascending one.
void order(uint64_t number);

// run runs a kernel in every thread. It throws std::logic_error for a grid that a GPU does not
// take, and where threads wait for others that do not come.
void run(dim3 grid, dim3 block, const std::function<void()> &kernel);

void barrier();
uint64_t shuffle_xor(uint64_t value, unsigned lane_mask);

// The block's memory for a name, which is an address.
void *shared_bytes(const void *name, size_t size);

template <class T>
T &shared(const void *name) {
  return *static_cast<T *>(shared_bytes(name, sizeof(T)));
}

}  // namespace emulator

namespace dt {

// The upper half of a float32, rounded to the nearest, ties to even.
class bfloat16 {
 public:
  bfloat16() = default;
  explicit bfloat16(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    bits_ = static_cast<uint16_t>(isnan(f) ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16);
  }
  explicit operator float() const {
    const uint32_t u = static_cast<uint32_t>(bits_) << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
  }

 private:
  uint16_t bits_;
};

using Stream = void *;

template <class... Params, class... Args>
int launch(void (*kernel)(Params...), dim3 grid, dim3 block, Stream, Args... args) {
  emulator::run(grid, block, [=] { kernel(args...); });
  return 0;
}

// GPU 0 is an A100, GPU 1 a T4, and there are no others.
inline int capability(int dev, int *out) {
  *out = dev == 0 ? 80 : 75;
  return dev > 1 ? 101 : 0;  // cudaErrorInvalidDevice
}

}  // namespace dt

#define __global__ inline
#define __device__
#define __host__
#define __launch_bounds__(...)

// A block's copy is allocated alone, so that AddressSanitizer sees its ends.
#define DT_SHARED(name, ...)        \
  static const char name##_key = 0; \
  auto &name = emulator::shared<__VA_ARGS__>(&name##_key)

inline void __syncthreads() { emulator::barrier(); }

template <class T>
T __shfl_xor_sync(unsigned, T x, int lane_mask) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  memcpy(&bits, &x, sizeof x);
  bits = emulator::shuffle_xor(bits, static_cast<unsigned>(lane_mask));
  memcpy(&x, &bits, sizeof x);
  return x;
}
