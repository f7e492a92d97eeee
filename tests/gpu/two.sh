#!/usr/bin/env bash
# Two ranks on two GPUs against one rank on one: the same bytes, and the time of each.
#
#   tests/gpu/two.sh BUILD WORK [MILLIONS [THREADS_A_RANK [ROUNDS]]]
set -euo pipefail
build=$(cd "$1" && pwd)
work=$2 millions=${3:-1100} threads=${4:-8} rounds=${5:-3}
ingot=$build/bin/ingot
mkdir -p "$work"
cd "$work"
[ -e expert-3/model.safetensors ] && [ -e tokens.u16 ] || "$build/tests/bench/make_models" . 3 "$millions"
cat ./*/model.safetensors >/dev/null
models='models = { base = "base"; a = "expert-1"; b = "expert-2"; c = "expert-3"; };'
three='models = ( { model = "a"; weight = 0.5; }, { model = "b"; weight = 0.3; }, { model = "c"; weight = 0.2; } );'
echo "$models steps = ( { type = \"merge\"; method = \"linear\"; durable = false; output = \"two/linear.h5\"; $three } );" >linear2.cfg
echo "$models steps = ( { type = \"merge\"; method = \"ties\"; base = \"base\"; durable = false; output = \"two/ties.h5\"; $three parameters = { density = 0.3; }; } );" >ties2.cfg
TIMEFORMAT=%R
for name in linear ties; do
  for ((i = 0; i <= rounds; i++)); do
    rm -rf two
    one=$({ time CUDA_VISIBLE_DEVICES=0 "$ingot" run --quiet --device cuda --threads "$threads" "${name}2.cfg" >/dev/null; } 2>&1)
    mv "two/$name.h5" one.h5
    rm -rf two
    both=$({ time mpirun -n 2 "$ingot" run --quiet --device cuda --threads "$threads" "${name}2.cfg" >/dev/null; } 2>&1)
    cmp one.h5 "two/$name.h5" || { echo "$name: two GPUs give other bytes" >&2; exit 1; }
    [ "$i" = 0 ] || echo "$name: one rank, one GPU $one s; two ranks, two GPUs $both s; the same bytes"
  done
  # the merge itself, without starting processes: from the summary of the last run
  rm -rf two
  mpirun -n 2 "$ingot" run --device cuda --threads "$threads" "${name}2.cfg" 2>&1 | grep -E 'read|write|wall|ranks'
done
rm -rf two one.h5
