#!/usr/bin/env python3
"""Judge samples of the demo: does a classifier recognise the requested class?

The script trains the classifier on the real Fashion-MNIST training pictures. It
shares nothing with the program that made the samples, and is not part of it:
sampling neither calls the classifier nor rejects samples because of it.

Needs Python 3 with torch, numpy and pillow.

    judge.py --data FOLDER SAMPLES [--labels SPEC] [--cache FILE] [--seed N] [--threads N]

    --data    folder with the four Fashion-MNIST IDX files, gzipped or not
    SAMPLES   X.npz with arr_0 uint8 [N, H, W, 3] and arr_1 int64 [N] labels, or
              a folder of PNG files (subfolders are read too), or "real": judge
              the 10,000 real test pictures instead
    --labels  labels of a folder's files in sorted order (see below):
              a text file with one number or "name,number" per line, or the word
              "cycle" for 0, 1, ..., 9, 0, 1, ...
    --cache   file of the trained classifier (default: fashion-judge.pt in the
              current folder); if it is missing, the script trains one, which takes
              three to four minutes on two cores
    --seed    seed of the classifier's training (default 0); each seed is another judge,
              with a --cache of its own

Without --labels the label of a PNG comes from its subfolder, if that is a class
number or name ("9", "ankle-boot"), else from its file name: a class name in it,
else "classN" or "labelN", else the last number ("000123-class9.png", "17_9.png").

It prints the agreement in percent, in total and per class, and the class most
often recognised instead. It also prints the diversity: the standard deviation of
each pixel over the samples of one class, averaged over pixels and classes, in grey
levels (0..255), with the same figure for the real pictures. Samples that are all
alike have diversity 0. --json prints the same numbers as one object.
"""

import argparse
import gzip
import json
import os
import re
import sys
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image

SIDE = 32
CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
           "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
RECIPE = "cnn-32-64-128 v1"  # bump it when the classifier changes: old caches are refused


def fail(message):
    sys.exit("judge: error: " + message)


def read_idx(folder, name):
    for path in (os.path.join(folder, name + ".gz"), os.path.join(folder, name)):
        if os.path.exists(path):
            opener = gzip.open if path.endswith(".gz") else open
            with opener(path, "rb") as f:
                raw = f.read()
            dims = raw[3]
            shape = [int.from_bytes(raw[4 + 4 * i:8 + 4 * i], "big") for i in range(dims)]
            return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape)
    fail(f"{folder}: no {name} or {name}.gz")


def resize(picture):
    """Grey picture of any size to SIDE x SIDE, by the rule the samples' training data went through."""
    if picture.shape == (SIDE, SIDE):
        return picture
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.BICUBIC))


def real(folder, split):
    images = read_idx(folder, split + "-images-idx3-ubyte")
    labels = read_idx(folder, split + "-labels-idx1-ubyte").astype(np.int64)
    return np.stack([resize(p) for p in images]), labels


class Judge(nn.Module):
    """Three convolution stages and two linear layers; input [N, 1, 32, 32] in [-1, 1]."""

    def __init__(self):
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.c2, self.b2 = nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        self.c3, self.b3 = nn.Conv2d(64, 128, 3, padding=1, bias=False), nn.BatchNorm2d(128)
        self.f1, self.b4 = nn.Linear(128 * 16, 128, bias=False), nn.BatchNorm1d(128)
        self.f2 = nn.Linear(128, 10)

    def forward(self, x):
        for conv, norm in ((self.c1, self.b1), (self.c2, self.b2), (self.c3, self.b3)):
            x = F.relu(norm(F.max_pool2d(conv(x), 2)))
        x = F.dropout(x.flatten(1), 0.2, self.training)
        return self.f2(F.relu(self.b4(self.f1(x))))


def to_input(pictures):
    return torch.from_numpy(np.ascontiguousarray(pictures)).float().div_(127.5).sub_(1).unsqueeze(1)


@torch.no_grad()
def classify(net, pictures):
    net.eval()
    return np.concatenate([net(to_input(pictures[i:i + 500])).argmax(1).numpy()
                           for i in range(0, len(pictures), 500)])


def train(folder, seed, epochs=5, batch=128):
    torch.manual_seed(seed)
    pictures, labels = real(folder, "train")
    targets = torch.from_numpy(labels)
    net = Judge()
    steps = len(labels) // batch * epochs
    opt = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-2)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, 4e-3, total_steps=steps, pct_start=0.2)
    start = time.time()
    for epoch in range(epochs):
        net.train()
        order = torch.randperm(len(labels))
        total = 0.0
        for i in range(0, len(order) - batch + 1, batch):
            ids = order[i:i + batch]
            x = to_input(pictures[ids.numpy()])
            # Small shifts only: a mirrored shoe is not a real picture of this set.
            dy, dx = torch.randint(-1, 2, (2,)).tolist()
            x = torch.roll(x, (dy, dx), (2, 3))
            loss = F.cross_entropy(net(x), targets[ids], label_smoothing=0.05)
            opt.zero_grad()
            loss.backward()
            opt.step()
            sched.step()
            total += loss.item()
        print(f"judge: training epoch {epoch + 1} of {epochs}: loss {total / (len(order) // batch):.3f}, "
              f"{time.time() - start:.0f} s", file=sys.stderr, flush=True)
    return net


def load_or_train(folder, cache, seed):
    net = Judge()
    if os.path.exists(cache):
        saved = torch.load(cache, weights_only=True)
        if saved.get("recipe") != RECIPE:
            fail(f"{cache}: made by another version of this script; delete it")
        if saved.get("seed", 0) != seed:
            fail(f"{cache}: trained with seed {saved.get('seed', 0)}, not {seed}; give another --cache")
        net.load_state_dict(saved["net"])
        return net, saved["accuracy"], saved["diversity"]
    net = train(folder, seed)
    pictures, labels = real(folder, "t10k")
    accuracy = float((classify(net, pictures) == labels).mean())
    spread = diversity(pictures, labels)
    torch.save({"recipe": RECIPE, "seed": seed, "net": net.state_dict(), "accuracy": accuracy,
                "diversity": spread}, cache)
    return net, accuracy, spread


def diversity(pictures, labels):
    per_class = [pictures[labels == c].astype(np.float32).std(0).mean()
                 for c in range(10) if (labels == c).sum() > 1]
    return float(np.mean(per_class)) if per_class else 0.0


def plain(name):
    return re.sub(r"[^a-z0-9]", "", name.lower())


def label_of(relative):
    folder, name = os.path.split(relative)
    top = folder.split(os.sep)[0]
    if top.isdigit() and int(top) < 10:
        return int(top)
    for text in (plain(top), plain(os.path.splitext(name)[0])):
        if "tshirt" in text:
            return 0
        for c in range(1, 10):  # T-shirt is settled above: it contains "shirt"
            if plain(CLASSES[c]) in text:
                return c
    found = re.search(r"(?:class|label)[-_ ]?(\d+)", name) or re.search(r"(\d+)\D*$", os.path.splitext(name)[0])
    if not found or int(found.group(1)) > 9:
        fail(f"{relative}: no class in the name; give --labels")
    return int(found.group(1))


def read_folder(folder, spec):
    files = sorted(os.path.relpath(os.path.join(d, f), folder)
                   for d, _, names in os.walk(folder) for f in names if f.lower().endswith(".png"))
    if not files:
        fail(f"{folder}: no PNG files")
    if spec == "cycle":
        labels = [i % 10 for i in range(len(files))]
    elif spec:
        lines = [line.strip() for line in open(spec) if line.strip()]
        if len(lines) != len(files):
            fail(f"{spec}: {len(lines)} lines for {len(files)} pictures")
        if all("," in line for line in lines):
            table = dict(line.rsplit(",", 1) for line in lines)
            missing = [f for f in files if f not in table]
            if missing:
                fail(f"{spec}: no line for {missing[0]}")
            labels = [int(table[f]) for f in files]
        else:
            labels = [int(line) for line in lines]
    else:
        labels = [label_of(f) for f in files]
    pictures = [np.asarray(Image.open(os.path.join(folder, f)).convert("RGB")) for f in files]
    return pictures, np.array(labels, np.int64)


def read_samples(path, spec):
    if os.path.isdir(path):
        pictures, labels = read_folder(path, spec)
    else:
        archive = np.load(path, allow_pickle=False)
        if "arr_1" not in archive:
            fail(f"{path}: no arr_1 with labels")
        pictures, labels = archive["arr_0"], archive["arr_1"].astype(np.int64)
    grey = np.stack([resize(np.rint(p.astype(np.float32).mean(2)).astype(np.uint8)) for p in pictures])
    if len(grey) != len(labels) or labels.min() < 0 or labels.max() > 9:
        fail(f"{path}: {len(grey)} pictures, {len(labels)} labels, want equally many, and labels 0 to 9")
    return grey, labels


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("samples")
    p.add_argument("--data", required=True)
    p.add_argument("--labels", default="")
    p.add_argument("--cache", default="fashion-judge.pt")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--json", action="store_true")
    args = p.parse_args()
    torch.set_num_threads(args.threads)

    net, accuracy, real_diversity = load_or_train(args.data, args.cache, args.seed)
    if args.samples == "real":
        pictures, labels = real(args.data, "t10k")
    else:
        pictures, labels = read_samples(args.samples, args.labels)
    predicted = classify(net, pictures)
    result = {"samples": len(labels), "agreement": 100 * float((predicted == labels).mean()),
              "judge_accuracy": 100 * accuracy, "diversity": diversity(pictures, labels),
              "real_diversity": real_diversity, "classes": {}}
    for c in range(10):
        of_class = predicted[labels == c]
        if len(of_class):
            others = np.bincount(of_class[of_class != c], minlength=10)
            result["classes"][CLASSES[c]] = {
                "samples": len(of_class), "agreement": 100 * float((of_class == c).mean()),
                "mostly_else": CLASSES[int(others.argmax())] if others.any() else ""}
    if args.json:
        print(json.dumps(result))
        return
    for name, row in result["classes"].items():
        other = f"   else mostly {row['mostly_else']}" if row["mostly_else"] else ""
        print(f"{name:12s} {row['agreement']:6.1f} %  of {row['samples']}{other}")
    print(f"agreement {result['agreement']:.1f} % of {result['samples']} samples "
          f"(the judge recognises {result['judge_accuracy']:.1f} % of the real test pictures)")
    print(f"diversity {result['diversity']:.1f} grey levels (real pictures {result['real_diversity']:.1f})")


if __name__ == "__main__":
    main()
