"""Writes the goldens of guidance beyond the scale from their originals.

Needs: pip install torch==2.11.0 diffusers==0.42.1 safetensors numpy
Usage: python gen_goldens_guidance.py [--out ../../dit/testdata]

guidance.safetensors  strong, weak: answers of two networks [3, 4, 6, 5]
                      rescale.SCALE.FACTOR: diffusers' guidance on all channels, and then its rescale_noise_cfg
                      autoguidance.SCALE: EDM2's denoise (generate_images.py), which interpolates from the weak network
                      with torch.lerp, of data or of what the network predicts alike

config.scales, config.factors: what SCALE and FACTOR go through
"""
import argparse
import os

import torch

from goldens import File

SCALES, FACTORS = (1.5, 4.0), (0.3, 0.7, 1.0)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    p = argparse.ArgumentParser()
    p.add_argument("--out", default=os.path.join(here, "../../dit/testdata"))
    a = p.parse_args()
    from diffusers.guiders.guider_utils import rescale_noise_cfg
    torch.manual_seed(0)
    strong, weak = torch.randn(3, 4, 6, 5) * torch.tensor([1, 2, 0.5]).view(3, 1, 1, 1) + 0.3, torch.randn(3, 4, 6, 5)
    file = File()
    file.add("strong", strong)
    file.add("weak", weak)
    for scale in SCALES:
        guided = weak + scale * (strong - weak)
        for factor in FACTORS:
            file.add("rescale.%g.%g" % (scale, factor), rescale_noise_cfg(guided, strong, guidance_rescale=factor))
        file.add("autoguidance.%g" % scale, weak.lerp(strong, scale))
    file.config = {"scales": SCALES, "factors": FACTORS}
    file.save(os.path.join(a.out, "guidance.safetensors"))


main()
