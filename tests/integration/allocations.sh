#!/usr/bin/env bash
# Promise 4, where memory is out: an allocation that fails, on one rank, ends all ranks with the same code and a message, and nothing
# unfinished is under an output's name; where the program does without, the bytes are the same.
#
# Allocations are told apart by their place (fail_allocation.c). One of them fails in each run, at every place that a case comes to and
# no case before it, on as many ranks, came to.
. "$(dirname "$0")/lib.sh"
: "${FAIL_LIBRARY:?}"
experts=$SOURCE/tests/experts
options=(run --quiet --device cpu --threads 1 --no-sync)
"${MAKE_MODELS:?}" models 3 1
job ties.cfg out/m.h5 ties 'parameters = { density = 0.4; };'
cat >matrices.cfg <<END
models = { a = "$experts/add"; b = "$experts/sort"; };
steps = ( { type = "gram"; name = "gram"; model = "a"; window = 32; limit = 4; output = "out/gram.h5"; data = ( "$experts/data/add.calib.u16" ); },
  { type = "merge"; method = "regmean"; output = "out/m.h5"; statistics_model = "ignore";
    models = ( { model = "a"; statistics = "gram"; }, { model = "b"; statistics = "gram"; } ); } );
END
cat >scores.cfg <<END
models = { a = "$experts/add"; };
steps = ( { type = "fisher"; model = "a"; window = 32; limit = 4; output = "out/fisher.h5"; data = ( "$experts/data/add.calib.u16" ); },
  { type = "evaluate"; models = ( "a" ); window = 32; limit = 4; output = "out/scores.json"; data = { add = "$experts/data/add.val.u16"; }; } );
END

# run_rank RANK COMMAND...: mpirun sees no failure, and so ends no rank before its time.
cat >run_rank <<'END'
#!/bin/sh
rank=$1 code=0; shift
"$@" || code=$?
echo "$code" >"code.$rank"
END
chmod +x run_rank

# start RANKS CASE NAME=VALUE...: the last rank has these variables and the library. Codes are in code.0 and code.1.
start() {
  local n=$1 kind=$2; shift 2
  local failing=(env "$@" LD_PRELOAD="$FAIL_LIBRARY" "$INGOT" "${options[@]}" "$kind.cfg")
  rm -f code.*
  if [ "$n" = 1 ]; then
    timeout 20 ./run_rank 0 "${failing[@]}"
  else
    timeout 20 mpirun -n 1 ./run_rank 0 "$INGOT" "${options[@]}" "$kind.cfg" : -n 1 ./run_rank 1 "${failing[@]}"
  fi
}

complain() { cat stderr.txt >&2; fail "$1"; }

compare() { # RANKS CASE WHAT: all outputs are there, with the right bytes; manifests and scores tell times
  local file
  for file in "$work/reference-$1-$2"/*; do
    case $file in
      *.json) [ -s "out/${file##*/}" ] || complain "$3, but no ${file##*/}" ;;
      *) cmp "$file" "out/${file##*/}" || complain "$3, but other bytes" ;;
    esac
  done
}

# check RANKS CASE NUMBER: in the current folder.
check() {
  local n=$1 kind=$2 number=$3 what="allocation $3 of $2 on rank $(($1 - 1)) of $1" codes file
  rm -rf out
  start "$n" "$kind" FAIL_ALLOCATION="$number" </dev/null >stdout.txt 2>stderr.txt || complain "$what: does not end, or ends mpirun: $?"
  codes=$(cat code.*)
  case $n:${codes//$'\n'/,} in
    1:0|2:0,0)
      compare "$n" "$kind" "$what: exit code 0" ;;
    1:1|2:1,1) grep -q '^ingot: error: .*memory' stderr.txt || complain "$what: no message of memory" ;;
    *) complain "$what: exit codes ${codes//$'\n'/ } instead of 1 or 0 on each rank" ;;
  esac
  for file in out/*; do # what the documentation promises, or a step's complete output
    case $file in
      *.partial|*.journal|*.state.*|*.begun.json|*.manifest.json|'out/*') ;;
      *.h5) cmp "$work/reference-$n-$kind/${file##*/}" "$file" || complain "$what: unfinished under its name: $file"
        [ -s "$file.manifest.json" ] || [ -e "$file.journal" ] || complain "$what: neither manifest nor journal beside $file" ;;
      out/scores.json) tail -n 1 "$file" | grep -q '}' || complain "$what: unfinished under its name: $file" ;;
      *) complain "$what: left behind: $file" ;;
    esac
  done
  echo "${codes%%$'\n'*}" >>../codes
  if [ $((number % 8)) = 0 ]; then # and it goes on from there
    start "$n" "$kind" FAIL_ALLOCATION=0 </dev/null >stdout.txt 2>stderr.txt || complain "$what: the same command again"
    compare "$n" "$kind" "$what: the same command again"
  fi
}

# Two at a time, each in its own folder; mpirun has files that runs share.
worker() { # NUMBER RANKS CASE, numbers on stdin
  export OMPI_MCA_orte_tmpdir_base=$work/mpi-$1
  mkdir -p "worker-$1" "$OMPI_MCA_orte_tmpdir_base"
  cd "worker-$1"
  ln -sfn ../models models
  cp ../*.cfg ../run_rank .
  local number
  while read -r number; do check "$2" "$3" "$number"; done
}

try() { # RANKS CASE
  local n=$1 kind=$2 first second
  rm -rf out
  start "$n" "$kind" FAIL_ALLOCATION_LIST=places </dev/null >/dev/null || fail "$kind on $n ranks"
  grep -q -v 0 code.* && fail "$kind on $n ranks: $(cat code.*)"
  [ -s places ] || fail "the library does not count"
  mv out "reference-$n-$kind"
  touch "known-$n"
  awk 'NR == FNR && FILENAME ~ /known/ { known[$1]; next } !($1 in known) { print FNR }' "known-$n" places >numbers
  cat places >>"known-$n"
  : >codes
  awk 'NR % 2 == 1' numbers | worker 1 "$n" "$kind" & first=$!
  awk 'NR % 2 == 0' numbers | worker 2 "$n" "$kind" & second=$!
  wait "$first" && wait "$second" || { wait "$second" || true; exit 1; }
  [ "$(wc -l <codes)" = "$(wc -l <numbers)" ] && grep -q 1 codes || fail "$kind on $n ranks: runs are missing, or none fails"
  echo "$kind on $n ranks: of $(wc -l <places) places $(wc -l <codes) failed, $(grep -c 0 codes || true) were done without"
}

try 1 ties
try 1 matrices
try 1 scores
if [ "${INGOT_HAVE_MPI:-OFF}" = ON ]; then
  try 2 ties
  try 2 matrices
fi
