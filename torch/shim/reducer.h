// Sums of the gradients over the ranks of a group, started while the backward pass goes on.
#pragma once

#include "dist.h"

namespace dt {

// A Reducer moves the gradients of weights, as autograd makes them, into buckets and sums these
// over the ranks: from the last backward pass before a step on, as soon as a bucket is full, else
// when the sums are asked for.
class Reducer {
 public:
  // Weight i lies at offsets[i] of the buckets, which have these sizes and lie one behind the
  // other. Sharded, a rank gets the sums of its share of each bucket only, else all of them.
  Reducer(dt_group group, const std::vector<at::Tensor> &weights,
          const std::vector<int64_t> &offsets, const std::vector<int64_t> &sizes, bool sharded);
  ~Reducer();
  Reducer(const Reducer &) = delete;

  void last_backward();  // is what follows
  // The weights that have no gradient, which sums need.
  std::vector<size_t> missing() const;
  // Waits for the sums, one tensor a bucket.
  const std::vector<at::Tensor> &wait();
  void forget();  // the gradients
  void expose();  // the gradients so far, as those of the weights

 private:
  struct Hook;
  struct Bucket {
    at::Tensor grads, sums;
    std::vector<size_t> members;
    size_t expected = 0;  // gradients that the last pass still has to make
    c10::intrusive_ptr<c10d::Work> work;
  };

  void receive(size_t i);
  void start(Bucket &b);

  dt_group group_;
  bool sharded_;
  std::vector<at::Tensor> weights_, grads_;  // grads_: views of the buckets
  std::vector<at::Tensor> sums_;
  std::vector<Bucket> buckets_;
  std::vector<size_t> bucket_of_;               // of each weight
  std::vector<bool> has_grad_, has_last_grad_;  // whether a weight has any; one of the last pass
  bool last_ = false;                           // in the last pass, or after it
  size_t started_ = 0;                          // buckets whose sum has begun
};

}  // namespace dt
