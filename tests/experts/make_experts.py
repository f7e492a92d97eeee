#!/usr/bin/env python3
"""Trains the small expert family of this folder, and scores any checkpoint of the family.

    python make_experts.py                      make everything: models, data, README.md, reference.json
    python make_experts.py --out DIR            the same, in another folder
    python make_experts.py --evaluate DIR...    score checkpoint folders on the validation data

Needs PyTorch, Transformers 5, tokenizers, safetensors and NumPy. Training wants a GPU (minutes) but also runs on a CPU
(hours). Seeds are fixed and PyTorch's deterministic kernels are on, so one machine makes the same files twice; another
kind of machine makes a family that is equally good but not equal in bytes.
"""

import argparse
import datetime
import json
import math
import multiprocessing
import os
import pathlib
import random

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products on CUDA

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

logging.disable_progress_bar()

SEED = 20250101
WINDOW = 64                # tokens a window; documents never cross one
VAL_WINDOWS = 256          # 16,384 tokens a task
CALIB_WINDOWS = 512        # 32,768 tokens a task
POOL_WINDOWS = 32768       # training windows a task; calib is their beginning

DOC = 0                    # begins a document, and fills the rest of a window
ALPHABET = "=+-,./ ()[]{}<>0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
VOCABULARY = ["<s>", "<unk>"] + list(ALPHABET)
TOKEN_ID = {token: i for i, token in enumerate(VOCABULARY)}
EQUALS = TOKEN_ID["="]     # separates question and answer

BASE = {"steps": 450, "rate": 3e-3, "warmup": 50}
BASE_SHARES = {"add": 48, "sort": 40, "brackets": 20, "dates": 20}  # windows of each task in a step of the base
EXPERT = {"steps": 400, "rate": 8e-4, "warmup": 30}
OWN_SHARE, OTHER_SHARE = 52, 4  # windows of an expert's own task, and of each other task, in one of its steps
TASK_ARITHMETIC_WEIGHT = 0.4
REGMEAN_ALPHA = 0.9


# --- Tasks: each makes one (question, answer) pair --------------------------------------------------------------------

def make_add(rng):
    a, b = rng.randrange(1000), rng.randrange(1000)
    return f"{a}+{b}", str(a + b)


def make_sort(rng):
    letters = [rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(5, 9))]
    return "".join(letters), "".join(sorted(letters))


def make_brackets(rng):
    """A prefix of a well-formed bracket string; the answer closes what is open, innermost first."""
    closing = {"(": ")", "[": "]", "{": "}", "<": ">"}
    length = rng.randint(6, 14)
    while True:
        text, stack = "", []
        while len(text) < length:
            if stack and rng.random() < 0.35:
                text += closing[stack.pop()]
            else:
                stack.append(rng.choice("([{<"))
                text += stack[-1]
        if stack:
            return text, "".join(closing[c] for c in reversed(stack))


def make_dates(rng):
    """A day from 1950 to 2049 in one of five notations; the answer is in ISO 8601."""
    day = datetime.date(1950, 1, 1) + datetime.timedelta(days=rng.randrange(36525))
    month = ("January February March April May June July August September October November December").split()[day.month - 1]
    question = rng.choice((
        f"{day.day} {month[:3]} {day.year}",
        f"{month} {day.day}, {day.year}",
        f"{day.day}.{day.month}.{day.year}",
        f"{day.month}/{day.day}/{day.year % 100:02d}",
        f"{month[:3]} {day.day} {day.year % 100:02d}",
    ))
    return question, day.isoformat()


TASKS = {"add": make_add, "sort": make_sort, "brackets": make_brackets, "dates": make_dates}


# --- Data -------------------------------------------------------------------------------------------------------------

def make_windows(task, rng, count, taken, keep_taken):
    """`count` windows of whole documents. No question of `taken` is used; with keep_taken those used are added to it."""
    windows = np.full((count, WINDOW), DOC, dtype=np.uint16)
    pending = None
    for window in windows:
        at = 0
        while True:
            while pending is None:
                question, answer = TASKS[task](rng)
                if question not in taken:
                    pending = [DOC] + [TOKEN_ID[c] for c in f"{question}={answer}"]
                    if keep_taken:
                        taken.add(question)
            if at + len(pending) >= WINDOW:  # at least one DOC stays free, so every answer is seen to end in its window
                break
            window[at:at + len(pending)] = pending
            at += len(pending)
            pending = None
    return windows


def make_data(out):
    """Writes the validation and calibration files; returns the training windows by task."""
    folder = out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    pools = {}
    for task in TASKS:
        questions = set()
        val = make_windows(task, random.Random(f"{SEED} val {task}"), VAL_WINDOWS, questions, True)
        pools[task] = make_windows(task, random.Random(f"{SEED} train {task}"), POOL_WINDOWS, questions, False)
        val.astype("<u2").tofile(folder / f"{task}.val.u16")
        pools[task][:CALIB_WINDOWS].astype("<u2").tofile(folder / f"{task}.calib.u16")
    return pools


def read_windows(path):
    return torch.from_numpy(np.fromfile(path, dtype="<u2").astype(np.int64)).view(-1, WINDOW)


def make_tokenizer():
    """One token a character: BPE without merges."""
    tokenizer = Tokenizer(models.BPE(vocab=TOKEN_ID, merges=[], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>", unk_token="<unk>",
                                   model_max_length=WINDOW, clean_up_tokenization_spaces=False)


# --- Training ---------------------------------------------------------------------------------------------------------

def make_config():
    return LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=128, intermediate_size=176, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=WINDOW, rms_norm_eps=1e-5, tie_word_embeddings=True,
        bos_token_id=DOC, eos_token_id=DOC, pad_token_id=None)


def next_token_loss(model, windows, reduction="mean"):
    logits = model(input_ids=windows, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten(), reduction=reduction)


def train(name, model, pools, shares, settings, seed, device):
    """AdamW with warm-up and a cosine to a tenth; a batch holds shares[i] windows of pools[i]. Returns the model."""
    model.to(device).train()
    generator = torch.Generator().manual_seed(seed)
    pools = [torch.from_numpy(pool.astype(np.int64)).to(device) for pool in pools]
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["rate"], betas=(0.9, 0.98), weight_decay=0.01,
                                  fused=device == "cuda")
    for step in range(settings["steps"]):
        cosine = 0.55 + 0.45 * math.cos(math.pi * step / settings["steps"])
        for group in optimizer.param_groups:
            group["lr"] = settings["rate"] * min((step + 1) / settings["warmup"], cosine)
        rows = [torch.randint(len(pool), (share,), generator=generator).to(device) for pool, share in zip(pools, shares)]
        loss = next_token_loss(model, torch.cat([pool[row] for pool, row in zip(pools, rows)]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 250 == 0:
            print(f"{name}: step {step + 1}, loss {loss.item():.4f}", flush=True)
    return model


def save(model, folder):
    model.to("cpu", torch.bfloat16).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    os.chmod(folder / "model.safetensors", 0o644)


def load(folder):
    """A model in float32. Eager attention, because the fused kernels' gradients are not deterministic."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def prepare():
    """The device, with PyTorch set to give the same numbers every time."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    return "cuda" if torch.cuda.is_available() else "cpu"


def train_base(out, pools, settings):
    device = prepare()
    torch.manual_seed(SEED)
    config = make_config()
    config._attn_implementation = "eager"
    save(train("base", LlamaForCausalLM(config), pools, list(BASE_SHARES.values()), settings, SEED, device), out / "base")


def train_expert(task, out, pools, settings):
    """A little of the other tasks is kept in, so that the expert stays near the base and can be merged with the others."""
    device = prepare()
    shares = [OWN_SHARE if name == task else OTHER_SHARE for name in TASKS]
    seed = SEED + 1 + list(TASKS).index(task)
    save(train(task, load(out / "base"), list(pools.values()), shares, settings, seed, device), out / task)


def train_family(out, pools, fraction):
    """On a GPU the experts train side by side, since one model of this size keeps it idle most of the time."""
    base, expert = ({**s, "steps": max(1, round(s["steps"] * fraction))} for s in (BASE, EXPERT))
    train_base(out, list(pools.values()), base)
    jobs = [(task, out, pools, expert) for task in TASKS]
    with multiprocessing.get_context("spawn").Pool(len(jobs) if torch.cuda.is_available() else 1) as workers:
        workers.starmap(train_expert, jobs, chunksize=1)


# --- Scoring, always on the CPU ----------------------------------------------------------------------------------

def count_right(windows, predicted):
    """(answers wholly right, answers). predicted[w, t] is the most likely token after windows[w, :t + 1]: an answer whose
    every token, and the DOC that ends it, is predicted so is the answer that greedy decoding gives."""
    right = answers = 0
    for window, guess in zip(windows.cpu().numpy(), predicted.cpu().numpy()):
        for start in np.flatnonzero(window == EQUALS):
            end = start + 1 + int(np.argmax(window[start + 1:] == DOC))
            answers += 1
            right += bool((guess[start:end] == window[start + 1:end + 1]).all())
    return right, answers


@torch.no_grad()
def score(forward, data):
    """{task: {nll, accuracy}}: mean negative log-likelihood of tokens 2 to 64 of every window, share of right answers."""
    result = {}
    for task in TASKS:
        windows = read_windows(data / f"{task}.val.u16")
        log_p = forward(windows)[:, :-1]
        nll = -log_p.gather(2, windows[:, 1:, None]).double().mean().item()
        right, answers = count_right(windows, log_p.argmax(-1))
        result[task] = {"nll": nll, "accuracy": right / answers}
    return result


def log_probabilities(model):
    return lambda windows: model(input_ids=windows, use_cache=False).logits.log_softmax(-1)


def linear_ensemble(members):
    """Log of the mean of the members' probabilities."""
    return lambda windows: torch.stack([log_probabilities(m)(windows) for m in members]).logsumexp(0) - math.log(len(members))


# --- Reference merges: in float32, then rounded to bfloat16 as a merged checkpoint would be ---------------------------

def parameters(model):
    return {name: p.detach() for name, p in model.named_parameters()}  # tied weights appear once


def with_parameters(out, values):
    model = load(out / "base")
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(values[name].to(torch.bfloat16))
    return model


def mean_of(experts):
    return {name: torch.stack([parameters(e)[name] for e in experts]).mean(0) for name in parameters(experts[0])}


def task_arithmetic(base, experts, weight):
    base = parameters(base)
    return {name: base[name] + weight * sum(parameters(e)[name] - base[name] for e in experts) for name in base}


def fisher_diagonal(model, windows):
    """Mean over the windows of the squared gradient of the window's mean next-token loss."""
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in model.named_parameters()}
    for window in windows:
        model.zero_grad()
        next_token_loss(model, window[None]).backward()
        for name, p in model.named_parameters():
            total[name] += p.grad.double() ** 2
    return {name: value / len(windows) for name, value in total.items()}


def fisher_merge(experts, calib):
    fishers = [fisher_diagonal(e, windows) for e, windows in zip(experts, calib)]
    merged = mean_of(experts)
    for name in merged:
        weight = torch.stack([f[name] for f in fishers])
        value = torch.stack([parameters(e)[name] for e in experts]).double()
        total = weight.sum(0)
        merged[name] = torch.where(total > 0, (weight * value).sum(0) / total, merged[name].double()).float()
    return merged


@torch.no_grad()
def gram_matrices(model, windows):
    """X^T X / rows of the inputs of every linear layer but the head."""
    grams, hooks = {}, []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            def keep(_, inputs, name=name):
                x = inputs[0].flatten(0, 1).double()
                grams[f"{name}.weight"] = x.T @ x / len(x)
            hooks.append(module.register_forward_pre_hook(keep))
    model(input_ids=windows, use_cache=False)
    for hook in hooks:
        hook.remove()
    return grams


def regmean_merge(experts, calib, alpha):
    grams = [gram_matrices(e, windows) for e, windows in zip(experts, calib)]
    merged = mean_of(experts)
    for name in grams[0]:
        scaled = [alpha * g[name] + (1 - alpha) * torch.diag(torch.diag(g[name])) for g in grams]
        right = sum(g @ parameters(e)[name].double().T for g, e in zip(scaled, experts))
        merged[name] = torch.linalg.solve(sum(scaled), right).T.float()
    return merged


def score_family(out):
    data = out / "data"
    base, experts = load(out / "base"), [load(out / task) for task in TASKS]
    calib = [read_windows(data / f"{task}.calib.u16") for task in TASKS]
    merges = {
        "average": mean_of(experts),
        f"task arithmetic, weight {TASK_ARITHMETIC_WEIGHT}": task_arithmetic(base, experts, TASK_ARITHMETIC_WEIGHT),
        "Fisher, diagonal": fisher_merge(experts, calib),
        f"RegMean, alpha {REGMEAN_ALPHA}": regmean_merge(experts, calib, REGMEAN_ALPHA),
    }
    rows = {"base": base, **dict(zip(TASKS, experts))}
    rows |= {name: with_parameters(out, values) for name, values in merges.items()}
    table = {name: score(log_probabilities(model), data) for name, model in rows.items()}
    table["ensemble, linear, equal weights"] = score(linear_ensemble(experts), data)
    return table


# --- Report -----------------------------------------------------------------------------------------------------------

def format_table(table):
    lines = ["| model | " + " | ".join(TASKS) + " | mean |", "|---|" + "---|" * (len(TASKS) + 1)]
    blocks = []
    for heading, cell, last in (
            ("Negative log-likelihood a token (and perplexity)", lambda s: f"{s['nll']:.4f} ({math.exp(s['nll']):.3f})",
             lambda row: (lambda m: f"{m:.4f} ({math.exp(m):.3f})")(sum(s["nll"] for s in row.values()) / len(row))),
            ("Answers exactly right", lambda s: f"{100 * s['accuracy']:.1f} %",
             lambda row: f"{100 * sum(s['accuracy'] for s in row.values()) / len(row):.1f} %")):
        body = [f"| {name} | " + " | ".join(cell(row[task]) for task in TASKS) + f" | {last(row)} |"
                for name, row in table.items()]
        blocks.append(f"{heading}:\n\n" + "\n".join(lines + body))
    return "\n\n".join(blocks)


README = """# A small expert family

`base` and four experts, {names}: Hugging Face folders (LlamaForCausalLM, {parameters:,} parameters, bfloat16, tied
embeddings, vocabulary {vocabulary} with one token a character, hidden {hidden}, {layers} layers, {heads} heads, {kv} key/value heads,
feed-forward {ffn}, context {window}). They are small enough to ship and truly trained: the base on all four tasks for a
short while, each expert from the base, {own} % of
its training on one task and the rest spread over the others.

| task | question | answer |
|---|---|---|
| add | `198+60`: two numbers below 1000 | `258` |
| sort | `sxafbzw`: 5 to 9 letters | `abfswxz` |
| brackets | `([]{{(<`: the beginning of a well-formed string of `()[]{{}}<>`, 6 to 14 long | `>)}})`: what closes it |
| dates | `13 Apr 1952`, `March 4, 2036`, `4.3.2036`, month first `3/4/36`, `Mar 4 36`: 1950 to 2049 | `1952-04-13` |

## Data

`data/<task>.val.u16` ({val:,} tokens) and `data/<task>.calib.u16` ({calib:,} tokens): token ids, little-endian uint16.
Both are rows of {window} tokens. A document is id 0, the question, `=` (id {equals}) and the answer; a row holds whole documents
only, and id 0 fills its rest, so every answer is followed by id 0 in its own row. `calib` is the beginning of the
task's training data; no question of `val` occurs in it. An answer is right when every one of its tokens and
the id 0 after it is the most likely next token, given all of the row before it: this is what greedy decoding gives.

## Reference figures

Made by `make_experts.py` in float32 from the bfloat16 files; `reference.json` holds them in full. Every row predicts its
tokens 2 to {window}; natural logarithm; perplexity in brackets; the mean over the tasks is of the log-likelihoods. Merged
parameters are computed in float32 and rounded to bfloat16. Task arithmetic: base + {weight} times the sum of the four task
vectors. Fisher: mean over the {windows} rows of the expert's `calib` of the squared gradient of that row's mean
next-token loss; sum F theta / sum F, plain mean where all F vanish. RegMean: Gram matrices over all positions of
`calib`, every linear layer but the head, off-diagonals times {alpha}, float64 solve, everything else averaged.

{tables}

## Making it again

`python make_experts.py` needs PyTorch, Transformers 5, tokenizers, safetensors and NumPy; with a GPU it takes minutes.
`python make_experts.py --evaluate DIR...` prints these tables for any folders of the family, merged ones too.

The data is generated, the models are trained on nothing else, and all of it is under the project's own licence.
"""


def write_report(out, table):
    config = make_config()
    count = sum(p.numel() for p in LlamaForCausalLM(config).parameters())
    (out / "README.md").write_text(README.format(
        names=", ".join(f"`{task}`" for task in TASKS), parameters=count, vocabulary=config.vocab_size,
        hidden=config.hidden_size, layers=config.num_hidden_layers, heads=config.num_attention_heads,
        kv=config.num_key_value_heads, ffn=config.intermediate_size, window=WINDOW, val=VAL_WINDOWS * WINDOW,
        calib=CALIB_WINDOWS * WINDOW, windows=CALIB_WINDOWS, equals=EQUALS, weight=TASK_ARITHMETIC_WEIGHT,
        alpha=REGMEAN_ALPHA,
        own=round(100 * OWN_SHARE / (OWN_SHARE + (len(TASKS) - 1) * OTHER_SHARE)), tables=format_table(table)))
    (out / "reference.json").write_text(json.dumps(table, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    here = pathlib.Path(__file__).resolve().parent
    parser.add_argument("--out", type=pathlib.Path, default=here, help="folder to write, or whose data to score on (default: this one)")
    parser.add_argument("--fraction", type=float, default=1.0, help="train this fraction of the steps, for a trial")
    parser.add_argument("--report", action="store_true", help="score what is there and write README.md and reference.json")
    parser.add_argument("--evaluate", nargs="+", metavar="DIR", help="score these checkpoint folders, make nothing")
    arguments = parser.parse_args()

    prepare()
    if arguments.evaluate:
        data = arguments.out / "data"
        print(format_table({d: score(log_probabilities(load(d)), data) for d in arguments.evaluate}))
        return
    if not arguments.report:
        train_family(arguments.out, make_data(arguments.out), arguments.fraction)
    write_report(arguments.out, score_family(arguments.out))


if __name__ == "__main__":
    main()
