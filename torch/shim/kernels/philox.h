// Philox4x32-10 for C++ and CUDA: the twin of the Go package torch/philox, whose
// comment defines the counter and the transform. Integers are equal bit for bit,
// normals within 1e-6.

#ifndef DT_KERNELS_PHILOX_H
#define DT_KERNELS_PHILOX_H

#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__
#define DT_HD __host__ __device__
#else
#define DT_HD
#endif

namespace dt {

// Tags of torch/philox.
enum PhiloxTag : uint32_t {
  kStartNoise = 0,
  kStepNoise = 1,
  kTimestep = 2,
  kLabelDrop = 3,
  kFlip = 4,
  kPosterior = 5,
  kLabel = 6,
};

constexpr uint32_t kPhiloxMaxStep = (1u << 24) - 1;

struct Philox4 {
  uint32_t w[4];
};

// The generator itself: ten rounds over counter c under the key (k0, k1).
DT_HD inline Philox4 philox4x32_10(Philox4 c, uint32_t k0, uint32_t k1) {
  for (int i = 0; i < 10; i++) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c.w[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57} * c.w[2];
    c = Philox4{{static_cast<uint32_t>(p1 >> 32) ^ c.w[1] ^ k0, static_cast<uint32_t>(p1),
                 static_cast<uint32_t>(p0 >> 32) ^ c.w[3] ^ k1, static_cast<uint32_t>(p0)}};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// Words 4*block .. 4*block+3 of a draw. tag < 256 and step < 2^24; the caller
// has checked both.
DT_HD inline Philox4 philox_block(uint64_t seed, uint32_t block, uint32_t tag, uint32_t step,
                                  uint64_t index) {
  const Philox4 c{{block, (tag << 24) | step, static_cast<uint32_t>(index),
                   static_cast<uint32_t>(index >> 32)}};
  return philox4x32_10(c, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

// Two standard normals from two words. In double, because float32 logarithms
// and sines of different libraries are further apart than 1e-6.
DT_HD inline void box_muller(uint32_t w0, uint32_t w1, float *n0, float *n1) {
  const double u = (static_cast<double>(w0) + 1.0) * 0x1p-32;
  const double a = static_cast<double>(w1) * (6.283185307179586476925286766559 * 0x1p-32);
  const double r = sqrt(-2.0 * log(u));
  *n0 = static_cast<float>(r * cos(a));
  *n1 = static_cast<float>(r * sin(a));
}

// Four standard normals from the words of a block.
DT_HD inline void normals4(const Philox4 &b, float *n) {
  box_muller(b.w[0], b.w[1], n, n + 1);
  box_muller(b.w[2], b.w[3], n + 2, n + 3);
}

// Elements 0..count-1 of a draw of standard normals.
DT_HD inline void philox_normals(float *dst, uint64_t count, uint64_t seed, uint32_t tag,
                                 uint32_t step, uint64_t index) {
  for (uint64_t i = 0; i < count; i += 4) {
    float n[4];
    normals4(philox_block(seed, static_cast<uint32_t>(i / 4), tag, step, index), n);
    for (uint64_t j = 0; j < 4 && i + j < count; j++) dst[i + j] = n[j];
  }
}

// The first word of a draw, scaled to an integer in [0, n): no value is
// favoured by more than n * 2^-32.
DT_HD inline uint32_t philox_below(uint32_t n, uint64_t seed, uint32_t tag, uint32_t step,
                                   uint64_t index) {
  return static_cast<uint32_t>((uint64_t{n} * philox_block(seed, 0, tag, step, index).w[0]) >> 32);
}

// The first word of a draw, scaled to [0, 1).
DT_HD inline double philox_uniform(uint64_t seed, uint32_t tag, uint32_t step, uint64_t index) {
  return philox_block(seed, 0, tag, step, index).w[0] * 0x1p-32;
}

}  // namespace dt

#endif  // DT_KERNELS_PHILOX_H
