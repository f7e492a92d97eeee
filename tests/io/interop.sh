#!/usr/bin/env bash
# Runs interop.py with the first Python that has h5py, NumPy and safetensors, else the first without safetensors; exits
# with 77 (skipped) when there is none.
#   INGOT: the program.  INGOT_PYTHON: a Python to try first, such as one of a virtual environment.
set -euo pipefail
here=$(dirname "$0")
for modules in "h5py, numpy, safetensors.numpy" "h5py, numpy"; do
  for python in ${INGOT_PYTHON:-} python3 /usr/bin/python3 python; do
    command -v "$python" >/dev/null || continue
    "$python" -c "import $modules" 2>/dev/null || continue
    code=0
    "$python" "$here/interop.py" || code=$?
    exit "$code"
  done
done
echo "skipped: no Python with h5py and NumPy (set INGOT_PYTHON to one that has them)"
exit 77
