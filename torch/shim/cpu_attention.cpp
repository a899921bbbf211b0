// Attention on the CPU in float32 on packed queries, keys and values: each thread takes heads of
// its own, whose parts the products read where they lie, and whose gradients they write there.
#include <torch/csrc/autograd/custom_function.h>

#include "cpu.h"

namespace dt::cpu {

namespace {

// p = exp(s - max(s)) of each row, not yet divided by its sum; inverse gets 1 / sum, and logsumexp
// what turns s into the softmax at once.
DT_CLONES void softmax_rows(float *s, int64_t rows, int64_t d, float *inverse, float *logsumexp) {
  for (int64_t r = 0; r < rows; r++) {
    float *row = s + r * d;
    float top = row[0], sum = 0;
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < d; i++) top = row[i] > top ? row[i] : top;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < d; i++) {
      row[i] = exp(row[i] - top);
      sum += row[i];
    }
    inverse[r] = 1 / sum;
    if (logsumexp) logsumexp[r] = top + std::log(sum);
  }
}

DT_CLONES void scale_rows(float *x, int64_t rows, int64_t d, int64_t stride, const float *by) {
  for (int64_t r = 0; r < rows; r++) {
#pragma omp simd
    for (int64_t i = 0; i < d; i++) x[r * stride + i] *= by[r];
  }
}

// From s and the gradient dp of the softmax p of its rows: s becomes p, and dp the gradient of s.
// dot is that of the row's output and its gradient, sum_j p_j dp_j.
DT_CLONES void softmax_rows_backward(float *s, float *dp, int64_t rows, int64_t d,
                                     const float *logsumexp, const float *dot) {
  for (int64_t r = 0; r < rows; r++) {
    float *p = s + r * d, *g = dp + r * d;
#pragma omp simd
    for (int64_t i = 0; i < d; i++) {
      p[i] = exp(p[i] - logsumexp[r]);
      g[i] = p[i] * (g[i] - dot[r]);
    }
  }
}

DT_CLONES void dot_rows(const float *a, const float *b, int64_t rows, int64_t d, int64_t stride,
                        float *dot) {
  for (int64_t r = 0; r < rows; r++) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < d; i++) sum += a[r * stride + i] * b[r * stride + i];
    dot[r] = sum;
  }
}

// The sizes of an attention. Scores are computed for as many queries at a time as fit the
// second-level cache.
struct Heads {
  int64_t n, t, heads, d, width, queries;  // width: heads d
  float scale;

  Heads(const at::Tensor &qkv, int64_t heads_)
      : n(qkv.size(0)),
        t(qkv.size(1)),
        heads(heads_),
        d(qkv.size(2) / 3 / heads_),
        width(heads_ * d),
        queries(std::min(t, std::max<int64_t>(16, (1 << 16) / t))),
        scale(1 / std::sqrt(static_cast<float>(d))) {}

  // Calls f(head, sample, scratch [k, queries, t]) for the heads of all samples, in parallel.
  template <class F>
  void each(int64_t k, F f) const {
    at::parallel_for(0, n * heads, 1, [&](int64_t begin, int64_t end) {
      auto scratch = at::empty({k, queries, t}, at::kFloat);
      for (int64_t i = begin; i < end; i++)
        f(i % heads, i / heads, scratch.mutable_data_ptr<float>());
    });
  }
};

// logsumexp is [N, heads, T], or null.
at::Tensor attend(const at::Tensor &qkv, const Heads &h, float *logsumexp) {
  auto y = at::empty({h.n, h.t, h.width}, qkv.options());
  const float *qkvp = qkv.const_data_ptr<float>();
  float *yp = y.mutable_data_ptr<float>();
  const int64_t wide = 3 * h.width;
  h.each(1, [&](int64_t head, int64_t sample, float *s) {
    const float *q = qkvp + sample * h.t * wide + head * h.d, *k = q + h.width, *v = k + h.width;
    float *out = yp + sample * h.t * h.width + head * h.d;
    float *lse = logsumexp ? logsumexp + (sample * h.heads + head) * h.t : nullptr;
    std::vector<float> inverse(h.queries);
    for (int64_t a = 0; a < h.t; a += h.queries) {
      const int64_t m = std::min(h.queries, h.t - a);
      gemm(false, true, m, h.t, h.d, h.scale, q + a * wide, wide, k, wide, 0, s, h.t);
      softmax_rows(s, m, h.t, inverse.data(), lse ? lse + a : nullptr);
      gemm(false, false, m, h.d, h.t, 1, s, h.t, v, wide, 0, out + a * h.width, h.width);
      scale_rows(out + a * h.width, m, h.d, h.width, inverse.data());
    }
  });
  return y;
}

struct PackedAttention : torch::autograd::Function<PackedAttention> {
  static at::Tensor forward(torch::autograd::AutogradContext *ctx, const at::Tensor &qkv_,
                            int64_t heads) {
    const auto qkv = qkv_.contiguous();
    const Heads h(qkv, heads);
    auto logsumexp = at::empty({h.n, heads, h.t}, qkv.options());
    auto y = attend(qkv, h, logsumexp.mutable_data_ptr<float>());
    ctx->save_for_backward({qkv, y, logsumexp});
    ctx->saved_data["heads"] = heads;
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext *ctx,
                                                 const torch::autograd::variable_list &grads) {
    const auto saved = ctx->get_saved_variables();
    const auto qkv = saved[0], y = saved[1], logsumexp = saved[2], dy = grads[0].contiguous();
    const Heads h(qkv, ctx->saved_data["heads"].toInt());
    auto dqkv = at::empty_like(qkv);
    const float *qkvp = qkv.const_data_ptr<float>(), *yp = y.const_data_ptr<float>(),
                *dyp = dy.const_data_ptr<float>(), *lsep = logsumexp.const_data_ptr<float>();
    float *dqkvp = dqkv.mutable_data_ptr<float>();
    const int64_t wide = 3 * h.width;
    h.each(2, [&](int64_t head, int64_t sample, float *s) {
      const int64_t from = sample * h.t * wide + head * h.d,
                    to = sample * h.t * h.width + head * h.d;
      const float *q = qkvp + from, *k = q + h.width, *v = k + h.width;
      float *dq = dqkvp + from, *dk = dq + h.width, *dv = dk + h.width;
      const float *out = yp + to, *dout = dyp + to, *lse = lsep + (sample * h.heads + head) * h.t;
      float *dp = s + h.queries * h.t;
      std::vector<float> dot(h.queries);
      for (int64_t a = 0; a < h.t; a += h.queries) {
        const int64_t m = std::min(h.queries, h.t - a);
        const float *g = dout + a * h.width;
        const float more = a > 0 ? 1 : 0;  // adds to what the queries before gave
        gemm(false, true, m, h.t, h.d, h.scale, q + a * wide, wide, k, wide, 0, s, h.t);
        gemm(false, true, m, h.t, h.d, 1, g, h.width, v, wide, 0, dp, h.t);
        dot_rows(out + a * h.width, g, m, h.d, h.width, dot.data());
        softmax_rows_backward(s, dp, m, h.t, lse + a, dot.data());
        gemm(true, false, h.t, h.d, m, 1, s, h.t, g, h.width, more, dv, wide);
        gemm(false, false, m, h.d, h.t, h.scale, dp, h.t, k, wide, 0, dq + a * wide, wide);
        gemm(true, false, h.t, h.d, m, h.scale, dp, h.t, q + a * wide, wide, more, dk, wide);
      }
    });
    return {dqkv, at::Tensor()};
  }
};

}  // namespace

at::Tensor packed_attention(const at::Tensor &qkv, int64_t heads) {
  if (c10::GradMode::is_enabled() && qkv.requires_grad()) return PackedAttention::apply(qkv, heads);
  const auto x = qkv.contiguous();
  return attend(x, Heads(x, heads), nullptr);
}

}  // namespace dt::cpu
