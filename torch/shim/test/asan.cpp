// The C interface under AddressSanitizer: handles of every kind of call, errors on the way, and
// everything freed at the end. make shim-asan builds and runs it; what is wrong is printed.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "dt.h"

// An allocation that is too large must fail as it does without the sanitizer, which would abort.
extern "C" const char *__asan_default_options() { return "allocator_may_return_null=1"; }

// Gloo never frees the list of network interfaces it looks an address up in.
extern "C" const char *__lsan_default_suppressions() {
  return "leak:gloo::transport::tcp::CreateDeviceAttr\n";
}

namespace {

constexpr dt_mode kGrad = 1, kNoGrad = 0;
constexpr dt_device kCPU = -1;

// fails_at checks that a call failed with a text that contains part, and frees the error.
void fails_at(int line, dt_error *e, const char *part, int32_t code = 0) {
  if (!e) fail_at(__FILE__, line, "no error");
  if (!std::strstr(e->msg, part)) fail_at(__FILE__, line, e->msg);
  if (code && e->code != code) fail_at(__FILE__, line, "code " + std::to_string(e->code));
  dt_error_free(e);
}
#define FAILS(...) fails_at(__LINE__, __VA_ARGS__)

dt_tensor from(const std::vector<float> &v, std::vector<int64_t> dims) {
  dt_out o{};
  OK(dt_from_host(v.data(), static_cast<int64_t>(v.size() * sizeof(float)), DT_FLOAT32, kCPU,
                  dims.data(), static_cast<int32_t>(dims.size()), &o));
  CHECK(o.rank == static_cast<int32_t>(dims.size()) && o.dtype == DT_FLOAT32 && o.device == kCPU);
  for (int32_t i = 0; i < o.rank; i++) CHECK(o.shape[i] == dims[i]);
  return o.t;
}

dt_tensor integers(const std::vector<int64_t> &v) {
  dt_out o{};
  const auto n = static_cast<int64_t>(v.size());
  OK(dt_from_host(v.data(), n * 8, DT_INT64, kCPU, &n, 1, &o));
  return o.t;
}

dt_tensor number(double v) {
  dt_out o{};
  OK(dt_full(kNoGrad, kCPU, v, DT_FLOAT64, nullptr, 0, &o));
  return o.t;
}

std::vector<float> values(dt_tensor t, size_t n) {
  std::vector<float> v(n);
  OK(dt_to_host(t, v.data(), static_cast<int64_t>(n * sizeof(float))));
  return v;
}

void expect_at(int line, dt_tensor t, const std::vector<float> &want) {
  auto got = values(t, want.size());
  for (size_t i = 0; i < want.size(); i++)
    if (!(std::fabs(got[i] - want[i]) < 1e-5))
      fail_at(__FILE__, line,
              "element " + std::to_string(i) + " is " + std::to_string(got[i]) + ", want " +
                  std::to_string(want[i]));
}
#define EXPECT(...) expect_at(__LINE__, __VA_ARGS__)

void release(std::vector<dt_tensor> ts) {
  dt_free_many(ts.data(), static_cast<int64_t>(ts.size()));
}

void operations() {
  dt_tensor a = from({1, 2, 3, 4}, {2, 2}), b = from({1, 0, 0, 2}, {2, 2}),
            bias = from({10, 20}, {2});
  dt_out sum{}, product{}, y{}, parts[2]{}, joined{}, all{}, narrow{}, copy{}, zeros{};
  OK(dt_add(kNoGrad, a, b, &sum));
  EXPECT(sum.t, {2, 2, 3, 6});
  OK(dt_matmul(kNoGrad, a, b, &product));
  EXPECT(product.t, {1, 4, 3, 8});
  OK(dt_linear(kNoGrad, a, b, bias, &y));
  EXPECT(y.t, {11, 24, 13, 28});
  release({y.t});
  OK(dt_linear(kNoGrad, a, b, nullptr, &y));  // an optional tensor left out
  EXPECT(y.t, {1, 4, 3, 8});
  const int64_t last[] = {2};
  dt_out norm{};
  OK(dt_layer_norm(kNoGrad, a, last, 1, nullptr, nullptr, 0, &norm));
  EXPECT(norm.t, {-1, 1, -1, 1});

  // Views outlive the handle of their source.
  OK(dt_chunk(kNoGrad, a, 2, 1, parts));
  release({a});
  EXPECT(parts[0].t, {1, 3});
  EXPECT(parts[1].t, {2, 4});
  dt_tensor swapped[] = {parts[1].t, parts[0].t};
  OK(dt_cat(kNoGrad, swapped, 2, 1, &joined));
  EXPECT(joined.t, {2, 1, 4, 3});
  const int64_t dims[] = {4};
  OK(dt_zeros(kNoGrad, kCPU, DT_FLOAT32, dims, 1, &zeros));
  OK(dt_to(kNoGrad, joined.t, DT_BFLOAT16, &narrow));
  CHECK(narrow.dtype == DT_BFLOAT16);
  OK(dt_to(kNoGrad, narrow.t, DT_FLOAT32, &copy));
  EXPECT(copy.t, {2, 1, 4, 3});
  OK(dt_copy_(kNoGrad, parts[0].t, parts[1].t));
  EXPECT(parts[0].t, {2, 4});
  OK(dt_sum(kNoGrad, joined.t, &all));
  CHECK(all.rank == 0);
  EXPECT(all.t, {10});
  const float fresh[] = {5, 6, 7, 8};
  OK(dt_copy_from_host(zeros.t, fresh, sizeof fresh));
  EXPECT(zeros.t, {5, 6, 7, 8});

  dt_out ids{}, rows{};
  const int64_t index[] = {1, 1, 0};
  const int64_t three[] = {3};
  OK(dt_from_host(index, sizeof index, DT_INT64, kCPU, three, 1, &ids));
  OK(dt_embedding(kNoGrad, b, ids.t, &rows));
  EXPECT(rows.t, {0, 2, 0, 2, 1, 0});
  release({b, bias, sum.t, product.t, y.t, norm.t, parts[0].t, parts[1].t, joined.t, narrow.t,
           copy.t, zeros.t, all.t, ids.t, rows.t, nullptr});
}

// A failed call gives one error, no tensor, and leaves its output alone.
void errors() {
  const int64_t live = dt_live_tensors();
  dt_tensor a = from({1, 2, 3}, {3}), b = from({1, 2}, {2});
  dt_out out{};
  FAILS(dt_add(kGrad, a, b, &out), "must match", DT_ERR_SHAPE);
  dt_tensor both[] = {a, b};
  FAILS(dt_stack(kGrad, both, 2, 0, &out), "equal size", DT_ERR_SHAPE);
  FAILS(dt_cat(kGrad, nullptr, 0, 0, &out), "non-empty");
  dt_out many[4]{};
  FAILS(dt_chunk(kGrad, a, 2, 5, many), "out of range");
  FAILS(dt_chunk(kGrad, a, 4, 0, many), "expected 4 results");
  CHECK(!many[0].t && !many[3].t);
  FAILS(dt_to(kGrad, a, 99, &out), "dtype number 99");
  const int64_t huge[] = {int64_t{1} << 50};
  FAILS(dt_zeros(kGrad, kCPU, DT_FLOAT32, huge, 1, &out), "allocate", DT_ERR_OOM);
  const int64_t overflow[] = {int64_t{1} << 62, 4};
  FAILS(dt_from_host(overflow, 8, DT_FLOAT32, kCPU, overflow, 2, &out), "does not take");
  float small[2];
  FAILS(dt_to_host(a, small, sizeof small), "12 bytes");
  FAILS(dt_copy_from_host(a, small, sizeof small), "12 bytes");
  FAILS(dt_backward(kGrad, b), "does not require grad");
  CHECK(std::strstr(dt_plugin_open("/nowhere/libditcuda.so"), "is not there"));
  dt_graph g = nullptr;
  FAILS(dt_graph_begin(kCPU, &g), "/nowhere/libditcuda.so is not there");
  FAILS(dt_plugin_check_kernels(0), "/nowhere/libditcuda.so is not there");
  CHECK(!g);
  dt_adamw o = nullptr;
  FAILS(dt_adamw_new(nullptr, 0, nullptr, nullptr, 0, 0, {0.9, 0.999, 1e-8, 0}, nullptr, 0, &o),
        "no parameters");
  CHECK(!o && !out.t);
  dt_error_free(nullptr);
  dt_free_many(nullptr, 0);
  CHECK(dt_live_tensors() == live + 2);
  release({a, b});
}

void gradients() {
  dt_tensor x = from({1, 2}, {2});
  OK(dt_set_requires_grad(x, 1));
  dt_out none{}, square{}, loss{}, grad{}, silent{};
  OK(dt_grad(x, &none));
  CHECK(!none.t);
  OK(dt_square(kGrad, x, &square));
  OK(dt_sum(kGrad, square.t, &loss));
  OK(dt_square(kNoGrad, x, &silent));
  CHECK(dt_requires_grad(square.t) && !dt_requires_grad(silent.t));
  release({square.t});  // the graph holds what backward needs
  int64_t leaves = 0, with_grad = 1;
  uint64_t hash = 0;
  OK(dt_backward_leaves(loss.t, nullptr, 0, &leaves, &with_grad, &hash));
  CHECK(leaves == 1 && with_grad == 0 && hash);
  OK(dt_backward(kGrad, loss.t));
  FAILS(dt_backward(kGrad, loss.t), "second time");
  OK(dt_grad(x, &grad));
  OK(dt_clear_grad(x));
  EXPECT(grad.t, {2, 4});  // the handle keeps the gradient
  release({x, loss.t, grad.t, silent.t});
}

// The first n elements from start on of one of the optimizer's buffers.
dt_tensor state(dt_adamw o, int32_t which, int64_t start, int64_t n) {
  dt_out whole{}, some{};
  OK(dt_adamw_buffer(o, which, &whole));
  OK(dt_narrow(kNoGrad, whole.t, 0, start, n, &some));
  release({whole.t});
  return some.t;
}

void adamw() {
  dt_tensor ps[] = {from({1, -1}, {2}), from({5}, {1})};
  OK(dt_set_requires_grad(ps[0], 1));
  const int64_t offsets[] = {0, 16}, buckets[] = {16};
  dt_adamw o = nullptr;
  OK(dt_adamw_new(ps, 2, offsets, buckets, 1, 32, {0.9, 0.999, 1e-8, 0}, nullptr, 0, &o));
  OK(dt_adamw_last_backward(o));
  dt_out out[2] = {};
  dt_tensor lr = number(0.1), decay = number(0.5);
  dt_adamw_options options{lr, nullptr, 0, nullptr};
  FAILS(dt_adamw_step(o, &options, out), "gradient");
  dt_out copied;
  OK(dt_adamw_copy(o, 0, &copied));
  FAILS(dt_adamw_copy(o, 1, out), "is not trained");
  OK(dt_adamw_renew(o));
  release({copied.t});
  dt_tensor yes = from({1}, {});
  // The second and the fourth are left out: by the caller, and for a gradient that is no number.
  for (int k = 0; k < 5; k++) {
    dt_out scaled{}, loss{};
    OK(dt_mul_scalar(kGrad, ps[0], k == 3 ? NAN : 3, &scaled));
    OK(dt_sum(kGrad, scaled.t, &loss));
    OK(dt_backward(kGrad, loss.t));
    options = {lr, decay, 1, k == 1 ? yes : nullptr};
    OK(dt_adamw_step(o, &options, out));
    if (k != 3) EXPECT(out[0].t, {3 * std::sqrt(2.0f)});
    EXPECT(out[1].t, {k == 1 || k == 3 ? 1.0f : 0.0f});
    release({scaled.t, loss.t, out[0].t, out[1].t});
  }
  // A constant gradient moves a parameter by lr in each step.
  EXPECT(ps[0], {0.7f, -1.3f});
  EXPECT(ps[1], {5});
  dt_tensor ema = state(o, DT_ADAMW_EMA, 0, 2), frozen = state(o, DT_ADAMW_EMA, 16, 1);
  dt_tensor m = state(o, DT_ADAMW_EXP_AVG, 0, 2);
  EXPECT(ema, {0.5f * (0.5f * (0.5f + 0.45f) + 0.4f) + 0.35f,
               0.5f * (0.5f * (-0.5f - 0.55f) - 0.6f) - 0.65f});
  EXPECT(frozen, {5});
  dt_out step{};
  OK(dt_adamw_buffer(o, DT_ADAMW_STEP, &step));
  EXPECT(step.t, {3});
  dt_out copies[5] = {};
  OK(dt_adamw_snapshot(o, copies));
  OK(dt_adamw_zero_grad(o));
  dt_adamw_free(o);
  dt_adamw_free(nullptr);
  EXPECT(ps[0], {0.7f, -1.3f});  // parameters, views and copies of the state outlive the optimizer
  EXPECT(m, {0.271f / std::sqrt(2.0f), 0.271f / std::sqrt(2.0f)});
  EXPECT(copies[0].t, {3});
  for (auto &c : copies) release({c.t});
  release({ps[0], ps[1], yes, lr, decay, ema, frozen, m, step.t});
}

void random_numbers() {
  dt_generator g = nullptr, h = nullptr;
  OK(dt_generator_new(kCPU, 7, &g));
  OK(dt_generator_new(kCPU, 7, &h));
  const int64_t dims[] = {4};
  dt_out a{}, b{};
  OK(dt_randn(kNoGrad, kCPU, g, dims, 1, &a));
  OK(dt_randn(kNoGrad, kCPU, h, dims, 1, &b));
  EXPECT(a.t, {-0.1467951f, 0.7861413f, 0.9468216f, -1.1143440f});
  EXPECT(b.t, values(a.t, 4));
  OK(dt_uniform_(kNoGrad, a.t, g, 2, 3));
  for (float f : values(a.t, 4)) CHECK(f >= 2 && f < 3);
  dt_generator_free(g);
  dt_generator_free(h);
  dt_generator_free(nullptr);

  // Rows of a length that is no multiple of four: the last block must not run over.
  const int64_t row[] = {5};
  dt_tensor step = integers({3}), indices = integers({9, 4, 9}), second = integers({4}),
            none = integers({});
  dt_out noise{}, alone{}, nothing{}, uniform{};
  OK(dt_philox_normal(kNoGrad, 1, 2, step, indices, row, 1, &noise));
  OK(dt_philox_normal(kNoGrad, 1, 2, step, second, row, 1, &alone));
  OK(dt_philox_normal(kNoGrad, 1, 2, step, none, row, 1, &nothing));
  OK(dt_philox_uniform(kNoGrad, 1, 2, step, indices, &uniform));
  FAILS(dt_philox_uniform(kNoGrad, 1, 2, indices, indices, &alone), "step is Long [3]");
  auto all = values(noise.t, 15), one = values(alone.t, 5);
  CHECK(!std::memcmp(all.data(), all.data() + 10, 20) &&
        !std::memcmp(all.data() + 5, one.data(), 20));
  release({a.t, b.t, step, indices, second, none, noise.t, alone.t, nothing.t, uniform.t});
}

void feeds() {
  dt_feed f = nullptr;
  OK(dt_feed_new(kCPU, 300, &f));
  dt_out x{}, y{};
  const int64_t two = 2;
  OK(dt_feed_tensor(f, 256, DT_FLOAT32, &two, 1, &x));
  FAILS(dt_feed_tensor(f, 296, DT_FLOAT32, &two, 1, &y), "");
  FAILS(dt_feed_tensor(f, 0, 99, &two, 1, &y), "dtype");
  FAILS(dt_feed_new(kCPU, -1, &f), "");
  const float one[] = {1, 2};
  void *host = nullptr;
  OK(dt_feed_bytes(f, &host));
  std::memcpy(static_cast<char *>(host) + 256, one, sizeof one);
  OK(dt_feed_send(f));
  EXPECT(x.t, {1, 2});
  dt_feed_free(f);
  EXPECT(x.t, {1, 2});
  dt_feed_free(nullptr);
  dt_pace p = nullptr;
  FAILS(dt_pace_new(kCPU, 0, &p), "want at least 1");
  OK(dt_pace_new(kCPU, 1, &p));
  OK(dt_pace_step(p));
  dt_pace_free(p);
  dt_pace_free(nullptr);
  release({x.t});
}

void readbacks() {
  dt_readback r = nullptr;
  OK(dt_readback_new(kCPU, 12, &r));
  const dt_tensor ts[] = {from({1, 2, 3}, {3}), from({4}, {1}), from({1, 2, 3, 4}, {4})};
  const void *host = nullptr;
  int64_t n = 0;
  FAILS(dt_readback_wait(r, &host, &n), "start one first");
  FAILS(dt_readback_start(r, ts[2]), "want at most 12");
  OK(dt_readback_start(r, ts[0]));
  OK(dt_readback_start(r, ts[1]));
  FAILS(dt_readback_start(r, ts[1]), "wait for one first");
  OK(dt_readback_wait(r, &host, &n));
  CHECK(n == 12 && static_cast<const float *>(host)[2] == 3);
  dt_readback_free(r);  // with one on its way
  dt_readback_free(nullptr);
  release({ts[0], ts[1], ts[2]});
}

// An optimizer in a group of one process, with a bucket for each of two parameters.
void adamw_in_group(dt_group g) {
  dt_tensor ps[] = {from({1, -1}, {2}), from({5}, {1})};
  for (auto p : ps) OK(dt_set_requires_grad(p, 1));
  const int64_t offsets[] = {32, 0}, buckets[] = {32, 32};
  for (int32_t plain : {0, 1}) {
    dt_adamw o = nullptr;
    OK(dt_adamw_new(ps, 2, offsets, buckets, 2, 64, {0.9, 0.999, 1e-8, 0}, g, plain, &o));
    dt_out out[2] = {};
    dt_tensor lr = number(0.1), decay = number(0.5);
    dt_adamw_options options{lr, decay, 1, nullptr};
    int32_t missing[2] = {}, n = 0;
    auto backward = [](dt_tensor p) {
      dt_out loss{};
      OK(dt_sum(kGrad, p, &loss));
      OK(dt_backward(kGrad, loss.t));
      release({loss.t});
    };
    backward(ps[0]);
    FAILS(dt_adamw_copy(o, 0, out), "no copies");
    OK(dt_adamw_missing(o, missing, &n));
    CHECK(n == 1 && missing[0] == 1);
    FAILS(dt_adamw_step(o, &options, out), "1 weights have no gradient");
    OK(dt_adamw_last_backward(o));
    backward(ps[1]);  // its bucket is the first, and full
    dt_out loss{};
    OK(dt_sum(kGrad, ps[1], &loss));
    FAILS(dt_backward(kGrad, loss.t), "another gradient");
    OK(dt_adamw_step(o, &options, out));
    EXPECT(out[0].t, {std::sqrt(3.0f)});
    EXPECT(out[1].t, {0});
    dt_out averages{}, copies[5] = {};
    OK(dt_adamw_averages(o, &averages));
    OK(dt_adamw_snapshot(o, copies));
    CHECK(copies[4].t);
    backward(ps[0]);
    backward(ps[1]);
    OK(dt_adamw_last_backward(o));
    OK(dt_adamw_zero_grad(o));
    backward(ps[1]);
    dt_adamw_free(o);  // with a gradient that no step has used
    backward(ps[0]);   // no hook is left
    for (auto p : ps) OK(dt_clear_grad(p));
    for (auto &c : copies) release({c.t});
    release({lr, decay, loss.t, out[0].t, out[1].t, averages.t});
  }
  EXPECT(ps[1], {4.8f});
  release({ps[0], ps[1]});
}

int free_port() {
  sockaddr_in a{};
  a.sin_family = AF_INET;
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t n = sizeof a;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  CHECK(fd >= 0 && !bind(fd, reinterpret_cast<sockaddr *>(&a), n) &&
        !getsockname(fd, reinterpret_cast<sockaddr *>(&a), &n));
  close(fd);
  return ntohs(a.sin_port);
}

// A group of one process: what is between processes has tests in package dist.
void groups() {
  dt_store s = nullptr;
  FAILS(dt_store_new("127.0.0.1", 0, 1, -1, "p", 1000, &s), "port 0");
  OK(dt_store_new("127.0.0.1", free_port(), 1, -1, "p", 5000, &s));
  OK(dt_store_set(s, "k", "a\0b", 3));
  void *value = nullptr;
  int64_t n = 0;
  OK(dt_store_get(s, "k", &value, &n));
  CHECK(n == 3 && !std::memcmp(value, "a\0b", 3));
  std::free(value);
  OK(dt_store_add(s, "n", 5, &n));
  CHECK(n == 5);
  int32_t yes = 0;
  const char *keys[] = {"k", "n"};
  OK(dt_store_check(s, keys, 2, &yes));
  CHECK(yes);
  OK(dt_store_delete(s, "k", &yes));
  CHECK(yes);
  OK(dt_store_check(s, keys, 1, &yes));
  CHECK(!yes);

  dt_group g = nullptr;
  FAILS(dt_group_new_gloo(s, 0, 1, "no-such-interface", "", 5000, &g), "interface");
  OK(dt_group_new_gloo(s, 0, 1, "", "127.0.0.1", 5000, &g));
  dt_tensor a = from({1, 2}, {2}), b = from({0, 0}, {2}), c = from({0, 0, 0}, {3});
  OK(dt_group_all_reduce(g, a, DT_SUM));
  OK(dt_group_reduce_scatter(g, b, a));
  EXPECT(b, {1, 2});
  OK(dt_group_all_gather(g, a, b));
  OK(dt_group_broadcast(g, a, 0));
  EXPECT(a, {1, 2});
  OK(dt_group_barrier(g, 1000));
  FAILS(dt_group_all_reduce(g, a, 9), "reduction number 9");
  FAILS(dt_group_reduce_scatter(g, c, a), "do not make");
  FAILS(dt_group_all_gather(g, a, c), "do not make");
  adamw_in_group(g);
  CHECK(!dt_group_failed(g));
  OK(dt_group_abort(g));
  FAILS(dt_group_barrier(g, 1000), "aborted");
  FAILS(dt_group_broadcast(g, a, 0), "aborted");
  dt_group_free(g);
  dt_group_free(nullptr);
  dt_store_free(s);
  dt_store_free(nullptr);
  release({a, b, c});
}

}  // namespace

void kernel_draws();      // in draws.cpp
void kernels();           // in kernels.cpp
void norms();             // in norms.cpp
void fused_operations();  // in fused.cpp
void lt();                // in lt.cpp
void modes();             // in modes.cpp
void streams();           // in streams.cpp

int main() {
  CHECK(dt_abi_version() == DT_ABI);
  CHECK(std::strstr(dt_build_info(), "libtorch 2."));
  CHECK(dt_init());
  dt_init_thread();
  dt_set_num_threads(1);
  for (int i = 0; i < 3; i++) {
    operations();
    errors();
    gradients();
    adamw();
    random_numbers();
    feeds();
    readbacks();
    groups();
    CHECK(dt_live_tensors() == 0);
  }
  kernels();
  norms();
  fused_operations();
  lt();
  kernel_draws();
  modes();
  streams();
  std::puts("shim_asan_test: ok");
}
