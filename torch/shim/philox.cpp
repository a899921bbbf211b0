// Standard normals from the counter-based generator of package philox.
#include <ATen/Parallel.h>

#include "core.h"
#include "kernels/philox.h"

extern "C" dt_error *dt_philox_normal(uint64_t seed, uint32_t tag, uint32_t step,
                                      const int64_t *indices, int64_t n, const int64_t *row_dims,
                                      int32_t nrow_dims, dt_device dev, dt_out *out) {
  return dt::guard([&] {
    std::vector<int64_t> shape{n};
    shape.insert(shape.end(), row_dims, row_dims + nrow_dims);
    auto t = at::empty(shape, dt::opts(at::Device(at::kCPU), DT_FLOAT32));
    const int64_t row = n ? t.numel() / n : 0;
    const int64_t blocks = (row + 3) / 4;
    float *base = t.mutable_data_ptr<float>();
    at::parallel_for(0, n * blocks, 4096, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; k++) {
        const int64_t i = k / blocks, b = k % blocks;
        float four[4];
        dt::normals4(dt::philox_block(seed, static_cast<uint32_t>(b), tag, step,
                                      static_cast<uint64_t>(indices[i])),
                     four);
        float *dst = base + i * row + 4 * b;
        for (int64_t j = 0; j < 4 && 4 * b + j < row; j++) dst[j] = four[j];
      }
    });
    if (dev >= 0) t = t.to(dt::device(dev));
    dt::put(out, std::move(t));
  });
}
