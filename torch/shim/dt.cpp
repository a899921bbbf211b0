#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <unordered_set>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/Exception.h>
#include <c10/util/Logging.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/version.h>

#include "core.h"

namespace dt {

std::atomic<int64_t> live_tensors{0};
thread_local bool capturing = false;

static std::atomic<int64_t> traffic[3];

void announce(Traffic what) {
  traffic[static_cast<size_t>(what)].fetch_add(1, std::memory_order_relaxed);
}

void announce_copy(const at::Device &from, const at::Device &to) {
  if (from.is_cpu() != to.is_cpu()) announce(from.is_cpu() ? Traffic::kUpload : Traffic::kReadBack);
}

// Gloo begins with the place in its sources: [/pytorch/.../pair.cc:538] Connection closed by peer.
static const char *without_source(const char *msg) {
  const char *end = std::strncmp(msg, "[/", 2) ? nullptr : std::strstr(msg, "] ");
  return end ? end + 2 : msg;
}

dt_error *make_error(int32_t code, const char *msg) noexcept {
  auto *e = static_cast<dt_error *>(std::malloc(sizeof(dt_error)));
  if (!e) std::abort();
  e->code = code;
  e->msg = ::strdup(msg ? without_source(msg) : "unknown error");
  return e;
}

static int32_t classify(const char *msg) {
  for (const char *part :
       {"CUDA out of memory", "CUDA error: out of memory", "CUDA driver error: out of memory",
        "STATUS_ALLOC_FAILED", "can't allocate memory", "not enough memory"})
    if (std::strstr(msg, part)) return DT_ERR_OOM;
  if (std::strstr(msg, "CUDA error") || std::strstr(msg, "CUDNN_STATUS") ||
      std::strstr(msg, "CUBLAS_STATUS"))
    return DT_ERR_CUDA;
  if (std::strstr(msg, "shape") || std::strstr(msg, "size") || std::strstr(msg, "dimension"))
    return DT_ERR_SHAPE;
  return DT_ERR_OTHER;
}

dt_error *current_error() noexcept {
  try {
    throw;
  } catch (const c10::OutOfMemoryError &e) {
    return make_error(DT_ERR_OOM, e.what_without_backtrace());
  } catch (const c10::Error &e) {
    return make_error(classify(e.what_without_backtrace()), e.what_without_backtrace());
  } catch (const std::bad_alloc &) {
    return make_error(DT_ERR_OOM, "out of memory");
  } catch (const std::exception &e) {
    return make_error(classify(e.what()), e.what());
  } catch (...) {
    return make_error(DT_ERR_OTHER, "unknown C++ exception");
  }
}

at::ScalarType scalar_type(int32_t dtype) {
  switch (dtype) {
    case DT_FLOAT32: return at::kFloat;
    case DT_FLOAT64: return at::kDouble;
    case DT_FLOAT16: return at::kHalf;
    case DT_BFLOAT16: return at::kBFloat16;
    case DT_INT64: return at::kLong;
    case DT_INT32: return at::kInt;
    case DT_UINT8: return at::kByte;
    case DT_BOOL: return at::kBool;
  }
  TORCH_CHECK(false, "unknown dtype number ", dtype);
}

int32_t dtype_of(at::ScalarType t) {
  switch (t) {
    case at::kFloat: return DT_FLOAT32;
    case at::kDouble: return DT_FLOAT64;
    case at::kHalf: return DT_FLOAT16;
    case at::kBFloat16: return DT_BFLOAT16;
    case at::kLong: return DT_INT64;
    case at::kInt: return DT_INT32;
    case at::kByte: return DT_UINT8;
    case at::kBool: return DT_BOOL;
    default: TORCH_CHECK(false, "dtype ", t, " is not one of the binding's");
  }
}

at::Device device(dt_device d) {
  return d < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, static_cast<at::DeviceIndex>(d));
}

dt_device device_of(const at::Device &d) { return d.is_cpu() ? -1 : d.index(); }

void put(dt_out *out, at::Tensor t) { put(out, dt_tensor_s{std::move(t)}); }

void put(dt_out *out, dt_tensor_s h) {
  const at::Tensor &t = h.t;
  TORCH_CHECK(t.dim() <= DT_MAX_RANK, "rank ", t.dim(), " exceeds the binding's limit of ",
              static_cast<int>(DT_MAX_RANK));
  dt_out o{};
  o.rank = static_cast<int32_t>(t.dim());
  for (int32_t i = 0; i < o.rank; i++) o.shape[i] = t.size(i);
  o.dtype = dtype_of(t.scalar_type());
  o.device = device_of(t.device());
  o.t = new dt_tensor_s{std::move(h)};
  live_tensors.fetch_add(1, std::memory_order_relaxed);
  *out = o;
}

// remember keeps the range of integers that are in host memory.
static void remember(dt_tensor t, const int64_t *data, int64_t n) {
  if (n == 0) return;
  const auto [least, greatest] = std::minmax_element(data, data + n);
  t->least = *least;
  t->greatest = *greatest;
  t->version = t->t._version();
}

const at::Tensor &checked(const dt_tensor_s &indices, int64_t n) {
  const auto &t = indices.t;
  if (t.numel() == 0 || !at::isIntegralType(t.scalar_type(), /*includeBool=*/false)) return t;
  int64_t least = indices.least, greatest = indices.greatest;
  if (greatest < least || t._version() != indices.version) {
    TORCH_CHECK(
        !capturing,
        "the range of the indices has to be read back, which a capture cannot: Clamp them, or "
        "upload them before it");
    announce(Traffic::kReadBack);
    const auto [low, high] = at::aminmax(t);
    const auto both = at::stack({low, high}).to(at::kCPU, at::kLong);
    least = both.const_data_ptr<int64_t>()[0];
    greatest = both.const_data_ptr<int64_t>()[1];
  }
  TORCH_CHECK_INDEX(least >= 0 && greatest < n, "index ", least < 0 ? least : greatest,
                    " is out of range: want 0 to ", n - 1);
  return t;
}

dt_tensor_s clamp(const at::Tensor &a, double lo, double hi) {
  if (!at::isIntegralType(a.scalar_type(), /*includeBool=*/false)) return {a.clamp(lo, hi)};
  // Beyond 2^53 a double may stand for another integer than was meant.
  constexpr double kExact = int64_t{1} << 53;
  for (double bound : {lo, hi})
    TORCH_CHECK(std::trunc(bound) == bound && std::abs(bound) <= kExact, "integers are clamped to ",
                bound, ", want a whole number");
  const auto least = static_cast<int64_t>(lo), greatest = static_cast<int64_t>(hi);
  auto t = a.clamp(least, greatest);
  const auto version = static_cast<uint32_t>(t._version());
  return {std::move(t), least, greatest, version};
}

void put_many(dt_out *out, int64_t n, std::vector<at::Tensor> ts) {
  TORCH_CHECK(static_cast<int64_t>(ts.size()) == n, "expected ", n, " results, got ", ts.size());
  for (const auto &t : ts) TORCH_CHECK(t.dim() <= DT_MAX_RANK, "rank ", t.dim(), " is too large");
  for (int64_t i = 0; i < n; i++) put(&out[i], std::move(ts[i]));
}

}  // namespace dt

using dt::guard;

namespace {
std::string cuda_why;  // why CUDA is off; written once by dt_init
}

extern "C" {

int32_t dt_abi_version(void) { return DT_ABI; }

const char *dt_build_info(void) {
  static const std::string info = std::string("libtorch ") + TORCH_VERSION;
  return info.c_str();
}

// dt_init opens libtorch_cuda.so, which registers the CUDA kernels, and returns why CUDA cannot be
// used ("" where it can). It must come before the first query of CUDA, whose answer libtorch keeps.
const char *dt_init(void) {
  static const bool once = [] {
    at::set_num_interop_threads(1);
    dt::set_switches(0);  // cuDNN's convolutions round to TF32 by default
    // The shim does not print: c10d would write a message with its C++ stack for each error that it
    // also throws. 3 is fatal errors only.
    if (std::getenv("TORCH_CPP_LOG_LEVEL"))
      c10::initLogging();
    else
      FLAGS_caffe2_log_level = 3;
    if (!::dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_GLOBAL)) {
      cuda_why = ::dlerror();
      return true;
    }
    try {
      if (!at::hasCUDA()) {
        cuda_why = "libtorch_cuda.so is loaded but has no CUDA";
      } else if (at::detail::getCUDAHooks().deviceCount() == 0) {
        cuda_why = "no CUDA device is visible (driver absent, or CUDA_VISIBLE_DEVICES empty)";
      }
    } catch (const std::exception &e) {
      cuda_why = e.what();
    }
    return true;
  }();
  (void)once;
  return cuda_why.c_str();
}

int32_t dt_cuda_count(void) {
  if (!cuda_why.empty()) return 0;
  try {
    return static_cast<int32_t>(at::detail::getCUDAHooks().deviceCount());
  } catch (...) {
    return 0;
  }
}

// dt_cuda_name asks the driver, which libtorch has opened, by its stable C interface: no header of
// CUDA is needed.
void dt_cuda_name(int32_t i, char *name, int32_t size) {
  name[0] = 0;
  void *driver = cuda_why.empty() ? ::dlopen("libcuda.so.1", RTLD_LAZY) : nullptr;
  if (!driver) return;
  const auto get = reinterpret_cast<int (*)(int *, int)>(::dlsym(driver, "cuDeviceGet"));
  const auto get_name =
      reinterpret_cast<int (*)(char *, int, int)>(::dlsym(driver, "cuDeviceGetName"));
  int device;
  if (get && get_name && get(&device, i) == 0 && get_name(name, size, device) != 0) name[0] = 0;
}

// gpu_allocator keeps count of the memory of a GPU; NULL for the CPU, and before the GPU is used.
static c10::DeviceAllocator *gpu_allocator(dt_device dev) {
  if (dev < 0 || !cuda_why.empty()) return nullptr;
  auto *allocator =
      dynamic_cast<c10::DeviceAllocator *>(at::detail::getCUDAHooks().getCUDADeviceAllocator());
  return allocator && allocator->initialized() ? allocator : nullptr;
}

int64_t dt_peak_memory(dt_device dev) {
  try {
    auto *allocator = gpu_allocator(dev);
    if (!allocator) return 0;
    const auto stats = allocator->getDeviceStats(static_cast<c10::DeviceIndex>(dev));
    return stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)]
        .peak;
  } catch (...) {
    return 0;
  }
}

void dt_reset_peak_memory(dt_device dev) {
  try {
    if (auto *allocator = gpu_allocator(dev))
      allocator->resetPeakStats(static_cast<c10::DeviceIndex>(dev));
  } catch (...) {
  }
}

int64_t dt_total_memory(dt_device dev) {
  try {
    auto *allocator = gpu_allocator(dev);
    if (!allocator) return 0;
    return static_cast<int64_t>(
        allocator->getMemoryInfo(static_cast<c10::DeviceIndex>(dev)).second);
  } catch (...) {
    return 0;
  }
}

void dt_error_free(dt_error *e) {
  if (!e) return;
  std::free(e->msg);
  std::free(e);
}

dt_traffic dt_counts(void) {
  const auto count = [](dt::Traffic what) {
    return dt::traffic[static_cast<size_t>(what)].load(std::memory_order_relaxed);
  };
  return {count(dt::Traffic::kUpload), count(dt::Traffic::kReadBack), count(dt::Traffic::kWait)};
}

int64_t dt_live_tensors(void) { return dt::live_tensors.load(std::memory_order_relaxed); }

// The OpenMP thread count is thread-local; this brings a thread that has not run torch before to
// the count that dt_set_num_threads chose.
void dt_init_thread(void) {
  try {
    at::init_num_threads();
  } catch (...) {
  }
}

void dt_set_num_threads(int32_t n) {
  try {
    at::set_num_threads(n);
  } catch (...) {
  }
}

int32_t dt_num_threads(void) { return at::get_num_threads(); }

dt_error *dt_mode_within(dt_mode m, dt_mode *out_m) {
  return guard(m, [&] {
    const auto &context = at::globalContext();
    *out_m =
        (c10::GradMode::is_enabled() ? DT_MODE_GRAD : 0) |
        (context.allowTF32CuBLAS() && context.allowTF32CuDNN() ? DT_MODE_TF32 : 0) |
        (context.deterministicAlgorithms() && context.deterministicCuDNN() ? DT_MODE_DETERMINISTIC
                                                                           : 0);
  });
}

dt_error *dt_attention_choice(dt_mode m, dt_tensor q, dt_tensor k, dt_tensor v,
                              int32_t *out_choice) {
  return guard(
      m, [&] { *out_choice = static_cast<int32_t>(at::_fused_sdp_choice(q->t, k->t, v->t)); });
}

dt_error *dt_synchronize(dt_device dev) {
  return guard([&] {
    dt::announce(dt::Traffic::kWait);
    if (dev >= 0) at::detail::getCUDAHooks().deviceSynchronize(static_cast<c10::DeviceIndex>(dev));
  });
}

void dt_free_many(dt_tensor *ts, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    if (!ts[i]) continue;
    delete ts[i];
    dt::live_tensors.fetch_sub(1, std::memory_order_relaxed);
  }
}

dt_error *dt_from_host(const void *data, int64_t nbytes, int32_t dtype, dt_device dev,
                       const int64_t *dims, int32_t ndims, dt_out *out) {
  return guard([&] {
    at::IntArrayRef shape(dims, ndims);
    const auto type = dt::scalar_type(dtype);
    // Checked before the allocation: a corrupt shape must not take all memory first.
    int64_t want = static_cast<int64_t>(c10::elementSize(type));
    bool fits = true;
    for (int64_t d : shape) fits = d >= 0 && !__builtin_mul_overflow(want, d, &want) && fits;
    TORCH_CHECK(fits && want == nbytes, "shape ", shape, " does not take ", nbytes, " bytes of ",
                type);
    dt::announce(dt::Traffic::kUpload);
    auto t = at::empty(shape, dt::opts(at::Device(at::kCPU), type));
    if (nbytes) std::memcpy(t.mutable_data_ptr(), data, nbytes);
    if (dev >= 0) t = t.to(dt::device(dev));
    const int64_t count = t.numel();
    dt::put(out, std::move(t));
    if (type == at::kLong) dt::remember(out->t, static_cast<const int64_t *>(data), count);
  });
}

dt_error *dt_to_host(dt_tensor h, void *dst, int64_t nbytes) {
  return guard([&] {
    dt::announce(dt::Traffic::kReadBack);
    auto t = h->t.detach().to(at::kCPU).contiguous();
    TORCH_CHECK(static_cast<int64_t>(t.nbytes()) == nbytes, "tensor of shape ", t.sizes(), " has ",
                t.nbytes(), " bytes, want ", nbytes);
    if (nbytes) std::memcpy(dst, t.const_data_ptr(), nbytes);
  });
}

dt_error *dt_copy_from_host(dt_tensor h, const void *src, int64_t nbytes) {
  return guard([&] {
    auto cpu = at::empty(
        h->t.sizes(), h->t.options().device(at::kCPU).memory_format(at::MemoryFormat::Contiguous));
    TORCH_CHECK(static_cast<int64_t>(cpu.nbytes()) == nbytes, "tensor of shape ", h->t.sizes(),
                " has ", cpu.nbytes(), " bytes, got ", nbytes);
    dt::announce(dt::Traffic::kUpload);
    if (nbytes) std::memcpy(cpu.mutable_data_ptr(), src, nbytes);
    h->t.copy_(cpu);
  });
}

dt_error *dt_host_bytes(dt_tensor h, int32_t fill, void **p) {
  return guard([&] {
    bool plain = h->t.device().is_cpu() && h->t.is_contiguous();
    if (plain && fill) dt::announce(dt::Traffic::kUpload);
    *p = plain ? h->t.mutable_data_ptr() : nullptr;
    // Who writes there leaves no trace: what is remembered of the tensor and its views ends here.
    if (plain) h->t.unsafeGetTensorImpl()->bump_version();
  });
}

uint64_t dt_address(dt_tensor h) {
  return h->t.has_storage() ? reinterpret_cast<uintptr_t>(h->t.const_data_ptr()) : 0;
}

dt_error *dt_to_device(dt_mode m, dt_tensor t, dt_device dev, dt_out *out) {
  return guard(m, [&] {
    dt::announce_copy(t->t.device(), dt::device(dev));
    dt::put(out, t->t.to(dt::device(dev)));
  });
}

dt_error *dt_set_requires_grad(dt_tensor t, int32_t on) {
  return guard([&] { t->t.set_requires_grad(on != 0); });
}

int32_t dt_requires_grad(dt_tensor t) { return t->t.requires_grad() ? 1 : 0; }

dt_error *dt_backward(dt_mode m, dt_tensor loss) {
  return guard(m | DT_MODE_GRAD, [&] { loss->t.backward(); });
}

dt_error *dt_backward_leaves(dt_tensor loss, const dt_tensor *made, int32_t n_made, int64_t *out_n,
                             int64_t *out_with_grad, uint64_t *out_hash) {
  return guard([&] {
    using torch::autograd::Node;
    int64_t n = 0, with_grad = 0;
    uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
    std::unordered_set<Node *> seen;
    std::vector<Node *> stack;
    auto visit = [&](Node *node) {
      if (node && seen.insert(node).second) stack.push_back(node);
    };
    visit(loss->t.grad_fn().get());
    while (!stack.empty()) {
      Node *node = stack.back();
      stack.pop_back();
      if (const auto *leaf = dynamic_cast<torch::autograd::AccumulateGrad *>(node)) {
        const auto &t = leaf->variable;
        n++;
        if (t.grad().defined()) with_grad++;
        auto where = reinterpret_cast<uintptr_t>(t.const_data_ptr());
        for (int32_t i = 0; i < n_made; i++)
          if (made[i]->t.is_same(t)) where = i;
        hash = (hash ^ where) * 0x100000001b3;
      }
      for (const auto &edge : node->next_edges()) visit(edge.function.get());
    }
    *out_n = n;
    *out_with_grad = with_grad;
    *out_hash = hash;
  });
}

dt_error *dt_grad(dt_tensor t, dt_out *out) {
  return guard([&] {
    const auto &g = t->t.grad();
    if (g.defined())
      dt::put(out, g);
    else
      out->t = nullptr;
  });
}

dt_error *dt_clear_grad(dt_tensor t) {
  return guard([&] { t->t.mutable_grad() = at::Tensor(); });
}

dt_error *dt_generator_new(dt_device dev, uint64_t seed, dt_generator *out) {
  return guard([&] {
    at::Generator g;
    if (dev < 0) {
      g = at::detail::createCPUGenerator(seed);
    } else {
      g = at::detail::getCUDAHooks().getNewGenerator(static_cast<c10::DeviceIndex>(dev));
      g.set_current_seed(seed);
    }
    *out = new dt_generator_s{std::move(g)};
  });
}

void dt_generator_free(dt_generator g) { delete g; }

}  // extern "C"
