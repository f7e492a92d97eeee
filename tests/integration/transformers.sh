#!/usr/bin/env bash
# Transformers loads what ingot writes: transformers_reads.py, with the first Python that has it and PyTorch; else skipped.
#   INGOT_PYTHON: a Python to try first, such as one of a virtual environment.
. "$(dirname "$0")/lib.sh"
export HF_HUB_OFFLINE=1
for python in "${INGOT_PYTHON:-}" python3 /usr/bin/python3; do
  command -v "$python" >/dev/null || continue
  "$python" -c 'import torch, transformers' 2>/dev/null || continue
  "$python" "$SOURCE/tests/integration/transformers_reads.py" "$SOURCE/tests" || fail "transformers_reads.py"
  exit 0
done
skip "no Python with PyTorch and Transformers (set INGOT_PYTHON to one that has them)"
