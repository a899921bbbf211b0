// What the tests of kernels share. g++ compiles them with the emulator, nvcc with CUDA.
#pragma once

#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "check.h"
#include "kernels/device.cuh"

// Memory of the device. For the emulator that is an allocation of its own, whose ends
// AddressSanitizer sees. What is not given is NaN, or negative.
template <class T>
class Memory {
 public:
  explicit Memory(const std::vector<T> &v) : Memory(v.size()) {
    copy(p_, v.data(), v.size() * sizeof(T));
  }
  explicit Memory(size_t n) : n_(n) {
#ifdef __CUDACC__
    if (cudaMalloc(&p_, n * sizeof(T)) || cudaMemset(p_, 0xff, n * sizeof(T)))
      fail_at(__FILE__, __LINE__, cudaGetErrorString(cudaGetLastError()));
#else
    p_ = static_cast<T *>(std::malloc(n * sizeof(T)));
    std::memset(p_, 0xff, n * sizeof(T));
#endif
  }
  ~Memory() {
#ifdef __CUDACC__
    cudaFree(p_);
#else
    std::free(p_);
#endif
  }
  Memory(const Memory &) = delete;

  T *get() { return p_; }
  std::vector<T> read() const {
    std::vector<T> v(n_);
    copy(v.data(), p_, n_ * sizeof(T));
    return v;
  }

 private:
  static void copy(void *to, const void *from, size_t bytes) {
#ifdef __CUDACC__
    if (cudaMemcpy(to, from, bytes, cudaMemcpyDefault))
      fail_at(__FILE__, __LINE__, cudaGetErrorString(cudaGetLastError()));
#else
    std::memcpy(to, from, bytes);
#endif
  }

  T *p_ = nullptr;
  size_t n_;
};

// The same bits.
template <class T>
bool same(const std::vector<T> &a, const std::vector<T> &b) {
  return a.size() == b.size() && !std::memcmp(a.data(), b.data(), a.size() * sizeof(T));
}

// What a kernel wrote, array after array.
using Values = std::vector<float>;
using Results = std::vector<Values>;

inline bool same(const Results &a, const Results &b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); i++)
    if (!same(a[i], b[i])) return false;
  return true;
}

// in_orders calls run, which returns what a kernel wrote, with threads and blocks in several
// orders. All must give the same bits.
template <class F>
auto in_orders(F run) {
  auto want = run();
#ifndef __CUDACC__
  for (uint64_t order : {1, 2, 3}) {
    emulator::order(order);
    CHECK(same(run(), want));
  }
  emulator::order(0);
#endif
  return want;
}

// To float32 or bfloat16, and back.
template <class T>
std::vector<T> rounded(const Values &v) {
  std::vector<T> result;
  for (float x : v) result.push_back(static_cast<T>(x));
  return result;
}

template <class T>
Values widened(const std::vector<T> &v) {
  Values result;
  for (T x : v) result.push_back(static_cast<float>(x));
  return result;
}
