#!/usr/bin/env bash
# SIGTERM and SIGUSR1 finish the tiles in flight and exit 75; the same command continues to the same bytes.
# mpirun passes SIGUSR1 on to the ranks; SIGTERM it takes as an order to kill them, so that one is sent to the ranks
# themselves, as srun does: to one of them, which tells the others.
. "$(dirname "$0")/lib.sh"
"${MAKE_MODELS:?}" models 3 48
job ties.cfg out/m.h5 ties 'parameters = { density = 0.4; };'
"$INGOT" run --quiet --threads 2 ties.cfg && mv out/m.h5 reference.h5

stopped=0
for n in $(rank_counts); do
  for signal in TERM USR1; do
    for delay in 0.1 0.25 0.5; do
      rm -rf out
      launcher=()
      if [ "$n" -gt 1 ]; then launcher=(mpirun -n "$n"); fi
      "${launcher[@]}" "$INGOT" run --quiet --threads 1 ties.cfg 2>stderr.txt & # the program itself, no shell in between
      pid=$!
      # From the first sign of work: signals before MPI has started are MPI's.
      for _ in $(seq 400); do [ -e out/m.h5.journal ] && break; sleep 0.01; done
      sleep "$delay"
      target=$pid
      if [ "$n" -gt 1 ] && [ "$signal" = TERM ]; then target=$(pgrep -P "$pid" | tail -n 1); fi
      kill "-$signal" "${target:-$pid}" 2>/dev/null || true
      code=0
      wait "$pid" || code=$?
      case $code in
        0) [ -e out/m.h5 ] || fail "$signal, $n ranks: success without an output" ;;
        75)
          stopped=$((stopped + 1))
          [ ! -e out/m.h5 ] || fail "$signal, $n ranks: stopped, but there is an output"
          grep -qF "the same command continues" stderr.txt || fail "$signal, $n ranks: does not say how to go on" ;;
        *) cat stderr.txt >&2; fail "$signal, $n ranks: exit code $code" ;;
      esac
      ranks "$n" "$INGOT" run --quiet --threads 2 ties.cfg || fail "$signal, $n ranks: does not continue"
      cmp reference.h5 out/m.h5 || fail "$signal, $n ranks: other bytes"
    done
  done
done
[ "$stopped" -gt 0 ] || fail "no run was stopped in time: nothing was tested"
