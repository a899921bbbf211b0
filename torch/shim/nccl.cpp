#include "nccl.h"

#include <c10/core/DeviceGuard.h>
#include <c10/core/Event.h>
#include <dlfcn.h>

#include <condition_variable>
#include <deque>

#include "dist.h"

namespace dt {

namespace {

constexpr auto kWatchEvery = std::chrono::milliseconds(100);

std::string version_text(int32_t v) {
  return c10::str(v / 10000, ".", v / 100 % 100, ".", v % 100);
}

// libtorch_cuda.so is loaded by now, where it can be, and has brought the NCCL it was built for.
NcclApi open_nccl(int32_t *version) {
  void *lib = ::dlopen("libnccl.so.2", RTLD_LAZY | RTLD_LOCAL);
  TORCH_CHECK(lib, ::dlerror());
  NcclApi api{};
  auto get = [&](auto &f, const char *name) {
    f = reinterpret_cast<std::decay_t<decltype(f)>>(::dlsym(lib, name));
    TORCH_CHECK(f, "libnccl.so.2 has no function ", name);
  };
  get(api.get_version, "ncclGetVersion");
  int found = 0;
  TORCH_CHECK(api.get_version(&found) == 0, "libnccl.so.2 does not say its version");
  // Before 2.9 the number was written otherwise, and smaller.
  TORCH_CHECK(found >= NcclApi::kOldest, "libnccl.so.2 is NCCL ",
              found < 10000 ? c10::str("of before 2.9 (", found, ")") : version_text(found),
              ", want ", version_text(NcclApi::kOldest), " or newer");
  get(api.get_unique_id, "ncclGetUniqueId");
  get(api.comm_init_rank, "ncclCommInitRank");
  get(api.comm_destroy, "ncclCommDestroy");
  get(api.comm_abort, "ncclCommAbort");
  get(api.comm_get_async_error, "ncclCommGetAsyncError");
  get(api.get_error_string, "ncclGetErrorString");
  get(api.get_last_error, "ncclGetLastError");
  get(api.all_reduce, "ncclAllReduce");
  get(api.reduce_scatter, "ncclReduceScatter");
  get(api.all_gather, "ncclAllGather");
  get(api.broadcast, "ncclBroadcast");
  *version = found;
  return api;
}

int32_t found_version = 0;

std::string reason() {  // inside a catch block only
  try {
    throw;
  } catch (const c10::Error &e) {
    return e.what_without_backtrace();
  } catch (const std::exception &e) {
    return e.what();
  }
}

int type_of(const at::Tensor &t) {
  switch (t.scalar_type()) {
    case at::kByte: return NcclApi::kUint8;
    case at::kInt: return NcclApi::kInt32;
    case at::kLong: return NcclApi::kInt64;
    case at::kHalf: return NcclApi::kHalf;
    case at::kFloat: return NcclApi::kFloat;
    case at::kDouble: return NcclApi::kDouble;
    case at::kBFloat16: return NcclApi::kBFloat16;
    default: TORCH_CHECK(false, "NCCL does not take ", t.scalar_type());
  }
}

int op_of(const c10d::ReduceOp &op) {
  switch (op.op_) {
    case c10d::ReduceOp::SUM: return NcclApi::kSum;
    case c10d::ReduceOp::MIN: return NcclApi::kMin;
    case c10d::ReduceOp::MAX: return NcclApi::kMax;
    default: TORCH_CHECK(false, "the binding has no reduction ", static_cast<int>(op.op_));
  }
}

}  // namespace

const NcclApi &nccl_api() {
  static const NcclApi api = open_nccl(&found_version);  // again, where it threw
  return api;
}

int32_t nccl_version() {
  nccl_api();
  return found_version;
}

// What the threads share. Works hold it too.
struct Nccl::State {
  std::mutex m;
  std::condition_variable changed;
  std::deque<c10::intrusive_ptr<Work>> under_way;  // in the order they were started
  std::string why;                                 // it failed
  bool failed = false, stop = false;

  void check() {
    std::lock_guard<std::mutex> lock(m);
    TORCH_CHECK(!failed, why);
  }
};

class Nccl::Work : public c10d::Work {
 public:
  Work(std::shared_ptr<State> s, const char *what, std::vector<at::Tensor> ts, at::Device device)
      : since(std::chrono::steady_clock::now()),
        what(what),
        state_(std::move(s)),
        tensors_(std::move(ts)),
        device_(device) {}

  bool wait(std::chrono::milliseconds) override {
    state_->check();
    if (done_) done_->block(current_stream(device_));
    // What frees them now comes after the collective in the order of the current stream.
    tensors_.clear();
    return true;
  }

  // Not with the state's mutex held, as wait: where a stream hangs and is full, CUDA may wait here.
  void started(const std::optional<c10::Stream> &stream) {
    if (stream) {
      done_.emplace(device_.type());
      done_->record(*stream);
    }
    started_ = true;
  }
  bool done() const { return started_ && (!done_ || done_->query()); }

  const std::chrono::steady_clock::time_point since;
  const char *const what;

 private:
  std::shared_ptr<State> state_;
  std::vector<at::Tensor> tensors_;
  const at::Device device_;
  std::atomic<bool> started_{false};
  std::optional<c10::Event> done_;
};

Nccl::Nccl(const NcclApi &api, const NcclApi::Id &id, int rank, int size, at::Device device,
           std::chrono::milliseconds timeout)
    : Backend(rank, size),
      api_(api),
      device_(device),
      timeout_(timeout),
      state_(std::make_shared<State>()) {
  WithoutSigpipe threads;
  c10::DeviceGuard here(device_);
  if (!device_.is_cpu()) {
    stream_ = side_stream(device_);
    ready_.emplace(device_.type());
  }
  const int e = api_.comm_init_rank(&comm_, size, id, rank);
  TORCH_CHECK(e == 0, error("connect the ranks", e));
  watchdog_ = std::thread([this] { watch(); });
}

Nccl::~Nccl() {
  {
    std::unique_lock<std::mutex> lock(state_->m);
    state_->changed.wait(lock, [this] { return state_->failed || state_->under_way.empty(); });
    state_->stop = true;
  }
  state_->changed.notify_all();
  watchdog_.join();
  end(failed() ? api_.comm_abort : api_.comm_destroy);
  state_->under_way.clear();  // which hold the state in turn
}

void Nccl::end(int (*how)(NcclApi::Comm *)) noexcept {
  NcclApi::Comm *comm = nullptr;
  {
    std::lock_guard<std::mutex> lock(comm_guard_);
    std::swap(comm, comm_);
  }
  if (!comm) return;
  try {
    c10::DeviceGuard here(device_);
    how(comm);
  } catch (const std::exception &) {  // CUDA is broken, and with it the communicator
  }
}

bool Nccl::failed() const {
  std::lock_guard<std::mutex> lock(state_->m);
  return state_->failed;
}

void Nccl::check() const { state_->check(); }

std::string Nccl::error(const char *what, int number) const {
  const char *more = api_.get_last_error(comm_);
  return c10::str("NCCL: ", what, ": ", api_.get_error_string(number), more && *more ? ": " : "",
                  more ? more : "");
}

// fail refuses what comes from now on. The first reason counts: what fails later follows from it.
void Nccl::fail(const std::string &why) {
  {
    std::lock_guard<std::mutex> lock(state_->m);
    if (!state_->failed) state_->why = why;
    state_->failed = true;
  }
  state_->changed.notify_all();
}

void Nccl::abort() {
  fail("the process group was aborted");
  // A call under way may wait for a rank that is gone: then only this ends it.
  std::unique_lock<std::timed_mutex> nobody_calls(calling_, std::chrono::seconds(1));
  end(api_.comm_abort);
}

// trouble returns what is wrong with the collectives under way, "" where all is well.
std::string Nccl::trouble() {
  {
    std::lock_guard<std::mutex> lock(state_->m);
    auto &under_way = state_->under_way;
    while (!under_way.empty() && under_way.front()->done()) under_way.pop_front();
    if (under_way.empty()) {
      state_->changed.notify_all();  // the destructor may wait for that
      return "";
    }
    const Work &oldest = *under_way.front();
    if (std::chrono::steady_clock::now() - oldest.since > timeout_)
      return c10::str("NCCL: ", oldest.what, " not done within ", timeout_.count() / 1e3, " s");
  }
  std::lock_guard<std::mutex> lock(comm_guard_);
  if (!comm_) return "";
  constexpr int in_progress = 7;
  int e = 0;
  if (const int failed = api_.comm_get_async_error(comm_, &e)) e = failed;
  return e == 0 || e == in_progress ? "" : error("a collective under way", e);
}

void Nccl::watch() {
  for (;;) {
    {
      std::unique_lock<std::mutex> lock(state_->m);
      if (state_->changed.wait_for(lock, kWatchEvery, [this] { return state_->stop; })) return;
      if (state_->failed) break;
    }
    std::string why;
    try {
      why = trouble();
    } catch (...) {
      why = reason();  // of CUDA
    }
    if (why.empty()) continue;
    fail(why);
    break;
  }
  abort();
}

template <class F>
c10::intrusive_ptr<c10d::Work> Nccl::start(const char *what, std::vector<at::Tensor> ts, F call) {
  for (const auto &t : ts)
    TORCH_CHECK(t.device() == device_, what, ": a tensor is on ", t.device(), ", the group on ",
                device_);
  c10::DeviceGuard here(device_);
  std::lock_guard<std::timed_mutex> calling(calling_);
  state_->check();
  auto work = c10::make_intrusive<Work>(state_, what, std::move(ts), device_);
  {
    std::lock_guard<std::mutex> lock(state_->m);
    state_->under_way.push_back(work);
  }
  try {
    void *stream = nullptr;
    if (stream_) {
      ready_->record(current_stream(device_));
      ready_->block(*stream_);
#if DT_GROUPS  // else there is no group, nor perhaps this function
      stream = stream_->native_handle();
#endif
    }
    WithoutSigpipe threads;
    const int e = call(comm_, stream);
    TORCH_CHECK(e == 0, failed() ? "" : error(what, e));
    work->started(stream_);
  } catch (...) {
    fail(reason());
  }
  state_->check();
  return work;
}

c10::intrusive_ptr<c10d::Work> Nccl::allreduce(std::vector<at::Tensor> &ts,
                                               const c10d::AllreduceOptions &o) {
  const auto &t = ts.at(0);
  const int type = type_of(t), op = op_of(o.reduceOp);
  return start("all-reduce", {t}, [&](NcclApi::Comm *comm, void *stream) {
    return api_.all_reduce(t.const_data_ptr(), t.mutable_data_ptr(), t.numel(), type, op, comm,
                           stream);
  });
}

c10::intrusive_ptr<c10d::Work> Nccl::broadcast(std::vector<at::Tensor> &ts,
                                               const c10d::BroadcastOptions &o) {
  const auto &t = ts.at(0);
  const int type = type_of(t);
  return start("broadcast", {t}, [&](NcclApi::Comm *comm, void *stream) {
    return api_.broadcast(t.const_data_ptr(), t.mutable_data_ptr(), t.numel(), type,
                          static_cast<int>(o.rootRank), comm, stream);
  });
}

c10::intrusive_ptr<c10d::Work> Nccl::_reduce_scatter_base(at::Tensor &out, at::Tensor &in,
                                                          const c10d::ReduceScatterOptions &o) {
  const int type = type_of(in), op = op_of(o.reduceOp);
  TORCH_CHECK(out.scalar_type() == in.scalar_type(), "reduce-scatter from ", in.scalar_type(),
              " to ", out.scalar_type());
  return start("reduce-scatter", {out, in}, [&](NcclApi::Comm *comm, void *stream) {
    return api_.reduce_scatter(in.const_data_ptr(), out.mutable_data_ptr(), out.numel(), type, op,
                               comm, stream);
  });
}

c10::intrusive_ptr<c10d::Work> Nccl::_allgather_base(at::Tensor &out, at::Tensor &in,
                                                     const c10d::AllgatherOptions &) {
  const int type = type_of(in);
  TORCH_CHECK(out.scalar_type() == in.scalar_type(), "all-gather from ", in.scalar_type(), " to ",
              out.scalar_type());
  return start("all-gather", {out, in}, [&](NcclApi::Comm *comm, void *stream) {
    return api_.all_gather(in.const_data_ptr(), out.mutable_data_ptr(), in.numel(), type, comm,
                           stream);
  });
}

}  // namespace dt
