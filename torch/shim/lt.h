// Matrix products with bias, GELU and their gradients by cuBLASLt, whose library is opened at run
// time.
#pragma once

#include <map>
#include <mutex>

#include "fused.h"

namespace dt {

// What is used of cuBLASLt's C interface, which is the same in 12 and 13, so that its header is not
// needed. Functions return 0 or the number of an error. A stream is a cudaStream_t.
struct LtApi {
  using Handle = void *;
  using Desc = void *;
  using Layout = void *;
  using Preference = void *;
  struct Algorithm {
    uint64_t data[8];
  };
  struct Heuristic {
    Algorithm algorithm;
    size_t workspace;
    int status;
    float waves;
    int reserved[4];
  };
  // Numbers of cublasStatus_t, cudaDataType_t, cublasComputeType_t and cublasOperation_t,
  enum Status { kSuccess = 0, kInvalidValue = 7, kArchMismatch = 8, kNotSupported = 15 };
  enum Type { kFloat = 0, kBFloat16 = 14 };
  enum Compute { kCompute32F = 68, kComputeFastTF32 = 77 };
  enum Transposed { kN = 0, kT = 1 };
  // of cublasLtEpilogue_t,
  enum Epilogue {
    kDefault = 1,
    kBias = 4,
    kGELUBias = 32 | 4,
    kGELUAuxBias = 32 | 128 | 4,
    kDGELUBGrad = 64 | 128 | 16,
    kBGradB = 512
  };
  // of cublasLtMatmulDescAttributes_t, and of cublasLtMatmulPreferenceAttributes_t.
  enum Attribute {
    kTransA = 3,
    kTransB = 4,
    kEpilogue = 7,
    kBiasPointer = 8,
    kAuxPointer = 11,
    kAuxLD = 12
  };
  enum Preferred {
    kMaxWorkspace = 1,
    kReductionSchemes = 3,
    kMinAlignmentA = 5
  };  // 6, 7, 8: B, C, D
  enum ReductionScheme { kComputeType = 2 };

  size_t (*get_version)();
  const char *(*get_status_string)(int status);
  int (*create)(Handle *handle);
  int (*destroy)(Handle handle);
  int (*desc_create)(Desc *desc, int compute, int scale_type);
  int (*desc_set)(Desc desc, int attribute, const void *value, size_t bytes);
  int (*desc_destroy)(Desc desc);
  int (*layout_create)(Layout *layout, int type, uint64_t rows, uint64_t columns, int64_t ld);
  int (*layout_destroy)(Layout layout);
  int (*preference_create)(Preference *preference);
  int (*preference_set)(Preference preference, int attribute, const void *value, size_t bytes);
  int (*preference_destroy)(Preference preference);
  int (*heuristic)(Handle handle, Desc desc, Layout a, Layout b, Layout c, Layout d,
                   Preference preference, int wanted, Heuristic *found, int *n);
  int (*check)(Handle handle, Desc desc, Layout a, Layout b, Layout c, Layout d,
               const Algorithm *algorithm, Heuristic *result);
  int (*matmul)(Handle handle, Desc desc, const void *alpha, const void *a, Layout a_layout,
                const void *b, Layout b_layout, const void *beta, const void *c, Layout c_layout,
                void *d, Layout d_layout, const Algorithm *algorithm, void *workspace,
                size_t workspace_bytes, void *stream);
};

// The functions of libcublasLt.so, where libtorch_cuda.so has loaded it; NULL where it has not.
const LtApi *lt_api();

// out = left right, of row-major matrices in float32 or bfloat16, all of a product the same. left
// or right are transposed where that is set. The epilogue says what else is computed:
//
//   kDefault      nothing
//   kBias         out = left right + bias
//   kGELUBias     out = GELU(left right + bias)
//   kGELUAuxBias  the same; aux = left right + bias
//   kDGELUBGrad   out = (left right) GELU'(aux); bias = the sums of its columns
//   kBGradB       bias = the sums of the columns of left, which is transposed
struct Product {
  LtApi::Epilogue epilogue;
  at::Tensor left;
  bool left_transposed;
  at::Tensor right;
  bool right_transposed;
  at::Tensor out;
  at::Tensor bias;  // [columns of out]; for kBGradB [rows of out]
  at::Tensor aux;   // as out; its stride is a multiple of eight
};

// Computes products of one device: by cuBLASLt or, where that has nothing for a product or is not
// the faster, by parts, with libtorch and the kernels of libditcuda.so. It is the first algorithm
// that cuBLASLt proposes. Where products are timed, the fastest is found out at the first use of
// each shape, on random data, but in deterministic mode and, until the next use outside, in a
// capture.
class Products {
 public:
  // Either may be NULL. device_name is that of the device in choices.
  Products(at::Device device, const LtApi *api, const dt_plugin *kernels, std::string device_name);
  ~Products();
  Products(const Products &) = delete;

  void compute(const Product &p);

  // Whether the fastest algorithm is looked for: only where choices are kept, since processes that
  // each time their own do not compute the same bits.
  std::atomic<bool> timed{false};
  // Seconds that f takes; tests have another clock.
  std::function<double(const std::function<void()> &f)> seconds;

 private:
  struct Plan;
  // What tells products apart: the epilogue, types, transpositions, sizes, alignment.
  using Key = std::array<int64_t, 10>;

  Key key_of(const Product &p) const;
  std::string name_of(const Key &key) const;
  Plan make_plan(const Key &key);
  std::vector<LtApi::Heuristic> propose(const Plan &plan, const Key &key);
  bool restore(Plan *plan, const std::string &name);
  void choose(Plan *plan, const Key &key, const Product &p);
  int start(const Plan &plan, const LtApi::Heuristic &how, const Product &p);
  void by_parts(const Product &p);

  const at::Device device_;
  const LtApi *const api_;
  const dt_plugin *const kernels_;
  const std::string on_;
  LtApi::Handle handle_ = nullptr;
  std::mutex mutex_;  // of plans_, and of their descriptors, which a call writes to
  std::map<Key, Plan> plans_;
};

// products returns what computes products on d; NULL for the CPU, but where tests run the kernels
// there, and where operations are their compositions (fused).
Products *products(const at::Device &d);

// How products that were timed are computed, in lines "PRODUCT on DEVICE = ALGORITHM". set_choices
// gives those of an earlier process, which hold where device and version of cuBLASLt are the same,
// and says that the process keeps its own: products are timed from then on.
std::vector<std::string> choices();
void set_choices(const std::vector<std::string> &lines);

// Linear layers by p. x is [..., in], w [out, in], b [out], all of one type.
at::Tensor linear_by(Products &p, const at::Tensor &x, const at::Tensor &w, const at::Tensor &b);
at::Tensor linear_gelu_by(Products &p, const at::Tensor &x, const at::Tensor &w,
                          const at::Tensor &b);
at::Tensor mlp_by(Products &p, const at::Tensor &x, const at::Tensor &w1, const at::Tensor &b1,
                  const at::Tensor &w2, const at::Tensor &b2);

}  // namespace dt
