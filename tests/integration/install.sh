#!/usr/bin/env bash
# What `cmake --install` lays down, in another place: the program runs from there, and so do the Slurm scripts.
. "$(dirname "$0")/lib.sh"
cmake --install "${BUILD:?}" --prefix "$PWD/prefix" >install.log || { cat install.log >&2; fail "cmake --install"; }
prefix/bin/ingot --version >version.txt || fail "the installed program does not run"
for file in share/man/man1/ingot.1 share/bash-completion/completions/ingot share/pkgconfig/ingot.pc share/ingot/slurm/submit \
  share/doc/ingot/usage.md share/doc/ingot/README.md; do
  [ -s "prefix/$file" ] || fail "no $file"
done
version=$(sed -n 's/^Version: //p' prefix/share/pkgconfig/ingot.pc)
grep -qF "$version" version.txt || fail "ingot.pc and the program disagree on the version"
[ -s "prefix/share/modulefiles/ingot/$version" ] || fail "no modulefile for $version"
grep -qx "version = '$version'" "$SOURCE/cmake/install/ingot.eb" || fail "ingot.eb is of another version than $version"

# The man page names every command; the completion offers them.
commands=$("$INGOT" --help | sed -n 's/^  ingot \([a-z]*\).*/\1/p')
[ "$(wc -l <<<"$commands")" -ge 8 ] || fail "only these commands: $commands"
for command in $commands; do grep -q "^\.BI $command " prefix/share/man/man1/ingot.1 || fail "the man page lacks $command"; done
# shellcheck disable=SC1091 # installed just now
. prefix/share/bash-completion/completions/ingot
PATH=$PWD/prefix/bin:$PATH
complete_at() { # WORDS: what is offered for the last one
  COMP_WORDS=("$@")
  COMP_CWORD=$(($# - 1))
  _ingot
  printf '%s\n' "${COMPREPLY[@]}"
}
[ "$(complete_at ingot ver)" = verify ] || fail "completion of a command: $(complete_at ingot ver)"
[ "$(complete_at ingot run --dry)" = --dry-run ] || fail "completion of an option: $(complete_at ingot run --dry)"
[ "$(complete_at ingot methods dare_l)" = dare_linear ] || fail "completion of a method: $(complete_at ingot methods dare_l)"

# The scripts find the installed program by themselves.
(unset INGOT && prefix/share/ingot/slurm/submit no-such-job.cfg 2>err.txt) && fail "a job that is not there was submitted"
grep -qF 'cannot read the job file no-such-job.cfg' err.txt || { cat err.txt >&2; fail "the installed submit does not start"; }
