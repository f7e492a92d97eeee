#!/usr/bin/env bash
# `ingot import` and `ingot export`: a model goes to .h5 and back, with one rank and with several, byte for byte; outputs
# that exist, inputs that are the output, and damaged data are refused.
set -euo pipefail
ingot=${INGOT:?}
old=$(cd "$(dirname "$0")/../io" && pwd)/old_format.h5
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
fail() { echo "$*"; exit 1; }

expect() { # EXIT_CODE TEXT COMMAND...
  local code=$1 text=$2 found=0
  shift 2
  "$@" >out.txt 2>&1 || found=$?
  [ "$found" = "$code" ] || { cat out.txt; fail "exit code $found, expected $code: $*"; }
  grep -qF -- "$text" out.txt || { cat out.txt; fail "expected \"$text\" from: $*"; }
}

# A model of two weight files; "b" is longer than a tile, so that ranks share it.
b_bytes=$((3 * 1048576 + 10))
header() { printf '%-*s' $(((${#1} + 7) / 8 * 8)) "$1"; }
safetensors() { # FILE HEADER: payload from stdin
  local text length
  text=$(header "$2"; echo x)
  text=${text%x}
  length=${#text}
  { printf %b "\\x$(printf %x $((length % 256)))\\x$(printf %x $((length / 256)))" '\0\0\0\0\0\0'; printf %s "$text"; cat; } >"$1"
}
mkdir model
printf 'abcdefghij\1\0\1' | safetensors model/model-00001-of-00002.safetensors \
  '{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[5,1],"data_offsets":[0,10]},"mask":{"dtype":"BOOL","shape":[3],"data_offsets":[10,13]}}'
head -c $b_bytes /dev/zero | tr '\0' 'q' | safetensors model/model-00002-of-00002.safetensors \
  '{"__metadata__":{"format":"pt"},"b":{"dtype":"U8","shape":['$b_bytes'],"data_offsets":[0,'$b_bytes']}}'
cat >model/model.safetensors.index.json <<END
{
  "metadata": {
    "total_size": $((b_bytes + 13))
  },
  "weight_map": {
    "a": "model-00001-of-00002.safetensors",
    "mask": "model-00001-of-00002.safetensors",
    "b": "model-00002-of-00002.safetensors"
  }
}
END
echo '{"model_type": "test"}' >model/config.json
printf '\0\1\2' >model/tokenizer.model
echo '# My model' >model/README.md

expect 0 "model.h5: 3 tensors, 3.00 MiB, 3 side files" "$ingot" import model model.h5
expect 0 "all 3 tensors match" "$ingot" verify model.h5
expect 0 "back: 3 tensors" "$ingot" export model.h5 back --shard-size 100
diff -r model back || fail "import and export changed the model"
expect 0 "one.safetensors: 3 tensors" "$ingot" export model one.safetensors
expect 0 "" "$ingot" import one.safetensors again.h5
expect 0 "" "$ingot" diff again.h5 model

# Several ranks give the same bytes.
if [ "${INGOT_HAVE_MPI-OFF}" = ON ]; then
  for n in 2 3; do
    expect 0 "" mpiexec -n $n "$ingot" import model "model$n.h5"
    cmp model.h5 "model$n.h5" || fail "$n ranks gave another file"
  done
fi

# Existing outputs.
expect 2 "model.h5: exists already; --force replaces it" "$ingot" import model model.h5
expect 2 "back: exists already; --force replaces it" "$ingot" export model.h5 back
expect 0 "" "$ingot" export model.h5 back --force
[ -e back/model.safetensors ] && [ ! -e back/model.safetensors.index.json ] || fail "the old directory was not replaced"
mkdir photos
echo x >photos/cat.jpg
expect 2 "holds files but no model" "$ingot" export model.h5 photos --force
[ -e photos/cat.jpg ] || fail "a directory that is no model was removed"

# Mistakes on the command line.
expect 2 "the output is the input" "$ingot" import model.h5 model.h5 --force
expect 2 "the output is the input" "$ingot" export model ./model/ --force
expect 2 "one is inside the other" "$ingot" import model model/x.h5
expect 2 'whose name ends in .h5 or .hdf5' "$ingot" import model x.safetensors
expect 2 "ingot import" "$ingot" export model x.h5
expect 2 "--shard-size 5parsecs: expected a size above 0" "$ingot" export model x --shard-size 5parsecs
expect 2 "--shard-size 0" "$ingot" export model x --shard-size 0
expect 3 "nowhere" "$ingot" export nowhere x

# Damaged data is found by its checksum, and no output appears.
offset=$(grep -abo abcdefghij model.h5 | cut -d : -f 1)
cp model.h5 damaged.h5
printf 'X' | dd of=damaged.h5 bs=1 seek=$((offset + 9)) conv=notrunc status=none
expect 3 "damaged.h5: a is damaged: its data has checksum" "$ingot" export damaged.h5 out
[ ! -e out ] && [ ! -e out.partial ] || fail "a failed export left something behind"

# An HDF5 file of others, as h5py writes it: whole, cut off, and with a part of its structure in the wrong place.
expect 0 "model.embed.weight  F32      [2, 3]" "$ingot" inspect "$old"
expect 0 "old.h5: 6 tensors" "$ingot" import "$old" old.h5
expect 0 "" "$ingot" diff "$old" old.h5
expect 0 "6 tensors, headers are sound; there are no checksums" "$ingot" verify "$old"
head -c 6000 "$old" >cut.h5
for command in "inspect cut.h5" "verify cut.h5" "import cut.h5 x.h5" "diff $old cut.h5"; do
  # shellcheck disable=SC2086
  expect 3 "cut.h5: the file has 6000 bytes, and its superblock says" "$ingot" $command
done
cp "$old" moved.h5
printf '\x08' | dd of=moved.h5 bs=1 seek=64 conv=notrunc status=none # the root group's header
expect 3 'moved.h5: "/": no object header where one is expected (damaged?)' "$ingot" inspect moved.h5
[ ! -e x.h5 ] && [ ! -e x.h5.partial ] || fail "a failed import left something behind"
