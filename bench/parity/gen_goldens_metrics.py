"""Writes diffusion/metrics/testdata/metrics.json: what the originals say of small sets of features.

Needs: pip install torch==2.11.0 torchvision==0.26.0 pytorch-fid==0.3.0 torch-fidelity==0.4.0 scipy==1.17.1 numpy
Usage: python gen_goldens_metrics.py [--out ../../diffusion/metrics/testdata/metrics.json]

Features are not stored: those of set K, [N, D], are |u + v| + K / 16, where u is tensor K of philox_weights.py as
uniforms in [-1/2, 1/2) and v tensor K + 100, [N, D / 4], each of whose columns serves four neighbours.
For every case: fid by pytorch-fid's calculate_frechet_distance, precision and recall by adm_metrics.py in float64 and
the way that ADM computes them, kid by torch-fidelity's mmd2 of both sets as one subset, is of the rows of the first set
normalised to 1, in splits of 100.
"""
import argparse
import json
import os

import numpy as np
from pytorch_fid.fid_score import calculate_frechet_distance
from torch_fidelity.metric_kid import mmd2

import adm_metrics
from philox_weights import scale, weights


def uniforms(index, shape):
    return weights(index, shape) / np.float32(scale(shape))


def features(k, n, d):
    v = np.repeat(uniforms(k + 100, (n, d // 4)), 4, axis=1)
    return np.abs(uniforms(k, (n, d)) + v) + np.float32(k / 16)


def statistics(x):
    x = x.astype(np.float64)
    return np.mean(x, axis=0), np.cov(x, rowvar=False)


def kernel(x, y):
    return (x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1) ** 3


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    p = argparse.ArgumentParser()
    p.add_argument("--out", default=os.path.join(here, "../../diffusion/metrics/testdata/metrics.json"))
    out = p.parse_args().out
    cases = []
    for what, a, b, d, singular in (("more pictures than features", 400, 300, 64, False),
                                    ("fewer samples than features", 40, 300, 64, False),
                                    ("fewer of both", 40, 50, 64, False),
                                    ("singular covariances", 400, 300, 64, True)):
        x, y = features(1, a, d), features(2, b, d)
        if singular:  # the second half repeats the first
            x[:, d // 2:], y[:, d // 2:] = x[:, :d // 2], y[:, :d // 2]
        (m1, s1), (m2, s2) = statistics(x), statistics(y)
        case = {"name": what, "n": [a, b], "d": d, "singular": singular,
                "fid": float(calculate_frechet_distance(m1, s1, m2, s2)), "exact": adm_metrics.exact_fid(x, y)}
        case["precision"], case["recall"] = adm_metrics.precision_recall(y, x, np.float64)
        n = min(a, b)
        case["kid"] = float(mmd2(kernel(x[:n], x[:n]), kernel(x[:n], y[:n]), kernel(y[:n], y[:n])))
        probabilities = x / x.sum(1, keepdims=True)
        case["is"] = adm_metrics.inception_score(probabilities.astype(np.float32), 100)
        cases.append(case)
        print(case)
    os.makedirs(os.path.dirname(out), exist_ok=True)
    with open(out, "w") as f:
        json.dump(cases, f, indent=1)
        f.write("\n")


main()
