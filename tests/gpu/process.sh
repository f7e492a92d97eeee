#!/usr/bin/env bash
# Whole runs of the program on a GPU: the same bytes as on the CPU for every method, then the times.
#
#   tests/gpu/process.sh BUILD WORK [MILLIONS [THREADS [ROUNDS]]]
#
# BUILD: a build folder with ingot, make_models and limit. WORK: a folder for the models, about 12 bytes a parameter.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$(cd "$1" && pwd)
work=$2
millions=${3:-1100}
threads=${4:-$(nproc)}
rounds=${5:-3}
ingot=$build/bin/ingot

# On the GPU alone; then as the program does by itself: it begins on the CPU and goes over where that is faster.
for device in cuda auto; do
  "$root/tests/bench/run.sh" --build "$build" --dir "$work" --millions "$millions" --threads "$threads" \
    --rounds "$rounds" --device "$device" --methods "${METHODS:-linear slerp dare_ties ties}"
done

# The benchmark leaves its job files in WORK, of all its methods.
cd "$work"
for name in linear slerp task_arithmetic dare_linear dare_ties dare_ties_inv ties; do
  for device in cpu cuda auto; do
    "$ingot" run --quiet --fresh --device "$device" --threads "$threads" "$name.cfg"
    mv "out/$name.h5" "$device.h5"
  done
  if cmp -s cpu.h5 cuda.h5 && cmp -s cpu.h5 auto.h5; then
    echo "$name: the same bytes on CPU, GPU and both"
  else
    echo "$name: other bytes on CPU and GPU:" >&2
    "$ingot" diff cpu.h5 cuda.h5 >&2 || true
    "$ingot" diff cpu.h5 auto.h5 >&2 || true
    exit 1
  fi
  rm -rf cpu.h5 cuda.h5 auto.h5 out
done
