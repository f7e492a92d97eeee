#!/usr/bin/env python3
"""statistics_near.py TOLERANCE A B: two directories of float32 tensors (statistics, merges) agree: in every tensor the largest difference is at
most TOLERANCE times its largest value. Prints the worst tensor. The standard library alone."""
import array
import json
import struct
import sys
from pathlib import Path


def tensors(folder):
    for path in sorted(Path(folder).glob("*.safetensors")):
        data = path.read_bytes()
        (n,) = struct.unpack_from("<Q", data)
        for name, entry in json.loads(data[8 : 8 + n]).items():
            if name == "__metadata__":
                continue
            begin, end = (8 + n + at for at in entry["data_offsets"])
            yield name, array.array("f", data[begin:end])


tolerance = float(sys.argv[1])
ours, theirs = dict(tensors(sys.argv[2])), dict(tensors(sys.argv[3]))
if not ours or ours.keys() != theirs.keys():
    sys.exit(f"other tensors: {sorted(ours.keys() ^ theirs.keys())}")
worst, where = 0.0, ""
for name, a in ours.items():
    b = theirs[name]
    if len(a) != len(b):
        sys.exit(f"{name}: {len(a)} and {len(b)} values")
    largest = max(map(abs, b))
    apart = max(abs(x - y) for x, y in zip(a, b))
    if not apart <= tolerance * largest:
        sys.exit(f"{name}: apart by {apart:.3g}, the largest value is {largest:.3g}")
    if largest > 0 and apart / largest > worst:
        worst, where = apart / largest, name
print(f"within {worst:.2g} of the largest value ({where or 'no difference'})")
