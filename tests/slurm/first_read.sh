#!/usr/bin/env bash
# How long from slurm/submit to the first byte read, on a Slurm of 4 virtual nodes on this machine. Run by hand:
#   INGOT=build/release/bin/ingot SOURCE=$PWD tests/slurm/first_read.sh [REPEATS]
# Seconds since the call of slurm/submit, which plans the job first: until sbatch has answered; until rank 0 opens the file of
# events, right before it reads the job file and the inputs' headers; until the whole merge of the small experts has ended, before
# which every byte was read.
NODES=4
INGOT=$(realpath "${INGOT:?}")
. "$(dirname "$0")/lib.sh"
cat >jobs/one.cfg <<'CFG'
@include "experts.cfg"
steps = ( { type = "merge"; method = "linear"; models = ( "add", "sort" ); parameters = { weight = 1.0; }; output = "../out/one.h5"; } );
CFG
since() { awk -v now="$1" -v start="$2" 'BEGIN { printf "%.2f", now - start }'; }
echo "| nodes x ranks | submitted | job file | merged |"
echo "|---|---|---|---|"
for shape in "1 1" "4 2"; do
  read -r nodes ranks <<<"$shape"
  for ((i = 0; i < ${1:-8}; i++)); do
    rm -rf out events.jsonl
    start=$(date +%s.%N)
    id=$("$slurm/submit" --parsable --nodes "$nodes" --ranks "$ranks" jobs/one.cfg -- --json "$PWD/events.jsonl")
    submitted=$(date +%s.%N)
    wait_end "$id"
    [ "$(field "$id" JobState)" = COMPLETED ] || fail "the job: $(field "$id" JobState)"
    opened=$(stat -c %.9W events.jsonl)
    merged=$(sed -n 's/.*"event":"step_end","time_s":\([0-9.]*\).*/\1/p' events.jsonl)
    echo "| $nodes x $ranks | $(since "$submitted" "$start") | $(since "$opened" "$start") | $(awk -v o="$opened" -v m="$merged" -v s="$start" 'BEGIN { printf "%.2f", o + m - s }') |"
  done
done
