"""Compares `ditrun eval` with pytorch-fid, torch-fidelity and ADM's formulas on three sets of features.

Needs: pip install torch==2.11.0 torchvision==0.26.0 pytorch-fid==0.3.0 torch-fidelity==0.4.0 scipy==1.17.1 numpy
Usage: python check_metrics.py --ditrun ../../bin/ditrun [--dir /tmp/check-metrics]

The sets: more pictures than features; fewer; and one whose covariance is singular since half of the features repeat
the others. Prints a table and exits with 1 where a number is further than 1e-3 from the original's (relative).
"""
import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np
from pytorch_fid.fid_score import calculate_frechet_distance

import adm_metrics


def features(seed, n, d, shift=0.0):
    """Like those of Inception: not negative, correlated, of falling variances."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(1).standard_normal((256, d)) * np.exp(-np.arange(256) / 64)[:, None] / 8
    x = rng.standard_normal((n, 256)) @ mix + 0.1 * rng.standard_normal((n, d))
    return np.maximum(x + 0.3 + shift, 0).astype(np.float32)


def statistics(x):
    x = x.astype(np.float64)
    return x.mean(0), np.cov(x, rowvar=False)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--ditrun", required=True)
    p.add_argument("--dir", default="/tmp/check-metrics")
    p.add_argument("--features", type=int, default=2048, help="of a picture; fewer take less time")
    a = p.parse_args()
    os.makedirs(a.dir, exist_ok=True)
    worst = 0.0
    print("%-34s %-10s %-14s %-14s %s" % ("set", "number", "original", "ditrun", "relative"))
    d, few = a.features, min(2000, a.features - a.features // 40)
    for name, n, singular in (("2,500 pictures", 2500, False), ("%d pictures (N < D)" % few, few, False),
                              ("2,500 pictures, singular", 2500, True)):
        x, y = features(10, n, d, shift=0.02), features(11, n, d)
        if singular:
            x[:, d // 2:], y[:, d // 2:] = x[:, :d // 2], y[:, :d // 2]
        paths = [os.path.join(a.dir, f) for f in ("x.npy", "y.npy", "ref.npz")]
        np.save(paths[0], x)
        np.save(paths[1], y)
        (m1, s1), (m2, s2) = statistics(x), statistics(y)
        np.savez(paths[2], mu=m2, sigma=s2)
        began = time.time()
        want = {"fd": float(calculate_frechet_distance(m1, s1, m2, s2)), "fd of mu, sigma": None,
                "fd, exact": adm_metrics.exact_fid(x, y)}
        seconds = time.time() - began
        want["fd of mu, sigma"] = want["fd"]
        want["precision"], want["recall"] = adm_metrics.precision_recall(y, x)
        began = time.time()
        run = lambda *args: json.loads(subprocess.check_output([a.ditrun, "eval", "--json", "--quiet", *args]))
        card = run("--samples", paths[0], "--ref", paths[1], "--metrics", "fd,precision,recall")
        ours = time.time() - began
        other = run("--samples", paths[0], "--ref", paths[2], "--metrics", "fd")
        got = {"fd": card["fd"], "fd, exact": card["fd"], "fd of mu, sigma": other["fd"],
               "precision": card["precision"], "recall": card["recall"]}
        for key in want:
            e = abs(got[key] - want[key]) / abs(want[key])
            worst = max(worst, e)
            print("%-34s %-16s %-14.8g %-14.8g %.1e" % (name, key, want[key], got[key], e))
        print("%-34s seconds: originals' two distances %.1f, ditrun's command %.1f" % (name, seconds, ours), flush=True)
    sys.exit(worst > 1e-3)


main()
