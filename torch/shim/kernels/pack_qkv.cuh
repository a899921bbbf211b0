// The gradients of attention's q, k and v, each [N, H, T, d], as that of the product they were cut
// from, [N, T, 3, H, d]. Reads and writes each element once: 4 B where it is bfloat16 (8 B).
#pragma once

#include "block.h"
#include "device.cuh"

namespace dt {

constexpr int kPackThreads = 128;
constexpr int kPackAtOnce = 4;

// A block packs a token. Unit is what is copied at once; the strides count units.
template <class Unit>
__global__ void __launch_bounds__(kPackThreads)
    pack_qkv_kernel(dt_pack_qkv_args a, int units, Unit *to) {
  const int64_t sample = blockIdx.x / a.tokens, token = blockIdx.x % a.tokens;
  const int64_t from = sample * a.stride_n + token * a.stride_t;
  const int part = a.heads * units, all = 3 * part;
  to += blockIdx.x * static_cast<int64_t>(all);
  for (int first = static_cast<int>(threadIdx.x); first < all;
       first += kPackThreads * kPackAtOnce) {
    Unit values[kPackAtOnce];
    for (int j = 0; j < kPackAtOnce; j++) {
      const int i = first + j * kPackThreads;
      if (i >= all) break;
      const void *source = i < part ? a.dq : i < 2 * part ? a.dk : a.dv;
      const int head = i % part / units, unit = i % units;
      values[j] = static_cast<const Unit *>(source)[from + head * a.stride_h + unit];
    }
    for (int j = 0; j < kPackAtOnce; j++)
      if (first + j * kPackThreads < all) to[first + j * kPackThreads] = values[j];
  }
}

template <class Unit>
int start_pack_qkv(dt_pack_qkv_args a, int64_t elements, Stream stream) {
  a.stride_n /= elements;
  a.stride_h /= elements;
  a.stride_t /= elements;
  return launch(pack_qkv_kernel<Unit>, dim3(static_cast<unsigned>(a.n * a.tokens)),
                dim3(kPackThreads), stream, a, static_cast<int>(a.head_width / elements),
                static_cast<Unit *>(a.dqkv));
}

// T is uint16_t or uint32_t, whatever the elements are.
template <class T>
int pack_qkv(const dt_pack_qkv_args &a, Stream stream) {
  if (a.n * a.tokens > INT32_MAX || a.heads < 1 || a.head_width < 1) return kInvalidValue;
  if (a.n == 0 || a.tokens == 0) return 0;
  constexpr int V = 16 / sizeof(T);
  const bool vectors = (a.stride_n | a.stride_h | a.stride_t | a.head_width) % V == 0 &&
                       aligned(16, a.dq, a.dk, a.dv, a.dqkv);
  return vectors ? start_pack_qkv<Vector<T, V>>(a, V, stream) : start_pack_qkv<T>(a, 1, stream);
}

}  // namespace dt
