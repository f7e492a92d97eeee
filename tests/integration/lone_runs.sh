#!/usr/bin/env bash
# Many runs that no launcher has started, at once on one machine, as in a job array: none gets in another's way.
. "$(dirname "$0")/lib.sh"
cat >lone.cfg <<EOT
models = { add = "$SOURCE/tests/experts/add"; sort = "$SOURCE/tests/experts/sort"; };
steps = ( { type = "merge"; method = "linear"; models = ( "add", "sort" ); parameters = { weight = 1.0; }; output = "out.h5"; } );
EOT
"$INGOT" run --quiet --threads 1 lone.cfg
for round in 1 2 3 4; do
  pids=()
  for i in 1 2 3 4 5 6 7 8; do
    mkdir -p "run-$i"
    cp lone.cfg "run-$i"
    "$INGOT" run --quiet --fresh --no-sync --threads 1 "run-$i/lone.cfg" 2>"run-$i/err.txt" &
    pids+=($!)
  done
  for i in 1 2 3 4 5 6 7 8; do
    wait "${pids[i - 1]}" || { cat "run-$i/err.txt" >&2; fail "round $round, run $i"; }
    [ ! -s "run-$i/err.txt" ] || { cat "run-$i/err.txt" >&2; fail "round $round, run $i says something"; }
    cmp out.h5 "run-$i/out.h5" || fail "round $round, run $i: other bytes"
  done
done

# Nothing is made in the folder for temporary files: a session folder would be the same one for all of them.
TMPDIR=/dev/null/none "$INGOT" run --quiet --fresh --no-sync --threads 1 run-1/lone.cfg || fail "a lone run made a session folder"

# A merge does without OpenBLAS, whose threads would spin at the start of each process; what solves matrices loads it.
loaded() { LD_DEBUG=files LD_DEBUG_OUTPUT="$PWD/$1" "$INGOT" run --quiet --fresh --no-sync --threads 1 "$2" && cat "$1".*; }
loaded merge.ld run-1/lone.cfg >merge.txt
grep -q libhdf5 merge.txt || fail "the loader names no library"
if grep -q openblas merge.txt; then fail "a merge loads OpenBLAS"; fi
cat >score.cfg <<EOT
models = { add = "$SOURCE/tests/experts/add"; };
steps = ( { type = "evaluate"; models = ( "add" ); data = { add = "$SOURCE/tests/experts/data/add.val.u16"; }; window = 64; limit = 1; output = "score.json"; } );
EOT
loaded score.ld score.cfg >score.txt 2>&1
grep -q openblas score.txt || fail "OpenBLAS was not seen where it is needed"
