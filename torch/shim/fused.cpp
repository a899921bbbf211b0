// Operations that PyTorch spells as several. On a GPU they are kernels of libditcuda.so, on the CPU
// in float32 one pass over their rows, forward and backward; elsewhere they are the plain
// compositions, which the tests hold the other forms against.
#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

#include "fused.h"

namespace dt {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// All of it in the type of x, and the result in that of shift.
at::Tensor plain_ada_layer_norm(const at::Tensor &x, const at::Tensor &shift,
                                const at::Tensor &scale, double eps) {
  const auto type = x.scalar_type();
  auto h = at::layer_norm(x, {x.size(2)}, {}, {}, eps, false);
  return at::addcmul(shift.to(type).unsqueeze(1), h, scale.to(type).unsqueeze(1) + 1)
      .to(shift.scalar_type());
}

at::Tensor plain_gated_add(const at::Tensor &x, const at::Tensor &gate, const at::Tensor &y) {
  return at::addcmul(x, gate.unsqueeze(1), y);
}

// Whether loops of the CPU take all of these, of which there is something.
template <class... Ts>
bool cpu_takes(const Ts &...ts) {
  return fused() && ((ts.is_cpu() && ts.scalar_type() == at::kFloat && ts.numel() > 0) && ...);
}

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

DT_CLONES void add_row(const float *x, int64_t d, float *to) {
#pragma omp simd
  for (int64_t i = 0; i < d; i++) to[i] += x[i];
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

// Of an undefined tensor it is NULL.
const float *floats(const at::Tensor &t) {
  return t.defined() ? t.const_data_ptr<float>() : nullptr;
}

// The norm of x or, with a gate, of sum = x + gate y. It returns the sum, without a gate x itself,
// and the modulated norm: what the residual connection gets from elsewhere is added to the gradient
// of x in the same pass.
struct AdaLayerNorm : torch::autograd::Function<AdaLayerNorm> {
  static variable_list forward(AutogradContext *ctx, const at::Tensor &x_,
                               const std::optional<at::Tensor> &gate_,
                               const std::optional<at::Tensor> &y_, const at::Tensor &shift_,
                               const at::Tensor &scale_, double eps) {
    const bool gated = gate_.has_value();
    const auto x = x_.contiguous(), shift = rows(shift_), scale = rows(scale_);
    const auto gate = gated ? rows(*gate_) : at::Tensor(), y = gated ? y_->contiguous() : gate;
    const auto sum = gated ? at::empty_like(x) : x, out = at::empty_like(x);
    const int64_t n = x.size(0), t = x.size(1), d = x.size(2);
    auto stats = at::empty({2, n * t}, x.options());
    const float *xp = floats(x), *sh = floats(shift), *sc = floats(scale), *gp = floats(gate),
                *yp = floats(y);
    float *sp = gated ? sum.mutable_data_ptr<float>() : nullptr;
    float *op = out.mutable_data_ptr<float>(), *mean = stats.mutable_data_ptr<float>(),
          *rstd = mean + n * t;
    const int64_t shs = shift.stride(0), scs = scale.stride(0), gs = gated ? gate.stride(0) : 0;
    for_rows(n, t, d, [&](int64_t i, int64_t r) {
      const float *row = xp + r * d;
      if (gated) {
        gated_row(row, gp + i * gs, yp + r * d, d, sp + r * d);
        row = sp + r * d;
      }
      ada_row(row, sh + i * shs, sc + i * scs, d, static_cast<float>(eps), op + r * d, mean + r,
              rstd + r);
    });
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({sum, scale, stats, gate, y});
    return {gated ? sum : x_, out};
  }

  static variable_list backward(AutogradContext *ctx, const variable_list &grads) {
    const auto saved = ctx->get_saved_variables();
    const auto x = saved[0], scale = saved[1], stats = saved[2], gate = saved[3], y = saved[4];
    const bool gated = gate.defined();
    const auto add = grads[0].defined() ? grads[0].contiguous() : at::Tensor(),
               dout = grads[1].defined() ? grads[1].contiguous() : at::zeros_like(x);
    const int64_t n = x.size(0), t = x.size(1), d = x.size(2), k = gated ? 3 : 2;
    const int64_t scs = scale.stride(0), gs = gated ? gate.stride(0) : 0;
    auto dx = at::empty_like(x), dy = gated ? at::empty_like(y) : at::Tensor();
    const float *xp = floats(x), *sc = floats(scale), *dop = floats(dout), *ap = floats(add),
                *gp = floats(gate), *yp = floats(y), *mean = floats(stats), *rstd = mean + n * t;
    float *dxp = dx.mutable_data_ptr<float>(),
          *dyp = gated ? dy.mutable_data_ptr<float>() : nullptr;
    auto sums = sum_rows(n, t, k, d, x.options(), [&](int64_t i, int64_t r, float *partial) {
      float *row = dxp + r * d;
      ada_row_backward(xp + r * d, sc + i * scs, dop + r * d, mean[r], rstd[r], d, row, partial,
                       partial + d);
      if (ap) add_row(ap + r * d, d, row);
      if (gated) gated_row_backward(gp + i * gs, yp + r * d, row, d, dyp + r * d, partial + 2 * d);
    });
    return {dx,
            gated ? sums.select(1, 2) : at::Tensor(),
            dy,
            sums.select(1, 0),
            sums.select(1, 1),
            at::Tensor()};
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

// Vectors [N, D] as the kernels of a block take them: all with one distance between samples, such
// as the parts of one modulation have.
struct Vectors {
  at::Tensor of[3];
  int64_t stride;

  explicit Vectors(std::initializer_list<at::Tensor> ts) {
    const int64_t n = ts.begin()->size(0), d = ts.begin()->size(1);
    stride = n > 1 ? ts.begin()->stride(0) : d;
    bool fit = stride % 4 == 0;
    for (const auto &t : ts)
      if (t.defined())
        fit = fit && t.stride(1) == 1 && (n == 1 || t.stride(0) == stride) &&
              aligned(t, 4 * t.element_size());
    if (!fit) stride = d;
    for (size_t i = 0; i < ts.size(); i++) {
      const auto &t = ts.begin()[i];
      of[i] = fit || !t.defined() ? t : t.clone(at::MemoryFormat::Contiguous);
    }
  }
};

const void *data(const at::Tensor &t) { return t.defined() ? t.const_data_ptr() : nullptr; }
void *memory(const at::Tensor &t) { return t.defined() ? t.mutable_data_ptr() : nullptr; }

// A dense matrix for a kernel.
at::Tensor dense(const at::Tensor &t) {
  const auto c = t.contiguous();
  return aligned(c) ? c : c.clone();
}

bool is_half(const at::Tensor &t) { return t.scalar_type() == at::kBFloat16; }

at::Tensor bytes(int64_t n, const at::Device &d) { return at::empty({n}, opts(d, at::kByte)); }

// Whether the kernels take x [N, T, D] and, in one type, what is added to and multiplied with it.
template <class... Ts>
bool kernels_take(const at::Tensor &x, const at::Tensor &first, const Ts &...more) {
  const auto type = first.scalar_type();
  return x.scalar_type() == at::kFloat && (type == at::kFloat || type == at::kBFloat16) &&
         ((more.scalar_type() == type) && ...) && first.device() == x.device() &&
         ((more.device() == x.device()) && ...) && x.numel() > 0 && x.size(0) <= 65535 &&
         x.size(2) % 4 == 0 && x.size(2) <= 4096;
}

// AdaLayerNorm by kernels.
struct AdaNormKernels : torch::autograd::Function<AdaNormKernels> {
  static variable_list forward(AutogradContext *ctx, const at::Tensor &x_,
                               const std::optional<at::Tensor> &gate,
                               const std::optional<at::Tensor> &y_, const at::Tensor &shift,
                               const at::Tensor &scale, double eps, const dt_plugin *table) {
    const bool gated = gate.has_value();
    const auto x = dense(x_), y = gated ? dense(*y_) : at::Tensor();
    const auto sum = gated ? at::empty_like(x) : x, out = at::empty_like(x, shift.scalar_type());
    const Vectors v{shift, scale, gated ? *gate : at::Tensor()};
    auto stats = at::empty({2, x.size(0) * x.size(1)}, x.options());
    dt_ada_norm_args a{};
    a.n = x.size(0), a.tokens = x.size(1), a.width = static_cast<int32_t>(x.size(2));
    a.eps = static_cast<float>(eps), a.stride = v.stride;
    a.x = floats(x), a.shift = data(v.of[0]), a.scale = data(v.of[1]), a.gate = data(v.of[2]);
    a.y = data(y), a.sum = gated ? sum.mutable_data_ptr<float>() : nullptr, a.out = memory(out);
    a.mean = stats.mutable_data_ptr<float>(), a.rstd = a.mean + a.n * a.tokens;
    queue_kernels(x.device(),
                  [&](void *stream) { return table->ada_norm(is_half(shift), &a, stream); });
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({sum, v.of[1], stats, v.of[2], y});
    ctx->saved_data["table"] = reinterpret_cast<int64_t>(table);
    ctx->saved_data["stride"] = v.stride;
    return {gated ? sum : x_, out};
  }

  static variable_list backward(AutogradContext *ctx, const variable_list &grads) {
    const auto saved = ctx->get_saved_variables();
    const auto x = saved[0], scale = saved[1], stats = saved[2], gate = saved[3], y = saved[4];
    const auto *table = reinterpret_cast<const dt_plugin *>(ctx->saved_data["table"].toInt());
    const bool gated = gate.defined();
    const auto add = grads[0].defined() ? dense(grads[0]) : at::Tensor(),
               dout = grads[1].defined() ? dense(grads[1]) : at::zeros_like(x, scale.scalar_type());
    auto dx = at::empty_like(x), dy = gated ? at::empty_like(y) : at::Tensor();
    auto sums = at::empty({x.size(0), gated ? 3 : 2, x.size(2)}, scale.options());
    dt_ada_norm_backward_args a{};
    a.n = x.size(0), a.tokens = x.size(1), a.width = static_cast<int32_t>(x.size(2));
    a.stride = ctx->saved_data["stride"].toInt(), a.dstride = sums.stride(0);
    a.x = floats(x), a.scale = data(scale), a.gate = data(gate), a.mean = floats(stats);
    a.rstd = a.mean + a.n * a.tokens, a.dout = data(dout), a.add = floats(add), a.y = data(y);
    a.dx = dx.mutable_data_ptr<float>(), a.dy = memory(dy);
    const auto part = [&](int64_t i) { return sums.select(1, i); };
    a.dshift = memory(part(0)), a.dscale = memory(part(1));
    a.dgate = gated ? memory(part(2)) : nullptr;
    auto workspace =
        bytes(table->ada_norm_workspace(a.n, a.tokens, a.width, gated ? 1 : 0), x.device());
    a.workspace = memory(workspace);
    queue_kernels(x.device(), [&](void *stream) {
      return table->ada_norm_backward(is_half(scale), &a, stream);
    });
    return {dx, gated ? part(2) : at::Tensor(), dy, part(0), part(1), at::Tensor(), at::Tensor()};
  }
};

// GatedAdd by kernels.
struct GatedAddKernels : torch::autograd::Function<GatedAddKernels> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x_, const at::Tensor &gate,
                            const at::Tensor &y_, const dt_plugin *table) {
    const auto x = dense(x_), y = dense(y_), sum = at::empty_like(x);
    const Vectors v{gate};
    const dt_gated_add_args a{
        x.size(0), x.size(1), static_cast<int32_t>(x.size(2)), floats(x), data(v.of[0]),
        v.stride,  data(y),   sum.mutable_data_ptr<float>()};
    queue_kernels(x.device(),
                  [&](void *stream) { return table->gated_add(is_half(gate), &a, stream); });
    ctx->save_for_backward({v.of[0], y});
    ctx->saved_data["table"] = reinterpret_cast<int64_t>(table);
    ctx->saved_data["stride"] = v.stride;
    return sum;
  }

  static variable_list backward(AutogradContext *ctx, const variable_list &grads) {
    const auto saved = ctx->get_saved_variables();
    const auto gate = saved[0], y = saved[1], dsum = dense(grads[0]);
    const auto *table = reinterpret_cast<const dt_plugin *>(ctx->saved_data["table"].toInt());
    const int64_t n = y.size(0), tokens = y.size(1);
    const auto width = static_cast<int32_t>(y.size(2));
    auto dy = at::empty_like(y), dgate = at::empty({n, width}, y.options());
    auto workspace = bytes(table->sums_workspace(n, tokens, width), y.device());
    const dt_gated_add_backward_args a{n,
                                       tokens,
                                       width,
                                       floats(dsum),
                                       data(gate),
                                       ctx->saved_data["stride"].toInt(),
                                       data(y),
                                       memory(dy),
                                       memory(dgate),
                                       dgate.stride(0),
                                       memory(workspace)};
    queue_kernels(y.device(),
                  [&](void *stream) { return table->gated_add_backward(is_half(y), &a, stream); });
    return {dsum, dgate, dy, at::Tensor()};
  }
};

// Proofs at the widths that have kernels of their own, and at one that has not.
constexpr int64_t kProofWidths[] = {64, 384, 768, 1024, 1152};
constexpr double kProofEps = 1e-6;

// Inputs of a proof: x, and then gate, y, shift, scale. x is not centred.
Tensors proof_inputs(int64_t width, at::ScalarType type, const at::Device &d) {
  const int64_t n = 2, tokens = 17;  // two blocks of sums
  const auto modulation = random({n, 3 * width}, type, d, 1);
  const auto part = [&](int64_t i) { return modulation.narrow(1, i * width, width); };
  return {random({n, tokens, width}, at::kFloat, d, 2) + 0.5, part(2),
          random({n, tokens, width}, type, d, 3), part(0), part(1)};
}

void prove_ada_norm(const dt_plugin &table, const at::Device &d) {
  for (int64_t width : kProofWidths)
    for (auto type : {at::kFloat, at::kBFloat16}) {
      const auto in = proof_inputs(width, type, d);
      expect_same(
          in,
          [&](const Tensors &in) {
            return AdaNormKernels::apply(in[0], in[1], in[2], in[3], in[4], kProofEps, &table);
          },
          [](const Tensors &in) {
            const auto sum = plain_gated_add(in[0], in[1], in[2]);
            return Tensors{sum, plain_ada_layer_norm(sum, in[3], in[4], kProofEps)};
          });
      expect_same(
          {in[0], in[3], in[4]},
          [&](const Tensors &in) {
            return Tensors{AdaNormKernels::apply(in[0], std::nullopt, std::nullopt, in[1], in[2],
                                                 kProofEps, &table)[1]};
          },
          [](const Tensors &in) {
            return Tensors{plain_ada_layer_norm(in[0], in[1], in[2], kProofEps)};
          });
    }
}

void prove_gated_add(const dt_plugin &table, const at::Device &d) {
  for (auto type : {at::kFloat, at::kBFloat16}) {
    const auto in = proof_inputs(kProofWidths[1], type, d);
    expect_same(
        {in[0], in[1], in[2]},
        [&](const Tensors &in) {
          return Tensors{GatedAddKernels::apply(in[0], in[1], in[2], &table)};
        },
        [](const Tensors &in) { return Tensors{plain_gated_add(in[0], in[1], in[2])}; });
  }
}

Kernel ada_norm_kernel("ada_layer_norm", prove_ada_norm);
Kernel gated_add_kernel("gated_add", prove_gated_add);

void check_modulation(const char *name, const at::Tensor &x, const at::Tensor &shift,
                      const at::Tensor &scale) {
  TORCH_CHECK(x.dim() == 3 && shift.dim() == 2 && shift.size(0) == x.size(0) &&
                  shift.size(1) == x.size(2) && scale.sizes() == shift.sizes(),
              name, ": want x [N, T, D], shift and scale [N, D], got shapes ", x.sizes(), ", ",
              shift.sizes(), ", ", scale.sizes());
}

void check_gate(const char *name, const at::Tensor &x, const at::Tensor &gate,
                const at::Tensor &y) {
  TORCH_CHECK(x.dim() == 3 && gate.dim() == 2 && gate.size(0) == x.size(0) &&
                  gate.size(1) == x.size(2) && y.sizes() == x.sizes(),
              name, ": want x and y [N, T, D], gate [N, D], got shapes ", x.sizes(), ", ",
              gate.sizes(), ", ", y.sizes());
}

// The norm of x, and x itself.
Tensors modulated(const at::Tensor &x, const at::Tensor &shift, const at::Tensor &scale,
                  double eps) {
  if (kernels_take(x, shift, scale))
    if (const dt_plugin *table = ada_norm_kernel.on(x.device()))
      return AdaNormKernels::apply(x, std::nullopt, std::nullopt, shift, scale, eps, table);
  if (cpu_takes(x) && shift.is_cpu() && scale.is_cpu()) {
    auto both = AdaLayerNorm::apply(x, std::nullopt, std::nullopt, shift.to(at::kFloat),
                                    scale.to(at::kFloat), eps);
    both[1] = both[1].to(shift.scalar_type());
    return both;
  }
  return {x, plain_ada_layer_norm(x, shift, scale, eps)};
}

}  // namespace

at::Tensor ada_layer_norm(const at::Tensor &x, const at::Tensor &shift, const at::Tensor &scale,
                          double eps) {
  RECORD_FUNCTION("ada_layer_norm", kNoInputs);
  check_modulation("ada_layer_norm", x, shift, scale);
  return modulated(x, shift, scale, eps)[1];
}

at::Tensor gated_add(const at::Tensor &x, const at::Tensor &gate, const at::Tensor &y) {
  RECORD_FUNCTION("gated_add", kNoInputs);
  check_gate("gated_add", x, gate, y);
  if (kernels_take(x, gate, y))
    if (const dt_plugin *table = gated_add_kernel.on(x.device()))
      return GatedAddKernels::apply(x, gate, y, table);
  if (cpu_takes(x, gate, y)) return GatedAdd::apply(x, gate, y);
  return plain_gated_add(x, gate, y);
}

std::vector<at::Tensor> residual_ada_layer_norm(const at::Tensor &x,
                                                const std::optional<at::Tensor> &gate,
                                                const std::optional<at::Tensor> &y,
                                                const at::Tensor &shift, const at::Tensor &scale,
                                                double eps) {
  RECORD_FUNCTION("residual_ada_layer_norm", kNoInputs);
  check_modulation("residual_ada_layer_norm", x, shift, scale);
  TORCH_CHECK(gate.has_value() == y.has_value(), "residual_ada_layer_norm: a gate needs y");
  if (!gate) return modulated(x, shift, scale, eps);
  check_gate("residual_ada_layer_norm", x, *gate, *y);
  if (kernels_take(x, *gate, *y, shift, scale))
    if (const dt_plugin *table = ada_norm_kernel.on(x.device()))
      return AdaNormKernels::apply(x, gate, y, shift, scale, eps, table);
  if (cpu_takes(x, *gate, *y, shift, scale))
    return AdaLayerNorm::apply(x, gate, y, shift, scale, eps);
  return modulated(gated_add(x, *gate, *y), shift, scale, eps);
}

}  // namespace dt
