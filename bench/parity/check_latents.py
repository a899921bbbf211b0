"""Encodes pictures with ditrun and with the original's steps (PIL, ADM's crop, diffusers' AutoencoderKL), and compares
the latents.

Needs: pip install torch==2.11.0 torchvision==0.26.0 diffusers==0.35.2 huggingface_hub==0.36.0 safetensors numpy
       pillow==12.1.1
Usage: python check_latents.py --ditrun ../../bin/ditrun [--photos DIR] [--count 6] [--image-size 256] [--vae FOLDER]
       python check_latents.py --golden [--out ../../vae/encode/testdata]

The pictures are a class folder tree of JPEG files of every kind that Pillow writes, PNG and WebP. They are cut from the
photos in DIR, or drawn. The VAE is FOLDER, or Stable Diffusion's configuration with the weights of philox_weights.py.
The safetensors package reads the shards that ditrun writes. Ids and labels must be those of torchvision's ImageFolder;
mean and log variance of both views must agree to 1e-4.

--golden writes what TestLatentsEqualDiffusers reads: pictures/ and latents.safetensors, made with vae/testdata/tiny at
16 pixels: moments, moments_flip [n, 8, 8, 8], labels [n], in the order of ImageFolder.
"""
import argparse
import glob
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors import safe_open
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import hflip, normalize, to_tensor

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../data"))

from adm import center_crop_arr
from goldens import File, Rand
from philox_weights import weights


def drawn(i, w, h):
    """Smooth shapes with noise: latents of a flat picture would say little."""
    r = Rand("check_latents/%d" % i)
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    f = r.uniform(2, 12, 3, 3).numpy()
    a = np.stack([128 + 90 * np.sin(f[c, 0] * x / w + f[c, 1]) * np.cos(f[c, 2] * y / h) for c in range(3)], -1)
    return Image.fromarray(np.clip(a + r.normal(h, w, 3, std=12).numpy(), 0, 255).astype(np.uint8))


def write_pictures(folder, pictures):
    """Saves each picture in another way, by turns in three classes."""
    kinds = [("jpg", dict(quality=90)), ("JPEG", dict(quality=75, subsampling=1, progressive=True)),
             ("jpeg", dict(quality=95, subsampling=0)), ("png", {}), ("webp", dict(quality=80)),
             ("jpg", dict(quality=85, mode="CMYK")), ("jpg", dict(quality=90, mode="L")),
             ("png", dict(mode="P"))]
    for i, im in enumerate(pictures):
        ext, options = kinds[i % len(kinds)]
        options = dict(options)
        mode = options.pop("mode", None)
        path = os.path.join(folder, "class%d" % (i % 3), "%d.%s" % (i, ext))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        (im.convert(mode) if mode else im).save(path, **options)


@torch.no_grad()
def reference(vae, folder, size):
    """Moments of both views and labels, in the order of ImageFolder; the log variance clamped as that of the
    posterior."""
    moments, flipped, labels = [], [], []
    for path, label in ImageFolder(folder).samples:
        with open(path, "rb") as f:
            im = center_crop_arr(Image.open(f).convert("RGB"), size)
        x = normalize(to_tensor(im), [0.5] * 3, [0.5] * 3)[None]
        for view, out in ((x, moments), (hflip(x), flipped)):
            d = vae.encode(view).latent_dist
            out.append(torch.cat([d.mean, d.logvar], 1))
        labels.append(label)
    return torch.cat(moments), torch.cat(flipped), torch.tensor(labels)


def stable_diffusion():
    vae = AutoencoderKL(block_out_channels=[128, 256, 512, 512], down_block_types=["DownEncoderBlock2D"] * 4,
                        up_block_types=["UpDecoderBlock2D"] * 4, layers_per_block=2, latent_channels=4,
                        norm_num_groups=32, sample_size=256)
    with torch.no_grad():
        for i, (key, v) in enumerate(vae.state_dict().items()):
            v.copy_(torch.from_numpy(weights(i, tuple(v.shape),
                                             centre=1.0 if "norm" in key and key.endswith("weight") else 0.0)))
    return vae


def photos(folder, count):
    found = []
    for path in sorted(glob.glob(os.path.join(folder, "**", "*.*"), recursive=True)):
        try:
            im = Image.open(path).convert("RGB")
        except Exception:
            continue
        if min(im.size) >= 250:
            found.append(im)
    return [found[i * len(found) // count] for i in range(count)]


def golden(out):
    vae = AutoencoderKL.from_pretrained(os.path.join(HERE, "../../vae/testdata/tiny")).eval()
    folder = os.path.join(out, "pictures")
    write_pictures(folder, [drawn(i, w, h) for i, (w, h) in enumerate([
        (61, 44), (30, 75), (16, 16), (33, 20), (40, 64), (25, 24), (50, 19), (18, 37), (23, 90)])])
    moments, flipped, labels = reference(vae, folder, 16)
    f = File()
    for name, t in (("moments", moments), ("moments_flip", flipped), ("labels", labels)):
        f.add(name, t)
    f.save(os.path.join(out, "latents.safetensors"))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--ditrun")
    p.add_argument("--photos")
    p.add_argument("--count", type=int, default=6)
    p.add_argument("--image-size", type=int, default=256)
    p.add_argument("--vae")
    p.add_argument("--golden", action="store_true")
    p.add_argument("--out", default=os.path.join(HERE, "../../vae/encode/testdata"))
    a = p.parse_args()
    if a.golden:
        return golden(a.out)
    with tempfile.TemporaryDirectory() as work:
        folder, latents = os.path.join(work, "pictures"), os.path.join(work, "latents")
        write_pictures(folder, photos(a.photos, a.count) if a.photos
                       else [drawn(i, 500 - 37 * i % 300, 300 + 41 * i % 400) for i in range(a.count)])
        if not a.vae:
            a.vae = os.path.join(work, "vae")
            stable_diffusion().save_pretrained(a.vae)
        subprocess.run([a.ditrun, "encode-latents", "--device", "cpu", "--data", folder, "--vae", a.vae,
                        "--out", latents, "--image-size", str(a.image_size), "--dtype", "fp32", "--batch-size", "4"],
                       check=True)
        got = {}
        for path in sorted(glob.glob(os.path.join(latents, "*.safetensors"))):
            with safe_open(path, "pt") as f:
                for name in f.keys():
                    got.setdefault(name, []).append(f.get_tensor(name))
        got = {name: torch.cat(parts) for name, parts in got.items()}
        moments, flipped, labels = reference(AutoencoderKL.from_pretrained(a.vae).eval(), folder, a.image_size)
        assert (torch.equal(got["index"], torch.arange(len(labels)))
                and torch.equal(got["labels"], labels)), "other ids or labels"
        worst = 0.0
        for name, want in (("moments", moments), ("moments_flip", flipped)):
            for part, g, w in zip(("mean", "logvar"), got[name].chunk(2, 1), want.chunk(2, 1)):
                diff = (g - w).abs().max().item()
                worst = max(worst, diff)
                print("%s, %s: largest difference %.2g; values up to %.3g" % (name, part, diff, w.abs().max()))
        print("%d pictures of %d classes, ids and labels equal, largest difference %.2g"
              % (len(labels), labels.max() + 1, worst))
        assert worst < 1e-4


main()
