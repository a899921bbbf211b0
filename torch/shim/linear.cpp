// Products with weights, and what comes directly after them: the bias, and GELU. On a GPU they are
// computed by Products (lt.h), with the gradients of biases and of GELU; on the CPU by loops of our
// own, elsewhere by libtorch.
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

#include "cpu.h"
#include "lt.h"

namespace dt {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

using Weights = std::initializer_list<const at::Tensor *>;

at::Tensor plain_linear_gelu(const at::Tensor &x, const at::Tensor &w, const at::Tensor &b) {
  return at::gelu(at::linear(x, w, b), "tanh");
}

at::Tensor matrix(const at::Tensor &x) { return x.reshape({-1, x.size(-1)}).contiguous(); }

// y [rows, out] in the shape of x [..., in].
at::Tensor like_input(const at::Tensor &y, const at::Tensor &x) {
  auto sizes = x.sizes().vec();
  sizes.back() = y.size(1);
  return y.view(sizes);
}

// What GELU is computed from, [rows, width]. cuBLASLt wants its stride to be a multiple of eight.
at::Tensor empty_aux(int64_t rows, int64_t width, const at::TensorOptions &options) {
  return at::empty({rows, (width + 7) / 8 * 8}, options).narrow(1, 0, width);
}

struct Layer {
  Products &products;

  // x w^T + b, or GELU of it, for which aux is kept where it is given.
  at::Tensor forward(const at::Tensor &x, const at::Tensor &w, const at::Tensor &b, bool gelu,
                     const at::Tensor &aux = {}) const {
    auto out = at::empty({x.size(0), w.size(0)}, x.options());
    const auto epilogue = !gelu           ? LtApi::kBias
                          : aux.defined() ? LtApi::kGELUAuxBias
                                          : LtApi::kGELUBias;
    products.compute({epilogue, x, false, w, true, out, b, aux});
    return out;
  }
  at::Tensor dx(const at::Tensor &dy, const at::Tensor &w) const {
    auto out = at::empty({dy.size(0), w.size(1)}, dy.options());
    products.compute({LtApi::kDefault, dy, false, w, false, out, {}, {}});
    return out;
  }
  // The gradients of aux, from that of GELU(aux) w^T, and of the bias in it.
  std::pair<at::Tensor, at::Tensor> daux(const at::Tensor &dy, const at::Tensor &w,
                                         const at::Tensor &aux) const {
    auto out = at::empty({dy.size(0), w.size(1)}, dy.options());
    auto db = at::empty({w.size(1)}, dy.options());
    products.compute({LtApi::kDGELUBGrad, dy, false, w, false, out, db, aux});
    return {out, db};
  }
  at::Tensor dw(const at::Tensor &dy, const at::Tensor &x, at::Tensor *db = nullptr) const {
    auto out = at::empty({dy.size(1), x.size(1)}, dy.options());
    if (db) *db = at::empty({dy.size(1)}, dy.options());
    products.compute({db ? LtApi::kBGradB : LtApi::kDefault,
                      dy,
                      true,
                      x,
                      false,
                      out,
                      db ? *db : at::Tensor(),
                      {}});
    return out;
  }
};

int64_t number(Products &p) { return reinterpret_cast<int64_t>(&p); }

Layer layer_of(AutogradContext *ctx) {
  return {*reinterpret_cast<Products *>(ctx->saved_data["products"].toInt())};
}

// The gradients of w and b, those that are needed; w is input i, b the one after it.
std::pair<at::Tensor, at::Tensor> weight_gradients(AutogradContext *ctx, size_t i,
                                                   const at::Tensor &dy, const at::Tensor &x) {
  const bool w = ctx->needs_input_grad(i), b = ctx->needs_input_grad(i + 1);
  at::Tensor dw, db;
  if (w) dw = layer_of(ctx).dw(dy, x, b ? &db : nullptr);
  if (b && !w) db = dy.sum(0);
  return {dw, db};
}

struct Linear : torch::autograd::Function<Linear> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x_, const at::Tensor &w,
                            const at::Tensor &b, Products *p) {
    const auto x = matrix(x_);
    ctx->save_for_backward({x, w});
    ctx->saved_data["products"] = number(*p);
    ctx->saved_data["sizes"] = x_.sizes();
    return like_input(Layer{*p}.forward(x, w, b, false), x_);
  }

  static variable_list backward(AutogradContext *ctx, const variable_list &grads) {
    const auto saved = ctx->get_saved_variables();
    const auto dy = matrix(grads[0]);
    at::Tensor dx;
    if (ctx->needs_input_grad(0))
      dx = layer_of(ctx).dx(dy, saved[1]).view(ctx->saved_data["sizes"].toIntVector());
    const auto [dw, db] = weight_gradients(ctx, 1, dy, saved[0]);
    return {dx, dw, db, at::Tensor()};
  }
};

struct LinearGELU : torch::autograd::Function<LinearGELU> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x_, const at::Tensor &w,
                            const at::Tensor &b, Products *p) {
    const auto x = matrix(x_), aux = empty_aux(x.size(0), w.size(0), x.options());
    ctx->save_for_backward({x, w, aux});
    ctx->saved_data["products"] = number(*p);
    ctx->saved_data["sizes"] = x_.sizes();
    return like_input(Layer{*p}.forward(x, w, b, true, aux), x_);
  }

  static variable_list backward(AutogradContext *ctx, const variable_list &grads) {
    const auto saved = ctx->get_saved_variables();
    const auto daux = at::gelu_backward(matrix(grads[0]), saved[2], "tanh").contiguous();
    at::Tensor dx;
    if (ctx->needs_input_grad(0))
      dx = layer_of(ctx).dx(daux, saved[1]).view(ctx->saved_data["sizes"].toIntVector());
    const auto [dw, db] = weight_gradients(ctx, 1, daux, saved[0]);
    return {dx, dw, db, at::Tensor()};
  }
};

// Two layers with GELU between them are one function: GELU's derivative belongs to the product
// that gives the gradient of its result, which is the second layer's.
struct MLP : torch::autograd::Function<MLP> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x_, const at::Tensor &w1,
                            const at::Tensor &b1, const at::Tensor &w2, const at::Tensor &b2,
                            Products *p) {
    const auto x = matrix(x_), aux = empty_aux(x.size(0), w1.size(0), x.options());
    const auto h = Layer{*p}.forward(x, w1, b1, true, aux);
    ctx->save_for_backward({x, w1, aux, h, w2});
    ctx->saved_data["products"] = number(*p);
    ctx->saved_data["sizes"] = x_.sizes();
    return like_input(Layer{*p}.forward(h, w2, b2, false), x_);
  }

  static variable_list backward(AutogradContext *ctx, const variable_list &grads) {
    const auto saved = ctx->get_saved_variables();
    const auto &x = saved[0], &w1 = saved[1], &aux = saved[2], &h = saved[3], &w2 = saved[4];
    const Layer layer = layer_of(ctx);
    const auto dy = matrix(grads[0]);
    const auto [dw2, db2] = weight_gradients(ctx, 3, dy, h);
    at::Tensor dx, dw1, db1;
    if (ctx->needs_input_grad(0) || ctx->needs_input_grad(1) || ctx->needs_input_grad(2)) {
      at::Tensor daux;
      std::tie(daux, db1) = layer.daux(dy, w2, aux);
      if (ctx->needs_input_grad(0))
        dx = layer.dx(daux, w1).view(ctx->saved_data["sizes"].toIntVector());
      if (ctx->needs_input_grad(1)) dw1 = layer.dw(daux, x);
    }
    return {dx, dw1, db1, dw2, db2, at::Tensor()};
  }
};

bool takes(const at::Tensor &x, Weights weights) {
  if ((x.scalar_type() != at::kFloat && x.scalar_type() != at::kBFloat16) || x.numel() == 0)
    return false;
  for (const auto *w : weights)
    if (w->scalar_type() != x.scalar_type() || w->device() != x.device() || !w->is_contiguous() ||
        w->numel() == 0)
      return false;
  return true;
}

// check_linear fails where the shapes of a layer do not fit.
void check_linear(const char *name, const at::Tensor &x, int64_t in, const at::Tensor &w,
                  const at::Tensor &b) {
  TORCH_CHECK(
      x.dim() > 0 && w.dim() == 2 && in == w.size(1) && b.dim() == 1 && b.size(0) == w.size(0),
      name, ": want x [..., in], w [out, in], b [out], got shapes ", x.sizes(), ", ", w.sizes(),
      ", ", b.sizes());
}

}  // namespace

at::Tensor linear_by(Products &p, const at::Tensor &x, const at::Tensor &w, const at::Tensor &b) {
  if (x.dim() == 0 || w.dim() != 2 || x.size(-1) != w.size(1) || b.dim() != 1 ||
      b.size(0) != w.size(0) || !takes(x, {&w, &b}))
    return at::linear(x, w, b);
  if (recorded({x, w, b})) return Linear::apply(x, w, b, &p);
  return like_input(Layer{p}.forward(matrix(x), w, b, false), x);
}

at::Tensor linear_gelu_by(Products &p, const at::Tensor &x, const at::Tensor &w,
                          const at::Tensor &b) {
  if (!takes(x, {&w, &b})) return plain_linear_gelu(x, w, b);
  if (recorded({x, w, b})) return LinearGELU::apply(x, w, b, &p);
  return like_input(Layer{p}.forward(matrix(x), w, b, true), x);
}

at::Tensor mlp_by(Products &p, const at::Tensor &x, const at::Tensor &w1, const at::Tensor &b1,
                  const at::Tensor &w2, const at::Tensor &b2) {
  if (takes(x, {&w1, &b1, &w2, &b2}) && recorded({x, w1, b1, w2, b2}))
    return MLP::apply(x, w1, b1, w2, b2, &p);
  return linear_by(p, linear_gelu_by(p, x, w1, b1), w2, b2);
}

at::Tensor linear(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &b) {
  if (Products *p = b ? products(x.device()) : nullptr) return linear_by(*p, x, w, *b);
  if (!cpu::fused_linear(x, w, b)) return at::linear(x, w, b);
  RECORD_FUNCTION("linear", kNoInputs);
  return cpu::linear(x, w, b);
}

at::Tensor linear_gelu(const at::Tensor &x, const at::Tensor &w, const at::Tensor &b) {
  RECORD_FUNCTION("linear_gelu", kNoInputs);
  check_linear("linear_gelu", x, x.dim() > 0 ? x.size(-1) : 0, w, b);
  if (Products *p = products(x.device())) return linear_gelu_by(*p, x, w, b);
  if (cpu::fused_linear(x, w, b)) return cpu::linear_gelu(x, w, b);
  return plain_linear_gelu(x, w, b);
}

at::Tensor mlp(const at::Tensor &x, const at::Tensor &w1, const at::Tensor &b1,
               const at::Tensor &w2, const at::Tensor &b2) {
  RECORD_FUNCTION("mlp", kNoInputs);
  check_linear("mlp", x, x.dim() > 0 ? x.size(-1) : 0, w1, b1);
  check_linear("mlp", x, w1.size(0), w2, b2);
  if (Products *p = products(x.device())) return mlp_by(*p, x, w1, b1, w2, b2);
  return dt::linear(linear_gelu(x, w1, b1), w2, b2);
}

}  // namespace dt
