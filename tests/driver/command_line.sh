#!/usr/bin/env bash
# The command line: help, version, wrong words, plans, a job that runs, is skipped, and is refused.
set -euo pipefail
: "${INGOT:?}"
work=$(mktemp -d "${TMPDIR:-/tmp}/ingot-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
fail() { echo "FAILED: $*" >&2; exit 1; }
# says CODE STREAM TEXT COMMAND...: exit code, and a text on "out" or "err".
says() {
  local code=$1 stream=$2 text=$3 got=0; shift 3
  "$@" >out.txt 2>err.txt || got=$?
  [ "$got" = "$code" ] || { cat out.txt err.txt >&2; fail "exit code $got instead of $code: $*"; }
  grep -qF -- "$text" "$stream.txt" || { cat out.txt err.txt >&2; fail "std$stream lacks \"$text\": $*"; }
}
# model NAME VALUE: a safetensors file with two layers of two elements each, float32, all of VALUE (4 bytes, octal).
model() {
  local header='{"model.layers.0.w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"model.layers.1.w":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}'
  { printf '%b' "\\0$(printf %o ${#header})" '\0\0\0\0\0\0\0'; printf %s "$header"; for _ in 1 2 3 4; do printf %b "$2"; done; } >"$1.safetensors"
}
model one '\0\0\0200\077'   # 1.0
model three '\0\0\0100\0100' # 3.0
cat >job.cfg <<'END'
models = { one = "one.safetensors"; three = "three.safetensors"; };
steps = ( { type = "merge"; method = "linear"; models = ( { model = "one"; weight = 1.0; }, { model = "three"; weight = [1.0, 3.0]; } );
            output = "out/merged.safetensors"; } );
END

# shellcheck disable=SC2016 # the backquotes are the message's
says 2 err 'no command; `ingot --help` lists them' "$INGOT"
says 0 out 'ingot run      JOB' "$INGOT" --help
says 0 out '75 stopped on request' "$INGOT" --help
says 0 out '--dry-run' "$INGOT" run --help
says 0 out 'HDF5:' "$INGOT" --version
says 0 out 'MPI:' "$INGOT" --version
says 2 err 'unknown command "rum"; did you mean "run"?' "$INGOT" rum job.cfg
says 2 err 'unknown option --freshh; did you mean --fresh?' "$INGOT" run --freshh job.cfg
says 2 err 'ingot run: too few arguments' "$INGOT" run
says 2 err '"two" is one argument too many' "$INGOT" run job.cfg two
says 2 err 'ingot inspect: argument 1 is empty' "$INGOT" inspect ''
says 2 err 'ingot diff: argument 2 is empty' "$INGOT" diff job.cfg ''
says 2 err '--quiet takes no value' "$INGOT" run --quiet=yes job.cfg
says 2 err '--step: its value N is missing' "$INGOT" run job.cfg --step
says 2 err '--step: expected a whole number of at least 1, found "0"' "$INGOT" run --step 0 job.cfg
says 2 err '--step 2: job.cfg has 1 step' "$INGOT" run --step 2 job.cfg
says 2 err '"tpu" is not one of auto, cpu, cuda' "$INGOT" run --device tpu job.cfg
says 2 err '--bandwidth: expected GB/s' "$INGOT" plan --bandwidth fast job.cfg
says 2 err '--nodes: expected ascending numbers of nodes such as 1,2,4 (at most 64); found "4,2"' "$INGOT" plan --nodes 4,2 job.cfg
says 2 err '--site: expected read, write' "$INGOT" plan --nodes 1 --site reads=1 job.cfg
says 2 err '--site goes with --nodes' "$INGOT" plan --site read=1 job.cfg
says 1 err '--json: cannot write no/such/folder' "$INGOT" run --json no/such/folder job.cfg
says 2 err '--json: one.safetensors is there and holds no events' "$INGOT" run --json one.safetensors job.cfg
says 2 err 'no value of weight for model "one"' "$INGOT" run --set 'steps[0].models=("one","three")' job.cfg
[ "$(wc -l <err.txt)" = 1 ] || { cat err.txt >&2; fail "more is said of a weight that is missing"; }
says 0 out 'ties: ' "$INGOT" methods
says 0 out '(0, 1]' "$INGOT" methods ties
says 0 out '  zero         step      auto|plus|majority         auto       ' "$INGOT" methods ties
says 0 out '  alpha        step      real     0.9        [0, 1]     ' "$INGOT" methods regmean
says 0 out 'needs no base, or one to start from' "$INGOT" methods mats
says 2 err 'unknown method "linaer"; did you mean "linear"?' "$INGOT" methods linaer
[ ! -e out ] || fail "something was written"

# Plans: 16 bytes out, twice 16 in; 32 and 16 bytes at 1 GB/s each are 48 ns.
says 0 out '  tensors  2 (2 F32), 2 tiles, 1 pass over the inputs' "$INGOT" plan --bandwidth 1,1 job.cfg
says 0 out '  traffic  32 B to read, 16 B to write' "$INGOT" run --dry-run --bandwidth 1,1 job.cfg
says 0 out 'about 4.8e-08 s' "$INGOT" run --dry-run --bandwidth 1,1 job.cfg
says 0 out 'weight: [1,3]' "$INGOT" plan job.cfg
says 0 out '"bytes_read": 32' "$INGOT" plan --json job.cfg
says 0 out "$(printf '32\t16\t1\t-\tout/merged.safetensors')" "$INGOT" plan --resources --bandwidth 1,1 job.cfg
# Of two nodes each has a tensor of two elements: 13.5 units an element, 1 ns a unit, 2 cores.
says 0 out '| 2 | 0.5000 | 1.6e-08 | 1.35e-08 | 8e-09 | 3.75e-08 | 2.0 |' "$INGOT" plan --nodes 1,2 --site read=1,write=1,cores=2,unit-ns=1 job.cfg
says 0 out '"scaling": [' "$INGOT" plan --json --nodes 1,2 job.cfg
[ -z "$(find . -name '.ingot-bandwidth*')" ] || fail "a file of the measurement was left behind"
[ ! -e out/merged.safetensors ] || fail "a plan wrote the output"

# (1 + 3) / 2 = 2 in the first layer, (1 + 9) / 4 = 2.5 in the second.
says 0 err 'is complete' "$INGOT" run --json events.jsonl job.cfg
[ "$(tail -c 16 out/merged.safetensors | od -An -f | tr -s ' ')" = ' 2 2 2.5 2.5' ] || fail "other values"
for event in job_start plan step_start step_end job_end; do grep -q "\"event\":\"$event\"" events.jsonl || fail "no event $event"; done
says 0 err 'is already complete' "$INGOT" run job.cfg
says 2 err 'made by other settings or from other inputs (parameters.normalize was true, is false); --fresh replaces it' "$INGOT" run --set 'steps[0].parameters.normalize=false' job.cfg
says 0 err 'is complete' "$INGOT" run --fresh --set 'steps[0].parameters.normalize=false' job.cfg
[ "$(tail -c 16 out/merged.safetensors | od -An -f | tr -s ' ')" = ' 4 4 10 10' ] || fail "other values without normalize"
says 2 err 'is an input' "$INGOT" run --fresh --set 'steps[0].output="one.safetensors"' job.cfg
"$INGOT" run --quiet --fresh job.cfg 2>err.txt
[ ! -s err.txt ] || fail "--quiet says something"

# Files are not opened in the place of closed streams, and a limit on the size of files is an error like others.
"$INGOT" run --fresh job.cfg <&- >&- 2>&- || fail "with closed streams"
[ "$(tail -c 16 out/merged.safetensors | od -An -f | tr -s ' ')" = ' 2 2 2.5 2.5' ] || fail "other values with closed streams"
# shellcheck disable=SC2016 # for the other shell
says 1 err 'writing to the standard output failed' bash -c '"$INGOT" plan --fresh job.cfg >&-'
rm -rf out
code=0
(ulimit -f 0; "$INGOT" run --quiet job.cfg 2>&1) | cat >err.txt || code=$?
if [ "$code" != 1 ] || ! grep -qF 'File too large' err.txt; then cat err.txt >&2; fail "exit code $code with ulimit -f 0"; fi
[ -z "$(find out -name '*.lock*' -o -name merged.safetensors)" ] || fail "something is left after ulimit -f 0"

# A tensor's name does not steer the terminal.
printf -v header '{"w\\u001b[31m":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
{ printf '%b' "\\0$(printf %o ${#header})" '\0\0\0\0\0\0\0'; printf %s "$header"; printf '12345678'; } >odd.safetensors
says 3 err 'tensor "w?[31m": its name has the control character 0x1b' "$INGOT" plan --set 'models.one="odd.safetensors"' --set 'steps[0].output="odd.h5"' job.cfg
