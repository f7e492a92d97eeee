#!/usr/bin/env bash
# Stripes and hints of HDF5 outputs, on 1, 2 and 4 ranks: see test_sink_hints.c.
#   test_sink_hints.sh PROGRAM      MPIEXEC: how to start ranks ("mpiexec -n")
set -euo pipefail
program=${1:?}
read -r -a mpiexec <<<"${MPIEXEC:?}"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
case $(stat -f -c %t "$dir") in
bd00bd0 | 20030528 | aad7aaea) echo "skipped: $dir is on a file system with stripes, where no warning is right" >&2 && exit 77 ;;
esac
for n in 1 2 4; do
  mkdir "$dir/$n"
  "${mpiexec[@]}" "$n" "$program" "$dir/$n"
  cmp "$dir/1/all.h5" "$dir/$n/all.h5"
done
