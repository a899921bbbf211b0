#include "emulator.h"

#include <dlfcn.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {

namespace {

constexpr size_t kStack = 128 << 10;
constexpr unsigned kWarp = 32;

enum class At { kReady, kBarrier, kShuffle, kEnd };

// A stack below which lies a page that cannot be written.
class Stack {
 public:
  Stack() : guard_(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
    void *p = mmap(nullptr, guard_ + kStack, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(p, guard_, PROT_NONE)) throw std::bad_alloc();
    base_ = static_cast<char *>(p);
  }
  ~Stack() { munmap(base_, guard_ + kStack); }
  Stack(const Stack &) = delete;
  char *begin() const { return base_ + guard_; }

 private:
  size_t guard_;
  char *base_;
};

struct Fiber {
  Stack stack;
  ucontext_t context;
  void *fake_stack;  // AddressSanitizer's
  At at;
  uint64_t value;  // given to, or got from, a shuffle
  unsigned lane_mask;
};

std::mutex running;  // held by run: of all that follows there is one
uint64_t order_number = 0;
std::vector<std::unique_ptr<Fiber>> fibers;  // kept, as their stacks are
Fiber *current;
ucontext_t scheduler;
const std::function<void()> *body;
struct Free {
  void operator()(void *p) const { free(p); }
};
std::map<const void *, std::unique_ptr<void, Free>> shared_memory;

// AddressSanitizer's swapcontext warns that it does not know the stacks. It is told of them here,
// and the C library's own is called.
int swap(ucontext_t *from, ucontext_t *to) {
#ifdef __SANITIZE_ADDRESS__
  static const auto real = reinterpret_cast<int (*)(ucontext_t *, const ucontext_t *)>(
      dlsym(dlopen("libc.so.6", RTLD_LAZY), "swapcontext"));
  return real(from, to);
#else
  return swapcontext(from, to);
#endif
}

#ifdef __SANITIZE_ADDRESS__
const void *scheduler_stack;
size_t scheduler_size;
#endif

// Back to the scheduler. A fiber that has ended does not return from it.
void leave(At at) {
  current->at = at;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(at == At::kEnd ? nullptr : &current->fake_stack, scheduler_stack,
                                 scheduler_size);
#endif
  swap(&current->context, &scheduler);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(current->fake_stack, &scheduler_stack, &scheduler_size);
#endif
}

void enter() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_size);
#endif
  (*body)();
  leave(At::kEnd);
}

void resume(Fiber *f, unsigned thread) {
  current = f;
  threadIdx =
      dim3(thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / blockDim.x / blockDim.y);
#ifdef __SANITIZE_ADDRESS__
  void *fake;
  __sanitizer_start_switch_fiber(&fake, f->stack.begin(), kStack);
#endif
  swap(&scheduler, &f->context);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

void start(Fiber *f) {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(f->stack.begin(), kStack);  // what the last kernel left
#endif
  f->at = At::kReady;
  getcontext(&f->context);
  f->context.uc_stack.ss_sp = f->stack.begin();
  f->context.uc_stack.ss_size = kStack;
  f->context.uc_link = nullptr;
  makecontext(&f->context, enter, 0);
}

// Gives the values of a shuffle to a warp whose threads all wait for them.
bool shuffle_warp(unsigned warp, unsigned threads) {
  if (warp * kWarp + kWarp > threads) return false;
  const auto first = fibers.begin() + warp * kWarp;
  if (!std::all_of(first, first + kWarp, [](auto &f) { return f->at == At::kShuffle; }))
    return false;
  uint64_t given[kWarp];
  for (unsigned i = 0; i < kWarp; i++) given[i] = first[i]->value;
  for (unsigned i = 0; i < kWarp; i++) {
    first[i]->value = given[(i ^ first[i]->lane_mask) % kWarp];
    first[i]->at = At::kReady;
  }
  return true;
}

// Each warp in its turn comes as far as it can without the others.
void run_block(const std::vector<unsigned> &turns) {
  const auto threads = static_cast<unsigned>(turns.size());
  std::vector<std::vector<unsigned>> by_warp((threads + kWarp - 1) / kWarp);
  std::vector<unsigned> warps;
  for (unsigned i : turns) {
    auto &warp = by_warp[i / kWarp];
    if (warp.empty()) warps.push_back(i / kWarp);
    warp.push_back(i);
    start(fibers[i].get());
  }
  for (;;) {
    for (unsigned warp : warps) {
      do {
        for (unsigned i : by_warp[warp])
          if (fibers[i]->at == At::kReady) resume(fibers[i].get(), i);
      } while (shuffle_warp(warp, threads));
    }
    unsigned waiting = 0, ended = 0;
    for (unsigned i = 0; i < threads; i++) {
      waiting += fibers[i]->at == At::kBarrier;
      ended += fibers[i]->at == At::kEnd;
    }
    if (ended == threads) return;
    if (waiting < threads)
      throw std::logic_error("of " + std::to_string(threads) + " threads " +
                             std::to_string(waiting) + " wait at a barrier, " +
                             std::to_string(threads - waiting - ended) + " at a shuffle, and " +
                             std::to_string(ended) + " have ended");
    for (unsigned i = 0; i < threads; i++) fibers[i]->at = At::kReady;
  }
}

std::vector<unsigned> turns_of(unsigned n, uint64_t number) {
  std::vector<unsigned> turns(n);
  std::iota(turns.begin(), turns.end(), 0u);
  if (number) std::shuffle(turns.begin(), turns.end(), std::mt19937_64(number));
  return turns;
}

}  // namespace

void order(uint64_t number) { order_number = number; }

void run(dim3 grid, dim3 block, const std::function<void()> &kernel) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads < 1 || threads > 1024 || block.z > 64 || grid.x < 1 || grid.x > INT32_MAX ||
      grid.y < 1 || grid.y > UINT16_MAX || grid.z < 1 || grid.z > UINT16_MAX)
    throw std::logic_error("no GPU takes this number of blocks or threads");
  std::lock_guard<std::mutex> lock(running);
  while (fibers.size() < threads) fibers.push_back(std::make_unique<Fiber>());
  gridDim = grid;
  blockDim = block;
  body = &kernel;
  const auto turns = turns_of(static_cast<unsigned>(threads), order_number);
  for (unsigned i : turns_of(grid.x * grid.y * grid.z, order_number)) {
    blockIdx = dim3(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y);
    shared_memory.clear();
    run_block(turns);
  }
}

void barrier() { leave(At::kBarrier); }

uint64_t shuffle_xor(uint64_t value, unsigned lane_mask) {
  current->value = value;
  current->lane_mask = lane_mask;
  leave(At::kShuffle);
  return current->value;
}

void *shared_bytes(const void *name, size_t size) {
  auto &memory = shared_memory[name];
  if (!memory) {
    void *p;
    if (posix_memalign(&p, 64, size)) throw std::bad_alloc();  // as vectors need it
    memory.reset(p);
    memset(p, 0xff, size);
  }
  return memory.get();
}

}  // namespace emulator
