#!/usr/bin/env python3
"""What PyTorch reaches on the shape that bench_model uses on a GPU: Llama, 16 layers of 2048 (feed-forward 8192, 32 and 8
heads, vocabulary 32000), bfloat16, 8 windows of 2048, attention by scaled_dot_product_attention.

  baseline.py [--eager] [--repeats N]

Prints tokens/s and FLOP/s, counted as bench_model counts them, beside a bfloat16 product of 8192^3 in the same run.
Needs PyTorch and Transformers; run it right before or after bench_model.
"""
import argparse
import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

LAYERS, HIDDEN, INNER, HEADS, KV_HEADS, VOCABULARY = 16, 2048, 8192, 32, 8, 32000
BATCH, TIME = 8, 2048


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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    torch.manual_seed(1)
    config = LlamaConfig(num_hidden_layers=LAYERS, hidden_size=HIDDEN, intermediate_size=INNER,
                         num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, vocab_size=VOCABULARY,
                         max_position_embeddings=TIME, tie_word_embeddings=False, use_cache=False)
    config._attn_implementation = "sdpa"
    with torch.device("cuda"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    tokens = torch.randint(VOCABULARY, (BATCH, TIME), device="cuda")
    head = HIDDEN // HEADS
    matrices = LAYERS * (HIDDEN * head * (2 * HEADS + 2 * KV_HEADS) + 3 * HIDDEN * INNER) + VOCABULARY * HIDDEN
    flops = BATCH * TIME * (2 * matrices + 2 * LAYERS * HEADS * head * TIME)
    side = 8192
    a = torch.randn(side, side, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(side, side, device="cuda", dtype=torch.bfloat16)
    rate = 2 * side**3 / seconds(lambda: a @ b, args.repeats)
    run_model = model if args.eager else torch.compile(model)

    def forward():
        with torch.no_grad():
            run_model(input_ids=tokens, labels=tokens)

    def both():
        model.zero_grad(set_to_none=True)
        run_model(input_ids=tokens, labels=tokens).loss.backward()

    print(f"PyTorch {torch.__version__}, {'eager' if args.eager else 'compiled'}; product of 8192^3: {rate / 1e12:.0f} TFLOP/s")
    for name, run, passes in (("forward", forward, 1), ("forward and backward", both, 3)):
        taken = seconds(run, args.repeats)
        print(f"{name:22s} {taken * 1e3:8.1f} ms  {BATCH * TIME / taken / 1e3:7.1f} k tokens/s  "
              f"{passes * flops / taken / 1e12:6.1f} TFLOP/s, {passes * flops / taken / rate:.3f} of the product")


if __name__ == "__main__":
    main()
