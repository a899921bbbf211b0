// Process groups and the store through which they find each other, over libtorch's c10d.
#include "dist.h"

#include <pthread.h>
#include <signal.h>
#include <torch/version.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

// The class is no part of libtorch's interface, and the headers in gloo/ are ours: one version
// only.
#define DT_GLOO (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR == 11)
#if DT_GLOO
#define USE_C10D_GLOO
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#endif

using dt::guard;

namespace dt {

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

// Threads started meanwhile have SIGPIPE blocked. They write to sockets whose other end may be
// gone, and Go ends the process where one of its own threads is not the one that gets the signal.
class WithoutSigpipe {
 public:
  WithoutSigpipe() {
    sigset_t pipe;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe, &before_);
  }
  ~WithoutSigpipe() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  WithoutSigpipe(const WithoutSigpipe &) = delete;

 private:
  sigset_t before_;
};

std::chrono::milliseconds ms(int64_t n) { return std::chrono::milliseconds(n); }

c10d::ReduceOp reduce_op(int32_t op) {
  switch (op) {
    case DT_SUM: return c10d::ReduceOp::SUM;
    case DT_MIN: return c10d::ReduceOp::MIN;
    case DT_MAX: return c10d::ReduceOp::MAX;
  }
  TORCH_CHECK(false, "unknown reduction number ", op);
}

#if DT_GLOO
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

dt_error *dt_store_new(const char *host, int32_t port, int32_t serve, const char *prefix,
                       int64_t timeout_ms, dt_store *out) {
  return guard(0, [&] {
    dt::WithoutSigpipe threads;
    TORCH_CHECK(port > 0 && port < 65536, "port ", port, " is not between 1 and 65535");
    c10d::TCPStoreOptions o;
    o.port = static_cast<uint16_t>(port);
    o.isServer = serve != 0;
    o.waitWorkers = false;
    o.timeout = dt::ms(timeout_ms);
    auto tcp = c10::make_intrusive<c10d::TCPStore>(host, o);
    *out = new dt_store_s{c10::make_intrusive<c10d::PrefixStore>(prefix, std::move(tcp))};
  });
}

void dt_store_free(dt_store s) { delete s; }

dt_error *dt_store_set(dt_store s, const char *key, const void *data, int64_t nbytes) {
  return guard(0, [&] {
    auto *p = static_cast<const uint8_t *>(data);
    s->store->set(key, std::vector<uint8_t>(p, p + nbytes));
  });
}

dt_error *dt_store_get(dt_store s, const char *key, void **out_data, int64_t *out_nbytes) {
  return guard(0, [&] {
    auto value = s->store->get(key);
    void *p = std::malloc(value.size() + 1);
    if (!p) throw std::bad_alloc();
    std::memcpy(p, value.data(), value.size());
    *out_data = p;
    *out_nbytes = static_cast<int64_t>(value.size());
  });
}

dt_error *dt_store_add(dt_store s, const char *key, int64_t delta, int64_t *out_sum) {
  return guard(0, [&] { *out_sum = s->store->add(key, delta); });
}

dt_error *dt_store_check(dt_store s, const char *const *keys, int32_t n, int32_t *out_present) {
  return guard(
      0, [&] { *out_present = s->store->check(std::vector<std::string>(keys, keys + n)) ? 1 : 0; });
}

dt_error *dt_store_delete(dt_store s, const char *key, int32_t *out_deleted) {
  return guard(0, [&] { *out_deleted = s->store->deleteKey(key) ? 1 : 0; });
}

dt_error *dt_group_new_gloo(dt_store s, int32_t rank, int32_t size, const char *interfaces,
                            const char *host, int64_t timeout_ms, dt_group *out) {
  return guard(0, [&] {
#if DT_GLOO
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

void dt_group_free(dt_group g) { delete g; }

dt_error *dt_group_all_reduce(dt_group g, dt_tensor t, int32_t op) {
  return guard(0, [&] {
    dt::use(g, t->t);
    std::vector<at::Tensor> ts{t->t};
    c10d::AllreduceOptions o;
    o.reduceOp = dt::reduce_op(op);
    dt::wait(g, g->backend->allreduce(ts, o));
  });
}

dt_error *dt_group_reduce_scatter(dt_group g, dt_tensor out, dt_tensor in) {
  return guard(0, [&] { dt::wait(g, dt::reduce_scatter(g, out->t, in->t)); });
}

dt_error *dt_group_all_gather(dt_group g, dt_tensor out, dt_tensor in) {
  return guard(0, [&] { dt::wait(g, dt::all_gather(g, out->t, in->t)); });
}

dt_error *dt_group_broadcast(dt_group g, dt_tensor t, int32_t root) {
  return guard(0, [&] {
    dt::use(g, t->t);
    std::vector<at::Tensor> ts{t->t};
    c10d::BroadcastOptions o;
    o.rootRank = root;
    dt::wait(g, g->backend->broadcast(ts, o));
  });
}

dt_error *dt_group_barrier(dt_group g, int64_t timeout_ms) {
  return guard(0, [&] {
    TORCH_CHECK(!g->aborted, "the process group was aborted");
    c10d::BarrierOptions o;
    o.timeout = dt::ms(timeout_ms);
    dt::noting_failure(g, [&] { g->backend->monitoredBarrier(o, /*waitAllRanks=*/true); });
  });
}

int32_t dt_group_failed(dt_group g) { return g->failed ? 1 : 0; }

dt_error *dt_group_abort(dt_group g) {
  return guard(0, [&] {
    g->aborted = true;
    g->backend->abort();
  });
}

}  // extern "C"
