"""Writes the golden files of package vae from diffusers' AutoencoderKL.

Needs: pip install torch==2.11.0 diffusers==0.35.2 huggingface_hub==0.36.0 safetensors numpy
Usage: python gen_goldens_vae.py [--out ../../vae/testdata]

Per model M of tiny (two levels, square image), three (three levels, 16 x 24):
  M/config.json, M/diffusion_pytorch_model.safetensors   the folder diffusers writes, random weights everywhere
  M_golden.safetensors:
    image -> moments (quant_conv's output), mean, logvar (clamped), std
    noise, z = mean + std * noise; decoded = decoder of z
    kl [N], loss [] = mean of (decoded - image)^2 + config.kl_weight * mean of kl; grad.KEY: its gradient for every
    weight
    heavy.grad.KEY: encoder.conv_in and quant_conv with weight config.heavy_kl_weight instead, where the second term
    shows
    act.NAME: encoder.conv_in, encoder.down_blocks.I, encoder.mid_block, encoder.conv_out, and the
    same of the decoder (its up_blocks), each the module's output
gaussian.safetensors   moments beyond the clamp -> mean logvar std kl, noise -> sample; x -> nll; grad (of sum of kl by
                       moments)
sd_keys.json           Stable Diffusion's configuration: {"config", "params", "keys": [[key, shape]...], "init": {key:
                       [standard deviation, largest magnitude] after the default initialisation}}
config.f64: largest difference, relative to the tensor's largest magnitude, of this float32 run from one in float64.
"""
import argparse
import json
import os

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from goldens import File, Rand, fill, rel, sig


def config(channels, layers, latent, groups, size):
    n = len(channels)
    return dict(in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * n,
                up_block_types=["UpDecoderBlock2D"] * n, block_out_channels=channels, layers_per_block=layers,
                latent_channels=latent, norm_num_groups=groups, sample_size=size)


def train_loss(model, image, noise, kl_weight):
    moments = model.quant_conv(model.encoder(image))
    posterior = DiagonalGaussianDistribution(moments)
    z = posterior.mean + posterior.std * noise
    decoded = model.decode(z).sample
    kl = posterior.kl()
    loss = (decoded - image).square().mean() + kl_weight * kl.mean()
    model.zero_grad()
    loss.backward()
    grads = {k: p.grad.clone() for k, p in model.named_parameters()}
    return dict(moments=moments, mean=posterior.mean, logvar=posterior.logvar, std=posterior.std, z=z, decoded=decoded,
                kl=kl, loss=loss), grads


def model_golden(out, name, height, width, **options):
    model = AutoencoderKL(**options).eval()
    fill(model, "vae/" + name, std=0.2)
    folder = os.path.join(out, name)
    model.save_pretrained(folder)
    os.chmod(os.path.join(folder, "diffusion_pytorch_model.safetensors"), 0o644)
    twin = AutoencoderKL(**options).eval()
    twin.load_state_dict(model.state_dict())
    twin.double()

    r = Rand("vae/golden/" + name)
    scale = 2 ** (len(options["block_out_channels"]) - 1)
    image = r.uniform(-1, 1, 2, 3, height, width)
    noise = r.normal(2, options["latent_channels"], height // scale, width // scale)
    kl_weight, heavy = 1e-6, 0.1

    acts, hooks = {}, []
    for part, blocks in (("encoder", "down_blocks"), ("decoder", "up_blocks")):
        module = getattr(model, part)
        watched = {"conv_in": module.conv_in, "mid_block": module.mid_block, "conv_out": module.conv_out}
        watched.update({"%s.%d" % (blocks, i): b for i, b in enumerate(getattr(module, blocks))})
        for key, m in watched.items():
            hooks.append(m.register_forward_hook(
                lambda m, args, result, key=part + "." + key: acts.__setitem__(key, result.detach())))
    values, grads = train_loss(model, image, noise, kl_weight)
    for hook in hooks:
        hook.remove()
    values64, grads64 = train_loss(twin, image.double(), noise.double(), kl_weight)
    _, heavy_grads = train_loss(model, image, noise, heavy)

    # The classes' own entry points give the same numbers as the parts above.
    with torch.no_grad():
        posterior = model.encode(image).latent_dist
    assert torch.equal(posterior.mean, values["mean"]) and torch.equal(posterior.logvar, values["logvar"])

    file = File()
    file.add("image", image)
    file.add("noise", noise)
    for k, v in values.items():
        file.add(k, v)
    for k, v in acts.items():
        file.add("act." + k, v)
    for k, v in grads.items():
        file.add("grad." + k, v)
    for k in ("encoder.conv_in.weight", "encoder.conv_in.bias", "quant_conv.weight", "quant_conv.bias"):
        file.add("heavy.grad." + k, heavy_grads[k])
    # The bias of the keys has no gradient (softmax does not change when all keys move by one vector): what is stored is
    # rounding.
    zero = [k for k in grads if k.endswith("to_k.bias")]
    f64 = {k: sig(rel(v, values64[k])) for k, v in values.items()}
    f64["grad"] = sig(max(rel(v, grads64[k]) for k, v in grads.items() if k not in zero))
    file.config = {"model": options, "kl_weight": kl_weight, "heavy_kl_weight": heavy, "no_gradient": zero, "f64": f64}
    file.save(os.path.join(out, name + "_golden.safetensors"))
    print("parameters", sum(p.numel() for p in model.parameters()), "float32 against float64:", f64)


def gaussian(out):
    file, r = File(), Rand("vae/gaussian")
    moments = torch.cat([r.normal(2, 2, 3, 3, std=2.0), r.normal(2, 2, 3, 3, std=4.0)], 1)
    moments[0, 2, 0, 0], moments[0, 2, 0, 1], moments[1, 3, 2, 2] = -50.0, 35.0, 20.5
    noise, x = r.normal(2, 2, 3, 3), r.normal(2, 2, 3, 3)

    def play(dtype):
        m = moments.to(dtype, copy=True).requires_grad_()
        posterior = DiagonalGaussianDistribution(m)
        kl = posterior.kl()
        kl.sum().backward()
        return dict(mean=posterior.mean, logvar=posterior.logvar, std=posterior.std, kl=kl,
                    sample=posterior.mean + posterior.std * noise.to(dtype), nll=posterior.nll(x.to(dtype)),
                    grad=m.grad)

    a, b = play(torch.float32), play(torch.float64)
    for k, v in dict(moments=moments, noise=noise, x=x, **a).items():
        file.add(k, v)
    file.config = {"f64": {k: sig(rel(v, b[k])) for k, v in a.items()}}
    file.save(os.path.join(out, "gaussian.safetensors"))
    print("float32 against float64:", file.config["f64"])


def stable_diffusion(path):
    options = config([128, 256, 512, 512], 2, 4, 32, 256)
    torch.manual_seed(0)
    model = AutoencoderKL(**options)
    state = model.state_dict()
    result = {
        "config": options,
        "params": sum(p.numel() for p in model.parameters()),
        "keys": [[k, list(v.shape)] for k, v in state.items()],
        "init": {k: [float("%.6g" % v.double().std(correction=0)), float("%.6g" % v.abs().max())]
                 for k, v in state.items()},
    }
    with open(path, "w") as f:
        f.write("{\n" + ",\n".join(json.dumps(k) + ": " + json.dumps(v, separators=(",", ":"))
                                   for k, v in result.items()) + "\n}\n")
    print("%s: %d keys, %d parameters, %d bytes" % (path, len(state), result["params"], os.path.getsize(path)))


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default=os.path.join(here, "..", "..", "vae", "testdata"))
    out = parser.parse_args().out
    model_golden(out, "tiny", 16, 16, **config([8, 16], 1, 4, 4, 16))
    model_golden(out, "three", 16, 24, **config([8, 8, 16], 2, 3, 4, 16))
    gaussian(out)
    stable_diffusion(os.path.join(out, "sd_keys.json"))


if __name__ == "__main__":
    main()
