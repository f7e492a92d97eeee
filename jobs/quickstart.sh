#!/usr/bin/env bash
# Install what is missing, build, and merge the four small experts of tests/experts into one model: the main job.
set -euo pipefail
cd "$(dirname "$0")/.."
cmake/install_packages.sh
cmake --preset release -DINGOT_BUILD_TESTS=OFF >/dev/null
cmake --build --preset release
build/release/bin/ingot run --fresh jobs/quickstart.cfg
build/release/bin/ingot inspect out/quickstart.h5 | sed -n 1,12p
