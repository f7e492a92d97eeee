#!/usr/bin/env python3
"""Makes reference.inc: what Transformers generates from the models of tests/experts, and what mixtures of two of them choose.

python make_reference.py > reference.inc      needs PyTorch and Transformers 5; seconds on a CPU
Beam search: early_stopping="never", with which the search is over only when nothing can become better.
"""
import os

import numpy as np
import torch
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
family = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "experts")
LENGTH, PROMPT, END = 14, 4, 0


def load(name):
    return AutoModelForCausalLM.from_pretrained(os.path.join(family, name), dtype=torch.float32).eval()


def prompts():
    found = []
    for task in ("add", "sort", "brackets", "dates"):
        ids = np.fromfile(os.path.join(family, "data", task + ".val.u16"), dtype="<u2").astype(np.int64)
        begins = [i for i in range(len(ids) - PROMPT) if ids[i] == 0 and (ids[i + 1 : i + PROMPT] != 0).all()]
        found += [ids[i : i + PROMPT].tolist() for i in begins[:4]]
    return found


def cut(tokens):
    """Up to and with the end token."""
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


def generated(model, prompt, **how):
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=LENGTH, eos_token_id=END, pad_token_id=END, do_sample=False, **how)
    return cut(out[0, PROMPT:].tolist())


def mixed(models, weights, linear, prompt):
    tokens = list(prompt)
    for _ in range(LENGTH):
        logp = [torch.log_softmax(m(torch.tensor([tokens])).logits[0, -1].double(), -1) for m in models]
        if linear:
            score = torch.logsumexp(torch.stack([lp + np.log(w) for lp, w in zip(logp, weights)]), 0)
        else:
            score = sum(w * lp for lp, w in zip(logp, weights))
        tokens.append(int(score.argmax()))
        if tokens[-1] == END:
            break
    return tokens[PROMPT:]


def rows(name, sequences):
    print(f"static const int32_t {name}[N_PROMPT][LENGTH + 1] = {{")
    for s in sequences:
        print("    {" + ", ".join(map(str, s + [-1])) + "},")
    print("};")


with torch.no_grad():
    base, add, sort = load("base"), load("add"), load("sort")
    asked = prompts()
    print("/* Made by make_reference.py. A row ends with -1. */")
    print(f"enum {{ N_PROMPT = {len(asked)}, PROMPT = {PROMPT}, LENGTH = {LENGTH}, END = {END} }};")
    print("static const int32_t prompts[N_PROMPT][PROMPT] = {")
    for p in asked:
        print("    {" + ", ".join(map(str, p)) + "},")
    print("};")
    rows("greedy", [generated(base, p) for p in asked])
    for name, penalty in (("beam_raw", 0.0), ("beam_mean", 1.0), ("beam_short", -1.0)):
        rows(name, [generated(base, p, num_beams=4, length_penalty=penalty, early_stopping="never") for p in asked])
    rows("mixed_linear", [mixed((add, sort), (0.6, 0.4), True, p) for p in asked])
    rows("mixed_log_linear", [mixed((add, sort), (1.3, -0.3), False, p) for p in asked])
