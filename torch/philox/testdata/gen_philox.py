# Writes philox.txt from an implementation of its own, in NumPy:
#   python3 gen_philox.py
# Each line: seed block tag step index, the four words, the bits of the four
# float32 normals; all hexadecimal.
import os
import numpy as np

M = np.uint64(0xFFFFFFFF)
S = np.uint64(32)

def philox(counter, key):
    """counter [n, 4], key [n, 2], uint64 holding 32-bit words -> words [n, 4] uint32."""
    x0, x1, x2, x3 = counter.T
    k0, k1 = key.T
    for _ in range(10):
        a = np.uint64(0xD2511F53) * x0
        b = np.uint64(0xCD9E8D57) * x2
        x0, x1, x2, x3 = (b >> S) ^ x1 ^ k0, b & M, (a >> S) ^ x3 ^ k1, a & M
        k0 = (k0 + np.uint64(0x9E3779B9)) & M
        k1 = (k1 + np.uint64(0xBB67AE85)) & M
    return np.stack([x0, x1, x2, x3], -1).astype(np.uint32)

def normals(w):
    u = (w[..., 0::2] + 1.0) * 2.0**-32
    a = w[..., 1::2] * (2 * np.pi * 2.0**-32)
    r = np.sqrt(-2 * np.log(u))
    return np.stack([r * np.cos(a), r * np.sin(a)], -1).reshape(w.shape).astype(np.float32)

rng = np.random.default_rng(1)
rows = [(0, 0, 0, 0, 0), (2**64 - 1, 2**32 - 1, 255, 2**24 - 1, 2**64 - 1)]
rows += [(0, b, 0, 0, 0) for b in range(1, 9)]
rows += [(0, 0, tag, 0, 17) for tag in range(1, 8)]
rows += [(1 << i, 0, 0, 0, 0) for i in (0, 31, 32, 63)] + [(0, 0, 0, 0, 1 << i) for i in (0, 31, 32, 63)]
for _ in range(103):
    s, i = rng.integers(0, 2**64, 2, dtype=np.uint64)
    rows.append((int(s), int(rng.integers(2**32)), int(rng.integers(256)), int(rng.integers(2**24)), int(i)))
c = np.array([[b, t << 24 | st, i & 0xFFFFFFFF, i >> 32] for _, b, t, st, i in rows], dtype=np.uint64)
k = np.array([[s & 0xFFFFFFFF, s >> 32] for s, _, _, _, _ in rows], dtype=np.uint64)
w = philox(c, k)
n = normals(w).view(np.uint32)
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "philox.txt"), "w") as f:
    for row, words, bits in zip(rows, w, n):
        print(*("%x" % v for v in row), *("%08x" % v for v in words), *("%08x" % v for v in bits), file=f)
