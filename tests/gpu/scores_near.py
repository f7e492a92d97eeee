#!/usr/bin/env python3
"""scores_near.py TOLERANCE A B: the perplexities in two JSON files, in order, are as many and differ by at most TOLERANCE as a part of
those in B. Prints the worst. The standard library alone."""
import json
import sys


def found(node):
    if isinstance(node, dict):
        if isinstance(node.get("perplexity"), (int, float)):
            yield node["perplexity"]
        for child in node.values():
            yield from found(child)
    elif isinstance(node, list):
        for child in node:
            yield from found(child)


tolerance = float(sys.argv[1])
ours, theirs = ([*found(json.load(open(path)))] for path in sys.argv[2:4])
if not ours or len(ours) != len(theirs):
    sys.exit(f"{len(ours)} and {len(theirs)} perplexities")
worst = max(abs(a - b) / b for a, b in zip(ours, theirs))
print(f"{len(ours)} perplexities within {100 * worst:.3g} %")
sys.exit(not worst <= tolerance)
