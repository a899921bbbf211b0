"""Writes a training checkpoint of the original DiT code, and the further steps that PyTorch takes from it.

Needs: pip install torch==2.11.0 torchvision==0.26.0 timm==0.9.16 safetensors numpy
       git clone https://github.com/facebookresearch/DiT
Usage: python gen_goldens_resume.py --dit-src DIR [--out ../../diffusion/testdata]

resume/0000003.pt   what train.py saves after three steps of a tiny DiT: model, ema, opt, args. lr 1e-3, EMA 0.9
resume/older.pt     the same state in other forms: the stream of PyTorch before 1.6, names under module._orig_mod., an
                    optimizer of the trained parameters alone, whose steps are numbers
resume.safetensors  the three steps that follow, from the file as torch.load reads it: K.x0 K.t K.y (labels after
                    dropping) K.noise for K = 1..3; losses, grad_norms [3]; final.KEY, ema.KEY after step 6.
                    config.no_gradient: see gen_goldens_diffusion.py. config.f64: largest difference, relative to the
                    tensor's largest magnitude, of this float32 run from one in float64
"""
import argparse
import os
import sys
from copy import deepcopy

import torch

from gen_goldens_dit import double, new_tiny
from goldens import File, Rand, rel, sig

MODEL = dict(input_size=4, patch_size=2, in_channels=4, hidden_size=24, depth=1, num_heads=2, num_classes=3,
             learn_sigma=True)
LR, DECAY, N = 1e-3, 0.9, 8


class Run:
    """The state of train.py."""

    def __init__(self, diffusion, model, ema):
        self.process, self.model, self.ema = diffusion.create_diffusion(""), model, ema
        self.opt = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0)

    def step(self, b):
        dtype = self.model.final_layer.linear.bias.dtype
        loss = self.process.training_losses(self.model, b["x0"].to(dtype), b["t"], dict(y=b["y"]),
                                            noise=b["noise"].to(dtype))["loss"].mean()
        self.opt.zero_grad()
        loss.backward()
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p.grad) for p in self.model.parameters()
                                                     if p.grad is not None]))
        self.opt.step()
        with torch.no_grad():
            mean = dict(self.ema.named_parameters())
            for k, p in self.model.named_parameters():
                mean[k].mul_(DECAY).add_(p.data, alpha=1 - DECAY)
        return loss.detach(), norm

    def load(self, state):
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.opt.load_state_dict(deepcopy(state["opt"]))


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser()
    parser.add_argument("--dit-src", required=True, help="checkout of github.com/facebookresearch/DiT")
    parser.add_argument("--out", default=os.path.join(here, "..", "..", "diffusion", "testdata"))
    args = parser.parse_args()
    sys.path.insert(0, args.dit_src)
    import diffusion
    import models
    r = Rand("diffusion/resume")
    batches = [{"x0": r.normal(N, 4, 4, 4), "noise": r.normal(N, 4, 4, 4), "t": r.ints(1000, N), "y": r.ints(4, N)}
               for _ in range(6)]
    model = new_tiny(models, "resume", **MODEL)
    run = Run(diffusion, model, deepcopy(model))
    for b in batches[:3]:
        run.step(b)
    os.makedirs(os.path.join(args.out, "resume"), exist_ok=True)
    path = os.path.join(args.out, "resume", "0000003.pt")
    # What train.py's own parser gives, but for the name of the model, which it does not have.
    given = argparse.Namespace(data_path="imagenet/train", results_dir="results", model="DiT-24x1x2/2", image_size=32,
                               num_classes=3, epochs=1400, global_batch_size=16, global_seed=5, vae="ema",
                               num_workers=4, log_every=100, ckpt_every=50_000)
    torch.save({"model": model.state_dict(), "ema": run.ema.state_dict(), "opt": run.opt.state_dict(), "args": given},
               path)
    print("%s: %d bytes" % (path, os.path.getsize(path)))
    older = run.opt.state_dict()
    if older["param_groups"][0]["params"][0] in older["state"]:
        raise ValueError("positions are trained")
    older["param_groups"][0]["params"].pop()
    older["state"] = {i - 1: dict(v, step=int(v["step"])) for i, v in older["state"].items()}
    wrapped = [{"module._orig_mod." + k: v for k, v in m.state_dict().items()} for m in (model, run.ema)]
    torch.save({"model": wrapped[0], "ema": wrapped[1], "opt": older, "args": given},
               os.path.join(args.out, "resume", "older.pt"), _use_new_zipfile_serialization=False)

    def go_on(dtype):
        state = torch.load(path, weights_only=False)
        model = models.DiT(**MODEL).eval()
        if dtype == torch.float64:
            model = double(models, model, MODEL)
        again = Run(diffusion, model, deepcopy(model))
        again.load(state)
        terms = [again.step(b) for b in batches[3:]]
        return ({"losses": torch.stack([t[0] for t in terms]), "grad_norms": torch.stack([t[1] for t in terms])},
                dict(again.model.named_parameters()), dict(again.ema.named_parameters()))

    d = MODEL["hidden_size"]
    no_gradient = {"blocks.0.attn.qkv.bias": [d, 2 * d]}
    a, b = go_on(torch.float32), go_on(torch.float64)
    file, f64 = File(), {}
    for i, batch in enumerate(batches[3:]):
        for k, v in batch.items():
            file.add("%d.%s" % (i + 1, k), v)
    for prefix, got, want in zip(("", "final.", "ema."), a, b):
        worst = 0
        for k, v in got.items():
            file.add(prefix + k, v)
            x, y = v.detach().double(), want[k].detach().double()
            if k in no_gradient:
                lo, hi = no_gradient[k]
                x[lo:hi] = y[lo:hi]
            worst = max(worst, rel(x, y))
        f64[prefix or "terms"] = sig(worst)
    file.config = {"model": MODEL, "lr": LR, "weight_decay": 0, "ema": DECAY, "no_gradient": no_gradient, "f64": f64}
    file.save(os.path.join(args.out, "resume.safetensors"))
    print("losses", a[0]["losses"].tolist(), "float32 against float64:", f64)


if __name__ == "__main__":
    main()
