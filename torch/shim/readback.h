// What brings results of a step to the host while the device goes on.
#pragma once

#include <c10/core/Event.h>

#include "core.h"

namespace dt {

// A Readback copies tensors to pinned memory, of which it has two pieces: while the host works with
// one, the next tensor may be on its way to the other. On a GPU the copy runs on a stream of its
// own, behind what made the tensor and beside what comes next.
class Readback {
 public:
  struct Buffer {
    at::Tensor host, from;                  // from: on its way
    std::optional<c10::Event> made, there;  // on a GPU
  };

  Readback(at::Device device, std::array<at::Tensor, 2> hosts, Copy copy);
  ~Readback();

  // Begins to copy t, which has at most the bytes of a piece.
  void start(const at::Tensor &t);
  // Waits for the tensor that was started first of those not waited for. Its bytes stay until the
  // next start.
  const at::Tensor &wait();
  int64_t bytes() const { return buffers_[0].host.numel(); }

 private:
  std::array<Buffer, 2> buffers_;
  size_t first_ = 0, count_ = 0;  // of those on their way
  at::Tensor result_;
  std::optional<c10::Stream> side_;  // on a GPU
  Copy copy_;
};

}  // namespace dt
