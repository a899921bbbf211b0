"""Writes the golden files of package diffusion from the original DiT code.

Needs: pip install torch==2.11.0 torchvision==0.26.0 timm==0.9.16 safetensors numpy
       git clone https://github.com/facebookresearch/DiT
Usage: python gen_goldens_diffusion.py --dit-src DIR [--out ../../diffusion/testdata]

tables.safetensors    float64 tables NAME.TABLE for the processes of config.processes = {NAME: respacing}, cosine.betas,
                      and config.spaced = {spec: kept steps} of 1000 steps
losses.safetensors    x0 noise t model_output -> q_sample, loss mse vb (per sample), grad of the mean loss by
                      model_output; fixed.{loss,grad}: the same without learned variance (model_output is the first half
                      of the channels)
steps.safetensors     one reverse step: x noise model_output (shared), per process NAME: NAME.t (index into the
                      process), NAME.t_model (what the network sees),
                      NAME.{pred_xstart,mean,log_variance,p_sample,ddim0,ddim1,reverse} (ddimE: eta = E),
                      NAME.fixed.{p_sample,log_variance}: fixed large variance
train.safetensors     ten training steps of the tiny DiT, lr 1e-3, AdamW weight decay 0, EMA 0.999, starting from the
                      weights of dit/testdata/tiny.safetensors: K.x0 K.t K.y (labels after dropping) K.noise for K =
                      1..10; losses [10], mse vb [10, N], grad_norms [10], final.KEY, ema.KEY after step 10
train_init.safetensors
                      the same from the original's own initialisation: init.KEY; losses, grad_norms; final.KEY (three
                      tensors) and final_norms, ema_norms [number of tensors] in the order of config.keys. The K.* are
                      those of train
                      config.no_gradient: rows of tensors whose gradient is zero but for rounding; AdamW turns
                      that rounding into steps of its own size, so the values of these rows mean nothing
train_fifty.safetensors
                      fifty steps from the weights of tiny.safetensors: losses, grad_norms, final.KEY. Batch k, from 0,
                      has x0 and labels of batch k % 10 of train.safetensors, t of batch (k + k // 10) % 10 and noise
                      of batch (3 k + k // 10) % 10
sample.safetensors    8 steps of a small trained DiT (model.KEY; an untrained one lets the latents grow a hundredfold,
                      which hides the noise), forward_with_cfg, scale config.cfg_scale: z y, K.noise (K = 1..8 in order
                      of use, one for every step, also the last) -> ancestral.K: latents after step K; ddim.K: DDIM, eta
                      0, config.ddim
config.f64: largest difference, relative to the tensor's largest magnitude, of this float32 run from one in float64
(with the tables and the timestep code still rounded to float32, as the original does whatever the network's precision).
"""
import argparse
import os
import sys

import numpy as np
import torch

from gen_goldens_dit import TINY, double, new_tiny
from goldens import File, Rand, rel, sig

PROCESSES = {"full": "", "250": "250", "ddim50": "ddim50"}
TABLES = ["betas", "alphas_cumprod", "alphas_cumprod_prev", "alphas_cumprod_next", "sqrt_alphas_cumprod",
          "sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod",
          "sqrt_recipm1_alphas_cumprod", "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1",
          "posterior_mean_coef2"]


class GivenNoise:
    """Makes torch.randn_like return the given tensors, one a call, and insists that all are used."""

    def __init__(self, *noises):
        self.noises = list(noises)

    def __enter__(self):
        self.original = torch.randn_like
        torch.randn_like = lambda x: self.noises.pop(0).to(x.dtype)

    def __exit__(self, kind, *_):
        torch.randn_like = self.original
        if kind is None and self.noises:
            raise RuntimeError("%d noise tensors left over" % len(self.noises))


def tables(diffusion, out):
    from diffusion.gaussian_diffusion import get_named_beta_schedule
    from diffusion.respace import space_timesteps
    file = File()
    for name, spec in PROCESSES.items():
        process = diffusion.create_diffusion(spec)
        for table in TABLES:
            file.add("%s.%s" % (name, table), torch.from_numpy(np.asarray(getattr(process, table), dtype=np.float64)))
        file.add("%s.log_betas" % name, torch.from_numpy(np.log(process.betas)))
        file.add("%s.timestep_map" % name, torch.tensor(process.timestep_map))
    file.add("cosine.betas", torch.from_numpy(get_named_beta_schedule("squaredcos_cap_v2", 1000)))
    specs = ["1", "2", "3", "5", "7", "8", "10", "13", "21", "49", "50", "250", "999", "1000", "10,15,20", "ddim8",
             "ddim50", "ddim250"]
    file.config = {"processes": PROCESSES, "spaced": {s: sorted(space_timesteps(1000, s)) for s in specs},
                   "spaced300": {s: sorted(space_timesteps(300, s)) for s in ["10,15,20", "ddim25"]}}
    file.save(os.path.join(out, "tables.safetensors"))


def losses(diffusion, out):
    file, r = File(), Rand("diffusion/losses")
    t = torch.tensor([0, 0, 1, 10, 500, 999])
    shape = (len(t), 4, 4, 4)
    x0, noise = r.normal(*shape), r.normal(*shape)
    v = r.uniform(-1.3, 1.3, *shape)
    error = r.normal(*shape) * torch.tensor([0.3, 0.8, 0.5, 0.1, 1.0, 1.0]).view(-1, 1, 1, 1)
    # Half of the second sample lies more than ten deviations off, where the likelihood is at its floor. Values in
    # between are of no use: there float32 rounds the difference of two probabilities near one, and the result is mostly
    # rounding.
    error[1, 2:] = error[1, 2:].sign() * (10 + error[1, 2:].abs())
    output = torch.cat([noise + error, v], 1)

    def play(dtype, learn_sigma):
        process = diffusion.create_diffusion("", learn_sigma=learn_sigma)
        given = (output if learn_sigma else output[:, :4]).to(dtype, copy=True).requires_grad_()
        terms = process.training_losses(lambda x, ts: given, x0.to(dtype), t, noise=noise.to(dtype))
        terms["loss"].mean().backward()
        return dict(terms, grad=given.grad, q_sample=process.q_sample(x0.to(dtype), t, noise=noise.to(dtype)))

    a, b = play(torch.float32, True), play(torch.float64, True)
    fixed = play(torch.float32, False)
    for k, x in dict(x0=x0, noise=noise, t=t, model_output=output).items():
        file.add(k, x)
    for k in ("q_sample", "loss", "mse", "vb", "grad"):
        file.add(k, a[k])
    file.add("fixed.loss", fixed["loss"])
    file.add("fixed.grad", fixed["grad"])
    # Relative to each sample's own value: the terms span orders of magnitude.
    file.config["f64"] = {k: [sig(rel(x, y)) for x, y in zip(a[k], b[k])]
                          for k in ("q_sample", "loss", "mse", "vb", "grad")}
    file.save(os.path.join(out, "losses.safetensors"))
    print("losses", a["loss"].tolist(), "vb", a["vb"].tolist())
    print("float32 against float64:", file.config["f64"])


def steps(diffusion, out):
    file, r = File(), Rand("diffusion/steps")
    shape = (5, 4, 4, 4)
    x, noise = r.normal(*shape), r.normal(*shape)
    output = torch.cat([r.normal(*shape), r.uniform(-1.3, 1.3, *shape)], 1)
    for k, v in dict(x=x, noise=noise, model_output=output).items():
        file.add(k, v)
    worst = {}
    for name, spec in PROCESSES.items():
        process = diffusion.create_diffusion(spec)
        fixed = diffusion.create_diffusion(spec, learn_sigma=False)
        last = process.num_timesteps - 1
        t = torch.tensor([0, 1, last // 2, last - 1, last])
        seen = []

        def play(dtype):
            def model(x, ts):
                seen.append(ts)
                return output.to(dtype)

            xs, options = x.to(dtype), dict(clip_denoised=False)
            result = process.p_mean_variance(model, xs, t, **options)
            result = {k: result[k] for k in ("pred_xstart", "mean", "log_variance")}
            with GivenNoise(noise):
                result["p_sample"] = process.p_sample(model, xs, t, **options)["sample"]
            for eta in (0, 1):
                with GivenNoise(noise):
                    result["ddim%d" % eta] = process.ddim_sample(model, xs, t, eta=float(eta), **options)["sample"]
            result["reverse"] = process.ddim_reverse_sample(model, xs, t, **options)["sample"]
            half = lambda x, ts: model(x, ts)[:, :4]
            with GivenNoise(noise):
                result["fixed.p_sample"] = fixed.p_sample(half, xs, t, **options)["sample"]
            result["fixed.log_variance"] = fixed.p_mean_variance(half, xs, t, **options)["log_variance"]
            return result

        a, b = play(torch.float32), play(torch.float64)
        file.add(name + ".t", t)
        file.add(name + ".t_model", seen[0])
        for k, v in a.items():
            file.add("%s.%s" % (name, k), v)
            worst["%s.%s" % (name, k)] = sig(max(rel(p, q) for p, q in zip(v, b[k])))
    file.config = {"processes": PROCESSES, "f64": worst}
    file.save(os.path.join(out, "steps.safetensors"))
    print("float32 against float64:", worst)


def train_run(diffusion, model, batches, lr, decay):
    process = diffusion.create_diffusion("")
    params = dict(model.named_parameters())
    ema = {k: p.detach().clone() for k, p in params.items()}
    opt = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0)
    dtype = params["final_layer.linear.bias"].dtype
    result = {"losses": [], "mse": [], "vb": [], "grad_norms": []}
    for b in batches:
        terms = process.training_losses(model, b["x0"].to(dtype), b["t"], dict(y=b["y"]), noise=b["noise"].to(dtype))
        loss = terms["loss"].mean()
        opt.zero_grad()
        loss.backward()
        result["losses"].append(loss.detach())
        result["mse"].append(terms["mse"].detach())
        result["vb"].append(terms["vb"].detach())
        result["grad_norms"].append(torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(p.grad) for p in params.values() if p.grad is not None])))
        opt.step()
        with torch.no_grad():
            for k, p in params.items():
                ema[k].mul_(decay).add_(p, alpha=1 - decay)
    return {k: torch.stack(v) for k, v in result.items()}, {k: p.detach() for k, p in params.items()}, ema


def train(diffusion, models, out):
    lr, decay, n = 1e-3, 0.999, 4
    r = Rand("diffusion/train")
    batches = []
    for _ in range(10):
        batch = {"x0": r.normal(n, 4, 8, 8), "noise": r.normal(n, 4, 8, 8), "t": r.ints(1000, n), "y": r.ints(11, n)}
        batches.append(batch)
    batches[3]["t"][0] = 0  # the likelihood branch of the variational term
    options = {"lr": lr, "weight_decay": 0, "ema": decay, "betas": [0.9, 0.999], "eps": 1e-8, "model": TINY}

    # Softmax does not change when all keys move by one vector, so the bias of the keys has no gradient.
    d = TINY["hidden_size"]
    options["no_gradient"] = {"blocks.%d.attn.qkv.bias" % i: [d, 2 * d] for i in range(TINY["depth"])}

    def compare(a, b):
        f64 = {k: sig(max(rel(x, y) for x, y in zip(a[0][k], b[0][k]))) for k in ("losses", "grad_norms")}
        for i, name in ((1, "final"), (2, "ema")):
            diff = {k: a[i][k].double() - b[i][k] for k in a[i]}
            for k, (lo, hi) in options["no_gradient"].items():
                diff[k][lo:hi] = 0
            top = max(diff, key=lambda k: diff[k].abs().max())
            f64[name + "_max_absolute"] = [sig(diff[top].abs().max().item()), top]
            f64[name + "_rms"] = sig(max(v.square().mean().sqrt().item() for v in diff.values()))
        return f64

    model = new_tiny(models, "tiny", **TINY)
    twin = double(models, model, TINY)
    a = train_run(diffusion, model, batches, lr, decay)
    b = train_run(diffusion, twin, batches, lr, decay)
    file = File()
    for i, batch in enumerate(batches):
        for k, v in batch.items():
            file.add("%d.%s" % (i + 1, k), v)
    for k, v in a[0].items():
        file.add(k, v)
    for k in a[1]:
        file.add("final." + k, a[1][k])
        file.add("ema." + k, a[2][k])
    file.config = dict(options, weights="dit/testdata/tiny.safetensors", f64=compare(a, b))
    file.save(os.path.join(out, "train.safetensors"))
    print("losses", a[0]["losses"].tolist(), "grad norms", a[0]["grad_norms"].tolist(), "float32 against float64:",
          file.config["f64"])

    torch.manual_seed(0)
    model = models.DiT(**TINY).eval()
    file = File()
    for k, v in model.state_dict().items():
        file.add("init." + k, v)
    twin = double(models, model, TINY)
    a = train_run(diffusion, model, batches, lr, decay)
    b = train_run(diffusion, twin, batches, lr, decay)
    file.add("losses", a[0]["losses"])
    file.add("grad_norms", a[0]["grad_norms"])
    for k in ("final_layer.linear.weight", "blocks.0.adaLN_modulation.1.bias", "y_embedder.embedding_table.weight"):
        file.add("final." + k, a[1][k])
    file.add("final_norms", torch.stack([torch.linalg.vector_norm(v) for v in a[1].values()]))
    file.add("ema_norms", torch.stack([torch.linalg.vector_norm(v) for v in a[2].values()]))
    file.config = dict(options, batches="train.safetensors", keys=list(a[1]), f64=compare(a, b))
    file.save(os.path.join(out, "train_init.safetensors"))
    print("losses", a[0]["losses"].tolist(), "grad norms", a[0]["grad_norms"].tolist(), "float32 against float64:",
          file.config["f64"])


    # Fifty batches, all different, of the ten that are stored already.
    fifty = [{"x0": batches[k % 10]["x0"], "y": batches[k % 10]["y"], "t": batches[(k + k // 10) % 10]["t"],
              "noise": batches[(3 * k + k // 10) % 10]["noise"]} for k in range(50)]
    model = new_tiny(models, "tiny", **TINY)
    twin = double(models, model, TINY)
    a = train_run(diffusion, model, fifty, lr, decay)
    b = train_run(diffusion, twin, fifty, lr, decay)
    file = File()
    file.add("losses", a[0]["losses"])
    file.add("grad_norms", a[0]["grad_norms"])
    for k in a[1]:
        file.add("final." + k, a[1][k])
    file.config = dict(options, weights="dit/testdata/tiny.safetensors", batches="train.safetensors", f64=compare(a, b))
    file.save(os.path.join(out, "train_fifty.safetensors"))
    print("losses", a[0]["losses"].tolist(), "float32 against float64:", file.config["f64"])


SMALL = dict(input_size=8, patch_size=2, in_channels=4, hidden_size=24, depth=2, num_heads=2, num_classes=10,
             learn_sigma=True)


def trained(diffusion, models):
    """A small DiT after enough steps on smooth class patterns to take noise for noise."""
    r = Rand("diffusion/trained")
    model = new_tiny(models, "small", **SMALL)
    opt = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0)
    process = diffusion.create_diffusion("")
    patterns = torch.nn.functional.interpolate(r.normal(11, 4, 2, 2), size=8, mode="bilinear")
    steps = 800
    for i in range(steps):
        y = r.ints(10, 32)
        x0 = patterns[y] + r.normal(32, 4, 8, 8, std=0.2)
        y[r.uniform(0, 1, 32) < 0.1] = 10
        loss = process.training_losses(model, x0, r.ints(1000, 32), dict(y=y),
                                       noise=r.normal(32, 4, 8, 8))["loss"].mean()
        opt.param_groups[0]["lr"] = 3e-3 * (1 - i / steps)
        opt.zero_grad()
        loss.backward()
        opt.step()
    print("loss of the small model", loss.item())
    return model


def sample(diffusion, models, out):
    r = Rand("diffusion/sample")
    z, y, scale, ddim = r.normal(2, 4, 8, 8), torch.tensor([2, 7, 10, 10]), 4.0, "ddim8"
    noises = [r.normal(4, 4, 8, 8) for _ in range(8)]
    model = trained(diffusion, models)
    twin = double(models, model, SMALL)

    def play(net, dtype):
        start = torch.cat([z, z]).to(dtype)
        options = dict(noise=start, clip_denoised=False, model_kwargs=dict(y=y, cfg_scale=scale), device="cpu")
        with GivenNoise(*noises):
            ancestral = [o["sample"] for o in diffusion.create_diffusion("8").p_sample_loop_progressive(
                net.forward_with_cfg, start.shape, **options)]
        with GivenNoise(*noises):
            implicit = [o["sample"] for o in diffusion.create_diffusion(ddim).ddim_sample_loop_progressive(
                net.forward_with_cfg, start.shape, **options)]
        return ancestral, implicit

    a, b = play(model, torch.float32), play(twin, torch.float64)
    file = File()
    file.add("z", z)
    file.add("y", y)
    for i, noise in enumerate(noises):
        file.add("%d.noise" % (i + 1), noise)
    f64 = {}
    for name, got, want in zip(("ancestral", "ddim"), *zip(*((p, q) for p, q in zip(a, b)))):
        for i, v in enumerate(got):
            file.add("%s.%d" % (name, i + 1), v)
        f64[name] = [sig(rel(p, q)) for p, q in zip(got, want)]
        print(name, "largest", [round(v.abs().max().item(), 2) for v in got])
    for k, v in model.state_dict().items():
        file.add("model." + k, v)
    file.config = {"model": SMALL, "cfg_scale": scale, "respacing": "8", "ddim": ddim, "f64": f64}
    file.save(os.path.join(out, "sample.safetensors"))
    print("float32 against float64:", f64)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser()
    parser.add_argument("--dit-src", required=True, help="checkout of github.com/facebookresearch/DiT")
    parser.add_argument("--out", default=os.path.join(here, "..", "..", "diffusion", "testdata"))
    args = parser.parse_args()
    sys.path.insert(0, args.dit_src)
    import diffusion
    import models
    tables(diffusion, args.out)
    losses(diffusion, args.out)
    steps(diffusion, args.out)
    train(diffusion, models, args.out)
    sample(diffusion, models, args.out)


if __name__ == "__main__":
    main()
