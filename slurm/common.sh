# Shared by the scripts of this folder; sourced, not run. Sets INGOT_SLURM_DIR, the site's settings, and INGOT.
# shellcheck shell=bash

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { # CODE MESSAGE
  local code=$1
  shift
  say "$*"
  exit "$code"
}

INGOT_SLURM_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
export INGOT_SLURM_DIR
if [ -n "${INGOT_SITE_ENV:-}" ]; then
  [ -r "$INGOT_SITE_ENV" ] || die 2 "INGOT_SITE_ENV: cannot read $INGOT_SITE_ENV"
  # shellcheck disable=SC1090 # the user's file
  . "$INGOT_SITE_ENV"
elif [ -r "$INGOT_SLURM_DIR/site.env" ]; then
  # shellcheck disable=SC1091 # the user's file
  . "$INGOT_SLURM_DIR/site.env"
fi
# shellcheck source=slurm/site.env.example
. "$INGOT_SLURM_DIR/site.env.example" # the defaults

if [ -z "$INGOT" ]; then
  for candidate in "$INGOT_SLURM_DIR/../build/release/bin/ingot" "$INGOT_SLURM_DIR/../../../bin/ingot"; do
    if [ -x "$candidate" ]; then
      INGOT=$(cd "$(dirname "$candidate")" && pwd -P)/ingot
      break
    fi
  done
  [ -n "$INGOT" ] || INGOT=$(command -v ingot) ||
    die 2 "no ingot: build it, put it into PATH, or set INGOT in slurm/site.env"
fi
[ -x "$INGOT" ] || die 2 "INGOT=$INGOT is not a program"
export INGOT
