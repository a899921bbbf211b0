"""Writes the golden files of package dit from the original DiT code.

Needs: pip install torch==2.11.0 torchvision==0.26.0 timm==0.9.16 safetensors numpy
       git clone https://github.com/facebookresearch/DiT
Usage: python gen_goldens_dit.py --dit-src DIR [--out ../../dit/testdata]

tiny.safetensors         weights of a tiny DiT under the official keys; config: its constructor arguments
tiny_golden.safetensors  for that model in eval mode:
  x t y out              forward
  w, grad.KEY, grad_x    gradients of sum(out * w)
  act.NAME               x_embedder (with pos_embed), t_freq (the 256 wide code), t_embedder, y_embedder, c,
                         blocks.I.attn, blocks.I.mlp, blocks.I (outputs), final_layer (before unpatchify)
  cfg.x cfg.t cfg.y      input of forward_with_cfg, scale config.cfg_scale; halves of cfg.x differ, the second is to be
                         ignored
  cfg.out cfg.out_all    guidance on 3 channels (as released) and on all input channels
patch4, patch8, nosigma.safetensors: model.KEY, x t y out, w, grad.KEY; config.model: constructor arguments
embeddings.safetensors   pos_embed.D.G [G*G, D]; pos_embed.1152.16.rows for config.rows; t_freq [n, 256] for t
models.json              the twelve official models: parameter counts, [key, shape] in order; and, from a model of depth
                         1, what each tensor looks like after initialisation: {key: [standard deviation, largest
                         magnitude]}
config.f64: largest difference, relative to the tensor's largest magnitude, of this float32 run from one in float64.
"""
import argparse
import json
import os
import sys

import torch

from goldens import File, Rand, fill, rel, sig

TINY = dict(input_size=8, patch_size=2, in_channels=4, hidden_size=48, depth=2, num_heads=3, num_classes=10,
            learn_sigma=True)


def new_tiny(models, name, **config):
    """A model in eval mode with random weights everywhere (the official initialisation outputs 0)."""
    model = models.DiT(**config).eval()
    pos = model.pos_embed.detach().clone()
    fill(model, "dit/" + name)
    model.pos_embed.data.copy_(pos)
    return model


def double(models, model, config):
    """The same network in float64; the timestep code stays float32, as the original computes it whatever the weights
    are."""
    twin = models.DiT(**config).eval()
    twin.load_state_dict(model.state_dict())
    twin.double()
    twin.t_embedder.mlp.register_forward_pre_hook(lambda m, args: (args[0].double(),))
    return twin


def forward_backward(model, x, t, y, w):
    x = x.clone().requires_grad_()
    out = model(x, t, y)
    (out * w).sum().backward()
    return out.detach(), {k: p.grad for k, p in model.named_parameters() if p.grad is not None}, x.grad


def inputs(r, config, n):
    side, channels = config["input_size"], config["in_channels"]
    x = r.normal(n, channels, side, side)
    w = r.normal(n, channels * (2 if config["learn_sigma"] else 1), side, side)
    return x, w


def tiny(models, out):
    model = new_tiny(models, "tiny", **TINY)
    weights = File()
    weights.config = TINY
    for k, v in model.state_dict().items():
        weights.add(k, v)
    weights.save(os.path.join(out, "tiny.safetensors"))

    file, r = File(), Rand("dit/tiny_golden")
    x, w = inputs(r, TINY, 4)
    t, y = torch.tensor([0, 17, 500, 999]), torch.tensor([3, 10, 0, 9])  # 10 is the null class
    acts = {}

    def keep(name):
        return lambda m, args, result: acts.__setitem__(name, result.detach())

    model.t_embedder.mlp.register_forward_pre_hook(lambda m, args: acts.__setitem__("t_freq", args[0].detach()))
    model.t_embedder.register_forward_hook(keep("t_embedder"))
    model.y_embedder.register_forward_hook(keep("y_embedder"))
    model.blocks[0].register_forward_pre_hook(
        lambda m, args: acts.update({"x_embedder": args[0].detach(), "c": args[1].detach()}))
    for i, block in enumerate(model.blocks):
        block.attn.register_forward_hook(keep("blocks.%d.attn" % i))
        block.mlp.register_forward_hook(keep("blocks.%d.mlp" % i))
        block.register_forward_hook(keep("blocks.%d" % i))
    model.final_layer.register_forward_hook(keep("final_layer"))
    result, grads, grad_x = forward_backward(model, x, t, y, w)
    for k, v in dict(x=x, t=t, y=y, w=w, out=result, grad_x=grad_x).items():
        file.add(k, v)
    for k, v in list(acts.items()):
        file.add("act." + k, v)
    for k, v in grads.items():
        file.add("grad." + k, v)

    result64, grads64, grad_x64 = forward_backward(double(models, model, TINY), x.double(), t, y, w.double())
    file.config = {"model": TINY, "f64": {
        "out": sig(rel(result, result64)), "grad": sig(max(rel(v, grads64[k]) for k, v in grads.items())),
        "grad_x": sig(rel(grad_x, grad_x64))}}

    scale, channels = 4.0, TINY["in_channels"]
    cx, _ = inputs(r, TINY, 4)
    ct, cy = torch.tensor([250, 31, 250, 31]), torch.tensor([2, 7, 10, 10])
    with torch.no_grad():
        guided = model.forward_with_cfg(cx, ct, cy, scale)
        plain = model(torch.cat([cx[:2], cx[:2]]), ct, cy)
        eps, rest = plain[:, :channels], plain[:, channels:]
        cond, uncond = eps.chunk(2)
        half = uncond + scale * (cond - uncond)
        everything = torch.cat([torch.cat([half, half]), rest], 1)
        twin = double(models, model, TINY)
        guided64 = twin.forward_with_cfg(cx.double(), ct, cy, scale)
    for k, v in {"cfg.x": cx, "cfg.t": ct, "cfg.y": cy, "cfg.out": guided, "cfg.out_all": everything}.items():
        file.add(k, v)
    file.config["cfg_scale"] = scale
    file.config["f64"]["cfg.out"] = sig(rel(guided, guided64))
    file.save(os.path.join(out, "tiny_golden.safetensors"))
    print("float32 against float64:", file.config["f64"])


def variant(models, out, name, **config):
    model = new_tiny(models, name, **config)
    file, r = File(), Rand("dit/" + name)
    x, w = inputs(r, config, 2)
    t, y = torch.tensor([5, 800]), torch.tensor([1, 9])
    result, grads, _ = forward_backward(model, x, t, y, w)
    result64, grads64, _ = forward_backward(double(models, model, config), x.double(), t, y, w.double())
    for k, v in model.state_dict().items():
        file.add("model." + k, v)
    for k, v in dict(x=x, t=t, y=y, w=w, out=result).items():
        file.add(k, v)
    for k, v in grads.items():
        file.add("grad." + k, v)
    file.config = {"model": config, "f64": {"out": sig(rel(result, result64)),
                                            "grad": sig(max(rel(v, grads64[k]) for k, v in grads.items()))}}
    file.save(os.path.join(out, name + ".safetensors"))
    print("float32 against float64:", file.config["f64"])


def embeddings(models, out):
    file = File()
    for d, g in ((48, 4), (48, 8), (24, 3)):
        file.add("pos_embed.%d.%d" % (d, g), torch.from_numpy(models.get_2d_sincos_pos_embed(d, g)).float())
    rows = [0, 1, 2, 16, 17, 255]
    file.add("pos_embed.1152.16.rows", torch.from_numpy(models.get_2d_sincos_pos_embed(1152, 16)).float()[rows])
    t = torch.tensor([0.0, 0.5, 1.0, 10.0, 250.0, 500.0, 999.0])
    file.add("t", t)
    file.add("t_freq", models.TimestepEmbedder.timestep_embedding(t, 256))
    file.config = {"rows": rows}
    file.save(os.path.join(out, "embeddings.safetensors"))


def official(models, path):
    result = {}
    sizes = [(name, 32) for name in models.DiT_models] + [("DiT-XL/2", 64)]
    for name, side in sizes:
        with torch.device("meta"):
            model = models.DiT_models[name](input_size=side)
        entry = {
            "params": sum(p.numel() for p in model.parameters()),
            "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "keys": [[k, list(v.shape)] for k, v in model.state_dict().items()],
        }
        if side == 32:
            torch.manual_seed(0)
            shallow = models.DiT(
                depth=1, hidden_size=model.pos_embed.shape[-1], patch_size=model.patch_size, num_heads=model.num_heads)
            entry["init_depth1"] = {
                k: [float("%.6g" % v.double().std(correction=0)), float("%.6g" % v.abs().max())]
                for k, v in shallow.state_dict().items()}
        result[name if side == 32 else name + "@%d" % (8 * side)] = entry
    with open(path, "w") as f:
        f.write("{\n" + ",\n".join(json.dumps(k) + ": " + json.dumps(v, separators=(",", ":"))
                                   for k, v in result.items()) + "\n}\n")
    print("%s: %d bytes" % (path, os.path.getsize(path)))


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser()
    parser.add_argument("--dit-src", required=True, help="checkout of github.com/facebookresearch/DiT")
    parser.add_argument("--out", default=os.path.join(here, "..", "..", "dit", "testdata"))
    args = parser.parse_args()
    sys.path.insert(0, args.dit_src)
    import models
    tiny(models, args.out)
    small = dict(input_size=16, in_channels=4, hidden_size=24, depth=1, num_heads=2, num_classes=10)
    variant(models, args.out, "patch4", patch_size=4, learn_sigma=True, **small)
    variant(models, args.out, "patch8", patch_size=8, learn_sigma=True, **small)
    variant(models, args.out, "nosigma", patch_size=4, learn_sigma=False, class_dropout_prob=0.0, **small)
    embeddings(models, args.out)
    official(models, os.path.join(args.out, "models.json"))


if __name__ == "__main__":
    main()
