#!/usr/bin/env bash
# SIGTERM and SIGUSR1 finish the tiles in flight and exit 75; the same command continues to the same bytes.
. "$(dirname "$0")/lib.sh"
"${MAKE_MODELS:?}" models 3 $((8 * SCALE))
job ties.cfg out/m.h5 ties 'parameters = { density = 0.4; };'
"$INGOT" run --quiet --threads 2 ties.cfg && mv out/m.h5 reference.h5

check() { # WHAT RANKS EXIT_CODE: of a run that was told to stop
  case $3 in
    0) [ -e out/m.h5 ] || fail "$1, $2 ranks: success without an output" ;;
    75)
      [ ! -e out/m.h5 ] || fail "$1, $2 ranks: stopped, but there is an output"
      grep -qF "the same command continues" stderr.txt || fail "$1, $2 ranks: does not say how to go on" ;;
    *) cat stderr.txt >&2; fail "$1, $2 ranks: exit code $3" ;;
  esac
  ranks "$2" "$INGOT" run --quiet --threads 2 ties.cfg || fail "$1, $2 ranks: does not continue"
  cmp reference.h5 out/m.h5 || fail "$1, $2 ranks: other bytes"
}

# SIGTERM to one rank, as srun sends it, at that rank's second tile: it is never the last one, and the others are told.
for n in $(rank_counts); do
  for rank in 0 $((n - 1)); do
    rm -rf out
    code=0
    INGOT_FAULT="stop@$rank:2" ranks "$n" "$INGOT" run --quiet --threads 1 ties.cfg 2>stderr.txt || code=$?
    [ "$code" = 75 ] || { cat stderr.txt >&2; fail "SIGTERM at a tile of rank $rank, $n ranks: exit code $code instead of 75"; }
    [ -e out/m.h5.journal ] || fail "SIGTERM at a tile of rank $rank, $n ranks: no journal"
    grep -qF "the signal came from this process" stderr.txt || fail "SIGTERM at a tile of rank $rank, $n ranks: does not say from whom"
  check "SIGTERM at a tile" "$n" "$code"
    [ "$n" -gt 1 ] || break
  done
done

# A signal as soon as the program catches it, which is before it starts MPI.
for signal in TERM USR1; do
  rm -rf out
  "$INGOT" run --quiet --threads 1 ties.cfg 2>stderr.txt &
  pid=$!
  bit=$((1 << ($(kill -l "$signal") - 1)))
  until grep -qx ingot "/proc/$pid/comm" 2>/dev/null && caught=$(sed -n 's/^SigCgt:\t*/0x/p' "/proc/$pid/status" 2>/dev/null) && ((caught & bit)); do
    kill -0 "$pid" 2>/dev/null || break
  done
  kill "-$signal" "$pid" 2>/dev/null || true
  code=0
  wait "$pid" || code=$?
  case $code in 0 | 75) ;; *) cat stderr.txt >&2; fail "SIG$signal at the start: exit code $code" ;; esac
  "$INGOT" run --quiet --threads 2 ties.cfg || fail "SIG$signal at the start: does not continue"
  cmp reference.h5 out/m.h5 || fail "SIG$signal at the start: other bytes"
done

# Signals from outside, once there is a journal. Writes are slow, so that the merge is not over before this script looks: an
# mpirun that is just ending, without its ranks, would die of the signal.
# mpirun passes SIGUSR1 on to the ranks. SIGTERM it takes as an order to kill them, so that one goes to a rank itself.
for n in $(rank_counts); do
  for signal in TERM USR1; do
    rm -rf out
    launcher=()
    if [ "$n" -gt 1 ]; then launcher=(mpirun -n "$n"); fi
    INGOT_FAULT=slow@-1:50 "${launcher[@]}" "$INGOT" run --quiet --threads 1 ties.cfg 2>stderr.txt & # no shell in between
    pid=$!
    while [ ! -e out/m.h5.journal ] && [ ! -e out/m.h5 ]; do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.01
    done
    target=$pid
    if [ "$n" -gt 1 ] && [ "$signal" = TERM ]; then target=$(pgrep -P "$pid" | tail -n 1) || true; fi
    [ -z "$target" ] || kill "-$signal" "$target" 2>/dev/null || true
    code=0
    wait "$pid" || code=$?
    check "$signal" "$n" "$code"
  done
done
