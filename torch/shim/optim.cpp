// AdamW, gradient clipping and the exponential moving average of the weights, for one process or
// for the ranks of a group that train together.
//
// Weights, both moments and the average live in one flat buffer each; the tensors that the model
// holds become views of it. One call a step does everything without reading anything back.
//
// In a single process, gradients stay where autograd puts them: it keeps the first one it makes and
// adds the following ones in place, while zeroing and adding to a buffer of our own would cost 16
// bytes of traffic a parameter.
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/_foreach_div.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_foreach_sub.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>

#include "reducer.h"

using dt::guard;
using Tensors = std::vector<at::Tensor>;

struct dt_adamw_s {
  dt_adamw_config cfg;
  dt_group group;            // null for a single process
  bool sharded;              // of each bucket, this rank holds and updates its share
  at::Tensor flat;           // all weights: the buckets, then the frozen ones
  Tensors buckets;           // of flat
  Tensors own;               // of flat: this rank's shares of the buckets, then the frozen ones
  at::Tensor average;        // of own
  at::Tensor m, v;           // of own without the frozen ones
  Tensors averages, ms, vs;  // one an own
  at::Tensor step, lr;       // scalars on the parameters' device
  Tensors host;              // of dt_adamw_snapshot
  Tensors watched;           // of dt_adamw_watch: what own was then, without the frozen ones

  std::vector<int32_t> trained;          // positions of weights in the parameters
  Tensors weights;                       // that are trained, views of flat
  Tensors exp_avgs, exp_avg_sqs;         // one a weight; for a single process only
  std::unique_ptr<dt::Reducer> reducer;  // in a group
};

namespace {

// The gradients, and what they change.
struct Update {
  Tensors ps, gs, ms, vs;
};

Update gather_update(dt_adamw o) {
  Update u;
  if (o->reducer) {
    u.gs = o->reducer->wait();
    at::_foreach_div_(u.gs, o->group->size);
    u.ps.assign(o->own.begin(), o->own.begin() + u.gs.size());
    u.ms = o->ms;
    u.vs = o->vs;
    return u;
  }
  // A parameter that took no part in the loss keeps its value, as in PyTorch.
  for (size_t i = 0; i < o->weights.size(); i++) {
    const auto &g = o->weights[i].grad();
    if (!g.defined()) continue;
    u.ps.push_back(o->weights[i]);
    u.gs.push_back(g.is_contiguous() ? g : g.contiguous());
    u.ms.push_back(o->exp_avgs[i]);
    u.vs.push_back(o->exp_avg_sqs[i]);
  }
  TORCH_CHECK(!u.gs.empty(), "no parameter has a gradient: run backward before the step");
  return u;
}

at::Tensor norm_of(const Tensors &ts) {
  return at::linalg_vector_norm(at::stack(at::_foreach_norm(ts, 2)), 2);
}

// The norm of what the ranks hold together; skip becomes 1 where it is on any rank.
at::Tensor norm_of_all(dt_adamw o, const Tensors &own, at::Tensor *skip) {
  auto norm = norm_of(own);
  if (!o->group) return norm;
  auto sums = at::stack({norm.to(at::kDouble).square(), skip->to(at::kDouble)});
  dt::wait(o->group, dt::all_reduce(o->group, sums));
  *skip = sums[1];
  // Without shares, each rank has contributed the whole.
  return (o->sharded ? sums[0] : sums[0] / o->group->size).sqrt().to(at::kFloat);
}

// Refuses a group in which the ranks' numbers differ: what they send would not fit.
void agree(dt_group g, const at::Tensor &numbers, const std::string &own) {
  dt::announce(dt::Traffic::kUpload);
  dt::announce(dt::Traffic::kReadBack);
  auto bounds = at::cat({numbers, -numbers});
  Tensors ts{bounds};
  c10d::AllreduceOptions least;
  least.reduceOp = c10d::ReduceOp::MIN;
  dt::use(g, bounds);
  dt::wait(g, g->backend->allreduce(ts, least));
  auto parts = bounds.chunk(2);
  TORCH_CHECK(at::equal(parts[0], -parts[1]),
              "the ranks do not train the same model in the same buckets: this one has ", own);
}

// scalar returns a number that came with the options of a step.
at::Tensor scalar(dt_adamw o, const char *name, const at::Tensor &t) {
  TORCH_CHECK(t.scalar_type() == at::kDouble && t.numel() == 1 && t.device() == o->flat.device(),
              "the ", name, " is ", t.scalar_type(), " ", t.sizes(), " on ", t.device(),
              ", want one float64 on ", o->flat.device());
  return t.reshape({});
}

void forget(dt_adamw o) {
  if (o->reducer) o->reducer->forget();
  for (auto &w : o->weights) w.mutable_grad() = at::Tensor();
}

at::Tensor all_averages(dt_adamw o) {
  if (!o->sharded) return o->average;
  auto all = at::empty_like(o->flat);
  int64_t at = 0;
  for (size_t i = 0; i < o->buckets.size(); i++) {
    const int64_t size = o->buckets[i].numel();
    dt::wait(o->group, dt::all_gather(o->group, all.narrow(0, at, size), o->averages[i]));
    at += size;
  }
  all.narrow(0, at, all.numel() - at).copy_(o->averages.back());
  return all;
}

}  // namespace

extern "C" {

dt_error *dt_adamw_new(const dt_tensor *params, int32_t n, const int64_t *offsets,
                       const int64_t *buckets, int32_t n_buckets, int64_t total,
                       dt_adamw_config cfg, dt_group group, int32_t plain, dt_adamw *out) {
  return guard([&] {
    auto o = std::make_unique<dt_adamw_s>();
    o->cfg = cfg;
    o->group = group;
    o->sharded = group && !plain;
    auto ps = dt::list(params, n);
    TORCH_CHECK(n > 0, "no parameters");
    for (int32_t i = 0; i < n; i++) {
      TORCH_CHECK(ps[i].scalar_type() == at::kFloat, "parameter ", i, " is not float32");
      TORCH_CHECK(ps[i].device() == ps[0].device(), "parameter ", i, " is on another device");
    }
    auto options = ps[0].options().requires_grad(false);
    o->flat = at::zeros({total}, options);
    auto place = [&](const at::Tensor &flat, int32_t i) {
      return flat.narrow(0, offsets[i], ps[i].numel()).view(ps[i].sizes());
    };
    for (int32_t i = 0; i < n; i++) {
      auto home = place(o->flat, i);
      home.copy_(ps[i]);
      ps[i].set_data(home);
      if (!ps[i].requires_grad()) continue;
      o->weights.push_back(ps[i]);
      o->trained.push_back(i);
    }
    if (group) {  // all ranks begin with the weights of the first
      std::vector<int64_t> numbers{n, total, n_buckets, n_buckets ? buckets[0] : 0, plain};
      agree(group, at::tensor(numbers).to(options.device()),
            c10::str(n, " parameters, ", total, " elements, ", n_buckets, " buckets"));
      dt::use(group, o->flat);
      Tensors ts{o->flat};
      dt::wait(group, group->backend->broadcast(ts));
    }

    const int64_t shares = o->sharded ? group->size : 1, share = o->sharded ? group->rank : 0;
    const std::vector<int64_t> sizes(buckets, buckets + n_buckets);
    int64_t trained = 0;
    for (int64_t size : sizes) {
      o->buckets.push_back(o->flat.narrow(0, trained, size));
      o->own.push_back(o->buckets.back().narrow(0, size / shares * share, size / shares));
      trained += size;
    }
    o->own.push_back(o->flat.narrow(0, trained, total - trained));
    o->average = at::cat(o->own);
    o->m = at::zeros({trained / shares}, options);
    o->v = at::zeros({trained / shares}, options);
    int64_t at = 0;
    for (const auto &w : o->own) {
      o->averages.push_back(o->average.narrow(0, at, w.numel()));
      if (o->ms.size() < o->buckets.size()) {
        o->ms.push_back(o->m.narrow(0, at, w.numel()));
        o->vs.push_back(o->v.narrow(0, at, w.numel()));
      }
      at += w.numel();
    }
    o->step = at::zeros({}, options);
    o->lr = at::zeros({}, options);
    if (group) {
      std::vector<int64_t> places;
      for (auto i : o->trained) places.push_back(offsets[i]);
      TORCH_CHECK(!places.empty(), "no parameter requires a gradient");
      o->reducer = std::make_unique<dt::Reducer>(group, o->weights, places, sizes, o->sharded);
    } else {
      for (auto i : o->trained) {
        o->exp_avgs.push_back(place(o->m, i));
        o->exp_avg_sqs.push_back(place(o->v, i));
      }
    }
    *out = o.release();
  });
}

void dt_adamw_free(dt_adamw o) { delete o; }

dt_error *dt_adamw_last_backward(dt_adamw o) {
  return guard([&] {
    if (o->reducer) o->reducer->last_backward();
  });
}

dt_error *dt_adamw_missing(dt_adamw o, int32_t *positions, int32_t *n) {
  return guard([&] {
    *n = 0;
    if (!o->reducer) return;
    for (auto i : o->reducer->missing()) positions[(*n)++] = o->trained[i];
  });
}

dt_error *dt_adamw_step(dt_adamw o, const dt_adamw_options *options, dt_out *out) {
  return guard([&] {
    const auto lr = scalar(o, "learning rate", options->lr->t);
    const auto decay = options->ema_decay
                           ? std::optional(scalar(o, "decay of the average", options->ema_decay->t))
                           : std::nullopt;
    Update u = gather_update(o);
    auto skip = options->skip ? options->skip->t : at::zeros({}, o->flat.options());
    auto norm = norm_of_all(o, u.gs, &skip);
    // The kernels below leave everything as it is where skipped is 1.
    auto skipped = at::isfinite(norm).logical_not_().logical_or_(skip).to(at::kFloat);
    if (options->max_norm > 0) {
      // torch.nn.utils.clip_grad_norm_: the coefficient is clamped on the device. That of a NaN
      // would stay in the gaps between the gradients of a bucket, which no gradient overwrites, and
      // spoil the norm of all later steps.
      auto coef = at::clamp_max(options->max_norm / (norm + 1e-6), 1.0);
      coef = at::where(skipped == 1, 1.0, coef);
      at::_foreach_mul_(u.gs, coef);
    }
    o->lr.copy_(lr);  // the kernel on a GPU takes float32
    o->step.add_(1 - skipped);
    // The kernel reads one step count a tensor and does not write it: all share this scalar.
    std::vector<at::Tensor> steps(u.gs.size(), o->step);
    at::_fused_adamw_(u.ps, u.gs, u.ms, u.vs, {}, steps, o->lr, o->cfg.beta1, o->cfg.beta2,
                      o->cfg.weight_decay, o->cfg.eps, /*amsgrad=*/false, /*maximize=*/false,
                      /*grad_scale=*/{}, skipped);
    if (decay) {
      // ema = decay ema + (1 - decay) p in the original's two roundings. The addition is a step of
      // SGD, whose kernel, unlike that of add_, can be told by the device to do nothing.
      o->average.mul_(at::where(skipped == 1, 1.0, decay->to(at::kFloat)));
      auto rest = 1 - *decay;
      if (!rest.is_cpu()) rest = rest.to(at::kFloat);  // which the kernel there wants
      at::_fused_sgd_(o->averages, o->own, {}, /*weight_decay=*/0, /*momentum=*/0, /*lr=*/rest,
                      /*dampening=*/0, /*nesterov=*/false, /*maximize=*/true,
                      /*is_first_step=*/false, /*grad_scale=*/{}, skipped);
    }
    if (o->sharded) {
      std::vector<c10::intrusive_ptr<c10d::Work>> works;
      for (size_t i = 0; i < o->buckets.size(); i++)
        works.push_back(dt::all_gather(o->group, o->buckets[i], o->own[i]));
      for (const auto &work : works) dt::wait(o->group, work);
    }
    forget(o);
    dt::put(&out[0], std::move(norm));
    dt::put(&out[1], std::move(skipped));
  });
}

dt_error *dt_adamw_watch(dt_adamw o) {
  return guard([&] {
    o->watched.clear();
    for (size_t i = 0; i + 1 < o->own.size(); i++) o->watched.push_back(o->own[i].clone());
  });
}

dt_error *dt_adamw_change(dt_adamw o, dt_out *out) {
  return guard([&] {
    TORCH_CHECK(!o->watched.empty(), "no weights are watched");
    at::_foreach_sub_(o->watched, Tensors(o->own.begin(), o->own.end() - 1));
    auto skip = at::zeros({}, o->flat.options());
    dt::put(out, norm_of_all(o, o->watched, &skip));
    o->watched.clear();
  });
}

dt_error *dt_adamw_expose_grad(dt_adamw o) {
  return guard([&] {
    if (o->reducer) o->reducer->expose();
  });
}

dt_error *dt_adamw_zero_grad(dt_adamw o) {
  return guard([&] { forget(o); });
}

dt_error *dt_adamw_buffer(dt_adamw o, int32_t which, dt_out *out) {
  return guard([&] {
    switch (which) {
      case DT_ADAMW_EMA: return dt::put(out, o->average);
      case DT_ADAMW_EXP_AVG: return dt::put(out, o->m);
      case DT_ADAMW_EXP_AVG_SQ: return dt::put(out, o->v);
      case DT_ADAMW_STEP: return dt::put(out, o->step);
      case DT_ADAMW_WEIGHTS: return dt::put(out, o->flat);
    }
    TORCH_CHECK(false, "no buffer ", which);
  });
}

dt_error *dt_adamw_averages(dt_adamw o, dt_out *out) {
  return guard([&] { dt::put(out, all_averages(o)); });
}

dt_error *dt_adamw_snapshot(dt_adamw o, dt_out *out) {
  return guard([&] {
    // On the first rank alone the weights and averages are needed, but all take part in gathering.
    Tensors state{o->step, o->m, o->v, o->flat, all_averages(o)};
    if (o->group && o->group->rank > 0) state.resize(3);
    const auto device = o->flat.device();
    if (o->host.empty())
      for (const auto &t : state)
        o->host.push_back(
            at::empty(t.sizes(), t.options().device(at::kCPU).pinned_memory(device.is_cuda())));
    for (size_t i = 0; i < state.size(); i++) {
      dt::announce(dt::Traffic::kReadBack);
      o->host[i].copy_(state[i], /*non_blocking=*/true);
    }
    dt::announce(dt::Traffic::kWait);
    if (device.is_cuda()) at::detail::getCUDAHooks().deviceSynchronize(device.index());
    if (o->group) dt::check(o->group);
    out[3].t = out[4].t = nullptr;
    dt::put_many(out, static_cast<int64_t>(state.size()), o->host);
  });
}

}  // extern "C"
