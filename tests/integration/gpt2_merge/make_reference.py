#!/usr/bin/env python3
"""Two tiny random GPT-2 models, whose linear layers are stored as [in, out], and their merges by statistics.

    python3 -m venv venv && venv/bin/pip install torch transformers safetensors h5py numpy
    venv/bin/python make_reference.py         # writes the files beside this one

a/, b/               the models, float32, heads tied
a.u16, b.u16         four windows of 16 token ids each
fisher.safetensors   sum F_i W_i / sum F_i, with weights 1 and 0.5 and a floor, since the gradient of a key's bias is 0 but for
                     rounding; regmean.safetensors: alpha 0.8, the same weights; mats.safetensors: kfac, alpha 0.5, solved densely
a.full.* ...         Gram matrices as others store them: whole [n, n], in safetensors and HDF5, with and without ".weight"; *.packed:
                     the same numbers as ingot packs them

Statistics are PyTorch's, in float64, and are rounded to float32 as files hold them; merges are NumPy's, in float64.
"""

from pathlib import Path

import h5py
import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

torch.set_num_threads(1)
HERE = Path(__file__).resolve().parent
WINDOWS, LENGTH, VOCABULARY = 4, 16, 24
WEIGHTS = {"a": 1.0, "b": 0.5}
FLOOR = 1e-9


def make_model(seed):
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=8, n_head=2, n_layer=2, n_positions=LENGTH, attn_pdrop=0.0, embd_pdrop=0.0,
                        resid_pdrop=0.0, bos_token_id=0, eos_token_id=0, attn_implementation="eager")
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(1.0 if ".ln_" in name and name.endswith("weight") else 0.0, 0.3)
    return model


def statistics(model, windows):
    """Fisher information and both Gram matrices of every Conv1D, as float32 values."""
    model = model.double()
    fisher, inputs, outputs = {}, {}, {}

    def watch(name):
        def hook(_module, args, out):
            x = args[0].detach().reshape(-1, args[0].shape[-1])
            inputs[name] = inputs.get(name, 0) + x.T @ x

            def on_gradient(g):
                g = g.reshape(-1, g.shape[-1])
                outputs[name] = outputs.get(name, 0) + g.T @ g
            out.register_hook(on_gradient)
        return hook

    hooks = [m.register_forward_hook(watch(n + ".weight")) for n, m in model.named_modules() if isinstance(m, Conv1D)]
    for w in windows:
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(w[None]).logits[0, :-1], w[1:]).backward()
        for name, p in model.named_parameters():
            fisher[name] = fisher.get(name, 0) + p.grad**2
    for h in hooks:
        h.remove()
    n = len(windows) * LENGTH
    single = lambda v: v.detach().numpy().astype(np.float32)
    return ({k: single(v / len(windows)) for k, v in fisher.items()}, {k: single(v / n) for k, v in inputs.items()},
            {k: single(v / n) for k, v in outputs.items()})


def scaled(g, alpha):
    g = g.astype(np.float64)
    return alpha * g + (1 - alpha) * np.diag(np.diag(g))


def main():
    rng = np.random.default_rng(11)
    weights, fisher, inputs, outputs = {}, {}, {}, {}
    for seed, name in enumerate("ab"):
        model = make_model(seed)
        model.save_pretrained(HERE / name)
        (HERE / name / "generation_config.json").unlink(missing_ok=True)
        ids = rng.integers(0, VOCABULARY, WINDOWS * LENGTH)
        ids.astype("<u2").tofile(HERE / f"{name}.u16")
        weights[name] = {k: v.detach().numpy().astype(np.float64) for k, v in model.named_parameters()}
        fisher[name], inputs[name], outputs[name] = statistics(model, torch.tensor(ids).reshape(WINDOWS, LENGTH))

    merged = {"fisher": {}, "regmean": {}, "mats": {}}
    for k in weights["a"]:
        mean = sum(c * weights[i][k] for i, c in WEIGHTS.items()) / sum(WEIGHTS.values())
        f = {i: c * np.maximum(fisher[i][k].astype(np.float64), FLOOR) for i, c in WEIGHTS.items()}
        merged["fisher"][k] = sum(f[i] * weights[i][k] for i in f) / sum(f.values())
        merged["regmean"][k] = merged["mats"][k] = mean
        if k not in inputs["a"]:
            continue
        # Stored as [in, out]: sum G_i W = sum G_i W_i, without a transpose; kron of (input, output) for rows one after the other.
        g = {i: c * scaled(inputs[i][k], 0.8) for i, c in WEIGHTS.items()}
        merged["regmean"][k] = np.linalg.solve(sum(g.values()), sum(g[i] @ weights[i][k] for i in g))
        m = {i: c * np.kron(scaled(inputs[i][k], 0.5), scaled(outputs[i][k], 0.5)) for i, c in WEIGHTS.items()}
        solved = np.linalg.solve(sum(m.values()), sum(m[i] @ weights[i][k].reshape(-1) for i in m))
        merged["mats"][k] = solved.reshape(mean.shape)
    for method, tensors in merged.items():
        save_file({k: np.ascontiguousarray(v.astype(np.float32)) for k, v in tensors.items()}, HERE / f"{method}.safetensors")

    for i in "ab":
        named = dict(inputs[i])
        bare = {k.removesuffix(".weight"): v for k, v in named.items()}
        save_file({k: v[np.triu_indices(len(v))] for k, v in named.items()}, HERE / f"{i}.packed.safetensors")
        for kind, tensors in (("weight", named), ("bare", bare)):
            if (i == "a") == (kind == "weight"):
                save_file(tensors, HERE / f"{i}.full.{kind}.safetensors")
            else:
                with h5py.File(HERE / f"{i}.full.{kind}.h5", "w", libver="latest") as f:
                    for k, v in tensors.items():
                        f[k] = v


if __name__ == "__main__":
    main()
