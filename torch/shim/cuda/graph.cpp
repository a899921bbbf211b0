// The part of libditcuda.so that needs CUDA's headers but not its compiler: graphs. It is linked
// with no library. The shim opens it after libtorch_cuda.so, which has what is undefined here.
//
// No function of CUDA's runtime is called here: the kernels that may be linked to this file bring
// a runtime of their own, libtorch has another one.
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/cuda/CUDAFunctions.h>
#include <torch/version.h>

#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "plugin.h"

#define DT_PLUGIN extern "C" __attribute__((visibility("default")))

// Absent where the library was linked without kernels.
extern "C" __attribute__((weak, visibility("hidden"))) void dt_plugin_fill_kernels(dt_plugin *);

namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

// guard runs f on dev and returns what it throws as a text, NULL where it does not throw.
template <class F>
char *guard(c10::Device dev, F &&f) noexcept {
  std::string why;
  try {
    c10::DeviceGuard here(dev);
    f();
    return nullptr;
  } catch (const c10::Error &e) {
    why = e.what_without_backtrace();
  } catch (const std::exception &e) {
    why = e.what();
  } catch (...) {
    why = "unknown C++ exception";
  }
  return ::strdup(why.c_str());
}

c10::Device cuda(dt_device dev) { return {c10::kCUDA, static_cast<c10::DeviceIndex>(dev)}; }

c10::impl::VirtualGuardImpl streams() { return c10::impl::VirtualGuardImpl(c10::kCUDA); }

std::mutex capture;  // held while one is under way

// With the mutex held. The stream on which graphs of dev are captured, one for all: cuBLAS keeps a
// workspace for each stream that it was used on, for ever, in the pool of the graph that came
// first. Streams of high priority are nobody else's: work that another thread gave to this one
// would become part of the graph. Its kernels keep that priority, so a replay goes before work on
// side streams.
c10::Stream capture_stream(c10::Device dev) {
  static std::map<c10::DeviceIndex, c10::Stream> made;
  auto it = made.find(dev.index());
  if (it == made.end())
    it = made.emplace(dev.index(), streams().getStreamFromGlobalPool(dev, /*isHighPriority=*/true))
             .first;
  return it->second;
}

}  // namespace

struct dt_graph_s {
  explicit dt_graph_s(c10::Device dev)
      : alone(capture),
        device(dev),
        stream(capture_stream(dev)),
        pool(at::cuda::graph_pool_handle()) {}

  ~dt_graph_s() {
    if (before) std::free(guard(device, [this] { end(); }));
  }

  void begin() {
    c10::cuda::device_synchronize();  // so that freed memory has no work left to wait for
    allocator::emptyCache();
    before = streams().exchangeStream(stream);
    try {
      graph.capture_begin(pool, cudaStreamCaptureModeThreadLocal);
    } catch (...) {
      leave();
      throw;
    }
  }

  void end() {
    try {
      graph.capture_end();
    } catch (...) {
      leave();
      throw;
    }
    leave();
  }

  struct Graph : at::cuda::CUDAGraph {
    bool captured() const { return capture_ended_; }
    // After a capture that failed: else no graph of the process could be replayed, since CUDAGraph
    // leaves the device's generator, which they share, as if this capture went on.
    void forget() {
      for (auto &state : captured_generator_states_) state.first->capturing_ = false;
    }
  };

  std::unique_lock<std::mutex> alone;
  const c10::Device device;
  const c10::Stream stream;
  const decltype(at::cuda::graph_pool_handle()) pool;
  Graph graph;
  std::optional<c10::Stream> before;  // the current stream, while this graph is captured

 private:
  // leave restores the current stream and, where the capture failed, the allocators: CUDAGraph
  // leaves them directing allocations to the pool, as if the capture went on.
  void leave() {
    streams().exchangeStream(*before);
    before.reset();
    const std::unique_lock<std::mutex> until_the_end = std::move(alone);
    if (graph.captured()) return;
    graph.forget();
    attempt([&] { allocator::endAllocateToPool(device.index(), pool); });
    attempt([&] { allocator::releasePool(device.index(), pool); });
    auto *pinned = at::getHostAllocator(at::kCUDA);
    attempt([&] { end_pinned(pinned, pool, 0); });
    attempt([&] { release_pinned(pinned, pool, 0); });
  }

  // Of what is undone, a capture may not have got to do everything.
  template <class F>
  static void attempt(F &&f) {
    try {
      f();
    } catch (const std::exception &) {
    }
  }

  // Not every libtorch has pools of pinned memory.
  template <class Allocator, class Pool>
  static auto end_pinned(Allocator *a, Pool pool, int) -> decltype(a->end_allocate_to_pool(pool)) {
    a->end_allocate_to_pool(pool);
  }
  static void end_pinned(...) {}
  template <class Allocator, class Pool>
  static auto release_pinned(Allocator *a, Pool pool, int) -> decltype(a->release_pool(pool)) {
    a->release_pool(pool);
  }
  static void release_pinned(...) {}
};

namespace {

char *graph_begin(dt_device dev, dt_graph *out) {
  return guard(cuda(dev), [&] {
    auto g = std::make_unique<dt_graph_s>(cuda(dev));
    g->begin();
    *out = g.release();
  });
}

char *graph_end(dt_graph g) {
  return guard(g->device, [g] { g->end(); });
}

char *graph_replay(dt_graph g) {
  return guard(g->device, [g] { g->graph.replay(); });
}

void graph_free(dt_graph g) { delete g; }

}  // namespace

DT_PLUGIN int32_t dt_plugin_version(void) { return DT_PLUGIN_VERSION; }

DT_PLUGIN void dt_plugin_fill(dt_plugin *out) {
  *out = {};
  out->libtorch = TORCH_VERSION;
  out->graph_begin = graph_begin;
  out->graph_end = graph_end;
  out->graph_replay = graph_replay;
  out->graph_free = graph_free;
  if (dt_plugin_fill_kernels) dt_plugin_fill_kernels(out);
}
