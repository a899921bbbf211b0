// The switches of a mode hold for the operations of one call, forward and backward, and for nothing
// after it, also where the call fails and where another thread wants them otherwise. An observer
// reads libtorch's own settings at the beginning of every operation.
#include <ATen/record_function.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "../core.h"
#include "check.h"

namespace {

thread_local dt_mode expected = 0;
std::atomic<int> operations{0}, backwards{0}, wrong{0};

const dt_mode all_switches[] = {0, DT_MODE_TF32, DT_MODE_DETERMINISTIC, DT_MODE_SWITCHES};

// libtorch's own settings.
dt_mode switches() {
  const auto &context = at::globalContext();
  const bool tf32 = context.allowTF32CuBLAS(), deterministic = context.deterministicAlgorithms();
  if (context.allowTF32CuDNN() != tf32 || context.deterministicCuDNN() != deterministic) wrong++;
  return (tf32 ? DT_MODE_TF32 : 0) | (deterministic ? DT_MODE_DETERMINISTIC : 0);
}

std::unique_ptr<at::ObserverContext> observe(const at::RecordFunction &f) {
  operations++;
  if (f.scope() == at::RecordScope::BACKWARD_FUNCTION) backwards++;
  if (switches() != expected) wrong++;
  return nullptr;
}

void fails(dt_error *e) {
  CHECK(e);
  dt_error_free(e);
}

dt_out ones(std::vector<int64_t> dims) {
  dt_out out{};
  OK(dt_ones(0, -1, DT_FLOAT32, dims.data(), static_cast<int32_t>(dims.size()), &out));
  return out;
}

// One product and its gradient, each in a mode of its own, and calls that fail.
void train(dt_mode forward, dt_mode backward) {
  expected = 0;
  dt_out x = ones({2, 3}), w = ones({3, 4}), y{}, loss{}, none{};
  OK(dt_set_requires_grad(w.t, 1));
  expected = forward;
  OK(dt_matmul(forward | DT_MODE_GRAD, x.t, w.t, &y));
  fails(dt_matmul(forward | DT_MODE_GRAD, x.t, y.t, &none));
  OK(dt_sum(forward | DT_MODE_GRAD, y.t, &loss));
  expected = backward;
  OK(dt_backward(backward, loss.t));
  fails(dt_backward(backward, loss.t));
  expected = 0;
  dt_tensor all[] = {x.t, w.t, y.t, loss.t};
  dt_free_many(all, 4);
}

}  // namespace

void modes() {
  CHECK(switches() == 0);  // dt_init, for cuDNN begins with TF32
  const auto observer = at::addGlobalCallback(at::RecordFunctionCallback(observe).scopes(
      {at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION}));
  for (dt_mode forward : all_switches)
    for (dt_mode backward : all_switches) {
      operations = backwards = 0;
      train(forward, backward);
      CHECK(operations > 10 && backwards > 2);
      CHECK(wrong == 0);
      CHECK(switches() == 0);
    }
  std::vector<std::thread> threads;
  for (dt_mode m : all_switches)
    threads.emplace_back([m] {
      for (int i = 0; i < 200; i++) train(m, i % 2 ? m : 0);
    });
  for (auto &t : threads) t.join();
  CHECK(wrong == 0);
  CHECK(switches() == 0);
  at::removeCallback(observer);
  CHECK(dt_live_tensors() == 0);
}
