"""Writes the tables of TestPyarrowTables with pyarrow: python make.py [FOLDER], all combinations with --all."""
import hashlib
import itertools
import os
import sys

import pyarrow as pa
import pyarrow.parquet as pq


def picture(row, size):
    """Bytes that no codec makes smaller: what is decompressed in the wrong place shows."""
    b = b"".join(hashlib.sha256(b"%d %d" % (row, i)).digest() for i in range(size // 32))
    return b"\x89PNG" + b


def table(rows, large, nullable):
    pictures = [picture(i, 480) for i in range(rows)]
    labels = [i % 3 for i in range(rows)]
    if nullable and rows > 2:
        pictures[2] = None
    schema = pa.schema([
        pa.field("image", pa.large_binary() if large else pa.binary(), nullable),
        pa.field("label", pa.int64() if large else pa.int8(), nullable),
    ])
    return pa.table({"image": pictures, "label": labels}, schema=schema)


def main():
    folder = next((a for a in sys.argv[1:] if not a.startswith("-")), os.path.dirname(os.path.abspath(__file__)))
    codecs = ["none", "snappy", "gzip", "brotli", "zstd", "lz4"]
    choices = [("1.0", "2.0"), (True, False), (False, True), (False, True), (4, 7)]
    for k, codec in enumerate(codecs):
        for n, (version, dictionary, nullable, large, group) in enumerate(itertools.product(*choices)):
            # Of the 32 combinations a codec has four, in which every choice stands twice, and others with other codecs.
            bits = [n >> b & 1 for b in range(5)]
            if "--all" not in sys.argv and not (bits[2] == bits[0] ^ bits[1] ^ k & 1 and bits[3] == bits[0]
                                                and bits[4] == bits[1] ^ k >> 1 & 1):
                continue
            name = (f"{codec}-v{version[0]}{'-dict' if dictionary else ''}{'-null' if nullable else ''}"
                    f"{'-large' if large else ''}-g{group}")
            t = table(7, large, nullable)
            with pq.ParquetWriter(f"{folder}/{name}.parquet", t.schema, compression=codec, data_page_version=version,
                                  use_dictionary=dictionary, store_schema=False, write_statistics=False) as w:
                w.write_table(t.slice(0, 0))  # a row group without rows
                w.write_table(t, row_group_size=group)


if __name__ == "__main__":
    main()
