// Linear layers on the CPU in float32: bias and GELU are added to each piece of rows while it is in
// the cache, and in the backward pass the gradient of the bias is summed there.
#include <dlfcn.h>
#include <torch/csrc/autograd/custom_function.h>

#include "cpu.h"

namespace dt::cpu {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

using Sgemm = void (*)(const char *, const char *, const int *, const int *, const int *,
                       const float *, const float *, const int *, const float *, const int *,
                       const float *, float *, const int *);

// The Fortran function of the BLAS library inside libtorch, null where that shows none.
Sgemm sgemm() {
  static const auto f = reinterpret_cast<Sgemm>(dlsym(RTLD_DEFAULT, "sgemm_"));
  return f;
}

// Pieces are the rows of a matrix cut for the threads, as many for each, of at most a number: the
// library packs the weights anew for each piece, so that small ones are slow, and what comes after
// a product wants its rows in the cache.
constexpr int64_t kRows = 1024, kRowsToGELU = 512;

struct Pieces {
  int64_t rows, size, count;

  explicit Pieces(int64_t rows_, int64_t most = kRows) : rows(rows_) {
    const int64_t threads = at::get_num_threads();
    const int64_t each = (rows + threads * most - 1) / (threads * most);
    size = (rows + threads * each - 1) / (threads * each);
    count = (rows + size - 1) / size;
  }

  // Calls f(piece, first row, rows) for all, in parallel.
  template <class F>
  void each(F f) const {
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; p++) f(p, p * size, std::min(size, rows - p * size));
    });
  }
};

DT_CLONES void add_rows(const float *x, int64_t n, int64_t d, float *sum) {
  for (int64_t i = 0; i < d; i++) sum[i] = 0;
  for (int64_t r = 0; r < n; r++) {
#pragma omp simd
    for (int64_t i = 0; i < d; i++) sum[i] += x[r * d + i];
  }
}

// GELU of z + b is h s with h = z + b and s = sigmoid(2 sqrt(2/pi) (h + 0.044715 h^3)).
constexpr float kInner = 1.5957691216f, kCubic = 0.044715f;

// From exp(-x). Where it is as good as zero it is zero: subnormal numbers are slow, also in what is
// computed from them.
__attribute__((always_inline)) inline float sigmoid_of(float e) {
  return e > 1e20f ? 0.0f : 1 / (1 + e);
}

DT_CLONES void gelu_rows(const float *z, const float *b, int64_t n, int64_t d, float *y) {
  for (int64_t r = 0; r < n; r++) {
    const float *zr = z + r * d;
    float *yr = y + r * d;
#pragma omp simd
    for (int64_t i = 0; i < d; i++) {
      const float h = zr[i] + b[i];
      const float s = sigmoid_of(exp(-kInner * (h + kCubic * (h * h * h))));
      yr[i] = h * s;
    }
  }
}

// The same, to the bit, and the derivative.
DT_CLONES void gelu_rows_derivative(const float *z, const float *b, int64_t n, int64_t d, float *y,
                                    float *dy) {
  for (int64_t r = 0; r < n; r++) {
    const float *zr = z + r * d;
    float *yr = y + r * d, *dr = dy + r * d;
#pragma omp simd
    for (int64_t i = 0; i < d; i++) {
      const float h = zr[i] + b[i], square = h * h;
      const float e = exp(-kInner * (h + kCubic * (square * h)));
      const float s = sigmoid_of(e);
      yr[i] = h * s;
      // Far out 1 or 0 is right: exp, which is limited, must not meet a square that is not.
      const float limited = square < 1e4f ? square : 1e4f;
      dr[i] = s + h * s * (e * s) * (kInner * (1 + 3 * kCubic * limited));
    }
  }
}

// dz = dy derivative, and the sum of its rows.
DT_CLONES void gelu_rows_backward(const float *dy, const float *derivative, int64_t n, int64_t d,
                                  float *dz, float *sum) {
  for (int64_t i = 0; i < d; i++) sum[i] = 0;
  for (int64_t r = 0; r < n; r++) {
    const float *y = dy + r * d, *g = derivative + r * d;
    float *z = dz + r * d;
#pragma omp simd
    for (int64_t i = 0; i < d; i++) {
      z[i] = y[i] * g[i];
      sum[i] += z[i];
    }
  }
}

std::vector<int64_t> shape_of_result(const at::Tensor &x, const at::Tensor &w) {
  auto shape = x.sizes().vec();
  shape.back() = w.size(0);
  return shape;
}

int64_t rows_of(const at::Tensor &x) { return x.numel() / x.size(-1); }

at::Tensor product(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &b) {
  const int64_t in = w.size(1), out = w.size(0);
  auto y = at::empty(shape_of_result(x, w), x.options());
  const float *xp = x.const_data_ptr<float>(), *wp = w.const_data_ptr<float>(),
              *bp = b ? b->const_data_ptr<float>() : nullptr;
  float *yp = y.mutable_data_ptr<float>();
  Pieces(rows_of(x)).each([&](int64_t, int64_t first, int64_t n) {
    float *to = yp + first * out;
    for (int64_t r = 0; bp && r < n; r++) std::memcpy(to + r * out, bp, out * sizeof(float));
    gemm(false, true, n, out, in, 1, xp + first * in, in, wp, in, bp ? 1 : 0, to, out);
  });
  return y;
}

// The gradient of w: dy^T x.
at::Tensor weight_gradient(const at::Tensor &dy, const at::Tensor &x, int64_t out, int64_t in) {
  const int64_t rows = dy.numel() / out, threads = at::get_num_threads();
  auto dw = at::empty({out, in}, dy.options());
  const float *dyp = dy.const_data_ptr<float>(), *xp = x.const_data_ptr<float>();
  float *dwp = dw.mutable_data_ptr<float>();
  // Threads that have a product each are faster than one product by all, unless they get slim.
  const int64_t parts = out >= 128 * threads ? threads : 1;
  if (parts == 1) {
    gemm(true, false, out, in, rows, 1, dyp, out, xp, in, 0, dwp, in);
    return dw;
  }
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; p++) {
      const int64_t a = out * p / parts, b = out * (p + 1) / parts;
      gemm(true, false, b - a, in, rows, 1, dyp + a, out, xp, in, 0, dwp + a * in, in);
    }
  });
  return dw;
}

// The gradients of x, w and b from that of the product, whose rows gradient(first row, rows, sum)
// writes to dz together with their sum. Those that are not needed stay undefined.
template <class F>
variable_list gradients(AutogradContext *ctx, const at::Tensor &x, const at::Tensor &w, bool has_b,
                        const at::Tensor &dz, F gradient) {
  const int64_t in = w.size(1), out = w.size(0);
  const Pieces pieces(rows_of(x));
  const bool need_x = ctx->needs_input_grad(0), need_b = has_b && ctx->needs_input_grad(2);
  at::Tensor dx, db;
  if (need_x) dx = at::empty(x.sizes(), x.options());
  auto sums = at::empty({pieces.count, out}, x.options());
  const float *wp = w.const_data_ptr<float>(), *dzp = dz.const_data_ptr<float>();
  float *dxp = need_x ? dx.mutable_data_ptr<float>() : nullptr,
        *sp = sums.mutable_data_ptr<float>();
  pieces.each([&](int64_t p, int64_t first, int64_t n) {
    gradient(first, n, need_b, sp + p * out);
    if (need_x)
      gemm(false, false, n, in, out, 1, dzp + first * out, out, wp, in, 0, dxp + first * in, in);
  });
  if (need_b) db = sums.sum(0);
  at::Tensor dw;
  if (ctx->needs_input_grad(1)) dw = weight_gradient(dz, x, out, in);
  return {dx, dw, db};
}

struct Linear : torch::autograd::Function<Linear> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x_, const at::Tensor &w_,
                            const std::optional<at::Tensor> &b) {
    auto x = x_.contiguous(), w = w_.contiguous();
    ctx->save_for_backward({x, w});
    ctx->saved_data["b"] = b.has_value();
    return product(x, w, b ? std::optional(b->contiguous()) : std::nullopt);
  }

  static variable_list backward(AutogradContext *ctx, const variable_list &grads) {
    auto saved = ctx->get_saved_variables();
    auto x = saved[0], w = saved[1], dy = grads[0].contiguous();
    const int64_t out = w.size(0);
    const float *dyp = dy.const_data_ptr<float>();
    const bool has_b = ctx->saved_data["b"].toBool();
    return gradients(ctx, x, w, has_b, dy, [&](int64_t first, int64_t n, bool need_b, float *sum) {
      if (need_b) add_rows(dyp + first * out, n, out, sum);
    });
  }
};

// product_gelu keeps the derivative in place of what GELU was taken of: it needs the same exp.
at::Tensor product_gelu(const at::Tensor &x, const at::Tensor &w, const at::Tensor &b,
                        at::Tensor *derivative) {
  const int64_t in = w.size(1), out = w.size(0);
  const Pieces pieces(rows_of(x), kRowsToGELU);
  auto y = at::empty(shape_of_result(x, w), x.options());
  const float *xp = x.const_data_ptr<float>(), *wp = w.const_data_ptr<float>(),
              *bp = b.const_data_ptr<float>();
  float *yp = y.mutable_data_ptr<float>(), *dp = nullptr;
  if (derivative) {
    *derivative = at::empty_like(y);
    dp = derivative->mutable_data_ptr<float>();
  }
  pieces.each([&](int64_t, int64_t first, int64_t n) {
    float *to = yp + first * out;
    gemm(false, true, n, out, in, 1, xp + first * in, in, wp, in, 0, to, out);
    if (dp)
      gelu_rows_derivative(to, bp, n, out, to, dp + first * out);
    else
      gelu_rows(to, bp, n, out, to);
  });
  return y;
}

struct LinearGELU : torch::autograd::Function<LinearGELU> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x_, const at::Tensor &w_,
                            const at::Tensor &b) {
    auto x = x_.contiguous(), w = w_.contiguous();
    at::Tensor derivative;
    auto y = product_gelu(x, w, b.contiguous(), &derivative);
    ctx->save_for_backward({x, w, derivative});
    return y;
  }

  static variable_list backward(AutogradContext *ctx, const variable_list &grads) {
    auto saved = ctx->get_saved_variables();
    auto x = saved[0], w = saved[1], derivative = saved[2], dy = grads[0].contiguous();
    const int64_t out = w.size(0);
    auto dz = at::empty_like(dy);
    const float *dyp = dy.const_data_ptr<float>(), *dp = derivative.const_data_ptr<float>();
    float *dzp = dz.mutable_data_ptr<float>();
    return gradients(ctx, x, w, true, dz, [&](int64_t first, int64_t n, bool, float *sum) {
      gelu_rows_backward(dyp + first * out, dp + first * out, n, out, dzp + first * out, sum);
    });
  }
};

}  // namespace

void gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
          int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
  // Fortran's matrices are of columns: it computes c^T = op(b)^T op(a)^T.
  const int mi = static_cast<int>(m), ni = static_cast<int>(n), ki = static_cast<int>(k),
            la = static_cast<int>(lda), lb = static_cast<int>(ldb), lc = static_cast<int>(ldc);
  sgemm()(tb ? "T" : "N", ta ? "T" : "N", &ni, &mi, &ki, &alpha, b, &lb, a, &la, &beta, c, &lc);
}

bool fusible(at::TensorList ts) {
  return fused() && sgemm() && std::all_of(ts.begin(), ts.end(), [](const at::Tensor &t) {
           return t.is_cpu() && t.scalar_type() == at::kFloat && t.layout() == at::kStrided &&
                  t.numel() > 0 && t.numel() <= std::numeric_limits<int32_t>::max();
         });
}

bool fused_linear(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &b) {
  return x.dim() > 1 && w.dim() == 2 && x.size(-1) == w.size(1) &&
         (!b || (b->dim() == 1 && b->size(0) == w.size(0))) && fusible({x, w, b ? *b : w}) &&
         rows_of(x) >= 16 * at::get_num_threads();
}

at::Tensor linear(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &b) {
  if (recorded({x, w, b ? *b : w})) return Linear::apply(x, w, b);
  return product(x.contiguous(), w.contiguous(), b ? std::optional(b->contiguous()) : std::nullopt);
}

at::Tensor linear_gelu(const at::Tensor &x, const at::Tensor &w, const at::Tensor &b) {
  if (recorded({x, w, b})) return LinearGELU::apply(x, w, b);
  return product_gelu(x.contiguous(), w.contiguous(), b.contiguous(), nullptr);
}

}  // namespace dt::cpu
