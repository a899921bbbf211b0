"""Times reading, decoding, cropping and batching against the original's pipeline, and prints one table.

Usage: python3 bench/data/loader.py PHOTOS [ROUNDS] [LATENTS]   (from the top of the tree, after make build)

PHOTOS is a folder of real pictures; the script cuts 400 JPEG files of ImageNet's usual size from them. The original is
DiT's train.py: torchvision's ImageFolder with ADM's crop, random flip, ToTensor and Normalize, in a DataLoader. The two
programs alternate, and the fastest of ROUNDS (5) counts for each. LATENTS is a folder of latents, read in random order.
Needs torch, torchvision, numpy and Pillow.
"""
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
from PIL import Image, __version__ as pillow
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from adm import center_crop_arr

torch.set_num_threads(1)


def make(photos, folder):
    rng = np.random.default_rng(0)
    sources = []
    for root, _, names in os.walk(photos):
        for name in sorted(names):
            try:
                im = Image.open(os.path.join(root, name)).convert("RGB")
            except Exception:
                continue
            if min(im.size) >= 250 and len(np.unique(np.array(im)[::9, ::9].reshape(-1, 3), axis=0)) > 500:
                sources.append(im)
    for i in range(400):
        im = sources[i % len(sources)]
        w, h = (500, 375) if i % 4 else (375, 500)
        s = max(w / im.width, h / im.height) * rng.uniform(1, 1.3)
        im = im.resize((int(im.width * s) + 1, int(im.height * s) + 1), Image.LANCZOS)
        x, y = rng.integers(0, im.width - w + 1), rng.integers(0, im.height - h + 1)
        d = os.path.join(folder, f"n{i % 10:08d}")
        os.makedirs(d, exist_ok=True)
        im.crop((x, y, x + w, y + h)).save(os.path.join(d, f"{i}.JPEG"), quality=int(rng.integers(85, 97)))
    return len(sources)


def dataset(folder):
    return ImageFolder(folder, transform=transforms.Compose([
        transforms.Lambda(lambda im: center_crop_arr(im, 256)), transforms.RandomHorizontalFlip(),
        transforms.ToTensor(), transforms.Normalize(mean=[0.5] * 3, std=[0.5] * 3, inplace=True)]))


def loader(folder, workers):
    n, loaded = 0, DataLoader(dataset(folder), batch_size=32, shuffle=True, num_workers=workers, drop_last=True)
    start = time.perf_counter()
    for _ in range(2 if workers else 1):
        for x, _ in loaded:
            n += len(x)
    return n / (time.perf_counter() - start)


def single(folder, what):
    names = [p for p, _ in ImageFolder(folder).samples]
    start = time.perf_counter()
    for p in names:
        with open(p, "rb") as f:
            im = Image.open(f).convert("RGB")
        if what == "crop":
            center_crop_arr(im, 256)
    return len(names) / (time.perf_counter() - start)


def main():
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with tempfile.TemporaryDirectory() as folder:
        tool = os.path.join(folder, "loader")
        subprocess.run(["go", "build", "-o", tool, "./bench/data/loader"], check=True)
        pictures = os.path.join(folder, "pictures")
        photos = make(sys.argv[1], pictures)
        ours = lambda *a: float(subprocess.run(
            [tool, *a], stdout=subprocess.PIPE, check=True,
            env=dict(os.environ, GOMAXPROCS=a[-1] if a[0] == "batches" else "1")).stdout)
        rows = [
            ("decode, 1 core", lambda: ours("decode", pictures), lambda: single(pictures, "decode"), "Pillow"),
            ("decode and crop, 1 core", lambda: ours("crop", pictures), lambda: single(pictures, "crop"), "Pillow"),
            ("decode and crop, 1 core", lambda: ours("crop", pictures), lambda: ours("stdlib", pictures),
             "Go's image/jpeg and imaging (other pixels)"),
            ("shuffled batches, 1 core", lambda: ours("batches", pictures, "1"), lambda: loader(pictures, 0),
             "DataLoader, in its process"),
            ("shuffled batches, 2 workers", lambda: ours("batches", pictures, "2"), lambda: loader(pictures, 2),
             "DataLoader, 2 workers"),
        ]
        print(f"400 JPEG files of 500x375 cut from {photos} photos, to 256x256; pictures a second, "
              f"fastest of {rounds}; Pillow {pillow}, torch {torch.__version__}\n")
        print("| | ditrun | other | | ratio |\n|---|---|---|---|---|")
        for name, a, b, other in rows:
            best = [0.0, 0.0]
            for _ in range(rounds):
                best = [max(best[0], a()), max(best[1], b())]
            print(f"| {name} | {best[0]:.0f} | {best[1]:.0f} | {other} | {best[0] / best[1]:.2f} |", flush=True)
        if len(sys.argv) > 3:
            best = max(ours("latents", sys.argv[3]) for _ in range(rounds))
            print(f"| latents from the page cache, records | {best:.0f} | | | |")


main()
