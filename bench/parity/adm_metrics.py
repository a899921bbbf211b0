"""The formulas of ADM's evaluations (openai/guided-diffusion, evaluations/evaluator.py) in NumPy, written anew."""
import numpy as np
import scipy.linalg


def fid(mu1, sigma1, mu2, sigma2, eps=1e-6):
    """As evaluator.py does it, with scipy's square root of the product."""
    root = scipy.linalg.sqrtm(sigma1.dot(sigma2))
    if not np.isfinite(root).all():
        offset = np.eye(len(sigma1)) * eps
        root = scipy.linalg.sqrtm((sigma1 + offset).dot(sigma2 + offset))
    if np.iscomplexobj(root):
        if not np.allclose(np.diagonal(root).imag, 0, atol=1e-3):
            raise ValueError("imaginary component %g" % np.max(np.abs(root.imag)))
        root = root.real
    diff = mu1 - mu2
    return float(diff.dot(diff) + np.trace(sigma1) + np.trace(sigma2) - 2 * np.trace(root))


def exact_fid(x, y):
    """From the features: the trace of the root is the sum of the singular values of X Y^T, X and Y centred."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    diff = x.mean(0) - y.mean(0)
    cx, cy = ((v - v.mean(0)) / np.sqrt(len(v) - 1) for v in (x, y))
    root = np.linalg.svd(cx @ cy.T, compute_uv=False).sum()
    return float(diff @ diff + (cx**2).sum() + (cy**2).sum() - 2 * root)


def inception_score(probabilities, split=5000):
    scores = []
    for i in range(0, len(probabilities), split):
        p = probabilities[i:i + split].astype(np.float64)
        kl = p * (np.log(np.maximum(p, 1e-300)) - np.log(np.maximum(p.mean(0, keepdims=True), 1e-300)))
        scores.append(np.exp(kl.sum(1).mean()))
    return float(np.mean(scores))


def squared_distances(u, v, dtype):
    u, v = u.astype(dtype), v.astype(dtype)
    d = (u * u).sum(1)[:, None] - 2 * (u @ v.T) + (v * v).sum(1)[None]
    return np.maximum(d.astype(np.float32 if dtype != np.float64 else dtype), 0)


def precision_recall(reference, samples, dtype=np.float32, k=3):
    """Of the samples: dtype is that of the distances, float16 on ADM's GPUs."""
    def radii(x):
        return np.partition(squared_distances(x, x, dtype), k, axis=1)[:, k]
    r_ref, r_samples = radii(reference), radii(samples)
    d = squared_distances(samples, reference, dtype)
    return float((d <= r_ref[None]).any(1).mean()), float((d <= r_samples[:, None]).any(0).mean())
