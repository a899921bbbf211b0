"""Writes matrix.zip: small files of every kind of the usual picture formats, and in it matrix.txt, which gives Pillow's
result for each: size and SHA-256 of convert("RGB"), or "refused".

Usage: python3 matrix.py   (needs numpy, tifffile, imagecodecs, and a Pillow older than 12.2 with AVIF and JPEG 2000)
"""
import hashlib
import io
import itertools
import os
import struct
import warnings
import zipfile
import zlib

import numpy as np
import tifffile
from PIL import Image

warnings.simplefilter("ignore")
here = os.path.dirname(os.path.abspath(__file__))
rng = np.random.default_rng(7)
W, H = 19, 14
files = {}

y, x = np.mgrid[0:H, 0:W]
rgb = (np.stack([x * 13, y * 17, 255 - x * 6 - y * 5], 2).astype(np.uint8)
       ^ rng.integers(0, 8, (H, W, 3), dtype=np.uint8))
gray = rgb[..., 0].copy()
alpha = ((x + y) * 8).astype(np.uint8)
rgba = np.dstack([rgb, alpha])
bits = gray > 100
colour = Image.fromarray(rgb)
palette = colour.quantize(200)
few = colour.quantize(11)


def add(name, data):
    assert name not in files, name
    files[name] = bytes(data)


def pil(image, fmt, **options):
    b = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(b, fmt, **options)
    return b.getvalue()


# PNG


def chunk(kind, body, crc=None):
    return (struct.pack(">I", len(body)) + kind + body
            + struct.pack(">I", zlib.crc32(kind + body) if crc is None else crc))


SIGNATURE = b"\x89PNG\r\n\x1a\n"
END = chunk(b"IEND", b"")


def pack(samples, depth):
    """Rows of samples, [H, W, C], as bytes of depth bits a sample, big end first."""
    h = samples.shape[0]
    if depth == 16:
        return [r.astype(">u2").tobytes() for r in samples]
    if depth == 8:
        return [r.astype(np.uint8).tobytes() for r in samples]
    flat = samples.reshape(h, -1)
    return [np.packbits(((r[:, None] >> np.arange(depth)[::-1]) & 1).astype(np.uint8).ravel()).tobytes() for r in flat]


def png_rows(rows, bpp, filters=(0,)):
    """Filters the rows, with each filter in turn."""
    out, up = b"", None
    for i, row in enumerate(rows):
        f, a = filters[i % len(filters)], np.frombuffer(row, np.uint8).astype(int)
        b = np.zeros_like(a) if up is None else up
        left = np.concatenate([np.zeros(bpp, int), a])[: len(a)]
        corner = np.concatenate([np.zeros(bpp, int), b])[: len(a)]
        p = left + b - corner
        pa, pb, pc = abs(p - left), abs(p - b), abs(p - corner)
        paeth = np.where((pa <= pb) & (pa <= pc), left, np.where(pb <= pc, b, corner))
        guess = [np.zeros_like(a), left, b, (left + b) // 2, paeth][f]
        out += bytes([f]) + ((a - guess) & 255).astype(np.uint8).tobytes()
        up = a
    return out


def png(samples, depth, kind, before=b"", interlace=0, filters=(0, 1, 2, 3, 4), idat=None, after=END,
        compress=zlib.compress):
    h, w = samples.shape[:2]
    bpp = max(1, samples.shape[2] * depth // 8)
    passes = [(0, 0, 1, 1)]
    if interlace:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    raw = b""
    for x0, y0, dx, dy in passes:
        part = samples[y0::dy, x0::dx]
        if part.size:
            raw += png_rows(pack(part, depth), bpp, filters)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, depth, kind, 0, 0, interlace))
    z = compress(raw)
    return SIGNATURE + head + before + (idat(z) if idat else chunk(b"IDAT", z)) + after


plte = chunk(b"PLTE", rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
for kind, depth in [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8), (4, 8),
                    (4, 16), (6, 8), (6, 16)]:
    s = rng.integers(0, 1 << min(depth, 9), (H, W, channels[kind]))
    n = 3 << depth if depth < 8 else 768
    before = chunk(b"PLTE", rng.integers(0, 256, n, dtype=np.uint8).tobytes()) if kind == 3 else b""
    for interlace in (0, 1):
        add(f"png-{kind}-{depth}{'-interlaced' * interlace}.png", png(s, depth, kind, before, interlace))
    trns = {0: b"\0\1", 2: b"\0\1\0\2\0\3", 3: b"\0\x80\xff"}.get(kind)
    if trns:
        add(f"png-{kind}-{depth}-trns.png", png(s, depth, kind, before + chunk(b"tRNS", trns)))
c3, p8 = rgb.astype(int), (gray % 200)[..., None].astype(int)
for f in range(5):
    add(f"png-filter-{f}.png", png(c3, 8, 2, filters=(f,)))
    add(f"png-filter-{f}-gray.png", png(gray[..., None].astype(int), 8, 0, filters=(f,)))
for w, h in [(1, 1), (1, 9), (9, 1), (2, 3), (3, 5), (5, 2)]:
    add(f"png-interlaced-{w}x{h}.png", png(c3[:h, :w], 8, 2, interlace=1))
    add(f"png-interlaced-{w}x{h}-bit.png", png((c3[:h, :w, :1] > 99).astype(int), 1, 0, interlace=1))
add("png-trns-first.png", png(p8, 8, 3, chunk(b"tRNS", b"\0\1") + plte))
add("png-two-palettes.png", png(p8, 8, 3, chunk(b"PLTE", bytes(768)) + plte))
add("png-short-palette.png", png(p8, 8, 3, chunk(b"PLTE", bytes(range(100)))))
add("png-long-palette.png", png(p8, 8, 3, chunk(b"PLTE", bytes(771))))
add("png-no-palette.png", png(p8, 8, 3))
add("png-palette-for-colour.png", png(c3, 8, 2, plte))
add("png-palette-for-gray.png", png(p8, 8, 0, plte))
add("png-more-pixels.png", png(c3, 8, 2, compress=lambda raw: zlib.compress(raw + bytes(500))))
add("png-fewer-rows.png", png(c3, 8, 2, compress=lambda raw: zlib.compress(raw[: 5 * (3 * W + 1)])))
add("png-fewer-pixels.png", png(c3, 8, 2, compress=lambda raw: zlib.compress(raw[: 5 * (3 * W + 1) + 7])))
add("png-wrong-adler.png", png(c3, 8, 2, compress=lambda raw: zlib.compress(raw)[:-1] + b"x"))
add("png-no-adler.png", png(c3, 8, 2, compress=lambda raw: zlib.compress(raw)[:-4]))
add("png-stored.png", png(c3, 8, 2, compress=lambda raw: zlib.compress(raw, 0)))
add("png-bad-filter.png", png(c3, 8, 2, compress=lambda raw: zlib.compress(b"\x09" + raw[1:])))
add("png-idat-crc.png", png(c3, 8, 2, idat=lambda z: chunk(b"IDAT", z, 5)))
add("png-idat-parts.png",
    png(c3, 8, 2, idat=lambda z: b"".join(chunk(b"IDAT", z[i : i + 7]) for i in range(0, len(z), 7))))
add("png-idat-empty.png", png(c3, 8, 2, idat=lambda z: chunk(b"IDAT", b"") * 3 + chunk(b"IDAT", z)))
add("png-idat-apart.png",
    png(c3, 8, 2, idat=lambda z: chunk(b"IDAT", z[:100]) + chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", z[100:])))
add("png-idat-surplus.png", png(c3, 8, 2, idat=lambda z: chunk(b"IDAT", z) + chunk(b"IDAT", b"surplus")))
add("png-no-end.png", png(c3, 8, 2, after=b""))
add("png-after-end.png", png(c3, 8, 2) + b"anything")
add("png-zeros-behind.png", png(c3, 8, 2, after=bytes(64)))
add("png-text-crc.png", png(c3, 8, 2, chunk(b"tEXt", b"Comment\0hi", 7)))
add("png-text-crc-behind.png", png(c3, 8, 2, after=chunk(b"tEXt", b"Comment\0hi", 7) + END))
add("png-text-cut-behind.png", png(c3, 8, 2, after=chunk(b"tEXt", b"Comment\0" + b"hi" * 50)[:-70]))
add("png-text-crc-cut-behind.png", png(c3, 8, 2, after=chunk(b"tEXt", b"Comment\0hi")[:-3]))
add("png-palette-crc.png", png(p8, 8, 3, chunk(b"PLTE", bytes(768), 9)))
add("png-header-crc.png",
    SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, 8, 2, 0, 0, 0), 1) + png(c3, 8, 2)[33:])
add("png-method.png", SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, 8, 2, 9, 0, 0)) + png(c3, 8, 2)[33:])
add("png-filters.png", SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, 8, 2, 0, 9, 0)) + png(c3, 8, 2)[33:])
add("png-interlace-2.png",
    SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, 8, 2, 0, 0, 2)) + png(c3, 8, 2, interlace=1)[33:])
add("png-3-bits.png", SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, 3, 0, 0, 0, 0)) + png(c3, 8, 2)[33:])
add("png-header-second.png", SIGNATURE + chunk(b"gAMA", bytes(4)) + png(c3, 8, 2)[8:])
add("png-unknown-chunks.png", png(c3, 8, 2, chunk(b"zzZz", b"1") + chunk(b"ABCD", b"2")))
add("png-no-chunk.png", png(c3, 8, 2, b"\1\2\3\4\5\6\7\x08\x09"))
add("png-no-pixels.png", SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, 8, 2, 0, 0, 0)) + END)
add("png-cut.png", png(c3, 8, 2)[:-100])
add("png-cut-header.png", png(c3, 8, 2)[:20])
frames = [colour, Image.fromarray(255 - rgb)]
add("png-animated.png", pil(frames[0], "PNG", save_all=True, append_images=frames[1:]))
add("png-animated-default.png", pil(frames[0], "PNG", save_all=True, append_images=frames, default_image=True))
add("png-animated-cut.png", files["png-animated.png"][:-200])
fctl = struct.pack(">IIIIIHHBB", 0, W - 3, H - 2, 2, 1, 1, 10, 0, 0)
add("png-animated-part.png", png(c3[: H - 2, : W - 3], 8, 2).replace(
    chunk(b"IHDR", struct.pack(">IIBBBBB", W - 3, H - 2, 8, 2, 0, 0, 0)),
    chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, 8, 2, 0, 0, 0)) + chunk(b"acTL", struct.pack(">II", 2, 0))
    + chunk(b"fcTL", fctl)))

# TIFF


def tiff(order, tags, blocks, tiled=False, header=None, big=False):
    """A TIFF file of one directory; tags: number -> (type, values)."""
    data, offsets = b"", []
    for b in blocks:
        offsets.append(8 + len(data))
        data += b + bytes(len(b) % 2)
    tags = dict(tags)
    tags[324 if tiled else 273] = (4, offsets)
    tags[325 if tiled else 279] = (4, [len(b) for b in blocks])
    extra, entries, at = b"", b"", 8 + len(data) + 2 + 12 * len(tags) + 4
    for tag in sorted(tags):
        kind, values = tags[tag]
        body = struct.pack(order + {1: "B", 3: "H", 4: "I", 6: "b", 8: "h"}[kind] * len(values), *values)
        if len(body) > 4:
            value, extra = struct.pack(order + "I", at + len(extra)), extra + body + bytes(len(body) % 2)
        else:
            value = body + bytes(4 - len(body))
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + value
    magic = header or (b"II\x2a\0" if order == "<" else b"MM\0\x2a")
    return (magic + struct.pack(order + "I", 8 + len(data)) + data
            + struct.pack(order + "H", len(tags)) + entries + bytes(4) + extra)


def short(*v):
    return (3, list(v))


def packbits(b):
    out = b""
    for i in range(0, len(b), 100):
        part = b[i : i + 100]
        out += bytes([len(part) - 1]) + part
    return out + b"\xfb\x07"[:0]


def lzw_old(b):
    """LZW as before TIFF 5: low bits first, here without use of its table."""
    codes = []
    for i, v in enumerate(b):
        if i % 200 == 0:
            codes.append(256)
        codes.append(v)
    codes.append(257)
    bits = "".join(format(c, "09b")[::-1] for c in codes)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))


def flipped(b):
    return bytes(int(format(v, "08b")[::-1], 2) for v in b)


def samples_tiff(name, samples, depth, photometric, order="<", rows=None, tags=(), encode=lambda b: b, compression=1,
                 fmt=None):
    h, w, c = samples.shape
    rows = rows or h
    big = np.dtype(fmt or {16: "u2", 32: "u4", 64: "u8"}.get(depth, "u1")).newbyteorder(order)
    lines = [r.astype(big).tobytes() for r in samples] if depth > 8 and depth % 16 == 0 else pack(samples, depth)
    t = {256: short(w), 257: short(h), 258: short(*[depth] * c), 259: short(compression), 262: short(photometric),
         277: short(c), 278: short(rows)}
    t.update(dict(tags))
    add(name, tiff(order, t, [encode(b"".join(lines[i : i + rows])) for i in range(0, h, rows)]))


for order, end in (("<", "little"), (">", "big")):
    for photometric, depth in itertools.product((0, 1), (1, 2, 4, 8, 12, 16)):
        samples_tiff(f"tiff-{end}-gray-{photometric}-{depth}.tif", rng.integers(0, 1 << min(depth, 9), (H, W, 1)),
                     depth, photometric, order)
    for depth in (1, 2, 4, 8, 16):
        colours = rng.integers(0, 65536, 3 << min(depth, 8)).tolist()
        samples_tiff(f"tiff-{end}-palette-{depth}.tif", rng.integers(0, 1 << min(depth, 8), (H, W, 1)), depth, 3, order,
                     tags={320: (3, colours)})
    for depth in (1, 4, 8, 16):
        samples_tiff(f"tiff-{end}-rgb-{depth}.tif", rng.integers(0, 1 << depth, (H, W, 3)), depth, 2, order)
    for depth, extra in itertools.product((8, 16), (None, 0, 1, 2)):
        tags = {} if extra is None else {338: short(extra)}
        s = rng.integers(0, 1 << depth, (H, W, 4))
        s[..., :3] = np.minimum(s[..., :3], s[..., 3:])
        samples_tiff(f"tiff-{end}-rgba-{depth}-{extra}.tif", s, depth, 2, order, tags=tags)
    for depth in (8, 16):
        samples_tiff(f"tiff-{end}-cmyk-{depth}.tif", rng.integers(0, 1 << depth, (H, W, 4)), depth, 5, order)
        samples_tiff(f"tiff-{end}-signed-{depth}.tif", rng.integers(0, 99, (H, W, 1)), depth, 1, order,
                     tags={339: short(2)})
    samples_tiff(f"tiff-{end}-32.tif", rng.integers(0, 300, (H, W, 1)), 32, 1, order)
    samples_tiff(f"tiff-{end}-float.tif", rng.random((H, W, 1)) * 200, 32, 1, order, tags={339: short(3)}, fmt="f4")
    samples_tiff(f"tiff-{end}-double.tif", rng.random((H, W, 1)) * 200, 64, 1, order, tags={339: short(3)}, fmt="f8")
    samples_tiff(f"tiff-{end}-rgb-strips.tif", c3, 8, 2, order, rows=3)
    samples_tiff(f"tiff-{end}-deflate.tif", c3, 8, 2, order, rows=5, compression=8, encode=zlib.compress)
samples_tiff("tiff-lab.tif", c3, 8, 8)
samples_tiff("tiff-ycbcr.tif", c3, 8, 6)
samples_tiff("tiff-la.tif", np.dstack([gray, alpha]).astype(int), 8, 1, tags={338: short(2)})
samples_tiff("tiff-palette-alpha.tif", np.dstack([gray, alpha]).astype(int), 8, 3,
             tags={338: short(2), 320: (3, rng.integers(0, 65536, 768).tolist())})
samples_tiff("tiff-five.tif", np.dstack([rgba, gray]).astype(int), 8, 2, tags={338: short(2, 0)})
samples_tiff("tiff-palette-bytes.tif", p8, 8, 3, tags={320: (3, rng.integers(0, 256, 768).tolist())})
samples_tiff("tiff-palette-short.tif", p8, 8, 3, tags={320: (3, rng.integers(0, 65536, 300).tolist())})
samples_tiff("tiff-no-bits.tif", bits[..., None].astype(int), 1, 1)
samples_tiff("tiff-mask.tif", bits[..., None].astype(int), 1, 4)
samples_tiff("tiff-thumbnail.tif", c3, 8, 2, tags={254: (4, [1])})
samples_tiff("tiff-dng.tif", c3, 8, 2, tags={50706: (1, [1, 4, 0, 0])})
samples_tiff("tiff-mosaic.tif", gray[..., None].astype(int), 8, 32803)
samples_tiff("tiff-sample-count.tif", c3, 8, 2, tags={258: short(8)})
samples_tiff("tiff-sample-count-wrong.tif", c3, 8, 2, tags={277: short(1)})
samples_tiff("tiff-packbits.tif", c3, 8, 2, compression=32773, encode=packbits)
samples_tiff("tiff-packbits-predictor.tif", c3, 8, 2, compression=32773, encode=packbits, tags={317: short(2)})
samples_tiff("tiff-raw-predictor.tif", c3, 8, 2, tags={317: short(2)})
samples_tiff("tiff-deflate-old.tif", c3, 8, 2, compression=32946, encode=zlib.compress)
samples_tiff("tiff-lzw-old.tif", gray[..., None].astype(int), 8, 1, compression=5, encode=lzw_old)
samples_tiff("tiff-cut.tif", c3, 8, 2, encode=lambda b: b[:-40])
samples_tiff("tiff-deflate-cut.tif", c3, 8, 2, compression=8, encode=lambda b: zlib.compress(b)[:-40])
samples_tiff("tiff-deflate-few.tif", c3, 8, 2, compression=8, encode=lambda b: zlib.compress(b[:-40]))
for photometric, depth in itertools.product((0, 1), (1, 8)):
    samples_tiff(f"tiff-fill-2-{photometric}-{depth}.tif", rng.integers(0, 1 << depth, (H, W, 1)), depth, photometric,
                 tags={266: short(2)}, encode=flipped)
samples_tiff("tiff-fill-2-lzw-like.tif", bits[..., None].astype(int), 1, 1, tags={266: short(2)}, compression=8,
             encode=lambda b: flipped(zlib.compress(b)))
for photometric, (comp, name) in itertools.product(
        (0, 1), (("group3", "g3"), ("group4", "g4"), ("tiff_ccitt", "huffman"))):
    fax = pil(Image.fromarray(bits), "TIFF", compression=comp, tiffinfo={262: photometric})
    add(f"tiff-{name}-{photometric}.tif", fax)
    with tifffile.TiffFile(io.BytesIO(fax)) as t:
        page = t.pages[0]
        strip = fax[page.dataoffsets[0] : page.dataoffsets[0] + page.databytecounts[0]]
        tags = {256: short(W), 257: short(H), 258: short(1), 259: short(int(page.compression)), 262: short(photometric),
                266: short(2), 277: short(1), 278: short(H)}
    add(f"tiff-{name}-{photometric}-fill-2.tif", tiff("<", tags, [flipped(strip)]))
    add(f"tiff-{name}-{photometric}-big.tif",
        pil(Image.fromarray(np.kron(bits, np.ones((9, 11))) > 0), "TIFF", compression=comp,
            tiffinfo={262: photometric, 278: 25}))
    if comp == "group3":
        add(f"tiff-{name}-{photometric}-2d.tif",
            pil(Image.fromarray(bits), "TIFF", compression=comp, tiffinfo={262: photometric, 292: 1}))
        add(f"tiff-{name}-{photometric}-aligned.tif",
            pil(Image.fromarray(bits), "TIFF", compression=comp, tiffinfo={262: photometric, 292: 4}))
for comp in ("tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg", "lzma", "zstd"):
    for kind, image in (("rgb", colour), ("gray", Image.fromarray(gray)), ("bit", Image.fromarray(bits)),
                        ("rgba", Image.fromarray(rgba))):
        if kind == "rgb" or comp != "jpeg":
            add(f"tiff-{comp}-{kind}.tif", pil(image, "TIFF", compression=comp))
for comp in ("tiff_lzw", "tiff_adobe_deflate"):
    for kind, image in (("rgb", colour), ("gray", Image.fromarray(gray)), ("rgba", Image.fromarray(rgba)),
                        ("gray16", Image.fromarray((gray.astype(np.uint16) * 3)))):
        add(f"tiff-{comp}-predictor-{kind}.tif", pil(image, "TIFF", compression=comp, tiffinfo={317: 2}))
add("tiff-pages.tif", pil(frames[0], "TIFF", save_all=True, append_images=frames[1:]))
for o in range(0, 10):
    samples_tiff(f"tiff-oriented-{o}.tif", c3, 8, 2, tags={274: short(o)})


def by_tifffile(name, a, **options):
    b = io.BytesIO()
    tifffile.imwrite(b, a, metadata=None, **options)
    add(f"tiff-{name}.tif", b.getvalue())


wide = np.kron(rgb, np.ones((3, 3, 1), np.uint8))
by_tifffile("tiles", wide, photometric="rgb", tile=(16, 32))
by_tifffile("tiles-deflate", wide, photometric="rgb", tile=(16, 16), compression="zlib", predictor=True)
by_tifffile("tiles-gray16", wide[..., 0].astype(np.uint16), photometric="minisblack", tile=(32, 16))
by_tifffile("tiles-large", rgb, photometric="rgb", tile=(64, 64))
by_tifffile("rgb16-predictor", wide.astype(np.uint16) * 200, photometric="rgb", compression="zlib", predictor=True)
by_tifffile("rgb16-predictor-big", wide.astype(np.uint16) * 200, photometric="rgb", compression="zlib", predictor=True,
            byteorder=">")
by_tifffile("lzw", wide, photometric="rgb", compression="lzw", rowsperstrip=7)
by_tifffile("planar", np.moveaxis(rgb, 2, 0), photometric="rgb", planarconfig="separate")
by_tifffile("planar-tiles", np.moveaxis(wide, 2, 0), photometric="rgb", planarconfig="separate", tile=(16, 16))
by_tifffile("bigtiff", rgb, photometric="rgb", bigtiff=True)
by_tifffile("bigtiff-big", rgb, photometric="rgb", bigtiff=True, byteorder=">")
by_tifffile("float-predictor", gray.astype(np.float32), compression="zlib", predictor=3)
for comp in ("jpeg", "zstd", "lzma", "webp", "lerc", "jpeg2000", "jpegxl", "png"):
    by_tifffile(f"by-{comp}", wide, photometric="rgb", compression=comp)

# BMP


def bmp(bits, rows, palette=b"", compression=0, header=40, masks=b"", top_down=False, offset=None, w=W, colours=0,
        gap=b""):
    if header == 12:
        info = struct.pack("<IHHHH", 12, w, H, 1, bits)
    else:
        info = struct.pack("<IiiHHIIiiII", header, w, -H if top_down else H, 1, bits, compression, 0, 0, 0, colours, 0)
        info += masks[: header - 40] + bytes(max(0, header - 40 - len(masks)))
        info += masks if header == 40 else b""
    data = b"".join(r + bytes(-len(r) % 4)
                    for r in (rows if top_down else rows[::-1])) if isinstance(rows, list) else rows
    at = 14 + len(info) + len(palette) + len(gap)
    return b"BM" + struct.pack("<IHHI", at + len(data), 0, 0,
                               at if offset is None else offset) + info + palette + gap + data


def entries(n, size=4):
    return b"".join(rng.integers(0, 256, 3, dtype=np.uint8).tobytes() + bytes(size - 3) for _ in range(n))


bgr = [np.ascontiguousarray(r[:, ::-1]).tobytes() for r in rgb]
bgrx = [np.ascontiguousarray(np.dstack([r[None, :, 2], r[None, :, 1], r[None, :, 0], a[None]])).tobytes()
        for r, a in zip(rgb, alpha)]
words = [r.astype("<u2").tobytes() for r in rng.integers(0, 65536, (H, W))]
for header in (40, 52, 56, 64, 108, 124):
    add(f"bmp-24-header-{header}.bmp", bmp(24, bgr, header=header))
    add(f"bmp-32-header-{header}.bmp", bmp(32, bgrx, header=header))
    add(f"bmp-8-header-{header}.bmp", bmp(8, pack(p8, 8), entries(256), header=header))
for depth in (1, 2, 4, 8):
    s = rng.integers(0, 1 << depth, (H, W, 1))
    add(f"bmp-{depth}.bmp", bmp(depth, pack(s, depth), entries(1 << depth)))
    add(f"bmp-{depth}-os2.bmp", bmp(depth, pack(s, depth), entries(1 << depth, 3), header=12))
    add(f"bmp-{depth}-top-down.bmp", bmp(depth, pack(s, depth), entries(1 << depth), top_down=True))
add("bmp-24-os2.bmp", bmp(24, bgr, header=12))
add("bmp-24-top-down.bmp", bmp(24, bgr, top_down=True))
add("bmp-32-top-down.bmp", bmp(32, bgrx, top_down=True))
add("bmp-16.bmp", bmp(16, words))
add("bmp-16-565.bmp", bmp(16, words, compression=3, masks=struct.pack("<III", 0xF800, 0x7E0, 0x1F)))
add("bmp-16-555.bmp", bmp(16, words, compression=3, masks=struct.pack("<III", 0x7C00, 0x3E0, 0x1F)))
add("bmp-16-565-v5.bmp", bmp(16, words, compression=3, masks=struct.pack("<IIII", 0xF800, 0x7E0, 0x1F, 0), header=124))
add("bmp-16-444.bmp", bmp(16, words, compression=3, masks=struct.pack("<III", 0xF00, 0xF0, 0xF)))
add("bmp-24-masks.bmp", bmp(24, bgr, compression=3, masks=struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)))
for i, m in enumerate([(0xFF0000, 0xFF00, 0xFF, 0), (0xFF000000, 0xFF0000, 0xFF00, 0), (0xFF000000, 0xFF00, 0xFF, 0),
                       (0xFF000000, 0xFF0000, 0xFF00, 0xFF), (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
                       (0xFF0000, 0xFF00, 0xFF, 0xFF000000), (0xFF000000, 0xFF00, 0xFF, 0xFF0000), (0, 0, 0, 0),
                       (0x3FF00000, 0xFFC00, 0x3FF, 0)]):
    add(f"bmp-32-masks-{i}.bmp", bmp(32, bgrx, compression=3, masks=struct.pack("<IIII", *m), header=56))
add("bmp-32-masks-40.bmp", bmp(32, bgrx, compression=3, masks=struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)))
add("bmp-8-few.bmp", bmp(8, pack(p8 % 9, 8), entries(9), colours=9))
add("bmp-8-beyond.bmp", bmp(8, pack(p8, 8), entries(9), colours=9))
add("bmp-8-gray.bmp", bmp(8, pack(p8, 8), b"".join(bytes([i, i, i, 0]) for i in range(256))))
add("bmp-1-gray.bmp", bmp(1, pack(bits[..., None].astype(int), 1), b"\0\0\0\0\xff\xff\xff\0"))
add("bmp-1-inverse.bmp", bmp(1, pack(bits[..., None].astype(int), 1), b"\xff\xff\xff\0\0\0\0\0"))
add("bmp-gap.bmp", bmp(24, bgr, gap=b"anything"))
add("bmp-8-gap.bmp", bmp(8, pack(p8, 8), entries(256), gap=b"anything"))
add("bmp-no-offset.bmp", bmp(24, bgr, offset=0))
add("bmp-8-no-offset.bmp", bmp(8, pack(p8, 8), entries(256), offset=0))
add("bmp-8-offset-of-palette.bmp", bmp(8, pack(p8, 8), entries(256), offset=54))
add("bmp-cut.bmp", bmp(24, bgr)[:-40])
add("bmp-no-padding.bmp", bmp(24, bgr)[:-3])
add("bmp-after-end.bmp", bmp(24, bgr) + b"anything")
rle8 = (b"".join(bytes([1, int(v)]) for v in p8[0, :, 0]) + b"\0\0"
        + b"".join(bytes([W, i]) + b"\0\0" for i in range(H - 1)) + b"\0\1")
add("bmp-rle8.bmp", bmp(8, rle8, entries(256), compression=1))
add("bmp-rle4.bmp",
    bmp(4, b"".join(bytes([W, 16 * i + 3]) + b"\0\0" for i in range(H)) + b"\0\1", entries(16), compression=2))
add("bmp-jpeg.bmp", bmp(0, pil(colour, "JPEG"), compression=4))
add("bmp-header-16.bmp", bmp(24, bgr).replace(struct.pack("<I", 40), struct.pack("<I", 16), 1))

# GIF


def gif(frames, screen=(W, H), table=None, before=b"", background=0, version=b"GIF89a", after=b";"):
    """frames: (x, y, indices, local table, interlaced, bytes before)."""
    flags = 0 if table is None else 0x80 | (len(table) // 3).bit_length() - 2
    out = version + struct.pack("<HHBBB", *screen, flags, background, 0) + (table or b"") + before
    for x0, y0, a, local, interlaced, control in frames:
        h, w = a.shape
        f = (0x40 if interlaced else 0) | (0 if local is None else 0x80 | (len(local) // 3).bit_length() - 2)
        rows = a
        if interlaced:
            rows = np.concatenate([a[0::8], a[4::8], a[2::4], a[1::2]])
        data = gif_lzw(rows.ravel().tolist(), 8)
        out += control + b"," + struct.pack("<HHHHB", x0, y0, w, h, f) + (local or b"") + b"\x08"
        out += b"".join(bytes([len(data[i : i + 255])]) + data[i : i + 255] for i in range(0, len(data), 255)) + b"\0"
    return out + after


def gif_lzw(values, size, end=True):
    bits, table, width = "", {}, size + 1

    def put(c):
        nonlocal bits
        bits += format(c, f"0{width}b")[::-1]

    for i, v in enumerate(values):
        if i % 200 == 0:
            put(1 << size)
        put(v)
    if end:
        put((1 << size) + 1)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))


def control(transparent=None, disposal=0):
    return b"\x21\xf9\x04" + bytes([disposal << 2 | (transparent is not None), 5, 0, transparent or 0, 0])


table, other = rng.integers(0, 256, 768, dtype=np.uint8).tobytes(), rng.integers(0, 256, 768, dtype=np.uint8).tobytes()
g = rng.integers(0, 200, (H, W))
add("gif-plain.gif", gif([(0, 0, g, None, False, b"")], table=table))
add("gif-87a.gif", gif([(0, 0, g, None, False, b"")], table=table, version=b"GIF87a"))
add("gif-interlaced.gif", gif([(0, 0, g, None, True, b"")], table=table))
add("gif-local.gif", gif([(0, 0, g, other, False, b"")], table=table))
add("gif-local-only.gif", gif([(0, 0, g, other, False, b"")]))
add("gif-no-table.gif", gif([(0, 0, g, None, False, b"")]))
add("gif-small-table.gif", gif([(0, 0, g % 20, None, False, b"")], table=table[:48]))
add("gif-transparent.gif", gif([(0, 0, g, None, False, control(7))], table=table))
add("gif-part.gif", gif([(3, 2, g[:8, :9], None, False, b"")], table=table, background=9))
add("gif-part-transparent.gif", gif([(3, 2, g[:8, :9], None, False, control(7))], table=table, background=9))
add("gif-part-local.gif", gif([(3, 2, g[:8, :9], other, True, b"")], table=table, background=9))
add("gif-off-screen.gif", gif([(9, 9, g, None, False, b"")], table=table))
add("gif-larger-than-screen.gif", gif([(0, 0, g, None, False, b"")], screen=(9, 8), table=table))
add("gif-no-screen.gif", gif([(0, 0, g, None, False, b"")], screen=(0, 0), table=table))
add("gif-frames.gif",
    gif([(0, 0, g, None, False, control(None, 2)), (0, 0, g[::-1], None, False, control(3))], table=table))
add("gif-extensions.gif",
    gif([(0, 0, g, None, False, b"")], table=table, before=b"\x21\xfe\x05hello\0\x21\xff\x0bNETSCAPE2.0\x03\1\0\0\0"))
add("gif-no-trailer.gif", gif([(0, 0, g, None, False, b"")], table=table, after=b""))
add("gif-after-end.gif", gif([(0, 0, g, None, False, b"")], table=table) + b"anything")
add("gif-cut.gif", gif([(0, 0, g, None, False, b"")], table=table)[:-60])
add("gif-cut-end-code.gif", gif([(0, 0, g, None, False, b"")], table=table)[:-4])
add("gif-fewer-pixels.gif",
    gif([(0, 0, g, None, False, b"")], table=table).replace(
        b"," + struct.pack("<HHHH", 0, 0, W, H), b"," + struct.pack("<HHHH", 0, 0, W, H + 1)))
add("gif-more-pixels.gif",
    gif([(0, 0, g, None, False, b"")], table=table).replace(
        b"," + struct.pack("<HHHH", 0, 0, W, H), b"," + struct.pack("<HHHH", 0, 0, W, H - 2)))
for n in (2, 4, 16, 200):
    add(f"gif-pillow-{n}.gif", pil(colour.quantize(n), "GIF"))

# WebP, JPEG, netpbm

for name, image, options in [("lossy", colour, dict(quality=60)), ("lossless", colour, dict(lossless=True)),
                             ("alpha", Image.fromarray(rgba), dict(quality=70)),
                             ("alpha-lossless", Image.fromarray(rgba), dict(lossless=True, exact=True)),
                             ("gray", Image.fromarray(gray), dict(quality=80)),
                             ("animated", colour, dict(save_all=True, append_images=frames[1:], quality=70))]:
    add(f"webp-{name}.webp", pil(image, "WEBP", **options))
add("webp-cut.webp", files["webp-lossy.webp"][:-40])
add("webp-after-end.webp", files["webp-lossy.webp"] + b"anything")
for q, s in itertools.product((10, 75, 100), (0, 1, 2)):
    add(f"jpeg-{q}-{s}.jpg", pil(colour, "JPEG", quality=q, subsampling=s))
add("jpeg-progressive.jpg", pil(colour, "JPEG", progressive=True))
add("jpeg-gray.jpg", pil(gray, "JPEG"))
add("jpeg-cmyk.jpg", pil(colour.convert("CMYK"), "JPEG"))
add("jpeg-cut.jpg", pil(colour, "JPEG")[:-40])
lossless = bytearray(pil(colour, "JPEG"))
lossless[lossless.index(b"\xff\xc0") + 1] = 0xC3
add("jpeg-lossless.jpg", lossless)

words16 = rng.integers(0, 600, (H, W, 3))
for kind, s in (("5", gray[..., None].astype(int)), ("6", c3)):
    head = lambda top: f"P{kind}\n{W} {H}\n{top}\n".encode()
    name = {"5": "pgm", "6": "ppm"}[kind]
    plain = str(int(kind) - 3).encode()
    add(f"{name}-255.{name}", head(255) + s.astype(np.uint8).tobytes())
    add(f"{name}-100.{name}", head(100) + (s % 101).astype(np.uint8).tobytes())
    add(f"{name}-100-above.{name}", head(100) + s.astype(np.uint8).tobytes())
    add(f"{name}-1.{name}", head(1) + (s % 2).astype(np.uint8).tobytes())
    for top in (256, 1000, 65535):
        add(f"{name}-{top}.{name}", head(top) + words16[..., : s.shape[2]].astype(">u2").tobytes())
    add(f"{name}-cut.{name}", head(255) + s.astype(np.uint8).tobytes()[:-9])
    add(f"{name}-100-cut.{name}", head(100) + (s % 101).astype(np.uint8).tobytes()[:-9])
    add(f"{name}-after-end.{name}", head(255) + s.astype(np.uint8).tobytes() + b"anything")
    add(f"{name}-comments.{name}",
        f"P{kind} # one\n# two\r{W}# three\n {H}\n#\n255\n".encode() + s.astype(np.uint8).tobytes())
    add(f"{name}-0.{name}", head(0) + s.astype(np.uint8).tobytes())
    add(f"{name}-65536.{name}", head(65536) + s.astype(np.uint8).tobytes() * 2)
    text = lambda v: "\n".join(" ".join(str(int(t)) for t in r.ravel()) for r in v).encode()
    for top, v in ((255, s), (100, s % 101), (1000, words16[..., : s.shape[2]])):
        add(f"{name}-plain-{top}.{name}", b"P" + plain + f"\n{W} {H}\n{top}\n".encode() + text(v))
    add(f"{name}-plain-comments.{name}",
        b"P" + plain + f"\n{W} {H}\n255\n# a\n".encode() + text(s).replace(b"\n", b" # b\n", 3))
    add(f"{name}-plain-cut.{name}", b"P" + plain + f"\n{W} {H}\n255\n".encode() + text(s)[:-30])
    add(f"{name}-plain-above.{name}", b"P" + plain + f"\n{W} {H}\n20\n".encode() + text(s))
    add(f"{name}-plain-letters.{name}", b"P" + plain + f"\n{W} {H}\n255\nabc ".encode() + text(s))
add("pbm-raw.pbm", f"P4\n{W} {H}\n".encode() + b"".join(pack(bits[..., None].astype(int), 1)))
add("pbm-raw-cut.pbm", files["pbm-raw.pbm"][:-5])
bit_text = "\n".join("".join(str(int(v)) for v in r) for r in bits)
add("pbm-plain.pbm", f"P1\n{W} {H}\n".encode() + bit_text.encode())
add("pbm-plain-spaces.pbm", f"P1\n{W} {H}\n".encode() + " ".join(bit_text).encode())
add("pbm-plain-comments.pbm", f"P1\n# a\n{W} {H}\n".encode() + bit_text.replace("\n", "# b\n").encode())
add("pbm-plain-cut.pbm", files["pbm-plain.pbm"][:-9])
add("pbm-plain-letters.pbm", f"P1\n{W} {H}\n".encode() + b"2" + bit_text.encode())
add("pfm-gray.pfm", f"Pf\n{W} {H}\n-1.0\n".encode() + gray.astype("<f4").tobytes())
add("pfm-colour.pfm", f"PF\n{W} {H}\n-1.0\n".encode() + rgb.astype("<f4").tobytes())
add("pam.pam", f"P7\nWIDTH {W}\nHEIGHT {H}\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n".encode() + rgb.tobytes())

# Others, by content

for fmt, name in (("AVIF", "avif"), ("JPEG2000", "jp2"), ("ICO", "ico"), ("TGA", "tga"), ("DDS", "dds"), ("EPS", "eps"),
                  ("PDF", "pdf")):
    add(f"other-{name}.jpg", pil(colour, fmt))
add("other-j2k.jpg", pil(colour, "JPEG2000", no_jp2=True))
psd = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, H, W, 8, 3) + bytes(12) + b"\0\0" + np.moveaxis(rgb, 2, 0).tobytes()
add("other-psd.jpg", psd)
for name, data in {
    "heic": struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(90),
    "heif": struct.pack(">I", 24) + b"ftypmif1\0\0\0\0mif1heic" + bytes(90),
    "avif-cut": struct.pack(">I", 28) + b"ftypavif\0\0\0\0avifmif1miaf" + bytes(90),
    "mp4": struct.pack(">I", 24) + b"ftypisom\0\0\2\0isommp41" + bytes(90),
    "mov": struct.pack(">I", 20) + b"ftypqt  \0\0\0\0qt  " + bytes(90),
    "mdat": struct.pack(">I", 90) + b"mdat" + bytes(90),
    "cr3": struct.pack(">I", 24) + b"ftypcrx \0\0\0\1crx isom" + bytes(90), "jxl": b"\xff\x0a" + bytes(90),
    "jxl-box": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(90), "avi": b"RIFF\x50\0\0\0AVI LIST" + bytes(90),
    "mkv": b"\x1a\x45\xdf\xa3" + bytes(90), "html": b"\n<!DOCTYPE html><html>404</html>",
    "html-upper": b"\xef\xbb\xbf<HTML><BODY>403</BODY>",
    "s3": b"<?xml version=\"1.0\"?>\n<Error><Code>AccessDenied</Code></Error>", "xml": b"<?xml version=\"1.0\"?><a/>",
    "json": b"{\"error\": \"no such file\"}", "svg": b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>",
    "svg-xml": b"<?xml version=\"1.0\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\"/>",
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
    "http": b"HTTP/1.1 404 Not Found\r\n\r\n", "zip": b"PK\3\4" + bytes(90), "gzip": b"\x1f\x8b" + bytes(90),
    "tar": bytes(257) + b"ustar" + bytes(300), "zeros": bytes(300), "apple": b"\0\5\x16\7" + bytes(90),
    "raf": b"FUJIFILMCCD-RAW " + bytes(90),
    "cr2": b"II\x2a\0\x10\0\0\0CR\2\0" + bytes(4) + struct.pack("<HHHII", 2, 256, 3, 1, 9) +
    struct.pack("<HHII", 257, 3, 1, 9) + bytes(90), "rw2": b"IIU\0" + bytes(90),
    "png-text-mode": SIGNATURE.replace(b"\r\n", b"\n") + bytes(90), "exr": b"\x76\x2f\x31\x01" + bytes(90),
    "dicom": bytes(128) + b"DICM" + bytes(90), "npy": b"\x93NUMPY" + bytes(90), "parquet": b"PAR1" + bytes(90),
    "text": b"hello, world\n", "empty": b"", "noise": rng.integers(0, 256, 90, dtype=np.uint8).tobytes()}.items():
    add(f"other-{name}.jpg", data)


def decode(data):
    try:
        with Image.open(io.BytesIO(data)) as im:
            a = np.asarray(im.convert("RGB"))
    except Exception:
        return "refused"
    return f"{a.shape[1]} {a.shape[0]} {hashlib.sha256(a.tobytes()).hexdigest()}"


def reference(data):
    """decode in a process of its own: some files damage the memory of libtiff."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(send, decode(data).encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive) as f:
        text = f.read()
    os.waitpid(pid, 0)
    return text or "refused"


with zipfile.ZipFile(os.path.join(here, "matrix.zip"), "w", zipfile.ZIP_DEFLATED) as z:
    lines = []
    for name in sorted(files):
        lines.append(f"{name} {reference(files[name])}\n")
        z.writestr(zipfile.ZipInfo(name), files[name], zipfile.ZIP_DEFLATED)
    z.writestr(zipfile.ZipInfo("matrix.txt"), "".join(lines), zipfile.ZIP_DEFLATED)
print(f"{len(files)} files, {sum('refused' in line for line in lines)} refused")
