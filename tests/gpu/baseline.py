#!/usr/bin/env python3
"""What PyTorch reaches on the shape that bench_model uses on a GPU: Llama, 16 layers of 2048 (feed-forward 8192, 32 and 8
heads, vocabulary 32000), bfloat16, 8 windows of 2048, attention by scaled_dot_product_attention.

  baseline.py [--distill] [--eager] [--repeats N]

Prints tokens/s and FLOP/s, counted as bench_model counts them, beside a bfloat16 product of 8192^3 in the same run.
With --distill instead: steps of a distillation, 3 teachers and a student of this shape, 4 windows of 2048 a step, KL divergence from
the equal mixture, gradients clipped, fused AdamW on bfloat16 parameters (without float32 masters, which favours PyTorch).
Needs PyTorch and Transformers; run it right before or after what it is compared with.
"""
import argparse
import math
import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

LAYERS, HIDDEN, INNER, HEADS, KV_HEADS, VOCABULARY = 16, 2048, 8192, 32, 8, 32000
BATCH, TIME = 8, 2048
TEACHERS, BATCH_DISTILL = 3, 4


def seconds(run, repeats):
    for _ in range(3):
        run()
    taken = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def make_model():
    config = LlamaConfig(num_hidden_layers=LAYERS, hidden_size=HIDDEN, intermediate_size=INNER,
                         num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, vocab_size=VOCABULARY,
                         max_position_embeddings=TIME, tie_word_embeddings=False, use_cache=False)
    config._attn_implementation = "sdpa"
    with torch.device("cuda"):
        return LlamaForCausalLM(config).to(torch.bfloat16)


def mixture_loss(student, teachers):
    """KL divergence from the teachers' equal mixture to the student, the mean over the predicted tokens."""
    parts = [torch.log_softmax(t.float(), -1) for t in teachers]
    mixture = torch.logsumexp(torch.stack(parts), 0) - math.log(len(parts))
    return (mixture.exp() * (mixture - torch.log_softmax(student.float(), -1))).sum(-1).mean()


def distillation(tokens, compiled):
    """One step of the optimiser."""
    teachers = [make_model().requires_grad_(False) for _ in range(TEACHERS)]
    student = make_model()
    wrap = torch.compile if compiled else lambda f: f
    run_teachers, run_student, loss_of = [wrap(t) for t in teachers], wrap(student), wrap(mixture_loss)
    optimiser = torch.optim.AdamW(student.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def step():
        with torch.no_grad():
            answers = [t(input_ids=tokens).logits[:, :-1] for t in run_teachers]
        loss_of(run_student(input_ids=tokens).logits[:, :-1], answers).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--distill", action="store_true")
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    torch.manual_seed(1)
    batch = BATCH_DISTILL if args.distill else BATCH
    tokens = torch.randint(VOCABULARY, (batch, TIME), device="cuda")
    head = HIDDEN // HEADS
    matrices = LAYERS * (HIDDEN * head * (2 * HEADS + 2 * KV_HEADS) + 3 * HIDDEN * INNER) + VOCABULARY * HIDDEN
    flops = batch * TIME * (2 * matrices + 2 * LAYERS * HEADS * head * TIME)
    side = 8192
    a = torch.randn(side, side, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(side, side, device="cuda", dtype=torch.bfloat16)
    rate = 2 * side**3 / seconds(lambda: a @ b, args.repeats)
    model = None if args.distill else make_model()
    run_model = model if args.eager or args.distill else torch.compile(model)

    def forward():
        with torch.no_grad():
            run_model(input_ids=tokens, labels=tokens)

    def both():
        model.zero_grad(set_to_none=True)
        run_model(input_ids=tokens, labels=tokens).loss.backward()

    print(f"PyTorch {torch.__version__}, {'eager' if args.eager else 'compiled'}; product of 8192^3: {rate / 1e12:.0f} TFLOP/s")
    cases = [("forward", forward, 1), ("forward and backward", both, 3)]
    if args.distill:
        cases = [("distillation step", distillation(tokens, not args.eager), 3 + TEACHERS)]
    for name, run, passes in cases:
        taken = seconds(run, args.repeats)
        print(f"{name:22s} {taken * 1e3:8.1f} ms  {batch * TIME / taken / 1e3:7.1f} k tokens/s  "
              f"{passes * flops / taken / 1e12:6.1f} TFLOP/s, {passes * flops / taken / rate:.3f} of the product, "
              f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB at most")


if __name__ == "__main__":
    main()
