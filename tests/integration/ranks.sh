# shellcheck shell=bash
# ranks N COMMAND...: the command on N ranks; on one, without mpirun.
ranks() {
  local n=$1; shift
  if [ "$n" = 1 ]; then "$@"; else mpirun -n "$n" "$@"; fi
}
