// GroupNorm as the shim calls it from the table of libditcuda.so: on the CPU, where the emulator
// runs the kernels, against libtorch's. What the kernels compute is tested in kernels.cpp.
#include "../core.h"
#include "check.h"

namespace {

int calls = 0;  // of the forward kernels

dt_plugin counted() {
  dt_plugin p{};
  dt_plugin_fill_kernels(&p);
  static const auto group_norm = p.group_norm;
  p.group_norm = [](auto... args) {
    calls++;
    return group_norm(args...);
  };
  return p;
}

double distance(const at::Tensor &a, const at::Tensor &b) {
  return (a.to(at::kDouble) - b).abs().max().item<double>();
}

struct Result {
  at::Tensor y, dx, dweight, dbias;
};

// Result and gradients, those from dy.
template <class F>
Result of(const at::Tensor &x, const at::Tensor &w, const at::Tensor &b, const at::Tensor &dy,
          F f) {
  c10::AutoGradMode grad(true);
  at::Tensor in[] = {x.detach(), w.detach(), b.detach()};
  for (auto &t : in) t.requires_grad_();
  const auto y = f(in[0], in[1], in[2]);
  (y * dy).sum().backward();
  return {y.detach(), in[0].grad(), in[1].grad(), in[2].grad()};
}

}  // namespace

void norms() {
  const dt_plugin kernels = counted();
  const auto refusal = [&](dt_device dev) {
    char *why = kernels.check_kernels(dev);
    const std::string text = why ? why : "";
    std::free(why);
    return text;
  };
  CHECK(refusal(0).empty());
  CHECK(refusal(1) == "they need compute capability 8.0, cuda:1 has 7.5");
  CHECK(refusal(2) == "CUDA error 101 in a question about cuda:2");

  at::manual_seed(1);
  const auto x = at::randn({2, 12, 5, 3}).contiguous(at::MemoryFormat::ChannelsLast),
             w = at::randn({12}), b = at::randn({12}), dy = at::randn({2, 12, 5, 3});
  const auto run = [&](const at::Tensor &x, bool silu) {
    return of(x, w, b, dy.to(x.scalar_type()), [&](auto &x, auto &w, auto &b) {
      return dt::norm_groups_by(kernels, x, 3, w, b, 1e-6, silu);
    });
  };
  // Without the kernels, in float64.
  const auto want = [&](const at::Tensor &x, bool silu) {
    return of(x.to(at::kDouble), w.to(at::kDouble), b.to(at::kDouble),
              dy.to(x.scalar_type()).to(at::kDouble),
              [&](auto &x, auto &w, auto &b) { return dt::norm_groups(x, 3, w, b, 1e-6, silu); });
  };
  for (const auto &in : {x, x.to(at::kBFloat16)})
    for (bool silu : {true, false}) {
      calls = 0;
      const Result got = run(in, silu), right = want(in, silu);
      CHECK(calls == 1);
      CHECK(got.y.scalar_type() == in.scalar_type() && got.dx.scalar_type() == in.scalar_type());
      CHECK(got.y.is_contiguous(at::MemoryFormat::ChannelsLast));
      CHECK(got.dweight.scalar_type() == at::kFloat);
      const double limit = in.scalar_type() == at::kFloat ? 1e-5 : 3e-2;
      CHECK(distance(got.y, right.y) < limit && distance(got.dx, right.dx) < limit);
      CHECK(distance(got.dweight, right.dweight) < 1e-5);
      CHECK(distance(got.dbias, right.dbias) < 1e-5);
    }

  // What the kernels do not take is composed.
  const auto composed = [&](const at::Tensor &x, const at::Tensor &w, const at::Tensor &b) {
    calls = 0;
    const auto y = dt::norm_groups_by(kernels, x, 3, w, b, 1e-6, true);
    return calls == 0 && y.equal(dt::norm_groups(x, 3, w, b, 1e-6, true));
  };
  CHECK(!composed(x, w, b));
  CHECK(composed(x.contiguous(), w, b));
  CHECK(composed(x.to(at::kDouble), w, b));
  CHECK(composed(x.to(at::kHalf), w, b));
  CHECK(composed(x, w.to(at::kDouble), b.to(at::kDouble)));
  CHECK(composed(x.select(3, 0), w, b));
  CHECK(composed(x.slice(0, 0, 0), w, b));
  const auto odd =  // memory that begins between two vectors
      at::randn({2 * 12 * 15 + 1}).slice(0, 1).view({2, 5, 3, 12}).permute({0, 3, 1, 2});
  CHECK(odd.is_contiguous(at::MemoryFormat::ChannelsLast) && composed(odd, w, b));
  bool refused = false;
  try {
    dt::norm_groups_by(kernels, x, 5, w, b, 1e-6, true);
  } catch (const c10::Error &) {
    refused = true;
  }
  CHECK(refused && calls == 0);

  // An error of CUDA is one.
  dt_plugin broken = kernels;
  broken.group_norm = [](auto...) { return 700; };
  std::string why;
  try {
    dt::norm_groups_by(broken, x, 3, w, b, 1e-6, true);
  } catch (const c10::Error &e) {
    why = e.what_without_backtrace();
  }
  CHECK(why.find("CUDA error 700") != std::string::npos);
}
