// Collectives over NCCL, whose library is opened at run time.
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <mutex>
#include <thread>

namespace dt {

// What is used of NCCL's C interface. It does not change between versions, other than the layout of
// c10d's own ProcessGroupNCCL, which follows the nccl.h it was compiled with; so neither that
// header nor CUDA's are needed. Functions return 0 or the number of an error. A stream is a
// cudaStream_t.
struct NcclApi {
  static constexpr int32_t kOldest = 21900;  // 2.19: from it on another thread may abort
  struct Comm;
  struct Id {
    char bytes[128];
  };
  // Numbers of ncclDataType_t and ncclRedOp_t.
  enum Type {
    kUint8 = 1,
    kInt32 = 2,
    kInt64 = 4,
    kHalf = 6,
    kFloat = 7,
    kDouble = 8,
    kBFloat16 = 9
  };
  enum Op { kSum = 0, kMax = 2, kMin = 3 };

  int (*get_version)(int *version);
  int (*get_unique_id)(Id *id);
  int (*comm_init_rank)(Comm **comm, int ranks, Id id, int rank);
  int (*comm_destroy)(Comm *comm);
  int (*comm_abort)(Comm *comm);
  int (*comm_get_async_error)(Comm *comm, int *error);
  const char *(*get_error_string)(int error);
  const char *(*get_last_error)(Comm *comm);
  int (*all_reduce)(const void *in, void *out, size_t n, int type, int op, Comm *comm,
                    void *stream);
  int (*reduce_scatter)(const void *in, void *out, size_t n_out, int type, int op, Comm *comm,
                        void *stream);
  int (*all_gather)(const void *in, void *out, size_t n_in, int type, Comm *comm, void *stream);
  int (*broadcast)(const void *in, void *out, size_t n, int type, int root, Comm *comm,
                   void *stream);
};

// The functions of libnccl.so.2, and its version as NCCL writes it (22809 for 2.28.9). Both throw
// where the library is missing, older than kOldest, or lacks one of them.
const NcclApi &nccl_api();
int32_t nccl_version();

// A backend of c10d for tensors on one GPU. Collectives go to a stream of their own, which first
// waits for the stream that is current when they are started; waiting for one makes the current
// stream wait for it, not the host. They keep their tensors until then.
//
// A thread watches: where a collective is not done within the time-out, or NCCL reports an error,
// it aborts the communicator, which ends the kernels that wait for other ranks, so that the host
// does not hang in a call to CUDA either. Then everything here throws what the reason was.
//
// On CPU tensors, which only the tests' stand-in for NCCL takes, a collective is done when started.
class Nccl : public c10d::Backend {
 public:
  // Waits for the other ranks, without limit.
  Nccl(const NcclApi &api, const NcclApi::Id &id, int rank, int size, at::Device device,
       std::chrono::milliseconds timeout);
  // Waits for collectives under way, as the others' part in them needs this rank.
  ~Nccl() override;

  const std::string getBackendName() const override { return "nccl"; }
  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor> &ts,
                                           const c10d::AllreduceOptions &o) override;
  c10::intrusive_ptr<c10d::Work> broadcast(std::vector<at::Tensor> &ts,
                                           const c10d::BroadcastOptions &o) override;
  c10::intrusive_ptr<c10d::Work> _reduce_scatter_base(at::Tensor &out, at::Tensor &in,
                                                      const c10d::ReduceScatterOptions &o) override;
  c10::intrusive_ptr<c10d::Work> _allgather_base(at::Tensor &out, at::Tensor &in,
                                                 const c10d::AllgatherOptions &o) override;
  void abort() override;

  bool failed() const;
  void check() const;  // throws why it failed

 private:
  struct State;
  class Work;

  template <class F>
  c10::intrusive_ptr<c10d::Work> start(const char *what, std::vector<at::Tensor> ts, F call);
  std::string error(const char *what, int number) const;
  void fail(const std::string &why);
  void end(int (*how)(NcclApi::Comm *)) noexcept;
  std::string trouble();
  void watch();

  const NcclApi &api_;
  const at::Device device_;
  const std::chrono::milliseconds timeout_;
  std::optional<c10::Stream> stream_;  // none on the CPU
  std::optional<c10::Event> ready_;    // what the collective computes with is
  std::shared_ptr<State> state_;
  std::timed_mutex calling_;       // held while a collective is started
  std::mutex comm_guard_;          // of the pointer
  NcclApi::Comm *comm_ = nullptr;  // null after an abort
  std::thread watchdog_;
};

}  // namespace dt
