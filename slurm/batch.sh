# What happens inside a job; sourced by batch scripts, which then call `ingot_batch JOB [OPTIONS of ingot run]`.
#
# The program is started on all ranks (srun, or mpirun in the allocation). USR1 to this script (--signal=B:USR1@N ahead of
# the time limit, or scancel -b -s USR1) is passed on: the ranks finish what is in flight, write the journal and end with
# code 75, and the job goes back into the queue, at most INGOT_MAX_REQUEUE times; the next start continues. TERM (scancel,
# preemption) stops likewise, without a requeue of our own: a preempted job is requeued by Slurm.
# shellcheck shell=bash

# shellcheck source=slurm/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# The words that start the program on all ranks, in the array `launch`.
ingot_launch_words() {
  launch=()
  case $INGOT_LAUNCHER in
  srun) launch=(srun "--mpi=$INGOT_SRUN_MPI" --kill-on-bad-exit=1) ;;
  mpirun) launch=(mpirun --bind-to none) ;;
  *) die 2 "INGOT_LAUNCHER is \"$INGOT_LAUNCHER\"; it can be srun or mpirun" ;;
  esac
  command -v "${launch[0]}" >/dev/null || die 2 "${launch[0]} is not there (INGOT_LAUNCHER)"
  [ "$INGOT_LAUNCHER" != mpirun ] || launch+=(-n "${SLURM_NTASKS:-1}")
}

# Put the job back into the queue, or say why not. Slurm ends this script when it has done so.
ingot_requeue() {
  local id=$SLURM_JOB_ID count=${SLURM_RESTART_COUNT:-0}
  [ -z "${SLURM_ARRAY_JOB_ID:-}" ] || id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
  if [ "$count" -ge "$INGOT_MAX_REQUEUE" ]; then
    say "stopped; not requeued: it has been $count times already (INGOT_MAX_REQUEUE)"
    return
  fi
  say "stopped; requeue $((count + 1)) of at most $INGOT_MAX_REQUEUE"
  trap - TERM
  if scontrol requeue "$id"; then sleep 300; else say "the job could not be put back into the queue"; fi
}

ingot_batch() {
  local launch child='' code=75 asked='' again=yes nothing module
  [ -n "${SLURM_JOB_ID:-}" ] || die 2 "not inside a Slurm job: use slurm/submit, or sbatch this script"
  # Signals come at any moment, when the program has just ended too: a trap that fails would end this script (set -e).
  # With srun, TERM of the job reaches the ranks directly; a second one from here would end them at once.
  trap 'asked=${asked:-USR1} again=yes; kill -s USR1 "$child" 2>/dev/null || :' USR1
  trap 'asked=TERM again=yes; [ "$INGOT_LAUNCHER" = srun ] || kill -s USR1 "$child" 2>/dev/null || :' TERM
  for module in $INGOT_MODULES; do module load "$module"; done
  if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
    export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun does not take it over by itself since 22.05
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}
  fi
  ingot_launch_words
  say "$(date +%FT%T) on ${SLURM_JOB_NODELIST:-this node}, ${SLURM_NTASKS:-1} ranks, start $((${SLURM_RESTART_COUNT:-0} + 1)): ingot run $*"
  if [ -z "$asked" ]; then
    "${launch[@]}" "$INGOT" run "$@" </dev/null &
    child=$!
    [ "$asked" != USR1 ] || kill -s USR1 "$child" 2>/dev/null || : # it came before this was known
    # Not `wait`: when a trapped signal comes as the program ends, bash may lose the code for good. Of what has ended it keeps it.
    exec {nothing}<> <(:)
    while kill -0 "$child" 2>/dev/null; do read -r -t 0.2 -u "$nothing" _ || :; done
    while [ -n "$again" ]; do # a trapped signal ends `wait` early
      again='' code=0
      wait "$child" || code=$?
    done
  fi
  [ "$code$asked" != 138USR1 ] || code=75 # srun or mpirun was not ready to pass it on, and died of it
  if [ "$code" = 75 ] && [ "$asked" != TERM ]; then ingot_requeue; fi
  return "$code"
}
