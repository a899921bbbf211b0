// AdamW, the average of the weights and their copy in bfloat16 in one pass over the parts of the
// flat buffers and the gradients, where autograd put them. Per element: reads weight, both moments
// and average 16 and the gradient 4, writes the first four 16: 36 B. In bfloat16 the gradient is 2,
// and the copy another 2: 36 B too. Gradients are freed, not zeroed.
#pragma once

#include <stddef.h>

#include "block.h"
#include "sums.cuh"

namespace dt {

constexpr int kAdamWThreads = 256;
constexpr int kAdamWVector = 4;
constexpr int kAdamWElements = kAdamWThreads * kAdamWVector;  // of a block

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
  s.decay = a.decay ? static_cast<float>(1 - *a.decay) : 0;
  s.rate = static_cast<float>(*a.lr / (1 - pow(a.beta1, step)));
  s.root = static_cast<float>(1 / sqrt(1 - pow(a.beta2, step)));
  s.shrink = static_cast<float>(*a.lr * a.weight_decay);
  s.skip = a.skip && *a.skip != 0;
  *static_cast<AdamWStep *>(a.workspace) = s;
}

// V elements from i on. Moments and average move by a part of the distance: the rounding of beta
// and decay in float32, which is large beside 1 - beta, plays no role.
template <class G, int V>
__device__ inline void adamw_elements(const dt_adamw_part &p, const AdamWStep &s, float clip,
                                      float eps, int64_t i) {
  Vector<float, V> w = load<V>(p.weight + i);
  if (p.gradient) {
    Vector<float, V> m = load<V>(p.m + i), v = load<V>(p.v + i);
    const Vector<G, V> g = load<V>(static_cast<const G *>(p.gradient) + i);
    for (int j = 0; j < V; j++) {
      const float d = static_cast<float>(g.v[j]) * clip;
      m.v[j] += s.beta1 * (d - m.v[j]);
      v.v[j] += s.beta2 * (d * d - v.v[j]);
      w.v[j] -= s.shrink * w.v[j] + s.rate * m.v[j] / (sqrtf(v.v[j]) * s.root + eps);
    }
    store(p.weight + i, w.v);
    store(p.m + i, m.v);
    store(p.v + i, v.v);
    if (p.copy) store(static_cast<bfloat16 *>(p.copy) + i, w.v);
  }
  if (p.average) {
    Vector<float, V> average = load<V>(p.average + i);
    for (int j = 0; j < V; j++) average.v[j] += s.decay * (w.v[j] - average.v[j]);
    store(p.average + i, average.v);
  }
}

// As many parts as fit into the arguments of a kernel, 4 KB.
struct AdamWParts {
  static constexpr int kMost = 56;
  dt_adamw_part parts[kMost];
  int begin[kMost + 1];  // the first block of each, and the end
  int count;
};

template <class G>
__global__ void __launch_bounds__(kAdamWThreads)
    adamw_kernel(AdamWParts all, const AdamWStep *step, const float *clips, float eps) {
  constexpr int V = kAdamWVector;
  const AdamWStep s = *step;
  if (s.skip) return;
  const float clip = clips ? *clips : 1;
  const int block = static_cast<int>(blockIdx.x);
  int low = 0, high = all.count;  // the part is one of these
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (all.begin[middle] <= block ? low : high) = middle;
  }
  const dt_adamw_part p = all.parts[low];
  const int64_t i =
      (static_cast<int64_t>(block - all.begin[low]) * kAdamWThreads + threadIdx.x) * V;
  const bool vectors = aligned(16, p.weight, p.m, p.v, p.average) && aligned(8, p.copy) &&
                       aligned(V * sizeof(G), p.gradient);
  if (vectors && i + V <= p.n)
    adamw_elements<G, V>(p, s, clip, eps, i);
  else
    for (int64_t j = i; j < i + V && j < p.n; j++) adamw_elements<G, 1>(p, s, clip, eps, j);
}

static_assert(sizeof(AdamWStep) <= DT_ADAMW_WORKSPACE);
static_assert(sizeof(AdamWParts) <= 4000);

template <class G>
int adamw(const dt_adamw_args &a, Stream stream) {
  int error = launch(adamw_step_kernel, dim3(1), dim3(1), stream, a);
  AdamWParts some{};
  int64_t blocks = 0;
  const auto start = [&] {
    if (error || some.count == 0) return;
    some.begin[some.count] = static_cast<int>(blocks);
    error = launch(adamw_kernel<G>, dim3(static_cast<unsigned>(blocks)), dim3(kAdamWThreads),
                   stream, some, static_cast<const AdamWStep *>(a.workspace), a.clip,
                   static_cast<float>(a.eps));
    some.count = 0;
    blocks = 0;
  };
  for (int64_t i = 0; i < a.count; i++) {
    const int64_t more = (a.parts[i].n + kAdamWElements - 1) / kAdamWElements;
    if (more > INT32_MAX) return kInvalidValue;
    if (more == 0) continue;
    if (some.count == AdamWParts::kMost || blocks + more > INT32_MAX) start();
    some.parts[some.count] = a.parts[i];
    some.begin[some.count++] = static_cast<int>(blocks);
    blocks += more;
  }
  start();
  return error;
}

}  // namespace dt
