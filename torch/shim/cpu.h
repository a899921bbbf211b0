// What the CPU does in float32 in loops of its own around the products of the BLAS library in
// libtorch. Products of these sizes run at the processor's limit there, so what is to be won is all
// else: a bias, GELU or softmax costs little while its rows are still in the cache, and much as an
// operation of its own that reads and writes them from memory.
#pragma once

#include <ATen/Parallel.h>

#include "fused.h"

namespace dt::cpu {

// gemm computes c = alpha op(a) op(b) + beta c for matrices of rows, c [m, n], op(a) [m, k] and
// op(b) [k, n], where op transposes if ta or tb is set; lda, ldb and ldc are the distances of rows.
// In at::parallel_for each call is one thread's.
void gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
          int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

// Whether ts are float32 on the CPU, operations are fused, and libtorch shows its BLAS library.
bool fusible(at::TensorList ts);

// x w^T + b [..., out], and GELU (the tanh approximation) of it. fused_linear says whether they are
// for these operands: those they are not for, few rows above all, are at::linear's.
bool fused_linear(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &b);
at::Tensor linear(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &b);
at::Tensor linear_gelu(const at::Tensor &x, const at::Tensor &w, const at::Tensor &b);

// Attention of each token of qkv [N, T, 3 heads d] to all, [N, T, heads d].
at::Tensor packed_attention(const at::Tensor &qkv, int64_t heads);

// exp within two units in the last place, for loops that the compiler vectorises. x is limited to
// what neither overflows nor is subnormal. The polynomial and the two parts of log 2 are those of
// expf in the Cephes library.
__attribute__((always_inline)) inline float exp(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float magic = 12582912.0f;  // 1.5 2^23: adding it rounds to an integer, in the low bits
  const float shifted = x * 1.44269504f + magic;
  const float k = shifted - magic;
  const float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  uint32_t exponent, bits;
  std::memcpy(&exponent, &shifted, sizeof exponent);
  std::memcpy(&bits, &p, sizeof bits);
  bits += exponent << 23;
  std::memcpy(&p, &bits, sizeof p);
  return p;
}

}  // namespace dt::cpu
