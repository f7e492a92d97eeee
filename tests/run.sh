#!/usr/bin/env bash
# All tests, as CI runs them: installs what is missing, builds three times, runs every test.
#   dev      ASan and UBSan, warnings as errors, MPI
#   fuzz     clang, ASan with leak detection, no MPI: unit tests and some of the others again, and the fuzzers
#   release  optimised, with CUDA when nvcc is there (compiled, not run: tests/gpu/run.sh is for machines with a GPU)
#
#   tests/run.sh [PRESET ...]
set -euo pipefail
cd "$(dirname "$0")/.."
cmake/install_packages.sh --tests
presets=("$@")
[ ${#presets[@]} -gt 0 ] || presets=(dev fuzz release)
jobs=$(($(nproc) + 1)) # some tests wait more than they compute

find . -name '*.sh' -not -path './build/*' -not -path './.*' -exec shellcheck -x {} +
if clang-format --version | grep -q 'version 14\.'; then # other versions break lines elsewhere
  find base driver io kernels tests workers -regex '.*\.\(c\|h\|cu\|cuh\)' -exec clang-format --dry-run -Werror {} +
else
  echo "formatting is not checked: clang-format 14, which Debian 12 has, is not there"
fi
for preset in "${presets[@]}"; do
  echo "== $preset"
  cmake --preset "$preset" -DINGOT_WERROR=ON -DINGOT_BUILD_TESTS=ON >"build-$preset.log" 2>&1 || { cat "build-$preset.log"; exit 1; }
  cmake --build --preset "$preset" >>"build-$preset.log" 2>&1 || { tail -n 60 "build-$preset.log"; exit 1; }
  rm -f "build-$preset.log"
  ctest --preset "$preset" -j "$jobs"
done
