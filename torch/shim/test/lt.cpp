// Linear layers through cuBLASLt (lt.h), on the CPU: a stand-in for the library computes from the
// descriptors alone, so the layouts are held against what the real one documents. It refuses what
// that refuses.
#include "../lt.h"

#include <ATen/Context.h>

#include <cmath>

#include "check.h"

#if __has_include(<cublasLt.h>)
#include <cublasLt.h>
#define SAME(ours, theirs) static_assert(int{dt::LtApi::ours} == int{theirs})
SAME(kSuccess, CUBLAS_STATUS_SUCCESS);
SAME(kInvalidValue, CUBLAS_STATUS_INVALID_VALUE);
SAME(kArchMismatch, CUBLAS_STATUS_ARCH_MISMATCH);
SAME(kNotSupported, CUBLAS_STATUS_NOT_SUPPORTED);
SAME(kFloat, CUDA_R_32F);
SAME(kBFloat16, CUDA_R_16BF);
SAME(kCompute32F, CUBLAS_COMPUTE_32F);
SAME(kComputeFastTF32, CUBLAS_COMPUTE_32F_FAST_TF32);
SAME(kN, CUBLAS_OP_N);
SAME(kT, CUBLAS_OP_T);
SAME(kDefault, CUBLASLT_EPILOGUE_DEFAULT);
SAME(kBias, CUBLASLT_EPILOGUE_BIAS);
SAME(kGELUBias, CUBLASLT_EPILOGUE_GELU_BIAS);
SAME(kGELUAuxBias, CUBLASLT_EPILOGUE_GELU_AUX_BIAS);
SAME(kDGELUBGrad, CUBLASLT_EPILOGUE_DGELU_BGRAD);
SAME(kBGradB, CUBLASLT_EPILOGUE_BGRADB);
SAME(kTransA, CUBLASLT_MATMUL_DESC_TRANSA);
SAME(kTransB, CUBLASLT_MATMUL_DESC_TRANSB);
SAME(kEpilogue, CUBLASLT_MATMUL_DESC_EPILOGUE);
SAME(kBiasPointer, CUBLASLT_MATMUL_DESC_BIAS_POINTER);
SAME(kAuxPointer, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER);
SAME(kAuxLD, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD);
SAME(kMaxWorkspace, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(kReductionSchemes, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
SAME(kMinAlignmentA, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
SAME(kMinAlignmentA + 3, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
SAME(kComputeType, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
static_assert(sizeof(dt::LtApi::Algorithm) == sizeof(cublasLtMatmulAlgo_t));
static_assert(sizeof(dt::LtApi::Heuristic) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(dt::LtApi::Heuristic, workspace) ==
              offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
static_assert(offsetof(dt::LtApi::Heuristic, status) ==
              offsetof(cublasLtMatmulHeuristicResult_t, state));
#undef SAME
#endif

namespace {

using Lt = dt::LtApi;

// The stand-in.

constexpr uint64_t kMagic = 0x17;  // of its algorithms: magic, number, epilogue, alignment
constexpr size_t kMemory = 256;    // that they want

struct Desc {
  int compute = 0, transposed_a = 0, transposed_b = 0;
  uint32_t epilogue = Lt::kDefault;
  void *bias = nullptr, *aux = nullptr;
  int64_t aux_ld = 0;
};

struct Layout {
  int type;
  int64_t rows, columns, ld;
};

struct Preference {
  size_t workspace = 0;
  uint32_t schemes = 7, alignment[4] = {256, 256, 256, 256};
};

int objects = 0;                   // that are not destroyed
std::vector<uint32_t> started;     // the epilogues of products
std::vector<uint64_t> algorithms;  // and the numbers of their algorithms
bool without_heuristics = false, without_bias_gradients = false;
int fail_with = 0;  // status of the next product

Desc &desc_of(Lt::Desc d) { return *static_cast<Desc *>(d); }
const Layout &layout_of(Lt::Layout l) { return *static_cast<const Layout *>(l); }

bool has(const Desc &d, uint32_t bits) { return (d.epilogue & bits) == bits; }
bool has_aux(const Desc &d) { return d.epilogue != Lt::kDefault && has(d, 128); }
bool has_bias(const Desc &d) { return d.epilogue & (4 | 16 | 256 | 512); }

bool aligned(const void *p, uint64_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

// What the real one documents: sizes that fit, one type, a leading dimension of aux that is a
// multiple of eight and not less than the rows, pointers where the epilogue wants them.
int supported(const Desc &d, const Layout &a, const Layout &b, const Layout &c, const Layout &out) {
  const auto rows = [](const Layout &l, int t) { return t ? l.columns : l.rows; };
  const auto columns = [](const Layout &l, int t) { return t ? l.rows : l.columns; };
  for (const Layout *l : {&a, &b, &c, &out})
    if (l->ld < l->rows || l->rows < 1 || l->columns < 1) return Lt::kInvalidValue;
  if (columns(a, d.transposed_a) != rows(b, d.transposed_b) ||
      rows(a, d.transposed_a) != out.rows || columns(b, d.transposed_b) != out.columns ||
      c.rows != out.rows || c.columns != out.columns)
    return Lt::kInvalidValue;
  if (a.type != b.type || a.type != c.type || a.type != out.type) return Lt::kNotSupported;
  if (a.type != Lt::kFloat && a.type != Lt::kBFloat16) return Lt::kNotSupported;
  if (d.compute != Lt::kCompute32F && (d.compute != Lt::kComputeFastTF32 || a.type != Lt::kFloat))
    return Lt::kNotSupported;
  switch (d.epilogue) {
    case Lt::kDefault:
    case Lt::kBias:
    case Lt::kGELUBias:
    case Lt::kGELUAuxBias:
    case Lt::kDGELUBGrad: break;
    case Lt::kBGradB:
      if (without_bias_gradients) return Lt::kNotSupported;
      break;
    default: return Lt::kNotSupported;
  }
  if (has_bias(d) && !d.bias) return Lt::kInvalidValue;
  if (has_aux(d) && (!d.aux || d.aux_ld % 8 || d.aux_ld < out.rows)) return Lt::kInvalidValue;
  return Lt::kSuccess;
}

// A column-major matrix in float64.
at::Tensor read(const void *p, const Layout &l, int transposed) {
  const auto type = l.type == Lt::kFloat ? at::kFloat : at::kBFloat16;
  const auto t = at::from_blob(const_cast<void *>(p), {l.rows, l.columns}, {1, l.ld}, type);
  return (transposed ? t.t() : t).to(at::kDouble);
}

void write(void *p, const Layout &l, const at::Tensor &t) {
  const auto type = l.type == Lt::kFloat ? at::kFloat : at::kBFloat16;
  at::from_blob(p, {l.rows, l.columns}, {1, l.ld}, type).copy_(t);
}

const double kScale = std::sqrt(2 / M_PI);

at::Tensor tanh_gelu(const at::Tensor &z) {
  return 0.5 * z * (1 + (kScale * (z + 0.044715 * z * z * z)).tanh());
}

at::Tensor tanh_gelu_slope(const at::Tensor &z) {
  const auto t = (kScale * (z + 0.044715 * z * z * z)).tanh();
  return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * kScale * (1 + 3 * 0.044715 * z * z);
}

int matmul(Lt::Handle, Lt::Desc desc, const void *alpha, const void *a, Lt::Layout a_layout,
           const void *b, Lt::Layout b_layout, const void *beta, const void *c, Lt::Layout c_layout,
           void *out, Lt::Layout out_layout, const Lt::Algorithm *algorithm, void *workspace,
           size_t bytes, void *stream) {
  const Desc &d = desc_of(desc);
  const Layout &la = layout_of(a_layout), &lb = layout_of(b_layout), &lo = layout_of(out_layout);
  CHECK(!stream && c == out && *static_cast<const float *>(alpha) == 1 &&
        *static_cast<const float *>(beta) == 0);
  if (fail_with) return std::exchange(fail_with, 0);
  if (const int status = supported(d, la, lb, layout_of(c_layout), lo)) return status;
  const uint64_t *const words = algorithm->data;
  if (words[0] != kMagic || words[2] != d.epilogue || bytes < kMemory || !workspace)
    return Lt::kInvalidValue;
  for (const void *p : {a, b, c, static_cast<const void *>(out),
                        static_cast<const void *>(has_bias(d) ? d.bias : nullptr),
                        static_cast<const void *>(has_aux(d) ? d.aux : nullptr)})
    if (!aligned(p, words[3])) return Lt::kInvalidValue;
  std::memset(workspace, 0xff, bytes);
  started.push_back(d.epilogue);
  algorithms.push_back(words[1]);

  const Layout aux{lo.type, lo.rows, lo.columns, d.aux_ld}, row{lo.type, lo.rows, 1, lo.rows},
      column{lo.type, lo.columns, 1, lo.columns};
  const auto right = read(b, lb, d.transposed_b);
  auto z = at::mm(read(a, la, d.transposed_a), right);
  if (d.epilogue & 4) z = z + read(d.bias, row, 0);
  if (d.epilogue == Lt::kGELUAuxBias) write(d.aux, aux, z);
  if (d.epilogue == Lt::kGELUBias || d.epilogue == Lt::kGELUAuxBias) z = tanh_gelu(z);
  if (d.epilogue == Lt::kDGELUBGrad) {
    z = z * tanh_gelu_slope(read(d.aux, aux, 0));
    write(d.bias, row, z.sum(1, true));
  }
  if (d.epilogue == Lt::kBGradB) write(d.bias, column, right.sum(0).unsqueeze(1));
  write(out, lo, z);
  return Lt::kSuccess;
}

Lt stand_in() {
  Lt api{};
  api.get_version = [] { return size_t{130100}; };
  api.get_status_string = [](int) { return "CUBLAS_STATUS"; };
  api.create = [](Lt::Handle *h) {
    *h = new int(++objects);
    return 0;
  };
  api.destroy = [](Lt::Handle h) {
    delete static_cast<int *>(h);
    return objects--, 0;
  };
  api.desc_create = [](Lt::Desc *d, int compute, int scale) {
    CHECK(scale == Lt::kFloat);
    objects++;
    *d = new Desc{compute};
    return 0;
  };
  api.desc_set = [](Lt::Desc desc, int attribute, const void *value, size_t bytes) {
    Desc &d = desc_of(desc);
    const auto set = [&](auto &field) {
      if (bytes != sizeof field) return int{Lt::kInvalidValue};
      std::memcpy(&field, value, bytes);
      return 0;
    };
    switch (attribute) {
      case Lt::kTransA: return set(d.transposed_a);
      case Lt::kTransB: return set(d.transposed_b);
      case Lt::kEpilogue: return set(d.epilogue);
      case Lt::kBiasPointer: return set(d.bias);
      case Lt::kAuxPointer: return set(d.aux);
      case Lt::kAuxLD: return set(d.aux_ld);
      default: return int{Lt::kInvalidValue};
    }
  };
  api.desc_destroy = [](Lt::Desc d) {
    delete static_cast<Desc *>(d);
    return objects--, 0;
  };
  api.layout_create = [](Lt::Layout *l, int type, uint64_t rows, uint64_t columns, int64_t ld) {
    objects++;
    *l = new Layout{type, static_cast<int64_t>(rows), static_cast<int64_t>(columns), ld};
    return 0;
  };
  api.layout_destroy = [](Lt::Layout l) {
    delete static_cast<Layout *>(l);
    return objects--, 0;
  };
  api.preference_create = [](Lt::Preference *p) {
    objects++;
    *p = new Preference;
    return 0;
  };
  api.preference_set = [](Lt::Preference preference, int attribute, const void *value,
                          size_t bytes) {
    auto &p = *static_cast<Preference *>(preference);
    const auto set = [&](auto &field) {
      if (bytes != sizeof field) return int{Lt::kInvalidValue};
      std::memcpy(&field, value, bytes);
      return 0;
    };
    if (attribute == Lt::kMaxWorkspace) return set(p.workspace);
    if (attribute == Lt::kReductionSchemes) return set(p.schemes);
    CHECK(attribute >= Lt::kMinAlignmentA && attribute < Lt::kMinAlignmentA + 4);
    return set(p.alignment[attribute - Lt::kMinAlignmentA]);
  };
  api.preference_destroy = [](Lt::Preference p) {
    delete static_cast<Preference *>(p);
    return objects--, 0;
  };
  // Algorithms 1 and 2, and one between them that cannot be used.
  api.heuristic = [](Lt::Handle, Lt::Desc desc, Lt::Layout a, Lt::Layout b, Lt::Layout c,
                     Lt::Layout out, Lt::Preference preference, int wanted, Lt::Heuristic *found,
                     int *n) {
    const auto &p = *static_cast<const Preference *>(preference);
    const Desc &d = desc_of(desc);
    CHECK(wanted >= 3 && p.workspace >= kMemory && p.schemes == Lt::kComputeType);
    if (without_heuristics) return int{Lt::kNotSupported};
    if (const int status = supported(d, layout_of(a), layout_of(b), layout_of(c), layout_of(out)))
      return status;
    uint64_t least = p.alignment[0];
    for (const uint32_t bytes : p.alignment) least = std::min<uint64_t>(least, bytes);
    CHECK(!has_bias(d) || aligned(d.bias, least));
    for (uint64_t i = 0; i < 3; i++) {
      found[i] = {};
      found[i].algorithm = {{kMagic, i == 2 ? 2u : i == 0 ? 1u : 3u, d.epilogue, least}};
      found[i].workspace = kMemory;
      found[i].status = i == 1 ? Lt::kNotSupported : Lt::kSuccess;
    }
    *n = 3;
    return 0;
  };
  api.check = [](Lt::Handle, Lt::Desc desc, Lt::Layout a, Lt::Layout b, Lt::Layout c,
                 Lt::Layout out, const Lt::Algorithm *algorithm, Lt::Heuristic *result) {
    if (const int status =
            supported(desc_of(desc), layout_of(a), layout_of(b), layout_of(c), layout_of(out)))
      return status;
    if (algorithm->data[0] != kMagic || algorithm->data[2] != desc_of(desc).epilogue)
      return int{Lt::kInvalidValue};
    *result = {};
    result->workspace = kMemory;
    return 0;
  };
  api.matmul = matmul;
  return api;
}

// The tests.

const at::Device kCPU(at::kCPU);

struct Deterministic {
  Deterministic() { at::globalContext().setDeterministicAlgorithms(true, false); }
  ~Deterministic() { at::globalContext().setDeterministicAlgorithms(false, false); }
};

struct Result {
  at::Tensor y;
  std::vector<at::Tensor> gradients;
};

// Result and gradients, those of sum(y dy).
template <class F>
Result of(const std::vector<at::Tensor> &in, const at::Tensor &dy, F f) {
  c10::AutoGradMode grad(true);
  std::vector<at::Tensor> leaves;
  for (const auto &t : in) leaves.push_back(t.detach().requires_grad_());
  const auto y = f(leaves);
  (y * dy).sum().backward();
  Result r{y.detach(), {}};
  for (const auto &leaf : leaves) r.gradients.push_back(leaf.grad());
  return r;
}

// near checks that got is want, in float64, within limit of the larger of the value and the root
// mean square of all.
void near_at(int line, const std::string &what, const at::Tensor &got, const at::Tensor &want,
             double limit) {
  const auto unit = want.square().mean().sqrt();
  const double off =
      ((got.to(at::kDouble) - want).abs() / at::maximum(want.abs(), unit)).max().item<double>();
  if (!(got.sizes() == want.sizes() && off <= limit))
    fail_at(__FILE__, line, what + " is off by " + std::to_string(off * 1e6) + "e-6");
}
#define NEAR(...) near_at(__LINE__, __VA_ARGS__)

// What layers compute if each tensor is rounded to the type once: x, w1, b1, w2, b2 in float64.
// Without w2 it is GELU(x w1^T + b1), for which GELU's derivative is libtorch's.
Result rounded_mlp(const std::vector<at::Tensor> &in, const at::Tensor &dy, at::ScalarType type) {
  const auto round = [type](const at::Tensor &t) { return t.to(type).to(at::kDouble); };
  const auto &x = in[0], &w1 = in[1], &b1 = in[2];
  const auto z = at::addmm(b1, x, w1.t()), aux = round(z), h = round(tanh_gelu(z));
  if (in.size() == 3) {
    const auto daux = at::gelu_backward(dy.to(type), aux.to(type), "tanh").to(at::kDouble);
    return {h, {at::mm(daux, w1), at::mm(daux.t(), x), daux.sum(0)}};
  }
  const auto sums = at::mm(dy, in[3]) * tanh_gelu_slope(aux), daux = round(sums);
  return {at::addmm(in[4], h, in[3].t()),
          {at::mm(daux, w1), at::mm(daux.t(), x), sums.sum(0), at::mm(dy.t(), h), dy.sum(0)}};
}

std::vector<uint32_t> epilogues(std::vector<uint32_t> v) {
  std::sort(v.begin(), v.end());
  return v;
}

// All three layers equal their compositions in float64, by cuBLASLt, by parts with kernels, and by
// parts without.
void layers(const Lt *api, const dt_plugin *kernels, int64_t rows, int64_t in, int64_t out,
            at::ScalarType type) {
  const Deterministic first;
  dt::Products p(kCPU, api, kernels, "CPU");
  const auto draw = [&](at::IntArrayRef sizes, double scale) {
    return (at::randn(sizes, at::kDouble) * scale).to(type);
  };
  const double scale = 1 / std::sqrt(static_cast<double>(in));
  const auto x = draw({rows, in}, 1), w1 = draw({out, in}, scale), b1 = draw({out}, 1),
             w2 = draw({in, out}, scale), b2 = draw({in}, 1), dh = draw({rows, out}, 1),
             dy = draw({rows, in}, 1);
  const std::string name = std::to_string(rows) + "x" + std::to_string(in) + "x" +
                           std::to_string(out) + (api ? " by cuBLASLt" : " by parts") +
                           (kernels ? " and kernels" : "");
  // bfloat16 is off by one rounding of the result. By parts more is rounded, and products are
  // those of libtorch on the CPU.
  const bool single = type == at::kFloat;
  const double limit = single ? (api ? 1e-6 : 2e-5) : (api ? 4e-3 : 5e-2);
  const auto wide = [](const std::vector<at::Tensor> &v) {
    std::vector<at::Tensor> result;
    for (const auto &t : v) result.push_back(t.to(at::kDouble));
    return result;
  };
  const auto compare = [&](const std::string &what, const Result &got, const Result &want) {
    CHECK(got.y.scalar_type() == type);
    NEAR(name + ", " + what, got.y, want.y, limit);
    for (size_t i = 0; i < want.gradients.size(); i++) {
      CHECK(got.gradients[i].scalar_type() == type);
      NEAR(name + ", " + what + ": gradient " + std::to_string(i), got.gradients[i],
           want.gradients[i], limit);
    }
  };
  const auto ran = [&](std::vector<uint32_t> want) {
    CHECK(epilogues(std::exchange(started, {})) == (api ? epilogues(want) : epilogues({})));
  };
  using In = const std::vector<at::Tensor> &;

  started.clear();
  compare("Linear", of({x, w1, b1}, dh, [&](In t) { return dt::linear_by(p, t[0], t[1], t[2]); }),
          of(wide({x, w1, b1}), dh.to(at::kDouble),
             [&](In t) { return at::linear(t[0], t[1], t[2]); }));
  ran({Lt::kBias, Lt::kDefault, Lt::kBGradB});

  const auto gelu_of = [&](In t) { return dt::linear_gelu_by(p, t[0], t[1], t[2]); };
  const std::vector<at::Tensor> one = {x, w1, b1};
  compare("LinearGELU", of(one, dh, gelu_of), rounded_mlp(wide(one), dh.to(at::kDouble), type));
  ran({Lt::kGELUAuxBias, Lt::kDefault, Lt::kBGradB});

  const auto mlp_of = [&](In t) { return dt::mlp_by(p, t[0], t[1], t[2], t[3], t[4]); };
  const auto mlp_want = [&](In t) {
    return at::linear(at::gelu(at::linear(t[0], t[1], t[2]), "tanh"), t[3], t[4]);
  };
  const std::vector<at::Tensor> two = {x, w1, b1, w2, b2};
  const auto got = of(two, dy, mlp_of);
  compare("MLP", got,
          single ? of(wide(two), dy.to(at::kDouble), mlp_want)
                 : rounded_mlp(wide(two), dy.to(at::kDouble), type));
  ran({Lt::kGELUAuxBias, Lt::kBias, Lt::kDefault, Lt::kDefault, Lt::kBGradB, Lt::kDGELUBGrad});

  // Without gradients the input of GELU is not kept, and the result is the same.
  const auto sampled = mlp_of(two);
  ran({Lt::kGELUBias, Lt::kBias});
  CHECK(!api || sampled.equal(got.y));
}

// Inputs in other shapes and places: more dimensions, no rows that are dense, memory that begins
// between two vectors, weights that take no gradient.
void places() {
  const Deterministic first;
  const Lt api = stand_in();
  dt::Products p(kCPU, &api, nullptr, "CPU");
  const auto w = at::randn({16, 8}), b = at::randn({16});
  const auto check = [&](const at::Tensor &x, const at::Tensor &dy) {
    started.clear();
    const auto got = of({x, w, b}, dy, [&](auto &t) { return dt::linear_by(p, t[0], t[1], t[2]); });
    CHECK(started.size() == 3);
    const auto want = of({x, w, b}, dy, [&](auto &t) { return at::linear(t[0], t[1], t[2]); });
    NEAR("y", got.y, want.y.to(at::kDouble), 1e-6);
    for (size_t i = 0; i < 3; i++)
      NEAR("gradient", got.gradients[i], want.gradients[i].to(at::kDouble), 1e-6);
  };
  check(at::randn({2, 3, 8}), at::randn({2, 3, 16}));
  check(at::randn({8}), at::randn({16}));
  check(at::randn({5, 8, 3}).transpose(1, 2), at::randn({5, 3, 16}));
  check(at::randn({5, 8}), at::randn({1, 1}).expand({5, 16}));
  check(at::randn({5 * 8 + 1}).slice(0, 1).view({5, 8}), at::randn({5, 16}));

  // Only what is needed is computed.
  const auto frozen = [&](bool x, bool weight, bool bias, std::vector<uint32_t> want) {
    c10::AutoGradMode grad(true);
    const auto leaf = [](const at::Tensor &t, bool on) { return t.detach().requires_grad_(on); };
    started.clear();
    const auto y = dt::linear_by(p, leaf(at::randn({4, 8}), x), leaf(w, weight), leaf(b, bias));
    y.sum().backward();
    want.push_back(Lt::kBias);
    CHECK(epilogues(started) == epilogues(want));
  };
  frozen(true, false, false, {Lt::kDefault});
  frozen(false, true, true, {Lt::kBGradB});
  frozen(false, true, false, {Lt::kDefault});
  frozen(false, false, true, {});

  // What is not taken is composed.
  const auto composed = [&](const at::Tensor &x, const at::Tensor &w, const at::Tensor &b) {
    started.clear();
    const auto y = dt::linear_by(p, x, w, b);
    return started.empty() && y.equal(at::linear(x, w, b));
  };
  const auto x = at::randn({4, 8});
  CHECK(!composed(x, w, b));
  CHECK(composed(x.to(at::kDouble), w.to(at::kDouble), b.to(at::kDouble)));
  CHECK(composed(x.slice(0, 0, 0), w, b));
  CHECK(composed(x, at::randn({8, 16}).t(), b));
}

// How products are chosen: the fastest on data that is not that of the product, once a shape.
void choosing() {
  const Lt api = stand_in();
  const auto x = at::randn({6, 8}), w = at::randn({16, 8}), b = at::randn({16});
  const auto make = [&](std::vector<double> times, const char *device = "CPU") {
    auto p = std::make_unique<dt::Products>(kCPU, &api, nullptr, device);
    p->timed = true;
    p->seconds = [times, i = size_t{0}](const std::function<void()> &f) mutable {
      f();
      CHECK(i < times.size());
      return times[i++];
    };
    return p;
  };
  const auto run = [&](dt::Products &p) {  // the algorithm of the product, 0 for parts
    algorithms.clear();
    const auto y = dt::linear_by(p, x, w, b);
    NEAR("a product", y, at::linear(x, w, b).to(at::kDouble), 1e-6);
    return algorithms.empty() ? 0 : algorithms.back();
  };
  dt::set_choices({});
  // Times of parts and of algorithms 1 and 2.
  auto slow_parts = make({3, 2, 1});
  CHECK(run(*slow_parts) == 2 && algorithms.size() == 5);
  CHECK(run(*slow_parts) == 2 && algorithms.size() == 1);
  const auto lines = dt::choices();
  CHECK(lines.size() == 1);
  CHECK(lines[0].rfind("bias float32 tn 16x6x8 align ", 0) == 0);
  CHECK(lines[0].find(" on CPU, cuBLASLt 130100 = 0000000000000017") != std::string::npos);

  // Another process takes the choice without timing; on another device it is not used.
  auto resumed = make({});
  CHECK(run(*resumed) == 2 && algorithms.size() == 1);
  CHECK(run(*make({3, 1, 2}, "another")) == 1);
  CHECK(dt::choices().size() == 2);
  dt::set_choices({lines[0].substr(0, lines[0].find(" = ")) + " = ffff", "of another version"});
  CHECK(run(*make({3, 1, 2})) == 1);
  dt::set_choices({lines[0].substr(0, lines[0].find(" = ")) + " = " + std::string(128, 'f')});
  CHECK(run(*make({3, 1, 2})) == 1);

  // Parts that are faster are taken, and that is a choice too.
  dt::set_choices({});
  auto fast_parts = make({1, 2, 3});
  run(*fast_parts);
  CHECK(run(*fast_parts) == 0);
  CHECK(dt::choices()[0].find(" = parts") != std::string::npos);
  CHECK(run(*make({})) == 0);

  // Where no choices are kept, and in deterministic mode, it is the first, whatever was chosen.
  auto untimed = make({});
  untimed->timed = false;
  CHECK(run(*untimed) == 1 && algorithms.size() == 1 && dt::choices().size() == 1);
  {
    const Deterministic first;
    CHECK(run(*make({})) == 1);
  }
  // In a capture too, until the next use outside.
  dt::set_choices({});
  auto captured = make({3, 2, 1});
  dt::capturing = true;
  CHECK(run(*captured) == 1 && dt::choices().empty());
  dt::capturing = false;
  CHECK(run(*captured) == 2 && dt::choices().size() == 1);

  // And where memory is too short to time it.
  dt::set_choices({});
  auto crowded = make({});
  crowded->seconds = [n = 0](const std::function<void()> &) mutable -> double {
    TORCH_CHECK_WITH(OutOfMemoryError, n++ == 0, "out of memory");  // by algorithm 1
    return 3;
  };
  CHECK(run(*crowded) == 1 && dt::choices().empty());
  crowded->seconds = make({3, 2, 1})->seconds;
  CHECK(run(*crowded) == 2 && dt::choices().size() == 1);

  // Where cuBLASLt has nothing, or refuses, the product is made by parts; an error is one.
  without_heuristics = true;
  dt::set_choices({});
  CHECK(run(*make({})) == 0);
  without_heuristics = false;
  {
    const Deterministic first;
    auto refusing = make({});
    fail_with = Lt::kNotSupported;
    CHECK(run(*refusing) == 0 && run(*refusing) == 0);
    auto broken = make({});
    fail_with = 13;
    std::string why;
    try {
      dt::linear_by(*broken, x, w, b);
    } catch (const c10::Error &e) {
      why = e.what_without_backtrace();
    }
    CHECK(why.find("cuBLASLt: CUBLAS_STATUS in bias float32") != std::string::npos);
    without_bias_gradients = true;
    dt::Products some(kCPU, &api, nullptr, "CPU");
    started.clear();
    const auto gradients = of({x, w, b}, at::ones({6, 16}), [&](auto &t) {
                             return dt::linear_by(some, t[0], t[1], t[2]);
                           }).gradients;
    CHECK(started.size() == 2);
    NEAR("bias", gradients[2], at::full({16}, 6, at::kDouble), 1e-6);
    without_bias_gradients = false;
  }
  // Each type and alignment is chosen for by itself.
  dt::set_choices({});
  auto types = make({1, 2, 3, 1, 2, 3});
  run(*types);
  at::globalContext().setAllowTF32CuBLAS(true);
  run(*types);
  at::globalContext().setAllowTF32CuBLAS(false);
  CHECK(dt::choices().size() == 2);
  dt::set_choices({});
}

// More rows than kernels take are summed without them.
void many_rows(const dt_plugin &kernels) {
  dt::Products p(kCPU, nullptr, &kernels, "CPU");
  const int64_t rows = int64_t{65535} * 256 + 1;
  const auto gradients =
      of({at::ones({rows, 1}), at::ones({1, 1}), at::ones({1})}, at::ones({rows, 1}), [&](auto &t) {
        return dt::linear_by(p, t[0], t[1], t[2]);
      }).gradients;
  NEAR("bias", gradients[2], at::full({1}, rows, at::kDouble), 1e-6);
}

}  // namespace

void lt() {
  at::manual_seed(1);
  const Lt api = stand_in();
  dt_plugin kernels{};
  dt_plugin_fill_kernels(&kernels);
  const int64_t sizes[][3] = {{1, 64, 64}, {77, 384, 100}, {255, 1000, 77}, {257, 64, 1152}};
  for (const auto &s : sizes)
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      layers(&api, nullptr, s[0], s[1], s[2], type);
      layers(nullptr, nullptr, s[0], s[1], s[2], type);
      if (s[0] < 100) layers(nullptr, &kernels, s[0], s[1], s[2], type);
    }
  places();
  choosing();
  many_rows(kernels);
  CHECK(objects == 0);
}
