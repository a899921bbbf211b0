// The norms of a transformer block, alone and with the gated sum in front of them, forward and
// backward. The residual stream x and its gradient are float32; all else is T, float32 or bfloat16.
//
// A thread owns four neighbouring columns of a sample, so it reads shift, scale and gate once; a
// block has a thread for every four columns, and takes some rows of a sample. A row is read from
// memory once and kept in registers. Per element, where T is bfloat16 (float32):
//
//   forward              reads x 4, writes out 2 (4):                                   6 ( 8) B
//   forward with gate    reads x 4, y 2 (4), writes sum 4, out 2 (4):                  12 (16) B
//   backward             reads x 4, dout 2 (4), add 4, writes dx 4:                    14 (16) B
//   backward with gate   reads x 4, dout 2 (4), add 4, y 2 (4), writes dx 4, dy 2 (4): 18 (24) B
//
// and of sums over tokens 8 B (with a gate 12), written and read, for kAdaChunk rows.
#pragma once

#include "block.h"
#include "sums.cuh"

namespace dt {

constexpr int kAdaColumns = 4;  // of a thread
constexpr int kAdaChunk = 16;   // rows of a block
constexpr int kAdaMostThreads = 1024;

// For a width that is known at run time only, 0, there may be 1,024 threads, with few registers.
template <int kWidth>
constexpr int kAdaThreads = kWidth ? kWidth / kAdaColumns : kAdaMostThreads;

// Rows at once: their loads are under way together.
template <int kWidth>
constexpr int kAdaRows = kWidth ? 2 : 1;

// Blocks that shall fit on a multiprocessor beside each other, together of about that many threads:
// while one waits at a barrier, another loads. It bounds the registers of a thread.
template <int kWidth, int kThreads>
constexpr int kAdaBlocks = kWidth ? kThreads / kAdaThreads<kWidth> : 1;

// A block takes chunk rows (grid x) of a sample (grid y): the first, and how many there are.
__device__ inline int64_t row_of_block(int64_t tokens, int chunk) {
  return blockIdx.y * tokens + static_cast<int64_t>(blockIdx.x) * chunk;
}

__device__ inline int rows_of_block(int64_t tokens, int chunk) {
  const int64_t left = tokens - static_cast<int64_t>(blockIdx.x) * chunk;
  return left < chunk ? static_cast<int>(left) : chunk;
}

// kWidth is D, or 0 for one that is known at run time only.
template <int kWidth, bool kGate, class T>
__global__ void __launch_bounds__(kAdaThreads<kWidth>, (kAdaBlocks<kWidth, 864>))
    ada_layer_norm_kernel(dt_ada_norm_args a, int chunk) {
  constexpr int V = kAdaColumns, kRows = kAdaRows<kWidth>;
  const int width = kWidth ? kWidth : a.width, column = static_cast<int>(threadIdx.x) * V;
  const bool inside = kWidth || column < width;
  const int rows = rows_of_block(a.tokens, chunk);
  Vector<T, V> shift, scale, gate;
  if (inside) {
    const int64_t at = blockIdx.y * a.stride + column;
    shift = load<V>(static_cast<const T *>(a.shift) + at);
    scale = load<V>(static_cast<const T *>(a.scale) + at);
    if constexpr (kGate) gate = load<V>(static_cast<const T *>(a.gate) + at);
  }
  for (int first = 0; first < rows; first += kRows) {
    const int64_t row = row_of_block(a.tokens, chunk) + first, at = row * width + column;
    Vector<float, V> x[kRows];
    Vector<T, V> y[kRows];
    for (int j = 0; j < kRows; j++)
      if (inside && first + j < rows) {
        x[j] = load<V>(a.x + at + j * width);
        if constexpr (kGate) y[j] = load<V>(static_cast<const T *>(a.y) + at + j * width);
      } else {
        x[j] = Vector<float, V>{};
      }
    float mean[kRows], squares[kRows];
    for (int j = 0; j < kRows; j++) {
      if constexpr (kGate)
        if (inside && first + j < rows) {
          for (int v = 0; v < V; v++)
            x[j].v[v] += static_cast<float>(gate.v[v]) * static_cast<float>(y[j].v[v]);
          store(a.sum + at + j * width, x[j].v);
        }
      mean[j] = (x[j].v[0] + x[j].v[1]) + (x[j].v[2] + x[j].v[3]);
    }
    block_sums(mean, 0);
    for (int j = 0; j < kRows; j++) {
      mean[j] /= static_cast<float>(width);
      squares[j] = 0;
      for (int v = 0; v < V; v++) {
        x[j].v[v] -= mean[j];
        if (inside) squares[j] += x[j].v[v] * x[j].v[v];
      }
    }
    block_sums(squares, 1);
    for (int j = 0; j < kRows; j++) {
      if (first + j >= rows) break;
      const float rstd = 1 / sqrtf(squares[j] / static_cast<float>(width) + a.eps);
      if (a.mean && threadIdx.x == 0) {
        a.mean[row + j] = mean[j];
        a.rstd[row + j] = rstd;
      }
      if (!inside) continue;
      for (int v = 0; v < V; v++)
        x[j].v[v] = x[j].v[v] * rstd * (1 + static_cast<float>(scale.v[v])) +
                    static_cast<float>(shift.v[v]);
      store(static_cast<T *>(a.out) + at + j * width, x[j].v);
    }
  }
}

// With h = (x - mean) rstd and g = dout (1 + scale):
// dx = rstd (g - mean(g) - h mean(g h)) + add, dshift = sum dout, dscale = sum dout h,
// and with a gate dy = gate dx, dgate = sum dx y. Sums are over the rows of a block:
// parts [n, chunks, 2 or 3, D].
template <int kWidth, bool kGate, class T>
__global__ void __launch_bounds__(kAdaThreads<kWidth>, (kAdaBlocks<kWidth, 576>))
    ada_layer_norm_backward_kernel(dt_ada_norm_backward_args a) {
  constexpr int V = kAdaColumns, kRows = kAdaRows<kWidth>, kSums = kGate ? 3 : 2;
  const int width = kWidth ? kWidth : a.width, column = static_cast<int>(threadIdx.x) * V;
  const bool inside = kWidth || column < width;
  const int rows = rows_of_block(a.tokens, kAdaChunk);
  Vector<T, V> scale, gate;
  if (inside) {
    const int64_t at = blockIdx.y * a.stride + column;
    scale = load<V>(static_cast<const T *>(a.scale) + at);
    if constexpr (kGate) gate = load<V>(static_cast<const T *>(a.gate) + at);
  }
  float sums[kSums][V] = {};
  int turn = 0;
  for (int first = 0; first < rows; first += kRows, turn ^= 1) {
    const int64_t row = row_of_block(a.tokens, kAdaChunk) + first, at = row * width + column;
    Vector<float, V> x[kRows], add[kRows];
    Vector<T, V> dout[kRows], y[kRows];
    float rstd[kRows];
    for (int j = 0; j < kRows; j++) {
      rstd[j] = 0;
      if (inside && first + j < rows) {
        x[j] = load<V>(a.x + at + j * width);
        dout[j] = load<V>(static_cast<const T *>(a.dout) + at + j * width);
        add[j] = a.add ? load<V>(a.add + at + j * width) : Vector<float, V>{};
        if constexpr (kGate) y[j] = load<V>(static_cast<const T *>(a.y) + at + j * width);
        rstd[j] = a.rstd[row + j];
        for (int v = 0; v < V; v++) x[j].v[v] = (x[j].v[v] - a.mean[row + j]) * rstd[j];  // h
      }
    }
    float both[2 * kRows];  // sums of g and of g h, one row after another
    for (int j = 0; j < kRows; j++) {
      both[2 * j] = both[2 * j + 1] = 0;
      if (!inside || first + j >= rows) continue;
      for (int v = 0; v < V; v++) {
        const float d = static_cast<float>(dout[j].v[v]), h = x[j].v[v];
        const float g = d * (1 + static_cast<float>(scale.v[v]));
        both[2 * j] += g;
        both[2 * j + 1] += g * h;
        sums[0][v] += d;
        sums[1][v] += d * h;
      }
    }
    block_sums(both, turn);
    for (int j = 0; j < kRows; j++) {
      if (!inside || first + j >= rows) break;
      const float mean_g = both[2 * j] / static_cast<float>(width);
      const float mean_gh = both[2 * j + 1] / static_cast<float>(width);
      float dx[V], dy[V];
      for (int v = 0; v < V; v++) {
        const float g = static_cast<float>(dout[j].v[v]) * (1 + static_cast<float>(scale.v[v]));
        dx[v] = rstd[j] * (g - mean_g - x[j].v[v] * mean_gh) + add[j].v[v];
        if constexpr (kGate) {
          dy[v] = static_cast<float>(gate.v[v]) * dx[v];
          sums[2][v] += dx[v] * static_cast<float>(y[j].v[v]);
        }
      }
      store(a.dx + at + j * width, dx);
      if constexpr (kGate) store(static_cast<T *>(a.dy) + at + j * width, dy);
    }
  }
  if (!inside) return;
  float *part = static_cast<float *>(a.workspace) +
                (static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * kSums * width +
                column;
  for (int k = 0; k < kSums; k++) store(part + k * width, sums[k]);
}

// Bytes of memory that the backward pass needs for sums.
inline int64_t ada_layer_norm_workspace(int64_t n, int64_t tokens, int64_t width, bool gate) {
  return n * sum_chunks(tokens, kAdaChunk) * (gate ? 3 : 2) * width *
         static_cast<int64_t>(sizeof(float));
}

// Widths that the kernels take: multiples of four up to 4,096.
inline bool ada_takes(int64_t n, int width, int64_t stride, int64_t dstride) {
  return n <= 65535 && width >= kAdaColumns && width <= kAdaMostThreads * kAdaColumns &&
         width % kAdaColumns == 0 && stride % kAdaColumns == 0 && dstride % kAdaColumns == 0;
}

// with_width calls f with a constant that is the width if there are kernels for it (DiT's S, B, L
// and XL), and else 0.
template <class F>
int with_width(int width, F f) {
  switch (width) {
    case 384: return f(Constant<384>());
    case 768: return f(Constant<768>());
    case 1024: return f(Constant<1024>());
    case 1152: return f(Constant<1152>());
  }
  return f(Constant<0>());
}

inline dim3 ada_block(int width) {
  return dim3(static_cast<unsigned>((width / kAdaColumns + 31) / 32 * 32));
}

// Pointers must be aligned to four elements, and stride a multiple of four.
template <class T>
int ada_layer_norm(const dt_ada_norm_args &a, Stream stream) {
  if (!ada_takes(a.n, a.width, a.stride, 0) || !aligned(16, a.x, a.sum) ||
      !aligned(4 * sizeof(T), a.shift, a.scale, a.gate, a.y, a.out))
    return kInvalidValue;
  if (a.n == 0 || a.tokens == 0) return 0;
  // Few rows are spread over as many blocks as there are.
  const int chunk = a.n * a.tokens < 16384 ? 2 : kAdaChunk;
  const dim3 grid(static_cast<unsigned>(sum_chunks(a.tokens, chunk)), static_cast<unsigned>(a.n));
  return with_width(a.width, [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    return launch(
        a.gate ? ada_layer_norm_kernel<kWidth, true, T> : ada_layer_norm_kernel<kWidth, false, T>,
        grid, ada_block(a.width), stream, a, chunk);
  });
}

template <class T>
int ada_layer_norm_backward(const dt_ada_norm_backward_args &a, Stream stream) {
  if (!ada_takes(a.n, a.width, a.stride, a.dstride) ||
      !aligned(16, a.x, a.add, a.dx, a.workspace) ||
      !aligned(4 * sizeof(T), a.scale, a.gate, a.dout, a.y, a.dy))
    return kInvalidValue;
  if (a.n == 0) return 0;
  const int64_t chunks = sum_chunks(a.tokens, kAdaChunk);
  if (chunks > 0) {
    const dim3 grid(static_cast<unsigned>(chunks), static_cast<unsigned>(a.n));
    const int error = with_width(a.width, [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      return launch(a.gate ? ada_layer_norm_backward_kernel<kWidth, true, T>
                           : ada_layer_norm_backward_kernel<kWidth, false, T>,
                    grid, ada_block(a.width), stream, a);
    });
    if (error) return error;
  }
  const Sums<T> to{
      {static_cast<T *>(a.dshift), static_cast<T *>(a.dscale), static_cast<T *>(a.dgate)},
      a.dstride};
  return sum_parts(static_cast<const float *>(a.workspace), a.n, chunks, a.gate ? 3 : 2, a.width,
                   to, stream);
}

}  // namespace dt
