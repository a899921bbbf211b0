// AdamW, gradient clipping and the exponential moving average of the weights.
//
// Weights, both moments and the average live in one flat buffer each; the tensors that the model
// holds become views of it. One call a step does everything without reading anything back.
//
// Gradients stay where autograd puts them: it keeps the first one it makes and adds the following
// ones in place, so that dropping them costs nothing, and zeroing and adding to a buffer of our own
// would cost 16 bytes of traffic a parameter.
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>

#include "core.h"

using dt::guard;

struct dt_adamw_s {
  dt_adamw_config cfg;
  std::vector<at::Tensor> weights;                // that are trained, views of flat
  std::vector<at::Tensor> exp_avgs, exp_avg_sqs;  // one a weight
  at::Tensor flat, flat_ema, flat_m, flat_v;      // flat_m and flat_v: trained ones only
  at::Tensor step, lr;                            // scalars on the parameters' device
  std::vector<at::Tensor> host;                   // of dt_adamw_snapshot
};

namespace {

at::Tensor part(const at::Tensor &flat, int64_t offset, const at::Tensor &like) {
  return flat.narrow(0, offset, like.numel()).view(like.sizes());
}

}  // namespace

extern "C" {

dt_error *dt_adamw_new(const dt_tensor *params, int32_t n, const int64_t *offsets, int64_t trained,
                       int64_t total, dt_adamw_config cfg, dt_adamw *out) {
  return guard(0, [&] {
    auto o = std::make_unique<dt_adamw_s>();
    o->cfg = cfg;
    auto ps = dt::list(params, n);
    TORCH_CHECK(n > 0, "no parameters");
    for (int32_t i = 0; i < n; i++) {
      TORCH_CHECK(ps[i].scalar_type() == at::kFloat, "parameter ", i, " is not float32");
      TORCH_CHECK(ps[i].device() == ps[0].device(), "parameter ", i, " is on another device");
    }
    auto options = ps[0].options().requires_grad(false);
    o->flat = at::zeros({total}, options);
    o->flat_m = at::zeros({trained}, options);
    o->flat_v = at::zeros({trained}, options);
    for (int32_t i = 0; i < n; i++) {
      auto home = part(o->flat, offsets[i], ps[i]);
      home.copy_(ps[i]);
      ps[i].set_data(home);
      if (!ps[i].requires_grad()) continue;
      o->weights.push_back(ps[i]);
      o->exp_avgs.push_back(part(o->flat_m, offsets[i], ps[i]));
      o->exp_avg_sqs.push_back(part(o->flat_v, offsets[i], ps[i]));
    }
    o->flat_ema = o->flat.clone();
    o->step = at::zeros({}, options);
    o->lr = at::zeros({}, options);
    *out = o.release();
  });
}

void dt_adamw_free(dt_adamw o) { delete o; }

dt_error *dt_adamw_step(dt_adamw o, const dt_adamw_options *options, dt_out *out) {
  return guard(0, [&] {
    // A parameter that took no part in the loss keeps its value, as in PyTorch.
    std::vector<at::Tensor> ps, gs, ms, vs;
    for (size_t i = 0; i < o->weights.size(); i++) {
      const auto &g = o->weights[i].grad();
      if (!g.defined()) continue;
      ps.push_back(o->weights[i]);
      gs.push_back(g.is_contiguous() ? g : g.contiguous());
      ms.push_back(o->exp_avgs[i]);
      vs.push_back(o->exp_avg_sqs[i]);
    }
    TORCH_CHECK(!gs.empty(), "no parameter has a gradient: run backward before the step");
    at::Tensor norm = at::linalg_vector_norm(at::stack(at::_foreach_norm(gs, 2)), 2);
    // The kernels below leave everything as it is where skipped is 1.
    at::Tensor skipped = at::isfinite(norm).logical_not_();
    if (options->skip) skipped.logical_or_(options->skip->t);
    skipped = skipped.to(at::kFloat);
    if (options->max_norm > 0) {
      // torch.nn.utils.clip_grad_norm_: the coefficient is clamped on the device.
      auto coef = at::clamp_max(options->max_norm / (norm + 1e-6), 1.0);
      at::_foreach_mul_(gs, coef);
    }
    auto trained = o->flat.narrow(0, 0, o->flat_m.numel());
    at::Tensor before = options->update_norm ? trained.clone() : at::Tensor();
    o->lr.fill_(options->lr);
    o->step.add_(1 - skipped);
    // The kernel reads one step count a tensor and does not write it: all share this scalar.
    std::vector<at::Tensor> steps(gs.size(), o->step);
    at::_fused_adamw_(ps, gs, ms, vs, {}, steps, o->lr, o->cfg.beta1, o->cfg.beta2,
                      o->cfg.weight_decay, o->cfg.eps, /*amsgrad=*/false, /*maximize=*/false,
                      /*grad_scale=*/{}, skipped);
    if (options->ema_decay >= 0) {
      // ema = decay ema + (1 - decay) p in the original's two roundings. The addition is a step of
      // SGD, whose kernel, unlike that of add_, can be told by the device to do nothing.
      o->flat_ema.mul_(at::where(skipped == 1, 1.0, options->ema_decay));
      at::_fused_sgd_({o->flat_ema}, {o->flat}, {}, /*weight_decay=*/0, /*momentum=*/0,
                      /*lr=*/1 - options->ema_decay, /*dampening=*/0, /*nesterov=*/false,
                      /*maximize=*/true, /*is_first_step=*/false, /*grad_scale=*/{}, skipped);
    }
    for (auto &w : o->weights) w.mutable_grad() = at::Tensor();
    out[2].t = nullptr;
    if (before.defined()) dt::put(&out[2], at::linalg_vector_norm(before.sub_(trained), 2));
    dt::put(&out[0], std::move(norm));
    dt::put(&out[1], std::move(skipped));
  });
}

dt_error *dt_adamw_zero_grad(dt_adamw o) {
  return guard(0, [&] {
    for (auto &w : o->weights) w.mutable_grad() = at::Tensor();
  });
}

dt_error *dt_adamw_buffer(dt_adamw o, int32_t which, dt_out *out) {
  return guard(0, [&] {
    switch (which) {
      case DT_ADAMW_EMA: return dt::put(out, o->flat_ema);
      case DT_ADAMW_EXP_AVG: return dt::put(out, o->flat_m);
      case DT_ADAMW_EXP_AVG_SQ: return dt::put(out, o->flat_v);
      case DT_ADAMW_STEP: return dt::put(out, o->step);
    }
    TORCH_CHECK(false, "no buffer ", which);
  });
}

dt_error *dt_adamw_snapshot(dt_adamw o, dt_out *out) {
  return guard(0, [&] {
    const at::Tensor state[] = {o->flat, o->flat_ema, o->flat_m, o->flat_v, o->step};
    const auto device = o->flat.device();
    if (o->host.empty())
      for (const auto &t : state)
        o->host.push_back(
            at::empty(t.sizes(), t.options().device(at::kCPU).pinned_memory(device.is_cuda())));
    for (size_t i = 0; i < o->host.size(); i++) o->host[i].copy_(state[i], /*non_blocking=*/true);
    if (device.is_cuda()) at::detail::getCUDAHooks().deviceSynchronize(device.index());
    dt::put_many(out, 5, o->host);
  });
}

}  // extern "C"
