// Opens libditcuda.so, and the calls of dt.h that it serves.
#include "plugin.h"

#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>
#include <torch/version.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <limits>

#include "fused.h"

namespace dt {

namespace {

dt_plugin functions{};
bool opened = false;
std::string plugin_why = "not opened";    // "" where it is in use
std::atomic<dt_graph> captured{nullptr};  // what is being captured, one at a time

void capture_ends(dt_graph g) { captured.compare_exchange_strong(g, nullptr); }

// open_plugin returns why the library cannot be used, "" where it can.
std::string open_plugin(const char *path, dt_plugin *out) {
  if (::access(path, F_OK)) return c10::str(path, " is not there");
  void *lib = ::dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!lib) return ::dlerror();
  const auto version =
      reinterpret_cast<dt_plugin_version_function *>(::dlsym(lib, "dt_plugin_version"));
  if (!version) return c10::str(path, " has no function dt_plugin_version");
  if (version() != DT_PLUGIN_VERSION)
    return c10::str(path, " is of version ", version(), ", this shim wants version ",
                    DT_PLUGIN_VERSION);
  const auto fill = reinterpret_cast<dt_plugin_fill_function *>(::dlsym(lib, "dt_plugin_fill"));
  if (!fill) return c10::str(path, " has no function dt_plugin_fill");
  fill(out);
  if (std::strcmp(out->libtorch, TORCH_VERSION))
    return c10::str(path, " is for libtorch ", out->libtorch, ", this shim for ", TORCH_VERSION);
  return "";
}

void done(char *why) {
  if (!why) return;
  const std::string text(why);
  std::free(why);
  TORCH_CHECK(false, text);
}

const dt_plugin &in_use() {
  TORCH_CHECK(opened, "graphs need libditcuda.so: ", plugin_why);
  TORCH_CHECK(functions.graph_begin, "the emulator has no graphs");
  return functions;
}

}  // namespace

// Before 2.11 libtorch did not tell which stream of CUDA's its own is.
#define DT_STREAMS (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 11)

namespace {

void check_kernels(const at::Device &d) {
  if (functions.emulated && d.is_cpu()) return;
  TORCH_CHECK(d.is_cuda(), "kernels are for a GPU, not for ", d);
  TORCH_CHECK(opened, plugin_why);
  TORCH_CHECK(functions.normals, "it was built without nvcc");
  TORCH_CHECK(DT_STREAMS, "they need libtorch 2.11");
  done(functions.check_kernels(d.index()));
}

// Whether kernels can be started on each GPU, once that was asked.
enum Startable : int8_t { kUnknown, kYes, kNo };
std::array<std::atomic<Startable>, std::numeric_limits<c10::DeviceIndex>::max() + 1> startable{};

}  // namespace

const dt_plugin *kernels(const at::Device &d) {
  if (d.is_cpu()) return functions.emulated ? &functions : nullptr;
  if (!d.is_cuda() || !d.has_index()) return nullptr;
  auto &known = startable[static_cast<size_t>(d.index())];
  if (known == kUnknown) {
    try {
      check_kernels(d);
      known = kYes;
    } catch (const c10::Error &) {
      known = kNo;
    }
  }
  return known == kYes ? &functions : nullptr;
}

void use_kernels(const dt_plugin &table) {
  functions = table;
  forget_proofs();
}

c10::Stream current_stream(const at::Device &d) {
  return c10::impl::VirtualGuardImpl(d.type()).getStream(d);
}

c10::Stream side_stream(const at::Device &d) {
  return c10::impl::VirtualGuardImpl(d.type()).getStreamFromGlobalPool(d);
}

bool has_native_streams() { return DT_STREAMS; }

void *native_stream([[maybe_unused]] const at::Device &d) {
#if DT_STREAMS
  if (!d.is_cpu()) return current_stream(d).native_handle();
#endif
  return nullptr;
}

bool in_capture() { return capturing || captured; }

void queue_kernels(const at::Device &d, const std::function<int(void *stream)> &f) {
  c10::DeviceGuard here(d);
  const int error = f(native_stream(d));
  TORCH_CHECK(!error, "CUDA error ", error, " in a kernel of libditcuda.so");
}

}  // namespace dt

using dt::guard;

extern "C" {

const char *dt_plugin_open(const char *path) {
  dt::functions = {};
  try {
    dt::plugin_why = dt::open_plugin(path, &dt::functions);
  } catch (const std::exception &e) {
    dt::plugin_why = e.what();
  }
  dt::opened = dt::plugin_why.empty();
  if (!dt::opened) dt::functions = {};
  for (auto &known : dt::startable) known = dt::kUnknown;
  dt::forget_proofs();
  return dt::plugin_why.c_str();
}

dt_error *dt_plugin_check_kernels(dt_device dev) {
  return guard([&] { dt::check_kernels(dt::device(dev)); });
}

dt_error *dt_graph_begin(dt_device dev, dt_graph *out) {
  return guard([&] {
    const auto &plugin = dt::in_use();
    dt::announce(dt::Traffic::kWait);
    dt::done(plugin.graph_begin(dev, out));
    dt::captured = *out;
  });
}

dt_error *dt_graph_end(dt_graph g) {
  return guard([&] {
    char *why = dt::in_use().graph_end(g);
    dt::capture_ends(g);
    dt::done(why);
  });
}

dt_error *dt_graph_replay(dt_graph g) {
  return guard([&] { dt::done(dt::in_use().graph_replay(g)); });
}

void dt_graph_free(dt_graph g) {
  dt::functions.graph_free(g);
  dt::capture_ends(g);
}

}  // extern "C"
