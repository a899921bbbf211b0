"""Compares the ids of package dit/text/bpe with those of transformers' CLIPTokenizerFast, and says where CLIPTokenizer
differs.

Needs: pip install transformers==4.57.6 tokenizers==0.22.2 ftfy==6.3.1, Go, and a list of merges:
       bpe_simple_vocab_16e6.txt.gz of OpenAI or open_clip, whose wheel on PyPI carries it (the tests have the lines of
       it that are used)
Usage: python check_tokenizer.py [--merges ../../dit/text/bpe/testdata/clip.txt.gz]
       [--golden ../../dit/text/bpe/testdata/golden.json]

From the merges it makes folders as transformers has them (Stable Diffusion 1: vocab.json and merges.txt, padding with
the end; Stable Diffusion 2: padding with "!"; tokenizer.json as save_pretrained writes it; flags of
added_tokens_decoder), and runs both programs on:
  every code point but surrogates, between a letter and a sign, and among marks that NFC sorts
  some 24,000 strings: words, captions, every script, emoji, control characters, ligatures, quotes, entities, special
  tokens in the text, marks, white space, long words
It prints the number of differences, which must be 0, and exits 1 otherwise. --golden writes 500 of the strings with
their ids and, for each 1024 code points from 0 on, a checksum of the ids, for the Go tests.
"""
import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import unicodedata
import zlib

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
HERE = os.path.dirname(os.path.abspath(__file__))
START, END = "<|startoftext|>", "<|endoftext|>"


def folders(merges_file, work):
    """Folders of one vocabulary that differ in their settings: name -> path."""
    lines = gzip.open(merges_file, "rt", encoding="utf-8").read().split("\n")[1:49152 - 256 - 2 + 1]
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    symbols = [chr(b) for b in keep] + [chr(256 + i) for i in range(68)]
    names = symbols + [s + "</w>" for s in symbols] + ["".join(l.split()) for l in lines] + [START, END]
    vocab = {s: i for i, s in enumerate(names)}
    assert len(vocab) == 49408

    def token(text, normalized=True):
        return {"content": text, "lstrip": False, "normalized": normalized, "rstrip": False, "single_word": False}

    def typed(text):
        return {"__type": "AddedToken", **token(text)}

    usual = {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True, "errors": "replace",
             "bos_token": typed(START), "eos_token": typed(END), "unk_token": typed(END), "pad_token": END}
    special = {"bos_token": token(START), "eos_token": token(END), "unk_token": token(END), "pad_token": END}
    added = {"49406": token(START, False), "49407": token(END, False)}
    out = {}
    for name, config, more in [
            ("sd1", usual, special), ("sd2", usual, {**special, "pad_token": "!"}), ("plain", None, None),
            ("decoder",
             {**usual, "added_tokens_decoder": added, "bos_token": START, "eos_token": END, "unk_token": END},
             {"pad_token": "!"})]:
        out[name] = os.path.join(work, name)
        os.makedirs(out[name])
        json.dump(vocab, open(os.path.join(out[name], "vocab.json"), "w", encoding="utf-8"), ensure_ascii=False)
        with open(os.path.join(out[name], "merges.txt"), "w", encoding="utf-8") as f:
            f.write("#version: 0.2\n" + "\n".join(lines) + "\n")
        if config:
            json.dump(config, open(os.path.join(out[name], "tokenizer_config.json"), "w"))
            json.dump(more, open(os.path.join(out[name], "special_tokens_map.json"), "w"))
    return out


def code_points():
    return [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def around(c):
    """A text that shows the class, the case, the normal form and the combining class of a character."""
    c = chr(c)
    return "a%s! %s q\u0316%s\u0327\u0301%s\u0345" % (c, c, c, c)


def strings():
    """Varied texts, always the same ones."""
    r = random.Random(7)
    words = ("a an the of photo painting cat dog golden retriever sandal sneaker city sunset "
             "don't it's I'll we've they're he'd I'm "
             "masterpiece 8k unreal-engine naïve café Straße Ærøskøbing façade jalapeño señor piñata smörgåsbord "
             "Zürich coöperate "
             "日本語 東京タワー 漢字 ひらがな 한국어 서울 русский Москва ΕΛΛΗΝΙΚΑ ελληνικός עברית العربية فارسی हिन्दी தமிழ் ไทย ქართული "
             "հայերեն አማርኛ ខ្មែរ བོད་སྐད İstanbul ISPARTA ığdır ΟΔΟΣ Σ ΣΑΣ ﬁne ﬂow ﬃ ﬅ "
             "“quotes” ‘single’ don’t it’s «guillemets» — – … • ™ © "
             "½ ² ³ ⅷ Ⅳ ① ٣٤٥ १२३ 3.14159 2019 1,000,000 $5.99 50% #tag @user "
             "http://example.com/a?b=c&d=e C++ F# x86_64 e.g. i.e. U.S.A. "
             "&amp; &lt;b&gt; &amp;lt; &#39; &quot; &nbsp; <b> </b> <br/> {json: 1} [x] (y) \\n "
             "'tis ''s 's 're '' ' ´ ` "
             "🙂 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 ❤️ 1️⃣ ☃ ♥ ① 𝒳 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𓂀 𒀀 Ǆ ǅ ǆ ẞ ß Ǻ ŉ ʼn K Å Ω").split(" ")
    words += [START, END, END.upper(), "<|StartOfText|>", "<|", "|>", "<|endoftext|", "<|endoftext|>s"]
    spaces = [" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000", "\u2028", "\u0085", "\u200b", "\ufeff",
              "\u200f", "\u202e", "\x1c", "\x1f", "\x0b"]
    blocks = [(a, b) for a, b in [
        (0x20, 0x7e), (0, 0xff), (0x100, 0x24f), (0x250, 0x2ff), (0x300, 0x36f), (0x370, 0x3ff), (0x400, 0x52f),
        (0x530, 0x58f), (0x590, 0x5ff), (0x600, 0x6ff), (0x700, 0x7ff), (0x800, 0x8ff), (0x900, 0x97f), (0x980, 0x9ff),
        (0xa00, 0xaff), (0xb00, 0xbff), (0xc00, 0xcff), (0xd00, 0xdff), (0xe00, 0xeff), (0xf00, 0xfff),
        (0x1000, 0x109f), (0x10a0, 0x10ff), (0x1100, 0x11ff), (0x1200, 0x139f), (0x13a0, 0x167f), (0x1680, 0x177f),
        (0x1780, 0x18af), (0x1900, 0x1aaf), (0x1ab0, 0x1aff), (0x1b00, 0x1cff), (0x1d00, 0x1dbf), (0x1dc0, 0x1dff),
        (0x1e00, 0x1fff), (0x2000, 0x206f), (0x2070, 0x214f), (0x2150, 0x23ff), (0x2400, 0x27bf), (0x2900, 0x2bff),
        (0x2c00, 0x2dff), (0x2e80, 0x303f), (0x3040, 0x30ff), (0x3100, 0x33ff), (0x3400, 0x9fff), (0xa000, 0xa4cf),
        (0xa4d0, 0xabff), (0xac00, 0xd7ff), (0xe000, 0xf8ff), (0xf900, 0xfaff), (0xfb00, 0xfdff), (0xfe00, 0xffff),
        (0x10000, 0x107ff), (0x10800, 0x10fff), (0x11000, 0x11fff), (0x12000, 0x14fff), (0x16000, 0x18fff),
        (0x1b000, 0x1bfff), (0x1cc00, 0x1d1ff), (0x1d200, 0x1d7ff), (0x1d800, 0x1eeff), (0x1f000, 0x1f3ff),
        (0x1f400, 0x1faff), (0x20000, 0x323af), (0xe0000, 0xe01ef)]]

    def char(block):
        while True:
            c = r.randint(*block)
            if not 0xD800 <= c < 0xE000:
                return chr(c)

    out = ["", " ", "\n\t ", "\x00", "a\x00b", "a photo of a cat", "A Photo   of\na CAT!", "x" * 30]
    out += words
    for _ in range(6000):
        out.append("".join(r.choice(words) + r.choice(spaces if r.random() < 0.3 else [" ", " ", ""])
                           for _ in range(r.randint(1, 14))))
    for block in blocks:
        for _ in range(150):
            out.append("".join(char(block) if r.random() < 0.85 else r.choice(spaces + ["a", "1", "'", "!", "\u0301"])
                               for _ in range(r.randint(1, 24))))
    for _ in range(4000):
        some = r.sample(blocks, r.randint(2, 5))
        out.append("".join(char(r.choice(some)) for _ in range(r.randint(1, 40))))
    marks = [chr(c) for c in code_points() if unicodedata.combining(chr(c))]
    for _ in range(2000):
        text = ""
        for _ in range(r.randint(1, 6)):
            text += (r.choice("aeiouåäöAZяюकกあ가ᄀ12!")
                     + "".join(r.choice(marks) for _ in range(r.choice([0, 1, 2, 3, 5, 60]))))
        out.append(text)
    for form in ("NFD", "NFC", "NFKD"):
        out += [unicodedata.normalize(form, r.choice(out)) for _ in range(500)]
    for _ in range(1000):
        out.append("".join(r.choice("'stremvld'’ S") for _ in range(r.randint(1, 12))))
    for make in [lambda n: "x" * n, lambda n: "!" * n, lambda n: "7" * n,
                 lambda n: "".join(r.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(n)),
                 lambda n: "\u0301" * n, lambda n: "ha" * (n // 2), lambda n: "漢" * n, lambda n: " " * n + "cat",
                 lambda n: "the" * n, lambda n: "🙂" * n]:
        out += [make(n) for n in (31, 64, 77, 100, 257, 1000, 15000, 100000)]
    return out


def ours(tool, folder, texts):
    lines = "".join(json.dumps(t) + "\n" for t in texts)
    done = subprocess.run([tool, folder], input=lines.encode(), stdout=subprocess.PIPE, check=True)
    out = [[int(i) for i in line.split()] for line in done.stdout.decode().split("\n")[:-1]]
    assert len(out) == len(texts)
    return out


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--merges", default=os.path.join(HERE, "../../dit/text/bpe/testdata/clip.txt.gz"))
    p.add_argument("--golden")
    a = p.parse_args()
    import ftfy  # the slow tokenizer works otherwise without it
    from transformers import CLIPTokenizer, CLIPTokenizerFast

    work = tempfile.mkdtemp()
    tool = os.path.join(work, "tokenize")
    subprocess.run(["go", "build", "-o", tool, "./bench/parity/tokenize"], cwd=os.path.join(HERE, "../.."), check=True)
    tools = folders(a.merges, work)
    tokenizers = {name: CLIPTokenizerFast.from_pretrained(folder) for name, folder in tools.items()}
    for name in ("sd1", "sd2", "decoder"):
        saved = os.path.join(work, name + "-saved")
        tokenizers[name].save_pretrained(saved)
        for old in ("vocab.json", "merges.txt"):
            os.remove(os.path.join(saved, old))
        tools[name + "-saved"] = saved
        tokenizers[name + "-saved"] = CLIPTokenizerFast.from_pretrained(saved)
    tools["gz"], tokenizers["gz"] = a.merges, tokenizers["plain"]

    def theirs(tokenizer, texts):
        out = []
        for lo in range(0, len(texts), 4096):
            out += tokenizer(texts[lo:lo + 4096], add_special_tokens=False)["input_ids"]
        return out

    wrong = 0

    def compare(what, texts, got, want):
        nonlocal wrong
        # Ours looks at 64 KiB of a word: of longer ones the ids that can be used are compared.
        bad = [i for i, t in enumerate(texts)
               if (got[i] != want[i] if len(t) < 16384 else got[i][:1000] != want[i][:1000])]
        wrong += len(bad)
        print("%-28s %8d strings, %d differences" % (what, len(texts), len(bad)))
        for i in bad[:5]:
            print("    %r\n      ours %s\n      want %s" % (texts[i][:80], got[i][:40], want[i][:40]))

    texts = strings()
    result = theirs(tokenizers["sd1"], texts)
    for name in tools:
        compare(name, texts, ours(tool, tools[name], texts),
                result if name == "sd1" else theirs(tokenizers[name], texts))
        got = tokenizers[name]("a", padding="max_length", max_length=8)["input_ids"]
        print("    padding: %d" % got[-1])
    every = [around(c) for c in code_points()]
    ids = theirs(tokenizers["sd1"], every)
    compare("every code point", every, ours(tool, tools["sd1"], every), ids)

    slow = CLIPTokenizer.from_pretrained(tools["sd1"])
    differ = [i for i, t in enumerate(texts) if slow(t, add_special_tokens=False)["input_ids"] != result[i]]
    print("CLIPTokenizer with ftfy %s differs from CLIPTokenizerFast in %d of them" % (ftfy.__version__, len(differ)))
    plain = [i for i, t in enumerate(texts) if t.isascii() and t.isprintable() and "&" not in t]
    print("    of %d in printable ASCII without & it differs in %d" % (len(plain), len(set(plain) & set(differ))))
    print("    the first words that do: " + " ".join(repr(texts[i]) for i in differ if len(texts[i]) < 12)[:600])

    if a.golden:
        r = random.Random(1)
        chosen = (texts[:8] + r.sample([t for t in texts[8:] if len(t) <= 120], 480)
                  + [t for t in texts if 1000 <= len(t) < 1300][-12:])
        at = {t: i for i, t in enumerate(texts)}
        sums, block, crc = [], 0, 0
        for c, line in zip(code_points(), ids):
            while c >> 10 > block:
                sums.append(crc)
                block, crc = block + 1, 0
            crc = zlib.crc32((" ".join(map(str, line)) + "\n").encode(), crc)
        sums.append(crc)
        with open(a.golden, "w") as f:
            f.write('{"strings": [\n' + ",\n".join(json.dumps([t, result[at[t]][:75]]) for t in chosen)
                    + '],\n"blocks": ' + json.dumps(sums, separators=(",", ":")) + "}\n")
        print("%s: %d strings, %d blocks, %d bytes" % (a.golden, len(chosen), len(sums), os.path.getsize(a.golden)))
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
