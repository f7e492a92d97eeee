#!/usr/bin/env bash
# A full disk: found while planning where the system tells the truth; met while writing, a clear error and no final file.
. "$(dirname "$0")/lib.sh"
"${MAKE_MODELS:?}" models 3 12
mkdir small
mount -t tmpfs -o size=6m tmpfs small 2>/dev/null || skip "mounting a small tmpfs needs root"
leave() { # a mount may be busy for a moment
  local folder
  for folder in "$work/small" "$work/ext"; do
    if mountpoint -q "$folder"; then umount "$folder" 2>/dev/null || umount -l "$folder" || true; fi
  done
  cleanup
}
trap leave EXIT
job ties.cfg small/m.h5 ties

expect 1 "small" "$INGOT" run --quiet ties.cfg
[ ! -e small/m.h5 ] || fail "there is an output"

# The plan sees enough space, then somebody else takes it.
mount -o remount,size=64m small
truncate -s 0 small/other
# On a busy machine the merge may be over before the filler looks.
(until [ -e small/m.h5.journal ] || [ -e ended ]; do sleep 0.002; done; head -c 60M /dev/zero >small/other 2>/dev/null || true) &
filler=$!
code=0
"$INGOT" run --quiet --threads 1 ties.cfg 2>stderr.txt || code=$?
touch ended
wait "$filler" || true
case $code in
  0) ;; # the merge was faster than the filler
  1)
    grep -qiF "space" stderr.txt || { cat stderr.txt >&2; fail "the message does not speak of space"; }
    [ ! -e small/m.h5 ] || fail "there is an output" ;;
  *) cat stderr.txt >&2; fail "exit code $code" ;;
esac
rm -f small/other
"$INGOT" run --quiet ties.cfg || fail "does not complete once there is space"

# Where the file system can (ext4), the space is taken before anything is written: an import, which plans nothing, ends at
# once and leaves nothing.
truncate -s 12M image
mkdir ext
if mkfs.ext4 -q -F image 2>/dev/null && mount -o loop image ext 2>/dev/null; then
  expect 1 "ext/m.h5.partial: allocating" "$INGOT" import models/base ext/m.h5
  grep -qiF "no space" stderr.txt || fail "the message does not speak of space"
  [ -z "$(find ext -name 'm.h5*')" ] || fail "something was left behind"
fi
