#!/usr/bin/env bash
# Whole-process speed of merges on generated checkpoints, beside the machine's own limit measured in the same run.
#
#   tests/bench/run.sh [--millions 1000] [--rounds 3] [--dir DIR] [--build build/release] [--device cpu|cuda|auto] [--threads N]
#                      [--methods "linear ties ..."]
#
# Inputs: a base and four experts of Llama's shapes in bfloat16 (tests/bench/make_models.c), made in DIR once and kept in the
# page cache. Limit: reading the same inputs and writing one output, the same threads, no arithmetic
# (tests/bench/limit.c, the faster of pread and mmap; beside a GPU also the fastest of 4, 8 and 16 threads). Every output is verified before its time is shown. Figures are
# the medians of the rounds; limit and merges take turns, so that a change of the machine's speed meets both. "start s" is
# the same command on models of a million parameters: what starting, planning and ending take; it is part of "wall s".
# One and two ranks of a thread are both started by mpirun, so that the second rank is all that differs.
# "least s" is the fastest round, for machines whose speed changes from one minute to the next.
set -euo pipefail
cd "$(dirname "$0")/../.."
millions=1000 rounds=3 dir=/tmp/ingot-bench build=build/release device=cpu threads=$(nproc)
methods="linear slerp task_arithmetic dare_linear dare_ties dare_ties_inv ties"
while [ $# -gt 1 ]; do
  case $1 in
    --millions) millions=$2 ;; --rounds) rounds=$2 ;; --dir) dir=$2 ;; --build) build=$2 ;; --device) device=$2 ;;
    --threads) threads=$2 ;; --methods) methods=$2 ;;
    *) echo "unknown option $1" >&2; exit 2 ;;
  esac
  shift 2
done
build=$(cd "$build" && pwd)
ingot=$build/bin/ingot limit=$build/tests/bench/limit
mkdir -p "$dir"
stamp="$dir/models-$millions"
if [ ! -e "$stamp" ]; then
  rm -rf "$dir"/base "$dir"/expert-* "$dir"/models-*
  "$build/tests/bench/make_models" "$dir" 4 "$millions"
  touch "$stamp"
fi
[ -e "$dir/small/base" ] || "$build/tests/bench/make_models" "$dir/small" 4 1
cd "$dir"
cat base/model.safetensors expert-*/model.safetensors >/dev/null # into the page cache
parameters=$(($(stat -c %s base/model.safetensors) / 2))

job() { # NAME BODY
  cat >"$1.cfg" <<EOF
name = "bench"; seed = 1;
models = { base = "base"; a = "expert-1"; b = "expert-2"; c = "expert-3"; d = "expert-4"; };
steps = ( { type = "merge"; output = "out/$1.h5"; durable = false; $2 } );
EOF
  cp "$1.cfg" small/
}
three='models = ( { model = "a"; weight = 0.5; }, { model = "b"; weight = 0.3; }, { model = "c"; weight = 0.2; } );'
job linear 'method = "linear"; models = ( { model = "a"; weight = 0.4; }, { model = "b"; weight = 0.3; }, { model = "c"; weight = 0.2; }, { model = "d"; weight = 0.1; } );'
job slerp 'method = "slerp"; base = "base"; models = ( { model = "a"; } ); parameters = { t = 0.4; };'
job task_arithmetic "method = \"task_arithmetic\"; base = \"base\"; $three"
job dare_linear "method = \"dare_linear\"; base = \"base\"; $three parameters = { density = 0.5; };"
job dare_ties "method = \"dare_ties\"; base = \"base\"; $three parameters = { density = 0.5; };"
job dare_ties_inv "method = \"dare_ties\"; base = \"base\"; $three parameters = { density = 0.5; rescale = \"inv_density\"; };" # one pass
job ties "method = \"ties\"; base = \"base\"; $three parameters = { density = 0.3; };"

declare -A inputs=([linear]="expert-1 expert-2 expert-3 expert-4" [slerp]="base expert-1")
for name in task_arithmetic dare_linear dare_ties dare_ties_inv ties; do inputs[$name]="base expert-1 expert-2 expert-3"; done
files() { local f; for f in ${inputs[$1]}; do echo "$f/model.safetensors"; done; }

median() { sort -g | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
TIMEFORMAT='%R %U %S'
timed() { # COMMAND -> wall and CPU seconds
  { time "$@" >/dev/null 2>run.log; } 2>time.txt || { cat run.log >&2; return 1; }
  awk '{ print $1, $2 + $3 }' time.txt
}
best_limit() { # THREADS METHOD -> the seconds of the faster way of reading
  local n counts=$1 way
  if [ "$device" != cpu ]; then counts="4 8 16"; fi
  for n in $counts; do
    for way in "" --mmap; do
      # shellcheck disable=SC2046,SC2086
      "$limit" $way "$n" limit.bin $(files "$2") | sed 's/.* bytes, \([0-9.]*\) s.*/\1/'
      rm -f limit.bin
    done
  done | sort -g | head -n 1
}

measure() { # METHOD RANKS (0: one process, not started by mpirun) THREADS LABEL
  local name=$1 ranks=$2 n=$3 i run=() bytes
  if [ "$ranks" -gt 0 ]; then run=(mpirun -n "$ranks"); else ranks=1; fi
  : >walls; : >cpus; : >limits; : >starts
  for ((i = 0; i <= rounds; i++)); do
    # shellcheck disable=SC2046
    cat $(files "$name") >/dev/null # a machine that gives memory back may have dropped them
    rm -rf out small/out
    best_limit "$((ranks * n))" "$name" >one-limit
    timed "${run[@]}" "$ingot" run --quiet --fresh --device "$device" --threads "$n" "$name.cfg" >one
    if [ "$i" = 0 ]; then "$ingot" verify "out/$name.h5" >/dev/null || { echo "$name: the output is wrong" >&2; exit 1; }; continue; fi
    (cd small && timed "${run[@]}" "$ingot" run --quiet --device "$device" --threads "$n" "$name.cfg") >one-start
    cut -d ' ' -f 1 one-start >>starts
    cat one-limit >>limits
    cut -d ' ' -f 1 one >>walls
    cut -d ' ' -f 2 one >>cpus
  done
  bytes=$(($(stat -c %s base/model.safetensors) * ($(files "$name" | wc -l) + 1)))
  awk -v name="$name" -v label="$4" -v wall="$(median <walls)" -v cpu="$(median <cpus)" -v limit="$(median <limits)" \
      -v start="$(median <starts)" -v least="$(sort -g walls | head -n 1)" -v least_limit="$(sort -g limits | head -n 1)" \
      -v bytes="$bytes" -v p="$parameters" \
      'BEGIN { printf "| %-15s | %-18s | %6.2f | %6.2f | %6.2f | %6.2f | %5.2f | %6.2f | %6.2f | %6.2f |\n", name, label, wall, start, bytes / wall / 1e9, limit, limit / wall, least, least_limit, cpu * 1e9 / p }'
}

echo "| method          | ranks x threads    | wall s | start s |   GB/s | limit s | limit/wall | least s | least limit s | CPU s per 1e9 parameters |"
echo "|-----------------|--------------------|--------|--------|--------|--------|-------|--------|--------|--------|"
for name in $methods; do measure "$name" 0 "$threads" "1 x $threads, $device"; done
if [ "$device" = cpu ]; then
  for name in $methods; do measure "$name" 0 1 "1 x 1, cpu"; done
  if command -v mpirun >/dev/null; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    for name in linear ties; do
      [[ " $methods " != *" $name "* ]] || for ranks in 1 2; do measure "$name" "$ranks" 1 "$ranks x 1, mpirun"; done
    done
  fi
fi
rm -rf out
