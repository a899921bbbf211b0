// GroupNorm and SiLU: libtorch's, or by kernels of our own, with gradients.
#include <torch/csrc/autograd/custom_function.h>

#include "fused.h"

namespace dt {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr auto kNHWC = at::MemoryFormat::ChannelsLast;

dt_norm_shape norm_of(const at::Tensor &x, int64_t groups, double eps, bool silu) {
  return {x.size(0),
          x.size(2) * x.size(3),
          static_cast<int32_t>(x.size(1)),
          static_cast<int32_t>(groups),
          static_cast<float>(eps),
          silu ? 1 : 0};
}

bool takes(const dt_plugin &kernels, const at::Tensor &x, int64_t groups, const at::Tensor &weight,
           const at::Tensor &bias) {
  if (x.dim() != 4 || (x.scalar_type() != at::kFloat && x.scalar_type() != at::kBFloat16) ||
      !x.is_contiguous(kNHWC) || !aligned(x) || x.numel() == 0 ||
      x.size(1) > std::numeric_limits<int32_t>::max() || groups > x.size(1))
    return false;
  for (const auto &w : {weight, bias})
    if (w.scalar_type() != at::kFloat || w.numel() != x.size(1) || w.device() != x.device())
      return false;
  const dt_norm_shape norm = norm_of(x, groups, 0, false);
  return kernels.group_norm_workspace(&norm, false) >= 0;
}

at::Tensor workspace(const dt_plugin &kernels, const dt_norm_shape &norm, bool backward,
                     const at::Device &on) {
  return at::empty({kernels.group_norm_workspace(&norm, backward)}, opts(on, at::kByte));
}

struct GroupNorm : torch::autograd::Function<GroupNorm> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x, const at::Tensor &weight_,
                            const at::Tensor &bias_, const dt_plugin *kernels, int64_t groups,
                            double eps, bool silu) {
    const dt_norm_shape norm = norm_of(x, groups, eps, silu);
    auto weight = weight_.contiguous(), bias = bias_.contiguous();
    auto y = at::empty_like(x, kNHWC);
    auto normalisers = at::empty({norm.n, groups, 2}, weight.options());
    auto memory = workspace(*kernels, norm, false, x.device());
    queue_kernels(x.device(), [&](void *stream) {
      return kernels->group_norm(&norm, x.scalar_type() == at::kBFloat16, x.const_data_ptr(),
                                 weight.const_data_ptr<float>(), bias.const_data_ptr<float>(),
                                 memory.mutable_data_ptr(), normalisers.mutable_data_ptr<float>(),
                                 y.mutable_data_ptr(), stream);
    });
    ctx->save_for_backward({x, weight, bias, normalisers});
    ctx->saved_data["kernels"] = reinterpret_cast<int64_t>(kernels);
    ctx->saved_data["groups"] = groups;
    ctx->saved_data["silu"] = silu;
    return y;
  }

  static variable_list backward(AutogradContext *ctx, const variable_list &grads) {
    auto saved = ctx->get_saved_variables();
    auto x = saved[0], weight = saved[1], bias = saved[2], normalisers = saved[3];
    const auto *kernels = reinterpret_cast<const dt_plugin *>(ctx->saved_data["kernels"].toInt());
    const dt_norm_shape norm =
        norm_of(x, ctx->saved_data["groups"].toInt(), 0, ctx->saved_data["silu"].toBool());
    auto dy = grads[0].contiguous(kNHWC);
    if (!aligned(dy)) dy = dy.clone();
    auto dx = at::empty_like(x, kNHWC);
    auto dweight = at::empty_like(weight), dbias = at::empty_like(bias);
    auto memory = workspace(*kernels, norm, true, x.device());
    queue_kernels(x.device(), [&](void *stream) {
      return kernels->group_norm_backward(
          &norm, x.scalar_type() == at::kBFloat16, x.const_data_ptr(), dy.const_data_ptr(),
          weight.const_data_ptr<float>(), bias.const_data_ptr<float>(),
          normalisers.const_data_ptr<float>(), memory.mutable_data_ptr(), dx.mutable_data_ptr(),
          dweight.mutable_data_ptr<float>(), dbias.mutable_data_ptr<float>(), stream);
    });
    return {dx, dweight, dbias, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

at::Tensor composition(const at::Tensor &x, int64_t groups, const std::optional<at::Tensor> &weight,
                       const std::optional<at::Tensor> &bias, double eps, bool silu) {
  const auto cast = [&](const std::optional<at::Tensor> &w) {
    return w ? std::optional<at::Tensor>(w->to(x.scalar_type())) : w;
  };
  auto y = at::group_norm(x, groups, cast(weight), cast(bias), eps, false);
  return silu ? at::silu(y) : y;
}

}  // namespace

at::Tensor norm_groups_by(const dt_plugin &kernels, const at::Tensor &x, int64_t groups,
                          const at::Tensor &weight, const at::Tensor &bias, double eps, bool silu) {
  if (!takes(kernels, x, groups, weight, bias))
    return composition(x, groups, weight, bias, eps, silu);
  return GroupNorm::apply(x, weight, bias, &kernels, groups, eps, silu);
}

namespace {

// At two numbers of channels of the autoencoder.
void prove_group_norm(const dt_plugin &table, const at::Device &d) {
  for (int64_t channels : {128, 512})
    for (auto type : {at::kFloat, at::kBFloat16})
      for (bool silu : {true, false}) {
        const auto x = random({2, channels, 5, 3}, type, d, 1).contiguous(kNHWC);
        expect_same(
            {x, random({channels}, at::kFloat, d, 2), random({channels}, at::kFloat, d, 3)},
            [&](const Tensors &in) {
              return Tensors{norm_groups_by(table, in[0], 32, in[1], in[2], 1e-6, silu)};
            },
            [&](const Tensors &in) {
              return Tensors{composition(in[0], 32, in[1], in[2], 1e-6, silu)};
            });
      }
}

Kernel group_norm_kernel("group_norm", prove_group_norm);

}  // namespace

at::Tensor norm_groups(const at::Tensor &x, int64_t groups, const std::optional<at::Tensor> &weight,
                       const std::optional<at::Tensor> &bias, double eps, bool silu) {
  if (weight && bias)
    if (const dt_plugin *table = group_norm_kernel.on(x.device()))
      return norm_groups_by(*table, x, groups, *weight, *bias, eps, silu);
  return composition(x, groups, weight, bias, eps, silu);
}

}  // namespace dt
