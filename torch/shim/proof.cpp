// How kernels of libditcuda.so prove themselves on the device that is to use them.
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/DeviceGuard.h>

#include <deque>
#include <mutex>

#include "fused.h"

namespace dt {

namespace {

std::atomic<bool> fused_on{true};

Proven *all_proven = nullptr;  // linked before main begins, and then constant

std::recursive_mutex proofs;  // held by one, which may need another
std::mutex of_warnings;
std::deque<std::string> warnings;

void warn(std::string text) {
  std::lock_guard<std::mutex> lock(of_warnings);
  warnings.push_back(std::move(text));
}

double limit_of(at::ScalarType type) {
  return type == at::kBFloat16 ? 1e-2 : type == at::kHalf ? 2e-3 : 1e-5;
}

}  // namespace

bool fused() { return fused_on.load(std::memory_order_relaxed); }

Proven::Proven(const char *name) : name_(name), next_(all_proven) { all_proven = this; }

void forget_proofs() {
  for (Proven *p = all_proven; p; p = p->next_)
    for (auto &state : p->states_) state = Proven::kUnknown;
}

bool Proven::on(const at::Device &d, const std::function<void()> &prove) {
  auto &state = states_[d.is_cpu() ? 0 : static_cast<size_t>(d.index()) + 1];
  if (state == kUnknown) {
    if (in_capture()) return false;
    std::lock_guard<std::recursive_mutex> lock(proofs);
    if (state == kUnknown) {
      std::string why;
      try {
        c10::DeviceGuard here(d);
        c10::AutoGradMode grad(true);
        prove();
      } catch (const c10::OutOfMemoryError &) {  // which says nothing of the kernel
        throw;
      } catch (const c10::Error &e) {
        why = e.what_without_backtrace();
      } catch (const std::exception &e) {
        why = e.what();
      }
      if (!why.empty())
        warn(c10::str("kernel ", name_, " is wrong on ", d, ": ", why,
                      "; plain operations, which are slower, take its place"));
      state = why.empty() ? kRight : kWrong;
    }
  }
  return state == kRight;
}

const dt_plugin *Kernel::on(const at::Device &d) { return fused() ? proven(d) : nullptr; }

const dt_plugin *Kernel::proven(const at::Device &d) {
  const dt_plugin *table = kernels(d);
  return table && proven_.on(d, [&] { prove_(*table, d); }) ? table : nullptr;
}

at::Tensor random(at::IntArrayRef shape, at::ScalarType type, const at::Device &d, uint64_t seed) {
  const auto host = at::TensorOptions().dtype(at::kFloat);
  return at::randn(shape, at::detail::createCPUGenerator(seed), host).to(d, type);
}

void expect_near(const at::Tensor &got, const at::Tensor &want, double limit,
                 const std::string &what) {
  TORCH_CHECK(got.defined() && want.defined() && got.sizes() == want.sizes(), what,
              " is of another shape");
  if (want.numel() == 0) return;
  const auto unit = want.square().mean().sqrt();
  const double off =
      ((got.to(at::kDouble) - want).abs() / at::maximum(want.abs(), unit)).max().item<double>();
  TORCH_CHECK(off <= limit, what, ", ", got.scalar_type(), " ", got.sizes(), ", is off by ", off,
              ", ", limit, " is allowed");
}

void expect_same(const Tensors &inputs, const Computation &kernel, const Computation &composition,
                 double limit) {
  struct Run {
    Tensors results, gradients;
  };
  Tensors weights;  // of the results in the sum whose gradients are compared
  const auto run = [&](const Computation &f, bool wide) {
    Tensors in;
    for (const auto &t : inputs) {
      in.push_back((wide ? t.to(at::kDouble) : t).detach());
      in.back().set_requires_grad(true);
    }
    Run r;
    r.results = f(in);
    at::Tensor sum;
    for (size_t i = 0; i < r.results.size(); i++) {
      auto &result = r.results[i];
      if (i == weights.size())
        weights.push_back(random(result.sizes(), result.scalar_type(), result.device(), 100 + i));
      const auto part =
          (result.to(at::kDouble) * weights[i].to(result.scalar_type()).to(at::kDouble)).sum();
      sum = sum.defined() ? sum + part : part;
      result = result.detach();
    }
    sum.backward();
    for (const auto &t : in) r.gradients.push_back(t.grad());
    return r;
  };
  const Run got = run(kernel, false), want = run(composition, true);
  const auto compare = [&](const char *what, const Tensors &a, const Tensors &b) {
    TORCH_CHECK(a.size() == b.size(), a.size(), " results, want ", b.size());
    for (size_t i = 0; i < a.size(); i++)
      expect_near(a[i], b[i], limit > 0 ? limit : limit_of(a[i].scalar_type()),
                  c10::str(what, " ", i));
  };
  compare("result", got.results, want.results);
  compare("gradient", got.gradients, want.gradients);
}

}  // namespace dt

extern "C" {

void dt_set_fused(int32_t on) { dt::fused_on = on != 0; }

int32_t dt_fused(void) { return dt::fused() ? 1 : 0; }

char *dt_take_warning(void) {
  std::lock_guard<std::mutex> lock(dt::of_warnings);
  if (dt::warnings.empty()) return nullptr;
  char *text = ::strdup(dt::warnings.front().c_str());
  dt::warnings.pop_front();
  return text;
}

}  // extern "C"
