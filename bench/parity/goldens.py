"""What the gen_goldens_*.py scripts share: fixed random arrays, the file writer, and float32 against float64.

A golden file is a safetensors file of tensors whose names say what they are, with one metadata entry, "config": a JSON
object. One entry, because the writer's order of several is not fixed and the files should be equal byte for byte when
made again on the same machine.
"""
import json
import math
import os
import zlib

import numpy as np
import torch
from safetensors.torch import save_file

# One thread: the order of summation, so the last bits, must not depend on the machine's number of cores.
torch.set_num_threads(1)
torch.set_default_dtype(torch.float32)


class Rand:
    """Arrays from a generator keyed by a name, so that a new case leaves the numbers of the others as they are."""

    def __init__(self, name):
        self.rng = np.random.default_rng(zlib.crc32(name.encode()))

    def normal(self, *shape, std=1.0, mean=0.0):
        return torch.tensor(np.asarray(self.rng.standard_normal(shape) * std + mean, dtype=np.float32))

    def uniform(self, lo, hi, *shape):
        return torch.tensor(np.asarray(self.rng.uniform(lo, hi, shape), dtype=np.float32))

    def ints(self, hi, *shape):
        return torch.from_numpy(self.rng.integers(0, hi, shape, dtype=np.int64))


def fill(module, name, std=0.3):
    """Sets every parameter of a module to random non-zero values of a sane size, keyed by parameter name.

    Matrices get std / sqrt(fan in) times 3.3, so activations stay near 1; vectors get std; weights of norms
    get 1 + that.
    """
    with torch.no_grad():
        for key, p in module.named_parameters():
            r = Rand(name + "/" + key)
            if p.ndim > 1:
                p.copy_(r.normal(*p.shape, std=std * 3.3 / math.sqrt(p[0].numel())))
            elif "norm" in key and key.endswith("weight"):
                p.copy_(r.normal(*p.shape, std=std, mean=1.0))
            else:
                p.copy_(r.normal(*p.shape, std=std))


class File:
    """A golden file in the making."""

    def __init__(self):
        self.tensors = {}
        self.config = {}

    def add(self, name, t):
        if name in self.tensors:
            raise ValueError("tensor %r added twice" % name)
        if t.is_floating_point() and not torch.isfinite(t).all():
            raise ValueError("tensor %r is not finite" % name)
        self.tensors[name] = t.detach().clone().contiguous()

    def save(self, path):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        save_file(self.tensors, path, metadata={"config": json.dumps(self.config, separators=(",", ":"))})
        os.chmod(path, 0o644)  # the writer makes it private
        size = os.path.getsize(path)
        print("%s: %d tensors, %d bytes" % (path, len(self.tensors), size))
        if size >= 2 << 20:
            raise ValueError("%s is too large to check in" % path)


def rel(a, b):
    """Largest difference of two tensors over the largest magnitude of the second (0 for two zero tensors)."""
    a, b = a.detach().double(), b.detach().double()
    top = b.abs().max().item() if b.numel() else 0.0
    diff = (a - b).abs().max().item() if b.numel() else 0.0
    return diff / top if top else diff


def sig(x):
    """Two significant digits: what a tolerance is argued from."""
    return float("%.1e" % x)
