#!/usr/bin/env python3
"""Reference numbers for the merge methods, worked out in float64 with NumPy, apart from the program's own code.

    python3 -m venv venv && venv/bin/pip install numpy ml_dtypes xxhash
    venv/bin/python merge_reference.py          # writes merge_reference.bin beside this file

Selection is by sorting, votes and sums are written as the papers and mergekit define them, and random masks come from a
second implementation of Philox4x32-10, checked here against the published known-answer vectors.

Inputs lie on a coarse binary grid and weights are dyadic, so that differences and votes are exact in float32 as in float64:
the two can differ by rounding, never by a decision. Each case carries its tolerances.

File (little endian): "INGOTREF", u32 version 1, u32 number of cases; a case is name[64] method[32] parameters[160],
u64 seed, f64 absolute and f64 relative tolerance, u32 has_base, u32 n_model, u32 n_tensor, u32 n_statistic, then its tensors; a
tensor is name[32], output dtype[8], u32 n_dim, u32 0, i64 dim[8], then for the base (if any), every model and every statistic dtype[8]
and the elements, then the expected elements as f64. Names are zero-padded, dtypes are those of safetensors.
"""

import math
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import xxhash

DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
# Half a unit in the last place, relative; half the smallest subnormal. F64 outputs hold float32 results.
ROUNDING = {
    "F64": (2.0**-24, 0.0),
    "F32": (2.0**-24, 0.0),
    "F16": (2.0**-11, 2.0**-25),
    "BF16": (2.0**-8, 0.0),
    "F8_E4M3": (2.0**-4, 2.0**-10),
    "F8_E5M2": (2.0**-3, 2.0**-17),
}
GRID = {"F64": 16, "F32": 16, "F16": 12, "BF16": 12, "F8_E4M3": 9, "F8_E5M2": 12}


# Philox4x32-10 on arrays of counters; `domain` is the third word of them all.
def philox(key, counter, domain=0):
    mask = np.uint64(0xFFFFFFFF)
    c = [counter & mask, counter >> np.uint64(32), np.full_like(counter, domain), np.zeros_like(counter)]
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c[0]
        p1 = np.uint64(0xCD9E8D57) * c[2]
        c = [
            (p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0),
            p1 & mask,
            (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1),
            p0 & mask,
        ]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, axis=-1)


def philox_words(key, counter):
    """The general form on one 128-bit counter, for the known answers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def check_philox():
    f = 0xFFFFFFFF
    known = [  # Random123, kat_vectors
        ([0, 0], [0, 0, 0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([f, f], [f, f, f, f], [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        ([0xA4093822, 0x299F31D0], [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
         [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
    ]
    for key, counter, answer in known:
        assert philox_words(key, counter) == answer
    counters = np.array([0, 1, 2**32 - 1, 2**32, 2**40 + 7], dtype=np.uint64)
    for counter, row in zip(counters, philox(0x0123456789ABCDEF, counters)):
        c = int(counter)
        assert philox_words([0x89ABCDEF, 0x01234567], [c & f, c >> 32, 0, 0]) == [int(w) for w in row]
    for counter, row in zip(counters, philox(0x0123456789ABCDEF, counters, 1)):
        c = int(counter)
        assert philox_words([0x89ABCDEF, 0x01234567], [c & f, c >> 32, 1, 0]) == [int(w) for w in row]


def random_mask(seed, name, model, n, density):
    key = xxhash.xxh3_64_intdigest(name.encode())
    word = [int(w) for w in philox(seed, np.array([key], dtype=np.uint64))[0]]
    word = [int(w) for w in philox(word[0] | word[1] << 32, np.array([model], dtype=np.uint64))[0]]
    stream, mask = word[0] | word[1] << 32, np.uint64(0xFFFF)
    words = philox(stream, np.arange((n + 7) // 8, dtype=np.uint64))
    halves = np.stack([words & mask, words >> np.uint64(16)], axis=-1).reshape(-1)[:n]
    # All 48 bits for every element, also where the upper 16 decide.
    second = philox(stream, np.arange(n, dtype=np.uint64), 1)[:, 0] if n else halves
    return (halves << np.uint64(32) | second) < np.uint64(math.floor(density * 2.0**48))


# Methods. `x` is [n_input][n] in float64, the base first when there is one; `p` the parameters.
def l1_factor(tau, kept):
    whole, rest = np.abs(tau).sum(), np.abs(kept).sum()
    return whole / rest if whole >= 1e-7 and rest >= 1e-7 else 1.0


def linear(x, p, **_):
    out = sum(w * v for w, v in zip(p["weight"], x))
    return out / sum(p["weight"]) if p["normalize"] else out


def passthrough(x, p, **_):
    return p["scale"][0] * x[0]


def slerp(x, p, **_):
    t = p["t"]
    n0, n1 = math.sqrt(float(x[0] @ x[0])), math.sqrt(float(x[1] @ x[1]))
    u0 = x[0] / n0 if n0 > 1e-8 else x[0]
    u1 = x[1] / n1 if n1 > 1e-8 else x[1]
    d = float(u0 @ u1)
    if abs(d) > 0.9995:
        return (1 - t) * x[0] + t * x[1]
    angle = math.acos(d)
    return (math.sin((1 - t) * angle) * x[0] + math.sin(t * angle) * x[1]) / math.sin(angle)


def vote_and_merge(y, weights, normalize, zero_sign=1.0):
    total = y.sum(axis=0)
    assert np.all((np.abs(total) > 1e-4) | (total == 0)), "a vote too close to call in float32"
    sign = np.where(total > 0, 1.0, np.where(total < 0, -1.0, zero_sign))
    agree = np.sign(y) == sign
    merged = (y * agree).sum(axis=0)
    if normalize:
        divisor = (np.array(weights)[:, None] * agree).sum(axis=0)
        merged = merged / np.where(divisor == 0, 1.0, divisor)
    return merged


def task_arithmetic(x, p, **_):
    delta = sum(w * (v - x[0]) for w, v in zip(p["weight"], x[1:]))
    return x[0] + p["lambda"] * (delta / sum(p["weight"]) if p["normalize"] else delta)


def dare(x, p, seed, name, vote):
    y = []
    for i, v in enumerate(x[1:]):
        tau = v - x[0]
        d = p["density"][i]
        if d < 1:
            kept = np.where(random_mask(seed, name, i, len(tau), d), tau, 0.0)
            factor = {"none": 1.0, "l1": l1_factor(tau, kept), "inv_density": 1 / d}[p["rescale"]]
            tau = factor * kept
        y.append(p["weight"][i] * tau)
    y = np.array(y)
    if vote:
        return x[0] + p["lambda"] * vote_and_merge(y, p["weight"], p["normalize"])
    return x[0] + p["lambda"] * (y.sum(axis=0) / (sum(p["weight"]) if p["normalize"] else 1.0))


def kept_largest(tau, k):
    order = sorted(range(len(tau)), key=lambda i: (-abs(tau[i]), i))
    kept = np.zeros(len(tau))
    kept[order[:k]] = tau[order[:k]]
    return kept


def ties_tensor(x, p, **_):
    y = []
    for i, v in enumerate(x[1:]):
        tau = v - x[0]
        d = p["density"][i]
        kept = tau
        if d < 1:
            k = math.floor(d * len(tau))
            k = k + 1 if p["keep"] == "floor_plus_one" else max(1, k)
            kept = kept_largest(tau, k)
            if p["rescale"] == "l1":
                kept = kept * l1_factor(tau, kept)
        y.append(p["weight"][i] * kept)
    return x[0] + p["lambda"] * vote_and_merge(np.array(y), p["weight"], p["normalize"])


def ties_model(tensors, p):
    """Over all tensors at once; a list of arrays comes back."""
    whole = [np.concatenate([t[i] for t in tensors]) for i in range(len(tensors[0]))]
    y = []
    for i, v in enumerate(whole[1:]):
        tau = v - whole[0]
        d = p["density"][i]
        if d < 1:
            k = math.floor(d * len(tau)) + (p["keep"] != "floor")
            tau = np.where(np.abs(tau) >= np.sort(np.abs(tau))[len(tau) - k], tau, 0.0)
        y.append(p["weight"][i] * tau)
    y = np.array(y)
    zero = 1.0
    if p["zero"] != "plus":
        zero = 1.0 if np.sign(y.sum(axis=0)).sum() > 0 else -1.0
    out = whole[0] + p["lambda"] * vote_and_merge(y, p["weight"], p["normalize"], zero)
    return np.split(out, np.cumsum([len(t[0]) for t in tensors])[:-1])


def fisher_scale(tensors, p):
    """Weights as given, or divided by the norm of a model's Fisher information over all tensors."""
    n = len(p["weight"])
    norm = [math.sqrt(sum(float(t[n + i] @ t[n + i]) for t in tensors)) for i in range(n)]
    if p["normalize"] == "l2":
        return [w / v for w, v in zip(p["weight"], norm)]
    if p["normalize"] == "mergelm":
        inverse = [1 / (v + 1e-6) for v in norm]
        return [w * v / sum(inverse) for w, v in zip(p["weight"], inverse)]
    return p["weight"]


def fisher_merge(tensors, p):
    n, scale, out = len(p["weight"]), fisher_scale(tensors, p), []
    for t in tensors:
        models, information = np.array(t[:n]), np.array(t[n:])
        if p["floor_rule"] == "add":
            information = information + p["floor"]
        elif p["floor_rule"] == "max_first":
            information[0] = np.maximum(information[0], p["floor"])
        else:
            information = np.maximum(information, p["floor"])
        c = np.array(scale)[:, None] * information
        plain = (np.array(p["weight"])[:, None] * models).sum(axis=0) / sum(p["weight"])
        with np.errstate(invalid="ignore"):
            out.append(np.where(c.sum(axis=0) > 0, (c * models).sum(axis=0) / c.sum(axis=0), plain))
    return out


METHODS = {
    "linear": linear,
    "slerp": slerp,
    "task_arithmetic": task_arithmetic,
    "ties": ties_tensor,
    "dare_linear": lambda x, p, **k: dare(x, p, vote=False, **k),
    "dare_ties": lambda x, p, **k: dare(x, p, vote=True, **k),
    "passthrough": passthrough,
}
DEFAULTS = {
    "linear": {"normalize": True, "weight": None},
    "slerp": {"t": None},
    "task_arithmetic": {"normalize": False, "lambda": 1.0, "weight": None},
    "ties": {"normalize": True, "lambda": 1.0, "rescale": "none", "scope": "tensor", "zero": "auto", "keep": "auto",
             "weight": None, "density": 1.0},
    "dare_linear": {"normalize": False, "lambda": 1.0, "rescale": "l1", "weight": None, "density": 1.0},
    "dare_ties": {"normalize": False, "lambda": 1.0, "rescale": "l1", "weight": None, "density": 1.0},
    "passthrough": {"scale": 1.0},
    "fisher": {"floor": 0.0, "floor_rule": "max_all", "normalize": "none", "weight": 1.0},
}
PER_MODEL = ("weight", "density", "scale")
WITH_BASE = ("slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties")


def full_parameters(method, given, n_model):
    p = dict(DEFAULTS[method])
    p.update(given)
    for name in PER_MODEL:
        if name in p and not isinstance(p[name], (list, tuple)):
            p[name] = [p[name]] * n_model
    return p


def parameter_text(given):
    items = []
    for name, value in given.items():
        if isinstance(value, (list, tuple)):
            items += [f"{name}@{i}={v!r}" for i, v in enumerate(value)]
        else:
            items.append(f"{name}={str(value).lower() if isinstance(value, bool) else value}")
    return " ".join(items)


def make_inputs(rng, shape, dtypes, spread):
    """The first input at random, the others near it; all on the grid of their dtype."""
    first, out = None, []
    for dtype in dtypes:
        v = rng.normal(0, 0.5, shape) if first is None else first + rng.normal(0, spread, shape)
        v = np.clip(v, -3, 3)
        v = np.round(v * 2.0 ** GRID[dtype]) / 2.0 ** GRID[dtype]
        stored = np.asarray(v).astype(DTYPES[dtype])
        first = stored.astype(np.float64) if first is None else first
        out.append(stored)
    return out


def text(s, size):
    b = s.encode()
    assert len(b) < size, s
    return b.ljust(size, b"\0")


def make_case(rng, name, method, given, shapes, dtypes, out_dtype, spread=0.25, inputs=None):
    has_base = method in WITH_BASE
    n_model = len(dtypes) - has_base
    p = full_parameters(method, given, n_model)
    seed = int(rng.integers(0, 2**63))
    names = [f"layer.{i}.weight" for i in range(len(shapes))]
    stored = [inputs] if inputs else [make_inputs(rng, s, dtypes, spread) for s in shapes]
    wide = [[np.atleast_1d(v.astype(np.float32).astype(np.float64)).reshape(-1) for v in t] for t in stored]
    if p.get("scope") == "model":
        expected = ties_model(wide, p)
    else:
        expected = [METHODS[method](t, p, seed=seed, name=n) for t, n in zip(wide, names)]
    size = max([float(np.abs(v).max()) for t in wide for v in t if v.size] + [float(np.abs(e).max()) for e in expected if e.size] + [0.0])
    factors = sum(abs(w) for w in p.get("weight", p.get("scale", [1.0])))
    absolute = 2.0**-22 * size * (2 + factors * abs(p.get("lambda", 1.0))) + ROUNDING[out_dtype][1]
    out = text(name, 64) + text(method, 32) + text(parameter_text(given), 160)
    out += struct.pack("<QddIIII", seed, absolute, ROUNDING[out_dtype][0], has_base, n_model, len(shapes), 0)
    for tensor_name, shape, t, e in zip(names, shapes, stored, expected):
        dims = list(shape) + [0] * (8 - len(shape))
        out += text(tensor_name, 32) + text(out_dtype, 8) + struct.pack("<II8q", len(shape), 0, *dims)
        for dtype, v in zip(dtypes, t):
            out += text(dtype, 8) + v.tobytes()
        out += np.asarray(e, dtype="<f8").tobytes()
    return out


def variants(method):
    """Parameters to try with three models, by name."""
    w = [0.75, 0.5, 1.25]
    if method == "linear":
        return {"normalized": {"weight": w}, "plain": {"weight": w, "normalize": False}}
    if method == "slerp":
        return {"t": {"t": 0.3}, "beyond": {"t": 1.5}}
    if method == "passthrough":
        return {"scale": {"scale": [0.3]}}
    if method == "task_arithmetic":
        return {"plain": {"weight": w, "lambda": 0.7}, "normalized": {"weight": [0.75, -0.5, 1.25], "normalize": True}}
    d = [0.4, 0.75, 1.0]
    if method == "ties":
        return {
            "tensor": {"weight": w, "density": d},
            "plain": {"weight": [0.75, 0.5, -0.25], "density": d, "normalize": False, "lambda": 0.5},
            "l1": {"weight": w, "density": [0.3, 0.5, 0.6], "rescale": "l1"},
            "plus_one": {"weight": w, "density": d, "keep": "floor_plus_one"},
        }
    return {
        "l1": {"weight": w, "density": d},
        "inverse": {"weight": w, "density": d, "rescale": "inv_density", "lambda": 0.5},
        "none": {"weight": w, "density": d, "rescale": "none", "normalize": True},
    }


def n_inputs(method):
    return {"passthrough": 1, "slerp": 2, "linear": 3}.get(method, 4)


def make_fisher_case(rng, name, given, shapes, dtypes, out_dtype, statistic_dtype="F32"):
    """Models near each other, and statistics over many orders of magnitude, some of them 0."""
    n = len(dtypes)
    p = full_parameters("fisher", given, n)
    names = [f"layer.{i}.weight" for i in range(len(shapes))]
    stored = []
    for shape in shapes:
        models = make_inputs(rng, shape, dtypes, 0.25)
        information = [np.asarray(10.0 ** rng.uniform(-12, -3, shape) * (rng.random(shape) > 0.2)) for _ in range(n)]
        if information[0].size > 2:
            for v in information:
                v.reshape(-1)[2] = 0
        stored.append(models + [v.astype(DTYPES[statistic_dtype]) for v in information])
    wide = [[np.atleast_1d(v.astype(np.float64)).reshape(-1) for v in t] for t in stored]
    expected = fisher_merge(wide, p)
    out = text(name, 64) + text("fisher", 32) + text(parameter_text(given), 160)
    out += struct.pack("<QddIIII", 1, ROUNDING[out_dtype][1] + 1e-7, ROUNDING[out_dtype][0] * 1.001, False, n, len(shapes), n)
    for tensor_name, shape, t, e in zip(names, shapes, stored, expected):
        out += text(tensor_name, 32) + text(out_dtype, 8)
        out += struct.pack("<II8q", len(shape), 0, *(list(shape) + [0] * (8 - len(shape))))
        for dtype, v in zip(dtypes + [statistic_dtype] * n, t):
            out += text(dtype, 8) + v.tobytes()
        out += np.asarray(e, dtype="<f8").tobytes()
    return out


def fisher_cases():
    rng = np.random.default_rng(36)
    w, shapes = [0.75, 0.5, 1.25], [(6, 7), (0, 3), (11,), (), (5, 9)]
    cases = []
    for name, given in {
        "plain": {}, "weights": {"weight": w}, "floor": {"weight": w, "floor": 1e-8}, "one": {"floor": 1e-6},
        "first": {"weight": w, "floor": 1e-6, "floor_rule": "max_first"}, "add": {"floor": 1e-6, "floor_rule": "add"},
        "l2": {"weight": w, "normalize": "l2", "floor": 1e-6}, "mergelm": {"weight": w, "normalize": "mergelm"},
        "mergelm add": {"floor": 1e-6, "floor_rule": "add", "normalize": "mergelm"},
    }.items():
        n = 1 if name == "one" else 3
        some = shapes + [(4101,)] if name == "l2" else shapes
        cases.append(make_fisher_case(rng, f"fisher {name}", given, some, ["BF16"] * n, "F32"))
    for dtype in ("F64", "F16", "BF16"):
        cases.append(make_fisher_case(rng, f"fisher {dtype}", {"weight": w}, [(5, 7)], [dtype] * 3, dtype))
    cases.append(make_fisher_case(rng, "fisher statistics in bf16", {}, [(33,)], ["F32", "BF16"], "BF16", "BF16"))
    return cases


def main():
    check_philox()
    rng = np.random.default_rng(20240607)
    cases = []
    for method in METHODS:
        n = n_inputs(method)
        for variant, given in variants(method).items():
            cases.append(make_case(rng, f"{method} {variant}", method, given, [(9, 13)], ["BF16"] * n, "F32"))
        variant, given = next(iter(variants(method).items()))
        for dtype in DTYPES:
            cases.append(make_case(rng, f"{method} {dtype}", method, given, [(5, 7)], [dtype] * n, dtype))
        mixed = ["F32", "BF16", "F16", "F8_E4M3"][:n]
        cases.append(make_case(rng, f"{method} mixed", method, given, [(33,)], mixed, "BF16"))
        for label, shape in {"0-d": (), "empty": (0,), "empty rows": (4, 0), "one": (1,), "odd": (3, 5, 7),
                             "rows of 1": (31, 1), "one row": (1, 65)}.items():
            cases.append(make_case(rng, f"{method} {label}", method, given, [shape], ["BF16"] * n, "F32"))
    cases.append(make_case(rng, "dare_ties two blocks", "dare_ties", variants("dare_ties")["l1"], [(4101,)],
                           ["F8_E4M3"] * 4, "F8_E4M3"))
    cases.append(make_case(rng, "slerp parallel", "slerp", {"t": 0.25}, [(6, 6)], ["F32"] * 2, "F32", spread=1e-3))
    some = make_inputs(rng, (8,), ["F32", "F32"], 0.3)
    cases.append(make_case(rng, "slerp zero base", "slerp", {"t": 0.5}, [(8,)], ["F32"] * 2, "F32",
                           inputs=[np.zeros(8, "<f4"), some[1]]))
    shapes = [(6, 7), (0, 3), (11,), (), (5, 9)]
    w, d = [0.75, 0.5, 1.25], [0.2, 0.5, 1.0]
    whole = {"scope": "model", "weight": w, "density": d}
    cases.append(make_case(rng, "ties model", "ties", whole, shapes, ["BF16"] * 4, "F32"))
    cases.append(make_case(rng, "ties model fp8", "ties", {**whole, "weight": [1.0, 1.0, 1.0]}, shapes, ["F8_E4M3"] * 4, "F32"))
    cases.append(make_case(rng, "ties model plus floor", "ties", {**whole, "zero": "plus", "keep": "floor"}, shapes,
                           ["BF16"] * 4, "BF16"))
    cases += fisher_cases()
    blob = b"INGOTREF" + struct.pack("<II", 1, len(cases)) + b"".join(cases)
    Path(__file__).with_name("merge_reference.bin").write_bytes(blob)
    print(f"{len(cases)} cases, {len(blob)} bytes")


if __name__ == "__main__":
    main()
