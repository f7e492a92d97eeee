#!/usr/bin/env bash
# Every header compiles alone, as C11 and as C++17; and includes name only the folders that docs/architecture.md allows.
#   test_headers.sh SOURCE_DIR
set -euo pipefail
cd "${1:?}"
failed=0
# io/hdf5_*.h include <hdf5.h>, which a parallel HDF5 makes include <mpi.h>.
flags=()
for package in hdf5-openmpi hdf5-mpich hdf5-mpi hdf5-serial hdf5; do
  if pkg-config --exists $package 2>/dev/null; then read -ra flags <<<"$(pkg-config --cflags $package)"; break; fi
done
complain() { echo "$*"; failed=1; }

for header in base/*.h kernels/*.h kernels/*/*.h io/*.h workers/*.h workers/*/*.h driver/*.h; do
  [ -e "$header" ] || continue
  echo "#include \"$header\"" | cc -std=c11 -Wall -Wextra -Werror -fsyntax-only -I. "${flags[@]}" -x c - || complain "$header: not C11 by itself"
  case $header in
    *_impl.h) ;; # private to a few C files
    base/*|kernels/*|io/*)
      if command -v c++ >/dev/null; then
        echo "#include \"$header\"" | c++ -std=c++17 -Wall -Wextra -Werror -fsyntax-only -I. "${flags[@]}" -x c++ - || complain "$header: not C++17 by itself"
      fi ;;
  esac
done

# folder, and what its files may name
allowed() {
  local folder=$1 pattern=$2 line
  while IFS= read -r line; do complain "layering: $line"; done < <(
    grep -rnE '^#include "' "$folder" --include='*.[ch]' --include='*.cu' --include='*.cuh' | grep -vE "#include \"(($pattern)/|ingot_build.h\")" || true)
}
allowed base 'base'
allowed kernels 'base|kernels'
allowed io 'base|io'
allowed workers 'base|kernels|io|workers'
allowed driver 'base|kernels|io|workers|driver'
while IFS= read -r line; do complain "layering: $line"; done < <(
  { grep -rnE '#include <(mpi|hdf5|libconfig)\.h>' kernels
    grep -rnE '\bFILE \*|\bfopen\(' kernels
    grep -rnE '#include <(cuda|nccl|libconfig)[a-z_]*\.h>' io base
    grep -rnE '#include <(mpi|libconfig)\.h>' workers
    grep -rnE '#include <(cuda|hdf5|nccl)[a-z_]*\.h>' driver
    grep -rnE '#include <mpi\.h>' base | grep -v 'base/comm_mpi.c'; } || true)
exit $failed
