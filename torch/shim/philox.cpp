// Draws from the counter-based generator of package philox: by kernels on a GPU that has them, else
// on the host.
#include <ATen/Parallel.h>

#include "fused.h"
#include "kernels/philox.h"

namespace {

void check_draw(uint32_t tag, const at::Tensor &step, const at::Tensor &indices) {
  TORCH_CHECK(tag < 256, "tag ", tag, ", want one below 256");
  TORCH_CHECK(
      step.scalar_type() == at::kLong && step.numel() == 1 && step.device() == indices.device(),
      "step is ", step.scalar_type(), " ", step.sizes(), " on ", step.device(),
      ", want one int64 on ", indices.device());
  TORCH_CHECK(indices.scalar_type() == at::kLong && indices.dim() == 1, "indices are ",
              indices.scalar_type(), " ", indices.sizes(), ", want int64 [N]");
}

at::Tensor on_host(const at::Tensor &t) {
  TORCH_CHECK(t.is_cpu() || !dt::capturing,
              "it draws on the host, which a capture on a GPU cannot");
  dt::announce_copy(t.device(), at::kCPU);
  return t.to(at::kCPU).contiguous();
}

uint32_t step_on_host(const at::Tensor &step) {
  const int64_t number = on_host(step).const_data_ptr<int64_t>()[0];
  TORCH_CHECK(number >= 0 && number <= dt::kPhiloxMaxStep, "step ", number, ", want 0 to ",
              dt::kPhiloxMaxStep);
  return static_cast<uint32_t>(number);
}

at::Tensor to_device(const at::Tensor &t, const at::Device &device) {
  dt::announce_copy(at::kCPU, device);
  return t.to(device);
}

at::Tensor normals_on_host(uint64_t seed, uint32_t tag, const at::Tensor &step_,
                           const at::Tensor &indices_, at::IntArrayRef shape) {
  const uint32_t step = step_on_host(step_);
  const auto indices = on_host(indices_);
  const int64_t *index = indices.const_data_ptr<int64_t>(), n = indices.numel();
  auto t = at::empty(shape, dt::opts(at::kCPU, DT_FLOAT32));
  const int64_t row = n ? t.numel() / n : 0;
  const int64_t blocks = (row + 3) / 4;
  float *base = t.mutable_data_ptr<float>();
  at::parallel_for(0, n * blocks, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; k++) {
      const int64_t i = k / blocks, b = k % blocks;
      float four[4];
      dt::normals4(dt::philox_block(seed, static_cast<uint32_t>(b), tag, step,
                                    static_cast<uint64_t>(index[i])),
                   four);
      float *dst = base + i * row + 4 * b;
      for (int64_t j = 0; j < 4 && 4 * b + j < row; j++) dst[j] = four[j];
    }
  });
  return to_device(t, indices_.device());
}

at::Tensor uniforms_on_host(uint64_t seed, uint32_t tag, const at::Tensor &step_,
                            const at::Tensor &indices_) {
  const uint32_t step = step_on_host(step_);
  const auto indices = on_host(indices_);
  const int64_t *index = indices.const_data_ptr<int64_t>();
  auto t = at::empty(indices.sizes(), dt::opts(at::kCPU, DT_FLOAT64));
  double *to = t.mutable_data_ptr<double>();
  for (int64_t i = 0; i < t.numel(); i++)
    to[i] = dt::philox_uniform(seed, tag, step, static_cast<uint64_t>(index[i]));
  return to_device(t, indices_.device());
}

}  // namespace

namespace dt {

at::Tensor normals_by(const dt_plugin &kernels, uint64_t seed, uint32_t tag, const at::Tensor &step,
                      const at::Tensor &indices_, at::IntArrayRef shape) {
  const auto indices = indices_.contiguous();
  const int64_t n = indices.numel();
  auto t = at::empty(shape, opts(indices.device(), DT_FLOAT32));
  queue_kernels(t.device(), [&](void *stream) {
    return kernels.normals(t.mutable_data_ptr<float>(), n, n ? t.numel() / n : 0, seed, tag,
                           step.const_data_ptr<int64_t>(), indices.const_data_ptr<int64_t>(),
                           stream);
  });
  return t;
}

at::Tensor uniforms_by(const dt_plugin &kernels, uint64_t seed, uint32_t tag,
                       const at::Tensor &step, const at::Tensor &indices_) {
  const auto indices = indices_.contiguous();
  auto t = at::empty(indices.sizes(), opts(indices.device(), DT_FLOAT64));
  queue_kernels(t.device(), [&](void *stream) {
    return kernels.uniforms(t.mutable_data_ptr<double>(), t.numel(), seed, tag,
                            step.const_data_ptr<int64_t>(), indices.const_data_ptr<int64_t>(),
                            stream);
  });
  return t;
}

namespace {

void prove_draws(const dt_plugin &table, const at::Device &d) {
  const auto step = at::full({1}, 7, at::kLong), indices = at::arange(100, at::kLong);
  const auto on = [&](const at::Tensor &t) { return t.to(d); };
  const auto uniforms = uniforms_by(table, 5, 6, on(step), on(indices)).to(at::kCPU);
  TORCH_CHECK(uniforms.equal(uniforms_on_host(5, 6, step, indices)), "other uniform numbers");
  const std::vector<int64_t> shape{100, 13};
  const auto normals = normals_by(table, 5, 6, on(step), on(indices), shape).to(at::kCPU);
  const double off =
      (normals - normals_on_host(5, 6, step, indices, shape)).abs().max().item<double>();
  TORCH_CHECK(off <= 1e-5, "a normal number is off by ", off, ", 1e-5 is allowed");
}

Kernel draws_kernel("philox", prove_draws);

}  // namespace

}  // namespace dt

extern "C" {

dt_error *dt_philox_normal(dt_mode m, uint64_t seed, uint32_t tag, dt_tensor step_,
                           dt_tensor indices_, const int64_t *row_dims, int32_t nrow_dims,
                           dt_out *out) {
  return dt::guard(m, [&] {
    const at::Tensor &step = step_->t, &indices = indices_->t;
    check_draw(tag, step, indices);
    std::vector<int64_t> shape{indices.numel()};
    shape.insert(shape.end(), row_dims, row_dims + nrow_dims);
    const dt_plugin *kernels = dt::draws_kernel.proven(indices.device());
    dt::put(out, kernels ? dt::normals_by(*kernels, seed, tag, step, indices, shape)
                         : normals_on_host(seed, tag, step, indices, shape));
  });
}

dt_error *dt_philox_uniform(dt_mode m, uint64_t seed, uint32_t tag, dt_tensor step_,
                            dt_tensor indices_, dt_out *out) {
  return dt::guard(m, [&] {
    const at::Tensor &step = step_->t, &indices = indices_->t;
    check_draw(tag, step, indices);
    const dt_plugin *kernels = dt::draws_kernel.proven(indices.device());
    dt::put(out, kernels ? dt::uniforms_by(*kernels, seed, tag, step, indices)
                         : uniforms_on_host(seed, tag, step, indices));
  });
}

}  // extern "C"
