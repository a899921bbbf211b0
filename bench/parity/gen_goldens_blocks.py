"""Writes dit/testdata/blocks.safetensors: the paper's four blocks under each condition, from a plain composition of
PyTorch.

The authors released only adaLN-Zero. This script follows the text of the paper (section 3.2, figure 3) and the
additions of docs/blocks.md in the simplest way: one sample at a time, attention as softmax of a product, padding of
captions cut off instead of masked, no module shared with the program under test.

Needs: pip install torch==2.11.0 safetensors numpy
Usage: python gen_goldens_blocks.py [--out ../../dit/testdata]

x t y text lengths w      the inputs of all models, as far as they take them, and the weights w of the loss
                          sum(out * w)
BLOCK/CONDITION.out       computed in float64, but for the timestep code, which is float32 by definition
BLOCK/CONDITION.grad.KEY  of the loss
config                    model: sizes; keys: [name, shape] of each model in the order of its state dict. Weights are
                          those of philox_weights.py by that index, weights of norms around 1; pos_embed, index 0, is
                          computed
"""
import argparse
import math
import os

import torch
from torch import nn
from torch.nn import functional as F

from goldens import File, Rand
from philox_weights import weights

SIZES = dict(input_size=4, input_width=6, patch_size=2, in_channels=2, hidden_size=8, depth=2, num_heads=2,
             num_classes=3, learn_sigma=True)
TEXT = dict(text_width=6, text_length=5)
BLOCKS = ("in-context", "cross-attention", "adaln", "adaln-zero")
CONDITIONS = ("class", "text", "text+class", "none")


def softmax_attention(q, k, v, heads):
    """q [T, D], k and v [S, D]: heads are slices of the channels."""
    size = q.shape[1] // heads
    out = []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        scores = torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(size), dim=1)
        out.append(scores @ v[:, part])
    return torch.cat(out, 1)


class SelfAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = self.qkv(x).split(x.shape[1], dim=1)
        return self.proj(softmax_attention(q, k, v, self.heads))


class CrossAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.q, self.kv, self.proj = (
            heads, nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim))

    def forward(self, x, context):
        k, v = self.kv(context).split(x.shape[1], dim=1)
        return self.proj(softmax_attention(self.q(x), k, v, self.heads))


class MLP(nn.Module):
    def __init__(self, before, hidden, after):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(before, hidden), nn.Linear(hidden, after)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Modulation(nn.Sequential):
    def __init__(self, dim, parts):
        super().__init__(nn.SiLU(), nn.Linear(dim, parts * dim))


def norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class InContextBlock(nn.Module):
    def __init__(self, dim, heads, text):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, eps=1e-6), SelfAttention(dim, heads)
        self.norm2, self.mlp = nn.LayerNorm(dim, eps=1e-6), MLP(dim, 4 * dim, dim)

    def forward(self, x, vectors, caption):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class CrossAttentionBlock(nn.Module):
    def __init__(self, dim, heads, text):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, eps=1e-6), SelfAttention(dim, heads)
        self.norm2, self.cross_attn = nn.LayerNorm(dim, eps=1e-6), CrossAttention(dim, heads)
        self.norm3, self.mlp = nn.LayerNorm(dim, eps=1e-6), MLP(dim, 4 * dim, dim)

    def forward(self, x, vectors, caption):
        context = vectors if caption is None else torch.cat([vectors, caption])
        x = x + self.attn(self.norm1(x))
        x = x + self.cross_attn(self.norm2(x), context)
        return x + self.mlp(self.norm3(x))


class AdaLNBlock(nn.Module):
    def __init__(self, dim, heads, text, gates=False):
        super().__init__()
        self.attn = SelfAttention(dim, heads)
        if text:
            self.cross_attn = CrossAttention(dim, heads)
        self.mlp = MLP(dim, 4 * dim, dim)
        self.gates, self.adaLN_modulation = gates, Modulation(dim, 6 if gates else 4)

    def forward(self, x, vectors, caption):
        parts = self.adaLN_modulation(vectors.sum(0)).chunk(6 if self.gates else 4)
        if self.gates:
            shift1, scale1, gate1, shift2, scale2, gate2 = parts
        else:
            (shift1, scale1, shift2, scale2), gate1, gate2 = parts, 1, 1
        x = x + gate1 * self.attn(norm(x) * (1 + scale1) + shift1)
        if caption is not None:
            x = x + self.cross_attn(x, caption)
        return x + gate2 * self.mlp(norm(x) * (1 + scale2) + shift2)


class AdaLNZeroBlock(AdaLNBlock):
    def __init__(self, dim, heads, text):
        super().__init__(dim, heads, text, gates=True)


class PlainFinal(nn.Module):
    def __init__(self, dim, out):
        super().__init__()
        self.norm_final, self.linear = nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, out)

    def forward(self, x, vectors):
        return self.linear(self.norm_final(x))


class AdaptiveFinal(nn.Module):
    def __init__(self, dim, out):
        super().__init__()
        self.linear, self.adaLN_modulation = nn.Linear(dim, out), Modulation(dim, 2)

    def forward(self, x, vectors):
        shift, scale = self.adaLN_modulation(vectors.sum(0)).chunk(2)
        return self.linear(norm(x) * (1 + scale) + shift)


class Child(nn.Module):
    """Gives a module the name that it has in the published checkpoints."""

    def __init__(self, **children):
        super().__init__()
        for name, module in children.items():
            self.add_module(name, module)


class Model(nn.Module):
    def __init__(self, block, condition):
        super().__init__()
        d, p, c = SIZES["hidden_size"], SIZES["patch_size"], SIZES["in_channels"]
        text = "text" in condition
        self.rows, self.cols, self.patch, self.in_context = (
            SIZES["input_size"] // p, SIZES["input_width"] // p, p, block == "in-context")
        self.pos_embed = nn.Parameter(positions(d, self.rows, self.cols), requires_grad=False)
        self.x_embedder = Child(proj=nn.Conv2d(c, d, p, p))
        self.t_embedder = Child(mlp=nn.Sequential(nn.Linear(256, d), nn.SiLU(), nn.Linear(d, d)))
        if "class" in condition:
            self.y_embedder = Child(embedding_table=nn.Embedding(SIZES["num_classes"] + 1, d))
        if text:
            self.text_embedder = MLP(TEXT["text_width"], d, d)
        kind = {"in-context": InContextBlock, "cross-attention": CrossAttentionBlock, "adaln": AdaLNBlock,
                "adaln-zero": AdaLNZeroBlock}[block]
        self.blocks = nn.ModuleList(kind(d, SIZES["num_heads"], text) for _ in range(SIZES["depth"]))
        self.final_layer = (AdaptiveFinal if "adaln" in block else PlainFinal)(d, p * p * 2 * c)

    def one(self, x, t, y, text):
        """x [C, H, W], t and y numbers, text [length, W] without padding."""
        vectors = [self.t_embedder.mlp(timestep_code(t).to(x.dtype))]
        if hasattr(self, "y_embedder"):
            vectors.append(self.y_embedder.embedding_table.weight[y])
        vectors, caption = torch.stack(vectors), None
        if hasattr(self, "text_embedder"):
            caption = self.text_embedder(text)
        tokens = self.x_embedder.proj(x[None])[0].flatten(1).T + self.pos_embed[0]
        count = len(tokens)
        if self.in_context:
            tokens = torch.cat([tokens, vectors] + ([] if caption is None else [caption]))
        for block in self.blocks:
            tokens = block(tokens, vectors, caption)
        out = self.final_layer(tokens[:count], vectors)
        patches = [token.reshape(self.patch, self.patch, -1).permute(2, 0, 1) for token in out]
        return torch.cat([torch.cat(patches[r * self.cols:(r + 1) * self.cols], 2) for r in range(self.rows)], 1)


def timestep_code(t):
    args = torch.tensor(float(t)) * torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
    return torch.cat([torch.cos(args), torch.sin(args)])


def positions(dim, rows, cols):
    quarter = dim // 4
    omega = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    code = lambda m: torch.cat([torch.sin(m * omega), torch.cos(m * omega)])
    return torch.stack([torch.cat([code(q), code(r)]) for r in range(rows) for q in range(cols)])[None].float()


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    p = argparse.ArgumentParser()
    p.add_argument("--out", default=os.path.join(here, "../../dit/testdata"))
    a = p.parse_args()
    r, f = Rand("dit/blocks"), File()
    n, channels, height, width = 3, SIZES["in_channels"], SIZES["input_size"], SIZES["input_width"]
    x, w = r.normal(n, channels, height, width), r.normal(n, 2 * channels, height, width)
    text = r.normal(n, TEXT["text_length"], TEXT["text_width"])
    # class 3 is the null class
    t, y, lengths = torch.tensor([0, 321, 999]), torch.tensor([2, 3, 0]), torch.tensor([5, 1, 3])
    for k, v in dict(x=x, t=t, y=y, text=text, lengths=lengths, w=w).items():
        f.add(k, v)
    f.config = {"model": {**SIZES, "mlp_ratio": 4, "class_dropout_prob": 0.1}, "text": TEXT, "keys": {}}
    for block in BLOCKS:
        for condition in CONDITIONS:
            name = block + "/" + condition
            model = Model(block, condition)
            with torch.no_grad():
                for i, (key, v) in enumerate(model.state_dict().items()):
                    if key != "pos_embed":
                        centre = 1.0 if "norm" in key and key.endswith("weight") else 0.0
                        v.copy_(torch.from_numpy(weights(i, tuple(v.shape), centre)))
            f.config["keys"][name] = [[k, list(v.shape)] for k, v in model.state_dict().items()]
            model.double()
            out = torch.stack([model.one(x[i].double(), t[i], y[i], text[i, :lengths[i]].double()) for i in range(n)])
            (out * w).sum().backward()
            f.add(name + ".out", out.float())
            for key, v in model.named_parameters():
                if v.requires_grad:
                    f.add(name + ".grad." + key, v.grad.float())
            print("%-28s %3d tensors, output %.3g" % (name, len(f.config["keys"][name]), out.norm()))
    f.save(os.path.join(a.out, "blocks.safetensors"))


if __name__ == "__main__":
    main()
