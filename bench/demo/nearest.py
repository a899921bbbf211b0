#!/usr/bin/env python3
"""Are samples copies of the training pictures?

For each sample the script looks for the training picture of any class, mirrored or
not, that is nearest to it in pixels. As a measure it does the same for each training
picture and the other ones. The distance is the root of the mean square difference
over pixels and colours, in grey levels (0..255).

Needs Python 3 with numpy and pillow.

    nearest.py --data FOLDER SAMPLES.npz [--sheet FILE] [--sheet-seed N]

    --data    class folders of the training pictures, of the samples' size
    SAMPLES   output of ditrun sample --out X.npz
    --sheet   draw ten samples, drawn at random, above their nearest training pictures
"""

import argparse
import os
import sys

import numpy as np
from PIL import Image


def read(folder):
    files = sorted(os.path.join(d, f) for d, _, names in os.walk(folder) for f in names if f.endswith(".png"))
    if not files:
        sys.exit(f"nearest: error: {folder}: no PNG files")
    return np.stack([np.asarray(Image.open(f).convert("RGB")) for f in files])


def distances(a, b):
    """Root mean square difference of each row of a to each row of b."""
    square = (a ** 2).sum(1)[:, None] + (b ** 2).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(square, 0) / a.shape[1])


def summary(name, values):
    low, middle, high = np.percentile(values, [10, 50, 90])
    print(f"{name:45s} median {middle:5.1f}   10 % below {low:5.1f}   10 % above {high:5.1f}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("samples")
    p.add_argument("--data", required=True)
    p.add_argument("--sheet")
    p.add_argument("--sheet-seed", type=int, default=0)
    args = p.parse_args()

    samples = np.load(args.samples, allow_pickle=False)["arr_0"]
    pictures = np.unique(read(args.data), axis=0)  # some flags are equal
    if samples.shape[1:] != pictures.shape[1:]:
        sys.exit(f"nearest: error: samples are {samples.shape[1:3]}, pictures {pictures.shape[1:3]}")
    views = np.concatenate([pictures, pictures[:, :, ::-1]])
    flat = views.reshape(len(views), -1).astype(np.float32)
    n = len(pictures)

    to_samples = distances(samples.reshape(len(samples), -1).astype(np.float32), flat)
    summary("samples to their nearest training picture", to_samples.min(1))
    among = distances(flat[:n], flat)
    own = np.arange(n)
    among[own, own] = among[own, own + n] = np.inf
    summary("training pictures to their nearest other one", among.min(1))
    # A sample is nearer than its nearest picture is to the other pictures: a copy, if not an exact one.
    nearest = to_samples.argmin(1)
    copies = to_samples.min(1) < among.min(1)[nearest % n]
    print(f"{100 * copies.mean():.0f} % of {len(samples)} samples are nearer to a training picture than this is "
          "to any other")

    if args.sheet:
        some = np.sort(np.random.default_rng(args.sheet_seed).permutation(len(samples))[:10])
        rows = [np.concatenate(list(x), 1) for x in (samples[some], views[nearest[some]])]
        Image.fromarray(np.concatenate(rows, 0)).save(args.sheet)


if __name__ == "__main__":
    main()
