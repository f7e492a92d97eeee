#!/usr/bin/env python3
"""Statistics of two of the tiny models of ../model/reference, computed by PyTorch in float64.

    python3 -m venv venv && venv/bin/pip install torch transformers safetensors numpy
    venv/bin/python make_reference.py         # writes reference/ beside this file

reference/tokens.u16: four windows of 16 token ids and 5 more; some are 0, which begins a document.
reference/<case>.safetensors, over those four windows (token t + 1 is the label of token t):
  nll, top1         [windows] sum of negative log-likelihoods, number of tokens with the largest logit
  nll_separate      [windows] the same sum when every document (from a 0 to the next) is a text of its own
  fisher/<name>     mean over windows of the squared gradient of the window's mean loss
  spans/<name>      mean over spans of 4 predicted tokens of the squared gradient of the span's summed loss
  exact/<name>      first window: expectation over labels, sum over tokens of the square of the mean loss's part; the 3 most likely
                    classes, and all others as one class
  gram/<name>       mean over tokens of x x^T, x the input of the linear layer
  output/<name>     mean over tokens of g g^T, g the gradient of the window's mean loss at its output
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

torch.set_num_threads(1)
HERE = Path(__file__).resolve().parent
MODELS = HERE.parent / "model" / "reference"
WINDOWS, LENGTH, VOCABULARY, SPAN, TOP = 4, 16, 67, 4, 3
CASES = {"llama_bias_tied": ("fisher", "spans", "exact", "gram", "output"), "gpt2": ("fisher", "gram", "output")}


def losses(model, window):
    """Negative log-likelihoods of tokens 1 .. of a window."""
    logits = model(window[None]).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, window[1:], reduction="none"), logits


def squares(model, examples):
    total = {}
    for loss, weight in examples:
        model.zero_grad()
        loss().backward()
        for name, p in model.named_parameters():
            total[name] = total.get(name, 0) + weight * p.grad**2
    return total


def exact_examples(model, window):
    with torch.no_grad():
        p = torch.softmax(losses(model, window)[1], -1)
    for t in range(LENGTH - 1):
        top = torch.topk(p[t], TOP).indices
        rest = torch.ones(VOCABULARY, dtype=bool)
        rest[top] = False
        groups = [torch.nn.functional.one_hot(c, VOCABULARY).bool() for c in top] + [rest]
        for group in groups:
            def loss(t=t, group=group):
                logp = torch.log_softmax(losses(model, window)[1][t], -1)
                return -torch.logsumexp(logp[group], 0) / (LENGTH - 1)
            yield loss, p[t][group].sum()


def second_moments(model, windows):
    inputs, outputs = {}, {}
    hooks = []

    def watch(name):
        def hook(_module, args, out):
            x = args[0].detach().reshape(-1, args[0].shape[-1])
            inputs[name] = inputs.get(name, 0) + x.T @ x
            if name != "lm_head":
                def on_gradient(g):
                    g = g.reshape(-1, g.shape[-1])
                    outputs[name] = outputs.get(name, 0) + g.T @ g
                out.register_hook(on_gradient)
        return hook

    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, Conv1D)):
            hooks.append(module.register_forward_hook(watch(name)))
    for w in windows:
        losses(model, w)[0].mean().backward()
    for h in hooks:
        h.remove()
    n = WINDOWS * LENGTH
    return {k: v / n for k, v in inputs.items()}, {k: v / n for k, v in outputs.items()}


def main():
    (HERE / "reference").mkdir(exist_ok=True)
    rng = np.random.default_rng(5)
    ids = rng.integers(1, VOCABULARY, WINDOWS * LENGTH + 5)
    ids[[0, 6, 7, 21, 40, 63]] = 0
    ids.astype("<u2").tofile(HERE / "reference" / "tokens.u16")
    windows = torch.tensor(ids[: WINDOWS * LENGTH]).reshape(WINDOWS, LENGTH)
    for case, kept in CASES.items():
        model = AutoModelForCausalLM.from_pretrained(MODELS / case, dtype=torch.float64, attn_implementation="eager").eval()
        out = {}
        with torch.no_grad():
            both = [losses(model, w) for w in windows]
            out["nll"] = torch.stack([l.sum() for l, _ in both])
            out["top1"] = torch.stack([(z.argmax(-1) == w[1:]).sum().double() for (_, z), w in zip(both, windows)])
            separate = []
            for w in windows:
                starts = [0] + [i for i in range(1, LENGTH) if w[i] == 0] + [LENGTH]
                parts = [w[a:b] for a, b in zip(starts, starts[1:]) if b - a > 1]
                separate.append(sum(losses(model, part)[0].sum() for part in parts))
            out["nll_separate"] = torch.stack(separate)
        tensors = {}
        if "fisher" in kept:
            f = squares(model, [(lambda w=w: losses(model, w)[0].mean(), 1) for w in windows])
            tensors |= {"fisher/" + k: v / WINDOWS for k, v in f.items()}
        if "spans" in kept:
            starts = range(0, LENGTH - 1, SPAN)
            f = squares(model, [(lambda w=w, s=s: losses(model, w)[0][s : s + SPAN].sum(), 1) for w in windows for s in starts])
            tensors |= {"spans/" + k: v / (WINDOWS * len(starts)) for k, v in f.items()}
        if "exact" in kept:
            tensors |= {"exact/" + k: v for k, v in squares(model, exact_examples(model, windows[0])).items()}
        inputs, outputs = second_moments(model, windows)
        tensors |= {"gram/" + k + ".weight": v for k, v in inputs.items()}
        tensors |= {"output/" + k + ".weight": v for k, v in outputs.items()}
        out = {k: v.detach().numpy() for k, v in out.items()}
        out |= {k: v.detach().numpy().astype(np.float32) for k, v in tensors.items()}
        save_file({k: np.ascontiguousarray(v) for k, v in out.items()}, HERE / "reference" / f"{case}.safetensors")


if __name__ == "__main__":
    main()
