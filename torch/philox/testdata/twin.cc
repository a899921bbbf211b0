// Prints what philox.h makes of the draws named on standard input, for the Go
// test to compare: "seed block tag step index" in hexadecimal, one a line.
// Each answer is one line: four words, four normals (bits), uniform (bits),
// an integer below 1000, and elements 4..6 of a draw of 7 normals (bits).
// With the argument "speed" it prints the milliseconds for a million normals.

#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <vector>

#include "philox.h"

static uint32_t bits(float f) {
  uint32_t u;
  memcpy(&u, &f, sizeof u);
  return u;
}

static uint64_t bits(double f) {
  uint64_t u;
  memcpy(&u, &f, sizeof u);
  return u;
}

int main(int argc, char **) {
  if (argc > 1) {
    std::vector<float> v(1 << 20);
    const auto start = std::chrono::steady_clock::now();
    dt::philox_normals(v.data(), v.size(), 1, dt::kStartNoise, 0, 0);
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    printf("%.1f ms, last %g\n", took.count(), static_cast<double>(v.back()));
    return 0;
  }
  uint64_t seed, index;
  uint32_t block, tag, step;
  while (scanf("%" SCNx64 "%" SCNx32 "%" SCNx32 "%" SCNx32 "%" SCNx64, &seed, &block, &tag, &step,
               &index) == 5) {
    const dt::Philox4 b = dt::philox_block(seed, block, tag, step, index);
    float n[4], v[8] = {0, 0, 0, 0, 0, 0, 0, 123};
    dt::normals4(b, n);
    dt::philox_normals(v, 7, seed, tag, step, index);
    if (v[7] != 123) return 1;  // wrote behind the end
    for (int i = 0; i < 4; i++) printf("%x ", b.w[i]);
    for (int i = 0; i < 4; i++) printf("%x ", bits(n[i]));
    printf("%" PRIx64 " %x", bits(dt::philox_uniform(seed, tag, step, index)),
           dt::philox_below(1000, seed, tag, step, index));
    for (int i = 4; i < 7; i++) printf(" %x", bits(v[i]));
    printf("\n");
  }
  return 0;
}
