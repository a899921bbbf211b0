// Operations that PyTorch spells as several: written here once, with their plain compositions in
// the tests of package torch.
#include "core.h"

namespace dt {

at::Tensor ada_layer_norm(const at::Tensor &x, const at::Tensor &shift, const at::Tensor &scale,
                          double eps) {
  TORCH_CHECK(x.dim() == 3 && shift.dim() == 2 && scale.dim() == 2,
              "ada_layer_norm: want x [N, T, D], shift and scale [N, D], got shapes ", x.sizes(),
              ", ", shift.sizes(), ", ", scale.sizes());
  auto h = at::layer_norm(x, {x.size(2)}, {}, {}, eps, false);
  return at::addcmul(shift.unsqueeze(1), h, scale.unsqueeze(1) + 1);
}

at::Tensor gated_add(const at::Tensor &x, const at::Tensor &gate, const at::Tensor &y) {
  TORCH_CHECK(x.dim() == 3 && gate.dim() == 2,
              "gated_add: want x [N, T, D], gate [N, D], got shapes ", x.sizes(), ", ",
              gate.sizes());
  return at::addcmul(x, gate.unsqueeze(1), y);
}

}  // namespace dt
