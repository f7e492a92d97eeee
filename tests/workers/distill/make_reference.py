#!/usr/bin/env python3
"""Trainings of a tiny student by PyTorch in float64: the losses and gradient norms of eight steps, and parameters at the end.

    python3 -m venv venv && venv/bin/pip install torch transformers
    venv/bin/python make_reference.py > reference.inc

Student, teachers and tokens are those of ../model/reference and ../statistics/reference; every step takes all four windows.
"""

import math
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
HERE = Path(__file__).resolve().parent
MODELS = HERE.parent / "model" / "reference"
WINDOWS, LENGTH, STEPS, WARMUP, RATE, FINAL, DECAY = 4, 16, 8, 2, 1e-2, 1e-3, 0.1
TEACHERS = ("llama", "qwen3")
# name, combine, loss, beta, temperature, alpha, clip, weights
CASES = (
    ("linear", "linear", "forward_kl", 0.5, 2.0, 0.7, 0.5, (0.6, 0.4)),
    ("log_linear", "log_linear", "reverse_kl", 0.5, 1.0, 1.0, 0.0, (1.5, -0.5)),
    ("average_loss", "average_loss", "jsd", 0.3, 1.5, 0.8, 1.0, (0.25, 0.75)),
)


def load(name):
    return AutoModelForCausalLM.from_pretrained(MODELS / name, dtype=torch.float64)


def divergence(kind, beta, p, q):
    """Of rows of log-probabilities."""
    kl = lambda a, b: (a.exp() * (a - b)).sum(-1)
    if kind == "forward_kl":
        return kl(p, q)
    if kind == "reverse_kl":
        return kl(q, p)
    m = torch.logaddexp(p + math.log(beta), q + math.log(1 - beta))
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def targets(combine, weights, temperature, logits):
    """Pairs of weight and log-probabilities that the student is held against."""
    logp = [torch.log_softmax(z / temperature, -1) for z in logits]
    if combine == "linear":
        return [(1.0, torch.logsumexp(torch.stack([l + math.log(w) for l, w in zip(logp, weights)]), 0))]
    if combine == "log_linear":
        return [(1.0, torch.log_softmax(sum(w * l for l, w in zip(logp, weights)), -1))]
    return list(zip(weights, logp))


def rate(step):
    if step < WARMUP:
        return RATE * (step + 1) / WARMUP
    return FINAL + 0.5 * (RATE - FINAL) * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def train(tokens, combine, kind, beta, temperature, alpha, clip, weights):
    student = load("llama_bias_tied")
    with torch.no_grad():
        logits = [load(t)(tokens).logits[:, :-1] for t in TEACHERS]
    held = targets(combine, weights, temperature, logits)
    groups = [{"params": [p for p in student.parameters() if (p.dim() >= 2) == big], "weight_decay": DECAY if big else 0.0}
              for big in (True, False)]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-8)
    losses, norms = [], []
    for step in range(STEPS):
        z = student(tokens).logits[:, :-1]
        q = torch.log_softmax(z / temperature, -1)
        soft = sum(w * temperature**2 * divergence(kind, beta, p, q).mean() for w, p in held)
        hard = torch.nn.functional.cross_entropy(z.reshape(-1, z.shape[-1]), tokens[:, 1:].reshape(-1))
        loss = alpha * soft + (1 - alpha) * hard
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(student.parameters(), clip if clip > 0 else math.inf).item())
        for g in optimizer.param_groups:
            g["lr"] = rate(step)
        optimizer.step()
        losses.append(loss.item())
    end = student.state_dict()["model.layers.1.mlp.down_proj.weight"].flatten()[:4]
    return losses, norms, end.tolist()


tokens = np.fromfile(HERE.parent / "statistics/reference/tokens.u16", dtype="<u2")[: WINDOWS * LENGTH]
tokens = torch.from_numpy(tokens.astype(np.int64)).reshape(WINDOWS, LENGTH)
print("/* Made by make_reference.py: losses, gradient norms, the first weights of the last down projection. */")
for name, *case in CASES:
    numbers = train(tokens, *case)
    rows = ",\n   ".join("{" + ", ".join(f"{x:.10g}" for x in row) + "}" for row in numbers)
    print(f"static const training_reference {name}_reference = {{\n   {rows}}};")
