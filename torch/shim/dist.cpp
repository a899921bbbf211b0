// Process groups and the store through which they find each other, over libtorch's c10d.
#include "dist.h"

#include <dlfcn.h>
#include <pthread.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#if DT_GROUPS
#define USE_C10D_GLOO
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#endif

using dt::guard;

namespace dt {

WithoutSigpipe::WithoutSigpipe() {
  sigset_t pipe;
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipe, &before_);
}

WithoutSigpipe::~WithoutSigpipe() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

void check(dt_group g) {
  if (g->nccl) g->nccl->check();
}

void use(dt_group g, const at::Tensor &t) {
  TORCH_CHECK(!g->aborted, "the process group was aborted");
  TORCH_CHECK(t.is_contiguous(), "a collective takes contiguous tensors only");
}

// The calls that start a collective throw too, where a connection is closed by then.
template <class F>
static auto noting_failure(dt_group g, F f) {
  try {
    return f();
  } catch (...) {
    g->failed = true;
    throw;
  }
}

void wait(dt_group g, const c10::intrusive_ptr<c10d::Work> &work) {
  noting_failure(g, [&] { TORCH_CHECK(work->wait(), "the process group was aborted"); });
}

c10::intrusive_ptr<c10d::Work> all_reduce(dt_group g, const at::Tensor &t) {
  use(g, t);
  std::vector<at::Tensor> ts{t};
  return noting_failure(g, [&] { return g->backend->allreduce(ts); });
}

c10::intrusive_ptr<c10d::Work> reduce_scatter(dt_group g, const at::Tensor &out,
                                              const at::Tensor &in) {
  use(g, out);
  use(g, in);
  TORCH_CHECK(in.numel() == out.numel() * g->size, "reduce_scatter: ", in.numel(),
              " elements do not make ", g->size, " parts of size ", out.numel());
  auto o = out, i = in;
  return noting_failure(g, [&] { return g->backend->_reduce_scatter_base(o, i); });
}

c10::intrusive_ptr<c10d::Work> all_gather(dt_group g, const at::Tensor &out, const at::Tensor &in) {
  use(g, out);
  use(g, in);
  TORCH_CHECK(out.numel() == in.numel() * g->size, "all_gather: ", g->size, " parts of size ",
              in.numel(), " do not make ", out.numel(), " elements");
  auto o = out, i = in;
  return noting_failure(g, [&] { return g->backend->_allgather_base(o, i); });
}

namespace {

std::chrono::milliseconds ms(int64_t n) { return std::chrono::milliseconds(n); }

c10d::ReduceOp reduce_op(int32_t op) {
  switch (op) {
    case DT_SUM: return c10d::ReduceOp::SUM;
    case DT_MIN: return c10d::ReduceOp::MIN;
    case DT_MAX: return c10d::ReduceOp::MAX;
  }
  TORCH_CHECK(false, "unknown reduction number ", op);
}

#if DT_GROUPS
class Gloo : public c10d::ProcessGroupGloo {
 public:
  using ProcessGroupGloo::ProcessGroupGloo;

  // Ranks that wait for this one, and calls under way here, fail at once instead of after the
  // time-out.
  void abort() override {
    for (const auto &context : contexts_) context->closeConnections();
  }
};

std::vector<std::shared_ptr<gloo::transport::Device>> gloo_devices(const std::string &interfaces,
                                                                   const char *host) {
  if (interfaces.empty()) return {c10d::ProcessGroupGloo::createDeviceForHostname(host)};
  std::vector<std::shared_ptr<gloo::transport::Device>> devices;
  std::istringstream list(interfaces);
  for (std::string name; std::getline(list, name, ',');)
    devices.push_back(c10d::ProcessGroupGloo::createDeviceForInterface(name));
  return devices;
}
#endif

}  // namespace

}  // namespace dt

extern "C" {

dt_error *dt_store_new(const char *host, int32_t port, int32_t serve, int32_t listen_fd,
                       const char *prefix, int64_t timeout_ms, dt_store *out) {
  return guard([&] {
    dt::WithoutSigpipe threads;
    TORCH_CHECK(port > 0 && port < 65536, "port ", port, " is not between 1 and 65535");
    c10d::TCPStoreOptions o;
    o.port = static_cast<uint16_t>(port);
    o.isServer = serve != 0;
    if (listen_fd >= 0) o.masterListenFd = listen_fd;
    o.waitWorkers = false;
    o.timeout = dt::ms(timeout_ms);
    auto tcp = c10::make_intrusive<c10d::TCPStore>(host, o);
    *out = new dt_store_s{c10::make_intrusive<c10d::PrefixStore>(prefix, std::move(tcp))};
  });
}

void dt_store_free(dt_store s) { delete s; }

dt_error *dt_store_set(dt_store s, const char *key, const void *data, int64_t nbytes) {
  return guard([&] {
    auto *p = static_cast<const uint8_t *>(data);
    s->store->set(key, std::vector<uint8_t>(p, p + nbytes));
  });
}

dt_error *dt_store_get(dt_store s, const char *key, void **out_data, int64_t *out_nbytes) {
  return guard([&] {
    auto value = s->store->get(key);
    void *p = std::malloc(value.size() + 1);
    if (!p) throw std::bad_alloc();
    std::memcpy(p, value.data(), value.size());
    *out_data = p;
    *out_nbytes = static_cast<int64_t>(value.size());
  });
}

dt_error *dt_store_add(dt_store s, const char *key, int64_t delta, int64_t *out_sum) {
  return guard([&] { *out_sum = s->store->add(key, delta); });
}

dt_error *dt_store_check(dt_store s, const char *const *keys, int32_t n, int32_t *out_present) {
  return guard(
      [&] { *out_present = s->store->check(std::vector<std::string>(keys, keys + n)) ? 1 : 0; });
}

dt_error *dt_store_delete(dt_store s, const char *key, int32_t *out_deleted) {
  return guard([&] { *out_deleted = s->store->deleteKey(key) ? 1 : 0; });
}

dt_error *dt_group_new_gloo(dt_store s, int32_t rank, int32_t size, const char *interfaces,
                            const char *host, int64_t timeout_ms, dt_group *out) {
  return guard([&] {
#if DT_GROUPS
    dt::WithoutSigpipe threads;
    auto o = c10d::ProcessGroupGloo::Options::create(dt::ms(timeout_ms));
    o->devices = dt::gloo_devices(interfaces, host);
    // One thread a device: collectives end in the order they were started, and a second thread
    // would only compete with the computation.
    o->threads = static_cast<int>(o->devices.size());
    auto backend = c10::make_intrusive<dt::Gloo>(s->store, rank, size, o);
    *out = new dt_group_s{std::move(backend), s->store, rank, size};
#else
    (void)s, (void)rank, (void)size, (void)interfaces, (void)host, (void)timeout_ms, (void)out;
    TORCH_CHECK(false, "process groups need libtorch 2.11; this is ", TORCH_VERSION);
#endif
  });
}

dt_error *dt_nccl_version(int32_t *out_version) {
  return guard([&] { *out_version = dt::nccl_version(); });
}

dt_error *dt_nccl_id(char *out_id) {
  static_assert(sizeof(dt::NcclApi::Id) == DT_NCCL_ID, "");
  return guard([&] {
    dt::WithoutSigpipe threads;
    dt::NcclApi::Id id{};
    const auto &api = dt::nccl_api();
    const int e = api.get_unique_id(&id);
    TORCH_CHECK(e == 0, "NCCL: begin a group: ", api.get_error_string(e), ": ",
                api.get_last_error(nullptr));
    std::memcpy(out_id, &id, sizeof id);
  });
}

dt_error *dt_group_new_nccl(int32_t rank, int32_t size, dt_device dev, const char *id,
                            int64_t timeout_ms, dt_group *out) {
  return guard([&] {
#if DT_GROUPS
    dt::NcclApi::Id all;
    std::memcpy(&all, id, sizeof all);
    auto backend = c10::make_intrusive<dt::Nccl>(dt::nccl_api(), all, rank, size, dt::device(dev),
                                                 dt::ms(timeout_ms));
    auto *nccl = backend.get();
    *out = new dt_group_s{std::move(backend), {}, rank, size, nccl};
#else
    (void)rank, (void)size, (void)dev, (void)id, (void)timeout_ms, (void)out;
    TORCH_CHECK(false, "process groups need libtorch 2.11; this is ", TORCH_VERSION);
#endif
  });
}

dt_error *dt_gpu_address(dt_device dev, char *out, int32_t n) {
  return guard([&] {
    // libtorch_cuda.so has brought the CUDA runtime, of whatever version.
    using Get = int (*)(char *, int, int);
    auto get = reinterpret_cast<Get>(::dlsym(RTLD_DEFAULT, "cudaDeviceGetPCIBusId"));
    TORCH_CHECK(get, "the CUDA runtime has no function cudaDeviceGetPCIBusId");
    const int e = get(out, n, dev);
    TORCH_CHECK(e == 0, "cudaDeviceGetPCIBusId of GPU ", dev, ": CUDA error ", e);
  });
}

void dt_group_free(dt_group g) { delete g; }

dt_error *dt_group_all_reduce(dt_group g, dt_tensor t, int32_t op) {
  return guard([&] {
    dt::use(g, t->t);
    std::vector<at::Tensor> ts{t->t};
    c10d::AllreduceOptions o;
    o.reduceOp = dt::reduce_op(op);
    dt::wait(g, g->backend->allreduce(ts, o));
  });
}

dt_error *dt_group_reduce_scatter(dt_group g, dt_tensor out, dt_tensor in) {
  return guard([&] { dt::wait(g, dt::reduce_scatter(g, out->t, in->t)); });
}

dt_error *dt_group_all_gather(dt_group g, dt_tensor out, dt_tensor in) {
  return guard([&] { dt::wait(g, dt::all_gather(g, out->t, in->t)); });
}

dt_error *dt_group_broadcast(dt_group g, dt_tensor t, int32_t root) {
  return guard([&] {
    dt::use(g, t->t);
    std::vector<at::Tensor> ts{t->t};
    c10d::BroadcastOptions o;
    o.rootRank = root;
    dt::wait(g, g->backend->broadcast(ts, o));
  });
}

dt_error *dt_group_barrier(dt_group g, int64_t timeout_ms) {
  return guard([&] {
    TORCH_CHECK(!g->aborted, "the process group was aborted");
    c10d::BarrierOptions o;
    o.timeout = dt::ms(timeout_ms);
    dt::noting_failure(g, [&] { g->backend->monitoredBarrier(o, /*waitAllRanks=*/true); });
  });
}

int32_t dt_group_failed(dt_group g) { return g->failed || (g->nccl && g->nccl->failed()) ? 1 : 0; }

dt_error *dt_group_check(dt_group g) {
  return guard([&] { dt::check(g); });
}

dt_error *dt_group_abort(dt_group g) {
  return guard([&] {
    g->aborted = true;
    g->backend->abort();
  });
}

}  // extern "C"
