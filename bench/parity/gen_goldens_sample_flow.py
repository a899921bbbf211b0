"""Writes the goldens of whole sampling runs of SiT and REPA on a small network.

Needs: pip install torch==2.11.0 torchvision==0.26.0 timm==0.9.16 torchdiffeq==0.2.5 safetensors numpy
       git clone https://github.com/facebookresearch/DiT
       git clone https://github.com/willisma/SiT     (947f95b)
       git clone https://github.com/sihyun-yu/REPA   (67f7145)
Usage: python gen_goldens_sample_flow.py --dit-src DIR --sit-src DIR --repa-src DIR
                                         [--out ../../diffusion/sampling/testdata]

The network is model.safetensors of gen_goldens_sample.py, which was trained on noise, with its answer taken for a
velocity: the parts of SiT's and REPA's models that differ from DiT's are that they answer without the variance, and
REPA in a tuple. The seed is set right before the first draw, that of the starting noise.

flows.safetensors    NAME.latents: what is sampled, for config.cases[NAME] {family, path, solver, steps, cfg_scale, low,
                     high, seed, labels}; config.f64[NAME]: largest difference from the same run with samples and
                     network in float64, over the largest magnitude
"""
import argparse
import os
import sys

import torch
from safetensors.torch import load_file

from goldens import File, rel, sig

MODEL = dict(input_size=32, patch_size=4, in_channels=4, hidden_size=80, depth=2, num_heads=4, num_classes=4,
             learn_sigma=True)


def case(family, solver, steps, cfg_scale=1.0, low=0.0, high=1.0, path="linear", seed=0):
    return dict(family=family, path=path, solver=solver, steps=steps, cfg_scale=cfg_scale, low=low, high=high,
                seed=seed, labels=[0, 1, 2, 3])


CASES = {
    "sit_euler": case("SiT", "euler", 50, 4.0),
    "sit_heun": case("SiT", "heun", 25, 4.0, seed=1),
    "sit_dopri5": case("SiT", "dopri5", 0, seed=2),
    "sit_dopri5_guided": case("SiT", "dopri5", 0, 4.0, seed=2),
    "sit_sde": case("SiT", "sde-euler", 250, 4.0, seed=3),
    "sit_sde_plain": case("SiT", "sde-euler", 50, path="gvp", seed=4),
    "sit_sde_heun": case("SiT", "sde-heun", 25, 1.5, seed=5),
    "repa_euler": case("REPA", "euler", 50, 1.5, seed=6),
    "repa_heun": case("REPA", "heun", 25, 1.5, 0.0, 0.7, seed=7),
    "repa_sde": case("REPA", "sde-euler", 250, 1.8, 0.0, 0.7, seed=8),
    "repa_sde_low": case("REPA", "sde-euler", 50, 1.8, 0.3, 0.8, path="gvp", seed=9),
}


def network(models, weights, double):
    model = models.DiT(**MODEL).eval()
    model.load_state_dict({k: v for k, v in weights.items() if k != "pos_embed"}, strict=False)
    if double:
        model.double()
        model.t_embedder.mlp.register_forward_pre_hook(lambda m, args: (args[0].double(),))
    return model


def velocity(model, x, t, y):
    """The answer without the variance."""
    return model(x, t, y)[:, :MODEL["in_channels"]]


def guided(model, x, t, y, cfg_scale):
    """forward_with_cfg of SiT, which is that of DiT, whose output it takes without the variance."""
    half = x[: len(x) // 2]
    out = velocity(model, torch.cat([half, half], dim=0), t, y)
    eps, rest = out[:, :3], out[:, 3:]
    cond, uncond = torch.split(eps, len(eps) // 2, dim=0)
    half_eps = uncond + cfg_scale * (cond - uncond)
    return torch.cat([torch.cat([half_eps, half_eps], dim=0), rest], dim=1)


def sit(transport, model, c, double):
    """As SiT's sample.py does it."""
    dtype = torch.float64 if double else torch.float32
    path = {"linear": "Linear", "gvp": "GVP", "vp": "VP"}[c["path"]]
    sampler = transport.Sampler(transport.create_transport(path, "velocity"))
    if c["solver"].startswith("sde"):
        method = {"sde-euler": "Euler", "sde-heun": "Heun"}[c["solver"]]
        sample = sampler.sample_sde(sampling_method=method, diffusion_form="sigma", num_steps=c["steps"])
    elif c["solver"] == "dopri5":
        sample = sampler.sample_ode()
    else:
        method = {"euler": "euler", "heun": "heun2"}[c["solver"]]
        sample = sampler.sample_ode(sampling_method=method, num_steps=c["steps"] + 1)
    n = len(c["labels"])
    y = torch.tensor(c["labels"])
    torch.manual_seed(c["seed"])
    size = MODEL["input_size"]
    z = torch.randn(n, 4, size, size).to(dtype)
    if c["cfg_scale"] == 1:
        forward, kwargs = lambda x, t, **k: velocity(model, x, t, **k), dict(y=y)
    else:
        z = torch.cat([z, z], 0)
        kwargs = dict(y=torch.cat([y, torch.tensor([MODEL["num_classes"]] * n)], 0), cfg_scale=c["cfg_scale"])
        forward = lambda x, t, **k: guided(model, x, t, **k)
    return sample(z, forward, **kwargs)[-1][:n]


def repa(samplers, model, c, double):
    """As REPA's generate.py does it."""
    dtype = torch.float64 if double else torch.float32
    torch.manual_seed(c["seed"])
    size = MODEL["input_size"]
    z = torch.randn(len(c["labels"]), 4, size, size).to(dtype)

    def forward(x, t, y):
        # The null class of the original is 1000, whatever the model.
        return velocity(model, x, t, y.clamp(max=MODEL["num_classes"])), None

    options = dict(num_steps=c["steps"], heun=c["solver"] == "heun", cfg_scale=c["cfg_scale"], guidance_low=c["low"],
                   guidance_high=c["high"], path_type={"linear": "linear", "gvp": "cosine"}[c["path"]])
    sampler = samplers.euler_maruyama_sampler if c["solver"].startswith("sde") else samplers.euler_sampler
    return sampler(forward, z, torch.tensor(c["labels"]), **options)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    p = argparse.ArgumentParser()
    p.add_argument("--dit-src", required=True)
    p.add_argument("--sit-src", required=True)
    p.add_argument("--repa-src", required=True)
    p.add_argument("--out", default=os.path.join(here, "../../diffusion/sampling/testdata"))
    a = p.parse_args()
    sys.path[:0] = [a.dit_src, a.sit_src, a.repa_src]
    import models
    import samplers
    import transport
    weights = load_file(os.path.join(a.out, "model.safetensors"))
    file, f64 = File(), {}
    for name, c in CASES.items():
        def play(double):
            model = network(models, weights, double)
            with torch.no_grad():
                if c["family"] == "SiT":
                    if not double:
                        return sit(transport, model, c, False)
                    torch.set_default_dtype(torch.float64)
                    try:
                        real = torch.randn
                        torch.randn = lambda *s, **_: real(*s, dtype=torch.float32).double()
                        return sit(transport, model, c, True)
                    finally:
                        torch.randn = real
                        torch.set_default_dtype(torch.float32)
                return repa(samplers, model, c, double)
        x = play(False)
        f64[name] = sig(rel(x, play(True)))
        file.add(name + ".latents", x.float())
        print("%-14s largest %.3g, %.1e from float64" % (name, x.abs().max(), f64[name]), flush=True)
    file.config = {"cases": CASES, "f64": f64}
    file.save(os.path.join(a.out, "flows.safetensors"))


main()
