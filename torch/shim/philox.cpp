// Draws from the counter-based generator of package philox.
#include <ATen/Parallel.h>

#include "core.h"
#include "kernels/philox.h"

namespace {

at::Tensor on_host(const at::Tensor &t) {
  dt::announce_copy(t.device(), at::kCPU);
  return t.to(at::kCPU).contiguous();
}

// A Draw is the arguments of a draw, in host memory.
struct Draw {
  Draw(uint32_t tag, const at::Tensor &step, const at::Tensor &indices) : device(indices.device()) {
    TORCH_CHECK(tag < 256, "tag ", tag, ", want one below 256");
    TORCH_CHECK(step.scalar_type() == at::kLong && step.numel() == 1 && step.device() == device,
                "step is ", step.scalar_type(), " ", step.sizes(), " on ", step.device(),
                ", want one int64 on ", device);
    TORCH_CHECK(indices.scalar_type() == at::kLong && indices.dim() == 1, "indices are ",
                indices.scalar_type(), " ", indices.sizes(), ", want int64 [N]");
    TORCH_CHECK(device.is_cpu() || !dt::capturing,
                "it draws on the host, which a capture on a GPU cannot");
    const int64_t number = on_host(step).const_data_ptr<int64_t>()[0];
    TORCH_CHECK(number >= 0 && number < 1 << 24, "step ", number, ", want 0 to ", (1 << 24) - 1);
    this->step = static_cast<uint32_t>(number);
    host = on_host(indices);
  }

  uint64_t index(int64_t i) const {
    return static_cast<uint64_t>(host.const_data_ptr<int64_t>()[i]);
  }
  // put gives what was drawn to the device.
  void put(dt_out *out, const at::Tensor &t) const {
    dt::announce_copy(at::kCPU, device);
    dt::put(out, t.to(device));
  }

  at::Device device;
  at::Tensor host;  // the indices
  uint32_t step;
};

}  // namespace

extern "C" {

dt_error *dt_philox_normal(dt_mode m, uint64_t seed, uint32_t tag, dt_tensor step,
                           dt_tensor indices, const int64_t *row_dims, int32_t nrow_dims,
                           dt_out *out) {
  return dt::guard(m, [&] {
    const Draw draw(tag, step->t, indices->t);
    const int64_t n = draw.host.numel();
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
        dt::normals4(
            dt::philox_block(seed, static_cast<uint32_t>(b), tag, draw.step, draw.index(i)), four);
        float *dst = base + i * row + 4 * b;
        for (int64_t j = 0; j < 4 && 4 * b + j < row; j++) dst[j] = four[j];
      }
    });
    draw.put(out, t);
  });
}

dt_error *dt_philox_uniform(dt_mode m, uint64_t seed, uint32_t tag, dt_tensor step,
                            dt_tensor indices, dt_out *out) {
  return dt::guard(m, [&] {
    const Draw draw(tag, step->t, indices->t);
    auto t = at::empty({draw.host.numel()}, dt::opts(at::Device(at::kCPU), DT_FLOAT64));
    double *to = t.mutable_data_ptr<double>();
    for (int64_t i = 0; i < t.numel(); i++)
      to[i] = dt::philox_uniform(seed, tag, draw.step, draw.index(i));
    draw.put(out, t);
  });
}

}  // extern "C"
