#include "feed.h"

#include <c10/core/DeviceGuard.h>
#include <c10/core/StreamGuard.h>

namespace dt {

void copy_bytes(const at::Tensor &to, const at::Tensor &from) {
  to.copy_(from, /*non_blocking=*/true);
}

std::array<at::Tensor, 2> host_pieces(int64_t nbytes, const at::Device &d) {
  const auto pinned = opts(at::kCPU, at::kByte).pinned_memory(!d.is_cpu());
  return {at::empty({nbytes}, pinned), at::empty({nbytes}, pinned)};
}

Feed::Feed(at::Tensor to, std::array<at::Tensor, 2> hosts, std::array<at::Tensor, 2> landings,
           Copy copy)
    : to_(std::move(to)), copy_(copy) {
  const auto device = to_.device();
  c10::DeviceGuard here(device);
  if (!device.is_cpu()) side_ = side_stream(device);
  for (size_t i = 0; i < buffers_.size(); i++) {
    auto &b = buffers_[i];
    b.host = hosts[i];
    if (!side_) continue;
    b.landing = landings[i];
    b.arrived.emplace(device.type());
    b.taken.emplace(device.type());
    // The memory of the landing place may have been another tensor's, which the current stream
    // still works with.
    b.taken->record(current_stream(device));
  }
}

void *Feed::bytes() {
  auto &b = buffers_[next_];
  if (b.arrived && !b.arrived->query()) {
    announce(Traffic::kWait);
    b.arrived->synchronize();
  }
  return b.host.mutable_data_ptr();
}

void Feed::send() {
  bytes();
  announce(Traffic::kUpload);
  auto &b = buffers_[next_];
  next_ = (next_ + 1) % buffers_.size();
  if (!side_) return copy_(to_, b.host);
  const auto current = current_stream(to_.device());
  {
    c10::StreamGuard there(*side_);
    b.taken->block(*side_);
    copy_(b.landing, b.host);
    b.arrived->record(*side_);
  }
  c10::DeviceGuard here(to_.device());
  b.arrived->block(current);
  copy_(to_, b.landing);
  b.taken->record(current);
}

void Pace::step() {
  if (device_.is_cpu()) return;
  c10::DeviceGuard here(device_);
  if (ends_.size() < ahead_)
    ends_.emplace_back(device_.type());
  else
    ends_[next_].synchronize();
  ends_[next_].record(current_stream(device_));
  next_ = (next_ + 1) % ahead_;
}

}  // namespace dt

struct dt_feed_s {
  dt::Feed feed;
};
struct dt_pace_s {
  dt::Pace pace;
};

using dt::guard;

extern "C" {

dt_error *dt_feed_new(dt_device dev, int64_t nbytes, dt_feed *out) {
  return guard([&] {
    const auto device = dt::device(dev);
    const auto on_device = dt::opts(device, DT_UINT8);
    std::array<at::Tensor, 2> landings;
    if (!device.is_cpu())
      for (auto &landing : landings) landing = at::empty({nbytes}, on_device);
    *out = new dt_feed_s{dt::Feed(at::zeros({nbytes}, on_device), dt::host_pieces(nbytes, device),
                                  landings, dt::copy_bytes)};
  });
}

void dt_feed_free(dt_feed f) { delete f; }

dt_error *dt_feed_tensor(dt_feed f, int64_t offset, int32_t dtype, const int64_t *dims,
                         int32_t ndims, dt_out *out) {
  return guard([&] {
    at::IntArrayRef shape(dims, ndims);
    const auto type = dt::scalar_type(dtype);
    const auto size = c10::multiply_integers(shape) * static_cast<int64_t>(c10::elementSize(type));
    dt::put(out, f->feed.to().narrow(0, offset, size).view(type).view(shape));
  });
}

dt_error *dt_feed_bytes(dt_feed f, void **out_p) {
  return guard([&] { *out_p = f->feed.bytes(); });
}

dt_error *dt_feed_send(dt_feed f) {
  return guard([&] { f->feed.send(); });
}

dt_error *dt_pace_new(dt_device dev, int32_t ahead, dt_pace *out) {
  return guard([&] {
    TORCH_CHECK(ahead > 0, "the host may be ", ahead, " steps ahead, want at least 1");
    *out = new dt_pace_s{dt::Pace(dt::device(dev), static_cast<size_t>(ahead))};
  });
}

void dt_pace_free(dt_pace p) { delete p; }

dt_error *dt_pace_step(dt_pace p) {
  return guard([&] { p->pace.step(); });
}

}  // extern "C"
