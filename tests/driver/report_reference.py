#!/usr/bin/env python3
"""Figures of `ingot report` for tests/experts, by NumPy: the numbers in report.sh.

The merge there is base + 1 * (add - base) + 0 * (sort - base), so the output differs from the base where add does.
"""
import json, pathlib, re, struct
import numpy as np

EXPERTS = pathlib.Path(__file__).resolve().parent.parent / "experts"


def load(name):
    raw = (EXPERTS / name / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    tensors = {}
    for key, info in json.loads(raw[8:8 + size]).items():
        if key == "__metadata__":
            continue
        begin, end = info["data_offsets"]
        data = raw[8 + size + begin:8 + size + end]
        if info["dtype"] == "BF16":
            wide = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            wide = np.frombuffer(data, {"F16": "<f2", "F32": "<f4"}[info["dtype"]])
        tensors[key] = wide.astype(np.float64)
    return tensors


base, add, sort = load("base"), load("add"), load("sort")
rows = {}
for key, value in base.items():
    layer = re.search(r"layers\.(\d+)\.", key)
    where = f"layer {layer[1]}" if layer else "embeddings" if "embed" in key else "head and others"
    rows.setdefault(where, []).append((add[key] - value, sort[key] - value))
for where in sorted(rows):
    a = np.concatenate([pair[0] for pair in rows[where]])
    s = np.concatenate([pair[1] for pair in rows[where]])
    print(where, a.size, int(((a != 0) | (s != 0)).sum()), int((a * s < 0).sum()), "%.6g %.6g" % (a @ a, s @ s),
          "%.6g %.6g" % (abs(a).sum(), abs(s).sum()), "%.6g %.6g" % (abs(a).sum(), abs(s[a != 0]).sum()))
a = np.concatenate([add[key] - base[key] for key in base])
s = np.concatenate([sort[key] - base[key] for key in base])
print("dot %.6g" % (a @ s))
