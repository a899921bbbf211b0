"""Writes what package dit is compared with of diffusers' own DiT, whose arithmetic differs from the original's on two
points: timestep frequencies exp(-ln(10000) i/127), and epsilon 1e-5 in the norm before the MLP.

Needs: pip install torch==2.11.0 diffusers==0.35.2 safetensors numpy
Usage: python gen_goldens_diffusers_dit.py [--out ../../dit/testdata]

diffusers_tiny/                    a folder of save_pretrained; timestep and class embedders are the same in all blocks
diffusers_tiny_golden.safetensors  hidden_states timestep class_labels -> sample; config.f64: its distance from float64
"""
import argparse
import os

import torch
from diffusers import DiTTransformer2DModel

from goldens import File, Rand, fill, rel


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    p = argparse.ArgumentParser()
    p.add_argument("--out", default=os.path.join(here, "../../dit/testdata"))
    out = p.parse_args().out
    model = DiTTransformer2DModel(num_attention_heads=3, attention_head_dim=16, num_layers=2, sample_size=8,
                                  patch_size=2, in_channels=4, out_channels=8, num_embeds_ada_norm=10,
                                  activation_fn="gelu-approximate", norm_elementwise_affine=False,
                                  norm_type="ada_norm_zero").eval()
    fill(model, "dit/diffusers")
    first = model.transformer_blocks[0].norm1.emb.state_dict()
    for block in model.transformer_blocks:
        block.norm1.emb.load_state_dict(first)
    model.save_pretrained(os.path.join(out, "diffusers_tiny"))
    r = Rand("dit/diffusers/inputs")
    x, t, y = r.normal(3, 4, 8, 8), torch.tensor([0, 17, 999]), torch.tensor([3, 10, 0])
    with torch.no_grad():
        sample = model(x, timestep=t, class_labels=y).sample
        # The timestep code stays float32, as diffusers computes it whatever the weights are.
        f64 = model.double()(x.double(), timestep=t, class_labels=y).sample
    f = File()
    for name, v in dict(hidden_states=x, timestep=t, class_labels=y, sample=sample).items():
        f.add(name, v)
    f.config["f64"] = rel(sample, f64)
    f.save(os.path.join(out, "diffusers_tiny_golden.safetensors"))


main()
