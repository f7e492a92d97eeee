#!/usr/bin/env python3
"""RegMean++ of two tiny GPT-2 models and of two tiny Llamas, in PyTorch and NumPy.

    python3 -m venv venv && venv/bin/pip install torch transformers safetensors numpy
    venv/bin/python make_reference.py         # writes the files beside this one

la/, lb/             Llamas, float32, heads of their own, three blocks, two key heads; the GPT-2s are ../gpt2_merge/a and b
la.u16, lb.u16       four windows of 16 token ids each
gpt2.safetensors     alpha 0.8, each model on its own windows; llama.safetensors likewise

For each block, Transformers runs a model of which the blocks before it are merged, and this one is the model's own; the inputs
of its linear layers give the Gram matrices. All of it is float64, merged weights are rounded to float32 as the output has them.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

torch.set_num_threads(1)
HERE = Path(__file__).resolve().parent
WINDOWS, LENGTH, VOCABULARY, ALPHA = 4, 16, 24, 0.8


def make_llama(name, seed):
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=LENGTH, tie_word_embeddings=False, bos_token_id=0,
                         eos_token_id=0)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter_name, p in model.named_parameters():
            p.normal_(1.0 if "norm" in parameter_name else 0.0, 0.3)
    model.save_pretrained(HERE / name)
    (HERE / name / "generation_config.json").unlink(missing_ok=True)
    np.random.default_rng(seed).integers(0, VOCABULARY, WINDOWS * LENGTH).astype("<u2").tofile(HERE / f"{name}.u16")


def blocks(model):
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


def gram_matrices(model, block, windows):
    """x^T x over all tokens for every linear layer of one block, by the name that its weight has."""
    found, hooks = {}, []

    def watch(name):
        def hook(_module, args):
            x = args[0].detach().reshape(-1, args[0].shape[-1])
            found[name] = found.get(name, 0) + x.T @ x
        return hook

    inside = {id(m) for m in blocks(model)[block].modules()}
    for name, module in model.named_modules():
        if id(module) in inside and isinstance(module, (torch.nn.Linear, Conv1D)):
            hooks.append(module.register_forward_pre_hook(watch(name + ".weight")))
    with torch.no_grad():
        for window in windows:
            model(torch.from_numpy(window[None].astype(np.int64)), use_cache=False)
    for hook in hooks:
        hook.remove()
    return {name: g.numpy() / windows.size for name, g in found.items()}


def solve(grams, weights, transposed):
    """W^T = (sum G_i)^-1 sum G_i W_i^T, with the matrices' off-diagonal elements times alpha."""
    grams = [ALPHA * g + (1 - ALPHA) * np.diag(np.diag(g)) for g in grams]
    columns = [w if transposed else w.T for w in weights]  # [in, out]
    merged = np.linalg.solve(sum(grams), sum(g @ w for g, w in zip(grams, columns)))
    return merged if transposed else merged.T


def regmean_plus(paths, data):
    models = [AutoModelForCausalLM.from_pretrained(p, dtype=torch.float64, attn_implementation="eager").eval() for p in paths]
    own = [{k: v.clone() for k, v in m.state_dict().items()} for m in models]
    conv1d = isinstance(next(m for m in models[0].modules() if isinstance(m, (Conv1D, torch.nn.Linear))), Conv1D)
    merged = {k: ((own[0][k] + own[1][k]) / 2).float().double() for k in own[0]}
    in_block = [{id(p) for p in b.parameters()} for b in blocks(models[0])]
    block_of = {name: next((i for i, ids in enumerate(in_block) if id(p) in ids), -1) for name, p in models[0].named_parameters()}
    for block in range(len(in_block)):
        grams = []
        for model, mine, windows in zip(models, own, data):
            with torch.no_grad():
                for name, p in model.named_parameters():
                    at = block_of[name]
                    p.copy_(merged[name] if at < block else mine[name])
            grams.append(gram_matrices(model, block, windows))
        for name in grams[0]:
            w = solve([g[name] for g in grams], [o[name].numpy() for o in own], conv1d)
            merged[name] = torch.from_numpy(w.astype(np.float32).astype(np.float64))
    return merged


def main():
    make_llama("la", 31)
    make_llama("lb", 32)
    gpt2 = HERE.parent / "gpt2_merge"
    for out, paths in (("gpt2", [gpt2 / "a", gpt2 / "b"]), ("llama", [HERE / "la", HERE / "lb"])):
        data = [np.fromfile(p.with_suffix(".u16"), "<u2").reshape(WINDOWS, LENGTH) for p in paths]
        merged = regmean_plus(paths, data)
        stored = load_file(paths[0] / "model.safetensors")
        tensors = {k: np.ascontiguousarray(v.numpy().astype(np.float32)) for k, v in merged.items() if k in stored}
        assert tensors.keys() == stored.keys(), tensors.keys() ^ stored.keys()
        save_file(tensors, HERE / f"{out}.safetensors")


if __name__ == "__main__":
    main()
