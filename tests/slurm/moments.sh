#!/usr/bin/env bash
# Stopped at random moments in every way that Slurm knows, a job ends with the same bytes: USR1 ahead of the time limit,
# requeue, scancel and a new submission, a rank killed, a node lost, preemption, the time limit itself.
#   moments.sh COUNT [SEED]        50 for a full round; the time limit takes a minute or two, so it comes from 12 on
NODES=4
. "$(dirname "$0")/lib.sh"
count=${1:-12}
RANDOM=${2:-$(date +%s)}
cat >jobs/slurm.cfg <<'CFG'
seed = 11;
@include "experts.cfg"
steps = ( { type = "merge"; method = "dare_ties"; base = "base"; models = ( "add", "sort", "brackets", "dates" );
            parameters = { weight = 0.5; density = 0.6; }; output = "../out/slurm.h5"; } );
CFG
"$INGOT" run --quiet jobs/slurm.cfg
mv out reference
slow=slow@-1:200 # 38 tiles on 4 ranks: two seconds, for the moment to fall into
export INGOT_FAULT=$slow
stopped=0

requeued() { [ "$(field "$1" Restarts)" -ge 1 ]; }
running() { [ "$(field "$1" JobState)" = RUNNING ] && [ -e out/slurm.h5.journal ]; }
restart() { "$slurm/submit" --parsable --nodes 2 --ranks 2 --name slurm "$@" jobs/slurm.cfg; }
# A job that has ended otherwise is submitted again. Where it was ended behind its work, there is nothing to submit; the program tidies.
again() {
  local next
  [ "$(field "$id" JobState)" != COMPLETED ] || return 0
  next=$(restart 2>again.txt) || { cat again.txt >&2; fail "$way: the same job is not submitted again"; }
  if [ -n "$next" ]; then id=$next; return 0; fi
  whole=yes
  "$INGOT" run --quiet jobs/slurm.cfg || fail "$way: what is complete is not"
}
ranks_of() { pgrep -f -- "^$INGOT run jobs/slurm.cfg" || true; }

ways=(usr1 requeue scancel rank node preempt)
[ "$count" -lt 12 ] || ways+=(limit)
for ((round = 0; round < count; round++)); do
  way=${ways[round % ${#ways[@]}]}
  [ "$way" != limit ] || [ "$round" -lt "${#ways[@]}" ] || way=usr1 # once is enough of the slow one
  rm -rf out slurm-*.out
  mkdir -p out
  limit=()
  if [ "$way" = limit ]; then
    limit=(--time 1)
    export INGOT_FAULT=slow@-1:9000 INGOT_SIGNAL_SECONDS=45
  fi
  id=$(restart "${limit[@]}")
  first=$id whole=no
  until_true 60 running "$id" || { ended "$id" || fail "$way: job $id does not start: $(field "$id" JobState)"; }
  sleep "0.$((RANDOM % 90 + 10))"
  case $way in
  usr1) scancel -b -s USR1 "$id" ;;
  requeue) scontrol requeue "$id" 2>/dev/null || true ;;
  scancel)
    scancel "$id"
    wait_end "$id"
    again
    ;;
  rank)
    victim=$(ranks_of | shuf -n 1 --random-source=<(yes "$RANDOM"))
    [ -z "$victim" ] || kill -KILL "$victim" 2>/dev/null || true
    wait_end "$id"
    [ "$(field "$id" JobState)" != COMPLETED ] || [ -e out/slurm.h5 ] || fail "rank: completed without an output"
    again
    ;;
  node)
    node=$(scontrol show hostnames "$(field "$id" NodeList)" 2>/dev/null | shuf -n 1 --random-source=<(yes "$RANDOM"))
    if [ -n "$node" ] && [ "$(field "$id" JobState)" = RUNNING ]; then
      "$cluster" kill-node "$work/slurm" "$node"
      sleep 1
      "$cluster" start-node "$work/slurm" "$node"
    fi
    ;;
  preempt) sbatch --partition=urgent --nodes=4 --exclusive --time=1 --output=/dev/null --wrap 'sleep 1' >/dev/null ;;
  limit) ;; # Slurm looks at limits every 30 s
  esac
  if [ "$way" = limit ]; then
    until_true 150 requeued "$id" || fail "limit: job $id was not requeued: $(field "$id" JobState)"
    [ -s slurm-"$id".out ] && grep -q 'stopped; requeue 1 of at most' slurm-"$id".out || fail "limit: the script does not say that it requeues"
    scancel "$id" # its environment is slow; another one goes on
    wait_end "$id"
    export INGOT_FAULT=$slow
    unset INGOT_SIGNAL_SECONDS
    id=$(restart)
  fi
  wait_end "$id" 120
  [ "$whole" = yes ] || [ "$(field "$id" JobState)" = COMPLETED ] || { cat slurm-*.out >&2; fail "$way (round $round): job $id ended as $(field "$id" JobState), $(field "$id" ExitCode)"; }
  [ "$(field "$id" Restarts)" = 0 ] && [ "$id" = "$first" ] || stopped=$((stopped + 1))
  cmp reference/slurm.h5 out/slurm.h5 || fail "$way (round $round): other bytes"
  nothing_left "$way (round $round)"
  echo "round $round: $way, $(field "$id" Restarts) restarts, same bytes"
done
echo "$count rounds, $stopped stopped before their end, all with the same bytes, nothing left"
[ "$stopped" -gt 0 ] || fail "no job was stopped before its end: nothing was tested"
