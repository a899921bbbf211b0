"""Converts checkpoints with ditrun there and back, and opens the results with the programs that they are for.

Needs: pip install torch==2.11.0 torchvision==0.26.0 timm==0.9.16 diffusers==0.35.2 huggingface_hub==0.36.0 safetensors
       numpy
       git clone https://github.com/facebookresearch/DiT; a built ditrun; a VAE folder (the one of the tests will do)
Usage: python check_conversions.py --dit-src DIR --ditrun ../../bin/ditrun --vae ../../vae/testdata/tiny
       [--model DiT-S/2] [--work DIR]

torch.save writes a model of the original with random weights in the three forms that users have (plain state dict,
training checkpoint with argparse.Namespace and optimizer, the format before torch 1.6). Then:
  each form      -> official .pt: opened by the original's strict loading, weights_only=True; byte-equal
  -> diffusers   -> DiTPipeline.from_pretrained; one forward pass, with the original's timestep frequencies, against
                 the original
  -> diffusers   -> ditrun -> official .pt: byte-equal except pos_embed
  diffusers' save_pretrained of that pipeline -> official .pt: byte-equal except pos_embed
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile

import torch


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--dit-src", required=True)
    p.add_argument("--ditrun", required=True)
    p.add_argument("--vae", required=True)
    p.add_argument("--model", default="DiT-S/2")
    p.add_argument("--work", default=None)
    a = p.parse_args()
    sys.path.insert(0, a.dit_src)
    import models
    from diffusers import DiTPipeline

    from goldens import Rand, fill, rel

    work = a.work or tempfile.mkdtemp()
    os.makedirs(work, exist_ok=True)
    failed = []

    def check(what, ok, detail=""):
        print(("ok    " if ok else "FAIL  ") + what, detail)
        if not ok:
            failed.append(what)

    def convert(source, to, out, *more):
        out = os.path.join(work, out)
        shutil.rmtree(out, ignore_errors=True)
        subprocess.run([a.ditrun, "convert", "--quiet", "--ckpt", source, "--to", to, "--out", out, *more], check=True)
        return out

    model = models.DiT_models[a.model](input_size=32).eval()
    fill(model, "check_conversions")
    torch.nn.init.normal_(model.pos_embed, std=0.5)  # drifted, as that of an average is
    state = model.state_dict()

    def same(path, but=()):
        got = torch.load(path, weights_only=True)
        twin = models.DiT_models[a.model](input_size=32)
        twin.load_state_dict(got, strict=True)
        return list(got) == list(state) and all(k in but or got[k].dtype == state[k].dtype
                                                and torch.equal(got[k], state[k]) for k in state)

    plain = os.path.join(work, "plain.pt")
    torch.save(state, plain)
    training = os.path.join(work, "0000002.pt")
    opt = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0)
    raw = {k: v.clone() for k, v in state.items()}
    raw["x_embedder.proj.bias"] += 1
    torch.save({"model": raw, "ema": state, "opt": opt.state_dict(),
                "args": argparse.Namespace(model=a.model, image_size=256, num_classes=1000, vae="ema")}, training)
    legacy = os.path.join(work, "legacy.pt")
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    for source in (plain, training, legacy):
        out = convert(source, "official", os.path.basename(source)[:-3] + "_again.pt")
        check(f"{os.path.basename(source)} -> official", same(out))

    folder = convert(plain, "diffusers", "pipeline", "--vae", a.vae)
    pipe = DiTPipeline.from_pretrained(folder)
    transformer = pipe.transformer.eval()
    r = Rand("check_conversions/inputs")
    x, t, y = r.normal(2, 4, 32, 32), torch.tensor([10, 700]), torch.tensor([3, 1000])
    with torch.no_grad():
        # The same function with the original's frequencies and computed positions: what is left is rounding.
        for m in transformer.modules():
            if hasattr(m, "downscale_freq_shift"):
                m.downscale_freq_shift = 0
        model.pos_embed.copy_(torch.from_numpy(models.get_2d_sincos_pos_embed(
            model.pos_embed.shape[-1], int(model.x_embedder.num_patches**0.5))).float()[None])
        d = rel(transformer(x, timestep=t, class_labels=y).sample, model(x, t, y))
    check("DiTPipeline.from_pretrained, forward beside the original", d < 1e-5,
          f"{d:.1e} of norm {float(model(x, t, y).norm()):.1f}")
    same_but = ("pos_embed",)
    state = {k: v for k, v in state.items()}
    back = convert(convert(folder, "ditrun", "back.safetensors"), "official", "back.pt")
    check("diffusers -> ditrun -> official", same(back, same_but))
    again = os.path.join(work, "saved_by_diffusers")
    shutil.rmtree(again, ignore_errors=True)
    pipe.save_pretrained(again)
    check("saved by diffusers -> official", same(convert(again, "official", "again.pt"), same_but))
    sys.exit(bool(failed))


main()
