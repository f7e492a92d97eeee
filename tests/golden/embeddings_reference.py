#!/usr/bin/env python3
"""Models whose embeddings and heads differ in rows, and what mergekit makes of them.

    python3 -m venv venv && venv/bin/pip install mergekit==0.1.4
    venv/bin/python embeddings_reference.py       # writes the folder embeddings/ beside this file

A base of 6 tokens, model a of 9 and model b of 7: Llama with one layer and a head of its own. All values are multiples of 2^-7 and
the weights are powers of two, so that linear, task_arithmetic and ties are exact in float32: the expected files are to be met
bit for bit (slerp within rounding).
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

import mergekit.architecture.base as architecture
import numpy as np
import torch
import transformers
from mergekit.config import MergeConfiguration
from mergekit.merge import MergeOptions, run_merge
from safetensors.numpy import load_file, save_file

HIDDEN, MIDDLE = 8, 8
HERE = Path(__file__).resolve().parent / "embeddings"


def shapes(rows):
    layer = "model.layers.0."
    return {
        "model.embed_tokens.weight": (rows, HIDDEN),
        layer + "input_layernorm.weight": (HIDDEN,),
        layer + "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
        layer + "self_attn.k_proj.weight": (HIDDEN, HIDDEN),
        layer + "self_attn.v_proj.weight": (HIDDEN, HIDDEN),
        layer + "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
        layer + "post_attention_layernorm.weight": (HIDDEN,),
        layer + "mlp.gate_proj.weight": (MIDDLE, HIDDEN),
        layer + "mlp.up_proj.weight": (MIDDLE, HIDDEN),
        layer + "mlp.down_proj.weight": (HIDDEN, MIDDLE),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (rows, HIDDEN),
    }


def write_model(name, rows, seed):
    random = np.random.default_rng(seed)
    folder = HERE / name
    folder.mkdir(parents=True)
    tensors = {}
    for key, shape in shapes(rows).items():
        # No two magnitudes of a task vector are equal, so that the cut of ties is no matter of taste.
        values = random.permutation(np.arange(1, 1 + int(np.prod(shape)))) * random.choice([-1, 1], int(np.prod(shape)))
        tensors[key] = (values / 128.0).astype(np.float32).reshape(shape)
    if name != "base":
        base = load_file(HERE / "base" / "model.safetensors")
        for key, delta in tensors.items():
            rows_of_both = min(delta.shape[0], base[key].shape[0])
            delta[:rows_of_both] += base[key][:rows_of_both]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": MIDDLE,
        "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 1, "vocab_size": rows, "dtype": "float32",
        "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def merge(name, recipe):
    with tempfile.TemporaryDirectory() as out:
        options = MergeOptions(cuda=False, copy_tokenizer=False)
        run_merge(MergeConfiguration.model_validate({"dtype": "float32", **recipe}), out, options)
        save_file(load_file(f"{out}/model.safetensors"), HERE / f"{name}.safetensors")


def models(weights):
    return [{"model": f"./{name}", "parameters": weights} for name in ("a", "b")]


# Some versions of pydantic want the types that mergekit names in quotes.
names = {**vars(architecture), "torch": torch, "PretrainedConfig": transformers.PretrainedConfig}
for cls in [c for c in vars(architecture).values() if isinstance(c, type) and hasattr(c, "model_rebuild")]:
    if cls.__module__ == architecture.__name__:
        cls.model_rebuild(_types_namespace=names)

shutil.rmtree(HERE, ignore_errors=True)
HERE.mkdir()
os.chdir(HERE)
write_model("base", 6, 1)
write_model("a", 9, 2)
write_model("b", 7, 3)
merge("linear", {"merge_method": "linear", "models": models({"weight": 0.5})})
merge("slerp", {"merge_method": "slerp", "base_model": "./a", "models": [{"model": "./b"}], "parameters": {"t": 0.25}})
merge("task_arithmetic", {"merge_method": "task_arithmetic", "base_model": "./base", "models": models({"weight": 0.5})})
merge("ties", {"merge_method": "ties", "base_model": "./base", "models": models({"weight": 1.0, "density": 0.5}),
               "parameters": {"normalize": True}})
