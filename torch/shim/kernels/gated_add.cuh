// sum = x + gate y for a whole branch of a transformer block, and its backward pass. x, sum and
// their gradients are float32; gate, y and theirs T. Per element, where T is bfloat16 (float32):
//
//   forward    reads x 4, y 2 (4), writes sum 4:        10 (12) B
//   backward   reads dsum 4, y 2 (4), writes dy 2 (4):   8 (12) B
#pragma once

#include "block.h"
#include "columns.cuh"

namespace dt {

template <class Element>
struct GatedAddOp {
  static constexpr int kVector = 4, kSums = 0, kAtOnce = 4;
  using T = Element;
  struct Values {
    Vector<float, kVector> x;
    Vector<T, kVector> y;
  };
  dt_gated_add_args a;
  Vector<T, kVector> gate;

  __device__ void start(int64_t sample, int column) {
    gate = dt::load<kVector>(static_cast<const T *>(a.gate) + sample * a.stride + column);
  }
  __device__ Values load(int64_t at) const {
    return {dt::load<kVector>(a.x + at), dt::load<kVector>(static_cast<const T *>(a.y) + at)};
  }
  __device__ void apply(Values &values, int64_t at, float (&)[kVector]) const {
    for (int v = 0; v < kVector; v++)
      values.x.v[v] += static_cast<float>(gate.v[v]) * static_cast<float>(values.y.v[v]);
    store(a.sum + at, values.x.v);
  }
};

// dy = gate dsum, dgate = sum dsum y
template <class Element>
struct GatedAddBackwardOp {
  static constexpr int kVector = 4, kSums = 1, kAtOnce = 4;
  using T = Element;
  struct Values {
    Vector<float, kVector> dsum;
    Vector<T, kVector> y;
  };
  dt_gated_add_backward_args a;
  Vector<T, kVector> gate;

  __device__ void start(int64_t sample, int column) {
    gate = dt::load<kVector>(static_cast<const T *>(a.gate) + sample * a.stride + column);
  }
  __device__ Values load(int64_t at) const {
    return {dt::load<kVector>(a.dsum + at), dt::load<kVector>(static_cast<const T *>(a.y) + at)};
  }
  __device__ void apply(Values &values, int64_t at, float (&sums)[kVector]) const {
    for (int v = 0; v < kVector; v++) {
      sums[v] += values.dsum.v[v] * static_cast<float>(values.y.v[v]);
      values.dsum.v[v] *= static_cast<float>(gate.v[v]);
    }
    store(static_cast<T *>(a.dy) + at, values.dsum.v);
  }
};

// width and stride must be multiples of four, and pointers aligned to four elements.
template <class T>
int gated_add(const dt_gated_add_args &a, Stream stream) {
  if (!columns_take(a.n, a.tokens, a.width) || a.width % 4 || a.stride % 4 ||
      !aligned(16, a.x, a.sum) || !aligned(4 * sizeof(T), a.gate, a.y))
    return kInvalidValue;
  return start_columns(GatedAddOp<T>{a, {}}, a.n, a.tokens, a.width, nullptr, stream);
}

template <class T>
int gated_add_backward(const dt_gated_add_backward_args &a, Stream stream) {
  if (!columns_take(a.n, a.tokens, a.width) || a.width % 4 || a.stride % 4 ||
      !aligned(16, a.dsum) || !aligned(4 * sizeof(T), a.gate, a.y, a.dy))
    return kInvalidValue;
  if (a.n == 0) return 0;
  const int error = start_columns(GatedAddBackwardOp<T>{a, {}}, a.n, a.tokens, a.width,
                                  static_cast<float *>(a.workspace), stream);
  if (error) return error;
  return sum_parts(static_cast<const float *>(a.workspace), a.n,
                   sum_chunks(a.tokens, column_chunk(a.tokens)), 1, a.width,
                   Sums<T>{{static_cast<T *>(a.dgate)}, a.dstride}, stream);
}

}  // namespace dt
