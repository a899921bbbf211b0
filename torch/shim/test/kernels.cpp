// The CUDA kernels, against libtorch and against philox.h. g++ compiles this file with the emulator
// into shim_asan_test, nvcc with CUDA into a program for a machine with a GPU.
#include "kernels/group_norm.cuh"
#include "kernels/random.cuh"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "device.h"

namespace {

void draws() {
  const uint64_t seed = 0x0123456789abcdef;
  const std::vector<int64_t> indices = {0, 17, int64_t{1} << 40, 5, 17};
  Memory<int64_t> device(indices);
  const auto n = static_cast<int64_t>(indices.size());
  for (uint32_t step : {0u, 3u, dt::kPhiloxMaxStep}) {
    // The bits above those that a step has must not get into the tag.
    Memory<int64_t> at(std::vector<int64_t>{step | int64_t{5} << 24});
    for (int64_t row : {1, 4, 7, 1026}) {
      auto got = in_orders([&] {
        Memory<float> out(static_cast<size_t>(n * row));
        CHECK(
            !dt::draw_normals(out.get(), n, row, seed, dt::kStepNoise, at.get(), device.get(), {}));
        return out.read();
      });
      std::vector<float> want(static_cast<size_t>(row));
      for (size_t i = 0; i < indices.size(); i++) {
        dt::philox_normals(want.data(), want.size(), seed, dt::kStepNoise, step,
                           static_cast<uint64_t>(indices[i]));
        for (size_t j = 0; j < want.size(); j++)
          if (!(std::fabs(got[i * want.size() + j] - want[j]) <= 1e-6))
            fail_at(__FILE__, __LINE__,
                    "normal " + std::to_string(j) + " of draw " + std::to_string(i));
      }
    }
    std::vector<int64_t> many(1000);
    for (size_t i = 0; i < many.size(); i++) many[i] = static_cast<int64_t>(i * i);
    Memory<int64_t> all(many);
    const auto uniforms = in_orders([&] {
      Memory<double> out(many.size());
      CHECK(!dt::draw_uniforms(out.get(), 1000, seed, dt::kTimestep, at.get(), all.get(), {}));
      return out.read();
    });
    for (size_t i = 0; i < many.size(); i++)
      CHECK(uniforms[i] ==
            dt::philox_uniform(seed, dt::kTimestep, step, static_cast<uint64_t>(many[i])));
  }

  CHECK(!dt::draw_normals(nullptr, 0, 4, 0, 0, nullptr, nullptr, {}));
  CHECK(!dt::draw_normals(nullptr, 4, 0, 0, 0, nullptr, nullptr, {}));
  CHECK(!dt::draw_uniforms(nullptr, 0, 0, 0, nullptr, nullptr, {}));
}

struct Case {
  int64_t n, h, w;
  int channels, groups;
  float mean = 0.5f;  // of x, whose deviation is about 1
};

constexpr float kEps = 1e-6f;

std::string describe(const Case &c) {
  return std::to_string(c.n) + "x" + std::to_string(c.h) + "x" + std::to_string(c.w) + "x" +
         std::to_string(c.channels) + ", " + std::to_string(c.groups) + " groups";
}

// What libtorch makes of group_norm and silu in float64, and of the gradients, from dy, that of the
// result. All but those of the weights are [N, H, W, C].
struct Composition {
  std::vector<double> y, dx, dweight, dbias;
};

Composition composition(const Case &c, bool silu, const std::vector<float> &x,
                        const std::vector<float> &weight, const std::vector<float> &bias,
                        const std::vector<float> &dy) {
  const int64_t pixels = c.h * c.w, channels = c.channels;
  std::vector<double> planes(x.size());
  const auto each = [&](auto f) {
    for (int64_t n = 0; n < c.n; n++)
      for (int64_t p = 0; p < pixels; p++)
        for (int64_t k = 0; k < channels; k++)
          f(static_cast<size_t>((n * channels + k) * pixels + p),
            static_cast<size_t>((n * pixels + p) * channels + k));
  };
  const auto tensor = [](const std::vector<double> &v, std::vector<int64_t> dims) {
    dt_out o{};
    OK(dt_from_host(v.data(), static_cast<int64_t>(v.size() * sizeof(double)), DT_FLOAT64, -1,
                    dims.data(), static_cast<int32_t>(dims.size()), &o));
    return o.t;
  };
  const auto image = [&](const std::vector<float> &v) {
    each([&](size_t plane, size_t image) { planes[plane] = v[image]; });
    return tensor(planes, {c.n, channels, c.h, c.w});
  };
  const auto read = [](dt_tensor t, size_t n) {
    std::vector<double> v(n);
    OK(dt_to_host(t, v.data(), static_cast<int64_t>(n * sizeof(double))));
    return v;
  };
  const auto read_image = [&](dt_tensor t) {
    planes = read(t, x.size());
    std::vector<double> v(x.size());
    each([&](size_t plane, size_t image) { v[image] = planes[plane]; });
    return v;
  };
  const dt_tensor in = image(x), grad = image(dy),
                  w = tensor({weight.begin(), weight.end()}, {channels}),
                  b = tensor({bias.begin(), bias.end()}, {channels});
  for (dt_tensor t : {in, w, b}) OK(dt_set_requires_grad(t, 1));
  dt_out norm{}, out{}, product{}, sum{}, dx{}, dw{}, db{};
  OK(dt_group_norm(DT_MODE_GRAD, in, c.groups, w, b, kEps, &norm));
  if (silu)
    OK(dt_silu(DT_MODE_GRAD, norm.t, &out));
  else
    OK(dt_clone(DT_MODE_GRAD, norm.t, &out));
  OK(dt_mul(DT_MODE_GRAD, out.t, grad, &product));
  OK(dt_sum(DT_MODE_GRAD, product.t, &sum));
  OK(dt_backward(0, sum.t));
  OK(dt_grad(in, &dx));
  OK(dt_grad(w, &dw));
  OK(dt_grad(b, &db));
  Composition result{read_image(out.t), read_image(dx.t), read(dw.t, weight.size()),
                     read(db.t, bias.size())};
  dt_tensor ts[] = {in, grad, w, b, norm.t, out.t, product.t, sum.t, dx.t, dw.t, db.t};
  dt_free_many(ts, 11);
  return result;
}

// What the kernels make of the same.
template <class T>
struct Kernels {
  std::vector<T> y, dx;
  std::vector<float> dweight, dbias;
};

using ::same;

// same for whatever of a kernel's results is compared bit for bit.
template <class T>
bool same(const Kernels<T> &a, const Kernels<T> &b) {
  return same(a.y, b.y) && same(a.dx, b.dx) && same(a.dweight, b.dweight) && same(a.dbias, b.dbias);
}

template <class T>
Kernels<T> norm(const Case &c, bool silu, const std::vector<T> &x, const std::vector<float> &weight,
                const std::vector<float> &bias, const std::vector<T> &dy, bool in_place = false) {
  const dt_norm_shape shape{c.n, c.h * c.w, c.channels, c.groups, kEps, silu};
  Memory<T> in(x), in_again(x), grads(dy), out(x.size()), dx(x.size());
  Memory<float> w(weight), b(bias), dw(weight.size()), db(bias.size());
  Memory<dt::Normaliser> normalisers(static_cast<size_t>(c.n * c.groups));
  Memory<char> workspace(static_cast<size_t>(dt::group_norm_workspace(shape, false))),
      more(static_cast<size_t>(dt::group_norm_workspace(shape, true)));
  Memory<T> &to = in_place ? in : out, &back = in_place ? grads : dx;
  CHECK(!dt::group_norm(shape, in.get(), w.get(), b.get(), workspace.get(), normalisers.get(),
                        to.get(), {}));
  CHECK(!dt::group_norm_backward(shape, in_again.get(), grads.get(), w.get(), b.get(),
                                 normalisers.get(), more.get(), back.get(), dw.get(), db.get(),
                                 {}));
  return {to.read(), back.read(), dw.read(), db.read()};
}

// Fails where a result is further off than limit, relative to the larger of scale and the value.
void close(const Case &c, const char *what, const std::vector<float> &got,
           const std::vector<double> &want, double limit, double scale = 1) {
  for (size_t i = 0; i < want.size(); i++)
    if (!(std::fabs(got[i] - want[i]) <= limit * std::fmax(scale, std::fabs(want[i]))))
      fail_at(__FILE__, __LINE__,
              describe(c) + ": element " + std::to_string(i) + " of " + what + " is " +
                  std::to_string(got[i]) + ", want " + std::to_string(want[i]));
}

void group_norm() {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  const auto numbers = [&](int64_t n, float mean, float deviation) {
    std::vector<float> v(static_cast<size_t>(n));
    for (float &x : v) x = mean + deviation * normal(generator);
    return v;
  };
  const auto rounded = [](const std::vector<float> &v) {
    std::vector<dt::bfloat16> r;
    for (float x : v) r.emplace_back(x);
    return r;
  };
  const auto widened = [](const std::vector<dt::bfloat16> &v) {
    std::vector<float> r;
    for (auto x : v) r.push_back(static_cast<float>(x));
    return r;
  };
  for (const Case &c : {
           Case{2, 8, 8, 128, 32}, Case{1, 7, 5, 256, 32}, Case{2, 3, 3, 512, 32},
           Case{1, 1, 1, 128, 32},          // one pixel
           Case{3, 9, 11, 96, 32},          // groups of three channels
           Case{1, 13, 1, 32, 32},          // of one
           Case{2, 5, 7, 40, 8},            // of five
           Case{1, 3, 2, 256, 1},           // all in one
           Case{1, 2, 2, 255, 1},           // the same, one by one
           Case{1, 2, 3, 2048, 32},         // groups in two slabs
           Case{1, 4, 5, 875, 7},           // the last slab is not full
           Case{2, 39, 41, 128, 32},        // several chunks, the last not full
           Case{1, 65, 67, 96, 32},         // more chunks than a warp has threads
           Case{2, 16, 16, 128, 32, 1000},  // a large mean
       })
    for (bool silu : {true, false}) {
      // bfloat16 must be what x and dy can be: then both types get the same numbers.
      const auto half = [&] {
        auto v = rounded(numbers(c.n * c.h * c.w * c.channels, c.mean, 1));
        if (c.mean == 1000)  // where bfloat16 has steps of 4
          for (size_t i = 0; i < v.size(); i++) v[i] = dt::bfloat16(1000.f + 4.f * (i % 3));
        return v;
      }();
      const auto half_grads = rounded(numbers(static_cast<int64_t>(half.size()), 0, 1));
      const auto x = widened(half), dy = widened(half_grads);
      const auto weight = numbers(c.channels, 1, 0.3f), bias = numbers(c.channels, 0, 0.5f);

      const auto want = composition(c, silu, x, weight, bias, dy);
      const auto got = in_orders([&] { return norm(c, silu, x, weight, bias, dy); });
      // Rounding the mean alone moves a result by that part of it, in deviations.
      const double unit = c.mean == 1000 ? 1000 * 0x1p-24 : 0, limit = 1e-6 + 2 * unit;
      close(c, "y", got.y, want.y, limit);
      // Gradients are multiplied by 1 / deviation. What is rounded when as many terms are summed
      // adds up like the steps of a walk.
      const double terms = std::sqrt(static_cast<double>(c.n * c.h * c.w));
      close(c, "dx", got.dx, want.dx, limit);
      close(c, "dweight", got.dweight, want.dweight, limit, terms);
      close(c, "dbias", got.dbias, want.dbias, limit, terms);

      const auto got_half =
          in_orders([&] { return norm(c, silu, half, weight, bias, half_grads); });
      if (!same(got_half,
                {rounded(got.y), rounded(got.dx), std::vector<float>(got.dweight), got.dbias}))
        fail_at(__FILE__, __LINE__, describe(c) + ": bfloat16 is not the float32 result, rounded");

      if (!same(norm(c, silu, x, weight, bias, dy, true), got))
        fail_at(__FILE__, __LINE__, describe(c) + ": in place");
      const auto sample = static_cast<std::ptrdiff_t>(x.size()) / c.n;
      Case alone = c;
      alone.n = 1;
      const auto last = [&](const std::vector<float> &v) {
        return std::vector<float>(v.end() - sample, v.end());
      };
      const auto got_last = norm(alone, silu, last(x), weight, bias, last(dy));
      if (!same(got_last.y, last(got.y)) || !same(got_last.dx, last(got.dx)))
        fail_at(__FILE__, __LINE__, describe(c) + ": the last sample alone differs");
    }

  Memory<float> some(64);
  const auto run = [&](int64_t n, int64_t pixels, int channels, int groups, float *x) {
    const dt_norm_shape shape{n, pixels, channels, groups, kEps, true};
    const int forward = dt::group_norm(shape, x, nullptr, nullptr, nullptr, nullptr, x, {});
    CHECK(forward == dt::group_norm_backward(shape, x, x, nullptr, nullptr, nullptr, nullptr, x,
                                             nullptr, nullptr, {}));
    CHECK((dt::group_norm_workspace(shape, false) < 0) == (forward && x == some.get()));
    return forward;
  };
  const int refused = dt::kInvalidValue;
  CHECK(run(1, 4, 33, 32, some.get()) == refused);
  CHECK(run(1, 4, 16, 32, some.get()) == refused);
  CHECK(run(1, 4, 32, 0, some.get()) == refused);
  CHECK(run(65536, 4, 128, 32, some.get()) == refused);
  CHECK(run(1, 4, 257, 1, some.get()) == refused);
  CHECK(run(1, 4, 1028, 1, some.get()) == refused);
  CHECK(run(1, 4, 128, 32, some.get() + 1) == refused);
  CHECK(run(0, 4, 32, 32, nullptr) == 0 && run(4, 0, 32, 32, nullptr) == 0);
}

#ifndef __CUDACC__

// reverse writes in[255 - i] to out[i] through shared memory.
void reverse(const float *in, float *out, bool wait) {
  DT_SHARED(all, float[256]);
  all[threadIdx.x] = in[threadIdx.x];
  if (wait) __syncthreads();
  out[threadIdx.x] = all[255 - threadIdx.x];
}

// twice writes sums of warps to out [2], with one barrier each and the same shared memory or, in
// turns, another.
void twice(float *out, bool turns) {
  DT_SHARED(all, float[2][8]);
  for (int i = 0; i < 2; i++) {
    auto &sums = all[turns ? i : 0];
    const float sum = dt::warp_sum(i ? 1.f : 2.f);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();
    float total = 0;
    for (float s : sums) total += s;
    if (threadIdx.x == 255) out[i] = total;
  }
}

void sum_warps(const float *in, float *out) { out[threadIdx.x] = dt::warp_sum(in[threadIdx.x]); }

void recurse(volatile char *above) {
  volatile char here[1024];
  here[0] = *above;
  if (here[0] != 1) recurse(here);
}

// dies runs f in a process of its own and says whether that ends by a signal or an error.
template <class F>
bool dies(F f) {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    if (!std::freopen("/dev/null", "w", stderr)) _exit(0);
    signal(SIGSEGV, SIG_DFL);
    f();
    _exit(0);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  return status != 0;
}

template <class F>
bool throws(F f) {
  try {
    emulator::run(dim3(1), dim3(64), f);
  } catch (const std::logic_error &) {
    return true;
  }
  return false;
}

// What the emulator promises: a kernel that is wrong does not pass.
void emulation() {
  std::vector<float> in(256), sums(256, NAN);
  for (size_t i = 0; i < in.size(); i++) in[i] = static_cast<float>(i);
  int raced = 0;  // a warp that ran ahead wrote where another had not read
  for (uint64_t order : {0, 1, 2}) {
    emulator::order(order);
    std::vector<float> right(256, NAN), wrong(256, NAN);
    dt::launch(reverse, dim3(1), dim3(256), nullptr, in.data(), right.data(), true);
    dt::launch(reverse, dim3(1), dim3(256), nullptr, in.data(), wrong.data(), false);
    int differ = 0, nan = 0;
    for (size_t i = 0; i < in.size(); i++) {
      CHECK(right[i] == in[255 - i]);
      differ += wrong[i] != right[i];
      nan += std::isnan(wrong[i]);
    }
    CHECK(differ > 64 && nan == differ);  // shared memory held nothing
    float sums_right[2], sums_wrong[2];
    dt::launch(twice, dim3(1), dim3(256), nullptr, sums_right, true);
    dt::launch(twice, dim3(1), dim3(256), nullptr, sums_wrong, false);
    CHECK(sums_right[0] == 512 && sums_right[1] == 256);
    raced += sums_wrong[0] != 512 || sums_wrong[1] != 256;
    dt::launch(sum_warps, dim3(1), dim3(256), nullptr, in.data(), sums.data());
    for (size_t i = 0; i < in.size(); i++)
      CHECK(sums[i] == 32 * static_cast<float>(i / 32 * 32) + 31 * 16);
  }
  CHECK(raced > 0);
  emulator::order(0);

  CHECK(throws([] {
    if (threadIdx.x) __syncthreads();
  }));
  CHECK(throws([] {
    if (threadIdx.x < 40) __shfl_xor_sync(0xffffffffu, 1, 1);
  }));
  CHECK(throws([] {
    if (threadIdx.x < 32)
      __syncthreads();
    else
      __shfl_xor_sync(0xffffffffu, 1, 1), __shfl_xor_sync(0xffffffffu, 1, 1);
  }));
  bool refused = false;
  try {
    emulator::run(dim3(1, 1, 65536), dim3(32), [] {});
  } catch (const std::logic_error &) {
    refused = true;
  }
  CHECK(refused);
  CHECK(!dies([] { emulator::run(dim3(1), dim3(32), [] {}); }));
  CHECK(dies([] {
    emulator::run(dim3(1), dim3(32), [] {
      DT_SHARED(four, float[4]);
      volatile unsigned behind = 4;
      four[behind] = 1;
    });
  }));
  CHECK(dies([] {
    emulator::run(dim3(1), dim3(2), [] {
      volatile char top = 0;
      recurse(&top);
    });
  }));

  // bfloat16 rounds as libtorch does.
  std::vector<float> values = {0, -0.f, 1, INFINITY, -INFINITY, NAN, 3.4028235e38f, 1e-40f};
  for (uint32_t low : {0x7fffu, 0x8000u, 0x8001u, 0xffffu})
    for (uint32_t high : {0x3f80u, 0x3f81u, 0xc000u, 0x7f7fu, 0x0001u}) {
      const uint32_t bits = high << 16 | low;
      float f;
      std::memcpy(&f, &bits, sizeof f);
      values.push_back(f);
    }
  const auto n = static_cast<int64_t>(values.size());
  dt_out wide{}, narrow{}, back{};
  OK(dt_from_host(values.data(), n * 4, DT_FLOAT32, -1, &n, 1, &wide));
  OK(dt_to(0, wide.t, DT_BFLOAT16, &narrow));
  OK(dt_to(0, narrow.t, DT_FLOAT32, &back));
  std::vector<float> want(values.size());
  OK(dt_to_host(back.t, want.data(), n * 4));
  for (size_t i = 0; i < values.size(); i++) {
    const float got = static_cast<float>(dt::bfloat16(values[i]));
    CHECK(std::isnan(want[i]) ? std::isnan(got) : !std::memcmp(&got, &want[i], sizeof got));
  }
  dt_tensor ts[] = {wide.t, narrow.t, back.t};
  dt_free_many(ts, 3);
}

#endif

}  // namespace

void block();  // in block.cpp

#ifdef __CUDACC__
int main() {  // prints as the test binaries of Go do
  CHECK(dt_abi_version() == DT_ABI && dt_init());
  draws();
  std::puts("--- PASS: draws");
  group_norm();
  std::puts("--- PASS: group_norm");
  block();
  std::puts("--- PASS: block");
}
#else
void kernels() {
  emulation();
  draws();
  group_norm();
  block();
}
#endif
