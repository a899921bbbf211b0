// AdamW, the average of the weights, their copy in bfloat16 and gradients that are zero again, in
// one pass over flat buffers. Per element: reads weight, both moments and average 16, gradient 4
// (where it is bfloat16: 2), writes the first four 16, copy 2, gradient 4 (2): 42 B (38). Without
// zeroing bfloat16 gradients 36.
//
// And the norm of the gradients, which reads 4 (2).
#pragma once

#include "block.h"
#include "sums.cuh"

namespace dt {

constexpr int kAdamWThreads = 256;
constexpr int kAdamWVector = 4;

// What changes from step to step, computed in double: 1 - 0.999 in float32 is 1.3e-5 off.
struct AdamWStep {
  float beta1, beta2, decay;  // 1 minus each
  float rate;                 // lr / (1 - beta1^step)
  float root;                 // 1 / sqrt(1 - beta2^step)
  float shrink;               // lr weight_decay
  int skip;
};

__global__ void adamw_step_kernel(dt_adamw_args a) {
  const double step = *a.step;
  AdamWStep s;
  s.beta1 = static_cast<float>(1 - a.beta1);
  s.beta2 = static_cast<float>(1 - a.beta2);
  s.decay = a.average ? static_cast<float>(1 - *a.decay) : 0;
  s.rate = static_cast<float>(*a.lr / (1 - pow(a.beta1, step)));
  s.root = static_cast<float>(1 / sqrt(1 - pow(a.beta2, step)));
  s.shrink = static_cast<float>(*a.lr * a.weight_decay);
  s.skip = a.skip && *a.skip != 0;
  *static_cast<AdamWStep *>(a.workspace) = s;
}

// V elements from i on. Moments and average move by a part of the distance: the rounding of beta
// and decay in float32, which is large beside 1 - beta, plays no role.
template <class G, int V>
__device__ inline void adamw_elements(const dt_adamw_args &a, const AdamWStep &s, float clip,
                                      float eps, int64_t i) {
  G *const gradient = static_cast<G *>(a.gradient) + i;
  if (!s.skip) {
    Vector<float, V> w = load<V>(a.weight + i), m = load<V>(a.m + i), v = load<V>(a.v + i);
    const Vector<G, V> g = load<V>(gradient);
    Vector<float, V> average{};
    if (a.average) average = load<V>(a.average + i);
    for (int j = 0; j < V; j++) {
      const float d = static_cast<float>(g.v[j]) * clip;
      m.v[j] += s.beta1 * (d - m.v[j]);
      v.v[j] += s.beta2 * (d * d - v.v[j]);
      w.v[j] -= s.shrink * w.v[j] + s.rate * m.v[j] / (sqrtf(v.v[j]) * s.root + eps);
      average.v[j] += s.decay * (w.v[j] - average.v[j]);
    }
    store(a.weight + i, w.v);
    store(a.m + i, m.v);
    store(a.v + i, v.v);
    if (a.average) store(a.average + i, average.v);
    if (a.copy) store(static_cast<bfloat16 *>(a.copy) + i, w.v);
  }
  if (a.clear) {
    const float zeros[V] = {};
    store(gradient, zeros);
  }
}

template <class G>
__global__ void __launch_bounds__(kAdamWThreads) adamw_kernel(dt_adamw_args a, float eps) {
  constexpr int V = kAdamWVector;
  const AdamWStep s = *static_cast<const AdamWStep *>(a.workspace);
  const float clip = a.clip ? *a.clip : 1;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kAdamWThreads + threadIdx.x) * V;
  if (i + V <= a.n)
    adamw_elements<G, V>(a, s, clip, eps, i);
  else
    for (int64_t j = i; j < a.n; j++) adamw_elements<G, 1>(a, s, clip, eps, j);
}

static_assert(sizeof(AdamWStep) <= DT_ADAMW_WORKSPACE);

// Buffers must be aligned to 16 bytes, those in bfloat16 to 8.
template <class G>
int adamw(const dt_adamw_args &a, Stream stream) {
  constexpr int kElements = kAdamWThreads * kAdamWVector;
  if (!aligned(16, a.weight, a.m, a.v, a.average) || !aligned(8, a.copy) ||
      !aligned(kAdamWVector * sizeof(G), a.gradient))
    return kInvalidValue;
  if (a.n == 0) return 0;
  const int error = launch(adamw_step_kernel, dim3(1), dim3(1), stream, a);
  if (error) return error;
  return launch(adamw_kernel<G>, dim3(static_cast<unsigned>((a.n + kElements - 1) / kElements)),
                dim3(kAdamWThreads), stream, a, static_cast<float>(a.eps));
}

constexpr int kSquaresThreads = 256;
constexpr int kSquaresAtOnce = 4;
constexpr int kSquaresMostBlocks = 1024;

// parts: a sum of squares a block
template <class T>
__global__ void __launch_bounds__(kSquaresThreads)
    squares_kernel(const T *x, int64_t n, float *parts) {
  constexpr int V = 16 / sizeof(T);
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kSquaresThreads, vectors = n / V;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kSquaresThreads + threadIdx.x;
  float sum[1] = {};
  for (int64_t first = thread; first < vectors; first += threads * kSquaresAtOnce) {
    Vector<T, V> values[kSquaresAtOnce];
    for (int j = 0; j < kSquaresAtOnce; j++)
      if (first + j * threads < vectors) values[j] = load<V>(x + (first + j * threads) * V);
    for (int j = 0; j < kSquaresAtOnce; j++)
      if (first + j * threads < vectors)
        for (int v = 0; v < V; v++) {
          const float value = static_cast<float>(values[j].v[v]);
          sum[0] += value * value;
        }
  }
  if (vectors * V + thread < n) {
    const float value = static_cast<float>(x[vectors * V + thread]);
    sum[0] += value * value;
  }
  block_sums(sum, 0);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum[0];
}

__global__ void __launch_bounds__(kSquaresMostBlocks)
    norm_kernel(const float *parts, int blocks, float *norm) {
  const int i = static_cast<int>(threadIdx.x);
  float sum[1] = {i < blocks ? parts[i] : 0};
  block_sums(sum, 0);
  if (i == 0) *norm = sqrtf(sum[0]);
}

// How many blocks follows from n alone, and so the order of the sum.
inline int squares_blocks(int64_t n) {
  constexpr int64_t kElements = kSquaresThreads * kSquaresAtOnce * 4;
  const int64_t blocks = (n + kElements - 1) / kElements;
  return blocks < kSquaresMostBlocks ? static_cast<int>(blocks) : kSquaresMostBlocks;
}

inline int64_t norm_workspace(int64_t n) {
  return squares_blocks(n) * static_cast<int64_t>(sizeof(float));
}

// norm of the n elements of x, which is aligned to 16 bytes
template <class T>
int norm(const T *x, int64_t n, void *workspace, float *norm, Stream stream) {
  if (!aligned(16, x)) return kInvalidValue;
  const int blocks = squares_blocks(n);
  auto *parts = static_cast<float *>(workspace);
  if (blocks > 0) {
    const int error = launch(squares_kernel<T>, dim3(static_cast<unsigned>(blocks)),
                             dim3(kSquaresThreads), stream, x, n, parts);
    if (error) return error;
  }
  return launch(norm_kernel, dim3(1), dim3(static_cast<unsigned>((blocks + 32) / 32 * 32)), stream,
                parts, blocks, norm);
}

}  // namespace dt
