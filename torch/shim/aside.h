// Work on a GPU beside that of other threads.
#pragma once

#include <c10/core/Stream.h>

#include <optional>

#include "core.h"

namespace dt {

// While an Aside exists, what its thread gives to a GPU goes to another stream, which it
// shares with other Asides on that GPU. On the CPU it does nothing.
class Aside {
 public:
  explicit Aside(at::Device device);
  ~Aside();
  Aside(const Aside &) = delete;

  // follow lets what comes next wait for all that the stream before has got so far.
  void follow();

 private:
  const at::Device device_;
  std::optional<c10::Stream> before_, own_;
};

}  // namespace dt
