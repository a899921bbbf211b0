#include "aside.h"

#include <c10/core/DeviceGuard.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <map>
#include <mutex>

namespace dt {

namespace {

c10::impl::VirtualGuardImpl streams(at::Device d) { return c10::impl::VirtualGuardImpl(d.type()); }

// The stream of all Asides on d: libtorch keeps the memory that it freed, and the workspaces of
// cuBLAS, for the stream they were used on.
c10::Stream stream_aside(at::Device d) {
  static std::mutex guard;
  static std::map<c10::DeviceIndex, c10::Stream> made;
  std::lock_guard<std::mutex> lock(guard);
  auto it = made.find(d.index());
  if (it == made.end()) it = made.emplace(d.index(), side_stream(d)).first;
  return it->second;
}

}  // namespace

Aside::Aside(at::Device device) : device_(device) {
  if (device.is_cpu()) return;
  c10::DeviceGuard here(device);
  before_ = current_stream(device);
  own_ = stream_aside(device);
  follow();
  streams(device).exchangeStream(*own_);
}

Aside::~Aside() {
  if (before_) streams(device_).exchangeStream(*before_);
}

void Aside::follow() {
  if (!before_) return;
  c10::DeviceGuard here(device_);
  c10::Event so_far(device_.type());
  so_far.record(*before_);
  so_far.block(*own_);
}

}  // namespace dt

struct dt_aside_s {
  dt::Aside aside;
};

extern "C" {

dt_error *dt_aside_begin(dt_device dev, dt_aside *out) {
  return dt::guard([&] { *out = new dt_aside_s{dt::Aside(dt::device(dev))}; });
}

dt_error *dt_aside_follow(dt_aside a) {
  return dt::guard([&] { a->aside.follow(); });
}

void dt_aside_end(dt_aside a) { delete a; }

}  // extern "C"
