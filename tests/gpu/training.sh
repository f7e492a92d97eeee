#!/usr/bin/env bash
# Steps ensemble, logits, soup, distill and generate on a GPU: against the CPU on the small family of tests/experts; models spread over two
# ranks against all on each, on one GPU (by MPI) and on two (by NCCL); then the speed of a distillation of three generated Llamas
# into a fourth, PyTorch's where it is installed, and that of two GPUs.
#
#   tests/gpu/training.sh BUILD WORK [MILLIONS [STEPS [THREADS]]]
#
# BUILD: a build folder with ingot and make_models. WORK: a folder for models and results. PARTS: small stop spread large two.
# shellcheck disable=SC2317 # parts are called by name
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$(cd "$1" && pwd)
mkdir -p "$2"
work=$(cd "$2" && pwd)
millions=${3:-1100} steps=${4:-40} threads=${5:-8}
ingot=$build/bin/ingot
cd "$work"
failed=0

check() { # TEXT TOLERANCE FILE: of the GPU against the CPU
  local said
  if said=$(python3 "$root/tests/gpu/scores_near.py" "$2" "cuda/$3" "cpu/$3" 2>&1); then echo "$1: ok: $said"; else echo "$1: FAILED: $said"; failed=1; fi
}

small_job() { # NAME
  local family=$root/tests/experts
  local data="data = { add = \"$family/data/add.val.u16\"; dates = \"$family/data/dates.val.u16\"; };"
  local calib="{ add = \"$family/data/add.calib.u16\"; dates = \"$family/data/dates.calib.u16\"; };"
  local all='models = ( "add", "sort", "dates" ); window = 64; dtype = "float32";'
  local one="4MiB" # room for one model; on a CPU the process counts
  [ "$1" = cuda ] || one="9MiB"
  cat >"$1.cfg" <<END
seed = 3;
models = { base = "$family/base"; add = "$family/add"; sort = "$family/sort"; dates = "$family/dates"; };
steps = (
  { type = "ensemble"; $all limit = 16; $data output = "$1/linear.json"; weights = "learn"; per_data = true; learn_data = $calib },
  { type = "ensemble"; $all limit = 16; $data output = "$1/log_linear.json"; kind = "log_linear"; weights = "learn"; learn_data = $calib },
  { type = "ensemble"; $all limit = 16; $data output = "$1/posterior.json"; kind = "posterior"; },
  { type = "ensemble"; name = "plausible"; $all limit = 16; $data output = "$1/plausible.json"; kind = "log_linear"; weights = ( 0.8, 0.5, -0.3 );
    plausibility = 0.1; },
  { type = "ensemble"; $all limit = 16; $data output = "$1/one_by_one.json"; memory_limit = "$one"; },
  { type = "logits"; $all limit = 32; k = 16; data = $calib durable = false; output = "$1/logits.h5"; },
  { type = "soup"; name = "soup"; models = ( "base", "sort", "dates" ); window = 64; limit = 16; dtype = "float32"; $data durable = false; output = "$1/soup"; },
  { type = "distill"; name = "live"; student = "base"; teachers = ( "add", "dates" ); data = $calib window = 64; batch = 8; steps = 20; warmup = 2;
    rate = 0.001; dtype = "float32"; output_dtype = "float32"; durable = false; output = "$1/live"; },
  { type = "distill"; name = "recomputed"; student = "base"; teachers = ( "add", "dates" ); data = $calib window = 64; batch = 8; steps = 20; warmup = 2;
    rate = 0.001; dtype = "float32"; recompute = true; output_dtype = "float32"; durable = false; output = "$1/recomputed"; },
  { type = "distill"; name = "file"; student = "base"; logits = "$1/logits.h5"; data = $calib window = 64; limit = 32; batch = 8; steps = 8; warmup = 2;
    rate = 0.001; dtype = "float32"; output_dtype = "float32"; durable = false; output = "$1/file"; },
  { type = "distill"; name = "masked"; student = "base"; teachers = ( "add", "sort", "dates" ); weights = "plausible"; data = $calib window = 64; batch = 8;
    steps = 20; warmup = 2; rate = 0.001; dtype = "float32"; output_dtype = "float32"; durable = false; output = "$1/masked"; },
  { type = "evaluate"; models = ( "soup", "live", "recomputed", "file", "masked" ); window = 64; limit = 32; dtype = "float32"; $data output = "$1/scores.json"; },
  { type = "distill"; name = "bf16"; student = "base"; teachers = ( "add", "dates" ); data = $calib window = 64; batch = 8; steps = 20; warmup = 2;
    rate = 0.001; output_dtype = "float32"; durable = false; output = "$1/bf16"; },
  { type = "evaluate"; models = ( "bf16" ); window = 64; limit = 32; dtype = "float32"; $data output = "$1/bf16.json"; }
);
END
}

part_small() {
  local device name
  for device in cpu cuda; do
    small_job "$device"
    OMP_NUM_THREADS=$threads "$ingot" run --quiet --fresh --device "$device" --threads "$threads" "$device.cfg" >"$device.txt"
  done
  for name in linear log_linear posterior plausible one_by_one; do check "ensemble, $name" 1e-4 "$name.json"; done
  check "soup and students" 1e-3 scores.json
  check "student in bfloat16" 2e-2 bf16.json
}

# Saved from the GPU's memory while it is trained, and taken up again: the same bytes; the best and the last; layers run again.
part_stop() {
  local family=$root/tests/experts code=0 device=${DEVICE:-cuda}
  rm -rf stop && mkdir stop
  cat >stop.cfg <<END
seed = 3;
models = { base = "$family/base"; add = "$family/add"; dates = "$family/dates"; };
steps = ( { type = "distill"; student = "base"; teachers = ( "add", "dates" ); data = ( "$family/data/add.calib.u16" ); window = 64; batch = 8; steps = 12;
  rate = 0.001; validation = ( "$family/data/add.val.u16" ); validation_limit = 8; validate_every = 4; durable = false; output = "stop/student.h5"; } );
END
  "$ingot" run --device "$device" --threads "$threads" stop.cfg 2>&1 | grep "memory of a rank"
  mkdir stop/straight && mv stop/student.h5 stop/student.last.h5 stop/straight/ && rm -f stop/student*
  INGOT_FAULT=stop@0:7 "$ingot" run --quiet --device "$device" --threads "$threads" stop.cfg 2>/dev/null || code=$?
  "$ingot" run --quiet --device "$device" --threads "$threads" --set 'steps[0].recompute=true' stop.cfg
  if [ "$code" = 75 ] && cmp stop/student.h5 stop/straight/student.h5 && cmp stop/student.last.h5 stop/straight/student.last.h5; then
    echo "stopped, taken up with layers run again: ok: the same bytes"
  else
    echo "stopped, taken up with layers run again: FAILED"
    failed=1
  fi
}

spread_job() { # NAME PLACEMENT
  local family=$root/tests/experts
  local all="models = ( \"add\", \"sort\", \"dates\" ); window = 64; limit = 7; batch = 2; placement = \"$2\";"
  cat >"$1.cfg" <<END
seed = 3;
models = { base = "$family/base"; add = "$family/add"; sort = "$family/sort"; dates = "$family/dates"; };
steps = (
  { type = "ensemble"; $all kind = "log_linear"; weights = "learn"; learn_data = ( "$family/data/add.calib.u16" ); data = ( "$family/data/add.val.u16" ); output = "$1/weights.json"; },
  { type = "ensemble"; $all kind = "posterior"; data = ( "$family/data/sort.val.u16" ); dtype = "float32"; output = "$1/posterior.json"; },
  { type = "logits"; $all k = 16; data = ( "$family/data/add.val.u16" ); durable = false; output = "$1/logits.h5"; },
  { type = "distill"; student = "base"; teachers = ( "add", "sort", "dates" ); placement = "$2"; window = 64; batch = 7; micro_batch = 2; steps = 6; rate = 0.001;
    data = { add = { path = "$family/data/add.calib.u16"; teachers = ( "add" ); }; dates = "$family/data/dates.calib.u16"; }; durable = false; output = "$1/student.h5"; }
);
END
}

# The same bits, wherever models are: on two ranks and the GPUs named.
part_spread() {
  local n_gpu devices placement file
  command -v mpirun >/dev/null || { echo "models spread over ranks: not run: no mpirun"; return; }
  n_gpu=$(nvidia-smi --list-gpus | wc -l)
  for devices in 0 0,1; do
    [ "$devices" = 0 ] || [ "$n_gpu" -ge 2 ] || { echo "models spread over two GPUs: not run: there is one"; continue; }
    for placement in replicated spread; do
      spread_job "$placement" "$placement"
      CUDA_VISIBLE_DEVICES=$devices mpirun -n 2 --bind-to none "$ingot" run --fresh --device cuda --threads 2 "$placement.cfg" >"$placement.txt" 2>"$placement.log" ||
        { echo "$placement, GPUs $devices: FAILED"; tail -n 5 "$placement.log"; failed=1; continue 2; }
    done
    for file in weights.json posterior.json; do
      if cmp "replicated/$file" "spread/$file"; then echo "spread, GPUs $devices, $file: ok: the same bytes"; else echo "spread, GPUs $devices, $file: FAILED"; failed=1; fi
    done
    for file in logits.h5 student.h5; do
      if "$ingot" diff "replicated/$file" "spread/$file" >diff.txt; then echo "spread, GPUs $devices, $file: ok: $(tail -n 1 diff.txt)"; else echo "spread, GPUs $devices, $file: FAILED: $(tail -n 1 diff.txt)"; failed=1; fi
    done
  done
}

large_job() { # BATCH MICRO_BATCH
  cat >large.cfg <<END
models = { s = "base"; a = "expert-1"; b = "expert-2"; c = "expert-3"; };
steps = ( { type = "distill"; student = "s"; teachers = ( "a", "b", "c" ); data = ( "tokens.u16" ); window = 2048; batch = $1; micro_batch = $2;
  steps = $steps; rate = 1e-5; save_every = 0; durable = false; output = "large"; } );
END
}

# Sequences of one length, by their tokens: how many are the same. A near tie, rounded the other way, changes the rest of its sequence.
same_sequences() { # LENGTH FILE FILE
  python3 - "$@" <<'END'
import array, sys
n = int(sys.argv[1])
one, two = (array.array("H", open(f, "rb").read()) for f in sys.argv[2:])
rows = [one[i : i + n] == two[i : i + n] for i in range(0, len(one), n)]
print(f"{sum(rows)} of {len(rows)} sequences")
sys.exit(len(one) != len(two) or len(rows) == 0 or sum(rows) < 0.9 * len(rows))
END
}

generate_job() { # NAME
  local family=$root/tests/experts
  local what="data = ( \"$family/data/add.val.u16\" ); prompt = 8; length = 56; dtype = \"float32\"; durable = false; type = \"generate\";"
  cat >"$1.cfg" <<END
seed = 3;
models = { base = "$family/base"; add = "$family/add"; sort = "$family/sort"; dates = "$family/dates"; };
steps = (
  { $what name = "greedy"; models = ( "base" ); limit = 100; search = "greedy"; output = "$1/greedy.u16"; },
  { $what name = "drawn"; models = ( "add", "sort" ); limit = 50; samples = 2; batch = 7; output = "$1/drawn.u16"; },
  { $what name = "likeliest"; models = ( "base" ); limit = 50; top_k = 5; temperature = 0.8; output = "$1/likeliest.u16"; },
  { $what name = "beams"; models = ( "add", "sort", "dates" ); limit = 50; search = "beam"; beams = 4; output = "$1/beams.u16"; }
);
END
}

# The same sequences on CPU and GPU; tokens a second of one large model, chunks of 32 sequences.
part_generate() {
  local device name said
  for device in cpu cuda; do
    generate_job "generate-$device"
    OMP_NUM_THREADS=$threads "$ingot" run --quiet --fresh --device "$device" --threads "$threads" "generate-$device.cfg" >"generate-$device.txt"
  done
  for name in greedy drawn likeliest beams; do
    if said=$(same_sequences 64 "generate-cuda/$name.u16" "generate-cpu/$name.u16" 2>&1); then echo "generate, $name: ok: $said"; else echo "generate, $name: FAILED: $said"; failed=1; fi
  done
  [ -e expert-3/model.safetensors ] && [ -e tokens.u16 ] || "$build/tests/bench/make_models" . 3 "$millions"
  for name in 'search = "greedy";' 'search = "sample";' 'search = "sample"; top_k = 50;' 'search = "beam"; beams = 4;'; do
    cat >generate.cfg <<END
models = { s = "base"; };
steps = ( { type = "generate"; models = ( "s" ); data = ( "tokens.u16" ); prompt = 256; length = 512; limit = 64; $name durable = false; output = "generate.u16"; } );
END
    "$ingot" run --quiet --fresh --device cuda --threads "$threads" --json generate.jsonl generate.cfg >generate.txt
    python3 - "$name" <<'END'
import json, sys
end = [e for e in map(json.loads, open("generate.jsonl")) if e["event"] == "step_end"][-1]
seconds = end["merge_s"]["max"] - end["read_s"]["max"]
print(f"generate, {sys.argv[1]} 64 sequences of 512 tokens behind 256: {seconds:.2f} s, {64 * 512 / seconds:.0f} tokens/s")
END
  done
  rm -f generate.u16*
}

part_large() {
  [ -e expert-3/model.safetensors ] && [ -e tokens.u16 ] || "$build/tests/bench/make_models" . 3 "$millions"
  large_job 4 4
  "$ingot" run --fresh --device cuda --threads "$threads" --json large.jsonl large.cfg 2>&1 | tail -n 15
  echo "ingot: $(grep -o '"tokens_per_s[^,}]*' large.jsonl | tail -n 1) $(grep -o '"utilisation[^,}]*' large.jsonl | tail -n 1)"
  rm -rf large
  python3 -c 'import torch, transformers' 2>/dev/null || { echo "PyTorch: not run: not installed"; return; }
  python3 "$root/tests/gpu/baseline.py" --distill
}

# Beside one GPU with four windows a step: the same step on two, and twice the step.
part_two() {
  local case n rate one=
  [ "$(nvidia-smi --list-gpus | wc -l)" -ge 2 ] || { echo "training on two GPUs: not run: there is one"; return; }
  [ -e expert-3/model.safetensors ] && [ -e tokens.u16 ] || "$build/tests/bench/make_models" . 3 "$millions"
  for case in 1:4 1:2 2:4 2:8; do
    n=${case%:*}
    large_job "${case#*:}" $((${case#*:} / n))
    rm -f two.jsonl
    mpirun -n "$n" --bind-to none "$ingot" run --fresh --device cuda --threads "$threads" --json two.jsonl large.cfg >two.txt 2>&1 || { tail -n 5 two.txt; failed=1; continue; }
    rate=$(grep -o '"tokens_per_s":[0-9.]*' two.jsonl | cut -d : -f 2 | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }')
    one=${one:-$rate}
    echo "$n GPUs, ${case#*:} windows a step: $(awk -v a="$rate" -v b="$one" 'BEGIN { printf "%.0f tokens/s, %.2f times one GPU", a, a / b }')"
    grep -E "^  (merge|wait) |GPU memory of a rank" two.txt
    rm -rf large
  done
}

for part in ${PARTS:-small stop spread large two}; do "part_$part"; done
exit $failed
