#!/usr/bin/env bash
# Promise 4, where memory is out: an allocation that fails, on one rank, ends all ranks with the same code and a message, and nothing
# unfinished is under an output's name; where the program does without, the bytes are the same.
#
# Allocations are told apart by their place (fail_allocation.c). One of them fails in each run:
#   merges (element and tensor grain, matrices), gram    at every place that a case comes to and no case before it, with the same rank
#                                                        failing, came to; on one rank, and on the second of two
#   fisher, evaluate into JSON                           the same, on one rank
#   distill, evaluate into HDF5, regmean_plus            of these places number 5, 10, ... on one rank, 15, 30, ... on the second of two
#   ensemble, generate, logits, soup                     of these places number 5, 10, ... on one rank, 15, 30, ... on the first of two
# Of the last two groups, at places with an odd number all allocations of that rank fail from there on.
# allocations.sh all                                     every place of all of them, on one rank, and on each of two; what is wrong is
#                                                        listed, and the rest goes on (half an hour)
# allocations.sh all on                                  the same, and all allocations fail from there on
. "$(dirname "$0")/lib.sh"
: "${FAIL_LIBRARY:?}"
all=${1:-} on=${2:-}
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
small="window = 32; limit = 2;"
two="data = { add = \"$experts/data/add.val.u16\"; sort = \"$experts/data/sort.val.u16\"; };"
step() { # CASE STEP: a job of one step
  cat >"$1.cfg" <<END
seed = 3;
models = { base = "$experts/base"; a = "$experts/add"; b = "$experts/sort"; };
steps = ( { type = "$1"; $2 } );
END
}
step distill "student = \"base\"; teachers = ( \"b\" ); window = 32; steps = 2; batch = 2; micro_batch = 2; rate = 0.001; validate_every = 1;
  validation = { b = \"$experts/data/sort.val.u16\"; }; validation_limit = 2; data = { b = \"$experts/data/sort.calib.u16\"; }; output = \"out/student.h5\";"
step ensemble "models = ( \"a\", \"b\" ); $small $two output = \"out/ensemble.json\";"
step evaluate "models = ( \"a\", \"b\" ); $small $two output = \"out/table.h5\";"
step generate "models = ( \"b\" ); limit = 4; prompts = \"documents\"; document = 0; prompt = 8; length = 4; batch = 2;
  data = { b = \"$experts/data/sort.val.u16\"; }; output = \"out/made.u16\";"
step logits "models = ( \"a\", \"b\" ); k = 8; $small $two output = \"out/logits.h5\";"
step regmean_plus "models = ( \"a\", \"b\" ); $small output = \"out/plus.h5\";
  data = { a = \"$experts/data/add.calib.u16\"; b = \"$experts/data/sort.calib.u16\"; };"
step soup "models = ( \"base\", \"b\" ); $small $two output = \"out/soup.h5\";"

# run_rank RANK COMMAND...: mpirun sees no failure, and so ends no rank before its time.
cat >run_rank <<'END'
#!/bin/sh
rank=$1 code=0; shift
"$@" || code=$?
echo "$code" >"code.$rank"
END
chmod +x run_rank

# start RANKS FAILING CASE NAME=VALUE...: the rank FAILING has these variables and the library. Codes are in code.0 and code.1.
start() {
  local n=$1 failing=$2 kind=$3; shift 3
  local first=("$INGOT" "${options[@]}" "$kind.cfg") second=("$INGOT" "${options[@]}" "$kind.cfg")
  local with=(env "$@" LD_PRELOAD="$FAIL_LIBRARY")
  if [ "$failing" = 0 ]; then first=("${with[@]}" "${first[@]}"); else second=("${with[@]}" "${second[@]}"); fi
  rm -f code.*
  if [ "$n" = 1 ]; then
    timeout 20 ./run_rank 0 "${first[@]}"
  else
    timeout 20 mpirun -n 1 ./run_rank 0 "${first[@]}" : -n 1 ./run_rank 1 "${second[@]}"
  fi
}

complain() {
  cat stderr.txt >&2
  [ "$all" ] || fail "$1"
  echo "FAILED: $1" | tee -a "$work/failures" >&2
}

compare() { # REFERENCE WHAT: all outputs are there, with the right bytes; manifests, scores and curves tell times
  local file
  for file in "$1"/*; do
    case $file in
      *.json|*.svg) [ -s "out/${file##*/}" ] || complain "$2, but no ${file##*/}" ;;
      *) cmp "$file" "out/${file##*/}" || complain "$2, but other bytes" ;;
    esac
  done
}

# check RANKS FAILING CASE NUMBER: in the current folder.
check() {
  local n=$1 failing=$2 kind=$3 number=$4 what="allocation $4 of $3 on rank $2 of $1" codes file name
  local reference=$work/reference-$n-$kind
  local failure=(FAIL_ALLOCATION="$number")
  if [ "$on" ] || { [ "$every" -gt 1 ] && [ $((number % 2)) = 1 ]; }; then
    failure+=(FAIL_ALLOCATION_ON=1)
    what="$what, and all behind it"
  fi
  rm -rf out
  start "$n" "$failing" "$kind" "${failure[@]}" </dev/null >stdout.txt 2>stderr.txt || complain "$what: does not end, or ends mpirun: $?"
  codes=$(cat code.*)
  case $n:${codes//$'\n'/,} in
    1:0|2:0,0) compare "$reference" "$what: exit code 0" ;;
    1:1|2:1,1)
      grep -q '^ingot: error: .*memory' stderr.txt || complain "$what: no message of memory"
      ! grep -qi 'internal\|broken' stderr.txt || complain "$what: memory was out, and something else is blamed" ;;
    *) complain "$what: exit codes ${codes//$'\n'/ } instead of 1 or 0 on each rank" ;;
  esac
  for file in out/*; do # what the documentation promises, or a step's complete output
    name=${file##*/}
    case $file in
      *.partial|*.journal|*.state.*|*.begun.json|*.manifest.json|'out/*') continue ;;
    esac
    [ -e "$reference/$name" ] || { complain "$what: left behind: $file"; continue; }
    case $file in
      *.json) tail -n 1 "$file" | grep -q '}' || complain "$what: unfinished under its name: $file" ;;
      *.svg) tail -n 1 "$file" | grep -q '</svg>' || complain "$what: unfinished under its name: $file" ;;
      *) cmp "$reference/$name" "$file" || complain "$what: unfinished under its name: $file"
        [ -s "$file.manifest.json" ] || [ -e "$file.journal" ] || complain "$what: neither manifest nor journal beside $file" ;;
    esac
  done
  echo "${codes%%$'\n'*}" >>../codes
  if [ $((number % 8)) = 0 ]; then # and it goes on from there
    start "$n" "$failing" "$kind" FAIL_ALLOCATION=0 </dev/null >stdout.txt 2>stderr.txt || complain "$what: the same command again"
    compare "$reference" "$what: the same command again"
  fi
}

# Two at a time, each in its own folder; mpirun has files that runs share.
worker() { # NUMBER RANKS FAILING CASE EVERY, numbers on stdin
  export OMPI_MCA_orte_tmpdir_base=$work/mpi-$1
  mkdir -p "worker-$1" "$OMPI_MCA_orte_tmpdir_base"
  cd "worker-$1"
  ln -sfn ../models models
  cp ../*.cfg ../run_rank .
  local number every=$5
  while read -r number; do check "$2" "$3" "$4" "$number"; done
}

try() { # RANKS FAILING EVERY CASE: the places number EVERY, 2 EVERY, ... of those that no case before came to
  local n=$1 failing=$2 every=$3 kind=$4 first second
  local known=known-$n-$failing reference=reference-$n-$kind
  [ -z "$all" ] || every=1
  rm -rf out "$reference"
  start "$n" "$failing" "$kind" FAIL_ALLOCATION_LIST=places </dev/null >/dev/null || fail "$kind on $n ranks"
  grep -q -v 0 code.* && fail "$kind on $n ranks: $(cat code.*)"
  [ -s places ] || fail "the library does not count"
  mv out "$reference"
  touch "$known"
  awk 'NR == FNR && FILENAME ~ /known/ { known[$1]; next } !($1 in known) { print FNR }' "$known" places >new
  awk -v every="$every" 'NR % every == 0' new >numbers
  cat places >>"$known"
  : >codes
  awk 'NR % 2 == 1' numbers | worker 1 "$n" "$failing" "$kind" "$every" & first=$!
  awk 'NR % 2 == 0' numbers | worker 2 "$n" "$failing" "$kind" "$every" & second=$!
  wait "$first" && wait "$second" || { wait "$second" || true; exit 1; }
  [ "$(wc -l <codes)" = "$(wc -l <numbers)" ] || fail "$kind on $n ranks: runs are missing"
  [ "$every" -gt 1 ] || grep -q 1 codes || fail "$kind on $n ranks: nothing fails"
  echo "$kind, rank $failing of $n: of $(wc -l <places) places $(wc -l <new) are new, of these one in $every failed: $(wc -l <codes)," \
    "of which $(grep -c 0 codes || true) were done without"
}

try 1 0 1 ties
try 1 0 1 matrices
try 1 0 1 scores
steps=(distill ensemble evaluate generate logits regmean_plus soup)
for kind in "${steps[@]}"; do try 1 0 5 "$kind"; done
if [ "${INGOT_HAVE_MPI:-OFF}" = ON ]; then
  try 2 1 1 ties
  try 2 1 1 matrices
  for kind in ensemble generate logits soup; do try 2 0 15 "$kind"; done
  for kind in distill evaluate regmean_plus; do try 2 1 15 "$kind"; done
  if [ "$all" ]; then
    for kind in ties matrices scores distill evaluate regmean_plus; do try 2 0 1 "$kind"; done
    for kind in scores ensemble generate logits soup; do try 2 1 1 "$kind"; done
  fi
fi
[ ! -e failures ] || fail "$(wc -l <failures) checks"
