// Runs the kernels of random.cuh in the emulator, for the Go test to compare. Standard input has
// one request a line: seed, tag and step in hexadecimal, then the elements of a row, the number of
// indices and these. Answers are a line of normals (bits) and one of uniforms, in 2^-32. With
// blocks and threads in another order they must be the same.

#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "random.cuh"

int main() {
  uint64_t seed;
  uint32_t tag, number;
  size_t row, n;
  while (scanf("%" SCNx64 "%" SCNx32 "%" SCNx32 "%zu%zu", &seed, &tag, &number, &row, &n) == 5) {
    std::vector<int64_t> indices(n);
    for (int64_t &i : indices)
      if (scanf("%" SCNd64, &i) != 1) return 1;
    const int64_t step = number;
    std::vector<float> normals[2];
    std::vector<double> uniforms[2];
    for (int k = 0; k < 2; k++) {
      emulator::order(static_cast<uint64_t>(k));
      normals[k].assign(n * row, NAN);
      uniforms[k].assign(n, -1);
      const auto rows = static_cast<int64_t>(n), columns = static_cast<int64_t>(row);
      if (dt::draw_normals(normals[k].data(), rows, columns, seed, tag, &step, indices.data(),
                           nullptr) ||
          dt::draw_uniforms(uniforms[k].data(), rows, seed, tag, &step, indices.data(), nullptr))
        return 1;
    }
    if (memcmp(normals[0].data(), normals[1].data(), n * row * sizeof(float)) ||
        uniforms[0] != uniforms[1])
      return 1;
    for (float f : normals[0]) {
      uint32_t bits;
      memcpy(&bits, &f, sizeof bits);
      printf("%x ", bits);
    }
    printf("\n");
    for (double u : uniforms[0]) printf("%.17g ", std::ldexp(u, 32));
    printf("\n");
  }
  return 0;
}
