#!/usr/bin/env python3
"""Write reference.bin: what the operators of kernels/nn/nn.h give for the cases of nn_cases.c, in float64.

Forward passes are written with torch operations in float64, gradients come from autograd. Needs NumPy and PyTorch:
    python3 tests/kernels/nn/make_reference.py
The cases, their numbers and the seeds of their inputs are those of nn_cases.c.
"""
import math
import os
import struct

import numpy as np
import torch

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
NAN = float("nan")


def hashed(seed, n):
    h = (np.arange(n, dtype=np.uint64) * 2654435761 + seed * 40503 + 12345) & 0xFFFFFFFF
    h ^= h >> 15
    h = h * 2246822519 & 0xFFFFFFFF
    h ^= h >> 13
    h = h * 3266489917 & 0xFFFFFFFF
    h ^= h >> 16
    return ((h >> 24).astype(np.int64) - 128) / 128.0


def value(seed, *shape, scale=1.0):
    return torch.from_numpy(scale * hashed(seed, math.prod(shape)).reshape(shape))


def index(seed, n, below):
    return torch.from_numpy((hashed(seed, n) * 128 + 128).astype(np.int64) % below)


def padded(width):
    return (width + 7) // 8 * 8 + 8


def room(*shape):
    return torch.full(shape, NAN)


def place(inside, ld):
    """A matrix whose rows are ld long, NaN behind the given columns."""
    out = room(inside.shape[0], ld)
    out[:, :inside.shape[1]] = inside.detach()
    return out


def matmul(m, n, k, ta, tb, bias, half_beta, _f32):
    a = value(1, k, padded(m))[:, :m].T if ta else value(1, m, padded(k))[:, :k]
    b = value(2, n, padded(k))[:, :k].T if tb else value(2, k, padded(n))[:, :n]
    c = value(3, m, padded(n))
    c[:, :n] = 0.5 * (a @ b) + 0.5 * half_beta * c[:, :n] + (value(4, n) if bias else 0)
    return {"c": c}


def gram(n_row, width, with_valid):
    x = value(1, n_row, padded(width))[:, :width]
    if with_valid:
        x = x[index(2, n_row, 3) != 0]
    total = value(3, width, width) + x.T @ x
    return {"sum": total[torch.triu_indices(width, width).unbind()]}


def norm(n_token, n_group, width, centred, delta, bias, residual):
    inner, eps = n_group * width, 0.015625
    ld_x, ld_y = padded(inner), padded(inner) + 8
    x = value(1, n_token, ld_x, scale=2)[:, :inner]
    if delta:
        x = x + value(2, n_token, ld_x)[:, :inner]
    x = x.clone().requires_grad_()
    weight = value(3, width).requires_grad_()
    shift = value(4, width).requires_grad_()
    rows = x.reshape(-1, width)
    mean = rows.mean(1, keepdim=True) if centred else torch.zeros(len(rows), 1)
    r = 1 / torch.sqrt(((rows - mean) ** 2).mean(1, keepdim=True) + eps)
    y = (rows - mean) * r * weight + (shift if bias else 0)
    y = y.reshape(n_token, inner)
    y.backward(value(5, n_token, ld_y)[:, :inner])
    out = {"sum": place(x, ld_x)} if delta else {}
    out["y"] = place(y, ld_y)
    out["stats"] = torch.cat([mean, r], 1) if centred else r
    if residual:
        dx = value(6, n_token, ld_x)
        dx[:, :inner] += x.grad
    else:
        dx = place(x.grad, ld_x)
    out["dx"] = dx
    out["dweight"] = value(7, width) + weight.grad
    if bias:
        out["dbias"] = value(8, width) + shift.grad
    return out


def rope(n_token, n_head, head_dim, rotary_dim, inverse):
    half = rotary_dim // 2
    row = index(3, n_token, 40)
    cos, sin = value(1, 40, half)[row][:, None], value(2, 40, half)[row][:, None]
    x = value(4, n_token, padded(n_head * head_dim))
    heads = x[:, :n_head * head_dim].reshape(n_token, n_head, head_dim)
    low, high = heads[..., :half].clone(), heads[..., half:rotary_dim].clone()
    if inverse:
        sin = -sin
    heads[..., :half] = low * cos - high * sin
    heads[..., half:rotary_dim] = high * cos + low * sin
    x[:, :n_head * head_dim] = heads.reshape(n_token, -1)
    return {"x": x}


def attention(n_batch, n_time, n_head, n_kv, d, window, document, scale16):
    n = n_batch * n_time
    ld_q, ld_k, ld_v, ld_o = padded(n_head * d), padded(n_kv * d), padded(n_kv * d) + 8, padded(n_head * d) + 16

    def heads(seed, ld, count, scale):
        x = value(seed, n, ld, scale=scale)[:, :count * d].clone().requires_grad_()
        return x, x.reshape(n_batch, n_time, count, d).transpose(1, 2)

    q, qh = heads(1, ld_q, n_head, 2)
    k, kh = heads(2, ld_k, n_kv, 2)
    v, vh = heads(3, ld_v, n_kv, 1)
    kh, vh = (x.repeat_interleave(n_head // n_kv, 1) for x in (kh, vh))
    t = torch.arange(n_time)
    seen = (t[None, :] <= t[:, None]).repeat(n_batch, 1, 1)
    if window:
        seen &= t[:, None] - t[None, :] < window
    if document:
        for b in range(n_batch):
            length = document + b * document // 3
            seen[b] &= t[:, None] // length == t[None, :] // length
    scores = (qh @ kh.transpose(2, 3)) * (scale16 / 16)
    scores = scores.masked_fill(~seen[:, None], -math.inf)
    o = (torch.softmax(scores, 3) @ vh).transpose(1, 2).reshape(n, n_head * d)
    o.backward(value(4, n, ld_o)[:, :n_head * d])
    return {"o": place(o, ld_o), "lse": torch.logsumexp(scores, 3), "dq": place(q.grad, ld_q), "dk": place(k.grad, ld_k),
            "dv": place(v.grad, ld_v)}


def swiglu(n_row, width):
    both = value(1, n_row, 2 * width, scale=8).requires_grad_()
    out = torch.nn.functional.silu(both[:, :width]) * both[:, width:]
    out.backward(value(2, n_row, width))
    return {"out": out, "d_gate_up": both.grad}


def gelu(n):
    x = value(1, n, scale=8).requires_grad_()
    y = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))
    y.backward(value(2, n))
    return {"y": y, "dx": x.grad}


def embedding(n_token, width, n_vocab, with_positions):
    tokens = index(1, n_token, n_vocab)
    out = value(2, n_vocab, width)[tokens]
    if with_positions:
        out = out + value(4, 11, width)[index(3, n_token, 11)]
    return {"out": out, "d_table": value(6, n_vocab, width).index_add(0, tokens, value(5, n_token, width))}


def sums(n_row, width):
    ld = padded(width)
    return {"sum": value(3, width) + value(1, n_row, ld)[:, :width].sum(0), "y": value(1, n_row, ld) + value(2, n_row, ld),
            "f": value(5, n_row, ld) + 0.75 * value(4, n_row, ld) ** 2}


def philox(key, counter):
    c, k = [counter & 0xFFFFFFFF, counter >> 32, 0, 0], [key & 0xFFFFFFFF, key >> 32]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, p0 >> 32 ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [k[0] + 0x9E3779B9 & 0xFFFFFFFF, k[1] + 0xBB67AE85 & 0xFFFFFFFF]
    return c[0]


def sample(z, row):
    u = (philox(0x123456789ABCDEF, 77 + row) + 0.5) / 2 ** 32
    cumulative = torch.cumsum(torch.softmax(z, 0), 0)
    drawn = int((cumulative <= u).sum())
    assert (cumulative - u).abs().min() > 1e-5, "the draw is too near a step: choose another counter"
    return drawn


def loss(n_row, n_vocab, k):
    ld = padded(n_vocab)
    z = value(1, n_row, ld, scale=8)[:, :n_vocab].clone().requires_grad_()
    draws = (hashed(2, n_row) * 128 + 128).astype(np.int64)
    labels = [-1 if r % 5 == 3 else int(draws[r]) * 97 % n_vocab for r in range(n_row)]
    logp = torch.log_softmax(z, 1)
    nll = torch.stack([-logp[r, labels[r]] if labels[r] >= 0 else 0 * z[r, 0] for r in range(n_row)])
    (0.25 * nll.sum()).backward()
    d = torch.zeros(n_row, ld)
    d[:, :n_vocab] = z.grad
    largest = logp.sort(dim=1, descending=True, stable=True)
    return {"nll": nll, "top1": largest.indices[:, 0], "d_logits": d, "ids": largest.indices[:, :k],
            "logp": largest.values[:, :k],
            "labels": torch.tensor([sample(z[r].detach(), r) if labels[r] >= 0 else -1 for r in range(n_row)])}


def rows_of(seed, n_row, n_vocab):
    return value(seed, n_row, padded(n_vocab), scale=8)[:, :n_vocab].clone()


def labels_of(n_row, n_vocab):
    draws = (hashed(2, n_row) * 128 + 128).astype(np.int64)
    return [-1 if r % 5 == 3 else int(draws[r]) * 97 % n_vocab for r in range(n_row)]


def mix(n_row, n_vocab, kind, n_member):
    total = None
    for m in range(n_member):
        logp = torch.log_softmax(rows_of(1 + m, n_row, n_vocab), 1)
        weight = value(20 + m, n_row) - (0 if kind == 1 else 1)
        if m == 1:
            weight[2::4] = 0 if kind == 1 else -math.inf
        weight = weight[:, None]
        if kind == 1:
            term = weight * torch.where(weight < 0, logp.clamp(min=-6), logp)
            total = term if m == 0 else total + term
        else:
            term = weight + logp
            total = term if m == 0 else torch.logaddexp(total, term) if kind == 0 else torch.maximum(total, term)
    return {"mixed": total, "logp": torch.log_softmax(total, 1)}


def moments(n_row, n_vocab, n_member):
    q = torch.softmax(rows_of(1, n_row, n_vocab), 1)
    logp = torch.stack([rows_of(2 + m, n_row, n_vocab) for m in range(n_member)], 1)
    labels = torch.tensor(labels_of(n_row, n_vocab))
    seen = (labels >= 0).double()
    label = torch.stack([logp[r, :, max(int(labels[r]), 0)] for r in range(n_row)])
    return {"mean": seen[:, None] * torch.einsum("rv,rmv->rm", q, logp),
            "product": seen[:, None, None] * torch.einsum("rv,rmv,rjv->rmj", q, logp, logp),
            "label": seen[:, None] * label}


def distill_outputs(z, labels, temperature, alpha, divergence):
    """divergence: of log q at T, by row."""
    logp = torch.log_softmax(z, 1)
    soft = temperature ** 2 * divergence(torch.log_softmax(z / temperature, 1))
    seen = torch.tensor([float(label >= 0) for label in labels])
    nll = seen * torch.stack([-logp[r, max(labels[r], 0)] for r in range(len(labels))])
    soft = seen * soft
    (0.25 * (alpha * soft + (1 - alpha) * nll).sum()).backward()
    d = torch.zeros(len(labels), padded(z.shape[1]))
    d[:, :z.shape[1]] = z.grad
    return {"soft": soft, "nll": nll, "d_logits": d}


def distill(n_row, n_vocab, kind, quarters, eighths_alpha, eighths_beta):
    temperature, beta = quarters / 4, eighths_beta / 8
    z = rows_of(1, n_row, n_vocab).requires_grad_()
    logp = torch.log_softmax(rows_of(3, n_row, n_vocab) / temperature, 1)

    def divergence(logq):
        p, q = logp.exp(), logq.exp()
        if kind == 0:
            return (p * (logp - logq)).sum(1)
        if kind == 1:
            return (q * (logq - logp)).sum(1)
        logm = torch.log(beta * p + (1 - beta) * q)
        return beta * (p * (logp - logm)).sum(1) + (1 - beta) * (q * (logq - logm)).sum(1)

    return distill_outputs(z, labels_of(n_row, n_vocab), temperature, eighths_alpha / 8, divergence)


def distill_top_k(n_row, n_vocab, k, tail, quarters, eighths_alpha):
    temperature = quarters / 4
    z = rows_of(1, n_row, n_vocab).requires_grad_()
    row, at = torch.arange(n_row)[:, None], torch.arange(k)[None]
    ids = (row * 13 + at * 37) % n_vocab
    logp = -1.5 - 0.75 * at - 0.5 * (row % 3)
    rest, n_other = 1 - logp.exp().sum(1, keepdim=True), n_vocab - k
    others = (n_other * (rest / n_other) ** (1 / temperature)) if tail else torch.zeros(n_row, 1)
    stored = (logp / temperature).exp()
    total = stored.sum(1, keepdim=True) + others
    stored, others = stored / total, others / total

    def divergence(logq):
        inside = logq.gather(1, ids)
        kl = (stored * (stored.log() - inside)).sum(1)
        if tail == 1:
            mass = others[:, 0]
            kl = kl + mass * (mass.log() - torch.log(1 - inside.exp().sum(1)))
        elif tail == 2:
            each = others[:, 0] / n_other
            kl = kl + each * (n_other * each.log() - (logq.sum(1) - inside.sum(1)))
        return kl

    return distill_outputs(z, labels_of(n_row, n_vocab), temperature, eighths_alpha / 8, divergence)


def adamw(n, step):
    beta1, beta2 = float(np.float32(0.9)), float(np.float32(0.95))
    g = value(1, n)
    total = (g ** 2).sum().reshape(1)
    g = 0.5 * g
    m = beta1 * value(3, n) + (1 - beta1) * g
    v = beta2 * value(4, n) ** 2 + (1 - beta2) * g ** 2
    master = value(2, n)
    direction = m / (1 - beta1 ** step) / ((v / (1 - beta2 ** step)).sqrt() + 2 ** -9) + 0.125 * master
    master = master - 0.0625 * direction
    return {"sum": total, "master": master, "m": m, "v": v, "weight": master, "rounded": master, "widened": master}


CASES = [
    ("matmul_nt_bias", matmul, (37, 29, 19, 0, 1, 1, 0, 0)),
    ("matmul_tn_beta", matmul, (64, 48, 40, 1, 0, 0, 1, 1)),
    ("matmul_nn_both", matmul, (5, 130, 70, 0, 0, 1, 1, 0)),
    ("matmul_tt", matmul, (33, 65, 128, 1, 1, 0, 0, 1)),
    ("matmul_row", matmul, (1, 7, 300, 0, 1, 0, 2, 0)),
    ("gram", gram, (70, 24, 0)),
    ("gram_valid", gram, (45, 40, 1)),
    ("norm_rms", norm, (9, 1, 40, 0, 0, 0, 0)),
    ("norm_rms_delta", norm, (21, 1, 96, 0, 1, 0, 1)),
    ("norm_heads", norm, (6, 3, 16, 0, 0, 0, 0)),
    ("norm_layer", norm, (7, 1, 48, 1, 0, 1, 1)),
    ("norm_layer_delta", norm, (40, 1, 24, 1, 1, 1, 0)),
    ("rope", rope, (11, 3, 16, 16, 0)),
    ("rope_part_inverse", rope, (5, 2, 24, 8, 1)),
    ("attention", attention, (2, 19, 2, 2, 16, 0, 0, 4)),
    ("attention_group", attention, (1, 37, 6, 2, 8, 0, 0, 6)),
    ("attention_window", attention, (2, 17, 4, 1, 16, 5, 0, 4)),
    ("attention_documents", attention, (2, 23, 2, 1, 32, 0, 7, 3)),
    ("attention_window_documents", attention, (1, 50, 2, 2, 16, 12, 17, 4)),
    ("attention_one", attention, (3, 1, 2, 1, 64, 0, 0, 2)),
    ("swiglu", swiglu, (13, 24)),
    ("swiglu_odd", swiglu, (3, 37)),
    ("gelu", gelu, (403,)),
    ("embedding", embedding, (23, 16, 7, 0)),
    ("embedding_positions", embedding, (15, 40, 30, 1)),
    ("sums", sums, (19, 27)),
    ("loss", loss, (14, 61, 5)),
    ("loss_large", loss, (6, 1500, 3)),
    ("mix_linear", mix, (9, 61, 0, 3)),
    ("mix_log_linear", mix, (9, 61, 1, 3)),
    ("mix_max", mix, (9, 61, 2, 3)),
    ("mix_large", mix, (2, 5003, 0, 2)),
    ("moments", moments, (9, 61, 3)),
    ("moments_one", moments, (4, 700, 1)),
    ("moments_many", moments, (6, 1500, 13)),
    ("distill_forward", distill, (11, 61, 0, 8, 4, 4)),
    ("distill_forward_large", distill, (2, 5003, 0, 4, 8, 4)),
    ("distill_reverse", distill, (11, 61, 1, 6, 5, 4)),
    ("distill_reverse_large", distill, (2, 5003, 1, 12, 8, 4)),
    ("distill_jsd", distill, (11, 61, 2, 8, 6, 2)),
    ("distill_jsd_large", distill, (2, 5003, 2, 4, 8, 5)),
    ("distill_hard", distill, (6, 500, 2, 4, 0, 5)),
    ("top_k_none", distill_top_k, (11, 61, 7, 0, 8, 4)),
    ("top_k_bucket", distill_top_k, (11, 61, 7, 1, 4, 8)),
    ("top_k_bucket_soft", distill_top_k, (11, 61, 7, 1, 6, 5)),
    ("top_k_uniform", distill_top_k, (11, 61, 7, 2, 8, 6)),
    ("top_k_uniform_large", distill_top_k, (2, 5003, 64, 2, 4, 8)),
    ("top_k_bucket_large", distill_top_k, (2, 5003, 700, 1, 4, 7)),
    ("adamw_first", adamw, (1003, 1)),
    ("adamw_later", adamw, (2100, 17)),
]


def main():
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "reference.bin")
    with open(path, "wb") as f:
        for case, function, shape in CASES:
            for name, values in function(*shape).items():
                flat = values.detach().reshape(-1).numpy().astype("<f4")
                f.write(f"{case}/{name}".encode().ljust(48, b"\0") + struct.pack("<q", flat.size) + flat.tobytes())
    print(path, os.path.getsize(path))


main()
