// The order in which collectives over NCCL, the copies of a feed and the streams of a GPU wait for
// each other, and what happens to a collective that does not end. There is no GPU: libtorch reaches
// one through the interface that is registered here, which writes down every call.
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "../aside.h"
#include "../dist.h"
#include "../feed.h"
#include "../readback.h"
#include "check.h"

namespace {

std::mutex guard;
std::string happened;
bool finished = true;  // what was given to the streams

void note(const std::string &what) {
  std::lock_guard<std::mutex> lock(guard);
  happened += what + "\n";
}

constexpr c10::StreamId kCurrent = 3, kOwn = 7;
const at::Device kDevice(at::kCUDA, 1);

struct Gpus final : c10::impl::DeviceGuardImplInterface {
  at::DeviceType type() const override { return at::kCUDA; }
  at::Device exchangeDevice(at::Device d) const override {
    auto before = getDevice();
    setDevice(d);
    return before;
  }
  at::Device getDevice() const override { return {at::kCUDA, current}; }
  void setDevice(at::Device d) const override { current = d.index(); }
  void uncheckedSetDevice(at::Device d) const noexcept override { current = d.index(); }
  c10::Stream getStream(at::Device d) const override {
    return c10::Stream(c10::Stream::UNSAFE, d, stream);
  }
  c10::Stream getStreamFromGlobalPool(at::Device d, bool) const override {
    side_streams++;
    return c10::Stream(c10::Stream::UNSAFE, d, kOwn);
  }
  c10::Stream exchangeStream(c10::Stream s) const override {
    auto before = getStream(s.device());
    stream = s.id();
    return before;
  }
  void *getStreamNativeHandle(const c10::Stream s) const override {
    return reinterpret_cast<void *>(s.id());
  }
  void destroyEvent(void *e, const at::DeviceIndex) const noexcept override {
    delete static_cast<int *>(e);
  }
  void record(void **e, const c10::Stream &s, const at::DeviceIndex,
              const c10::EventFlag) const override {
    if (!*e) *e = new int(++events);
    note(c10::str("record ", *static_cast<int *>(*e), " on ", s.id()));
  }
  void block(void *e, const c10::Stream &s) const override {
    note(c10::str(s.id(), " waits for ", *static_cast<int *>(e)));
  }
  bool queryEvent(void *) const override {
    std::lock_guard<std::mutex> lock(guard);
    return finished;
  }
  void synchronizeEvent(void *e) const override {
    note(c10::str("the host waits for ", *static_cast<int *>(e)));
  }
  at::DeviceIndex deviceCount() const noexcept override { return 2; }

  static thread_local at::DeviceIndex current;
  static thread_local c10::StreamId stream;
  static int events, side_streams;
};

thread_local at::DeviceIndex Gpus::current = 0;
thread_local c10::StreamId Gpus::stream = kCurrent;
int Gpus::events = 0, Gpus::side_streams = 0;

int call(const char *what, void *stream) {
  note(c10::str(what, " on ", reinterpret_cast<int64_t>(stream), ", device ",
                static_cast<int>(Gpus::current)));
  return 0;
}

// NCCL of one rank that computes nothing.
dt::NcclApi api() {
  dt::NcclApi a{};
  a.comm_init_rank = [](dt::NcclApi::Comm **c, int, dt::NcclApi::Id, int) {
    static char comm;
    *c = reinterpret_cast<dt::NcclApi::Comm *>(&comm);
    return call("init", nullptr);
  };
  a.comm_destroy = [](dt::NcclApi::Comm *) { return call("destroy", nullptr); };
  a.comm_abort = [](dt::NcclApi::Comm *) { return call("abort", nullptr); };
  a.comm_get_async_error = [](dt::NcclApi::Comm *, int *e) { return *e = 0; };
  a.get_error_string = [](int) { return "an error"; };
  a.get_last_error = [](dt::NcclApi::Comm *) { return ""; };
  a.all_reduce = [](const void *, void *, size_t, int, int, dt::NcclApi::Comm *, void *stream) {
    return call("all-reduce", stream);
  };
  a.all_gather = [](const void *, void *, size_t, int, dt::NcclApi::Comm *, void *stream) {
    return call("all-gather", stream);
  };
  return a;
}

// A tensor that says it is on the GPU. Its memory is that of owner.
at::Tensor on_gpu(const at::Tensor &owner) {
  auto *data = owner.mutable_data_ptr();
  at::DataPtr p(
      data, new at::Tensor(owner),
      [](void *t) {
        note("freed");
        delete static_cast<at::Tensor *>(t);
      },
      kDevice);
  auto storage = c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), owner.nbytes(), std::move(p), nullptr, false);
  auto t = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(storage), c10::DispatchKeySet(c10::DispatchKey::CUDA), owner.dtype());
  t.unsafeGetTensorImpl()->set_sizes_contiguous(owner.sizes());
  return t;
}

void expect_at(int line, const std::string &want) {
  std::lock_guard<std::mutex> lock(guard);
  if (happened != want) {
    std::fprintf(stderr, "streams.cpp:%d: happened\n%swant\n%s", line, happened.c_str(),
                 want.c_str());
    std::exit(1);
  }
  happened.clear();
}
#define EXPECT(want) expect_at(__LINE__, want)

void set_finished(bool is) {
  std::lock_guard<std::mutex> lock(guard);
  finished = is;
}

template <class F>
void throws(const char *part, F f) {
  try {
    f();
  } catch (const c10::Error &e) {
    if (std::strstr(e.what(), part)) return;
    std::fprintf(stderr, "streams.cpp: %s, want %s\n", e.what(), part);
    std::exit(1);
  }
  std::fprintf(stderr, "streams.cpp: nothing thrown, want %s\n", part);
  std::exit(1);
}

void collectives() {
  const auto functions = api();
  const auto make = [&](int ms) {
    return c10::make_intrusive<dt::Nccl>(functions, dt::NcclApi::Id{}, 0, 1, kDevice,
                                         std::chrono::milliseconds(ms));
  };
  {
    auto g = make(60000);
    EXPECT("init on 0, device 1\n");
    std::vector<at::Tensor> first{on_gpu(at::ones({4}))}, second{on_gpu(at::ones({2}))};
    set_finished(false);
    auto a = g->allreduce(first, {}), b = g->_allgather_base(second[0], second[0], {});
    // Each comes after what its tensor was computed by, and the host waits for nothing.
    EXPECT(
        "record 1 on 3\n7 waits for 1\nall-reduce on 7, device 1\nrecord 2 on 7\n"
        "record 1 on 3\n7 waits for 1\nall-gather on 7, device 1\nrecord 3 on 7\n");
    second.clear();
    EXPECT("");  // the collective keeps its tensor
    b->wait();
    a->wait();
    EXPECT("3 waits for 3\nfreed\n3 waits for 2\n");
    set_finished(true);
    if (Gpus::current != 0) EXPECT("the device of the caller changed");
  }
  EXPECT("freed\ndestroy on 0, device 1\n");
  {
    auto g = make(300);
    EXPECT("init on 0, device 1\n");
    std::vector<at::Tensor> t{on_gpu(at::ones({4}))};
    set_finished(false);
    auto never = g->allreduce(t, {});
    never->wait();  // of the stream, which hangs
    while (!g->failed()) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    throws("NCCL: all-reduce not done within 0.3 s", [&] { g->check(); });
    throws("NCCL: all-reduce not done within 0.3 s", [&] { never->wait(); });
    throws("NCCL: all-reduce not done within 0.3 s", [&] { g->allreduce(t, {}); });
    throws("a tensor is on cpu", [&] {
      std::vector<at::Tensor> cpu{at::ones({4})};
      g->allreduce(cpu, {});
    });
  }
  EXPECT(
      "record 4 on 3\n7 waits for 4\nall-reduce on 7, device 1\nrecord 5 on 7\n3 waits for 5\n"
      "abort on 0, device 1\nfreed\n");
  set_finished(true);
}

// Tensors of feeds hold a digit that names them.
at::Tensor named(int64_t digit) { return at::full({4}, digit, at::kByte); }

void copy(const at::Tensor &to, const at::Tensor &from) {
  const auto name = [](const at::Tensor &t) {
    return static_cast<int>(*static_cast<const uint8_t *>(t.const_data_ptr()));
  };
  note(c10::str("copy ", name(from), " to ", name(to), " on ", Gpus::stream, ", device ",
                static_cast<int>(Gpus::current)));
}

void feeds() {
  Gpus::events = 0;
  set_finished(true);
  {
    dt::Feed f(on_gpu(named(1)), {named(2), named(3)}, {on_gpu(named(4)), on_gpu(named(5))}, copy);
    EXPECT("record 1 on 3\nrecord 2 on 3\n");
    const auto before = dt_counts();
    CHECK(*static_cast<uint8_t *>(f.bytes()) == 2);
    f.send();
    // The upload waits for the last step that took something from its landing place, not for the
    // step under way, which is what the current stream does.
    EXPECT(
        "7 waits for 1\ncopy 2 to 4 on 7, device 1\nrecord 3 on 7\n"
        "3 waits for 3\ncopy 4 to 1 on 3, device 1\nrecord 1 on 3\n");
    set_finished(false);
    CHECK(*static_cast<uint8_t *>(f.bytes()) == 3);
    f.send();
    EXPECT(
        "7 waits for 2\ncopy 3 to 5 on 7, device 1\nrecord 4 on 7\n"
        "3 waits for 4\ncopy 5 to 1 on 3, device 1\nrecord 2 on 3\n");
    CHECK(dt_counts().waits == before.waits);
    // Only now is the memory needed that the first copy reads.
    CHECK(*static_cast<uint8_t *>(f.bytes()) == 2);
    EXPECT("the host waits for 3\n");
    CHECK(dt_counts().waits == before.waits + 1 && dt_counts().uploads == before.uploads + 2);
    set_finished(true);
    CHECK(Gpus::current == 0 && Gpus::stream == kCurrent);
  }
  EXPECT("freed\nfreed\nfreed\n");
}

void readbacks() {
  Gpus::events = 0;
  set_finished(false);
  {
    dt::Readback r(kDevice, {named(1), named(2)}, copy);
    const auto before = dt_counts();
    r.start(on_gpu(named(3)));
    r.start(on_gpu(named(4)));
    // The current stream waits for nothing.
    EXPECT(
        "record 1 on 3\n7 waits for 1\ncopy 3 to 1 on 7, device 1\nrecord 2 on 7\n"
        "record 3 on 3\n7 waits for 3\ncopy 4 to 2 on 7, device 1\nrecord 4 on 7\n");
    CHECK(dt_counts().waits == before.waits && dt_counts().read_backs == before.read_backs + 2);
    CHECK(*static_cast<const uint8_t *>(r.wait().const_data_ptr()) == 1);
    EXPECT("the host waits for 2\nfreed\n");
    CHECK(dt_counts().waits == before.waits + 1);
    CHECK(Gpus::current == 0 && Gpus::stream == kCurrent);
  }
  EXPECT("the host waits for 4\nfreed\n");
  set_finished(true);
}

void paces() {
  Gpus::events = 0;
  set_finished(false);
  const auto before = dt_counts();
  dt::Pace p(kDevice, 2);
  p.step();
  p.step();
  EXPECT("record 1 on 3\nrecord 2 on 3\n");
  p.step();
  p.step();
  p.step();
  EXPECT(
      "the host waits for 1\nrecord 1 on 3\nthe host waits for 2\nrecord 2 on 3\n"
      "the host waits for 1\nrecord 1 on 3\n");
  CHECK(dt_counts().waits == before.waits);
  set_finished(true);
}

void asides() {
  Gpus::events = 0;
  {
    dt::Aside a(kDevice);
    CHECK(Gpus::stream == kOwn && Gpus::current == 0);
    EXPECT("record 1 on 3\n7 waits for 1\n");
    a.follow();
    EXPECT("record 2 on 3\n7 waits for 2\n");
  }
  CHECK(Gpus::stream == kCurrent);
  const int streams = Gpus::side_streams;
  { dt::Aside again(kDevice); }
  CHECK(Gpus::side_streams == streams);
  EXPECT("record 3 on 3\n7 waits for 3\n");
  dt::Aside on_cpu(at::kCPU);
  on_cpu.follow();
  EXPECT("");
}

}  // namespace

void streams() {
  c10::impl::DeviceGuardImplRegistrar gpus(at::kCUDA, new Gpus);
  collectives();
  feeds();
  paces();
  readbacks();
  asides();
}
