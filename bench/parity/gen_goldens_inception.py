"""Writes the golden file of diffusion/metrics/inception from pytorch-fid's InceptionV3 and torch-fidelity's resize.

Needs: pip install torch==2.11.0 torchvision==0.26.0 pytorch-fid==0.3.0 torch-fidelity==0.4.0 safetensors numpy scipy
Usage: python gen_goldens_inception.py [--out ../../diffusion/metrics/inception/testdata]

The 23.9 million weights are those of philox_weights.py by their index in the state dict (num_batches_tracked left out),
convolutions twice as large, weights and variances of norms around 1.
Computed in float64 and stored as float32, so that they are the same on every machine.
PICTURES.tf, PICTURES.torch  both resizes of the pictures small [2, 3, 40, 56] and large [1, 3, 333, 310] (tensors 1000
                       and 1001 of philox_weights as levels): every 13th row and column, as levels
act.NAME               every STRIDE-th number of the output of a part of the network for the pictures small, prepared as
                       pytorch-fid does; norm.NAME its norm
pool                   the last pool, the features of FID
spatial                the features of sFID
probabilities          softmax without bias
config: stride, and f32: how far pytorch-fid in float32 is from these (relative norm) on the machine that made them
"""
import argparse
import os

import numpy as np
import torch
from pytorch_fid import inception
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from goldens import File, sig
from philox_weights import scale, weights

STRIDE = 997
PARTS = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "Mixed_5b", "Mixed_5c",
         "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c"]


def state(model):
    out, i = {}, 0
    for key, v in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            out[key] = v
            continue
        around_one = key.endswith("bn.weight") or key.endswith("running_var")
        w = weights(i, tuple(v.shape), centre=1.0 if around_one else 0.0)
        out[key] = torch.from_numpy(w * np.float32(2) if v.ndim == 4 else w)
        i += 1
    return out


def pictures(index, shape):
    u = weights(index, shape) / np.float32(scale(shape))
    return torch.from_numpy((u * np.float32(256) + np.float32(128)).astype(np.uint8))


def build():
    """pytorch-fid's own builder with its own patches, and our weights for those it would fetch."""
    empty = inception._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    inception.load_state_dict_from_url = lambda *args, **kwargs: state(empty)
    return inception.fid_inception_v3().eval(), inception.InceptionV3((3,)).eval()


def run(dtype, x):
    net, wrapper = build()
    net, wrapper, acts = net.to(dtype), wrapper.to(dtype), {}
    # the wrapper holds the same modules of a network of its own: find them by the order in which they are called
    named = dict(net.named_modules())
    flat = [m for b in wrapper.blocks for m in b if not isinstance(m, (torch.nn.MaxPool2d, torch.nn.AdaptiveAvgPool2d))]
    assert len(flat) == len(PARTS) and all(type(named[n]) is type(m) for n, m in zip(PARTS, flat))
    for name, module in zip(PARTS, flat):
        module.register_forward_hook(lambda m, a, r, name=name: acts.__setitem__(name, r.detach()))
    flat[PARTS.index("Mixed_6d")].branch1x1.register_forward_hook(
        lambda m, a, r: acts.__setitem__("spatial", r.detach()[:, :7].permute(0, 2, 3, 1).reshape(len(r), -1)))
    with torch.no_grad():
        pool = wrapper(x.to(dtype) / 255)[0][:, :, 0, 0]
        acts["pool"] = pool
        acts["probabilities"] = torch.softmax(pool @ net.fc.weight.T, 1)
    return acts


def distance(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    p = argparse.ArgumentParser()
    p.add_argument("--out", default=os.path.join(here, "../../diffusion/metrics/inception/testdata"))
    out = p.parse_args().out
    torch.set_num_threads(2)
    f = File()
    f.config["stride"] = STRIDE
    for name, index, shape in (("small", 1000, (2, 3, 40, 56)), ("large", 1001, (1, 3, 333, 310))):
        x = pictures(index, shape).float()
        tf = interpolate_bilinear_2d_like_tensorflow1x(x, size=(299, 299), align_corners=False)
        th = torch.nn.functional.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
        f.add(name + ".tf", tf[:, :, ::13, ::13])
        f.add(name + ".torch", th[:, :, ::13, ::13])
    x = pictures(1000, (2, 3, 40, 56))
    exact, single = run(torch.float64, x), run(torch.float32, x)
    f.config["f32"] = {k: sig(distance(single[k], exact[k])) for k in exact}
    print(f.config["f32"])
    for name in PARTS:
        f.add("act." + name, exact[name].reshape(-1)[::STRIDE].float())
        f.add("norm." + name, exact[name].norm().float())
    f.add("pool", exact["pool"].float())
    f.add("spatial", exact["spatial"].float())
    f.add("probabilities", exact["probabilities"].float())
    print("pool", exact["pool"].std(0).mean().item(), exact["pool"].std(1).mean().item(), "probabilities",
          exact["probabilities"].max().item())
    f.save(os.path.join(out, "inception.safetensors"))


main()
