#!/usr/bin/env bash
# Promise 2: the anonymous memory of a rank does not grow with the models, and stays under 256 MiB for streaming methods, with
# any number of threads; and the plan knows what it will be.
. "$(dirname "$0")/lib.sh"
# run_peak JOB THREADS: sets $peak and $planned, bytes, from the run's own events.
run_peak() {
  rm -rf out events.jsonl
  "$INGOT" run --quiet --threads "$2" --device cpu --no-sync --json events.jsonl "$1" || fail "$1"
  peak=$(largest peak_anon_bytes) planned=$(largest planned_memory_bytes)
  [ -n "$peak" ] && [ "$peak" -gt 0 ] || fail "no figure"
}
largest() { grep -o "\"$1\": *[0-9]*" events.jsonl | grep -o '[0-9]*$' | sort -n | tail -n 1; }

# A quarter apart at most, and 4 MiB for what a system's libraries take.
check_plan() {
  echo "$1: $((peak >> 20)) MiB, planned $((planned >> 20))"
  [ "$peak" -lt $((256 << 20)) ] || fail "$1: $((peak >> 20)) MiB of anonymous memory"
  [ "$peak" -le $((planned + planned / 4 + (4 << 20))) ] || fail "$1: planned $planned, but took $peak"
  [ "$peak" -ge $((planned - planned / 4 - (4 << 20))) ] || fail "$1: planned $planned, and took but $peak"
}

make_job() { # METHOD [EXTRA PARAMETERS]
  job m.cfg out/m.h5 "$1" 'parameters = { };'
  case $1 in
    linear) sed -i 's/base = "base"; output/output/' m.cfg ;;
    slerp) sed -i 's/^  models = .*/  models = ( { model = "a"; } );/; s/parameters = { }/parameters = { t = 0.5; }/' m.cfg ;;
    ties|dare_ties) sed -i "s/parameters = { }/parameters = { density = 0.4; ${2:-} }/" m.cfg ;;
  esac
}

for millions in 12 96; do
  rm -rf models
  "${MAKE_MODELS:?}" models 3 "$millions"
  for method in linear ties dare_ties slerp; do
    make_job "$method"
    run_peak m.cfg 2
    check_plan "$method, $millions M parameters"
  done
done
for method in ties dare_ties; do
  make_job "$method"
  run_peak m.cfg 12
  check_plan "$method, 96 M parameters, 12 threads"
done
make_job ties 'scope = "model";'
run_peak m.cfg 4
check_plan "ties, scope model, 4 threads"

# Fewer threads where memory_limit asks for it: what 12 would take is too much.
make_job ties
sed -i 's/output = /memory_limit = "24MiB"; output = /' m.cfg
run_peak m.cfg 12
check_plan "ties, 24 MiB at most"
[ "$planned" -le $((24 << 20)) ] || fail "planned $planned"
[ "$peak" -le $((24 << 20)) ] || fail "took $peak"
sed -i 's/24MiB/4MiB/' m.cfg
rm -rf out
expect 3 "one thread needs" "$INGOT" run --quiet --threads 12 --device cpu m.cfg
