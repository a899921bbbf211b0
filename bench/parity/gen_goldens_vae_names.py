"""Writes vae/testdata/compvis_names.json: the name that diffusers gives to each tensor of a CompVis autoencoder.

Needs: pip install torch==2.11.0 diffusers==0.35.2 huggingface_hub==0.36.0
Usage: python gen_goldens_vae_names.py [--out ../../vae/testdata/compvis_names.json]

The CompVis names are those of latent-diffusion's kl-f8 (ldm/modules/diffusionmodules/model.py), listed below; the
new names are those of diffusers.loaders.single_file_utils.convert_ldm_vae_checkpoint.
"""
import argparse
import json
import os

import torch
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

LEVELS, LAYERS = 4, 2
SHORTCUTS = {"encoder.down.1.block.0", "encoder.down.2.block.0", "decoder.up.1.block.0", "decoder.up.0.block.0"}


def compvis_names():
    layers = ["quant_conv", "post_quant_conv"]
    for half, kind, blocks in (("encoder", "down", LAYERS), ("decoder", "up", LAYERS + 1)):
        layers += [f"{half}.conv_in", f"{half}.norm_out", f"{half}.conv_out"]
        for i in range(LEVELS):
            for j in range(blocks):
                b = f"{half}.{kind}.{i}.block.{j}"
                layers += ([f"{b}.{x}" for x in ("norm1", "conv1", "norm2", "conv2")]
                           + ([b + ".nin_shortcut"] if b in SHORTCUTS else []))
        layers += ([f"encoder.down.{i}.downsample.conv" for i in range(LEVELS - 1)] if half == "encoder"
                   else [f"decoder.up.{i}.upsample.conv" for i in range(1, LEVELS)])
        for b in ("block_1", "block_2"):
            layers += [f"{half}.mid.{b}.{x}" for x in ("norm1", "conv1", "norm2", "conv2")]
        layers += [f"{half}.mid.attn_1.{x}" for x in ("norm", "q", "k", "v", "proj_out")]
    return [f"{x}.{k}" for x in layers for k in ("weight", "bias")]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--out", default=os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                                 "../../vae/testdata/compvis_names.json"))
    out = p.parse_args().out
    names = compvis_names()
    # Each tensor holds its own number, so that the answer can be read off the values.
    source = {n: torch.full((1, 1, 1, 1) if ".attn_1." in n and n.endswith("weight") and "norm" not in n else (1,),
                            float(i)) for i, n in enumerate(names)}
    config = {"down_block_types": ["DownEncoderBlock2D"] * LEVELS, "up_block_types": ["UpDecoderBlock2D"] * LEVELS}
    converted = convert_ldm_vae_checkpoint(dict(source), config)
    pairs = {names[int(v.flatten()[0])]: k for k, v in converted.items()}
    assert len(pairs) == len(names) == 248, (len(pairs), len(names))
    with open(out, "w") as f:
        json.dump(pairs, f, indent=0, sort_keys=True)
        f.write("\n")


main()
