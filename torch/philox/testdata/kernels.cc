// Runs the kernels of random.cuh in the emulator, for the Go test to compare. Standard input has
// one request a line: seed, tag and step in hexadecimal, then the elements of a row, an integer, a
// probability, the number of indices and these. Answers are lines of normals (bits), of integers
// below that integer, and of 0 and 1. With blocks and threads in another order they must be the
// same.

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <vector>

#include "random.cuh"

int main() {
  uint64_t seed;
  uint32_t tag, step, below;
  size_t row, n;
  double probability;
  while (scanf("%" SCNx64 "%" SCNx32 "%" SCNx32 "%zu%" SCNu32 "%lf%zu", &seed, &tag, &step, &row,
               &below, &probability, &n) == 7) {
    std::vector<int64_t> indices(n);
    for (int64_t &i : indices)
      if (scanf("%" SCNd64, &i) != 1) return 1;
    std::vector<float> normals[2];
    std::vector<int64_t> integers[2];
    std::vector<char> chances[2];
    for (int k = 0; k < 2; k++) {
      emulator::order(static_cast<uint64_t>(k));
      normals[k].assign(n * row, NAN);
      integers[k].assign(n, -1);
      chances[k].assign(n, 2);
      const auto rows = static_cast<int64_t>(n), columns = static_cast<int64_t>(row);
      if (dt::draw_normals(normals[k].data(), rows, columns, seed, tag, step, indices.data(),
                           nullptr) ||
          dt::draw_integers(integers[k].data(), rows, below, seed, tag, step, indices.data(),
                            nullptr) ||
          dt::draw_chances(reinterpret_cast<bool *>(chances[k].data()), rows, probability, seed,
                           tag, step, indices.data(), nullptr))
        return 1;
    }
    if (memcmp(normals[0].data(), normals[1].data(), n * row * sizeof(float)) ||
        integers[0] != integers[1] || chances[0] != chances[1])
      return 1;
    for (float f : normals[0]) {
      uint32_t bits;
      memcpy(&bits, &f, sizeof bits);
      printf("%x ", bits);
    }
    printf("\n");
    for (int64_t i : integers[0]) printf("%" PRId64 " ", i);
    printf("\n");
    for (char c : chances[0]) printf("%d ", c);
    printf("\n");
  }
  return 0;
}
