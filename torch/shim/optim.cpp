// AdamW, gradient clipping and the exponential moving average of the weights, for one process or
// for the ranks of a group that train together.
//
// Weights, both moments and the average live in one flat buffer each; the tensors that the model
// holds become views of it. One call a step does everything without reading anything back.
//
// In a single process, gradients stay where autograd puts them: it keeps the first one it makes and
// adds the following ones in place, while zeroing and adding to a buffer of our own would cost 16
// bytes of traffic a parameter.
//
// On a GPU one kernel of libditcuda.so goes over all of it once; else it is composed of libtorch's.
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/_foreach_div.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_foreach_sub.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>

#include "fused.h"
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
  at::Tensor copy;           // of flat in bfloat16, undefined without dt_adamw_copy

  std::vector<int32_t> trained;   // positions of weights in the parameters
  Tensors weights;                // that are trained, views of flat
  Tensors copies;                 // of weights, views of copy; undefined where none is wanted
  Tensors exp_avgs, exp_avg_sqs;  // one a weight; for a single process only
  std::unique_ptr<dt::Reducer> reducer;  // in a group
};

namespace {

// The gradients and what they change, and weights without one, of which the average moves alone.
struct Update {
  Tensors ps, gs, ms, vs, averages;
  Tensors still, still_averages;
};

// The part of a buffer like flat that belongs to a weight.
at::Tensor part_of(const at::Tensor &buffer, const at::Tensor &weight) {
  return buffer.narrow(0, weight.storage_offset(), weight.numel());
}

// The gradient of a weight, that of its copy included; undefined without one.
at::Tensor gradient(dt_adamw o, size_t i) {
  const auto &own = o->weights[i].grad();
  const auto of_copy = o->copies[i].defined() ? o->copies[i].grad() : at::Tensor();
  if (own.defined() && of_copy.defined()) return own + of_copy;
  return own.defined() ? own : of_copy;
}

Update gather_update(dt_adamw o) {
  Update u;
  if (o->own.back().numel() > 0) {
    u.still.push_back(o->own.back());
    u.still_averages.push_back(o->averages.back());
  }
  if (o->reducer) {
    u.gs = o->reducer->wait();
    at::_foreach_div_(u.gs, o->group->size);
    u.ps.assign(o->own.begin(), o->own.begin() + u.gs.size());
    u.averages.assign(o->averages.begin(), o->averages.begin() + u.gs.size());
    u.ms = o->ms;
    u.vs = o->vs;
    return u;
  }
  // A parameter that took no part in the loss keeps its value, as in PyTorch.
  for (size_t i = 0; i < o->weights.size(); i++) {
    const auto &w = o->weights[i];
    const auto average = part_of(o->average, w);
    auto g = gradient(o, i);
    if (!g.defined()) {
      u.still.push_back(w);
      u.still_averages.push_back(average);
      continue;
    }
    u.ps.push_back(w);
    u.gs.push_back(g.contiguous());
    u.ms.push_back(o->exp_avgs[i]);
    u.vs.push_back(o->exp_avg_sqs[i]);
    u.averages.push_back(average);
  }
  TORCH_CHECK(!u.gs.empty(), "no parameter has a gradient: run backward before the step");
  return u;
}

at::Tensor norm_of(const Tensors &ts) {
  Tensors of_type[2], norms;
  for (const auto &t : ts) of_type[t.scalar_type() == at::kBFloat16].push_back(t);
  for (const auto &some : of_type) {
    if (some.empty()) continue;
    const auto more = at::_foreach_norm(some, 2, at::kFloat);
    norms.insert(norms.end(), more.begin(), more.end());
  }
  return at::linalg_vector_norm(at::stack(norms), 2);
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
  for (auto &c : o->copies)
    if (c.defined()) c.mutable_grad() = at::Tensor();
}

void renew(dt_adamw o) {
  if (o->copy.defined()) o->copy.copy_(o->flat);
}

// What a step does, of one kind or the other. decay is undefined where averages stay, clip where
// gradients are taken as they are; skipped is 1 where nothing is to change.
struct Numbers {
  at::Tensor lr, decay, clip, skipped;
};

// What a step does to the parts of buffers: by a kernel of libditcuda.so.
class Parts {
 public:
  // An average and a copy may be undefined; without a gradient weight, m and v stay.
  void add(const at::Tensor &weight, const at::Tensor &average, const at::Tensor &m = {},
           const at::Tensor &v = {}, const at::Tensor &copy = {}, const at::Tensor &gradient = {}) {
    const auto floats = [](const at::Tensor &t) {
      return t.defined() ? t.mutable_data_ptr<float>() : nullptr;
    };
    const bool half = gradient.defined() && gradient.scalar_type() == at::kBFloat16;
    parts_[half].push_back({weight.numel(), floats(weight), floats(m), floats(v), floats(average),
                            copy.defined() ? copy.mutable_data_ptr() : nullptr,
                            gradient.defined() ? gradient.const_data_ptr() : nullptr});
  }

  void step(const dt_plugin &kernels, const dt_adamw_config &cfg, const at::Tensor &step,
            const Numbers &numbers) const {
    auto workspace = at::empty({DT_ADAMW_WORKSPACE}, step.options().dtype(at::kByte));
    dt_adamw_args a{};
    a.beta1 = cfg.beta1;
    a.beta2 = cfg.beta2;
    a.eps = cfg.eps;
    a.weight_decay = cfg.weight_decay;
    a.lr = numbers.lr.const_data_ptr<double>();
    if (numbers.decay.defined()) a.decay = numbers.decay.const_data_ptr<double>();
    a.step = step.const_data_ptr<float>();
    a.skip = numbers.skipped.const_data_ptr<float>();
    if (numbers.clip.defined()) a.clip = numbers.clip.const_data_ptr<float>();
    a.workspace = workspace.mutable_data_ptr();
    for (int32_t half : {0, 1}) {
      a.parts = parts_[half].data();
      a.count = static_cast<int64_t>(parts_[half].size());
      if (a.count > 0)
        dt::queue_kernels(step.device(),
                          [&](void *stream) { return kernels.adamw(half, &a, stream); });
    }
  }

 private:
  std::vector<dt_adamw_part> parts_[2];  // with gradients in float32, and in bfloat16
};

void step_by_kernels(const dt_plugin &kernels, dt_adamw o, const Update &u,
                     const Numbers &numbers) {
  Parts parts;
  const bool averages = numbers.decay.defined();
  for (size_t i = 0; i < u.ps.size(); i++)
    parts.add(u.ps[i], averages ? u.averages[i] : at::Tensor(), u.ms[i], u.vs[i],
              o->copy.defined() ? part_of(o->copy, u.ps[i]) : at::Tensor(), u.gs[i]);
  for (size_t i = 0; averages && i < u.still.size(); i++)
    parts.add(u.still[i], u.still_averages[i]);
  parts.step(kernels, o->cfg, o->step, numbers);
}

// Two steps against the formula in float64.
void prove_adamw(const dt_plugin &table, const at::Device &d) {
  const dt_adamw_config cfg{0.9, 0.999, 1e-8, 0.03};
  const int64_t n = 2500, cut = 1001;  // the first part with a gradient in bfloat16
  auto weight = dt::random({n}, at::kFloat, d, 1), average = dt::random({n}, at::kFloat, d, 2);
  auto m = at::zeros_like(weight), v = at::zeros_like(weight);
  auto copy = weight.to(at::kBFloat16), count = at::zeros({}, weight.options());
  auto w = weight.to(at::kDouble), mean = average.to(at::kDouble), m1 = m.to(at::kDouble), v1 = m1;
  for (int i = 1; i <= 2; i++) {
    auto g = dt::random({n}, at::kFloat, d, 10 + i);
    const auto half = g.narrow(0, 0, cut).to(at::kBFloat16);
    const double lr = 1e-2 / i, decay = 0.99, clip = 0.5;
    const Numbers numbers{at::full({}, lr, g.options().dtype(at::kDouble)),
                          at::full({}, decay, g.options().dtype(at::kDouble)),
                          at::full({}, clip, g.options()), at::zeros({}, g.options())};
    count.add_(1);
    Parts parts;
    for (const auto &[at, length] : {std::pair(int64_t{0}, cut), std::pair(cut, n - cut)}) {
      const auto of = [at = at, length = length](const at::Tensor &t) {
        return t.narrow(0, at, length);
      };
      parts.add(of(weight), of(average), of(m), of(v), of(copy), at == 0 ? half : of(g));
    }
    parts.step(table, cfg, count, numbers);
    const auto wide =
        at::cat({half.to(at::kDouble), g.narrow(0, cut, n - cut).to(at::kDouble)}) * clip;
    m1 = cfg.beta1 * m1 + (1 - cfg.beta1) * wide;
    v1 = cfg.beta2 * v1 + (1 - cfg.beta2) * wide * wide;
    w = w * (1 - lr * cfg.weight_decay) -
        lr / (1 - std::pow(cfg.beta1, i)) * m1 /
            ((v1 / (1 - std::pow(cfg.beta2, i))).sqrt() + cfg.eps);
    mean = decay * mean + (1 - decay) * w;
  }
  const double limit = 1e-5;
  dt::expect_near(weight, w, limit, "the vector of weights");
  dt::expect_near(average, mean, limit, "the vector of averages");
  dt::expect_near(m, m1, limit, "the vector of first moments");
  dt::expect_near(v, v1, limit, "the vector of second moments");
  TORCH_CHECK(copy.equal(weight.to(at::kBFloat16)), "the copies are no roundings of the weights");
}

dt::Kernel adamw_kernel("adamw", prove_adamw);

void step_by_libtorch(dt_adamw o, Update &u, const Numbers &numbers) {
  const auto &skipped = numbers.skipped;
  for (auto &g : u.gs) g = g.to(at::kFloat);
  if (numbers.clip.defined()) at::_foreach_mul_(u.gs, numbers.clip);
  o->lr.copy_(numbers.lr);  // the kernel on a GPU takes float32
  // The kernel reads one step count a tensor and does not write it: all share this scalar.
  std::vector<at::Tensor> steps(u.gs.size(), o->step);
  at::_fused_adamw_(u.ps, u.gs, u.ms, u.vs, {}, steps, o->lr, o->cfg.beta1, o->cfg.beta2,
                    o->cfg.weight_decay, o->cfg.eps, /*amsgrad=*/false, /*maximize=*/false,
                    /*grad_scale=*/{}, skipped);
  renew(o);
  if (!numbers.decay.defined()) return;
  // ema = decay ema + (1 - decay) p in the original's two roundings. The addition is a step of SGD,
  // whose kernel, unlike that of add_, can be told by the device to do nothing.
  o->average.mul_(at::where(skipped == 1, 1.0, numbers.decay.to(at::kFloat)));
  auto rest = 1 - numbers.decay;
  if (!rest.is_cpu()) rest = rest.to(at::kFloat);  // which the kernel there wants
  at::_fused_sgd_(o->averages, o->own, {}, /*weight_decay=*/0, /*momentum=*/0, /*lr=*/rest,
                  /*dampening=*/0, /*nesterov=*/false, /*maximize=*/true,
                  /*is_first_step=*/false, /*grad_scale=*/{}, skipped);
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
    o->copies.resize(o->weights.size());
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
    Numbers numbers;
    numbers.lr = scalar(o, "learning rate", options->lr->t);
    if (options->ema_decay)
      numbers.decay = scalar(o, "decay of the average", options->ema_decay->t);
    Update u = gather_update(o);
    auto skip = options->skip ? options->skip->t : at::zeros({}, o->flat.options());
    auto norm = norm_of_all(o, u.gs, &skip);
    auto &skipped = numbers.skipped;
    skipped = at::isfinite(norm).logical_not_().logical_or_(skip).to(at::kFloat);
    if (options->max_norm > 0) {
      // torch.nn.utils.clip_grad_norm_: the coefficient is clamped on the device. That of a NaN
      // would stay in the gaps between the gradients of a bucket, which no gradient overwrites, and
      // spoil the norm of all later steps.
      auto coef = at::clamp_max(options->max_norm / (norm + 1e-6), 1.0);
      numbers.clip = at::where(skipped == 1, 1.0, coef);
    }
    o->step.add_(1 - skipped);
    if (const dt_plugin *kernels = adamw_kernel.on(o->flat.device()))
      step_by_kernels(*kernels, o, u, numbers);
    else
      step_by_libtorch(o, u, numbers);
    if (o->sharded) {
      std::vector<c10::intrusive_ptr<c10d::Work>> works;
      for (size_t i = 0; i < o->buckets.size(); i++)
        works.push_back(dt::all_gather(o->group, o->buckets[i], o->own[i]));
      for (const auto &work : works) dt::wait(o->group, work);
    }
    forget(o);
    dt::put(&out[0], std::move(norm));
    dt::put(&out[1], std::move(numbers.skipped));
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
    for (size_t i = 0; i < o->copies.size(); i++) {
      if (!o->copies[i].defined() || !o->copies[i].grad().defined()) continue;
      o->weights[i].mutable_grad() = gradient(o, i).to(at::kFloat);
      o->copies[i].mutable_grad() = at::Tensor();
    }
  });
}

dt_error *dt_adamw_zero_grad(dt_adamw o) {
  return guard([&] { forget(o); });
}

dt_error *dt_adamw_copy(dt_adamw o, int32_t position, dt_out *out) {
  return guard([&] {
    TORCH_CHECK(!o->group, "the ranks of a group keep no copies of weights");
    const auto at = std::find(o->trained.begin(), o->trained.end(), position);
    TORCH_CHECK(at != o->trained.end(), "parameter ", position, " is not trained");
    const auto i = static_cast<size_t>(at - o->trained.begin());
    if (!o->copy.defined()) o->copy = o->flat.to(at::kBFloat16);
    auto &c = o->copies[i];
    const auto &w = o->weights[i];
    if (!c.defined()) c = part_of(o->copy, w).view(w.sizes()).detach().requires_grad_();
    dt::put(out, c);
  });
}

dt_error *dt_adamw_renew(dt_adamw o) {
  return guard([&] { renew(o); });
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
