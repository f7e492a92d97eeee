#!/usr/bin/env bash
# Promise 4: a rank that fails alone takes all ranks out with the same code, in bounded time, and leaves no final file;
# the same command completes afterwards.
. "$(dirname "$0")/lib.sh"
"${MAKE_MODELS:?}" models 3 $((8 * SCALE)) # enough tensors that no rank is idle
job ties.cfg out/m.h5 ties 'parameters = { density = 0.4; };'
job model.cfg out/m.h5 ties 'parameters = { density = 0.4; scope = "model"; };'
"$INGOT" run --quiet ties.cfg && mv out/m.h5 reference-ties.h5
"$INGOT" run --quiet model.cfg && mv out/m.h5 reference-model.h5

check() { # KIND POINT RANKS RANK
  local kind=$1 point=$2 n=$3 rank=$4 at=1 code=0
  rm -rf out events.jsonl
  if [ "$point" = write ]; then at=2; fi
  INGOT_FAULT="$point@$rank:$at" timeout 60 bash -c ". '$SOURCE/tests/integration/ranks.sh'; ranks $n '$INGOT' run --quiet --threads 2 --json events.jsonl $kind.cfg" 2>stderr.txt || code=$?
  if [ "$code" != 1 ] || [ "$(grep -c "planned fault: $point number $at" stderr.txt)" != 1 ]; then
    cat stderr.txt >&2
    fail "$point on rank $rank of $n ($kind): exit code $code instead of 1, or the message is lost or printed twice"
  fi
  if [ "$n" -gt 1 ] && ! grep -q "error: rank $rank on .*planned fault" stderr.txt; then
    cat stderr.txt >&2
    fail "$point on rank $rank of $n ($kind): the message names another rank"
  fi
  if ! grep '"event":"error"' events.jsonl | grep -q 'planned fault' ||
    { [ "$n" -gt 1 ] && ! grep '"event":"error"' events.jsonl | grep -q "\"rank\":\"rank $rank on "; } ||
    { [ "$n" = 1 ] && grep -q '"rank":' events.jsonl; }; then
    cat events.jsonl >&2
    fail "$point on rank $rank of $n ($kind): the error event says something else"
  fi
  [ ! -e out/m.h5 ] || fail "$point on rank $rank of $n ($kind): there is an output"
  ranks "$n" "$INGOT" run --quiet "$kind.cfg" || fail "$point on rank $rank of $n ($kind): does not continue"
  cmp "reference-$kind.h5" out/m.h5 || fail "$point on rank $rank of $n ($kind): other bytes"
}

for n in $(rank_counts); do
  for point in read write commit; do
    check ties "$point" "$n" $((n - 1))
    if [ "$n" -gt 1 ]; then check ties "$point" "$n" 0; fi
  done
  check model read "$n" $((n - 1))
done
