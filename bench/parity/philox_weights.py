"""Weights that are too large to check in, as a function of the tensor's index: the same lines stand in Go in the tests.

Element 4b+i of tensor n is u * scale, where u = (w >> 8) / 2^24 - 1/2 for word w = i of Philox4x32-10 with key (0, 0)
and counter (b, 7 << 24, n, 0), and scale is a power of two: every product is exact.
"""
import math

import numpy as np


def philox(block, index):
    """Words [len(block), 4] of Philox4x32-10."""
    mask = np.uint64(0xFFFFFFFF)
    c = [block.astype(np.uint64), np.full(len(block), 7 << 24, np.uint64), np.full(len(block), index, np.uint64),
         np.zeros(len(block), np.uint64)]
    k0, k1 = 0, 0
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0), p1 & mask, (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1),
             p0 & mask]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, 1)


def scale(shape):
    """Of a tensor of this shape: about 0.6 / sqrt(fan in) in deviation for matrices and convolutions."""
    if len(shape) < 2:
        return 0.25
    return 2.0 ** (1 - math.floor(math.log2(math.prod(shape[1:])) / 2))


def weights(index, shape, centre=0.0, chunk=1 << 22):
    """The tensor of this index, float32; centre is added, for weights of norms."""
    n = math.prod(shape)
    out = np.empty((n + 3) // 4 * 4, np.float32)
    for lo in range(0, len(out) // 4, chunk):
        block = np.arange(lo, min(lo + chunk, len(out) // 4), dtype=np.uint64)
        w = philox(block, index).reshape(-1)
        out[4 * lo:4 * lo + len(w)] = (
            ((w >> np.uint64(8)).astype(np.float32) * np.float32(2.0**-24) - np.float32(0.5))
            * np.float32(scale(shape)) + np.float32(centre))
    return out[:n].reshape(shape)
