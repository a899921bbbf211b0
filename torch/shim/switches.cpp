// The switches of dt_mode that libtorch keeps for the whole process. Autograd runs the backward
// pass of a GPU in threads of its own, so they cannot be a thread's as grad mode is.
#include <ATen/Context.h>

#include <condition_variable>
#include <mutex>

#include "core.h"

namespace dt {

namespace {

std::mutex newcomers;  // held by a call that waits, so that those after it do not pass it
std::mutex mutex;      // of the two below
std::condition_variable idle;
int calls = 0;         // in progress, all in one mode
dt_mode switched = 0;  // that mode, 0 where there are none

}  // namespace

void set_switches(dt_mode m) {
  auto &context = at::globalContext();
  const bool tf32 = (m & DT_MODE_TF32) != 0, deterministic = (m & DT_MODE_DETERMINISTIC) != 0;
  context.setAllowTF32CuBLAS(tf32);
  context.setAllowTF32CuDNN(tf32);
  context.setDeterministicAlgorithms(deterministic, /*warn_only=*/false);
  context.setDeterministicCuDNN(deterministic);
}

Switches::Switches(dt_mode m) {
  const dt_mode want = m & DT_MODE_SWITCHES;
  std::lock_guard<std::mutex> first(newcomers);
  std::unique_lock<std::mutex> lock(mutex);
  if (switched != want) {
    idle.wait(lock, [] { return calls == 0; });
    if (want) set_switches(want);
    switched = want;
  }
  calls++;
}

Switches::~Switches() {
  std::lock_guard<std::mutex> lock(mutex);
  if (--calls > 0) return;
  if (switched) set_switches(0);
  switched = 0;
  idle.notify_one();
}

}  // namespace dt
