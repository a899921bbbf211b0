// The backward pass of y = GELU(x + bias) with the tanh, with the gradient of the bias, and that of
// any bias: the sums of columns. For matrix products that cannot do it themselves. All is T; sums
// are T or float32. Per element, where T is bfloat16 (float32):
//
//   backward      reads x 2 (4), dy 2 (4), writes dx 2 (4):    6 (12) B
//   column sums   reads x 2 (4):                               2 ( 4) B
#pragma once

#include "block.h"
#include "columns.cuh"

namespace dt {

// GELU(z) = z s, where s = (1 + tanh u) / 2 = 1 / (1 + exp(-2 u)), u = sqrt(2 / pi) (z + 0.044715
// z^3). Small s and 1 - s keep their digits.
struct GELUFactors {
  float s, ss;  // s and s (1 - s)
};

constexpr float kGELUScale = 1.5957691216057308f;  // 2 sqrt(2 / pi)

__device__ inline GELUFactors gelu_factors(float z) {
  const float t = expf(-kGELUScale * fabsf(z) * (1 + 0.044715f * z * z));
  const float larger = 1 / (1 + t), smaller = t * larger;
  return {z < 0 ? smaller : larger, smaller * larger};
}

// s + z s', where s' = s (1 - s) 2 u'
__device__ inline float gelu_slope(float z) {
  const GELUFactors f = gelu_factors(z);
  return f.s + z * f.ss * kGELUScale * (1 + 3 * 0.044715f * z * z);
}

template <class T, int V>
__device__ inline Vector<T, V> load_bias(const void *bias, int column) {
  return bias ? load<V>(static_cast<const T *>(bias) + column) : Vector<T, V>{};
}

template <class T, int V>
struct BiasGELUBackwardOp {
  static constexpr int kVector = V, kSums = 1, kAtOnce = 4;
  struct Values {
    Vector<T, V> x, dy;
  };
  dt_bias_gelu_backward_args a;
  Vector<T, V> bias;

  __device__ void start(int64_t, int column) { bias = load_bias<T, V>(a.bias, column); }
  __device__ Values load(int64_t at) const {
    return {dt::load<V>(static_cast<const T *>(a.x) + at),
            dt::load<V>(static_cast<const T *>(a.dy) + at)};
  }
  __device__ void apply(const Values &values, int64_t at, float (&sums)[V]) const {
    float dx[V];
    for (int v = 0; v < V; v++) {
      const float z = static_cast<float>(values.x.v[v]) + static_cast<float>(bias.v[v]);
      dx[v] = static_cast<float>(values.dy.v[v]) * gelu_slope(z);
      sums[v] += dx[v];
    }
    store(static_cast<T *>(a.dx) + at, dx);
  }
};

template <class T, int V>
struct ColumnSumsOp {
  static constexpr int kVector = V, kSums = 1, kAtOnce = 8;
  using Values = Vector<T, V>;
  dt_column_sums_args a;

  __device__ void start(int64_t, int) {}
  __device__ Values load(int64_t at) const { return dt::load<V>(static_cast<const T *>(a.x) + at); }
  __device__ void apply(const Values &x, int64_t, float (&sums)[V]) const {
    for (int v = 0; v < V; v++) sums[v] += static_cast<float>(x.v[v]);
  }
};

// with_vector calls f with the number of columns that a thread owns: 16 bytes, or one where rows or
// pointers are not aligned to that.
template <class T, class F, class... Pointers>
int with_vector(int width, F f, Pointers... ps) {
  constexpr int V = 16 / sizeof(T);
  return width % V == 0 && aligned(16, ps...) ? f(Constant<V>()) : f(Constant<1>());
}

inline int sum_column_parts(void *parts, int64_t rows, int width, int32_t half_sums, void *to,
                            Stream stream) {
  const auto *from = static_cast<const float *>(parts);
  const int64_t chunks = sum_chunks(rows, column_chunk(rows));
  if (half_sums)
    return sum_parts(from, 1, chunks, 1, width, Sums<bfloat16>{{static_cast<bfloat16 *>(to)}, 0},
                     stream);
  return sum_parts(from, 1, chunks, 1, width, Sums<float>{{static_cast<float *>(to)}, 0}, stream);
}

template <class T>
int bias_gelu_backward(const dt_bias_gelu_backward_args &a, Stream stream) {
  if (!columns_take(1, a.rows, a.width)) return kInvalidValue;
  auto *parts = static_cast<float *>(a.workspace);
  const int error = with_vector<T>(
      a.width,
      [&](auto v) {
        return start_columns(BiasGELUBackwardOp<T, decltype(v)::value>{a, {}}, 1, a.rows, a.width,
                             parts, stream);
      },
      a.x, a.bias, a.dy, a.dx);
  return error ? error : sum_column_parts(parts, a.rows, a.width, a.half_sums, a.dbias, stream);
}

template <class T>
int column_sums(const dt_column_sums_args &a, Stream stream) {
  if (!columns_take(1, a.rows, a.width)) return kInvalidValue;
  auto *parts = static_cast<float *>(a.workspace);
  const int error = with_vector<T>(
      a.width,
      [&](auto v) {
        return start_columns(ColumnSumsOp<T, decltype(v)::value>{a}, 1, a.rows, a.width, parts,
                             stream);
      },
      a.x);
  return error ? error : sum_column_parts(parts, a.rows, a.width, a.half_sums, a.sums, stream);
}

}  // namespace dt
