// Attention on packed queries, keys and values against its composition, with gradients packed by
// the kernel, which the emulator runs, and by copies.
#include "../core.h"
#include "../kernels/plugin.cu"
#include "check.h"

namespace {

int calls = 0;  // of the kernel

dt_plugin counted() {
  dt_plugin p{};
  dt_plugin_fill_kernels(&p);
  p.pack_qkv = [](auto... args) {
    calls++;
    return pack_qkv(args...);
  };
  return p;
}

struct Result {
  at::Tensor y, gradient;
};

// Result and gradient, that from dy.
template <class F>
Result of(const at::Tensor &qkv, const at::Tensor &dy, F f) {
  c10::AutoGradMode grad(true);
  const auto leaf = qkv.detach().requires_grad_();
  const auto y = f(leaf);
  (y * dy).sum().backward();
  return {y.detach(), leaf.grad()};
}

bool same(const Result &a, const Result &b) {
  return a.y.equal(b.y) && a.gradient.equal(b.gradient) && a.gradient.is_contiguous();
}

Result composed(const at::Tensor &qkv, const at::Tensor &dy, int64_t heads) {
  return of(qkv, dy, [&](const at::Tensor &qkv) {
    const int64_t n = qkv.size(0), t = qkv.size(1), width = qkv.size(2) / 3;
    const auto h = qkv.view({n, t, 3, heads, width / heads}).permute({2, 0, 3, 1, 4}).unbind(0);
    return at::scaled_dot_product_attention(h[0], h[1], h[2])
        .transpose(1, 2)
        .reshape({n, t, width});
  });
}

}  // namespace

void attention() {
  const dt_plugin kernels = counted();
  at::manual_seed(1);
  struct Case {
    int64_t n, tokens, heads, head_width;
  };
  for (const Case &c : {Case{2, 16, 3, 8}, Case{1, 1, 2, 5}, Case{2, 77, 2, 72}})
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const int64_t width = c.heads * c.head_width;
      const auto qkv = at::randn({c.n, c.tokens, 3 * width}).to(type),
                 dy = at::randn({c.n, c.tokens, width}).to(type);
      const Result want = composed(qkv, dy, c.heads);
      const auto by = [&](const dt_plugin *kernels) {
        return of(qkv, dy, [&](const at::Tensor &qkv) {
          return dt::packed_attention_by(kernels, qkv, c.heads);
        });
      };
      calls = 0;
      CHECK(same(by(&kernels), want) && calls == 1);
      CHECK(same(by(nullptr), want) && calls == 1);
    }

  // What libtorch has no fused kernel for is composed.
  calls = 0;
  const auto wide = at::randn({1, 4, 24}, at::kDouble), dy = at::randn({1, 4, 8}, at::kDouble);
  CHECK(same(of(wide, dy,
                [&](const at::Tensor &qkv) { return dt::packed_attention_by(&kernels, qkv, 2); }),
             composed(wide, dy, 2)));
  const auto none = at::randn({2, 0, 24});
  CHECK(dt::packed_attention_by(&kernels, none, 2).sizes() == at::IntArrayRef({2, 0, 8}));
  CHECK(calls == 0);
}
