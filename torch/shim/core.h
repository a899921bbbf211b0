// What the C++ files of the shim share: handles, the error guard and conversions.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <c10/core/Stream.h>

#include <array>
#include <atomic>
#include <cstring>
#include <functional>

#include "dt.h"
#include "plugin.h"

// Of functions of plain loops: the compiler vectorises them for the machine it finds.
#define DT_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))

struct dt_tensor_s {
  at::Tensor t;
  // Of integers that came from the host, or were clamped: bounds, and how often t had been written
  // to when they held.
  int64_t least = 0, greatest = -1;
  uint32_t version = 0;
};

struct dt_generator_s {
  at::Generator g;
};

namespace dt {

extern std::atomic<int64_t> live_tensors;

// Whatever copies between the host and a device, or waits for one, calls announce first. The CPU
// counts as if it were a device, so that tests see there what a GPU would have to wait for.
enum class Traffic { kUpload, kReadBack, kWait };
void announce(Traffic what);
// announce_copy announces a copy where it is one between the host and a GPU.
void announce_copy(const at::Device &from, const at::Device &to);

dt_error *make_error(int32_t code, const char *msg) noexcept;
dt_error *current_error() noexcept;  // inside a catch block only

// guard runs f, which does not record for autograd, and turns every exception into a dt_error.
template <class F>
dt_error *guard(F &&f) noexcept {
  try {
    c10::AutoGradMode grad(false);
    f();
    return nullptr;
  } catch (...) {
    return current_error();
  }
}

// While a Switches exists, the switches that libtorch keeps for the whole process are as its mode
// has them; while none does, they are off. The constructor waits until those of other modes are
// gone. So a thread must not have two, nor wait for another caller while it has one.
class Switches {
 public:
  explicit Switches(dt_mode m);
  ~Switches();
  Switches(const Switches &) = delete;
};

void set_switches(dt_mode m);

// Whether this thread is in a call with DT_MODE_CAPTURE.
extern thread_local bool capturing;

class Capturing {
 public:
  explicit Capturing(dt_mode m) { capturing = (m & DT_MODE_CAPTURE) != 0; }
  ~Capturing() { capturing = false; }
  Capturing(const Capturing &) = delete;
};

// guard runs f in mode m.
template <class F>
dt_error *guard(dt_mode m, F &&f) noexcept {
  return guard([&] {
    Switches switches(m);
    Capturing capture(m);
    c10::AutoGradMode grad((m & DT_MODE_GRAD) != 0);
    f();
  });
}

at::ScalarType scalar_type(int32_t dtype);
int32_t dtype_of(at::ScalarType t);
at::Device device(dt_device d);
dt_device device_of(const at::Device &d);

inline at::TensorOptions opts(at::Device dev, at::ScalarType t) {
  return at::TensorOptions().device(dev).dtype(t);
}
inline at::TensorOptions opts(at::Device dev, int32_t t) { return opts(dev, scalar_type(t)); }

// The stream of d, a GPU, that this thread computes on, and one to work beside that: libtorch has
// 32 such streams of a GPU, and gives them out in turn.
c10::Stream current_stream(const at::Device &d);
c10::Stream side_stream(const at::Device &d);

// How a Feed and a Readback copy bytes on the current stream, and the host memory that they copy
// between while the other piece is filled or read.
using Copy = void (*)(const at::Tensor &to, const at::Tensor &from);
void copy_bytes(const at::Tensor &to, const at::Tensor &from);
std::array<at::Tensor, 2> host_pieces(int64_t nbytes, const at::Device &d);

// Of operations of our own the profiler is told the name alone: RECORD_FUNCTION(name, kNoInputs).
inline constexpr c10::ArrayRef<const c10::IValue> kNoInputs;

// put wraps t in a new handle and fills in the metadata.
void put(dt_out *out, at::Tensor t);
void put(dt_out *out, dt_tensor_s h);
void put_many(dt_out *out, int64_t n, std::vector<at::Tensor> ts);

inline const at::Tensor &tensor(dt_tensor h) { return h->t; }
inline std::optional<at::Tensor> maybe(dt_tensor h) {
  return h ? std::optional<at::Tensor>(h->t) : std::nullopt;
}
// checked returns indices into something of n entries, and fails where one is out of range. On a
// GPU the operation itself would find that out when it is too late: an assertion of the device ends
// all further work of the process. Indices whose bounds are known are not read back; others fail in
// mode DT_MODE_CAPTURE.
const at::Tensor &checked(const dt_tensor_s &indices, int64_t n);
// clamp limits a to [lo, hi], which is known of integers from then on.
dt_tensor_s clamp(const at::Tensor &a, double lo, double hi);

inline std::vector<at::Tensor> list(const dt_tensor *hs, int32_t n) {
  std::vector<at::Tensor> ts;
  ts.reserve(n);
  for (int32_t i = 0; i < n; i++) ts.push_back(hs[i]->t);
  return ts;
}

// GroupNorm of x [N, C, ...], then SiLU if silu is set; weights are cast to the type of x. On a GPU
// it is a kernel where x is in channels_last memory.
at::Tensor norm_groups(const at::Tensor &x, int64_t groups, const std::optional<at::Tensor> &weight,
                       const std::optional<at::Tensor> &bias, double eps, bool silu);
// The same by kernels that take x [N, C, H, W] in channels_last memory, on whatever device they are
// for, and weights in float32.
at::Tensor norm_groups_by(const dt_plugin &kernels, const at::Tensor &x, int64_t groups,
                          const at::Tensor &weight, const at::Tensor &bias, double eps, bool silu);

// kernels returns libditcuda.so where it has kernels and they can be started on d, else NULL.
const dt_plugin *kernels(const at::Device &d);
// The stream of d that this thread computes on, a cudaStream_t; NULL for the CPU, and where
// libtorch does not tell (before 2.11), which has_native_streams says.
void *native_stream(const at::Device &d);
bool has_native_streams();
// Whether this thread is in a call with DT_MODE_CAPTURE, or a graph is being captured, which
// threads of autograd take part in.
bool in_capture();
// queue_kernels calls f, which queues kernels of libditcuda.so, with the current stream of d. Tests
// run them on the CPU, which has none.
void queue_kernels(const at::Device &d, const std::function<int(void *stream)> &f);

// Draws of package philox by such kernels: normals in a shape whose first size is that of indices,
// and uniforms.
at::Tensor normals_by(const dt_plugin &kernels, uint64_t seed, uint32_t tag, const at::Tensor &step,
                      const at::Tensor &indices, at::IntArrayRef shape);
at::Tensor uniforms_by(const dt_plugin &kernels, uint64_t seed, uint32_t tag,
                       const at::Tensor &step, const at::Tensor &indices);

// Fused operations, defined in fused.cpp.
at::Tensor ada_layer_norm(const at::Tensor &x, const at::Tensor &shift, const at::Tensor &scale,
                          double eps);
at::Tensor gated_add(const at::Tensor &x, const at::Tensor &gate, const at::Tensor &y);
std::vector<at::Tensor> residual_ada_layer_norm(const at::Tensor &x,
                                                const std::optional<at::Tensor> &gate,
                                                const std::optional<at::Tensor> &y,
                                                const at::Tensor &shift, const at::Tensor &scale,
                                                double eps);

// Linear layers, defined in linear.cpp: x w^T + b, GELU of it with the tanh, and the one of the
// other.
at::Tensor linear(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &b);
at::Tensor linear_gelu(const at::Tensor &x, const at::Tensor &w, const at::Tensor &b);
at::Tensor mlp(const at::Tensor &x, const at::Tensor &w1, const at::Tensor &b1,
               const at::Tensor &w2, const at::Tensor &b2);

// Attention among the tokens of qkv [N, T, 3 heads d], defined in attention.cpp.
at::Tensor packed_attention(const at::Tensor &qkv, int64_t heads,
                            const std::optional<at::Tensor> &mask);

// at::Tensor::uniform_ by all threads, defined in uniform.cpp.
void uniform_(const at::Tensor &dst, double lo, double hi, const at::Generator &gen);

}  // namespace dt
