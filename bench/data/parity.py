"""Compares decoding and cropping with the original's: PIL's Image.open(...).convert("RGB"), then ADM's center_crop_arr,
and the same steps for crops that are not square.

Usage: python3 bench/data/parity.py [NUMBER] [PHOTOS]   (from the top of the tree, after make build)
       python3 bench/data/parity.py golden              writes data/picture/testdata/decode/edge.zip for the tests

Writes NUMBER (500) pictures of random sizes from 20 to 3000 pixels, and one of every kind of file that is known to be
difficult. It runs both programs on them and lists each picture that differs: pixels must be equal, and both programs
must refuse the same files. PHOTOS is a folder of real pictures to add. Needs numpy and a Pillow older than 12.2.
"""
import hashlib
import io
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib

import numpy as np
import PIL
from PIL import Image

from adm import center_crop, center_crop_arr

here = os.path.dirname(os.path.abspath(__file__))
codecs = os.path.join(here, "..", "..", "third_party", "codecs")
rng = np.random.default_rng(0)


def picture(w, h, channels):
    """Something between a photo and noise: smooth shapes, edges, and texture."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    a = np.empty((h, w, channels), np.float32)
    for c in range(channels):
        fx, fy, p = rng.uniform(0.002, 0.2, 2).tolist() + [rng.uniform(0, 6)]
        a[..., c] = 128 + 100 * np.sin(x * fx + p) * np.cos(y * fy + c)
    for _ in range(6):
        x0, y0 = rng.integers(0, w), rng.integers(0, h)
        a[y0 : y0 + rng.integers(1, h + 1), x0 : x0 + rng.integers(1, w + 1)] = rng.integers(0, 256, channels)
    a += rng.normal(0, rng.choice([0, 3, 25]), a.shape).astype(np.float32)
    return np.clip(a, 0, 255).astype(np.uint8)


class Jpeg:
    def __init__(self, folder):
        self.tool = os.path.join(folder, "mkjpeg")
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-o", self.tool, f"-I{codecs}/include",
                        os.path.join(here, "mkjpeg.c"), f"-L{codecs}/lib", "-ljpeg"], check=True)

    def write(self, a, sampling, options, quality=90):
        h, w, n = a.shape
        args = [self.tool, str(w), str(h), str(n), sampling, options or "-", str(quality)]
        return subprocess.run(args, input=a.tobytes(), stdout=subprocess.PIPE, check=True).stdout


def pil(a, mode=None, fmt="JPEG", **options):
    b = io.BytesIO()
    (a if isinstance(a, Image.Image) else Image.fromarray(a, mode)).save(b, fmt, **options)
    return b.getvalue()


SAMPLINGS = ["111111", "211111", "221111", "121111", "411111", "311111", "131111", "421111", "241111", "222111",
             "112111", "111211", "222121", "212111", "122211", "321111", "141111", "111122", "121112"]


def edge_files(jpeg, w=157, h=131):
    """name -> bytes: what the format pages and users' reports warn of."""
    a = picture(w, h, 3)
    ink = picture(w // 2, h // 2, 4)
    base = pil(a, quality=92)
    f = {}
    for s in SAMPLINGS:
        f[f"sampling-{s}.jpg"] = jpeg.write(a, s, "")
        f[f"sampling-{s}-p.jpg"] = jpeg.write(a, s, "p")
    f["arithmetic.jpg"] = jpeg.write(a, "221111", "a")
    f["arithmetic-progressive.jpg"] = jpeg.write(a, "221111", "ap")
    f["restart.jpg"] = jpeg.write(a, "221111", "r")
    f["rgb-components.jpg"] = jpeg.write(a, "111111", "R")
    f["rgb-unmarked.jpg"] = jpeg.write(a, "111111", "Rn")
    f["unmarked.jpg"] = jpeg.write(a, "221111", "n")
    f["gray.jpg"] = pil(a[..., 0].copy())
    f["gray-22.jpg"] = jpeg.write(a[..., :1].copy(), "22", "")
    f["gray-progressive.jpg"] = pil(a[..., 0].copy(), progressive=True)
    f["two.jpg"] = jpeg.write(a[..., :2].copy(), "1111", "")
    for s in ["11111111", "22111122", "21111121"]:
        for o in ["", "n", "Y", "Yn", "p", "Yp"]:
            f[f"ink-{s}-{o}.jpg"] = jpeg.write(ink, s, o)
    f["cmyk-pillow.jpg"] = pil(Image.fromarray(ink, "CMYK"))
    exif = Image.Exif()
    for o in range(1, 9):
        exif[0x0112] = o
        f[f"exif-{o}.jpg"] = pil(a, exif=exif)
        f[f"oriented-{o}.tiff"] = pil(a, fmt="TIFF", tiffinfo={274: o})
    f["exif-broken.jpg"] = base[:2] + b"\xff\xe1\x00\x10Exif\0\0garbage!" + base[2:]
    f["icc.jpg"] = pil(a, icc_profile=bytes(200))
    # truncation and damage
    for n in (2, 3, 20, 0.5, 0.9):
        cut = len(base) - n if n >= 1 else int(len(base) * n)
        f[f"cut-{n}.jpg"] = base[:cut]
    progressive = pil(a, quality=92, progressive=True)
    for n in (2, 0.3, 0.8):
        f[f"cut-progressive-{n}.jpg"] = progressive[: len(progressive) - n if n >= 1 else int(len(progressive) * n)]
    f["after-end.jpg"] = base + b"anything" * 100
    f["padded.jpg"] = base + bytes(5000)
    f["before-start.jpg"] = b"\0" + base
    for i, at in enumerate((0.5, 0.6, 0.7, 0.95)):
        b = bytearray(base)
        for j in range(4):
            b[int(len(b) * at) + 7 * j] ^= 0x55
        f[f"damaged-{i}.jpg"] = bytes(b)
    b = bytearray(base)
    k = b.index(b"\xff\xda") + 200
    b[k:k] = b"\xff\xd9"
    f["early-end.jpg"] = bytes(b)
    f["filled.jpg"] = base[:2] + b"\xff\xff\xff" + base[2:]
    b = bytearray(base)
    b[b.index(b"\xff\xc0") + 4] = 12
    f["twelve-bits.jpg"] = bytes(b)
    f["empty.jpg"] = b""
    f["soi.jpg"] = b"\xff\xd8\xff"
    f["text.jpg"] = b"this is not a picture\n" * 10
    # other formats, some under a name that lies
    f["a-png.JPEG"] = pil(a, fmt="PNG")
    f["rgba.png"] = pil(np.dstack([a, a[..., :1]]), fmt="PNG")
    f["la.png"] = pil(Image.fromarray(a[..., :2].copy(), "LA"), fmt="PNG")
    f["bit.png"] = pil(Image.fromarray(a).convert("1"), fmt="PNG")
    palette = Image.fromarray(a).quantize(60)
    f["palette.png"] = pil(palette, fmt="PNG")
    f["palette-trns.png"] = pil(palette, fmt="PNG", transparency=bytes(range(60)))
    f["palette-2.png"] = pil(Image.fromarray(a).quantize(3), fmt="PNG", bits=2)
    f["gray16.png"] = pil(Image.fromarray((a[..., 0].astype(np.uint16) * 3)), fmt="PNG")
    f["rgb-trns.png"] = pil(a, fmt="PNG", transparency=tuple(int(v) for v in a[3, 4]))
    f["apng.png"] = pil(Image.fromarray(a), fmt="PNG", save_all=True, append_images=[Image.fromarray(255 - a)])
    f["interlaced.png"] = interlaced(a)
    f["cut.png"] = f["rgba.png"][:-300]
    f["plain.gif"] = pil(palette, fmt="GIF")
    f["transparent.gif"] = pil(palette, fmt="GIF", transparency=3)
    f["animated.gif"] = pil(palette, fmt="GIF", save_all=True, append_images=[palette.transpose(Image.ROTATE_180)])
    f["rgb.bmp"] = pil(a, fmt="BMP")
    f["palette.bmp"] = pil(palette, fmt="BMP")
    f["gray.bmp"] = pil(a[..., 0].copy(), fmt="BMP")
    for c in ("raw", "tiff_lzw", "tiff_deflate", "packbits"):
        f[f"{c}.tiff"] = pil(a, fmt="TIFF", compression=c)
    f["gray.tiff"] = pil(a[..., 0].copy(), fmt="TIFF")
    f["rgba.tiff"] = pil(np.dstack([a, a[..., :1]]), fmt="TIFF")
    for q in (10, 60, 95):
        f[f"lossy-{q}.webp"] = pil(a, fmt="WEBP", quality=q)
    f["lossless.webp"] = pil(a, fmt="WEBP", lossless=True)
    f["alpha.webp"] = pil(np.dstack([a, a[..., :1]]), fmt="WEBP", quality=80)
    f["alpha-lossless.webp"] = pil(np.dstack([a, a[..., :1]]), fmt="WEBP", lossless=True, exact=True)
    f["animated.webp"] = pil(Image.fromarray(a), fmt="WEBP", save_all=True, append_images=[Image.fromarray(255 - a)],
                             quality=70)
    f["cut.webp"] = f["lossy-60.webp"][:-100]
    return f


def interlaced(a):
    """An Adam7 PNG, which Pillow does not write."""
    raw = b""
    for x0, y0, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
                           (0, 1, 1, 2)):
        part = a[y0::dy, x0::dx]
        if part.size:
            raw += b"".join(b"\0" + row.tobytes() for row in part)
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    head = struct.pack(">IIBBBBB", a.shape[1], a.shape[0], 8, 2, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def random_file(jpeg):
    """A picture of random size and kind, mostly JPEG."""
    w, h = (int(np.exp(rng.uniform(np.log(20), np.log(3000)))) for _ in range(2))
    kind = rng.integers(0, 12)
    if kind < 7:
        options = rng.choice(["", "p", "r", "n"])
        return "jpg", jpeg.write(picture(w, h, 3), rng.choice(SAMPLINGS), options, int(rng.integers(5, 101)))
    if kind == 7:
        return "jpg", pil(picture(w, h, 1)[..., 0].copy(), quality=int(rng.integers(5, 96)))
    if kind == 8:
        return "jpg", jpeg.write(picture(w, h, 4), "11111111", rng.choice(["", "Y", "p"]), int(rng.integers(5, 101)))
    if kind == 9:
        exif = Image.Exif()
        exif[0x0112] = int(rng.integers(1, 9))
        return "jpg", pil(picture(w, h, 3), quality=int(rng.integers(5, 96)), subsampling=int(rng.integers(0, 3)),
                          exif=exif)
    if kind == 10:
        return "png", pil(picture(w, h, 3), fmt="PNG", compress_level=1)
    return "webp", pil(picture(w, h, 3), fmt="WEBP", quality=int(rng.integers(5, 100)), method=0)


def reference(path, height, width):
    try:
        with Image.open(path) as im:
            rgb = im.convert("RGB")
    except Exception as e:
        return f"refused: {type(e).__name__} {e}"
    crop = center_crop_arr(rgb, height) if height == width else center_crop(rgb, height, width)
    return hashlib.sha256(crop.tobytes()).hexdigest()


def golden():
    """The edge cases in small, each with the hash of its crop of 16 pixels, or that Pillow refuses it."""
    with tempfile.TemporaryDirectory() as folder:
        files = edge_files(Jpeg(folder), 37, 29)
        path = os.path.join(folder, "picture")
        with zipfile.ZipFile(os.path.join(here, "../../data/picture/testdata/decode/edge.zip"), "w",
                             zipfile.ZIP_DEFLATED) as z:
            lines = []
            for name in sorted(files):
                with open(path, "wb") as f:
                    f.write(files[name])
                lines.append(f"{name} {reference(path, 16, 16).split(':')[0]}\n")
                z.writestr(zipfile.ZipInfo(name), files[name], zipfile.ZIP_DEFLATED)
            z.writestr(zipfile.ZipInfo("golden.txt"), "".join(lines))


def main():
    if sys.argv[1:] == ["golden"]:
        return golden()
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    version = tuple(int(v) for v in PIL.__version__.split(".")[:2])
    if version >= (12, 2):
        sys.exit(f"Pillow {PIL.__version__} resizes in another order: install one older than 12.2")
    with tempfile.TemporaryDirectory() as folder:
        jpeg = Jpeg(folder)
        pictures = os.path.join(folder, "pictures")
        os.mkdir(pictures)
        files = edge_files(jpeg)
        while len(files) < number:
            ext, b = random_file(jpeg)
            files[f"random-{len(files):04d}.{ext}"] = b
        for name, b in files.items():
            with open(os.path.join(pictures, name), "wb") as f:
                f.write(b)
        if len(sys.argv) > 2:
            for root, _, names in os.walk(sys.argv[2]):
                for name in names:
                    if name.lower().endswith((".jpg", ".jpeg", ".png", ".gif", ".tif", ".tiff", ".bmp", ".webp")):
                        os.symlink(os.path.abspath(os.path.join(root, name)),
                                   os.path.join(pictures, f"photo-{len(os.listdir(pictures))}-{name}"))
        names = sorted(os.listdir(pictures))
        tool = os.path.join(folder, "crops")
        subprocess.run(["go", "build", "-o", tool, "./bench/data/crops"], check=True)
        failed = 0
        for height, width in ((256, 256), (512, 512), (256, 384)):
            size = f"{height}x{width}"
            out = subprocess.run([tool, size] + [os.path.join(pictures, n) for n in names], stdout=subprocess.PIPE,
                                 check=True)
            equal, refused, refusals = 0, 0, []
            for name, line in zip(names, out.stdout.decode().splitlines()):
                want = reference(os.path.join(pictures, name), height, width)
                if line == want:
                    equal += 1
                elif want.startswith("refused") and line.startswith("refused"):
                    refused += 1
                    refusals.append(f"{name} ({want[9:].splitlines()[0]})")
                else:
                    failed += 1
                    print(f"{name} at {size}: ours {line}, PIL {want}")
            if height == width == 256:
                print("refused by both: " + "; ".join(refusals))
            print(f"crop {size}: {equal} of {len(names)} pictures equal byte for byte, {refused} refused by both "
                  f"(Pillow {PIL.__version__})")
        sys.exit(failed > 0)


main()
