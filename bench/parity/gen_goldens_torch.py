"""Writes the golden files of package torch: every operator with its gradients, and AdamW with clipping and EMA.

Needs: pip install torch==2.11.0 safetensors numpy
Usage: python gen_goldens_torch.py [--out ../../torch/testdata]

ops.safetensors, per case NAME of config.cases:
  NAME.in.I    inputs            NAME.out.I   outputs
  NAME.w.I     fixed weights     NAME.grad.I  gradient of sum_j sum(out.j * w.j) with respect to in.I
config.cases is a list of {name, op, args, in, out, grad, f64}: counts of inputs and outputs, the inputs that have a
gradient, and f64 = [out, grad], the largest relative difference of the float32 run from the same case in float64.

adamw.safetensors: see config.about.
"""
import argparse
import math
import os

import torch
import torch.nn.functional as F

from goldens import File, Rand, rel, sig

CASES = []


def case(name, inputs, f, op=None, grad=True, **args):
    """inputs: function of a Rand -> list of tensors; f: the tensors -> tensor or list of tensors."""
    CASES.append((name, op or name, inputs, f, grad, args))


def n(*shapes):
    return lambda r: [r.normal(*s) for s in shapes]


def positive(*shapes):
    return lambda r: [r.uniform(0.2, 3, *s) for s in shapes]


# Elementwise, two operands: equal shapes, broadcasting both ways, a scalar tensor.
for op, f in [("add", torch.add), ("subtract", torch.subtract), ("mul", torch.mul), ("div", torch.div),
              ("maximum", torch.maximum)]:
    second = (lambda r, *s: r.uniform(0.5, 2, *s)) if op == "div" else (lambda r, *s: r.normal(*s))
    for suffix, a, b in [("", (3, 5), (3, 5)), ("_broadcast", (2, 1, 4), (3, 1)), ("_0d", (2, 3), ())]:
        case(op + suffix, lambda r, a=a, b=b, g=second: [r.normal(*a), g(r, *b)], f, op=op)
case("add_scalar", n((3, 4)), lambda x: x + 1.5, value=1.5)
case("mul_scalar", n((3, 4)), lambda x: x * -0.75, value=-0.75)
case("lt", n((4, 5), (5,)), torch.lt, grad=False)

# Elementwise, one operand. The tails say whether a formula overflows.
TAILS = [-100.0, -30.0, -9.0, -3.0, -1e-4, 0.0, 1e-4, 3.0, 9.0, 30.0, 100.0]


def with_tails(r):
    return [torch.cat([r.normal(24, std=2.0), torch.tensor(TAILS)])]


for op, f, make in [("neg", torch.neg, n((3, 5))), ("exp", torch.exp, n((3, 5))), ("log", torch.log, positive((3, 5))),
                    ("square", torch.square, n((3, 5))), ("abs", torch.abs, n((3, 5))), ("sin", torch.sin, n((3, 5))),
                    ("cos", torch.cos, n((3, 5))), ("tanh", torch.tanh, with_tails),
                    ("sigmoid", torch.sigmoid, with_tails), ("silu", F.silu, with_tails),
                    ("gelu", lambda x: F.gelu(x, approximate="tanh"), with_tails)]:
    case(op, make, f, **({"approximate": "tanh"} if op == "gelu" else {}))
case("clamp", lambda r: [r.normal(4, 6, std=2.0)], lambda x: torch.clamp(x, -1.0, 1.5), lo=-1.0, hi=1.5)
case("pow_3", n((3, 5)), lambda x: torch.pow(x, 3.0), op="pow_scalar", value=3.0)
case("pow_half", positive((3, 5)), lambda x: torch.pow(x, 0.5), op="pow_scalar", value=0.5)
case("pow_negative", positive((3, 5)), lambda x: torch.pow(x, -1.5), op="pow_scalar", value=-1.5)
case("addcmul", n((2, 3, 4), (3, 1), (4,)), lambda a, b, c: torch.addcmul(a, b, c))
case("lerp_scalar", n((3, 4), (3, 4)), lambda a, b: torch.lerp(a, b, 0.3), weight=0.3)
case("lerp", lambda r: [r.normal(3, 4), r.normal(3, 4), r.uniform(0, 1, 3, 4)], torch.lerp)
case("where", lambda r: [r.normal(3, 4) > 0, r.normal(3, 4), r.normal(4)], torch.where)

# Matrices.
case("matmul", n((5, 7), (7, 3)), torch.matmul)
case("matmul_batched", n((2, 3, 4, 5), (2, 3, 5, 6)), torch.matmul, op="matmul")
case("matmul_broadcast", n((2, 3, 4, 5), (5, 6)), torch.matmul, op="matmul")
case("linear", n((2, 6, 10), (7, 10), (7,)), F.linear)
case("linear_no_bias", n((4, 10), (7, 10)), F.linear, op="linear")
for name, x, w, stride, padding in [
        ("conv2d", (2, 3, 8, 8), (5, 3, 3, 3), 1, 1), ("conv2d_stride2", (2, 3, 9, 9), (4, 3, 3, 3), 2, 0),
        ("conv2d_patch2", (2, 4, 8, 8), (6, 4, 2, 2), 2, 0), ("conv2d_1x1", (1, 8, 5, 7), (8, 8, 1, 1), 1, 0),
        ("conv2d_wide", (1, 2, 5, 7), (3, 2, 3, 3), 1, 1)]:
    case(name, lambda r, x=x, w=w: [r.normal(*x), r.normal(*w, std=0.3), r.normal(w[0])],
         lambda x, w, b, s=stride, p=padding: F.conv2d(x, w, b, stride=s, padding=p), op="conv2d", stride=stride,
         padding=padding)
case("conv2d_no_bias", n((2, 3, 6, 6), (4, 3, 3, 3)), lambda x, w: F.conv2d(x, w, padding=1), op="conv2d", stride=1,
     padding=1)
case("softmax", lambda r: [r.normal(2, 3, 7, std=4.0)], lambda x: F.softmax(x, -1), dim=-1)
case("softmax_dim1", lambda r: [r.normal(2, 5, 3) + 80], lambda x: F.softmax(x, 1), op="softmax", dim=1)
for name, q, k in [("sdpa", (2, 3, 8, 16), (2, 3, 8, 16)), ("sdpa_72", (1, 2, 16, 72), (1, 2, 16, 72)),
                   ("sdpa_cross", (2, 2, 5, 8), (2, 2, 9, 8)), ("sdpa_one_head", (1, 1, 16, 64), (1, 1, 16, 64))]:
    case(name, n(q, k, k), F.scaled_dot_product_attention, op="sdpa")

# Norms.
case("layer_norm", lambda r: [r.normal(2, 5, 24, std=2.0, mean=0.7)], lambda x: F.layer_norm(x, (24,), eps=1e-6),
     dims=[24], eps=1e-6)
case("layer_norm_affine", n((2, 5, 24), (24,), (24,)), lambda x, w, b: F.layer_norm(x, (24,), w, b, eps=1e-5),
     op="layer_norm", dims=[24], eps=1e-5)
case("layer_norm_2d", n((3, 4, 6), (4, 6), (4, 6)), lambda x, w, b: F.layer_norm(x, (4, 6), w, b, eps=1e-6),
     op="layer_norm", dims=[4, 6], eps=1e-6)
case("group_norm", n((2, 8, 5, 3), (8,), (8,)), lambda x, w, b: F.group_norm(x, 4, w, b, eps=1e-6), groups=4, eps=1e-6)
case("group_norm_3d", n((2, 6, 10), (6,), (6,)), lambda x, w, b: F.group_norm(x, 2, w, b, eps=1e-6), op="group_norm",
     groups=2, eps=1e-6)
case("ada_layer_norm", lambda r: [r.normal(2, 6, 48, std=1.5, mean=-0.3), r.normal(2, 48), r.normal(2, 48)],
     lambda x, shift, scale: F.layer_norm(x, (48,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None], eps=1e-6)
case("gated_add", n((2, 6, 10), (2, 10), (2, 6, 10)), lambda x, gate, y: x + gate[:, None] * y)

# Lookups and shapes.
case("embedding", lambda r: [r.normal(6, 4), torch.tensor([[1, 5, 1], [0, 1, 5]])], lambda w, ids: F.embedding(ids, w))
case("index_select", lambda r: [r.normal(3, 5, 2), torch.tensor([4, 0, 4, 2])],
     lambda x, i: torch.index_select(x, 1, i), dim=1)
case("upsample_nearest2x", n((2, 3, 4, 5)), lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"))
case("pad", n((2, 3, 4, 5)), lambda x: F.pad(x, (0, 1, 0, 1)), pad=[0, 1, 0, 1])
case("pad_all", n((1, 2, 3, 4)), lambda x: F.pad(x, (1, 2, 3, 0)), op="pad", pad=[1, 2, 3, 0])
case("reshape", n((2, 3, 4)), lambda x: x.reshape(6, -1), dims=[6, -1])
case("permute", n((2, 3, 4, 5)), lambda x: x.permute(0, 3, 1, 2), dims=[0, 3, 1, 2])
case("transpose", n((2, 3, 4)), lambda x: x.transpose(1, -1), a=1, b=-1)
case("unsqueeze", n((2, 3)), lambda x: x.unsqueeze(1), dim=1)
case("expand", n((2, 1, 3)), lambda x: x.expand(2, 4, 3), dims=[2, 4, 3])
case("narrow", n((2, 6, 3)), lambda x: x.narrow(1, 2, 3), dim=1, start=2, length=3)
case("select", n((2, 6, 3)), lambda x: x.select(1, 4), dim=1, index=4)
case("chunk", n((2, 12)), lambda x: x.chunk(6, 1), count=6, dim=1)
case("chunk_uneven", n((2, 7)), lambda x: x.chunk(3, 1), op="chunk", count=3, dim=1)
case("cat", n((2, 3), (2, 1), (2, 4)), lambda *xs: torch.cat(xs, 1), dim=1)
case("stack", n((2, 3), (2, 3)), lambda *xs: torch.stack(xs, 1), dim=1)

# Reductions.
case("sum", n((3, 4, 5)), torch.sum)
case("mean", n((3, 4, 5)), torch.mean)
for keep in (False, True):
    suffix = "_keep" if keep else ""
    case("sum_dims" + suffix, n((3, 4, 5)), lambda x, k=keep: x.sum((0, 2), keepdim=k), op="sum_dims", dims=[0, 2],
         keep=keep)
    case("mean_dims" + suffix, n((3, 4, 5)), lambda x, k=keep: x.mean((1, -1), keepdim=k), op="mean_dims", dims=[1, -1],
         keep=keep)
case("std", n((3, 4, 5)), lambda x: x.std(), correction=1)
case("norm", n((3, 4, 5)), lambda x: torch.linalg.vector_norm(x))
case("mse_loss", n((3, 4, 5), (3, 4, 5)), F.mse_loss)
case("max_all", n((3, 4, 5)), lambda x: x.max(), grad=False)
case("arange", lambda r: [], lambda: torch.arange(7), grad=False, count=7, dtype="int64")
case("arange_float", lambda r: [], lambda: torch.arange(7, dtype=torch.float32), op="arange", grad=False, count=7,
     dtype="float32")

# Casts: ties and values which the narrow type cannot hold exactly.
for dtype in ("float64", "float16", "bfloat16", "int64"):
    case("to_" + dtype,
         lambda r: [torch.cat([r.normal(8, std=10.0), torch.tensor([1.00390625, 1.01171875, 2049.0, -0.7, 0.7])])],
         lambda x, d=dtype: x.to(getattr(torch, d)), op="to", grad=False, dtype=dtype)


def run(inputs, f, grad, weights=None, dtype=torch.float32):
    """Returns outputs, weights, gradients (None where an input has none) in the given precision."""
    xs = [x.to(dtype) if x.is_floating_point() else x for x in inputs]
    if not grad:
        out = f(*xs)
        return (list(out) if isinstance(out, (list, tuple)) else [out]), [], [None] * len(xs)
    xs = [x.clone().requires_grad_(x.is_floating_point()) for x in xs]
    out = f(*xs)
    out = list(out) if isinstance(out, (list, tuple)) else [out]
    sum((o * w.to(dtype)).sum() for o, w in zip(out, weights)).backward()
    return out, weights, [x.grad for x in xs]


def ops(path):
    file = File()
    file.config["cases"] = []
    worst = {}
    for name, op, make, f, grad, args in CASES:
        r = Rand("torch/" + name)
        xs = make(r)
        with torch.no_grad():
            shapes = f(*xs)
        shapes = shapes if isinstance(shapes, (list, tuple)) else [shapes]
        ws = [r.normal(*o.shape) for o in shapes] if grad else []
        out, _, grads = run(xs, f, grad, ws)
        out64, _, grads64 = run(xs, f, grad, ws, torch.float64)
        for i, x in enumerate(xs):
            file.add("%s.in.%d" % (name, i), x)
        for i, o in enumerate(out):
            file.add("%s.out.%d" % (name, i), o)
        for i, w in enumerate(ws):
            file.add("%s.w.%d" % (name, i), w)
        for i, g in enumerate(grads):
            if g is not None:
                file.add("%s.grad.%d" % (name, i), g)
        f64 = [max(rel(a, b) for a, b in zip(out, out64)),
               max([rel(a, b) for a, b in zip(grads, grads64) if a is not None], default=0.0)]
        if op == "to":
            f64 = [0.0, 0.0]
        file.config["cases"].append({
            "name": name, "op": op, "args": args, "in": len(xs), "out": len(out),
            "grad": [i for i, g in enumerate(grads) if g is not None], "f64": [sig(v) for v in f64]})
        worst[name] = max(f64)
    file.save(path)
    print("float32 against float64, worst cases:", ", ".join(
        "%s %.1e" % (k, v) for k, v in sorted(worst.items(), key=lambda kv: -kv[1])[:8]))


ADAMW_ABOUT = """init.NAME: parameters before the first step (config.params gives their order; config.frozen has no \
gradient and no state).
grad.K.NAME: gradients of step K = 1..10, before clipping. config.lr[K-1]: learning rate of step K.
VARIANT.K.NAME.{p,exp_avg,exp_avg_sq,ema}: state after step K; ema starts as a copy of init, decay config.ema, over \
all parameters.
config.variants[VARIANT] = {weight_decay, max_norm (0: no clipping)}; VARIANT.norms [10]: gradient norm before \
clipping (variants that clip).
betas 0.9 0.999, eps 1e-8."""


def adamw(path):
    file = File()
    shapes = {"weight": (3, 5), "bias": (7,), "frozen": (2, 3), "kernel": (2, 3, 3, 1), "one": (1,)}
    frozen, steps, decay = "frozen", 10, 0.9
    r = Rand("torch/adamw")
    init = {k: r.normal(*s) for k, s in shapes.items()}
    # Scales over four orders of magnitude, so that clipping is idle in some steps; one parameter has a gradient of
    # exactly zero in the first step (adaLN-Zero starts that way), where eps alone keeps the update finite.
    scale = [0.02, 0.3, 1.0, 5.0, 0.001, 30.0, 0.1, 0.05, 2.0, 0.5]
    grads = [{k: r.normal(*s) * scale[i] for k, s in shapes.items() if k != frozen} for i in range(steps)]
    grads[0]["bias"].zero_()
    lrs = [1e-3 * (0.5 + 0.5 * math.cos(math.pi * i / steps)) for i in range(steps)]
    variants = {"plain": (0.0, 0.0), "decay": (0.01, 0.0), "clip": (0.0, 1.0)}
    file.config = {"about": ADAMW_ABOUT, "params": list(shapes), "frozen": frozen, "lr": lrs, "ema": decay,
                   "betas": [0.9, 0.999], "eps": 1e-8,
                   "variants": {k: {"weight_decay": w, "max_norm": c} for k, (w, c) in variants.items()}}
    for k, v in init.items():
        file.add("init." + k, v)
    for i, g in enumerate(grads):
        for k, v in g.items():
            file.add("grad.%d.%s" % (i + 1, k), v)

    def play(weight_decay, max_norm, dtype):
        params = {k: torch.nn.Parameter(v.to(dtype, copy=True), requires_grad=k != frozen) for k, v in init.items()}
        ema = {k: p.detach().clone() for k, p in params.items()}
        opt = torch.optim.AdamW(params.values(), lr=1e-3, weight_decay=weight_decay)
        states, norms = [], []
        for i in range(steps):
            for k, g in grads[i].items():
                params[k].grad = g.to(dtype, copy=True)  # clipping writes to it
            if max_norm:
                norms.append(torch.nn.utils.clip_grad_norm_([p for k, p in params.items() if k != frozen], max_norm))
            opt.param_groups[0]["lr"] = lrs[i]
            opt.step()
            with torch.no_grad():
                for k, p in params.items():
                    ema[k].mul_(decay).add_(p, alpha=1 - decay)
            state = {}
            for k, p in params.items():
                state[k + ".p"], state[k + ".ema"] = p.detach().clone(), ema[k].clone()
                if k != frozen:
                    state[k + ".exp_avg"] = opt.state[p]["exp_avg"].clone()
                    state[k + ".exp_avg_sq"] = opt.state[p]["exp_avg_sq"].clone()
            states.append(state)
        return states, norms

    worst = {}
    for name, (weight_decay, max_norm) in variants.items():
        states, norms = play(weight_decay, max_norm, torch.float32)
        states64, _ = play(weight_decay, max_norm, torch.float64)
        for i, state in enumerate(states):
            for k, v in state.items():
                file.add("%s.%d.%s" % (name, i + 1, k), v)
                kind = k.rsplit(".", 1)[1]
                worst[kind] = max(worst.get(kind, (0.0, "")), (rel(v, states64[i][k]), "%s.%d.%s" % (name, i + 1, k)))
        if norms:
            file.add(name + ".norms", torch.stack(norms))
    file.config["f64"] = {k: sig(v) for k, (v, _) in worst.items()}
    file.save(path)
    print("float32 against float64:", worst)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default=os.path.join(here, "..", "..", "torch", "testdata"))
    out = parser.parse_args().out
    ops(os.path.join(out, "ops.safetensors"))
    adamw(os.path.join(out, "adamw.safetensors"))


if __name__ == "__main__":
    main()
