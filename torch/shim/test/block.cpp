// The kernels of a transformer block against libtorch's compositions in float64, forward and
// gradients, and their bfloat16 results against those in float32.
#include <cmath>
#include <string>

#include "device.h"
#include "kernels/ada_layer_norm.cuh"
#include "kernels/adamw.cuh"
#include "kernels/bias_gelu.cuh"
#include "kernels/gated_add.cuh"
#include "kernels/pack_qkv.cuh"

namespace {

constexpr float kEps = 1e-6f;
constexpr dt_mode kGrad = DT_MODE_GRAD;

std::mt19937 generator(1);

// What bfloat16 can hold too, so that kernels of both types get the same numbers.
Values normals(int64_t n, float mean = 0, float deviation = 1) {
  std::normal_distribution<float> normal(mean, deviation);
  Values v(static_cast<size_t>(n));
  for (float &x : v) x = static_cast<float>(dt::bfloat16(normal(generator)));
  return v;
}

// Tensors in float64 that are freed at the end.
class Composition {
 public:
  Composition() = default;
  Composition(const Composition &) = delete;
  ~Composition() { dt_free_many(all_.data(), static_cast<int64_t>(all_.size())); }

  dt_tensor leaf(const Values &v, std::vector<int64_t> dims) {
    const std::vector<double> wide(v.begin(), v.end());
    dt_out o{};
    OK(dt_from_host(wide.data(), static_cast<int64_t>(wide.size() * sizeof(double)), DT_FLOAT64, -1,
                    dims.data(), static_cast<int32_t>(dims.size()), &o));
    OK(dt_set_requires_grad(o.t, 1));
    return keep(o.t);
  }
  // The result of a function of dt.h.
  template <class... Params, class... Args>
  dt_tensor of(dt_error *(*f)(Params...), Args... args) {
    dt_out o{};
    OK(f(kGrad, args..., &o));
    return keep(o.t);
  }
  // Computes the gradients of the sum of all x dx.
  void backward(std::vector<std::pair<dt_tensor, const Values *>> grads) {
    dt_tensor total = nullptr;
    for (const auto &[x, dx] : grads) {
      dt_tensor flat = of(dt_reshape, x, &flat_, 1);
      dt_tensor product =
          of(dt_sum, of(dt_mul, flat, leaf(*dx, {static_cast<int64_t>(dx->size())})));
      total = total ? of(dt_add, total, product) : product;
    }
    OK(dt_backward(0, total));
  }
  std::vector<double> read(dt_tensor t, size_t n) {
    std::vector<double> v(n);
    OK(dt_to_host(t, v.data(), static_cast<int64_t>(n * sizeof(double))));
    return v;
  }
  std::vector<double> grad(dt_tensor t, size_t n) {
    dt_out o{};
    OK(dt_grad(t, &o));
    return read(keep(o.t), n);
  }

 private:
  dt_tensor keep(dt_tensor t) {
    all_.push_back(t);
    return t;
  }
  std::vector<dt_tensor> all_;
  const int64_t flat_ = -1;
};

// close checks float32 against float64: within 1e-6, relative to the larger of the value and the
// root mean square of all. For results of order 1 that is 1e-6 of the larger of 1 and the value; a
// sum over many rows is as large as it is.
void close_at(int line, const std::string &what, const Values &got,
              const std::vector<double> &want) {
  if (got.size() != want.size()) fail_at(__FILE__, line, what + ": another size");
  double squares = 0;
  for (double w : want) squares += w * w;
  const double unit = std::sqrt(squares / static_cast<double>(want.size()));
  for (size_t i = 0; i < want.size(); i++)
    if (!(std::fabs(got[i] - want[i]) <= 1e-6 * std::fmax(unit, std::fabs(want[i]))))
      fail_at(__FILE__, line,
              what + ": element " + std::to_string(i) + " is " + std::to_string(got[i]) +
                  ", want " + std::to_string(want[i]) + ", " +
                  std::to_string(std::fabs(got[i] - want[i]) / unit * 1e6) + "e-6 of " +
                  std::to_string(unit));
}
#define CLOSE(...) close_at(__LINE__, __VA_ARGS__)

// rounds checks that the bfloat16 results are those in float32, rounded once; those that a kernel
// writes in float32 in both cases are the same bits.
void rounds_at(int line, const std::string &what, const Results &half, const Results &single,
               const std::vector<bool> &is_half) {
  CHECK(half.size() == single.size() && half.size() == is_half.size());
  for (size_t i = 0; i < half.size(); i++)
    if (!same(half[i], is_half[i] ? widened(rounded<dt::bfloat16>(single[i])) : single[i]))
      fail_at(__FILE__, line,
              what + ": result " + std::to_string(i) +
                  " for bfloat16 is not the float32 result, rounded once");
}
#define ROUNDS(...) rounds_at(__LINE__, __VA_ARGS__)

struct Shape {
  int64_t n, tokens;
  int width;
  bool gate = false;

  size_t samples() const { return static_cast<size_t>(n * width); }
  size_t all() const { return static_cast<size_t>(n * tokens * width); }
  std::string name() const {
    return std::to_string(n) + "x" + std::to_string(tokens) + "x" + std::to_string(width) +
           (gate ? " with gate" : "");
  }
};

// Part k of the modulation [n, 3 width]: shift, scale, gate.
template <class V>
V part(const V &modulation, const Shape &s, int k) {
  V result;
  const auto row = modulation.begin() + k * s.width;
  for (int64_t i = 0; i < s.n; i++)
    result.insert(result.end(), row + i * 3 * s.width, row + i * 3 * s.width + s.width);
  return result;
}

struct Inputs {
  Values x, y, modulation, dout, add;

  explicit Inputs(const Shape &s)
      : x(normals(static_cast<int64_t>(s.all()), 0.5f, 1.5f)),
        y(normals(static_cast<int64_t>(s.all()))),
        modulation(normals(3 * s.n * s.width, 0.1f, 0.4f)),
        dout(normals(static_cast<int64_t>(s.all()))),
        add(normals(static_cast<int64_t>(s.all()))) {
    for (float &v : x) v += 1e-3f;  // the stream has all digits of float32
  }
  // The last sample alone.
  Inputs last(const Shape &s) const {
    Inputs in = *this;
    const auto cut = [&](Values *v) {
      v->erase(v->begin(), v->end() - static_cast<std::ptrdiff_t>(v->size()) / s.n);
    };
    for (Values *v : {&in.x, &in.y, &in.modulation, &in.dout, &in.add}) cut(v);
    return in;
  }
};

// out, mean, rstd, dx, dshift, dscale, and with a gate sum, dy, dgate
template <class T>
Results ada_layer_norm(const Shape &s, const Inputs &in, bool add = true) {
  Memory<float> x(in.x), adding(in.add), sum(s.all()), dx(s.all());
  Memory<float> mean(static_cast<size_t>(s.n * s.tokens)),
      rstd(static_cast<size_t>(s.n * s.tokens));
  Memory<T> y(rounded<T>(in.y)), modulation(rounded<T>(in.modulation)), dout(rounded<T>(in.dout));
  Memory<T> out(s.all()), dy(s.all()), dmodulation(3 * s.samples());
  Memory<char> workspace(
      static_cast<size_t>(dt::ada_layer_norm_workspace(s.n, s.tokens, s.width, s.gate)));
  dt_ada_norm_args f{};
  f.n = s.n, f.tokens = s.tokens, f.width = s.width, f.eps = kEps, f.stride = 3 * s.width;
  f.x = x.get();
  f.shift = modulation.get(), f.scale = modulation.get() + s.width;
  f.out = out.get(), f.mean = mean.get(), f.rstd = rstd.get();
  dt_ada_norm_backward_args b{};
  b.n = s.n, b.tokens = s.tokens, b.width = s.width, b.stride = b.dstride = 3 * s.width;
  b.x = x.get(), b.scale = f.scale, b.mean = mean.get(), b.rstd = rstd.get();
  b.dout = dout.get(), b.add = add ? adding.get() : nullptr;
  b.dx = add ? adding.get() : dx.get();  // in place
  b.dshift = dmodulation.get(), b.dscale = dmodulation.get() + s.width;
  b.workspace = workspace.get();
  if (s.gate) {
    f.gate = b.gate = modulation.get() + 2 * s.width;
    f.y = b.y = y.get(), f.sum = sum.get(), b.x = sum.get();
    b.dy = dy.get(), b.dgate = dmodulation.get() + 2 * s.width;
  }
  CHECK(!dt::ada_layer_norm<T>(f, {}));
  CHECK(!dt::ada_layer_norm_backward<T>(b, {}));
  const Values gradients = widened(dmodulation.read());
  Results results = {widened(out.read()),   mean.read(),
                     rstd.read(),           add ? adding.read() : dx.read(),
                     part(gradients, s, 0), part(gradients, s, 1)};
  if (s.gate)
    results.insert(results.end(), {sum.read(), widened(dy.read()), part(gradients, s, 2)});
  return results;
}

void ada_layer_norms() {
  for (const Shape &s : {
           Shape{2, 1, 1152},
           Shape{1, 77, 1152, true},
           Shape{1, 255, 1152},
           Shape{1, 257, 384, true},
           Shape{2, 1, 64, true},
           Shape{2, 255, 64},
           Shape{2, 77, 64, true},
           Shape{1, 77, 1000},
           Shape{2, 5, 1000, true},
           Shape{1, 17, 768, true},
           Shape{2, 3, 1024},
           Shape{1, 2, 4096, true},
           Shape{2, 33, 4},
       }) {
    const Inputs in(s);
    const auto got = in_orders([&] { return ada_layer_norm<float>(s, in); });
    Composition g;
    const std::vector<int64_t> dims = {s.n, s.tokens, s.width}, rows = {s.n, s.width};
    const dt_tensor x = g.leaf(in.x, dims), shift = g.leaf(part(in.modulation, s, 0), rows),
                    scale = g.leaf(part(in.modulation, s, 1), rows),
                    gate = g.leaf(part(in.modulation, s, 2), rows), y = g.leaf(in.y, dims);
    const dt_tensor sum = s.gate ? g.of(dt_gated_add, x, gate, y) : x;
    const dt_tensor out = g.of(dt_ada_layer_norm, sum, shift, scale, double{kEps});
    g.backward({{out, &in.dout}, {sum, &in.add}});
    CLOSE(s.name() + ": out", got[0], g.read(out, s.all()));
    CLOSE(s.name() + ": dx", got[3], g.grad(x, s.all()));
    CLOSE(s.name() + ": dshift", got[4], g.grad(shift, s.samples()));
    CLOSE(s.name() + ": dscale", got[5], g.grad(scale, s.samples()));
    std::vector<bool> is_half = {true, false, false, false, true, true};
    if (s.gate) {
      CLOSE(s.name() + ": sum", got[6], g.read(sum, s.all()));
      CLOSE(s.name() + ": dy", got[7], g.grad(y, s.all()));
      CLOSE(s.name() + ": dgate", got[8], g.grad(gate, s.samples()));
      is_half.insert(is_half.end(), {false, true, true});
    }
    ROUNDS(s.name(), ada_layer_norm<dt::bfloat16>(s, in), got, is_half);

    const Shape alone{1, s.tokens, s.width, s.gate};
    const auto got_alone = ada_layer_norm<float>(alone, in.last(s));
    for (size_t i = 0; i < got.size(); i++) {
      const auto size = static_cast<std::ptrdiff_t>(got_alone[i].size());
      CHECK(same(got_alone[i], Values(got[i].end() - size, got[i].end())));
    }
  }
  // Without a gradient to add to.
  const Shape s{2, 19, 384, true};
  Inputs in(s);
  const auto alone = ada_layer_norm<float>(s, in, false);
  for (float &v : in.add) v = 0;
  CHECK(same(alone, ada_layer_norm<float>(s, in)));
}

// sum, dy, dgate
template <class T>
Results gated_add(const Shape &s, const Inputs &in) {
  Memory<float> x(in.x), dsum(in.add);
  Memory<T> y(rounded<T>(in.y)), modulation(rounded<T>(in.modulation));
  Memory<T> dy(s.all()), dmodulation(3 * s.samples());
  Memory<char> workspace(static_cast<size_t>(dt::columns_workspace(s.n, s.tokens, s.width)));
  const T *gate = modulation.get() + 2 * s.width;
  CHECK(!dt::gated_add<T>({s.n, s.tokens, s.width, x.get(), gate, 3 * s.width, y.get(), x.get()},
                          {}));
  CHECK(!dt::gated_add_backward<T>(
      {s.n, s.tokens, s.width, dsum.get(), gate, 3 * s.width, y.get(), dy.get(),
       dmodulation.get() + 2 * s.width, 3 * s.width, workspace.get()},
      {}));
  return {x.read(), widened(dy.read()), part(widened(dmodulation.read()), s, 2)};
}

void gated_adds() {
  for (const Shape &s : {Shape{2, 1, 1152}, Shape{2, 77, 1000}, Shape{1, 255, 384},
                         Shape{2, 257, 64}, Shape{1, 3, 4}}) {
    const Inputs in(s);
    const auto got = in_orders([&] { return gated_add<float>(s, in); });
    Composition g;
    const std::vector<int64_t> dims = {s.n, s.tokens, s.width};
    const dt_tensor x = g.leaf(in.x, dims), y = g.leaf(in.y, dims),
                    gate = g.leaf(part(in.modulation, s, 2), {s.n, s.width});
    const dt_tensor sum = g.of(dt_gated_add, x, gate, y);
    g.backward({{sum, &in.add}});
    CLOSE(s.name() + ": gated sum", got[0], g.read(sum, s.all()));
    CLOSE(s.name() + ": dy", got[1], g.grad(y, s.all()));
    CLOSE(s.name() + ": dgate", got[2], g.grad(gate, s.samples()));
    ROUNDS(s.name(), gated_add<dt::bfloat16>(s, in), got, {false, true, true});
  }
}

// dx, dbias, and the latter from float32 sums
template <class T>
Results bias_gelu_backward(int64_t rows, int width, const Values &in, const Values &bias,
                           const Values &dout) {
  constexpr int32_t half = sizeof(T) == 2;
  Memory<T> x(rounded<T>(in)), b(rounded<T>(bias)), dy(rounded<T>(dout));
  Memory<T> dx(in.size()), dbias(bias.size());
  Memory<float> dbias_float(bias.size());
  Memory<char> workspace(static_cast<size_t>(dt::columns_workspace(1, rows, width)));
  CHECK(!dt::bias_gelu_backward<T>(
      {rows, width, x.get(), b.get(), dy.get(), dx.get(), dbias.get(), half, workspace.get()}, {}));
  CHECK(!dt::bias_gelu_backward<T>(
      {rows, width, x.get(), b.get(), dy.get(), dy.get(), dbias_float.get(), 0, workspace.get()},
      {}));  // in place
  CHECK(same(dx.read(), dy.read()));
  return {widened(dx.read()), widened(dbias.read()), dbias_float.read()};
}

void bias_gelus() {
  struct Case {
    int64_t rows;
    int width;
  };
  for (const Case &c : {Case{1, 4608}, Case{77, 1000}, Case{255, 384}, Case{257, 64}, Case{33, 100},
                        Case{3, 1}, Case{8193, 8}}) {
    Values x = normals(c.rows * c.width, 0, 2);
    const Values bias = normals(c.width), dy = normals(c.rows * c.width);
    const float far[] = {0, -30, 30, -4096, 4096, -9, 9};
    for (size_t i = 0; i < x.size() && i < 7; i++) x[i] = far[i];
    const std::string name = std::to_string(c.rows) + "x" + std::to_string(c.width);
    const auto got =
        in_orders([&] { return bias_gelu_backward<float>(c.rows, c.width, x, bias, dy); });
    Composition g;
    const dt_tensor in = g.leaf(x, {c.rows, c.width}), b = g.leaf(bias, {c.width});
    const dt_tensor out = g.of(dt_gelu, g.of(dt_add, in, b));
    g.backward({{out, &dy}});
    CLOSE(name + ": dx", got[0], g.grad(in, x.size()));
    CLOSE(name + ": dbias", got[1], g.grad(b, bias.size()));
    CHECK(same(got[2], got[1]));
    const auto half = bias_gelu_backward<dt::bfloat16>(c.rows, c.width, x, bias, dy);
    ROUNDS(name + ": gelu", half, got, {true, true, false});
  }

  // A product that has added the bias: the same numbers.
  const Values x = normals(64 * 5), none(64, 0);
  Memory<float> in(x), dx(x.size()), sums(64);
  Memory<char> workspace(static_cast<size_t>(dt::columns_workspace(1, 5, 64)));
  CHECK(!dt::bias_gelu_backward<float>(
      {5, 64, in.get(), nullptr, in.get(), dx.get(), sums.get(), 0, workspace.get()}, {}));
  CHECK(same(dx.read(), bias_gelu_backward<float>(5, 64, x, none, x)[0]));
}

template <class T>
Results column_sums(int64_t rows, int width, const Values &v, size_t offset) {
  Values moved(offset);
  moved.insert(moved.end(), v.begin(), v.end());
  Memory<T> x(rounded<T>(moved));
  Memory<float> sums(static_cast<size_t>(width));
  Memory<dt::bfloat16> half_sums(static_cast<size_t>(width));
  Memory<char> workspace(static_cast<size_t>(dt::columns_workspace(1, rows, width)));
  const T *from = x.get() + offset;
  CHECK(!dt::column_sums<T>({rows, width, from, sums.get(), 0, workspace.get()}, {}));
  CHECK(!dt::column_sums<T>({rows, width, from, half_sums.get(), 1, workspace.get()}, {}));
  return {sums.read(), widened(half_sums.read())};
}

void all_column_sums() {
  struct Case {
    int64_t rows;
    int width;
    size_t offset;  // of x in memory
  };
  for (const Case &c : {Case{1, 64, 0}, Case{77, 1152, 0}, Case{255, 1000, 0}, Case{257, 384, 0},
                        Case{31, 384, 1}, Case{33, 7, 0}, Case{8193, 16, 0}, Case{0, 40, 0}}) {
    const Values x = normals(c.rows * c.width, 1);
    const std::string name = std::to_string(c.rows) + "x" + std::to_string(c.width) + ": sums";
    const auto got = in_orders([&] { return column_sums<float>(c.rows, c.width, x, c.offset); });
    std::vector<double> want(static_cast<size_t>(c.width));
    for (size_t i = 0; i < x.size(); i++) want[i % want.size()] += x[i];
    CLOSE(name, got[0], want);
    CHECK(same(got[1], widened(rounded<dt::bfloat16>(got[0]))));
    const auto half = column_sums<dt::bfloat16>(c.rows, c.width, x, c.offset);
    // A thread owns other columns, and adds in the same order.
    CHECK(same(half, got));
  }
}

void packs() {
  struct Case {
    int64_t n, tokens;
    int heads, head_width;
    bool tokens_first;  // in the memory of dq: [n, tokens, heads, head_width]
  };
  for (const Case &c :
       {Case{2, 77, 16, 72, false}, Case{1, 257, 6, 64, true}, Case{2, 1, 3, 5, false},
        Case{1, 3, 2, 12, true}, Case{1, 2, 40, 64, false}}) {
    const int64_t row = int64_t{c.heads} * c.head_width, sample = c.tokens * row;
    std::vector<uint32_t> parts[3], want(static_cast<size_t>(3 * c.n * sample));
    for (int k = 0; k < 3; k++) {
      parts[k].resize(static_cast<size_t>(c.n * sample));
      for (size_t i = 0; i < parts[k].size(); i++) parts[k][i] = static_cast<uint32_t>(3 * i + k);
    }
    const int64_t h = c.tokens_first ? c.head_width : c.tokens * c.head_width,
                  t = c.tokens_first ? row : c.head_width;
    for (int64_t i = 0; i < static_cast<int64_t>(want.size()); i++) {
      const int64_t d = i % c.head_width, head = i / c.head_width % c.heads, k = i / row % 3,
                    token = i / (3 * row) % c.tokens, from = i / (3 * sample);
      want[i] = parts[k][static_cast<size_t>(from * sample + head * h + token * t + d)];
    }
    const auto pack = [&](auto type) {
      using T = decltype(type);
      const auto cut = [](const std::vector<uint32_t> &v) {
        std::vector<T> result;
        for (uint32_t x : v) result.push_back(static_cast<T>(x));
        return result;
      };
      const auto got = in_orders([&] {
        Memory<T> dq(cut(parts[0])), dk(cut(parts[1])), dv(cut(parts[2])), to(want.size());
        CHECK(!dt::pack_qkv<T>({c.n, c.tokens, c.heads, c.head_width, dq.get(), dk.get(), dv.get(),
                                sample, h, t, to.get()},
                               {}));
        return to.read();
      });
      CHECK(same(got, cut(want)));
    };
    pack(uint32_t{});
    pack(uint16_t{});
  }
}

// The buffers of AdamW; gradients come with each step.
struct Adam {
  static constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kSmall = 1e-8, kShrink = 0.03;
  Values weight, m, v, average;
};

struct AdamStep {
  double lr, decay;
  float step, skip, clip;
  Values gradient;
};

// The buffers are cut at every number of cuts.
template <class G>
Results adamw(const Adam &from, const std::vector<AdamStep> &steps,
              const std::vector<size_t> &cuts = {}) {
  const size_t n = from.weight.size();
  Memory<float> weight(from.weight), m(from.m), v(from.v), average(from.average);
  Memory<dt::bfloat16> copy(n);
  Memory<char> workspace(DT_ADAMW_WORKSPACE);
  Results results;
  for (const AdamStep &s : steps) {
    Memory<double> numbers(std::vector<double>{s.lr, s.decay});
    Memory<float> flags(Values{s.step, s.skip, s.clip});
    Memory<G> gradient(rounded<G>(s.gradient));
    std::vector<dt_adamw_part> parts;
    size_t begin = 0;
    const auto part = [&](size_t end) {
      parts.push_back({static_cast<int64_t>(end - begin), weight.get() + begin, m.get() + begin,
                       v.get() + begin, average.get() + begin, copy.get() + begin,
                       gradient.get() + begin});
      begin = end;
    };
    for (size_t cut : cuts) part(cut);
    part(n);
    dt_adamw_args a{};
    a.parts = parts.data(), a.count = static_cast<int64_t>(parts.size());
    a.beta1 = Adam::kBeta1, a.beta2 = Adam::kBeta2, a.eps = Adam::kSmall;
    a.weight_decay = Adam::kShrink;
    a.lr = numbers.get(), a.decay = numbers.get() + 1;
    a.step = flags.get(), a.skip = flags.get() + 1, a.clip = flags.get() + 2;
    a.workspace = workspace.get();
    CHECK(!dt::adamw<G>(a, {}));
    results = {weight.read(), m.read(), v.read(), average.read(), widened(copy.read())};
  }
  return results;
}

void adamws() {
  for (int64_t n : {1, 7, 1024, 1027, 5000}) {
    Adam from{normals(n, 0, 0.3f),
              Values(static_cast<size_t>(n), 0),
              Values(static_cast<size_t>(n), 0),
              {}};
    from.average = from.weight;
    std::vector<AdamStep> steps;
    for (int i = 1; i <= 5; i++)
      steps.push_back({1e-2 / i, i < 3 ? 0.9 : 0.9999, static_cast<float>(i), 0, i == 2 ? 0.25f : 1,
                       normals(n, 0.1f)});
    const auto got = in_orders([&] { return adamw<float>(from, steps); });
    CHECK(same(adamw<dt::bfloat16>(from, steps), got));
    CHECK(same(got[4], widened(rounded<dt::bfloat16>(got[0]))));

    const auto wide = [](const Values &v) { return std::vector<double>(v.begin(), v.end()); };
    auto w = wide(from.weight), m = wide(from.m), v = wide(from.v), average = wide(from.average);
    for (const AdamStep &s : steps)
      for (size_t i = 0; i < w.size(); i++) {
        const double g = double{s.gradient[i]} * s.clip;
        m[i] = Adam::kBeta1 * m[i] + (1 - Adam::kBeta1) * g;
        v[i] = Adam::kBeta2 * v[i] + (1 - Adam::kBeta2) * g * g;
        w[i] *= 1 - s.lr * Adam::kShrink;
        w[i] -= s.lr / (1 - std::pow(Adam::kBeta1, s.step)) * m[i] /
                (std::sqrt(v[i] / (1 - std::pow(Adam::kBeta2, s.step))) + Adam::kSmall);
        average[i] = s.decay * average[i] + (1 - s.decay) * w[i];
      }
    const std::string name = "AdamW of " + std::to_string(n);
    CLOSE(name + ": weight", got[0], w);
    CLOSE(name + ": m", got[1], m);
    CLOSE(name + ": v", got[2], v);
    CLOSE(name + ": average", got[3], average);

    // A step that is skipped leaves every bit, whatever the gradient is.
    auto more = steps;
    more.push_back({1e-2, 0.9, 6, 1, NAN, Values(static_cast<size_t>(n), NAN)});
    CHECK(same(adamw<float>(from, more), got));
    CHECK(same(adamw<dt::bfloat16>(from, more), got));
  }

  // In parts: odd ones, an empty one, more than a launch takes.
  const Adam whole{normals(3000), Values(3000, 0), Values(3000, 0), normals(3000)};
  const std::vector<AdamStep> once{{1e-2, 0.9, 1, 0, 0.5f, normals(3000)}};
  const auto want = adamw<float>(whole, once);
  std::vector<size_t> many;
  for (size_t i = 0; i < 2900; i += 25) many.push_back(i);
  for (const auto &cuts : {std::vector<size_t>{1, 1, 1030, 2999}, many}) {
    CHECK(same(in_orders([&] { return adamw<float>(whole, once, cuts); }), want));
    CHECK(same(adamw<dt::bfloat16>(whole, once, cuts), want));
  }

  // Without what is optional; without a gradient the average moves alone.
  Memory<double> numbers(std::vector<double>{1e-2, 0.9});
  Memory<float> step(Values{1}), weight(whole.weight), m(whole.m), v(whole.v),
      gradient(once[0].gradient), average(whole.average);
  Memory<char> workspace(DT_ADAMW_WORKSPACE);
  const auto once_on = [&](const dt_adamw_part &part) {
    dt_adamw_args a{};
    a.parts = &part, a.count = 1;
    a.beta1 = Adam::kBeta1, a.beta2 = Adam::kBeta2, a.eps = Adam::kSmall;
    a.weight_decay = Adam::kShrink, a.lr = numbers.get(), a.step = step.get();
    if (part.average) a.decay = numbers.get() + 1;
    a.workspace = workspace.get();
    CHECK(!dt::adamw<float>(a, {}));
  };
  once_on({3000, weight.get(), nullptr, nullptr, average.get(), nullptr, nullptr});
  CHECK(same(weight.read(), whole.weight));
  const Values moved = average.read();
  for (size_t i = 0; i < moved.size(); i++) {
    const double right = 0.9 * whole.average[i] + 0.1 * whole.weight[i];
    CHECK(std::fabs(moved[i] - right) <= 1e-6 * std::fmax(1, std::fabs(right)));
  }
  once_on({3000, weight.get(), m.get(), v.get(), nullptr, nullptr, gradient.get()});
  auto unclipped = once;
  unclipped[0].clip = 1;
  const auto plain = adamw<float>(whole, unclipped);
  CHECK(same(weight.read(), plain[0]) && same(m.read(), plain[1]) && same(v.read(), plain[2]));
}

// The optimizer of the shim on the CPU: two steps, the second clipped. Its moments have the
// rounding of 1 - 0.999 in float32.
void shim_adamw() {
  const int64_t n = 1027, offset = 0;
  const Values w = normals(n, 0, 0.3f), zeros(n, 0);
  std::vector<AdamStep> steps = {{1e-2, 0.99, 1, 0, 1, normals(n)},
                                 {5e-3, 0.99, 2, 0, 1, normals(n)}};
  dt_out weight{};
  OK(dt_from_host(w.data(), n * 4, DT_FLOAT32, -1, &n, 1, &weight));
  OK(dt_set_requires_grad(weight.t, 1));
  dt_adamw o = nullptr;
  OK(dt_adamw_new(&weight.t, 1, &offset, &n, 1, n,
                  {Adam::kBeta1, Adam::kBeta2, Adam::kSmall, Adam::kShrink}, nullptr, 0, &o));
  for (size_t i = 0; i < 2; i++) {
    dt_out g{}, product{}, loss{}, out[3]{};
    OK(dt_from_host(steps[i].gradient.data(), n * 4, DT_FLOAT32, -1, &n, 1, &g));
    OK(dt_mul(kGrad, weight.t, g.t, &product));
    OK(dt_sum(kGrad, product.t, &loss));
    OK(dt_backward(0, loss.t));
    dt_out lr{}, decay{};
    OK(dt_full(0, -1, steps[i].lr, DT_FLOAT64, nullptr, 0, &lr));
    OK(dt_full(0, -1, steps[i].decay, DT_FLOAT64, nullptr, 0, &decay));
    const dt_adamw_options options{lr.t, decay.t, i == 1 ? 3.0 : 0.0, nullptr};
    OK(dt_adamw_step(o, &options, out));
    float norm;
    OK(dt_to_host(out[0].t, &norm, 4));
    if (i == 1) steps[i].clip = 3 / (norm + 1e-6f);
    dt_tensor ts[] = {g.t, product.t, loss.t, lr.t, decay.t, out[0].t, out[1].t};
    dt_free_many(ts, 7);
  }
  const auto got = adamw<float>({w, zeros, zeros, w}, steps);
  const auto near = [&](const Values &values, dt_tensor t, double limit) {
    Values want(static_cast<size_t>(n));
    OK(dt_to_host(t, want.data(), n * 4));
    for (size_t i = 0; i < want.size(); i++)
      CHECK(std::fabs(values[i] - want[i]) <= limit * std::fabs(want[i]) + 1e-7);
  };
  dt_out average{}, m{}, v{};
  OK(dt_adamw_buffer(o, DT_ADAMW_EMA, &average));
  OK(dt_adamw_buffer(o, DT_ADAMW_EXP_AVG, &m));
  OK(dt_adamw_buffer(o, DT_ADAMW_EXP_AVG_SQ, &v));
  near(got[0], weight.t, 1e-6);
  near(got[1], m.t, 1e-6);
  near(got[2], v.t, 2e-5);
  near(got[3], average.t, 1e-6);
  dt_tensor ts[] = {weight.t, average.t, m.t, v.t};
  dt_free_many(ts, 4);
  dt_adamw_free(o);
}

// What kernels do not take is an error, and nothing to do is none.
void refused() {
  Memory<float> some(64);
  float *p = some.get();
  const auto ada = [&](int width, int64_t stride, const float *x) {
    dt_ada_norm_args f{};
    f.n = f.tokens = 1, f.width = width, f.stride = stride, f.x = x;
    f.shift = f.scale = f.out = p;
    dt_ada_norm_backward_args b{};
    b.n = b.tokens = 1, b.width = width, b.stride = stride, b.x = x;
    return dt::ada_layer_norm<float>(f, {}) == dt::kInvalidValue &&
           dt::ada_layer_norm_backward<float>(b, {}) == dt::kInvalidValue;
  };
  CHECK(ada(6, 8, p) && ada(4100, 4100, p) && ada(8, 6, p) && ada(8, 8, p + 1));
  const auto gated = [&](int64_t n, int width, int64_t stride, const float *x) {
    return dt::gated_add<float>({n, 1, width, x, p, stride, p, p}, {}) == dt::kInvalidValue &&
           dt::gated_add_backward<float>({n, 1, width, x, p, stride, p, p, p, stride, p}, {}) ==
               dt::kInvalidValue;
  };
  CHECK(gated(65536, 4, 4, p) && gated(1, 6, 8, p) && gated(1, 4, 6, p) && gated(1, 4, 4, p + 1));
  CHECK(dt::column_sums<float>({1, 0, p, p, 0, p}, {}) == dt::kInvalidValue);
  CHECK(dt::bias_gelu_backward<float>({int64_t{1} << 40, 4, p, p, p, p, p, 0, p}, {}) ==
        dt::kInvalidValue);
  CHECK(dt::pack_qkv<uint32_t>({1, int64_t{1} << 32, 1, 4, p, p, p, 4, 4, 4, p}, {}) ==
        dt::kInvalidValue);
  const double rate = 1;
  dt_adamw_part part{};
  part.n = int64_t{1} << 45;
  dt_adamw_args a{};
  a.parts = &part, a.count = 1, a.lr = &rate, a.step = p, a.workspace = p;
  CHECK(dt::adamw<float>(a, {}) == dt::kInvalidValue);

  CHECK(!dt::ada_layer_norm<float>({0, 4, 8, 0, p, p, p, p, 8, p, p, p, p, p}, {}));
  CHECK(!dt::gated_add<float>({4, 0, 4, p, p, 4, p, p}, {}));
  CHECK(!dt::bias_gelu_backward<float>({0, 4, p, p, p, p, p, 0, p}, {}));
  CHECK(!dt::pack_qkv<uint32_t>({0, 4, 1, 4, p, p, p, 4, 4, 4, p}, {}));
  part.n = 0;
  CHECK(!dt::adamw<float>(a, {}));
}

}  // namespace

void block() {
  ada_layer_norms();
  gated_adds();
  bias_gelus();
  all_column_sums();
  packs();
  adamws();
  shim_adamw();
  refused();
}
