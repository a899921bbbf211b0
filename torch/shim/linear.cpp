// Products with weights, and what comes directly after them: the bias, and GELU.
#include <ATen/record_function.h>

#include "cpu.h"

namespace dt {

namespace {

at::Tensor plain_linear_gelu(const at::Tensor &x, const at::Tensor &w, const at::Tensor &b) {
  return at::gelu(at::linear(x, w, b), "tanh");
}

}  // namespace

at::Tensor linear(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &b) {
  if (!cpu::fused_linear(x, w, b)) return at::linear(x, w, b);
  RECORD_FUNCTION("linear", kNoInputs);
  return cpu::linear(x, w, b);
}

at::Tensor linear_gelu(const at::Tensor &x, const at::Tensor &w, const at::Tensor &b) {
  RECORD_FUNCTION("linear_gelu", kNoInputs);
  TORCH_CHECK(x.dim() > 0 && w.dim() == 2 && x.size(-1) == w.size(1) && b.dim() == 1 &&
                  b.size(0) == w.size(0),
              "linear_gelu: want x [..., in], w [out, in], b [out], got shapes ", x.sizes(), ", ",
              w.sizes(), ", ", b.sizes());
  if (cpu::fused_linear(x, w, b)) return cpu::linear_gelu(x, w, b);
  return plain_linear_gelu(x, w, b);
}

}  // namespace dt
