"""Writes the golden files of package dit/text from transformers' CLIPTextModel.

Needs: pip install torch==2.11.0 transformers==4.57.6 safetensors numpy
Usage: python gen_goldens_text.py [--out ../../dit/text/testdata]

tiny/    text_encoder and tokenizer as diffusers has them: quick_gelu, model.safetensors, merges.txt and vocab.json of
         300 merges
whole/   a whole CLIPModel in one folder: gelu, pytorch_model.bin, tokenizer.json, padding with "!"
golden.safetensors    tiny.ids, tiny.states, whole.ids, whole.states for config.captions
vit_l14.safetensors   the true architecture with the weights of philox_weights.py (norms' weights around 1): every
                      seventh column of the states of config.captions, and their norm
config.f64: largest difference, relative to the tensor's largest magnitude, of this float32 run from one in float64.
"""
import argparse
import gzip
import json
import os
import shutil
import tempfile

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizerFast

from check_tokenizer import END, START, folders
from goldens import File, fill, rel, sig
from philox_weights import weights

CAPTIONS = ["", "a photo of a cat", "Sandals, studio picture!", "don\u2019t  \u65e5\u672c\u8a9e <|endoftext|> x",
            "it's the sandal " * 40]


def small_tokenizer(source, folder, merges, pad):
    vocab = json.load(open(os.path.join(source, "vocab.json"), encoding="utf-8"))
    names = sorted(vocab, key=vocab.get)[:512 + merges] + [START, END]
    lines = open(os.path.join(source, "merges.txt"), encoding="utf-8").read().split("\n")[:1 + merges]
    os.makedirs(folder, exist_ok=True)
    json.dump({s: i for i, s in enumerate(names)}, open(os.path.join(folder, "vocab.json"), "w", encoding="utf-8"),
              ensure_ascii=False)
    open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8").write("\n".join(lines) + "\n")
    json.dump({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": pad},
              open(os.path.join(folder, "tokenizer_config.json"), "w"), indent=1)
    return CLIPTokenizerFast.from_pretrained(folder)


def states(model, tokenizer, captions):
    ids = tokenizer(captions, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        out = model(input_ids=ids).last_hidden_state
        twin = type(model)(model.config).eval().double()
        twin.load_state_dict(model.state_dict())
        torch.set_default_dtype(torch.float64)  # the type of its mask
        double = twin(input_ids=ids).last_hidden_state
        torch.set_default_dtype(torch.float32)
        return ids, out, rel(out, double)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--out", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../dit/text/testdata"))
    a = p.parse_args()
    work = tempfile.mkdtemp()
    full = folders(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../dit/text/bpe/testdata/clip.txt.gz"),
                   work)["sd1"]
    golden, f64 = File(), {}

    tiny = os.path.join(a.out, "tiny")
    tokenizer = small_tokenizer(full, os.path.join(tiny, "tokenizer"), 300, END)
    common = dict(vocab_size=814, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=77,
                  projection_dim=8, bos_token_id=812, eos_token_id=813)
    model = CLIPTextModel(CLIPTextConfig(hidden_size=16, intermediate_size=40, hidden_act="quick_gelu",
                                         **common)).eval()
    fill(model, "text/tiny")
    model.save_pretrained(os.path.join(tiny, "text_encoder"))
    os.chmod(os.path.join(tiny, "text_encoder", "model.safetensors"), 0o644)
    ids, out, f64["tiny"] = states(model, tokenizer, CAPTIONS)
    golden.add("tiny.ids", ids)
    golden.add("tiny.states", out)

    whole = os.path.join(a.out, "whole")
    tokenizer = small_tokenizer(full, whole, 300, "!")
    tokenizer.save_pretrained(whole)
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        os.remove(os.path.join(whole, name))
    vision = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=4,
                  patch_size=2, projection_dim=8)
    clip = CLIPModel(CLIPConfig(text_config=dict(hidden_size=12, intermediate_size=20, hidden_act="gelu", **common),
                                vision_config=vision, projection_dim=8)).eval()
    fill(clip, "text/whole")
    clip.config.save_pretrained(whole)
    torch.save(clip.state_dict(), os.path.join(whole, "pytorch_model.bin"))
    text = CLIPTextModel(clip.config.text_config).eval()
    text.text_model.load_state_dict(clip.text_model.state_dict())
    ids, out, f64["whole"] = states(text, CLIPTokenizerFast.from_pretrained(whole), CAPTIONS)
    golden.add("whole.ids", ids)
    golden.add("whole.states", out)
    golden.config = dict(captions=CAPTIONS, f64={k: sig(v) for k, v in f64.items()})
    golden.save(os.path.join(a.out, "golden.safetensors"))

    model = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                                         num_attention_heads=12, projection_dim=768)).eval()
    with torch.no_grad():
        for i, (name, t) in enumerate(model.named_parameters()):
            t.copy_(torch.from_numpy(weights(i, tuple(t.shape),
                                             1.0 if "norm" in name and name.endswith("weight") else 0.0)))
    captions = ["a photo of an astronaut riding a horse on mars, golden hour, 50mm", CAPTIONS[3]]
    _, out, difference = states(model, CLIPTokenizerFast.from_pretrained(full), captions)
    real = File()
    real.add("states", out[..., ::7])
    real.add("norm", out.norm())
    real.config = dict(captions=captions, f64=sig(difference))
    real.save(os.path.join(a.out, "vit_l14.safetensors"))
    print("float64 differs by", golden.config["f64"], real.config["f64"])
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
