#!/usr/bin/env bash
# Promise 2: the anonymous memory of a rank does not grow with the models, and stays under 256 MiB for streaming methods.
. "$(dirname "$0")/lib.sh"
peak() { # JOB -> MiB of anonymous memory, from the run's own events
  "$INGOT" run --quiet --threads 2 --no-sync --json events.jsonl "$1" || fail "$1"
  grep -o '"peak_anon_bytes": *[0-9]*' events.jsonl | grep -o '[0-9]*$' | sort -n | tail -n 1
}
for method in linear ties dare_ties slerp; do
  for millions in 12 96; do
    rm -rf out models events.jsonl
    "${MAKE_MODELS:?}" models 3 "$millions"
    job m.cfg out/m.h5 "$method" 'parameters = { };'
    case $method in
      linear) sed -i 's/base = "base"; output/output/' m.cfg ;;
      slerp) sed -i 's/^  models = .*/  models = ( { model = "a"; } );/; s/parameters = { }/parameters = { t = 0.5; }/' m.cfg ;;
      ties|dare_ties) sed -i 's/parameters = { }/parameters = { density = 0.4; }/' m.cfg ;;
    esac
    bytes=$(peak m.cfg)
    echo "$method, $millions M parameters: $((bytes >> 20)) MiB"
    [ -n "$bytes" ] && [ "$bytes" -gt 0 ] || fail "no figure"
    [ "$bytes" -lt $((256 << 20)) ] || fail "$method, $millions M parameters: $((bytes >> 20)) MiB of anonymous memory"
  done
done
