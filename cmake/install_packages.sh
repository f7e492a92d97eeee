#!/usr/bin/env bash
# Install what is missing of the Debian or Ubuntu packages that a build (and with --tests, the tests) needs.
#   cmake/install_packages.sh [--tests]
set -euo pipefail
packages=(build-essential cmake ninja-build pkg-config git libopenmpi-dev openmpi-bin libhdf5-openmpi-dev libconfig-dev
          libjansson-dev libxxhash-dev libcmocka-dev libopenblas-dev)
if [ "${1:-}" = --tests ]; then
  packages+=(libhdf5-dev hdf5-tools clang clang-format libclang-rt-dev libomp-dev shellcheck python3-h5py python3-numpy
             procps slurm-wlm munge libpmix-dev)
fi
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
echo "installing: ${missing[*]}"
sudo=()
if [ "$(id -u)" != 0 ]; then sudo=(sudo); fi
export DEBIAN_FRONTEND=noninteractive
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
