#include "readback.h"

#include <c10/core/DeviceGuard.h>
#include <c10/core/StreamGuard.h>

namespace dt {

Readback::Readback(at::Device device, std::array<at::Tensor, 2> hosts, Copy copy) : copy_(copy) {
  c10::DeviceGuard here(device);
  if (!device.is_cpu()) side_ = side_stream(device);
  for (size_t i = 0; i < buffers_.size(); i++) {
    auto &b = buffers_[i];
    b.host = hosts[i];
    if (!side_) continue;
    b.made.emplace(device.type());
    b.there.emplace(device.type());
  }
}

// A tensor must not be freed while it is copied.
Readback::~Readback() {
  try {
    while (count_) wait();
  } catch (...) {  // the device has failed
  }
}

void Readback::start(const at::Tensor &t) {
  TORCH_CHECK(count_ < buffers_.size(), "two tensors are on their way: wait for one first");
  TORCH_CHECK(static_cast<int64_t>(t.nbytes()) <= bytes(), "a tensor of ", t.nbytes(),
              " bytes, want at most ", bytes());
  announce(Traffic::kReadBack);
  auto &b = buffers_[(first_ + count_) % buffers_.size()];
  b.from = t.detach().contiguous();
  const auto to =
      b.host.narrow(0, 0, static_cast<int64_t>(t.nbytes())).view(t.scalar_type()).view(t.sizes());
  count_++;
  if (!side_) return copy_(to, b.from);
  c10::DeviceGuard here(side_->device());
  b.made->record(current_stream(side_->device()));
  c10::StreamGuard there(*side_);
  b.made->block(*side_);
  copy_(to, b.from);
  b.there->record(*side_);
}

const at::Tensor &Readback::wait() {
  TORCH_CHECK(count_ > 0, "no tensor is on its way: start one first");
  auto &b = buffers_[first_];
  first_ = (first_ + 1) % buffers_.size();
  count_--;
  if (b.there && !b.there->query()) {
    announce(Traffic::kWait);
    b.there->synchronize();
  }
  result_ = b.host.narrow(0, 0, static_cast<int64_t>(b.from.nbytes()));
  b.from = at::Tensor();
  return result_;
}

}  // namespace dt

struct dt_readback_s {
  dt::Readback readback;
};

using dt::guard;

extern "C" {

dt_error *dt_readback_new(dt_device dev, int64_t nbytes, dt_readback *out) {
  return guard([&] {
    const auto device = dt::device(dev);
    *out = new dt_readback_s{dt::Readback(device, dt::host_pieces(nbytes, device), dt::copy_bytes)};
  });
}

void dt_readback_free(dt_readback r) { delete r; }

dt_error *dt_readback_start(dt_readback r, dt_tensor t) {
  return guard([&] { r->readback.start(t->t); });
}

dt_error *dt_readback_wait(dt_readback r, const void **out_p, int64_t *out_nbytes) {
  return guard([&] {
    const auto &t = r->readback.wait();
    *out_p = t.const_data_ptr();
    *out_nbytes = t.numel();
  });
}

}  // extern "C"
