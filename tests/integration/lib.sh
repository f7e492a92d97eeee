# shellcheck shell=bash
# What the integration scripts share. Each is started by ctest with
#   INGOT            the program                INGOT_HAVE_MPI   ON or OFF
#   MAKE_MODELS      tests/bench/make_models    SOURCE           the source folder
#   SCALE            1 with sanitizers, else 3: multiplies the size of the models
# and works in a folder of its own, which is removed at the end.
set -euo pipefail
: "${INGOT:?}" "${SOURCE:?}" "${SCALE:=1}"
work=$(mktemp -d "${TMPDIR:-/tmp}/ingot-test.XXXXXX")
cleanup() { rm -rf "$work"; }
trap cleanup EXIT
cd "$work"

fail() { echo "FAILED: $*" >&2; exit 1; }
skip() { echo "skipped: $*" >&2; exit 77; }

. "$SOURCE/tests/integration/ranks.sh"
rank_counts() { if [ "${INGOT_HAVE_MPI:-OFF}" = ON ]; then echo "1 2 4"; else echo 1; fi; }

# expect CODE TEXT COMMAND...: the command ends with this exit code and says this (a fixed string) on stderr.
expect() {
  local code=$1 text=$2 got=0; shift 2
  "$@" >stdout.txt 2>stderr.txt || got=$?
  if [ "$got" != "$code" ]; then cat stderr.txt >&2; fail "exit code $got instead of $code: $*"; fi
  if ! grep -qF -- "$text" stderr.txt; then cat stderr.txt >&2; fail "message lacks \"$text\": $*"; fi
}

# job FILE OUTPUT METHOD [BODY]: a job file that merges the models in ./models.
#   BODY is put into the merge step; the experts' weights are 1, 0.5 and 0.25.
job() {
  local file=$1 output=$2 method=$3 body=${4:-}
  cat >"$file" <<EOF
name = "test";
seed = 7;
models = { base = "models/base"; a = "models/expert-1"; b = "models/expert-2"; c = "models/expert-3"; };
steps = ( { type = "merge"; method = "$method"; base = "base"; output = "$output";
  models = ( { model = "a"; weight = 1.0; }, { model = "b"; weight = 0.5; }, { model = "c"; weight = 0.25; } );
  $body } );
EOF
}
