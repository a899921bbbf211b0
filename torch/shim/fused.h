// What operations share that compute in one pass what PyTorch spells as several, by kernels of
// libditcuda.so or by loops of the CPU. Each has a plain composition beside it.
#pragma once

#include <functional>

#include "core.h"

namespace dt {

// fused reports whether they may; else they are their compositions (dt_set_fused).
bool fused();

// Proven is what proves itself on a device before it is used there for the first time, on random
// numbers. Where it fails, a warning says so (dt_take_warning), and it is not used on that device.
// Out of memory it is an error, and the next use proves it.
class Proven {
 public:
  explicit Proven(const char *name);
  Proven(const Proven &) = delete;

  // on reports whether it is right on d. prove, which runs once, throws where it is wrong. In a
  // capture that no proof came before it is not used.
  bool on(const at::Device &d, const std::function<void()> &prove);

 private:
  friend void forget_proofs();
  enum State : int8_t { kUnknown, kRight, kWrong };

  const char *name_;
  Proven *const next_;  // of all there are
  std::array<std::atomic<State>, std::numeric_limits<c10::DeviceIndex>::max() + 2> states_{};
};

// A Kernel is what some functions of libditcuda.so compute together, forward and backward.
class Kernel {
 public:
  // A Proof computes with the table on d, and throws where that is wrong.
  using Proof = void (*)(const dt_plugin &table, const at::Device &d);

  Kernel(const char *name, Proof prove) : proven_(name), prove_(prove) {}

  // on returns the table to compute with on d, NULL where the composition is to be taken: without
  // kernels for d, where they failed, and in a capture that no proof came before. A backward pass
  // does not ask, it has the table of its forward pass: on a GPU another thread computes it, which
  // would wait here for the proof that waits for it.
  const dt_plugin *on(const at::Device &d);
  // The same also where operations may not be fused: for kernels that no composition is beside.
  const dt_plugin *proven(const at::Device &d);

 private:
  Proven proven_;
  const Proof prove_;
};

// Of all kernels on all devices, since the table is another one.
void forget_proofs();

// use_kernels makes the table the one in use. Tests give one whose kernels are emulated.
void use_kernels(const dt_plugin &table);

// What an operation makes of its inputs.
using Tensors = std::vector<at::Tensor>;
using Computation = std::function<Tensors(const Tensors &inputs)>;

// expect_near throws where got is not want, in float64, within limit of the larger of the value and
// the root mean square of all.
void expect_near(const at::Tensor &got, const at::Tensor &want, double limit,
                 const std::string &what);

// expect_same throws where a result of the kernel, or a gradient of an input, is not that of the
// composition, computed in float64, within limit as in expect_near; 0 is 1e-5 for a result in
// float32, 1e-2 for bfloat16, 2e-3 for float16.
void expect_same(const Tensors &inputs, const Computation &kernel, const Computation &composition,
                 double limit = 0);

// random returns normals for a proof: the same in each call, and no generator in use moves on.
at::Tensor random(at::IntArrayRef shape, at::ScalarType type, const at::Device &d, uint64_t seed);

// Whether autograd will ask for gradients of one of ts.
inline bool recorded(at::TensorList ts) {
  return c10::GradMode::is_enabled() &&
         std::any_of(ts.begin(), ts.end(), [](const at::Tensor &t) { return t.requires_grad(); });
}

// Kernels take memory that begins at a multiple of so many bytes.
inline bool aligned(const at::Tensor &t, uintptr_t bytes = 16) {
  return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % bytes == 0;
}

}  // namespace dt
