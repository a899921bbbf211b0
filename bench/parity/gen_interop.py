"""Writes latents as the writers of fast-DiT, LightningDiT and edm2 do, into data/interop/testdata, and with --check
reads an export of ours as their data sets do.

    python bench/parity/gen_interop.py                 # the goldens
    python bench/parity/gen_interop.py --check DIR --latents LATENTS

DIR has fast-dit/, lightningdit/, edm2/ and edm2.zip, which `ditrun convert --latents LATENTS --to ...` made.

The writers and readers follow extract_features.py of chuanyangjin/fast-DiT, extract_features.py and
datasets/img_latent_dataset.py of hustvl/LightningDiT, dataset_tool.py and training/dataset.py of NVlabs/edm2.
"""
import argparse
import io
import json
import os
import zipfile

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

N, C, H, W = 5, 4, 3, 2
LABELS = [0, 2, 1, 2, 0]


def value(kind, i, flip=0):
    """Element j of a record is a function of its place that float32 holds exactly."""
    j = np.arange(C * H * W).reshape(C, H, W)
    return ((j + 10 * i + 5 * flip) % 64 / 16 - 2 + kind / 64).astype(np.float32)


def write(out):
    d = os.path.join(out, "fast-dit")
    os.makedirs(os.path.join(d, "imagenet256_features"))
    os.makedirs(os.path.join(d, "imagenet256_labels"))
    for i in range(N):
        np.save(f"{d}/imagenet256_features/{i}.npy", value(0, i)[None])
        np.save(f"{d}/imagenet256_labels/{i}.npy", np.array([LABELS[i]]))

    d = os.path.join(out, "lightningdit")
    os.makedirs(d)
    for rank, ids in ((0, [0, 1, 2]), (1, [3, 4])):
        save_file({
            "latents": torch.stack([torch.from_numpy(value(1, i)) for i in ids]),
            "latents_flip": torch.stack([torch.from_numpy(value(1, i, 1)) for i in ids]),
            "labels": torch.tensor([LABELS[i] for i in ids]),
        }, os.path.join(d, f"latents_rank{rank:02d}_shard{0:03d}.safetensors"),
            metadata={"total_size": str(len(ids)), "dtype": "torch.float32", "device": "cpu"})

    d = os.path.join(out, "edm2")
    os.makedirs(d)
    with zipfile.ZipFile(os.path.join(out, "edm2.zip"), "w", compression=zipfile.ZIP_STORED) as z:
        labels = []
        for i in range(N):
            idx = f"{i:08d}"
            name = f"{idx[:5]}/img-mean-std-{idx}.npy"
            mean_std = np.concatenate([value(2, i), np.exp(value(2, i, 1) / 2)])
            f = io.BytesIO()
            np.save(f, mean_std)
            os.makedirs(os.path.join(d, idx[:5]), exist_ok=True)
            for data, put in ((f.getvalue(), name),):
                z.writestr(put, data)
                open(os.path.join(d, put), "wb").write(data)
            labels.append([name, LABELS[i]])
        text = json.dumps({"labels": labels})
        z.writestr("dataset.json", text)
        open(os.path.join(d, "dataset.json"), "w").write(text)


def shards(path):
    """Means and deviations of both views, and labels, of a set of ditrun's."""
    manifest = json.load(open(os.path.join(path, "manifest.json")))
    parts = [load_file(os.path.join(path, s["file"])) for s in manifest["shards"]]
    views = []
    for name in ("moments", "moments_flip"):
        mean, logvar = torch.cat([p[name] for p in parts]).double().chunk(2, dim=1)
        views.append((mean.numpy(), (logvar / 2).exp().numpy()))
    return views, torch.cat([p["labels"] for p in parts]).numpy(), manifest["vae"]["scaling_factor"]


def check(path, latents):
    views, labels, factor = shards(latents)
    mean, std = views[0]
    n = len(labels)

    def drawn(what, x, view):
        z = (x - view[0]) / np.maximum(view[1], 1e-6)
        print(f"{what}: drawn latents are {np.abs(z).mean():.3f} deviations from the mean (a normal's are 0.798), "
              f"at most {np.abs(z).max():.2f}")
        assert abs(np.abs(z).mean() - 0.798) < 0.05 and np.abs(z).max() < 6

    d = os.path.join(path, "fast-dit")
    features = sorted(os.listdir(f"{d}/imagenet256_features"))
    assert features == sorted(os.listdir(f"{d}/imagenet256_labels")) and len(features) == n
    order = [int(f.split(".")[0]) for f in features]
    x = np.stack([np.load(f"{d}/imagenet256_features/{f}") for f in features])
    y = np.stack([np.load(f"{d}/imagenet256_labels/{f}") for f in features])
    assert x.dtype == np.float32 and x.shape == (n, 1) + mean.shape[1:] and y.dtype == np.int64 and y.shape == (n, 1)
    assert (y[:, 0] == labels[order]).all()
    drawn("fast-dit", x[:, 0] / factor, (mean[order], std[order]))

    d = os.path.join(path, "lightningdit")
    got = {"latents": [], "latents_flip": [], "labels": []}
    for f in sorted(f for f in os.listdir(d) if f.endswith(".safetensors")):
        with safe_open(os.path.join(d, f), framework="pt", device="cpu") as s:
            for i in range(s.get_slice("labels").get_shape()[0]):
                for k in got:
                    got[k].append(s.get_slice(k)[i:i + 1])
    assert (torch.cat(got["labels"]).numpy() == labels).all()
    drawn("lightningdit", torch.cat(got["latents"]).numpy(), (mean, std))
    drawn("lightningdit, mirrored", torch.cat(got["latents_flip"]).numpy(), views[1])
    stats = torch.load(os.path.join(d, "latents_stats.pt"), weights_only=True)
    assert stats["mean"].shape == stats["std"].shape == (1, mean.shape[1], 1, 1)

    for what in ("edm2", "edm2.zip"):
        p = os.path.join(path, what)
        z = zipfile.ZipFile(p) if what.endswith("zip") else None
        read = (lambda name: z.open(name, "r")) if z else (lambda name: open(os.path.join(p, name), "rb"))
        listed = json.load(read("dataset.json"))["labels"]
        assert [y for _, y in listed] == list(labels)
        x = np.stack([np.load(read(name)) for name, _ in listed])
        assert x.dtype == np.float32 and x.shape == (n, 2 * mean.shape[1]) + mean.shape[2:]
        e = max(np.abs(x[:, :mean.shape[1]] - mean).max(), np.abs(x[:, mean.shape[1]:] / std - 1).max())
        print(f"{what}: means and deviations differ by {e:.1e} at most")
        assert e < 1e-6


if __name__ == "__main__":
    a = argparse.ArgumentParser()
    a.add_argument("--check")
    a.add_argument("--latents")
    a = a.parse_args()
    if a.check:
        check(a.check, a.latents)
    else:
        write(os.path.join(os.path.dirname(__file__), "../../data/interop/testdata"))
