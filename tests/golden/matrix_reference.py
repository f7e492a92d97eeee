#!/usr/bin/env python3
"""Reference numbers for the merges with Gram matrices, worked out in float64 with NumPy's own solvers.

    python3 -m venv venv && venv/bin/pip install numpy
    venv/bin/python matrix_reference.py         # writes matrix_reference.bin beside this file

regmean is NumPy's LU solve of the normal equations. mats to convergence is the dense solve of the vectorised system, with
np.kron; after a few iterations it is the conjugate gradient method as textbooks have it, on that vectorised system.

File (little endian): "INGOTMTX", u32 number of cases; a case is name[64] method[32] parameters[160], f64 tolerance, i32
n_model n_out n_in n_statistic has_base iterations (-1: any), then float32: base [out][in] if any, weights
[model][out][in], packed upper triangles of the statistics; then the expected f64 [out][in].
"""

import struct
from pathlib import Path

import numpy as np


def text(s, size):
    return s.encode().ljust(size, b"\0")


def packed(g):
    return g[np.triu_indices(len(g))].astype("<f4").tobytes()


def gram(rng, n, samples, dead=()):
    x = rng.normal(0, 1, (samples, n)) @ np.diag(rng.uniform(0.1, 2, n))
    x[:, list(dead)] = 0
    return (x.T @ x / samples).astype(np.float32).astype(np.float64)


def scaled(g, alpha):
    return alpha * g + (1 - alpha) * np.diag(np.diag(g))


def regmean(weights, grams, c, alpha, ridge=0.0):
    grams = [w * scaled(g, alpha) for w, g in zip(c, grams)]
    total = sum(grams)
    live = np.diag(total) != 0
    mean = sum(w * v for w, v in zip(c, weights)) / sum(c)
    s = total[np.ix_(live, live)]
    rhs = sum(v @ g for v, g in zip(weights, grams))[:, live]
    out = mean.copy()
    out[:, live] = np.linalg.solve(s + ridge * s.trace() / len(s) * np.eye(len(s)), rhs.T).T
    return out


def system(weights, grams, output, c, alpha):
    """The matrix and right-hand side for the rows of W one after the other."""
    m = len(weights[0])
    metric = []
    for i, g in enumerate(grams):
        left = scaled(output[i], alpha) if output else np.eye(m)
        metric.append(c[i] * np.kron(left, scaled(g, alpha)))
    return sum(metric), sum(k @ w.reshape(-1) for k, w in zip(metric, weights))


def conjugate_gradients(a, b, x, n):
    r = b - a @ x
    p = r.copy()
    for _ in range(n):
        q = a @ p
        step = (r @ r) / (p @ q)
        x = x + step * p
        new = r - step * q
        p = new + (new @ new) / (r @ r) * p
        r = new
    return x


def main():
    rng = np.random.default_rng(37)
    cases = []

    def add(name, method, parameters, weights, statistics, expected, tolerance, base=None, iterations=-1):
        m, n = weights[0].shape
        out = text(name, 64) + text(method, 32) + text(parameters, 160) + struct.pack("<d", tolerance)
        out += struct.pack("<6i", len(weights), m, n, len(statistics), base is not None, iterations)
        for w in ([] if base is None else [base]) + weights:
            out += w.astype("<f4").tobytes()
        out += b"".join(packed(g) for g in statistics) + expected.astype("<f8").tobytes()
        cases.append(out)

    def layer(m, n, count, dead=()):
        weights = [rng.normal(0, 1, (m, n)).astype(np.float32).astype(np.float64) for _ in range(count)]
        return weights, [gram(rng, n, 3 * n + 4, dead) for _ in range(count)]

    for m, n, count in (5, 9, 2), (17, 4, 4), (1, 1, 3), (40, 33, 3):
        weights, grams = layer(m, n, count)
        for alpha in 1.0, 0.9, 0.1, 0.0:
            expected = regmean(weights, grams, [1.0] * count, alpha)
            add(f"{m} x {n}, alpha {alpha}", "regmean", f"alpha={alpha}", weights, grams, expected, 2e-6)
    weights, grams = layer(6, 8, 3)
    c = [0.5, 2.0, 0.25]
    given = " ".join(f"weight@{i}={v}" for i, v in enumerate(c))
    add("weights", "regmean", given, weights, grams, regmean(weights, grams, c, 0.9), 2e-6)
    add("ridge", "regmean", "alpha=1 ridge=0.25", weights, grams, regmean(weights, grams, [1.0] * 3, 1.0, 0.25), 2e-6)
    weights, grams = layer(6, 8, 2, dead=(0, 5))
    add("dead features", "regmean", given[: given.rindex(" ")], weights, grams, regmean(weights, grams, c[:2], 0.9), 2e-6)
    weights, grams = layer(7, 300, 2)
    add("several pieces", "regmean", "alpha=0.9", weights, grams, regmean(weights, grams, [1.0] * 2, 0.9), 1e-5)

    for m, n, count in (4, 6, 2), (7, 3, 3):
        weights, grams = layer(m, n, count)
        output = [gram(rng, m, 3 * m) for _ in range(count)]
        base = rng.normal(0, 1, (m, n)).astype(np.float32).astype(np.float64)
        c = [1.0 + i for i in range(count)]
        given = " ".join(f"weight@{i}={v}" for i, v in enumerate(c))
        mean = sum(w * v for w, v in zip(c, weights)) / sum(c)
        for metric, extra in ("gram", []), ("kfac", output):
            for alpha in 1.0, 0.5:
                a, b = system(weights, grams, extra, c, alpha)
                common = f"metric={metric} alpha={alpha} {given}"
                solved = np.linalg.solve(a, b).reshape(m, n)
                add(f"{m} x {n} {metric} {alpha} solved", "mats", f"{common} tolerance=1e-12 iterations=2000", weights,
                    grams + extra, solved, 1e-5)
                for start, x in ("zeros", 0 * mean), ("mean", mean), ("base", base):
                    expected = conjugate_gradients(a, b, x.reshape(-1), 3).reshape(m, n)
                    add(f"{m} x {n} {metric} {alpha} from {start}", "mats", f"{common} start={start} iterations=3 tolerance=0",
                        weights, grams + extra, expected, 2e-6, base if start == "base" else None, 3)
    blob = b"INGOTMTX" + struct.pack("<I", len(cases)) + b"".join(cases)
    Path(__file__).with_name("matrix_reference.bin").write_bytes(blob)
    print(f"{len(cases)} cases, {len(blob)} bytes")


if __name__ == "__main__":
    main()
