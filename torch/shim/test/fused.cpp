// Operations whose kernels are in libditcuda.so, on the CPU, where the emulator runs these: they
// are the compositions in float64, forward and gradients, and the proof of a kernel finds one that
// is wrong. What the kernels compute is tested in block.cpp.
#include "../fused.h"

#include "check.h"

extern "C" dt_plugin_fill_function dt_plugin_fill;

namespace {

constexpr double kEps = 1e-6;
using dt::Tensors;

struct Result {
  Tensors results, gradients;
};

// Results of f, and the gradients of the inputs from those of the results.
Result run(const dt::Computation &f, const Tensors &inputs, const Tensors &dout) {
  c10::AutoGradMode grad(true);
  Tensors in;
  for (const auto &t : inputs) in.push_back(t.detach().requires_grad_());
  Result r{f(in), {}};
  at::Tensor sum;
  for (size_t i = 0; i < r.results.size(); i++) {
    const auto part = (r.results[i] * dout[i]).sum(at::kDouble);
    sum = sum.defined() ? sum + part : part;
  }
  sum.backward();
  for (const auto &t : in) r.gradients.push_back(t.grad());
  return r;
}

// near checks results in float32 to 1e-6 of the larger of the value and the root mean square of
// all, and bfloat16 to one rounding beside that.
void near(const std::string &what, const Tensors &got, const Tensors &want) {
  CHECK(got.size() == want.size());
  for (size_t i = 0; i < got.size(); i++) {
    CHECK(got[i].sizes() == want[i].sizes());
    const auto unit = want[i].square().mean().sqrt(), size = want[i].abs();
    auto limit = 1e-6 * at::maximum(size, unit);
    if (got[i].scalar_type() == at::kBFloat16) limit = limit + size / 256;
    const auto off = (got[i].to(at::kDouble) - want[i]).abs() - limit;
    if (!(off.max().item<double>() <= 0))
      fail_at(__FILE__, __LINE__, what + ": tensor " + std::to_string(i) + " is beyond its limit");
  }
}

Tensors widened(const Tensors &ts) {
  Tensors wide;
  for (const auto &t : ts) wide.push_back(t.to(at::kDouble));
  return wide;
}

dt::Proven proven("a kernel");

int calls = 0;  // of kernels
dt_plugin original{};

dt_plugin counted() {
  dt_plugin p{};
  dt_plugin_fill(&p);
  original = p;
  p.ada_norm = [](auto... args) { return calls++, original.ada_norm(args...); };
  p.ada_norm_backward = [](auto... args) { return calls++, original.ada_norm_backward(args...); };
  p.gated_add = [](auto... args) { return calls++, original.gated_add(args...); };
  p.gated_add_backward = [](auto... args) { return calls++, original.gated_add_backward(args...); };
  return p;
}

std::string warning() {
  char *text = dt_take_warning();
  const std::string copy = text ? text : "";
  std::free(text);
  return copy;
}

// x, gate, y, shift, scale: the vectors are parts of one modulation.
Tensors inputs(int64_t n, int64_t tokens, int64_t width, at::ScalarType type) {
  const auto m = at::randn({n, 3 * width}).mul(0.4).to(type);
  const auto part = [&](int64_t i) { return m.narrow(1, i * width, width); };
  return {at::randn({n, tokens, width}) + 0.5, part(2), at::randn({n, tokens, width}).to(type),
          part(0), part(1)};
}

// The operations, on inputs.
const dt::Computation operations[] = {
    [](const Tensors &in) {
      return dt::residual_ada_layer_norm(in[0], in[1], in[2], in[3], in[4], kEps);
    },
    [](const Tensors &in) {
      auto both =
          dt::residual_ada_layer_norm(in[0], std::nullopt, std::nullopt, in[3], in[4], kEps);
      both.push_back(dt::gated_add(in[0], in[1], in[2]));
      return both;
    },
    [](const Tensors &in) {
      return Tensors{dt::ada_layer_norm(dt::gated_add(in[0], in[1], in[2]), in[3], in[4], kEps)};
    },
};

void equal_compositions() {
  struct Size {
    int64_t n, tokens, width;
  };
  for (const Size &s : {Size{2, 1, 1152}, Size{1, 77, 1000}, Size{1, 255, 384}, Size{2, 257, 64},
                        Size{1, 77, 1152}, Size{1, 1, 1000}, Size{1, 257, 384}, Size{2, 255, 64}})
    for (auto type : {at::kFloat, at::kBFloat16}) {
      const Tensors in = inputs(s.n, s.tokens, s.width, type), wide = widened(in);
      int number = 0;
      for (const auto &f : operations) {
        const auto at = s.tokens < 100 || number == 0;
        number++;
        if (!at) continue;
        c10::AutoGradMode grad(false);
        Tensors dout;
        for (const auto &t : f(in)) dout.push_back(at::randn(t.sizes()).to(t.scalar_type()));
        calls = 0;
        const Result got = run(f, in, dout);
        CHECK(calls >= 2);
        const std::string name = "operation " + std::to_string(number) + ", " +
                                 std::to_string(s.tokens) + "x" + std::to_string(s.width) +
                                 (type == at::kFloat ? "" : " in bfloat16");
        calls = 0;
        const Result want = run(f, wide, widened(dout));
        CHECK(calls == 0);  // they take no float64
        near(name, got.results, want.results);
        near(name + ", gradients", got.gradients, want.gradients);
        for (size_t i = 0; i < in.size(); i++)
          CHECK(!got.gradients[i].defined() ||
                got.gradients[i].scalar_type() == in[i].scalar_type());
      }
    }
}

// What comes in another order of memory, and gradients that do not come.
void any_memory() {
  const Tensors in = inputs(2, 6, 64, at::kFloat), wide = widened(in);
  Tensors odd = {in[0].transpose(1, 2).contiguous().transpose(1, 2), in[1].contiguous(),
                 at::empty({2 * 6 * 64 + 1}).slice(0, 1).view({2, 6, 64}).copy_(in[2]),
                 in[3].t().contiguous().t(), in[4].select(0, 0).expand({2, 64})};
  Tensors odd_wide = widened(odd);
  const Tensors dout = {at::randn({2, 6, 64}), at::randn({2, 64, 6}).transpose(1, 2)};
  const auto &f = operations[0];
  calls = 0;
  const Result got = run(f, odd, dout);
  CHECK(calls == 2);
  const Result want = run(f, odd_wide, widened(dout));
  near("odd memory", got.results, want.results);
  near("odd memory, gradients", got.gradients, want.gradients);
  for (size_t only : {0, 1}) {
    const dt::Computation one = [&](const Tensors &in) { return Tensors{f(in)[only]}; };
    calls = 0;
    const Result alone = run(one, {in[0], in[1], in[2], in[3], in[4]}, {dout[0]});
    CHECK(calls == 2);
    const Result right = run(one, wide, {dout[0].to(at::kDouble)});
    near("one result", alone.results, right.results);
    for (size_t i = 0; i < 3; i++) near("one gradient", {alone.gradients[i]}, {right.gradients[i]});
  }
}

// What the kernels do not take is composed, or done by loops of the CPU.
void others() {
  calls = 0;
  for (const auto &f : operations) {
    f(inputs(1, 3, 66, at::kFloat));
    f(inputs(1, 3, 4100, at::kFloat));
    f(inputs(1, 3, 64, at::kDouble));
    f(inputs(1, 0, 64, at::kFloat));
    f({at::randn({1, 3, 64}).to(at::kBFloat16), at::zeros({1, 64}, at::kBFloat16),
       at::zeros({1, 3, 64}, at::kBFloat16), at::zeros({1, 64}, at::kBFloat16),
       at::zeros({1, 64}, at::kBFloat16)});
  }
  CHECK(calls == 0);
  const Tensors in = inputs(2, 3, 64, at::kFloat);
  dt_set_fused(0);
  CHECK(!dt_fused());
  for (const auto &f : operations) f(in);
  CHECK(calls == 0);
  dt_set_fused(1);
  operations[0](in);
  CHECK(calls == 1);
}

// A kernel that is wrong, or fails, is not used; one warning says so.
void wrong_kernels() {
  struct Case {
    void (*spoil)(dt_plugin *);
    const char *kernel, *why;
    const dt::Computation &f;
  };
  for (const Case &c : {
           Case{[](dt_plugin *p) {
                  p->ada_norm = [](int32_t half, const dt_ada_norm_args *a, void *stream) {
                    dt_ada_norm_args other = *a;
                    other.eps = 0.1f;
                    return original.ada_norm(half, &other, stream);
                  };
                },
                "ada_layer_norm", "result 1, Float [2, 17, 64], is off by", operations[0]},
           Case{[](dt_plugin *p) {
                  p->ada_norm_backward = [](int32_t half, const dt_ada_norm_backward_args *a,
                                            void *stream) {
                    dt_ada_norm_backward_args other = *a;
                    other.add = nullptr;
                    return original.ada_norm_backward(half, &other, stream);
                  };
                },
                "ada_layer_norm", "gradient 0", operations[0]},
           Case{[](dt_plugin *p) {
                  p->ada_norm = [](int32_t, const dt_ada_norm_args *, void *) { return 209; };
                },
                "ada_layer_norm", "CUDA error 209", operations[0]},
           Case{[](dt_plugin *p) {
                  p->gated_add_backward = [](int32_t, const dt_gated_add_backward_args *, void *) {
                    return 0;  // and nothing is written
                  };
                },
                "gated_add", "gradient", operations[1]},
       }) {
    dt_plugin p = counted();
    c.spoil(&p);
    dt::use_kernels(p);
    const Tensors in = inputs(2, 5, 64, at::kFloat), wide = widened(in);
    const Tensors dout(3, at::ones({2, 5, 64}));
    for (int i = 0; i < 2; i++) {
      const Result got = run(c.f, in, dout), want = run(c.f, wide, widened(dout));
      near("beside a wrong kernel", got.results, want.results);
      near("beside a wrong kernel, gradients", got.gradients, want.gradients);
    }
    const std::string text = warning();
    if (text.find(std::string("kernel ") + c.kernel + " is wrong on cpu: ") != 0 ||
        text.find(c.why) == std::string::npos)
      fail_at(__FILE__, __LINE__, "the warning says: " + text);
    CHECK(warning().empty());
  }
  // In a capture no kernel is tried, and none is used that was not.
  dt::use_kernels(counted());
  calls = 0;
  const Tensors in = inputs(2, 5, 64, at::kFloat);
  {
    dt::Capturing capture(DT_MODE_CAPTURE);
    operations[0](in);
    CHECK(calls == 0);
  }
  operations[0](in);
  CHECK(calls > 1);  // the proof, and the operation
  {
    dt::Capturing capture(DT_MODE_CAPTURE);
    calls = 0;
    operations[0](in);
    CHECK(calls == 1);
  }
}

// Memory that is too short says nothing of a kernel.
void short_of_memory() {
  const at::Device cpu(at::kCPU);
  bool thrown = false;
  try {
    proven.on(cpu, [] { TORCH_CHECK_WITH(OutOfMemoryError, false, "out of memory"); });
  } catch (const c10::OutOfMemoryError &) {
    thrown = true;
  }
  CHECK(thrown && warning().empty());
  CHECK(proven.on(cpu, [] {}));
}

}  // namespace

void fused_operations() {
  at::manual_seed(1);
  dt::use_kernels(counted());
  for (const auto &f : operations) f(inputs(2, 3, 64, at::kFloat));  // the kernels prove themselves
  CHECK(warning().empty());
  equal_compositions();
  any_memory();
  others();
  wrong_kernels();
  short_of_memory();
  dt::use_kernels({});
}
