#!/usr/bin/env bash
# Steps evaluate, fisher, gram and regmean_plus, and merges with statistics, on GPUs: against the CPU on the small family of tests/experts; with
# two GPUs against one, there and on a generated Llama, whose times are printed; one run under compute-sanitizer.
#
#   tests/gpu/statistics.sh BUILD WORK [MILLIONS [WINDOWS [THREADS]]]
#
# BUILD: a build folder with ingot and make_models. WORK: a folder for models and results. WINDOWS: of 2048 tokens.
# Gram matrices take half a Fisher matrix's time, so they get twice the windows. Needs Python (standard library).
# shellcheck disable=SC2317 # parts are called by name
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$(cd "$1" && pwd)
mkdir -p "$2"
work=$(cd "$2" && pwd)
millions=${3:-1100} windows=${4:-1024} threads=${5:-8}
ingot=$build/bin/ingot
near=$root/tests/gpu/statistics_near.py scores_near=$root/tests/gpu/scores_near.py
n_gpu=$(nvidia-smi --list-gpus | wc -l)
cd "$work"
TIMEFORMAT=%R
failed=0

check() { # TEXT COMMAND...
  local text=$1 said
  shift
  if said=$("$@" 2>&1); then echo "$text: ok: $said"; else echo "$text: FAILED: $said"; failed=1; fi
}

small_job() { # NAME DTYPE
  local data="$root/tests/experts/data"
  cat >"$1.cfg" <<END
models = { add = "$root/tests/experts/add"; };
steps = (
  { type = "evaluate"; models = ( "add" ); data = { add = "$data/add.val.u16"; sort = "$data/sort.val.u16"; }; window = 64; limit = 32; dtype = "$2"; output = "$1/scores.json"; },
  { type = "fisher"; model = "add"; data = ( "$data/add.calib.u16" ); window = 64; limit = 32; dtype = "$2"; durable = false; output = "$1/fisher"; },
  { type = "gram"; model = "add"; data = ( "$data/add.calib.u16" ); window = 64; limit = 32; outputs = true; head = true; dtype = "$2"; durable = false; output = "$1/gram"; }
);
END
}

part_small() {
  local kind
  for kind in cpu:float32 cuda:float32 cuda:bfloat16; do
    small_job "${kind/:/-}" "${kind#*:}"
    "$ingot" run --quiet --fresh --device "${kind%:*}" --threads "$threads" "${kind/:/-}.cfg" >/dev/null
  done
  check "float32, fisher" python3 "$near" 1e-4 cuda-float32/fisher cpu-float32/fisher
  check "float32, gram" python3 "$near" 1e-4 cuda-float32/gram cpu-float32/gram
  check "float32, scores" python3 "$scores_near" 1e-4 cuda-float32/scores.json cpu-float32/scores.json
  check "bfloat16, scores" python3 "$scores_near" 2e-3 cuda-bfloat16/scores.json cpu-float32/scores.json
  check "two ranks on one GPU" two_ranks one-gpu 0
  [ "$n_gpu" -lt 2 ] || check "two ranks, two GPUs" two_ranks two-gpus 0,1
  [ "$n_gpu" -lt 2 ] || check "two GPUs, left while NCCL is being opened" two_gpus_left
}

# Float32 on two ranks against one, on the GPUs named. Other windows share a pass, and the tensor cores cut off low bits as they
# add: up to 3e-5 of a diagonal.
two_ranks() { # NAME DEVICES
  small_job "$1" float32
  CUDA_VISIBLE_DEVICES=$2 mpirun -n 2 --bind-to none "$ingot" run --quiet --fresh --device cuda --threads "$threads" "$1.cfg" >/dev/null
  python3 "$near" 3e-5 "$1/fisher" cuda-float32/fisher && python3 "$near" 3e-5 "$1/gram" cuda-float32/gram &&
    python3 "$scores_near" 1e-5 "$1/scores.json" cuda-float32/scores.json
}

# The windows are over long before NCCL is open: a rank that fails or is stopped keeps nobody waiting, and the same command continues.
two_gpus_left() {
  local code=0 run=(timeout 120 mpirun -n 2 --bind-to none "$ingot" run --quiet --device cuda --threads "$threads")
  small_job left float32
  INGOT_FAULT=read@0:3 "${run[@]}" --fresh --step 2 left.cfg >/dev/null 2>left.txt || code=$?
  if [ "$code" -ne 1 ] || ! grep -q "planned fault: read" left.txt; then echo "failed: exit code $code: $(cat left.txt)"; return 1; fi
  code=0
  INGOT_FAULT=stop@1:5 "${run[@]}" --fresh --step 2 left.cfg >/dev/null 2>left.txt || code=$?
  [ "$code" -eq 75 ] || { echo "stopped: exit code $code: $(cat left.txt)"; return 1; }
  "${run[@]}" --step 2 left.cfg >/dev/null && python3 "$near" 3e-5 left/fisher cuda-float32/fisher
}

merges_job() { # DEVICE
  local family=$root/tests/experts out='type = "merge"; dtype = "float32"; durable = false;' fisher="" gram="" id
  for id in add sort dates; do
    fisher+="{ model = \"$id\"; statistics = \"statistics/fisher-$id.h5\"; },"
    gram+="{ model = \"$id\"; statistics = \"statistics/gram-$id.h5\"; },"
  done
  fisher="models = ( ${fisher%,} );" gram="models = ( ${gram%,} );"
  cat >"merges-$1.cfg" <<END
models = { base = "$family/base"; add = "$family/add"; sort = "$family/sort"; dates = "$family/dates"; };
steps = (
  { $out method = "fisher"; $fisher output = "merges-$1/fisher"; },
  { $out method = "regmean"; $gram output = "merges-$1/regmean"; },
  { $out method = "regmean"; $gram parameters = { alpha = 1.0; ridge = 1e-4; }; output = "merges-$1/regmean-ridge"; },
  { $out method = "mats"; base = "base"; $gram parameters = { start = "base"; iterations = 5; }; output = "merges-$1/mats-gram"; },
  { $out method = "mats"; base = "base"; $gram parameters = { metric = "kfac"; start = "base"; iterations = 5; }; output = "merges-$1/mats-kfac"; },
  { $out method = "mats"; base = "base"; $fisher parameters = { metric = "fisher"; start = "base"; iterations = 5; }; output = "merges-$1/mats-fisher"; }
);
END
}

# The base's weights given as Fisher information: the same refusal from CPU and GPU.
refused_alike() {
  local family=$root/tests/experts id code
  cat >negative.cfg <<END
models = { add = "$family/add"; sort = "$family/sort"; };
steps = ( { type = "merge"; method = "fisher"; durable = false; output = "negative";
  models = ( { model = "add"; statistics = "statistics/fisher-add.h5"; }, { model = "sort"; statistics = "$family/base/model.safetensors"; } ); } );
END
  for id in cpu cuda; do
    code=0
    "$ingot" run --quiet --fresh --device "$id" --threads "$threads" negative.cfg 2>"negative-$id.txt" || code=$?
    [ "$code" -eq 3 ] || { echo "exit code $code on $id: $(cat "negative-$id.txt")"; return 1; }
  done
  cmp negative-cpu.txt negative-cuda.txt && grep -o '[0-9]* values of Fisher information.*' negative-cuda.txt
}

# Fisher information with NaN, which counts as 0: one model's own magnitudes, every hundredth of them bad.
zeroed_alike() {
  local family=$root/tests/experts id
  python3 - "$family/sort/model.safetensors" magnitudes.safetensors <<'END'
import struct, sys
data = bytearray(open(sys.argv[1], "rb").read())
first = 8 + struct.unpack_from("<Q", data)[0]  # bfloat16, from here to the end
for i in range(first + 1, len(data), 2):
    data[i] &= 0x7F
for i in range(first, len(data), 200):
    data[i:i + 2] = b"\xc0\x7f"
open(sys.argv[2], "wb").write(data)
END
  cat >zeroed.cfg <<END
models = { base = "$family/base"; add = "$family/add"; sort = "$family/sort"; };
steps = ( { type = "merge"; method = "mats"; base = "base"; dtype = "float32"; durable = false; nonfinite = "zero"; output = "zeroed";
  parameters = { metric = "fisher"; start = "base"; iterations = 5; };
  models = ( { model = "add"; statistics = "statistics/fisher-add.h5"; }, { model = "sort"; statistics = "magnitudes.safetensors"; } ); } );
END
  for id in cpu cuda; do
    "$ingot" run --quiet --fresh --device "$id" --threads "$threads" zeroed.cfg >/dev/null || return 1
    rm -rf "zeroed-$id" && mv zeroed "zeroed-$id"
  done
  python3 "$near" 1e-5 zeroed-cuda zeroed-cpu
}

# Whole merges with one set of statistics, which the CPU gathers; RegMean of two generated Llamas, with its time.
part_merges() {
  local data="$root/tests/experts/data" models="" steps="" id name
  for id in add sort dates; do
    models+="$id = \"$root/tests/experts/$id\"; "
    for name in fisher "gram outputs"; do
      steps+="{ type = \"${name% *}\"; model = \"$id\"; data = ( \"$data/$id.calib.u16\" ); window = 64; limit = 64; durable = false;"
      [ "$name" = fisher ] || steps+=" outputs = true;"
      steps+=" output = \"statistics/${name% *}-$id.h5\"; },"
    done
  done
  echo "models = { $models}; steps = ( ${steps%,} );" >collect.cfg
  "$ingot" run --quiet --fresh --device cpu --threads "$threads" collect.cfg >/dev/null
  for id in cpu cuda; do
    merges_job "$id"
    "$ingot" run --quiet --fresh --device "$id" --threads "$threads" "merges-$id.cfg" >/dev/null
  done
  for name in fisher regmean regmean-ridge mats-gram mats-kfac mats-fisher; do
    check "merge, $name" python3 "$near" 1e-5 "merges-cuda/$name" "merges-cpu/$name"
  done
  check "Fisher information below zero" refused_alike
  check "merge, mats-fisher, NaN as 0" zeroed_alike
  [ -e expert-2/model.safetensors ] && [ -e tokens.u16 ] || "$build/tests/bench/make_models" . 2 "$millions"
  cat >regmean.cfg <<END
models = { a = "expert-1"; b = "expert-2"; };
steps = (
  { type = "gram"; name = "gram-a"; model = "a"; data = ( "tokens.u16" ); window = 2048; limit = 32; durable = false; output = "regmean/gram-a.h5"; },
  { type = "gram"; name = "gram-b"; model = "b"; data = ( "tokens.u16" ); window = 2048; limit = 32; durable = false; output = "regmean/gram-b.h5"; },
  { type = "merge"; method = "regmean"; models = ( { model = "a"; statistics = "gram-a"; }, { model = "b"; statistics = "gram-b"; } ); durable = false;
    output = "regmean/merged.h5"; }
);
END
  "$ingot" run --fresh --device cuda --threads "$threads" regmean.cfg >regmean.log 2>&1 || { tail -n 20 regmean.log; failed=1; }
  grep -E "wall|merge  |warning" regmean.log || true
  "$ingot" verify regmean/merged.h5 || failed=1
  rm -rf regmean
}

plus_job() { # NAME DTYPE
  local family=$root/tests/experts
  cat >"$1.cfg" <<END
models = { add = "$family/add"; sort = "$family/sort"; dates = "$family/dates"; };
steps = (
  { type = "regmean_plus"; models = ( "add", "sort", "dates" ); window = 64; limit = 64; dtype = "$2"; output_dtype = "float32"; durable = false;
    data = { add = "$family/data/add.calib.u16"; sort = "$family/data/sort.calib.u16"; dates = "$family/data/dates.calib.u16"; };
    output = "$1/plus"; },
  { type = "evaluate"; models = ( "$1/plus" ); window = 64; limit = 32; dtype = "float32"; output = "$1/scores.json";
    data = { add = "$family/data/add.val.u16"; sort = "$family/data/sort.val.u16"; }; }
);
END
}

two_ranks_plus() { # NAME DEVICES
  plus_job "$1" float32
  CUDA_VISIBLE_DEVICES=$2 mpirun -n 2 --bind-to none "$ingot" run --quiet --fresh --device cuda --threads "$threads" --step 1 "$1.cfg" >/dev/null
  python3 "$near" 1e-3 "$1/plus" plus-cuda-float32/plus
}

# RegMean++: each block is solved behind others, so differences of matrices go through what follows; bfloat16 by its scores. Two generated
# Llamas, with the time and the memory beside its plan.
part_plus() {
  local kind name
  for kind in cpu:float32 cuda:float32 cuda:bfloat16; do
    name=plus-${kind/:/-}
    plus_job "$name" "${kind#*:}"
    "$ingot" run --quiet --fresh --device "${kind%:*}" --threads "$threads" "$name.cfg" >/dev/null
  done
  check "RegMean++, float32" python3 "$near" 1e-3 plus-cuda-float32/plus plus-cpu-float32/plus
  check "RegMean++, float32, scores" python3 "$scores_near" 1e-3 plus-cuda-float32/scores.json plus-cpu-float32/scores.json
  check "RegMean++, bfloat16, scores" python3 "$scores_near" 2e-2 plus-cuda-bfloat16/scores.json plus-cpu-float32/scores.json
  check "RegMean++, two ranks on one GPU" two_ranks_plus plus-one-gpu 0
  [ "$n_gpu" -lt 2 ] || check "RegMean++, two ranks, two GPUs" two_ranks_plus plus-two-gpus 0,1
  [ -e expert-2/model.safetensors ] && [ -e tokens.u16 ] || "$build/tests/bench/make_models" . 2 "$millions"
  cat >plus.cfg <<END
models = { a = "expert-1"; b = "expert-2"; };
steps = ( { type = "regmean_plus"; models = ( "a", "b" ); data = { a = "tokens.u16"; b = "tokens.u16"; }; window = 2048; limit = 32; durable = false;
  output = "plus-large/merged.h5"; } );
END
  "$ingot" run --fresh --device cuda --threads "$threads" plus.cfg >plus.log 2>&1 || { tail -n 20 plus.log; failed=1; }
  grep -E "wall|merge  |memory|warning" plus.log || true
  "$ingot" verify plus-large/merged.h5 || failed=1
  rm -rf plus-large
}

part_passes() { # Gram matrices in several passes
  sed 's/outputs = true; head = true;/memory_limit = "'"${PASS_MEMORY:-7MiB}"'"; outputs = true; head = true;/; s/cuda-float32/passes/g' cuda-float32.cfg >passes.cfg
  "$ingot" plan passes.cfg | grep -i "passes over" || true
  "$ingot" run --quiet --fresh --device cuda --threads "$threads" passes.cfg >/dev/null
  check "gram in several passes" python3 "$near" 3e-5 passes/gram cuda-float32/gram
}

part_sanitize() {
  command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer: not run: not installed"; return; }
  local job
  for job in cuda-bfloat16 plus-cuda-bfloat16; do
    sed "s/limit = [0-9]*/limit = 2/; s/$job/sanitized/g" "$job.cfg" >sanitized.cfg
    compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 9 \
      "$ingot" run --quiet --fresh --device cuda --threads 2 sanitized.cfg >sanitize.log 2>&1 || { tail -n 20 sanitize.log; failed=1; }
    echo "compute-sanitizer memcheck, $job: $(grep 'ERROR SUMMARY' sanitize.log | tail -n 1)"
  done
}

part_large() {
  local kind one both
  [ -e base/model.safetensors ] && [ -e tokens.u16 ] || "$build/tests/bench/make_models" . 0 "$millions"
  cat base/*.safetensors >/dev/null
  for kind in fisher gram; do
    [ "$kind" = fisher ] || windows=$((2 * windows))
    for n in 1 2; do
      echo "models = { base = \"base\"; }; steps = ( { type = \"$kind\"; model = \"base\"; data = ( \"tokens.u16\" );" \
        "window = 2048; limit = $windows; durable = false; output = \"large-$n/$kind.h5\"; } );" >"large-$kind-$n.cfg"
    done
    one=$({ time CUDA_VISIBLE_DEVICES=0 "$ingot" run --fresh --device cuda --threads "$threads" "large-$kind-1.cfg" >"$kind-1.log" 2>&1; } 2>&1) || { tail "$kind-1.log"; failed=1; }
    grep -E 'read|write|wall|merge' "$kind-1.log" || true
    [ "$n_gpu" -ge 2 ] || { echo "$kind, $windows windows: one GPU $one s"; continue; }
    both=$({ time mpirun -n 2 --bind-to none "$ingot" run --fresh --device cuda --threads "$threads" "large-$kind-2.cfg" >"$kind-2.log" 2>&1; } 2>&1) || { tail "$kind-2.log"; failed=1; }
    grep -E 'read|write|wall|merge|host' "$kind-2.log" || true
    echo "$kind, $windows windows: one GPU $one s, two GPUs $both s: $(awk -v a="$one" -v b="$both" 'BEGIN { printf "%.3f", b / a }') of it"
    "$ingot" diff "large-1/$kind.h5" "large-2/$kind.h5" 2>&1 | tail -n 1 || true
    rm -rf "large-1/$kind.h5" "large-2/$kind.h5"
  done
}

for part in ${PARTS:-small merges plus passes sanitize large}; do part_"$part"; done
exit $failed
