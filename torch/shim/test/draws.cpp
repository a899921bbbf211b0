// Draws as the shim makes them by the kernels of libditcuda.so: on the CPU, where the emulator runs
// them, against those on the host.
#include "../core.h"
#include "../kernels/random.cuh"
#include "check.h"

void kernel_draws() {
  dt_plugin kernels{};
  kernels.normals = [](float *out, int64_t n, int64_t row, uint64_t seed, uint32_t tag,
                       const int64_t *step, const int64_t *indices, void *) {
    return dt::draw_normals(out, n, row, seed, tag, step, indices, {});
  };
  kernels.uniforms = [](double *out, int64_t n, uint64_t seed, uint32_t tag, const int64_t *step,
                        const int64_t *indices,
                        void *) { return dt::draw_uniforms(out, n, seed, tag, step, indices, {}); };
  // Every second one of a longer list, at a place of its own: neither begins where its memory does.
  const auto steps = at::tensor({7, 8}, at::kLong);
  const auto step = steps.narrow(0, 1, 1), indices = at::arange(20, at::kLong).slice(0, 3, 20, 2);
  dt_tensor_s at{step}, of{indices};
  const int64_t row[] = {3, 5};
  dt_out normal{}, uniform{};
  OK(dt_philox_normal(0, 5, 6, &at, &of, row, 2, &normal));
  OK(dt_philox_uniform(0, 5, 6, &at, &of, &uniform));
  const auto x = dt::normals_by(kernels, 5, 6, step, indices, {indices.numel(), 3, 5});
  CHECK(x.sizes() == normal.t->t.sizes());
  CHECK((x - normal.t->t).abs().max().item<float>() <= 1e-6);
  CHECK(dt::uniforms_by(kernels, 5, 6, step, indices).equal(uniform.t->t));
  const auto none = at::empty({0}, at::kLong);
  CHECK(dt::normals_by(kernels, 5, 6, step, none, {0, 4}).numel() == 0);
  CHECK(dt::uniforms_by(kernels, 5, 6, step, none).numel() == 0);
  kernels.uniforms = [](auto...) { return 700; };
  std::string why;
  try {
    dt::uniforms_by(kernels, 5, 6, step, indices);
  } catch (const c10::Error &e) {
    why = e.what_without_backtrace();
  }
  CHECK(why.find("CUDA error 700") == 0);
  dt_tensor ts[] = {normal.t, uniform.t};
  dt_free_many(ts, 2);
}
