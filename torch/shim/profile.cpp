// Times by kernel, or by operation, as libtorch's own profiler takes them.
#if __has_include(<kineto/libkineto.h>)  // libtorch may be built without
#include <kineto/libkineto.h>
#define DT_KINETO
#endif
#include <torch/csrc/autograd/profiler_kineto.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "core.h"

namespace {

namespace profiler = torch::autograd::profiler;

struct Total {
  int64_t calls = 0, ns = 0;
};

using Totals = std::map<std::string, Total>;

std::set<profiler::ActivityType> activities(dt_device dev) {
  return {dev < 0 ? profiler::ActivityType::CPU : profiler::ActivityType::CUDA};
}

profiler::ProfilerConfig config() {
  return profiler::ProfilerConfig(profiler::ProfilerState::KINETO);
}

// Operations call others: each gets the time that is its own.
Totals own_times(std::vector<const profiler::KinetoEvent *> events) {
  std::sort(events.begin(), events.end(), [](auto *a, auto *b) {
    return std::make_tuple(a->startThreadId(), a->startNs(), b->endNs()) <
           std::make_tuple(b->startThreadId(), b->startNs(), a->endNs());
  });
  Totals totals;
  std::vector<std::pair<const profiler::KinetoEvent *, Total *>> open;
  for (auto *e : events) {
    while (!open.empty() && (open.back().first->startThreadId() != e->startThreadId() ||
                             open.back().first->endNs() < e->endNs()))
      open.pop_back();
    const auto ns = static_cast<int64_t>(e->durationNs());
    if (!open.empty()) open.back().second->ns -= ns;
    Total &t = totals[e->name()];
    t.calls++;
    t.ns += ns;
    open.emplace_back(e, &t);
  }
  return totals;
}

}  // namespace

extern "C" {

dt_error *dt_profile_start(dt_device dev) {
  return dt::guard([&] {
    // Kineto would write to the terminal: below its level 5 that it found no GPU, for example, and
    // with a client, which it needs for a daemon alone, that another thread opened libtorch.
    ::setenv("KINETO_LOG_LEVEL", "5", 0);
#ifdef DT_KINETO
    libkineto::api().registerClient(nullptr);
#endif
    profiler::prepareProfiler(config(), activities(dev));
    profiler::enableProfiler(config(), activities(dev));
  });
}

dt_error *dt_profile_stop(dt_device dev, char **out_text) {
  return dt::guard([&] {
    const auto result = profiler::disableProfiler();
    std::vector<const profiler::KinetoEvent *> events;
    Totals totals;
    for (const auto &e : result->events()) {
      if (e.deviceType() == (dev < 0 ? at::kCPU : at::kCUDA)) events.push_back(&e);
    }
    if (dev < 0) {
      totals = own_times(std::move(events));
    } else {
      for (auto *e : events) {
        Total &t = totals[e->name()];
        t.calls++;
        t.ns += static_cast<int64_t>(e->durationNs());
      }
    }
    std::string text;
    for (const auto &[name, t] : totals) text += c10::str(t.calls, ' ', t.ns, ' ', name, '\n');
    char *copy = ::strdup(text.c_str());
    TORCH_CHECK(copy, "out of memory");
    *out_text = copy;
  });
}
}
