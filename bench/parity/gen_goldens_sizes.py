"""Writes dit/testdata/sizes.safetensors: the forward pass of the original at its twelve sizes.

Needs: pip install torch==2.11.0 torchvision==0.26.0 timm==0.9.16 safetensors numpy
       git clone https://github.com/facebookresearch/DiT
Usage: python gen_goldens_sizes.py --dit-src DIR [--out ../../dit/testdata]

x [2,4,32,32] t y        the input of all models
NAME.out                 the output of model NAME with the weights of philox_weights.py, by their index in the state
                         dict (pos_embed, index 0, is the model's own)
config.f64               distance of NAME's float32 run from float64, for the sizes S and B
"""
import argparse
import os
import sys

import torch

from goldens import File, Rand, rel
from philox_weights import weights


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    p = argparse.ArgumentParser()
    p.add_argument("--dit-src", required=True)
    p.add_argument("--out", default=os.path.join(here, "../../dit/testdata"))
    a = p.parse_args()
    sys.path.insert(0, a.dit_src)
    import models

    r = Rand("dit/sizes")
    x, t, y = r.normal(2, 4, 32, 32), torch.tensor([10, 700]), torch.tensor([3, 1000])
    f = File()
    f.add("x", x)
    f.add("t", t)
    f.add("y", y)
    f.config["f64"] = {}
    for size in ("S", "B", "L", "XL"):
        made = {}
        for patch in (8, 4, 2):
            name = f"DiT-{size}/{patch}"
            model = models.DiT_models[name](input_size=32).eval()
            with torch.no_grad():
                for i, (key, v) in enumerate(model.state_dict().items()):
                    if key == "pos_embed":
                        continue
                    if (i, v.shape) not in made:
                        made[i, v.shape] = torch.from_numpy(weights(i, tuple(v.shape)))
                    v.copy_(made[i, v.shape])
                out = model(x, t, y)
                f.add(name + ".out", out)
                note = ""
                if size in "SB":
                    twin = model.double()
                    twin.t_embedder.mlp.register_forward_pre_hook(lambda m, args: (args[0].double(),))
                    note = f.config["f64"][name] = rel(out, twin(x.double(), t, y))
            print(name, "norm", float(out.norm()), note, flush=True)
            del model
    f.save(os.path.join(a.out, "sizes.safetensors"))


main()
