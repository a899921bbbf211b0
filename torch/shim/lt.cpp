#include "lt.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/DeviceGuard.h>
#include <dlfcn.h>

#include <chrono>

namespace dt {

namespace {

constexpr int kCandidates = 8;
constexpr size_t kMostWorkspace = size_t{32} << 20;  // that an algorithm may take

const char *epilogue_name(int64_t epilogue) {
  switch (epilogue) {
    case LtApi::kBias: return "bias";
    case LtApi::kGELUBias: return "bias-gelu";
    case LtApi::kGELUAuxBias: return "bias-gelu-aux";
    case LtApi::kDGELUBGrad: return "gelu-gradient";
    case LtApi::kBGradB: return "bias-gradient";
    default: return "product";
  }
}

LtApi open_lt() {
  void *lib = nullptr;
  for (const char *name : {"libcublasLt.so.13", "libcublasLt.so.12"})
    if (!lib) lib = ::dlopen(name, RTLD_LAZY | RTLD_LOCAL | RTLD_NOLOAD);
  TORCH_CHECK(lib, "libcublasLt.so is not loaded");
  LtApi api{};
  const auto get = [&](auto &f, const char *name) {
    f = reinterpret_cast<std::decay_t<decltype(f)>>(::dlsym(lib, name));
    TORCH_CHECK(f, "libcublasLt.so has no function ", name);
  };
  get(api.get_version, "cublasLtGetVersion");
  get(api.get_status_string, "cublasLtGetStatusString");
  get(api.create, "cublasLtCreate");
  get(api.destroy, "cublasLtDestroy");
  get(api.desc_create, "cublasLtMatmulDescCreate");
  get(api.desc_set, "cublasLtMatmulDescSetAttribute");
  get(api.desc_destroy, "cublasLtMatmulDescDestroy");
  get(api.layout_create, "cublasLtMatrixLayoutCreate");
  get(api.layout_destroy, "cublasLtMatrixLayoutDestroy");
  get(api.preference_create, "cublasLtMatmulPreferenceCreate");
  get(api.preference_set, "cublasLtMatmulPreferenceSetAttribute");
  get(api.preference_destroy, "cublasLtMatmulPreferenceDestroy");
  get(api.heuristic, "cublasLtMatmulAlgoGetHeuristic");
  get(api.check, "cublasLtMatmulAlgoCheck");
  get(api.matmul, "cublasLtMatmul");
  return api;
}

std::mutex of_choices;
std::map<std::string, std::string> chosen;  // the lines, before and after " = "
std::atomic<bool> choices_kept{false};

constexpr const char *kEquals = " = ";
constexpr const char *kParts = "parts";

std::string text_of(const LtApi::Heuristic &how) {
  std::string text;
  for (const uint64_t word : how.algorithm.data) {
    char hex[17];
    std::snprintf(hex, sizeof hex, "%016llx", static_cast<unsigned long long>(word));
    text += hex;
  }
  return text;
}

bool parse_algorithm(const std::string &text, LtApi::Algorithm *a) {
  if (text.size() != 16 * std::size(a->data) ||
      text.find_first_not_of("0123456789abcdef") != std::string::npos)
    return false;
  for (size_t i = 0; i < std::size(a->data); i++)
    a->data[i] = std::stoull(text.substr(16 * i, 16), nullptr, 16);
  return true;
}

// What a product that was refused returns, of which nothing was started.
bool is_refusal(int status) {
  return status == LtApi::kInvalidValue || status == LtApi::kNotSupported ||
         status == LtApi::kArchMismatch;
}

int64_t alignment_of(const at::Tensor &t) {
  const auto p = reinterpret_cast<uintptr_t>(t.const_data_ptr());
  return static_cast<int64_t>(p ? std::min<uintptr_t>(p & -p, 256) : 256);
}

at::Generator new_generator(const at::Device &d, uint64_t seed) {
  if (d.is_cpu()) return at::detail::createCPUGenerator(seed);
  auto g = at::detail::getCUDAHooks().getNewGenerator(d.index());
  g.set_current_seed(seed);
  return g;
}

void wait_for(const at::Device &d) {
  if (!d.is_cpu()) current_stream(d).synchronize();
}

// The time of a call, by the host's clock: what starts it belongs to it.
double time_of(const at::Device &d, const std::function<void()> &f) {
  const auto run = [&](int n) {
    const auto since = std::chrono::steady_clock::now();
    for (int i = 0; i < n; i++) f();
    wait_for(d);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count() / n;
  };
  f();  // loads it
  wait_for(d);
  const int n = std::clamp(static_cast<int>(2e-3 / std::max(run(1), 1e-6)), 1, 32);
  return std::min(run(n), run(n));
}

// What by_parts uses of libditcuda.so. Its kernels take so many rows at most (columns.cuh).
constexpr int64_t kMostRows = int64_t{65535} * 256;

at::Tensor sums_memory(const dt_plugin &table, const at::Tensor &of) {
  return at::empty({table.sums_workspace(1, of.size(0), static_cast<int32_t>(of.size(1)))},
                   opts(of.device(), at::kByte));
}

// dx = dy GELU'(x), in place of dy; sums are those of its columns.
void gelu_backward_by(const dt_plugin &table, const at::Tensor &x, const at::Tensor &dy,
                      const at::Tensor &sums) {
  const int32_t half = x.scalar_type() == at::kBFloat16;
  const auto memory = sums_memory(table, x);
  queue_kernels(x.device(), [&](void *stream) {
    const dt_bias_gelu_backward_args a{x.size(0),
                                       static_cast<int32_t>(x.size(1)),
                                       x.const_data_ptr(),
                                       nullptr,
                                       dy.const_data_ptr(),
                                       dy.mutable_data_ptr(),
                                       sums.mutable_data_ptr(),
                                       half,
                                       memory.mutable_data_ptr()};
    return table.bias_gelu_backward(half, &a, stream);
  });
}

void column_sums_by(const dt_plugin &table, const at::Tensor &x, const at::Tensor &sums) {
  const int32_t half = x.scalar_type() == at::kBFloat16;
  const auto memory = sums_memory(table, x);
  queue_kernels(x.device(), [&](void *stream) {
    const dt_column_sums_args a{
        x.size(0), static_cast<int32_t>(x.size(1)), x.const_data_ptr(), sums.mutable_data_ptr(),
        half,      memory.mutable_data_ptr()};
    return table.column_sums(half, &a, stream);
  });
}

// prove_layers throws where layers by p, forward and backward, are not their compositions. They are
// of sizes that cuBLASLt has every epilogue for.
void prove_layers(Products &p, const at::Device &d) {
  const bool tf32 = d.is_cuda() && at::globalContext().allowTF32CuBLAS();
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const auto weight = [&](at::IntArrayRef sizes, uint64_t seed) {
      return random(sizes, type, d, seed) * 0.1;
    };
    const Tensors in = {random({96, 64}, type, d, 1), weight({128, 64}, 2), weight({128}, 3),
                        weight({64, 128}, 4), weight({64}, 5)};
    // Of several roundings, one after the other.
    const double limit = type == at::kBFloat16 ? 3e-2 : tf32 ? 5e-3 : 0;
    expect_same(
        in, [&](const Tensors &t) { return Tensors{mlp_by(p, t[0], t[1], t[2], t[3], t[4])}; },
        [](const Tensors &t) {
          return Tensors{at::linear(at::gelu(at::linear(t[0], t[1], t[2]), "tanh"), t[3], t[4])};
        },
        limit);
  }
}

Kernel sums("gradients of GELU and biases", [](const dt_plugin &table, const at::Device &d) {
  Products parts(d, nullptr, &table, "");
  prove_layers(parts, d);
});

Proven cublaslt("cuBLASLt");

}  // namespace

const LtApi *lt_api() {
  static const auto api = []() -> std::optional<LtApi> {
    try {
      return open_lt();
    } catch (const c10::Error &) {
      return std::nullopt;
    }
  }();
  return api ? &*api : nullptr;
}

struct Products::Plan {
  LtApi::Desc desc = nullptr;
  LtApi::Layout a = nullptr, b = nullptr, out = nullptr;  // NULL: without cuBLASLt
  std::optional<LtApi::Heuristic> how;                    // nullopt: by parts
  bool is_final = false;
};

Products::Products(at::Device device, const LtApi *api, const dt_plugin *kernels,
                   std::string device_name)
    : seconds([device](const std::function<void()> &f) { return time_of(device, f); }),
      device_(device),
      api_(api),
      kernels_(kernels),
      on_(c10::str(" on ", device_name, ", cuBLASLt ", api ? api->get_version() : 0)) {
  c10::DeviceGuard here(device_);
  if (api_ && api_->create(&handle_)) handle_ = nullptr;
}

Products::~Products() {
  for (auto &[key, plan] : plans_) {
    if (plan.desc) api_->desc_destroy(plan.desc);
    for (LtApi::Layout layout : {plan.a, plan.b, plan.out})
      if (layout) api_->layout_destroy(layout);
  }
  if (handle_) api_->destroy(handle_);
}

// A row-major matrix is a column-major one that is transposed, so out = left right is
// out^T = right^T left^T: A of cuBLASLt is right, and B is left.
Products::Key Products::key_of(const Product &p) const {
  const auto &context = at::globalContext();
  const bool single = p.out.scalar_type() == at::kFloat;
  int64_t least = 256;
  for (const auto *t : {&p.left, &p.right, &p.out, &p.bias, &p.aux})
    if (t->defined()) least = std::min(least, alignment_of(*t));
  return {p.epilogue,
          single ? LtApi::kFloat : LtApi::kBFloat16,
          single && context.allowTF32CuBLAS() ? LtApi::kComputeFastTF32 : LtApi::kCompute32F,
          p.right_transposed * 2 + p.left_transposed,
          p.out.size(1),
          p.out.size(0),
          p.left.size(p.left_transposed ? 0 : 1),
          p.aux.defined() ? p.aux.stride(0) : 0,
          least,
          context.deterministicAlgorithms()};
}

std::string Products::name_of(const Key &k) const {
  const char *const type = k[2] == LtApi::kComputeFastTF32 ? "tf32"
                           : k[1] == LtApi::kFloat         ? "float32"
                                                           : "bfloat16";
  std::string name = c10::str(epilogue_name(k[0]), " ", type, " ", k[3] & 2 ? "t" : "n",
                              k[3] & 1 ? "t" : "n", " ", k[4], "x", k[5], "x", k[6]);
  if (k[7]) name += c10::str(" aux ", k[7]);
  return c10::str(name, " align ", k[8], on_);
}

Products::Plan Products::make_plan(const Key &k) {
  Plan plan;
  if (!handle_) return plan;
  const auto epilogue = static_cast<uint32_t>(k[0]);
  const int32_t type = static_cast<int32_t>(k[1]), trans_a = k[3] & 2 ? LtApi::kT : LtApi::kN,
                trans_b = k[3] & 1 ? LtApi::kT : LtApi::kN;
  const int64_t m = k[4], n = k[5], depth = k[6], aux_ld = k[7];
  const auto layout = [&](LtApi::Layout *out, int64_t rows, int64_t columns, bool transposed) {
    if (transposed) std::swap(rows, columns);
    return api_->layout_create(out, type, static_cast<uint64_t>(rows),
                               static_cast<uint64_t>(columns), rows);
  };
  const auto set = [&](LtApi::Attribute attribute, const auto &value) {
    return api_->desc_set(plan.desc, attribute, &value, sizeof value);
  };
  // Pointers that tell the alignment until there are tensors; nothing reads what they point to.
  const auto pointer = static_cast<uintptr_t>(k[8]);
  const bool failed = api_->desc_create(&plan.desc, static_cast<int>(k[2]), LtApi::kFloat) ||
                      set(LtApi::kTransA, trans_a) || set(LtApi::kTransB, trans_b) ||
                      set(LtApi::kEpilogue, epilogue) || (aux_ld && set(LtApi::kAuxLD, aux_ld)) ||
                      set(LtApi::kBiasPointer, pointer) || set(LtApi::kAuxPointer, pointer) ||
                      layout(&plan.a, m, depth, trans_a) || layout(&plan.b, depth, n, trans_b) ||
                      layout(&plan.out, m, n, false);
  if (!failed) return plan;
  if (plan.desc) api_->desc_destroy(plan.desc);
  for (LtApi::Layout l : {plan.a, plan.b, plan.out})
    if (l) api_->layout_destroy(l);
  return {};
}

std::vector<LtApi::Heuristic> Products::propose(const Plan &plan, const Key &k) {
  std::vector<LtApi::Heuristic> found(kCandidates);
  LtApi::Preference preference = nullptr;
  if (!plan.desc || api_->preference_create(&preference)) return {};
  const auto prefer = [&](int attribute, const auto &value) {
    return api_->preference_set(preference, attribute, &value, sizeof value);
  };
  // Parts of a sum that is split are added in float32, in the order of the parts.
  const auto schemes = static_cast<uint32_t>(LtApi::kComputeType),
             alignment = static_cast<uint32_t>(k[8]);
  bool failed =
      prefer(LtApi::kMaxWorkspace, kMostWorkspace) || prefer(LtApi::kReductionSchemes, schemes);
  for (int i = 0; i < 4; i++) failed = failed || prefer(LtApi::kMinAlignmentA + i, alignment);
  int n = 0;
  failed = failed || api_->heuristic(handle_, plan.desc, plan.a, plan.b, plan.out, plan.out,
                                     preference, kCandidates, found.data(), &n);
  api_->preference_destroy(preference);
  found.resize(failed ? 0 : static_cast<size_t>(n));
  found.erase(std::remove_if(found.begin(), found.end(),
                             [](const LtApi::Heuristic &h) {
                               return h.status != LtApi::kSuccess || h.workspace > kMostWorkspace;
                             }),
              found.end());
  return found;
}

// restore takes the choice of an earlier process, where there is one that can be used.
bool Products::restore(Plan *plan, const std::string &name) {
  std::string text;
  {
    std::lock_guard<std::mutex> lock(of_choices);
    const auto it = chosen.find(name);
    if (it == chosen.end()) return false;
    text = it->second;
  }
  if (text == kParts) return true;
  LtApi::Heuristic how{};
  LtApi::Algorithm algorithm;
  if (!plan->desc || !parse_algorithm(text, &algorithm) ||
      api_->check(handle_, plan->desc, plan->a, plan->b, plan->out, plan->out, &algorithm, &how) ||
      how.workspace > kMostWorkspace)
    return false;
  how.algorithm = algorithm;
  plan->how = how;
  return true;
}

void Products::choose(Plan *plan, const Key &key, const Product &p) {
  const bool deterministic = key.back() != 0 || !timed, now = !in_capture();
  const std::string name = name_of(key);
  plan->is_final = true;
  if (!deterministic && restore(plan, name)) return;
  const auto found = propose(*plan, key);
  plan->how = found.empty() ? std::nullopt : std::optional(found[0]);
  plan->is_final = found.empty() || deterministic || now;
  if (found.empty() || deterministic || !now) return;

  // Not on the tensors themselves: gradients may be zero at first, and products of zeros are fast.
  announce(Traffic::kWait);
  Product trial = p;
  try {
    const int64_t left = p.left.numel(), right = p.right.numel(), from = (left + 127) / 128 * 128;
    const auto data = at::empty({from + right}, p.out.options());
    data.normal_(0, 1, new_generator(device_, 1));
    trial.left = data.narrow(0, 0, left).view(p.left.sizes());
    trial.right = data.narrow(0, from, right).view(p.right.sizes());
  } catch (const c10::OutOfMemoryError &) {
  }
  if (std::min(alignment_of(trial.left), alignment_of(trial.right)) < key[8]) trial = p;
  std::optional<LtApi::Heuristic> fastest;
  try {
    double best = seconds([&] { by_parts(trial); });
    for (const auto &how : found) {
      if (start(*plan, how, trial) != LtApi::kSuccess) continue;
      const double took = seconds([&] { start(*plan, how, trial); });
      if (took >= best) continue;
      best = took;
      fastest = how;
    }
  } catch (const c10::OutOfMemoryError &) {  // the next use may have more
    plan->is_final = false;
    return;
  }
  plan->how = fastest;
  std::lock_guard<std::mutex> lock(of_choices);
  chosen[name] = plan->how ? text_of(*plan->how) : kParts;
}

int Products::start(const Plan &plan, const LtApi::Heuristic &how, const Product &p) {
  c10::DeviceGuard here(device_);
  for (const auto &[attribute, t] :
       {std::pair(LtApi::kBiasPointer, &p.bias), std::pair(LtApi::kAuxPointer, &p.aux)}) {
    const void *pointer = t->defined() ? t->const_data_ptr() : nullptr;
    if (const int status = api_->desc_set(plan.desc, attribute, &pointer, sizeof pointer))
      return status;
  }
  at::Tensor workspace;
  if (how.workspace > 0)
    workspace = at::empty({static_cast<int64_t>(how.workspace)}, opts(device_, at::kByte));
  const float one = 1, zero = 0;
  void *const out = p.out.mutable_data_ptr();
  return api_->matmul(handle_, plan.desc, &one, p.right.const_data_ptr(), plan.a,
                      p.left.const_data_ptr(), plan.b, &zero, out, plan.out, out, plan.out,
                      &how.algorithm, workspace.defined() ? workspace.mutable_data_ptr() : nullptr,
                      how.workspace, native_stream(device_));
}

void Products::compute(const Product &p) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const Key key = key_of(p);
    auto it = plans_.find(key);
    if (it == plans_.end()) it = plans_.emplace(key, make_plan(key)).first;
    Plan &plan = it->second;
    if (!plan.is_final) choose(&plan, key, p);
    if (plan.how) {
      const int status = start(plan, *plan.how, p);
      if (status == LtApi::kSuccess) return;
      TORCH_CHECK(is_refusal(status), "cuBLASLt: ", api_->get_status_string(status), " in ",
                  name_of(key));
      plan.how.reset();
      plan.is_final = true;
    }
  }
  by_parts(p);
}

void Products::by_parts(const Product &p) {
  const auto left = p.left_transposed ? p.left.t() : p.left,
             right = p.right_transposed ? p.right.t() : p.right;
  auto out = p.out, bias = p.bias, aux = p.aux;
  const bool few = p.left.size(0) <= kMostRows;  // the rows of what is summed, in either case
  const dt_plugin *const table = !few ? nullptr : kernels_ ? kernels_ : sums.on(device_);
  switch (p.epilogue) {
    case LtApi::kBias: at::addmm_out(out, bias, left, right); break;
    case LtApi::kGELUBias:
      at::addmm_out(out, bias, left, right);
      at::gelu_(out, "tanh");
      break;
    case LtApi::kGELUAuxBias:
      at::addmm_out(aux, bias, left, right);
      at::gelu_out(out, aux, "tanh");
      break;
    case LtApi::kDGELUBGrad:
      at::mm_out(out, left, right);
      if (table && aux.is_contiguous()) {
        gelu_backward_by(*table, aux, out, bias);
        break;
      }
      at::gelu_backward_out(out, out, aux, "tanh");
      at::sum_out(bias, out, at::IntArrayRef{0});
      break;
    case LtApi::kBGradB:
      at::mm_out(out, left, right);
      if (table)
        column_sums_by(*table, p.left, bias);
      else
        at::sum_out(bias, p.left, at::IntArrayRef{0});
      break;
    default: at::mm_out(out, left, right);
  }
}

Products *products(const at::Device &d) {
  if (!fused() || !(d.is_cuda() ? has_native_streams() : kernels(d) != nullptr)) return nullptr;
  static std::mutex mutex;
  // Never freed: at the end of the process CUDA is gone first.
  static auto &made = *new std::map<c10::DeviceIndex, std::unique_ptr<Products>>;
  std::lock_guard<std::mutex> lock(mutex);
  auto &p = made[d.index()];
  if (!p) {
    if (in_capture()) return nullptr;  // a handle has memory of its own
    char name[256] = "CPU";
    if (d.is_cuda()) dt_cuda_name(d.index(), name, sizeof name);
    const LtApi *api = d.is_cuda() ? lt_api() : nullptr;
    const dt_plugin *table = sums.on(d);  // before the proof that may use it
    if (api && !cublaslt.on(d, [&] {
          Products first(d, api, table, name);
          prove_layers(first, d);
        }))
      api = nullptr;
    p = std::make_unique<Products>(d, api, nullptr, name);
  }
  p->timed = choices_kept.load();
  return p.get();
}

std::vector<std::string> choices() {
  std::lock_guard<std::mutex> lock(of_choices);
  std::vector<std::string> lines;
  for (const auto &[product, algorithm] : chosen) lines.push_back(product + kEquals + algorithm);
  return lines;
}

void set_choices(const std::vector<std::string> &lines) {
  std::lock_guard<std::mutex> lock(of_choices);
  choices_kept = true;
  chosen.clear();
  for (const auto &line : lines)
    if (const auto at = line.rfind(kEquals); at != std::string::npos)
      chosen[line.substr(0, at)] = line.substr(at + std::strlen(kEquals));
}

}  // namespace dt

using dt::guard;

extern "C" {

dt_error *dt_product_choices(char **out_text) {
  return guard([&] {
    std::string text;
    for (const auto &line : dt::choices()) text += line + "\n";
    *out_text = ::strdup(text.c_str());
  });
}

dt_error *dt_set_product_choices(const char *text) {
  return guard([&] {
    std::vector<std::string> lines;
    for (const char *end; (end = std::strchr(text, '\n')); text = end + 1)
      lines.emplace_back(text, end);
    dt::set_choices(lines);
  });
}

}  // extern "C"
