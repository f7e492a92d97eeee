#!/usr/bin/env python3
"""Tiny random models of every supported architecture, and what Transformers computes with them.

    python3 -m venv venv && venv/bin/pip install torch transformers safetensors numpy
    venv/bin/python make_reference.py         # writes reference/ beside this file

reference/<case>/ is a Hugging Face directory: config.json, in the spelling of Transformers 4 or 5, and model.safetensors, in
one of several dtypes. reference/<case>.safetensors holds, for two windows of 24 tokens:
  tokens, labels (-1: nothing to predict), logits of the float32 model, nll per token of the float64 model,
  "gradient/<name>": of the mean loss over all labels, float64 rounded to float32 (some cases: queries and keys alone),
  "fisher/<name>":   mean over the windows of the squared gradient of the window's mean loss,
  "gram/<name>":     mean over the tokens of x x^T, x the input of the linear layer of this name.
In the float64 model Transformers still computes norms, angles and softmax in float32.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

torch.set_num_threads(1)
HERE = Path(__file__).resolve().parent / "reference"
WINDOWS, LENGTH, VOCABULARY = 2, 24, 67

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "attention_dropout": 0.0,
    "pretraining_tp": 1,
}
SMALL_LLAMA = {**LLAMA, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24}
NAMES = {"mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def like_llama(family, **changes):
    base = {k: v for k, v in LLAMA.items() if k != "pretraining_tp"}
    return {**base, "model_type": family, "architectures": [NAMES[family]], **changes}


# case: (config, dtype of the file, what is kept)
CASES = {
    "llama": (
        {**LLAMA, "dtype": "bfloat16", "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        torch.bfloat16,
        "all",
    ),
    "llama_bias_tied": (
        {**SMALL_LLAMA, "torch_dtype": "float32", "rope_theta": 1000.0, "rope_scaling": None, "attention_bias": True,
         "mlp_bias": True, "tie_word_embeddings": True, "num_key_value_heads": None},
        torch.float32,
        "gradients",
    ),
    "rope_linear": (
        {**SMALL_LLAMA, "torch_dtype": "bfloat16", "rope_theta": 100.0, "rope_scaling": {"type": "linear", "factor": 2.5}},
        torch.bfloat16,
        "attention",
    ),
    "rope_dynamic": (
        {**SMALL_LLAMA, "torch_dtype": "bfloat16", "max_position_embeddings": 10,
         "rope_scaling": {"type": "dynamic", "factor": 2.0}},
        torch.bfloat16,
        "attention",
    ),
    "rope_llama3": (
        {**LLAMA, "num_hidden_layers": 1, "dtype": "bfloat16", "max_position_embeddings": 128,
         "rope_parameters": {"rope_type": "llama3", "rope_theta": 200.0, "factor": 4.0, "low_freq_factor": 1.0,
                             "high_freq_factor": 4.0, "original_max_position_embeddings": 32}},
        torch.bfloat16,
        "attention",
    ),
    "rope_yarn": (
        {**LLAMA, "num_hidden_layers": 1, "torch_dtype": "bfloat16", "max_position_embeddings": 128, "rope_theta": 10000.0,
         "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 4.0}},
        torch.bfloat16,
        "attention",
    ),
    "mistral": (
        like_llama("mistral", dtype="float32", sliding_window=7, head_dim=16, num_attention_heads=2, num_key_value_heads=1,
                   rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
        torch.float32,
        "gradients",
    ),
    "qwen2": (
        like_llama("qwen2", torch_dtype="float16", rope_theta=1000000.0, use_sliding_window=True, sliding_window=5,
                   max_window_layers=1, tie_word_embeddings=True, rms_norm_eps=1e-6),
        torch.float16,
        "gradients",
    ),
    "qwen3": (
        like_llama("qwen3", dtype="bfloat16", head_dim=16, rms_norm_eps=1e-6, attention_bias=False,
                   use_sliding_window=True, sliding_window=6, max_window_layers=28,
                   layer_types=["sliding_attention", "full_attention"],
                   rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
        torch.bfloat16,
        "gradients",
    ),
    "gpt2": (
        {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": VOCABULARY, "n_embd": 24, "n_head": 3,
         "n_layer": 2, "n_positions": 32, "n_ctx": 32, "n_inner": None, "activation_function": "gelu_new",
         "layer_norm_epsilon": 1e-5, "attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1},
        torch.bfloat16,
        "all",
    ),
}


def random_weights(model, generator):
    """Large enough that attention is far from even; norms away from 1, biases away from 0."""
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        is_norm = "norm" in name or ".ln_" in name
        if p.ndim == 2:
            value = noise * (0.5 if "embed" in name or "wte" in name or "wpe" in name else 1.5 / np.sqrt(p.shape[1]))
        else:
            value = 1 + 0.3 * noise if is_norm and name.endswith("weight") else 0.2 * noise
        p.data.copy_(value)


def write_model(path, config, dtype, generator):
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))
    random_weights(model, generator)
    tensors = {name: p.detach().to(dtype).contiguous() for name, p in model.named_parameters()}
    if config["model_type"] == "gpt2":  # as OpenAI's files: no prefix, and the causal mask as a buffer
        tensors = {name.removeprefix("transformer."): p for name, p in tensors.items()}
        tensors["h.0.attn.bias"] = torch.tril(torch.ones(1, 1, 32, 32, dtype=torch.uint8))
    if config.get("tie_word_embeddings"):  # a buffer that older files carry
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_torch(tensors, path / "model.safetensors", metadata={"format": "pt"})


def windows(generator):
    stream = torch.randint(0, VOCABULARY, (WINDOWS, LENGTH + 1), generator=generator)
    labels = stream[:, 1:].clone()
    labels[0, 3] = labels[1, 10] = labels[1, LENGTH - 1] = -1
    return stream[:, :-1].contiguous(), labels


def nll(logits, labels):
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=-1, reduction="none"
    ).view(labels.shape)


def load(path, dtype):
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    return model.to(dtype).eval()


def gradients(model, tokens, labels):
    model.zero_grad()
    losses = nll(model(tokens).logits, labels)
    (losses.sum() / (labels >= 0).sum()).backward()
    return {name: p.grad.detach().clone() for name, p in model.named_parameters()}


def grams(model, tokens):
    sums = {}

    def hook(name):
        def see(_, inputs):
            x = inputs[0].detach().flatten(0, 1)
            sums[name + ".weight"] = x.T @ x / x.shape[0]

        return see

    handles = [
        m.register_forward_pre_hook(hook(name))
        for name, m in model.named_modules()
        if isinstance(m, (torch.nn.Linear, Conv1D))
    ]
    model(tokens)
    for h in handles:
        h.remove()
    return sums


def reference(path, keep, tokens, labels):
    out = {"tokens": tokens.to(torch.int32), "labels": labels.to(torch.int32)}
    with torch.no_grad():
        out["logits"] = load(path, torch.float32)(tokens).logits
    model = load(path, torch.float64)
    with torch.no_grad():
        out["nll"] = nll(model(tokens).logits, labels)
    for name, g in gradients(model, tokens, labels).items():
        if keep != "attention" or "q_proj" in name or "k_proj" in name:
            out["gradient/" + name] = g
    if keep == "all":
        parts = [gradients(model, tokens[i : i + 1], labels[i : i + 1]) for i in range(WINDOWS)]
        for name in parts[0]:
            out["fisher/" + name] = sum(p[name] ** 2 for p in parts) / WINDOWS
        with torch.no_grad():
            shared = ("k_proj", "v_proj", "up_proj")
            out |= {"gram/" + n: g for n, g in grams(model, tokens).items() if not any(s in n for s in shared)}
    return {name: (t if t.dtype == torch.int32 else t.float()).numpy() for name, t in out.items()}


def main():
    if HERE.exists():
        shutil.rmtree(HERE)
    for number, (case, (config, dtype, keep)) in enumerate(CASES.items()):
        generator = torch.Generator().manual_seed(20 + number)
        write_model(HERE / case, config, dtype, generator)
        tokens, labels = windows(generator)
        save_file(reference(HERE / case, keep, tokens, labels), HERE / f"{case}.safetensors")


if __name__ == "__main__":
    main()
