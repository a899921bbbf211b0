"""Writes the small pictures of this folder and golden.txt, the RGB that Pillow (made with 13.0.0) reads from each.

Usage: python3 make.py  (needs numpy and pillow)
"""
import hashlib, io, os, struct, zlib
import numpy as np
from PIL import Image

here = os.path.dirname(os.path.abspath(__file__))
rng = np.random.default_rng(0)
W, H = 13, 9
rgb = rng.integers(0, 256, (H, W, 3), dtype=np.uint8)
rgba = rng.integers(0, 256, (H, W, 4), dtype=np.uint8)
gray = rgb[:, :, 0]


def save(image, name, **options):
    image.save(os.path.join(here, name), **options)


colour = Image.fromarray(rgb)
save(colour, "rgb.png")
save(colour, "rgb-trns.png", transparency=tuple(int(v) for v in rgb[2, 3]))
save(Image.fromarray(rgba), "rgba.png")
save(Image.fromarray(gray), "gray.png")
save(Image.fromarray(rgba[:, :, :2].copy(), "LA"), "la.png")
save(Image.fromarray(gray).convert("1"), "bit.png")
save(Image.fromarray(rng.integers(0, 600, (H, W), dtype=np.uint16)), "gray16.png")
pal = colour.quantize(7)
save(pal, "palette.png")
save(pal, "palette-trns.png", transparency=bytes([0, 128, 255, 3]))
save(pal, "plain.gif")
save(pal, "transparent.gif", transparency=2)
save(pal, "palette.bmp")
save(colour, "rgb.bmp")
save(Image.fromarray(gray), "gray.bmp")
save(colour, "rgb.tiff")
save(colour, "lzw.tiff", compression="tiff_lzw")
save(Image.fromarray(rgba), "rgba.tiff")
save(Image.fromarray(rgba), "lossless.webp", lossless=True, exact=True)
ramp = np.zeros((12, 16, 4), dtype=np.uint8)
ramp[..., 0] = np.arange(16) * 16
ramp[..., 1] = np.arange(12)[:, None] * 20
ramp[..., 2] = 255 - ramp[..., 0]
ramp[..., 3] = np.arange(16) * 8
save(Image.fromarray(ramp, "CMYK"), "cmyk.jpg", quality=100)
save(Image.fromarray(ramp[..., :3].copy()), "444.jpg", quality=100, subsampling=0)
save(Image.fromarray(ramp[..., 0].copy()), "gray.jpg", quality=100)

# A frame that covers only a part of the screen.
b = io.BytesIO()
pal.save(b, "GIF", transparency=5)
b = bytearray(b.getvalue())
b[6:10] = struct.pack("<HH", W + 4, H + 3)
open(os.path.join(here, "partial.gif"), "wb").write(b)


def png16(name, colour_type, channels, trns=False, w=5, h=4):
    a = rng.integers(0, 65536, (h, w, channels), dtype=np.uint16)
    if channels == 1:
        a %= 700

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    raw = b"".join(b"\0" + r.astype(">u2").tobytes() for r in a)
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, colour_type, 0, 0, 0))]
    if trns:
        parts.append(chunk(b"tRNS", a[1, 1].astype(">u2").tobytes()))
    parts += [chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")]
    open(os.path.join(here, name), "wb").write(b"".join(parts))


png16("gray16-trns.png", 0, 1, trns=True)
png16("rgb16.png", 2, 3)
png16("rgb16-trns.png", 2, 3, trns=True)
png16("la16.png", 4, 2)
png16("rgba16.png", 6, 4)

with open(os.path.join(here, "golden.txt"), "w") as f:
    for name in sorted(os.listdir(here)):
        if name.endswith((".py", ".txt")):
            continue
        a = np.asarray(Image.open(os.path.join(here, name)).convert("RGB"))
        f.write(f"{name} {a.shape[1]} {a.shape[0]} {a.tobytes().hex()}\n")
