"""Makes pictures.zip: small pictures with an EXIF orientation, and golden.txt, how Pillow reads them.

A line of golden.txt: file, whether Pillow sees an orientation other than 1, width, height and hex RGB of the picture as
stored, and the same of ImageOps.exif_transpose.
"""
import io
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

from PIL import Image, ImageOps

here = Path(__file__).parent
W, H = 7, 5


def picture(mode="RGB"):
    img = Image.new("RGB", (W, H))
    img.putdata([(40 * x % 256, 60 * y % 256, (37 * x * y + 90) % 256) for y in range(H) for x in range(W)])
    return img.convert(mode)


def exif(orientation, order="<", kind=3, count=1, tags=1, second=None, magic=None, tag=274):
    """EXIF data of one directory, after its mark."""
    mark = magic or (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 42)
    value = {1: "Bxxx", 2: "4s", 3: "Hxx", 4: "I", 8: "hxx", 9: "i"}[kind]
    if kind == 2:
        orientation = str(orientation).encode()
    entries = struct.pack(order + "HHI" + value, tag, kind, count, orientation) * tags
    out = mark + struct.pack(order + "I", 8) + struct.pack(order + "H", tags) + entries
    if second is None:
        return out + struct.pack(order + "I", 0)
    out += struct.pack(order + "I", len(out) + 4)
    return out + struct.pack(order + "HHHI" + value, 1, 274, kind, count, second) + struct.pack(order + "I", 0)


def jpeg(*segments, mode="RGB"):
    b = io.BytesIO()
    picture(mode).save(b, "JPEG", quality=95)
    b = b.getvalue()
    return b[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(s) + 2) + s for s in segments) + b[2:]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(data, after=False, mode="RGB"):
    b = io.BytesIO()
    picture(mode).save(b, "PNG")
    b = b.getvalue()
    at = b.index(b"IEND") - 4 if after else b.index(b"IDAT") - 4
    return b[:at] + chunk(b"eXIf", data) + b[at:]


def webp(data, announced=True, mark=b""):
    b = io.BytesIO()
    picture().save(b, "WEBP", lossless=True, exif=b"Exif\0\0" + exif(1))
    b = b.getvalue()
    at = b.index(b"EXIF")
    data = mark + data
    b = b[:at] + b"EXIF" + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    flags = b[20] if announced else b[20] & ~8
    b = b[:20] + bytes([flags]) + b[21:]
    return b[:4] + struct.pack("<I", len(b) - 8) + b[8:]


def tiff(orientation):
    b = io.BytesIO()
    picture().save(b, "TIFF", tiffinfo={274: orientation})
    return b.getvalue()


M = b"Exif\0\0"
files = {}
for o in range(1, 9):
    files[f"{o}.jpg"] = jpeg(M + exif(o, "<>"[o % 2]))
    files[f"{o}.png"] = png(exif(o, "<>"[o % 2]))
    files[f"{o}.webp"] = webp(exif(o, "<>"[o % 2]))
    files[f"{o}.tiff"] = tiff(o)
files |= {
    "gray.jpg": jpeg(M + exif(6), mode="L"),
    "palette.png": png(exif(8, ">"), mode="P"),
    "rgba.png": png(exif(5), mode="RGBA"),
    "xmp-first.jpg": jpeg(b"http://ns.adobe.com/xap/1.0/\0<x/>", M + exif(3)),
    "two-parts.jpg": jpeg(M + exif(6)[:14], M + exif(6)[14:]),
    "none.jpg": jpeg(),
    "zero.jpg": jpeg(M + exif(0)),
    "nine.jpg": jpeg(M + exif(9)),
    "long.jpg": jpeg(M + exif(6, kind=4)),
    "large-long.jpg": jpeg(M + exif(0x10006, kind=4)),
    "signed.jpg": jpeg(M + exif(6, ">", kind=8)),
    "byte.jpg": jpeg(M + exif(6, kind=1)),
    "two-values.jpg": jpeg(M + exif(6, count=2)),
    "no-values.jpg": jpeg(M + exif(6, count=0)),
    "three-values.jpg": jpeg(M + exif(8, count=3, kind=4) + struct.pack("<HHH", 3, 1, 1)),
    "values-outside.jpg": jpeg(M + exif(60, count=3, kind=4)),
    "repeated.jpg": jpeg(M + exif(6, tags=2)),
    "other-tag.jpg": jpeg(M + exif(6, tag=275)),
    "second-directory.jpg": jpeg(M + exif(1, second=6)),
    "only-second.jpg": jpeg(M + exif(6, tag=256, second=8)),
    "cut.jpg": jpeg(M + exif(6)[:16]),
    "many-announced.jpg": jpeg(M + exif(6)[:8] + b"\xff\xff" + exif(6)[10:]),
    "far-directory.jpg": jpeg(M + exif(6)[:4] + b"\xff\xff\xff\xff" + exif(6)[8:]),
    "mixed-header.jpg": jpeg(M + exif(6, magic=b"II\0\x2a")),
    "after-pixels.png": png(exif(6), after=True),
    "marked.webp": webp(exif(6), mark=M),
    "odd.webp": webp(exif(6) + b"\0"),
    "not-announced.webp": webp(exif(6), announced=False),
}

lines = []
warnings.simplefilter("ignore")
with zipfile.ZipFile(here / "pictures.zip", "w", zipfile.ZIP_DEFLATED) as z:
    for name, data in sorted(files.items()):
        img = Image.open(io.BytesIO(data))
        img.load()
        seen = img.getexif().get(274, 1) in range(2, 9)
        turned = ImageOps.exif_transpose(img).convert("RGB")
        stored = img.convert("RGB")
        fields = [name, str(seen and not name.endswith(".tiff"))]
        for i in (stored, turned):
            fields += [str(i.width), str(i.height), i.tobytes().hex()]
        lines.append(" ".join(fields))
        z.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED, 9)
    z.writestr(zipfile.ZipInfo("golden.txt"), "\n".join(lines) + "\n", zipfile.ZIP_DEFLATED, 9)
