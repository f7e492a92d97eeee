#!/usr/bin/env bash
# Many experts on many ranks of one machine: 200 experts of 5 M parameters, 64 ranks. Run by hand.
#
#   tests/bench/many.sh [--build build/release] [--ranks 64] [--counts "25 50 100 200"] [--methods "linear task_arithmetic ties"]
#                       [--dir DIR]
#
# For each method and number of experts: one rank, then all ranks, whose output must have the same bytes. Shown are whole
# processes' seconds, anonymous memory of the first and of the largest rank (the run's own figures), and the most files that a
# rank had open. The soft limit of open files is 128, so that what raises it is tried as well. Models are made in DIR
# (2 GB for 200 experts) and removed at the end where DIR was not given.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=build/release ranks=64 counts="25 50 100 200" methods="linear task_arithmetic ties" dir=''
while [ $# -gt 1 ]; do
  case $1 in
    --build) build=$2 ;; --ranks) ranks=$2 ;; --counts) counts=$2 ;; --methods) methods=$2 ;; --dir) dir=$2 ;;
    *) echo "unknown option $1" >&2; exit 2 ;;
  esac
  shift 2
done
build=$(cd "$build" && pwd)
ingot=$build/bin/ingot
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
most=$(tr ' ' '\n' <<<"$counts" | sort -n | tail -n 1)
if [ -z "$dir" ]; then
  dir=$(mktemp -d "${TMPDIR:-/tmp}/ingot-many.XXXXXX")
  trap 'rm -rf "$dir"' EXIT
fi
mkdir -p "$dir"
[ -e "$dir/expert-$most" ] || "$build/tests/bench/make_models" "$dir" "$most" 5
cd "$dir"
cat base/model.safetensors expert-*/model.safetensors >/dev/null # into the page cache

job() { # METHOD COUNT -> many.cfg
  local i comma='' body=''
  case $1 in
    ties) body='base = "base"; parameters = { density = 0.3; };' ;;
    task_arithmetic) body='base = "base";' ;;
  esac
  {
    echo 'name = "many"; seed = 7; models = { base = "base";'
    for ((i = 1; i <= $2; i++)); do echo "e$i = \"expert-$i\";"; done
    echo "}; steps = ( { type = \"merge\"; method = \"$1\"; $body output = \"many.h5\"; durable = false; models = ("
    for ((i = 1; i <= $2; i++)); do echo "$comma { model = \"e$i\"; weight = 0.$((i % 9 + 1)); }"; comma=,; done
    echo '); } );'
  } >many.cfg
}

open_files() { # the most that a process of the program has open, looked at until told to end
  local most=0 n proc
  trap 'echo "$most" >files.txt; exit 0' TERM
  while :; do
    for proc in /proc/[0-9]*; do
      [ "$(readlink "$proc/exe" 2>/dev/null)" = "$ingot" ] || continue
      n=$(find "$proc/fd" -mindepth 1 2>/dev/null | wc -l) || continue
      [ "$n" -le "$most" ] || most=$n
    done
    sleep 0.1 &
    wait $!
  done
}

member() { # KIND of the last step's memory_bytes: min, mean or max
  sed -n "s/.*\"memory_bytes\":{[^}]*\"$1\":\([0-9]*\).*/\1/p" events.jsonl | tail -n 1 | awk '{ printf "%.1f", $1 / 1048576 }'
}

# shellcheck disable=SC2016 # expanded by the inner shell
few_files=(sh -c 'ulimit -Sn 128; exec "$@"' sh) # not for mpirun itself, which hangs with so few

TIMEFORMAT='%R %U %S'
measure() { # LABEL COMMAND... -> a row
  local label=$1 watcher; shift
  rm -f events.jsonl files.txt
  open_files & watcher=$!
  { time "$@" >run.log 2>&1 || { cat run.log >&2; kill "$watcher"; exit 1; }; } 2>time.txt
  kill "$watcher"; wait "$watcher" || true
  awk -v label="$label" -v mean="$(member mean)" -v max="$(member max)" -v files="$(cat files.txt)" \
    '{ printf "| %-34s | %6.1f | %6.1f | %6.1f | %6.1f | %4d |\n", label, $1, $2 + $3, mean, max, files }' time.txt
}

echo "| run                                | wall s |  CPU s | MiB mean | MiB max | files |"
echo "|------------------------------------|--------|--------|--------|--------|------|"
for method in $methods; do
  for count in $counts; do
    job "$method" "$count"
    measure "$method, $count experts, 1 rank" "${few_files[@]}" "$ingot" run --quiet --fresh --threads 1 --json events.jsonl many.cfg
    mv many.h5 one.h5
    measure "$method, $count experts, $ranks ranks" mpirun --oversubscribe -n "$ranks" "${few_files[@]}" "$ingot" run --quiet --fresh \
      --threads 1 --json events.jsonl many.cfg
    cmp one.h5 many.h5 || { echo "$method, $count experts: other bytes on $ranks ranks" >&2; exit 1; }
  done
done
