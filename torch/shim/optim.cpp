// AdamW, gradient clipping and the exponential moving average of the weights.
//
// Weights, both moments and the average live in one flat buffer each; the tensors that the model
// holds become views of it. One call a step does everything without reading anything back.
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>

#include "core.h"

using dt::guard;

struct dt_adamw_s {
  dt_adamw_config cfg;
  std::vector<at::Tensor> params;             // as given, frozen ones included
  std::vector<size_t> trained;                // positions in params that require grad
  at::Tensor flat, flat_ema, flat_m, flat_v;  // flat_m and flat_v: trained ones only
  std::vector<at::Tensor> emas;               // views of flat_ema, one a parameter
  std::vector<at::Tensor> weights, exp_avgs, exp_avg_sqs, steps;  // one a trained parameter
  at::Tensor step, lr;  // scalars on the parameters' device
};

namespace {

// Views start at multiples of 64 bytes, as fresh allocations do, so that kernels see aligned data.
constexpr int64_t kAlign = 16;

int64_t padded(int64_t n) { return (n + kAlign - 1) / kAlign * kAlign; }

std::vector<at::Tensor> views(const at::Tensor &flat, const std::vector<at::Tensor> &like) {
  std::vector<at::Tensor> out;
  int64_t at = 0;
  for (const auto &p : like) {
    out.push_back(flat.narrow(0, at, p.numel()).view(p.sizes()));
    at += padded(p.numel());
  }
  return out;
}

}  // namespace

extern "C" {

dt_error *dt_adamw_new(const dt_tensor *params, int32_t n, dt_adamw_config cfg, dt_adamw *out) {
  return guard(0, [&] {
    auto o = std::make_unique<dt_adamw_s>();
    o->cfg = cfg;
    o->params = dt::list(params, n);
    TORCH_CHECK(n > 0, "no parameters");
    int64_t total = 0, trained_total = 0;
    for (size_t i = 0; i < o->params.size(); i++) {
      auto &p = o->params[i];
      TORCH_CHECK(p.scalar_type() == at::kFloat, "parameter ", i, " is not float32");
      TORCH_CHECK(p.device() == o->params[0].device(), "parameter ", i, " is on another device");
      total += padded(p.numel());
      if (p.requires_grad()) {
        o->trained.push_back(i);
        trained_total += padded(p.numel());
      }
    }
    auto options = o->params[0].options().requires_grad(false);
    o->flat = at::zeros({total}, options);
    o->flat_ema = at::zeros({total}, options);
    o->flat_m = at::zeros({trained_total}, options);
    o->flat_v = at::zeros({trained_total}, options);
    auto homes = views(o->flat, o->params);
    o->emas = views(o->flat_ema, o->params);
    for (size_t i = 0; i < o->params.size(); i++) {
      homes[i].copy_(o->params[i]);
      o->params[i].set_data(homes[i]);
    }
    o->flat_ema.copy_(o->flat);
    for (auto i : o->trained) o->weights.push_back(o->params[i]);
    o->exp_avgs = views(o->flat_m, o->weights);
    o->exp_avg_sqs = views(o->flat_v, o->weights);
    o->step = at::zeros({}, options);
    o->lr = at::zeros({}, options);
    o->steps.assign(o->weights.size(), o->step);
    *out = o.release();
  });
}

void dt_adamw_free(dt_adamw o) { delete o; }

dt_error *dt_adamw_step(dt_adamw o, double lr, double max_norm, double ema_decay,
                        dt_out *grad_norm) {
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
    if (max_norm > 0) {
      // torch.nn.utils.clip_grad_norm_: the coefficient is clamped on the device.
      auto coef = at::clamp_max(max_norm / (norm + 1e-6), 1.0);
      at::_foreach_mul_(gs, coef);
    }
    o->lr.fill_(lr);
    o->step.add_(1);
    // The kernel reads one step count a tensor and does not write it: all share this scalar.
    std::vector<at::Tensor> steps(gs.size(), o->step);
    at::_fused_adamw_(ps, gs, ms, vs, {}, steps, o->lr, o->cfg.beta1, o->cfg.beta2,
                      o->cfg.weight_decay, o->cfg.eps, /*amsgrad=*/false, /*maximize=*/false);
    // ema = decay ema + (1 - decay) p, in the original's two roundings.
    if (ema_decay >= 0) o->flat_ema.mul_(ema_decay).add_(o->flat, 1 - ema_decay);
    for (auto &w : o->weights) w.mutable_grad() = at::Tensor();
    dt::put(grad_norm, std::move(norm));
  });
}

dt_error *dt_adamw_zero_grad(dt_adamw o) {
  return guard(0, [&] {
    for (auto &w : o->weights) w.mutable_grad() = at::Tensor();
  });
}

// kind 0: EMA of parameter i. 1, 2: first and second moment of parameter i, no tensor where it is
// frozen. 3: the step count.
dt_error *dt_adamw_state(dt_adamw o, int32_t kind, int32_t i, dt_out *out) {
  return guard(0, [&] {
    out->t = nullptr;
    if (kind == 3) {
      dt::put(out, o->step);
      return;
    }
    TORCH_CHECK(i >= 0 && static_cast<size_t>(i) < o->params.size(), "parameter index ", i,
                " out of range");
    if (kind == 0) {
      dt::put(out, o->emas[i]);
      return;
    }
    for (size_t k = 0; k < o->trained.size(); k++)
      if (o->trained[k] == static_cast<size_t>(i)) {
        dt::put(out, kind == 1 ? o->exp_avgs[k] : o->exp_avg_sqs[k]);
        return;
      }
  });
}

}  // extern "C"
