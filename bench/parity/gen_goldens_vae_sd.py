"""Writes vae/testdata/sd_real.safetensors: diffusers' AutoencoderKL at Stable Diffusion's configuration, 256-pixel
images.

Needs: pip install torch==2.11.0 diffusers==0.35.2 huggingface_hub==0.36.0 safetensors numpy
Usage: python gen_goldens_vae_sd.py [--out ../../vae/testdata]

The 83,653,863 weights are those of philox_weights.py by their index in the state dict, weights of norms around 1.
Computed in float64 and stored as float32, so that they are the same on every machine: in float32 the convolutions of
one processor differ from those of another by several 1e-6 here.
moments [1,8,32,32]    encode of tensor 1000 of philox_weights, [1,3,256,256] times 2
pixels                 decode of tensor 1001, [1,4,32,32] times 8: every 7th row and column
pixels_norm            norm of the whole picture
Printed: how far diffusers in float32 is from these on the machine at hand.
"""
import argparse
import os

import torch
from diffusers import AutoencoderKL

from goldens import File, rel
from philox_weights import scale, weights

torch.set_num_threads(2)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    p = argparse.ArgumentParser()
    p.add_argument("--out", default=os.path.join(here, "../../vae/testdata"))
    out = p.parse_args().out
    vae = AutoencoderKL(block_out_channels=[128, 256, 512, 512], down_block_types=["DownEncoderBlock2D"] * 4,
                        up_block_types=["UpDecoderBlock2D"] * 4, layers_per_block=2, latent_channels=4,
                        norm_num_groups=32, sample_size=256).eval()
    state = vae.state_dict()
    assert sum(v.numel() for v in state.values()) == 83_653_863
    with torch.no_grad():
        for i, (key, v) in enumerate(state.items()):
            norm = "norm" in key and key.endswith("weight")
            v.copy_(torch.from_numpy(weights(i, tuple(v.shape), centre=1.0 if norm else 0.0)))
        x = torch.from_numpy(weights(1000, (1, 3, 256, 256)) / scale((1, 3, 256, 256)) * 2)
        z = torch.from_numpy(weights(1001, (1, 4, 32, 32)) / scale((1, 4, 32, 32)) * 8)
        single = vae.encode(x).latent_dist.parameters, vae.decode(z).sample
        vae.double()
        moments, pixels = vae.encode(x.double()).latent_dist.parameters, vae.decode(z.double()).sample
    print("diffusers in float32: moments %.2g, pixels %.2g" % (rel(single[0], moments), rel(single[1], pixels)))
    f = File()
    f.add("moments", moments.float())
    f.add("pixels", pixels[:, :, ::7, ::7].float().contiguous())
    f.add("pixels_norm", pixels.norm().float())
    f.save(os.path.join(out, "sd_real.safetensors"))


main()
