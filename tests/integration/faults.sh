#!/usr/bin/env bash
# Promise 4: a rank that fails alone takes all ranks out with the same code, in bounded time, and leaves no final file;
# the same command completes afterwards.
. "$(dirname "$0")/lib.sh"
"${MAKE_MODELS:?}" models 3 12
job ties.cfg out/m.h5 ties 'parameters = { density = 0.4; };'
job model.cfg out/m.h5 ties 'parameters = { density = 0.4; scope = "model"; };'
"$INGOT" run --quiet ties.cfg && mv out/m.h5 reference-ties.h5
"$INGOT" run --quiet model.cfg && mv out/m.h5 reference-model.h5

for n in $(rank_counts); do
  for kind in ties model; do
    for point in read write commit; do
      for rank in 0 $((n - 1)); do
        rm -rf out
        at=2
        if [ "$point" = commit ]; then at=1; fi
        export INGOT_FAULT="$point@$rank:$at"
        code=0
        timeout 60 bash -c ". '$SOURCE/tests/integration/ranks.sh'; ranks $n '$INGOT' run --quiet --threads 2 $kind.cfg" 2>stderr.txt || code=$?
        unset INGOT_FAULT
        [ "$code" = 1 ] || { cat stderr.txt >&2; fail "$point on rank $rank of $n ($kind): exit code $code instead of 1"; }
        grep -qF "planned fault: $point number $at" stderr.txt || { cat stderr.txt >&2; fail "$point on rank $rank of $n ($kind): the message is lost"; }
        [ "$(grep -c 'planned fault' stderr.txt)" = 1 ] || { cat stderr.txt >&2; fail "$point on rank $rank of $n: the message is printed more than once"; }
        [ ! -e out/m.h5 ] || fail "$point on rank $rank of $n ($kind): there is an output"
        ranks "$n" "$INGOT" run --quiet "$kind.cfg" || fail "$point on rank $rank of $n ($kind): does not continue"
        cmp "reference-$kind.h5" out/m.h5 || fail "$point on rank $rank of $n ($kind): other bytes"
      done
    done
  done
done
