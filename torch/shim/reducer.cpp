#include "reducer.h"

#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

namespace dt {

struct Reducer::Hook : torch::autograd::PostAccumulateGradHook {
  Reducer *r;
  size_t i;
  Hook(Reducer *r, size_t i) : r(r), i(i) {}
  void operator()(const at::Tensor &) override { r->receive(i); }
};

Reducer::Reducer(dt_group group, const std::vector<at::Tensor> &weights,
                 const std::vector<int64_t> &offsets, const std::vector<int64_t> &sizes,
                 bool sharded)
    : group_(group), sharded_(sharded), weights_(weights) {
  has_grad_.resize(weights.size());
  has_last_grad_.resize(weights.size());
  grads_.resize(weights.size());
  bucket_of_.resize(weights.size());
  int64_t begin = 0;
  for (int64_t size : sizes) {
    Bucket b;
    // Zeros: what lies between the weights is summed too.
    b.grads = at::zeros({size}, weights[0].options().requires_grad(false));
    b.sums = sharded ? at::zeros({size / group->size}, b.grads.options()) : b.grads;
    for (size_t i = 0; i < weights.size(); i++) {
      if (offsets[i] < begin || offsets[i] >= begin + size) continue;
      grads_[i] = b.grads.narrow(0, offsets[i] - begin, weights[i].numel()).view_as(weights[i]);
      bucket_of_[i] = buckets_.size();
      b.members.push_back(i);
    }
    sums_.push_back(b.sums);
    buckets_.push_back(std::move(b));
    begin += size;
  }
  for (size_t i = 0; i < weights.size(); i++)
    torch::autograd::impl::set_post_acc_grad_hooks(weights[i], std::make_unique<Hook>(this, i));
}

Reducer::~Reducer() {
  for (const auto &w : weights_) torch::autograd::impl::set_post_acc_grad_hooks(w, nullptr);
}

void Reducer::last_backward() {
  last_ = true;
  has_last_grad_.assign(has_last_grad_.size(), false);
  for (auto &b : buckets_) b.expected = b.members.size();
}

std::vector<size_t> Reducer::missing() const {
  std::vector<size_t> out;
  for (size_t i = 0; i < has_grad_.size(); i++)
    if (!has_grad_[i]) out.push_back(i);
  return out;
}

void Reducer::receive(size_t i) {
  at::NoGradGuard no_grad;
  Bucket &b = buckets_[bucket_of_[i]];
  TORCH_CHECK(!b.work,
              "a weight gets another gradient when the sum over the ranks has begun: make "
              "the step first, and say before which backward pass is the last");
  at::Tensor &g = weights_[i].mutable_grad();
  if (has_grad_[i])
    grads_[i].add_(g);
  else
    grads_[i].copy_(g);
  g = at::Tensor();
  has_grad_[i] = true;
  if (!last_ || has_last_grad_[i]) return;
  has_last_grad_[i] = true;
  b.expected--;
  // In the same order on all ranks, as collectives must be.
  while (started_ < buckets_.size() && buckets_[started_].expected == 0) start(buckets_[started_]);
}

void Reducer::start(Bucket &b) {
  b.work = sharded_ ? reduce_scatter(group_, b.sums, b.grads) : all_reduce(group_, b.grads);
  started_++;
}

const std::vector<at::Tensor> &Reducer::wait() {
  const auto without = missing().size();
  TORCH_CHECK(without == 0, without, " weights have no gradient");
  // Those that did not fill up in the last pass did in one before.
  while (started_ < buckets_.size()) start(buckets_[started_]);
  for (auto &b : buckets_) dt::wait(group_, b.work);
  return sums_;
}

void Reducer::forget() {
  for (auto &w : weights_) w.mutable_grad() = at::Tensor();
  for (auto &b : buckets_) {
    const auto work = std::move(b.work);
    if (!work) continue;
    try {
      dt::wait(group_, work);
    } catch (...) {
      if (!group_->aborted) throw;  // else nobody wants the sums any more
    }
  }
  has_grad_.assign(has_grad_.size(), false);
  started_ = 0;
  last_ = false;
}

void Reducer::expose() {
  for (size_t i = 0; i < weights_.size(); i++)
    if (has_grad_[i]) weights_[i].mutable_grad() = grads_[i];
}

}  // namespace dt
