// uniform_ of libtorch by all threads: the same numbers, and the generator is left in the same
// state.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <mutex>

#include "core.h"

namespace dt {

namespace {

constexpr int kState = at::MERSENNE_STATE_N, kMiddle = at::MERSENNE_STATE_M;

inline uint32_t twist(uint32_t u, uint32_t v) {
  return (((u & at::UMASK) | (v & at::LMASK)) >> 1) ^ (-(v & 1) & at::MATRIX_A);
}

// The step of at::mt19937 from 624 numbers to the next.
DT_CLONES void next_state(uint32_t *p) {
  for (int j = 0; j < kState - kMiddle; j++) p[j] = p[j + kMiddle] ^ twist(p[j], p[j + 1]);
  for (int j = kState - kMiddle; j < kState - 1; j++)
    p[j] = p[j + kMiddle - kState] ^ twist(p[j], p[j + 1]);
  p[kState - 1] = p[kMiddle - 1] ^ twist(p[kState - 1], p[0]);
}

// draw takes the next n numbers of the generator whose state is e, as they are before tempering.
void draw(at::mt19937_data_pod &e, uint32_t *dst, int64_t n) {
  // left_ counts one more than the numbers that are left.
  while (n > 0) {
    if (e.left_ == 1) {
      next_state(e.state_.data());
      e.next_ = 0;
      e.left_ = kState + 1;
    }
    const int64_t k = std::min<int64_t>(n, e.left_ - 1);
    std::copy_n(e.state_.data() + e.next_, k, dst);
    e.next_ += k;
    e.left_ -= k;
    dst += k;
    n -= k;
  }
}

inline int32_t temper(uint32_t y) {
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680;
  y ^= (y << 15) & 0xefc60000;
  y ^= y >> 18;
  return static_cast<int32_t>(y & 0xffffff);  // what at::transformation::uniform_real takes of it
}

using Convert = void (*)(const uint32_t *words, int64_t n, float bound, float *dst);

// Each number is rounded once, as by a fused multiply-add: the sum of the double is exact.
DT_CLONES void fused(const uint32_t *words, int64_t n, float bound, float *dst) {
  const double step = 0x1p-23 * bound;
  for (int64_t i = 0; i < n; i++)
    dst[i] = static_cast<float>(static_cast<double>(temper(words[i])) * step - bound);
}

DT_CLONES void separate(const uint32_t *words, int64_t n, float bound, float *dst) {
  for (int64_t i = 0; i < n; i++)
    dst[i] = static_cast<float>(temper(words[i])) * 0x1p-24f * (bound + bound) - bound;
}

// The form that libtorch's kernel has, null for another than these. It depends on its compiler's
// options: those for AVX2 and later fuse.
Convert form() {
  static const Convert found = []() -> Convert {
    constexpr int64_t n = 1000;
    auto theirs = at::empty({n}, opts(at::kCPU, at::kFloat));
    theirs.uniform_(-0.1, 0.1, at::detail::createCPUGenerator(1));
    at::mt19937_data_pod state = at::mt19937(1).data();
    uint32_t words[n];
    draw(state, words, n);
    for (Convert f : {fused, separate}) {
      float ours[n];
      f(words, n, 0.1f, ours);
      if (std::memcmp(ours, theirs.const_data_ptr<float>(), sizeof ours) == 0) return f;
    }
    return nullptr;
  }();
  return found;
}

}  // namespace

void uniform_(const at::Tensor &dst, double lo, double hi, const at::Generator &gen) {
  constexpr int64_t kChunk = 16 * kState;
  const int64_t n = dst.numel();
  const bool eligible = n >= kChunk && lo == -hi && dst.is_cpu() && dst.is_contiguous() &&
                        dst.scalar_type() == at::kFloat && gen.device().is_cpu();
  const Convert convert = eligible ? form() : nullptr;
  if (!convert) {
    dst.uniform_(lo, hi, gen);
    return;
  }
  // libtorch draws the first number: it checks the bounds and counts the change.
  dst.view(-1).narrow(0, 0, 1).uniform_(lo, hi, gen);
  float *to = dst.mutable_data_ptr<float>();

  auto *g = at::check_generator<at::CPUGeneratorImpl>(gen);
  std::lock_guard<std::mutex> one_caller(g->mutex_);
  at::mt19937 engine = g->engine();
  at::mt19937_data_pod state = engine.data();
  std::mutex turn;
  int64_t drawn = 1;
  const int threads = at::get_num_threads();
  // The integers come in order, by whoever has time for a chunk; the rest, and most, of the work on
  // them is done beside one another.
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    uint32_t words[kChunk];
    for (;;) {
      int64_t begin = 0, k = 0;
      {
        std::lock_guard<std::mutex> mine(turn);
        begin = drawn;
        k = std::min(kChunk, n - drawn);
        if (k == 0) return;
        draw(state, words, k);
        drawn += k;
      }
      convert(words, k, static_cast<float>(hi), to + begin);
    }
  });
  engine.set_data(state);
  g->set_engine(engine);
}

}  // namespace dt
