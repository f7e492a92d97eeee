#!/usr/bin/env bash
# Every job file of jobs/invalid fails as its first line says: "// expect CODE: part of the message". Nothing is written.
#   invalid_jobs.sh FOLDER        $INGOT is the program
set -euo pipefail
: "${INGOT:?}"
folder=$1
work=$(mktemp -d "${TMPDIR:-/tmp}/ingot-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
failed=0 count=0
mkdir "$work/jobs"
cp -r "$folder" "$work/jobs/invalid"
ln -s "$(cd "$folder/../../tests" && pwd)" "$work/tests" # some jobs are wrong about models that are there
before=$(find "$work/jobs" | sort)
for job in "$work"/jobs/invalid/*.cfg; do
  first=$(head -n 1 "$job")
  name=$(basename "$job")
  case $first in
    "// expect "[0-9]*": "*) ;;
    *) echo "$name: the first line does not say what to expect" >&2; failed=1; continue ;;
  esac
  code=${first#// expect }; code=${code%%:*}
  text=${first#*: }
  got=0
  "$INGOT" run "$job" >"$work/out" 2>"$work/err" || got=$?
  if [ "$got" != "$code" ] || ! grep -qF -- "$text" "$work/err"; then
    { echo "$name: expected code $code and \"$text\", got code $got and:"; cat "$work/err"; } >&2
    failed=1
  fi
  count=$((count + 1))
done
if [ "$(find "$work/jobs" | sort)" != "$before" ]; then echo "something was written" >&2; failed=1; fi
# All problems of a file are reported in one go.
"$INGOT" plan "$work/jobs/invalid/several.cfg" 2>"$work/err" && failed=1
for text in 'unknown key "sed"' 'unknown method "tie"' 'unknown value "x"' 'unknown key "colour"'; do
  grep -qF "$text" "$work/err" || { echo "several.cfg: lacks: $text" >&2; failed=1; }
done
[ "$count" -ge 45 ] || { echo "only $count jobs were tried" >&2; failed=1; }
exit $failed
