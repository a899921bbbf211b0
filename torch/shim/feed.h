// What brings a step its numbers, and keeps the host from running too far ahead of the device.
#pragma once

#include <c10/core/Event.h>

#include <vector>

#include "core.h"

namespace dt {

// A Feed carries bytes to the device, in one copy a step out of pinned memory. There are two
// buffers: while the host fills one, the other may still be on its way. On a GPU the copy runs
// beside the computation, on a stream of its own, to a landing place; from there the current stream
// copies it to where all steps find it. So nothing waits but, where the host is two steps ahead,
// the host.
class Feed {
 public:
  struct Buffer {
    at::Tensor host, landing;                  // landing on a GPU alone
    std::optional<c10::Event> arrived, taken;  // at the landing place, from there
  };

  Feed(at::Tensor to, std::array<at::Tensor, 2> hosts, std::array<at::Tensor, 2> landings,
       Copy copy);

  // The host memory for the next send, which holds anything.
  void *bytes();
  void send();
  const at::Tensor &to() const { return to_; }

 private:
  at::Tensor to_;
  std::array<Buffer, 2> buffers_;
  size_t next_ = 0;
  std::optional<c10::Stream> side_;  // on a GPU
  Copy copy_;
};

// A Pace makes the host wait, at the end of a step, for the step that ended so many steps before.
class Pace {
 public:
  Pace(at::Device device, size_t ahead) : device_(device), ahead_(ahead) {}
  void step();

 private:
  at::Device device_;
  size_t ahead_, next_ = 0;
  std::vector<c10::Event> ends_;  // of the last steps, in turn from next_ on
};

}  // namespace dt
