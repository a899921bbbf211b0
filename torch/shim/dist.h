// Process groups for the other C++ files of the shim.
#pragma once

#include <signal.h>
#include <torch/version.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "core.h"
#include "nccl.h"

// c10d's classes are no part of libtorch's interface, and the headers in gloo/ are ours: one
// version only.
#define DT_GROUPS (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR == 11)

struct dt_store_s {
  c10::intrusive_ptr<c10d::Store> store;
};

// A group of processes that compute together. A null dt_group stands for a single process.
//
// Collectives must be started in the same order by all ranks, from one thread at a time; they may
// be waited for in any order. A collective reads and writes its tensors until the wait returns.
struct dt_group_s {
  c10::intrusive_ptr<c10d::Backend> backend;
  c10::intrusive_ptr<c10d::Store> store;  // the one that the backend was made with
  int rank, size;
  dt::Nccl *nccl = nullptr;  // the backend where it is that
  std::atomic<bool> aborted{false};
  std::atomic<bool> failed{false};  // a collective did
};

namespace dt {

// Threads started meanwhile have SIGPIPE blocked. They write to sockets whose other end may be
// gone, and Go ends the process where one of its own threads is not the one that gets the signal.
class WithoutSigpipe {
 public:
  WithoutSigpipe();
  ~WithoutSigpipe();
  WithoutSigpipe(const WithoutSigpipe &) = delete;

 private:
  sigset_t before_;
};

// wait ends when the work has; for CUDA tensors, when the current stream is told to wait for it. It
// throws where the work failed, timed out or was aborted.
void wait(dt_group g, const c10::intrusive_ptr<c10d::Work> &work);

// check throws where a collective has failed after it was waited for, as those on a GPU may: what
// was computed with its result is worth nothing.
void check(dt_group g);

// use refuses a group that was aborted and a tensor that a collective cannot take: it must be
// contiguous, as its memory is sent as it lies.
void use(dt_group g, const at::Tensor &t);

// Starts sum of t over all ranks, in place.
c10::intrusive_ptr<c10d::Work> all_reduce(dt_group g, const at::Tensor &t);
// Starts the sum of in over all ranks, of which each rank gets its part: out has in's elements
// divided by size.
c10::intrusive_ptr<c10d::Work> reduce_scatter(dt_group g, const at::Tensor &out,
                                              const at::Tensor &in);
// Starts joining the ranks' in, in rank order, in out. in may be the rank's own part of out.
c10::intrusive_ptr<c10d::Work> all_gather(dt_group g, const at::Tensor &out, const at::Tensor &in);

}  // namespace dt
