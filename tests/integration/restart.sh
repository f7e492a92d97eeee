#!/usr/bin/env bash
# Promise 3: killed at any moment, the same command completes with the same bytes; nothing is under the final name before.
#   restart.sh KILLS        the number of random moments
. "$(dirname "$0")/lib.sh"
kills=${1:-12}
"${MAKE_MODELS:?}" models 3 $((8 * SCALE))
job ties.cfg out/m.h5 ties 'parameters = { density = 0.4; };'
job hf.cfg out/hf task_arithmetic 'shard_size = "8MB";'

run() { # RANKS FILE
  ranks "$1" "$INGOT" run --quiet --threads 2 "$2"
}
run 1 ties.cfg && mv out/m.h5 reference.h5
run 1 hf.cfg && mv out/hf reference-hf
rm -rf out

# Kills at chosen writes of one rank, through a planned fault: deterministic, and mpirun takes the other ranks along.
# Then at random moments from outside, the whole session at once: mpirun gives its ranks process groups of their own.
most=1
if [ "${INGOT_HAVE_MPI:-OFF}" = ON ]; then most=4; fi
RANDOM=11
resumed=0
for ((i = 0; i < kills; i++)); do
  rm -rf out
  n=1
  if [ "$most" = 4 ]; then n=$((1 << (RANDOM % 3))); fi
  for attempt in 1 2 3 4; do
    code=0
    if ((attempt % 2)); then
      INGOT_FAULT="kill@$((RANDOM % n)):$((1 + RANDOM % 8))" ranks "$n" "$INGOT" run --quiet --threads 2 ties.cfg 2>/dev/null || code=$?
    else
      setsid bash -c ". '$SOURCE/tests/integration/ranks.sh'; ranks $n '$INGOT' run --quiet --threads 2 ties.cfg" 2>/dev/null &
      leader=$!
      sleep "0.$((RANDOM % 4))$((RANDOM % 10))"
      pkill -KILL -s "$leader" 2>/dev/null || true
      wait "$leader" 2>/dev/null || code=$?
      while pgrep -s "$leader" -r D,R,S,T >/dev/null; do # ranks that were just being started; not the dead that nobody waits for
        pkill -KILL -s "$leader" 2>/dev/null || true
        sleep 0.01
      done
    fi
    if [ "$code" != 0 ]; then
      if [ -e out/m.h5 ] && [ ! -e out/m.h5.manifest.json ]; then cmp -s reference.h5 out/m.h5 || fail "half-written output under the final name"; fi
      if [ -e out/m.h5.journal ]; then resumed=$((resumed + 1)); fi
    fi
  done
  n=1
  if [ "$most" = 4 ]; then n=$((1 << (RANDOM % 3))); fi
  run "$n" ties.cfg || fail "round $i: the same command did not complete"
  cmp reference.h5 out/m.h5 || fail "round $i: other bytes after a restart"
  [ -z "$(find out ! -name m.h5 ! -name m.h5.manifest.json -type f)" ] || fail "round $i: something was left behind"
done
[ "$resumed" -gt 0 ] || fail "no kill left a journal: nothing was tested"

# A directory of shards; and a tile that was lost on its way to the disk is merged again.
INGOT_FAULT=kill@0:9 ranks 1 "$INGOT" run --quiet --threads 1 hf.cfg 2>/dev/null && fail "was not killed"
shard=$(find out/hf.partial -name '*.safetensors' | sort | head -n 1)
printf 'lost' | dd of="$shard" bs=1 seek=$(($(stat -c %s "$shard") - 100)) conv=notrunc status=none
run 1 hf.cfg || fail "hf: the same command did not complete"
diff -rq --exclude=ingot_manifest.json reference-hf out/hf || fail "hf: other bytes after a restart"

# Other settings do not continue it.
INGOT_FAULT=kill@0:3 ranks 1 "$INGOT" run --quiet --fresh --threads 1 ties.cfg 2>/dev/null && fail "was not killed"
rm -f out/m.h5 out/m.h5.manifest.json
expect 2 "was begun by other settings or from other inputs (parameters.density was 0.4, is 0.2)" "$INGOT" run --quiet --set 'steps[0].parameters.density=0.2' ties.cfg
run 1 ties.cfg || fail "the first settings still continue"
cmp reference.h5 out/m.h5 || fail "other bytes after a refusal in between"
