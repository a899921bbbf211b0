"""Writes the goldens of whole sampling runs: the original's p_sample_loop and ddim_sample_loop, as its sample.py calls
them.

Needs: pip install torch==2.11.0 torchvision==0.26.0 timm==0.9.16 diffusers==0.35.2 huggingface_hub==0.36.0 safetensors
       numpy
       git clone https://github.com/facebookresearch/DiT
Usage: python gen_goldens_sample.py --dit-src DIR [--out ../../diffusion/sampling/testdata]

Random weights make samples that grow without bound, so the script trains first, for some minutes and always the same
way (a patch must fit into a token, or the noise cannot pass): a small AutoencoderKL on drawn pictures of four classes
(a disc, a ring, a square, a cross, of random colour and place), then a small DiT on its latents with the original's
training_losses. The seed is set right before the first draw; the noise of all pictures is drawn at once, and that of a
step for the doubled batch of guidance, the last step included.

vae/                 the autoencoder, as diffusers saves it
model.safetensors    the DiT (official names); config.model: constructor arguments
loops.safetensors    NAME.latents: what is sampled, for config.cases[NAME] {steps, sampler, cfg_scale, channels, size,
                     seed, labels}; for some NAME.ddp and NAME.png: pixels [N,H,W,3] by the rules of sample_ddp.py and
                     of sample.py (save_image); config.f64[NAME]: largest difference from the same run in float64, over
                     the largest magnitude; config.ulp[NAME]: from runs whose weights are moved by about one unit in the
                     last place, the largest of four

Guidance makes some starting noise a watershed, where rounding decides: with seed 0 the case ddpm250 moves by 1.0e-5
when its weights move by an ulp. The seeds are those from 0, 10, 20, ... (plus the number of the case) on for which the
original moves by less than 3e-6.

Existing models are used again: remove them to train new ones.
"""
import argparse
import os
import sys

import torch
from safetensors.torch import load_file

from goldens import File, Rand

torch.set_num_threads(2)
MODEL = dict(input_size=32, patch_size=4, in_channels=4, hidden_size=80, depth=2, num_heads=4, num_classes=4,
             learn_sigma=True)
PIXELS = 64


def pictures(r, n, side=PIXELS):
    """n pictures [n,3,side,side] in -1..1 and their classes."""
    y = torch.arange(n) % 4
    grid = torch.arange(side) / side
    cx, cy, size = (r.uniform(lo, hi, n, 1, 1) for lo, hi in ((0.35, 0.65), (0.35, 0.65), (0.15, 0.3)))
    dx, dy = (grid[None, None, :] - cx).abs(), (grid[None, :, None] - cy).abs()
    dist = (dx.square() + dy.square()).sqrt()
    edge = torch.stack([dist - size, (dist - size).abs() - 0.06, torch.maximum(dx, dy) - size,
                        torch.minimum(dx, dy) - 0.07], 1)
    shape = torch.sigmoid(-edge[torch.arange(n), y] * 60)[:, None]
    front, back = r.uniform(-0.2, 1, n, 3, 1, 1), r.uniform(-1, 0.2, n, 3, 1, 1)
    return front * shape + back * (1 - shape), y


def train_vae(AutoencoderKL):
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=[16, 32], down_block_types=["DownEncoderBlock2D"] * 2,
                        up_block_types=["UpDecoderBlock2D"] * 2, layers_per_block=1, latent_channels=4,
                        norm_num_groups=8, sample_size=PIXELS)
    opt = torch.optim.Adam(vae.parameters(), lr=2e-3)
    r = Rand("sample/vae")
    for step in range(300):
        x, _ = pictures(r, 8)
        post = vae.encode(x).latent_dist
        loss = ((vae.decode(post.mean + post.std * r.normal(*post.mean.shape)).sample - x).square().mean()
                + 1e-6 * post.kl().mean())
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 100 == 99:
            print("vae", step + 1, float(loss), flush=True)
    vae.eval()
    with torch.no_grad():
        scale = 1 / vae.encode(pictures(Rand("sample/scale"), 64)[0]).latent_dist.mean.std()
    vae.register_to_config(scaling_factor=round(float(scale), 5))
    return vae


def train_dit(models, create_diffusion, vae):
    torch.manual_seed(0)
    model = models.DiT(**MODEL)
    ema = {k: v.clone() for k, v in model.state_dict().items()}
    opt = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0)
    diffusion = create_diffusion("")
    r = Rand("sample/dit")
    with torch.no_grad():
        x, y = pictures(r, 512)
        z = torch.cat([vae.encode(part).latent_dist.mean for part in x.split(32)]) * vae.config.scaling_factor
    steps = 3000
    for step in range(steps):
        for g in opt.param_groups:
            g["lr"] = 2e-3 * (1 - step / steps)
        i = r.ints(len(z), 16)
        loss = diffusion.training_losses(model, z[i], r.ints(1000, 16), dict(y=y[i]),
                                         noise=r.normal(*z[i].shape))["loss"].mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        for k, v in model.state_dict().items():
            ema[k].mul_(0.99).add_(v, alpha=0.01)
        if step % 250 == 249:
            print("dit", step + 1, float(loss), flush=True)
    return ema


CASES = {
    "ddpm250": dict(steps="250", sampler="ddpm", cfg_scale=4.0, channels=3, size=32, seed=0),
    "ddpm250_all": dict(steps="250", sampler="ddpm", cfg_scale=4.0, channels=4, size=32, seed=1),
    "ddpm250_512": dict(steps="250", sampler="ddpm", cfg_scale=4.0, channels=3, size=64, seed=2),
    "ddpm50_all_512": dict(steps="50", sampler="ddpm", cfg_scale=1.5, channels=4, size=64, seed=3),
    "ddpm_sections": dict(steps="10,15,20", sampler="ddpm", cfg_scale=1.5, channels=3, size=32, seed=4),
    "ddpm100_plain": dict(steps="100", sampler="ddpm", cfg_scale=1.0, channels=3, size=32, seed=5),
    "ddim50": dict(steps="ddim50", sampler="ddim", cfg_scale=4.0, channels=3, size=32, seed=6),
    "ddim25_all_512": dict(steps="25", sampler="ddim", cfg_scale=1.5, channels=4, size=64, seed=7),
}


def sample(models, create_diffusion, weights, case, double=False):
    class Guided(models.DiT):
        """forward_with_cfg of the original with the line that its comment offers for guidance on all channels."""

        def forward_with_cfg(self, x, t, y, cfg_scale):
            half = x[: len(x) // 2]
            out = self.forward(torch.cat([half, half], dim=0), t, y)
            eps, rest = out[:, : self.in_channels], out[:, self.in_channels:]
            cond, uncond = torch.split(eps, len(eps) // 2, dim=0)
            half_eps = uncond + cfg_scale * (cond - uncond)
            return torch.cat([torch.cat([half_eps, half_eps], dim=0), rest], dim=1)

    model = (Guided if case["channels"] == 4 else models.DiT)(**{**MODEL, "input_size": case["size"]}).eval()
    model.load_state_dict({k: v for k, v in weights.items() if k != "pos_embed"}, strict=False)
    if double:
        model.double()
        model.t_embedder.mlp.register_forward_pre_hook(lambda m, args: (args[0].double(),))
    diffusion = create_diffusion(case["steps"])
    labels = case["labels"] = [0, 1, 2, 3]
    n = len(labels)
    torch.manual_seed(case["seed"])
    real = torch.randn_like
    # A float64 run has to draw the float32 numbers.
    torch.randn_like = lambda x: real(x.float()).to(x.dtype)
    z = torch.randn(n, 4, case["size"], case["size"])
    y = torch.tensor(labels)
    forward, kwargs = model.forward, dict(y=y)
    if case["cfg_scale"] > 1:
        z = torch.cat([z, z], 0)
        kwargs = dict(y=torch.cat([y, torch.tensor([MODEL["num_classes"]] * n)], 0), cfg_scale=case["cfg_scale"])
        forward = model.forward_with_cfg
    loop = diffusion.p_sample_loop if case["sampler"] == "ddpm" else diffusion.ddim_sample_loop
    with torch.no_grad():
        out = loop(forward, z.shape, z.double() if double else z, clip_denoised=False, model_kwargs=kwargs,
                   progress=False, device="cpu")
    torch.randn_like = real
    return out[:n]


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    p = argparse.ArgumentParser()
    p.add_argument("--dit-src", required=True)
    p.add_argument("--out", default=os.path.join(here, "../../diffusion/sampling/testdata"))
    a = p.parse_args()
    sys.path.insert(0, a.dit_src)
    import models
    from diffusers import AutoencoderKL
    from diffusion import create_diffusion

    os.makedirs(a.out, exist_ok=True)
    model_file = os.path.join(a.out, "model.safetensors")
    if not os.path.exists(model_file):
        vae = train_vae(AutoencoderKL)
        vae.save_pretrained(os.path.join(a.out, "vae"))
        weights = train_dit(models, create_diffusion, vae)
        f = File()
        for k, v in weights.items():
            f.add(k, v)
        f.config["model"] = MODEL
        f.save(model_file)
    vae = AutoencoderKL.from_pretrained(os.path.join(a.out, "vae")).eval()
    weights = load_file(model_file)
    f = File()
    f.config["f64"], f.config["ulp"] = {}, {}
    for name, case in CASES.items():
        while True:
            x = sample(models, create_diffusion, weights, case)
            moved = 0.0
            for k in range(4):
                r = Rand(f"sample/ulp/{k}")
                nudged = {key: v * (1 + 6e-8 * r.normal(*v.shape)) if key != "pos_embed" else v
                          for key, v in weights.items()}
                moved = max(moved, float((sample(models, create_diffusion, nudged, case) - x).abs().max()
                                         / x.abs().max()))
            print(name, "seed", case["seed"], "moves by", moved, flush=True)
            if moved < 3e-6:
                break
            case["seed"] += 10
        f.config["ulp"][name] = moved
        f.add(name + ".latents", x)
        twin = sample(models, create_diffusion, weights, case, double=True)
        f.config["f64"][name] = float((x - twin).abs().max() / twin.abs().max())
        print(name, float(x.abs().max()), float(x.std()), f.config["f64"][name], flush=True)
        if name in ("ddpm250", "ddpm250_512"):
            with torch.no_grad():
                pix = vae.decode(x / vae.config.scaling_factor).sample
            f.add(name + ".ddp", torch.clamp(127.5 * pix + 128.0, 0, 255).permute(0, 2, 3, 1).to(
                "cpu", dtype=torch.uint8).contiguous())
            unit = pix.clamp(-1, 1).sub(-1).div(2)
            f.add(name + ".png", unit.mul(255).add(0.5).clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8).contiguous())
    f.config["cases"] = CASES
    f.save(os.path.join(a.out, "loops.safetensors"))


main()
