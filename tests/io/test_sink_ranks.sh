#!/usr/bin/env bash
# An output has the same bytes for any number of ranks; a rank that fails alone takes all out; so does a full disk.
#   test_sink_ranks.sh PROGRAM RANKS...     PROGRAM is test_sink_ranks; RANKS such as 1 2 4
#   MPIEXEC: how to start ranks ("mpiexec -n"); empty in a build without MPI
set -euo pipefail
program=${1:?}
read -r -a mpiexec <<<"${MPIEXEC-}"
shift
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

ranks() { # COUNT ARGUMENT...
  local count=$1
  shift
  if [ ${#mpiexec[@]} -gt 0 ]; then "${mpiexec[@]}" "$count" "$program" "$@"; else "$program" "$@"; fi
}

first=
for n in "$@"; do
  mkdir "$dir/$n"
  ranks "$n" "$dir/$n"
  if [ -z "$first" ]; then first=$n; else diff -r "$dir/$first" "$dir/$n"; fi
  [ "$(find "$dir/$n" -mindepth 1 -maxdepth 1 | wc -l)" = 3 ] || { echo "left behind in the run of $n ranks:"; ls "$dir/$n"; exit 1; }
  mkdir "$dir/alone"
  ranks "$n" "$dir/alone" alone
  [ -z "$(ls "$dir/alone")" ] || { echo "left behind by a failed run of $n ranks:"; ls "$dir/alone"; exit 1; }
  rm -r "$dir/alone"
done

# A file system of 256 KiB in a namespace of our own: root, or users where the system allows it.
mkdir "$dir/small"
# shellcheck disable=SC2016 # for the shell in there
small() { unshare --mount --map-root-user bash -c 'mount -t tmpfs -o size=256k none "$1" && shift && "$@"' small "$dir/small" "$@"; }
if small true 2>"$dir/why"; then
  for n in "$@"; do
    if [ ${#mpiexec[@]} -gt 0 ]; then small "${mpiexec[@]}" "$n" "$program" "$dir/small" full; else small "$program" "$dir/small" full; fi
  done
else
  echo "the full disk was not tried: no small file system could be mounted here ($(head -n 1 "$dir/why"))"
fi
