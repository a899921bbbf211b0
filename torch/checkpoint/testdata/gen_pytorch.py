"""Writes the PyTorch files that pytorch_test.go reads, each beside the same tensors as safetensors
(NAME.want.safetensors).

Needs: pip install torch==2.11.0 safetensors numpy
Usage: python gen_pytorch.py [--out pytorch]
"""
import argparse
import collections
import os
import pickle

import torch
from safetensors.torch import save_file


def flat(prefix, v, out):
    if isinstance(v, torch.Tensor):
        out[prefix] = v.detach().contiguous().clone()
    elif isinstance(v, dict):
        for k, x in v.items():
            flat(f"{prefix}.{k}" if prefix else str(k), x, out)
    elif isinstance(v, (list, tuple)):
        for k, x in enumerate(v):
            flat(f"{prefix}.{k}" if prefix else str(k), x, out)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--out", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "pytorch"))
    out = p.parse_args().out
    os.makedirs(out, exist_ok=True)
    torch.manual_seed(0)
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
              torch.int8, torch.uint8]
    every = collections.OrderedDict((str(d).split(".")[1], (torch.arange(6) * 37 % 101).reshape(2, 3).to(d))
                                    for d in dtypes)
    every["bool"] = torch.tensor([True, False, True])
    every["complex"] = torch.tensor([1 + 2j, -3j])
    every["scalar"] = torch.tensor(1.5)
    every["empty"] = torch.zeros(2, 0)
    newer = dict(u16=torch.tensor([1, 65535], dtype=torch.uint16), f8=torch.tensor([1.0, -2.0]).to(torch.float8_e4m3fn))
    views = dict(all=base, transposed=base.permute(2, 0, 1), row=base[1], column=base[:, 2, 3],
                 every_other=base[::2, :, ::2], expanded=base[0, 0, :1].expand(3, 4), tied=base,
                 tail=base.reshape(-1)[50:])
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2, bias=False))
    opt = torch.optim.AdamW(module.parameters(), lr=1e-4, weight_decay=0)
    for _ in range(2):
        module(torch.randn(5, 3)).square().sum().backward()
        opt.step()
    args = argparse.Namespace(model="DiT-S/2", image_size=256, num_classes=10, vae="ema", epochs=1400, ratio=0.5,
                              flag=True, nothing=None)
    training = {"model": module.state_dict(), "ema": {k: v * 0.5 for k, v in module.state_dict().items()},
                "opt": opt.state_dict(), "args": args}
    cases = {
        "every_dtype": every, "newer": newer, "views": views, "training": training, "module": module.state_dict(),
        "parameter": {"p": torch.nn.Parameter(torch.ones(2)), "list": [torch.zeros(1), {"x": torch.ones(1)}],
                      "steps": 12},
    }
    for name, obj in cases.items():
        torch.save(obj, os.path.join(out, name + ".pt"))
        if name != "newer":
            torch.save(obj, os.path.join(out, name + ".legacy.pt"), _use_new_zipfile_serialization=False)
        want = {}
        flat("", obj, want)
        save_file(want, os.path.join(out, name + ".want.safetensors"))
    torch.save(cases["training"], os.path.join(out, "training.protocol4.pt"), pickle_protocol=4)


main()
