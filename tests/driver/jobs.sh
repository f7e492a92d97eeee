#!/usr/bin/env bash
# Every example of jobs/ plans, runs, and is complete when it is run again.
#   jobs.sh SOURCE        $INGOT is the program
set -euo pipefail
: "${INGOT:?}"
source=$1
work=$(mktemp -d "${TMPDIR:-/tmp}/ingot-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/jobs"
cp "$source"/jobs/*.cfg "$work/jobs"
ln -s "$source/tests" "$work/tests"
cd "$work"
# steps that run models: long enough to see that they run
sed -i 's/^    steps = [0-9]*;/    steps = 8;/; s/warmup = 20/warmup = 2/; s/limit = [0-9]*;/limit = 4;/' jobs/*.cfg
sed -i 's/"student" ); window = 64;/& limit = 4;/' jobs/distill.cfg jobs/sequence_level.cfg
count=0
for job in jobs/*.cfg; do
  grep -q '^steps' "$job" || continue # settings for others to include
  steps=$(grep -c 'output = ' "$job")
  "$INGOT" plan --bandwidth 1,1 "$job" >plan.txt || { echo "$job: does not plan" >&2; exit 1; }
  [ "$(grep -c '^step ' plan.txt)" = "$steps" ] || { echo "$job: the plan has other steps" >&2; exit 1; }
  "$INGOT" run --quiet "$job" || { echo "$job: does not run" >&2; exit 1; }
  "$INGOT" run "$job" 2>again.txt || { echo "$job: does not run again" >&2; exit 1; }
  [ "$(grep -c 'is already complete' again.txt)" = "$steps" ] || { cat again.txt >&2; echo "$job: not complete when run again" >&2; exit 1; }
  count=$((count + 1))
done
[ "$count" -ge 5 ] || { echo "only $count jobs were tried" >&2; exit 1; }
for file in model.safetensors config.json README.md ingot_manifest.json; do
  [ -e "out/both-hf/$file" ] || { echo "out/both-hf lacks $file" >&2; exit 1; }
done

# Made again from intermediate files that are made again, at another time: the same bytes.
mv out first
sleep 1
"$INGOT" run --quiet jobs/chain.cfg
for file in numbers.h5 both.h5 both-hf/model.safetensors both-hf/README.md; do
  cmp "first/$file" "out/$file" || { echo "out/$file depends on when it was made" >&2; exit 1; }
done
