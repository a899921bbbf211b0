// Operations that PyTorch spells as several. On the CPU in float32 each is one pass over its rows,
// forward and backward; elsewhere it is the plain composition, which the tests of package torch
// hold the fused form against.
#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core.h"

namespace dt {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor plain_ada_layer_norm(const at::Tensor &x, const at::Tensor &shift,
                                const at::Tensor &scale, double eps) {
  auto h = at::layer_norm(x, {x.size(2)}, {}, {}, eps, false);
  return at::addcmul(shift.unsqueeze(1), h, scale.unsqueeze(1) + 1);
}

at::Tensor plain_gated_add(const at::Tensor &x, const at::Tensor &gate, const at::Tensor &y) {
  return at::addcmul(x, gate.unsqueeze(1), y);
}

bool fusible(const at::Tensor &t) { return t.is_cpu() && t.scalar_type() == at::kFloat; }

// A [N, D] whose rows are dense; the six parts of a modulation are such views of one matrix.
at::Tensor rows(const at::Tensor &t) { return t.stride(1) == 1 ? t : t.contiguous(); }

DT_CLONES void ada_row(const float *x, const float *shift, const float *scale, int64_t d, float eps,
                       float *y, float *mean_out, float *rstd_out) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < d; i++) sum += x[i];
  const float mean = sum / static_cast<float>(d);
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < d; i++) squares += (x[i] - mean) * (x[i] - mean);
  const float rstd = 1 / std::sqrt(squares / static_cast<float>(d) + eps);
#pragma omp simd
  for (int64_t i = 0; i < d; i++) y[i] = (x[i] - mean) * rstd * (1 + scale[i]) + shift[i];
  *mean_out = mean;
  *rstd_out = rstd;
}

// With h = (x - mean) rstd and g = dy (1 + scale):
// dx = rstd (g - mean(g) - h mean(g h)), dshift = sum dy, dscale = sum dy h.
DT_CLONES void ada_row_backward(const float *x, const float *scale, const float *dy, float mean,
                                float rstd, int64_t d, float *dx, float *dshift, float *dscale) {
  float sum_g = 0, sum_gh = 0;
#pragma omp simd reduction(+ : sum_g, sum_gh)
  for (int64_t i = 0; i < d; i++) {
    const float h = (x[i] - mean) * rstd, g = dy[i] * (1 + scale[i]);
    sum_g += g;
    sum_gh += g * h;
    dshift[i] += dy[i];
    dscale[i] += dy[i] * h;
  }
  const float mean_g = sum_g / static_cast<float>(d), mean_gh = sum_gh / static_cast<float>(d);
#pragma omp simd
  for (int64_t i = 0; i < d; i++) {
    const float h = (x[i] - mean) * rstd, g = dy[i] * (1 + scale[i]);
    dx[i] = rstd * (g - mean_g - h * mean_gh);
  }
}

DT_CLONES void gated_row(const float *x, const float *gate, const float *y, int64_t d, float *out) {
#pragma omp simd
  for (int64_t i = 0; i < d; i++) out[i] = x[i] + gate[i] * y[i];
}

DT_CLONES void gated_row_backward(const float *gate, const float *y, const float *dout, int64_t d,
                                  float *dy, float *dgate) {
#pragma omp simd
  for (int64_t i = 0; i < d; i++) {
    dy[i] = dout[i] * gate[i];
    dgate[i] += dout[i] * y[i];
  }
}

// for_rows calls f(sample, row) for the T rows, of D elements, of each of N samples, in parallel
// where that pays.
template <class F>
void for_rows(int64_t n, int64_t t, int64_t d, F f) {
  const int64_t grain = std::max<int64_t>(1, at::internal::GRAIN_SIZE / d);
  at::parallel_for(0, n * t, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) f(r / t, r);
  });
}

// sum_rows calls f(sample, row, partial) likewise; partial [k, D] collects sums over the rows of
// the sample, which are returned as [N, k, D]. A sample is cut into as many parts as keep all
// threads busy, so the result depends on the number of threads and on nothing else.
template <class F>
at::Tensor sum_rows(int64_t n, int64_t t, int64_t k, int64_t d, const at::TensorOptions &options,
                    F f) {
  const int64_t parts = std::clamp<int64_t>((at::get_num_threads() + n - 1) / n, 1, t);
  auto partial = at::zeros({n, parts, k, d}, options);
  float *sums = partial.mutable_data_ptr<float>();
  at::parallel_for(0, n * parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; p++) {
      const int64_t sample = p / parts, part = p % parts;
      for (int64_t r = t * part / parts; r < t * (part + 1) / parts; r++)
        f(sample, sample * t + r, sums + p * k * d);
    }
  });
  return parts == 1 ? partial.squeeze(1) : partial.sum(1);
}

struct AdaLayerNorm : torch::autograd::Function<AdaLayerNorm> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x_, const at::Tensor &shift_,
                            const at::Tensor &scale_, double eps) {
    auto x = x_.contiguous(), shift = rows(shift_), scale = rows(scale_);
    const int64_t n = x.size(0), t = x.size(1), d = x.size(2);
    auto y = at::empty_like(x);
    auto stats = at::empty({2, n * t}, x.options());
    const float *xp = x.const_data_ptr<float>(), *sh = shift.const_data_ptr<float>(),
                *sc = scale.const_data_ptr<float>();
    float *yp = y.mutable_data_ptr<float>(), *mean = stats.mutable_data_ptr<float>(),
          *rstd = mean + n * t;
    const int64_t shs = shift.stride(0), scs = scale.stride(0);
    for_rows(n, t, d, [&](int64_t i, int64_t r) {
      ada_row(xp + r * d, sh + i * shs, sc + i * scs, d, static_cast<float>(eps), yp + r * d,
              mean + r, rstd + r);
    });
    ctx->save_for_backward({x, scale, stats});
    return y;
  }

  static variable_list backward(AutogradContext *ctx, const variable_list &grads) {
    auto saved = ctx->get_saved_variables();
    auto x = saved[0], scale = saved[1], stats = saved[2], dy = grads[0].contiguous();
    const int64_t n = x.size(0), t = x.size(1), d = x.size(2), scs = scale.stride(0);
    auto dx = at::empty_like(x);
    const float *xp = x.const_data_ptr<float>(), *sc = scale.const_data_ptr<float>(),
                *dyp = dy.const_data_ptr<float>(), *mean = stats.const_data_ptr<float>(),
                *rstd = mean + n * t;
    float *dxp = dx.mutable_data_ptr<float>();
    auto sums = sum_rows(n, t, 2, d, x.options(), [&](int64_t i, int64_t r, float *partial) {
      ada_row_backward(xp + r * d, sc + i * scs, dyp + r * d, mean[r], rstd[r], d, dxp + r * d,
                       partial, partial + d);
    });
    return {dx, sums.select(1, 0), sums.select(1, 1), at::Tensor()};
  }
};

struct GatedAdd : torch::autograd::Function<GatedAdd> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x_, const at::Tensor &gate_,
                            const at::Tensor &y_) {
    auto x = x_.contiguous(), gate = rows(gate_), y = y_.contiguous();
    const int64_t n = x.size(0), t = x.size(1), d = x.size(2), gs = gate.stride(0);
    auto out = at::empty_like(x);
    const float *xp = x.const_data_ptr<float>(), *gp = gate.const_data_ptr<float>(),
                *yp = y.const_data_ptr<float>();
    float *op = out.mutable_data_ptr<float>();
    for_rows(n, t, d, [&](int64_t i, int64_t r) {
      gated_row(xp + r * d, gp + i * gs, yp + r * d, d, op + r * d);
    });
    ctx->save_for_backward({gate, y});
    return out;
  }

  static variable_list backward(AutogradContext *ctx, const variable_list &grads) {
    auto saved = ctx->get_saved_variables();
    auto gate = saved[0], y = saved[1], dout = grads[0].contiguous();
    const int64_t n = y.size(0), t = y.size(1), d = y.size(2), gs = gate.stride(0);
    auto dy = at::empty_like(y);
    const float *gp = gate.const_data_ptr<float>(), *yp = y.const_data_ptr<float>(),
                *dp = dout.const_data_ptr<float>();
    float *dyp = dy.mutable_data_ptr<float>();
    auto dgate = sum_rows(n, t, 1, d, y.options(), [&](int64_t i, int64_t r, float *partial) {
      gated_row_backward(gp + i * gs, yp + r * d, dp + r * d, d, dyp + r * d, partial);
    });
    return {dout, dgate.squeeze(1), dy};
  }
};

}  // namespace

at::Tensor ada_layer_norm(const at::Tensor &x, const at::Tensor &shift, const at::Tensor &scale,
                          double eps) {
  RECORD_FUNCTION("ada_layer_norm", kNoInputs);
  TORCH_CHECK(x.dim() == 3 && shift.dim() == 2 && shift.size(0) == x.size(0) &&
                  shift.size(1) == x.size(2) && scale.sizes() == shift.sizes(),
              "ada_layer_norm: want x [N, T, D], shift and scale [N, D], got shapes ", x.sizes(),
              ", ", shift.sizes(), ", ", scale.sizes());
  if (fusible(x) && fusible(shift) && fusible(scale) && x.numel() > 0)
    return AdaLayerNorm::apply(x, shift, scale, eps);
  return plain_ada_layer_norm(x, shift, scale, eps);
}

at::Tensor gated_add(const at::Tensor &x, const at::Tensor &gate, const at::Tensor &y) {
  RECORD_FUNCTION("gated_add", kNoInputs);
  TORCH_CHECK(x.dim() == 3 && gate.dim() == 2 && gate.size(0) == x.size(0) &&
                  gate.size(1) == x.size(2) && y.sizes() == x.sizes(),
              "gated_add: want x and y [N, T, D], gate [N, D], got shapes ", x.sizes(), ", ",
              gate.sizes(), ", ", y.sizes());
  if (fusible(x) && fusible(gate) && fusible(y) && x.numel() > 0)
    return GatedAdd::apply(x, gate, y);
  return plain_gated_add(x, gate, y);
}

}  // namespace dt
