#!/usr/bin/env bash
# Merges with statistics: the same bytes for any number of ranks and threads, and after a restart; what does not fit is
# refused by name before anything is written.
. "$(dirname "$0")/lib.sh"
"${MAKE_MODELS:?}" models 2 5
for k in 1 2; do
  for kind in fisher gram kfac; do "${MAKE_STATISTICS:?}" models/expert-$k $kind-$k.h5 $kind $k 512; done
  "$MAKE_STATISTICS" models/expert-$k other-$k.safetensors gram $k
done

statistics_job() { # FILE METHOD STATISTICS EXTENSION [BODY]
  cat >"$1" <<END
models = { base = "models/base"; a = "models/expert-1"; b = "models/expert-2"; };
steps = ( { type = "merge"; method = "$2"; output = "out/m.h5";
  models = ( { model = "a"; statistics = "$3-1.$4"; weight = 0.75; }, { model = "b"; statistics = "$3-2.$4"; } ); ${5:-} } );
END
}

run_case() { # NAME FILE
  local n threads
  rm -rf out reference
  "$INGOT" run --quiet --threads 1 "$2" || fail "$1: one rank, one thread"
  mv out reference
  for n in $(rank_counts); do
    for threads in 1 3; do
      rm -rf out
      ranks "$n" "$INGOT" run --quiet --threads "$threads" "$2" || fail "$1: $n ranks, $threads threads"
      cmp reference/m.h5 out/m.h5 || fail "$1: bytes differ with $n ranks, $threads threads"
      [ -z "$(find out -name '*.partial' -o -name '*.journal')" ] || fail "$1: something was left behind"
    done
  done
  "$INGOT" verify out/m.h5 >/dev/null || fail "$1: verify"
}

statistics_job fisher.cfg fisher fisher h5 'parameters = { normalize = "l2"; floor = 1e-9; };'
run_case fisher fisher.cfg
statistics_job mats.cfg mats kfac h5 'base = "base"; parameters = { metric = "kfac"; start = "base"; rest = "start"; iterations = 3; };'
run_case mats mats.cfg
statistics_job regmean.cfg regmean gram h5
run_case regmean regmean.cfg

# What solving took is told, and is an event.
rm -rf out
"$INGOT" run --json events.json regmean.cfg 2>stderr.txt || fail "regmean with events"
grep -q 'matrices solved: at most 0 iterations' stderr.txt || fail "regmean says nothing of its matrices: $(cat stderr.txt)"
grep -q 'not positive definite' stderr.txt && fail "a warning of a ridge that was not needed"
grep -q '"event": *"matrices".*"dead_features": *0' events.json || fail "no event of the matrices"
rm -rf out
"$INGOT" run mats.cfg 2>stderr.txt || fail "mats with text"
grep -q 'matrices solved: at most 3 iterations' stderr.txt || fail "mats says nothing of its iterations: $(cat stderr.txt)"

# Shared Gram matrices and matrices of others' files under every layer's own name: the same when they hold the same.
statistics_job other.cfg regmean other safetensors
rm -rf out
"$INGOT" run --quiet other.cfg || fail "statistics of others"

# Fisher information in HDF5 files of others, as most programs write them: the same values.
for k in 1 2; do
  "$MAKE_STATISTICS" models/expert-$k tensors-$k.safetensors fisher $k
  "${PLAIN_HDF5:?}" tensors-$k.safetensors plain-$k.h5
done
statistics_job plain.cfg fisher tensors safetensors
rm -rf out
"$INGOT" run --quiet plain.cfg || fail "Fisher information of others"
mv out others
statistics_job plain.cfg fisher plain h5
for n in $(rank_counts); do last=$n; done
rm -rf out
ranks "$last" "$INGOT" run --quiet plain.cfg || fail "Fisher information in plain HDF5 files"
"$INGOT" diff others/m.h5 out/m.h5 >/dev/null || fail "plain HDF5 files: other values"

# Killed at a write, then continued on other ranks.
rm -rf out
code=0
INGOT_FAULT=kill@0:4 "$INGOT" run --quiet regmean.cfg 2>/dev/null || code=$?
[ "$code" -ne 0 ] || fail "the planned kill did not happen"
[ -e out/m.h5.partial ] || fail "nothing was left to continue"
ranks "$last" "$INGOT" run --quiet --threads 2 regmean.cfg || fail "the restart"
cmp reference/m.h5 out/m.h5 || fail "bytes differ after a restart"
rm -rf out
code=0
INGOT_FAULT=stop@-1:3 ranks "$last" "$INGOT" run --quiet regmean.cfg 2>/dev/null || code=$?
[ "$code" -eq 75 ] || fail "a stop ended with $code instead of 75"
"$INGOT" run --quiet regmean.cfg || fail "going on after a stop"
cmp reference/m.h5 out/m.h5 || fail "bytes differ after a stop"

# Refused.
refuse() { # CODE TEXT FILE
  rm -rf out
  expect "$1" "$2" "$INGOT" run --quiet "$3"
  [ ! -e out/m.h5 ] && [ ! -e out/m.h5.partial ] || fail "something was written: $2"
}
statistics_job bad.cfg regmean missing h5
refuse 3 'missing-1.h5' bad.cfg
statistics_job bad.cfg fisher gram h5
refuse 3 'statistics of "a" (gram-1.h5): Gram matrices, and the method reads Fisher information' bad.cfg
statistics_job bad.cfg regmean fisher h5
refuse 3 'Fisher information, and the method reads Gram matrices' bad.cfg
sed 's/gram-2/gram-1/' regmean.cfg >bad.cfg
refuse 3 'statistics of "b" (gram-1.h5) were made from other files (models/expert-1' bad.cfg
sed 's/gram-2/gram-1/; s/output =/statistics_model = "ignore"; output =/' regmean.cfg >good.cfg
rm -rf out
"$INGOT" run --quiet good.cfg || fail "statistics_model = ignore"
"$MAKE_STATISTICS" models/expert-2 gram-none-2.h5 gram 2 512 0
sed 's/gram-2/gram-none-2/' regmean.cfg >bad.cfg
refuse 3 'gram-none-2.h5): they are of 0 tokens' bad.cfg
"$MAKE_STATISTICS" models/expert-2 gram-broken-2 gram 2 512
echo '{ "format": 1,' >gram-broken-2/ingot_statistics.json
sed 's/gram-2.h5/gram-broken-2/' regmean.cfg >bad.cfg
refuse 3 'ingot_statistics.json: broken JSON at line' bad.cfg
[ "$(wc -l <stderr.txt)" -eq 1 ] || fail "broken JSON brings other messages with it"
"$MAKE_STATISTICS" models/expert-2 fisher-none-2.h5 fisher 2 512 0
sed 's/fisher-2/fisher-none-2/' fisher.cfg >bad.cfg
refuse 3 'fisher-none-2.h5): they are of 0 examples' bad.cfg
"$MAKE_STATISTICS" models/expert-2 gram-window-2.h5 gram 2 256
sed 's/gram-2/gram-window-2/' regmean.cfg >good.cfg
rm -rf out
"$INGOT" run --quiet good.cfg 2>stderr.txt || fail "another window"
grep -q 'windows of 512 tokens, and .*gram-window-2.h5 with 256' stderr.txt || fail "no warning about the window"
"$MAKE_STATISTICS" models/expert-2 fisher-sampled-2.h5 fisher 2 512 4 sampled
sed 's/fisher-2/fisher-sampled-2/' fisher.cfg >good.cfg
rm -rf out
"$INGOT" run --quiet good.cfg 2>stderr.txt || fail "other labels"
grep -q 'fisher-1.h5 was made with labels given, and .*fisher-sampled-2.h5 with sampled' stderr.txt || fail "no warning about the labels"
"$MAKE_STATISTICS" models/expert-2 fisher-sum-2.h5 fisher 2 512 4 given sum
sed 's/fisher-2/fisher-sum-2/' fisher.cfg >bad.cfg
refuse 3 "has gradients of the loss's mean, and fisher-sum-2.h5 of its sum" bad.cfg
sed 's/fisher-2/gram-2/' fisher.cfg >bad.cfg
refuse 3 'fisher-1.h5 holds fisher statistics, and gram-2.h5 gram' bad.cfg
sed 's/other-2.safetensors/fisher-sum-2.h5/' other.cfg >bad.cfg # of others, and of ours of another kind
refuse 3 'Fisher information, and the method reads Gram matrices' bad.cfg
"${MAKE_MODELS:?}" wide 1 100
"$MAKE_STATISTICS" wide/expert-1 wide-2.safetensors gram 2
sed 's/other-2/wide-2/' other.cfg >bad.cfg
refuse 3 'not a Gram matrix of width' bad.cfg
"$MAKE_STATISTICS" wide/expert-1 wide-fisher-2.safetensors fisher 2
sed 's/fisher-2.h5/wide-fisher-2.safetensors/' fisher.cfg >bad.cfg
refuse 3 'and the parameter [' bad.cfg
sed 's/other-2.safetensors/models\/expert-2\/model.safetensors/' other.cfg >bad.cfg
refuse 3 'not a Gram matrix of width' bad.cfg
sed 's/fisher-2.h5/models\/expert-2/' fisher.cfg >bad.cfg
refuse 3 'this is a model of the step, and no statistics' bad.cfg
sed 's/ statistics = "gram-2.h5";//' regmean.cfg >bad.cfg
refuse 2 'method regmean needs statistics of "b"' bad.cfg
sed 's/regmean/linear/' regmean.cfg >bad.cfg
refuse 2 'method linear reads no statistics' bad.cfg
sed 's/output =/memory_limit = "1MB"; output =/' regmean.cfg >bad.cfg
refuse 3 'the matrices of model.layers.0.mlp.' bad.cfg

# Bad numbers, at the step: the last 4 bytes of a file are those of a packed matrix's last diagonal element, or of an element of
# the information.
poison() { # FILE BYTES
  size=$(stat -c %s "$1")
  printf '%b' "$2" | dd of="$1" bs=1 seek=$((size - 4)) conv=notrunc status=none
}
nan='\x00\x00\xc0\x7f'
cp other-2.safetensors nan-2.safetensors
poison nan-2.safetensors $nan
sed 's/other-2/nan-2/' other.cfg >bad.cfg
refuse 3 'not finite at [' bad.cfg
"$MAKE_STATISTICS" models/expert-2 nan-fisher-2.safetensors fisher 2
poison nan-fisher-2.safetensors $nan
sed 's/fisher-2.h5/nan-fisher-2.safetensors/' fisher.cfg >bad.cfg
refuse 3 'values are not finite' bad.cfg
# As 0 instead: there the other model alone decides, and the base of mats has no part in it.
cp nan-fisher-2.safetensors zero-2.safetensors
for ((element = 1; element <= 8; element++)); do # weights of the base there have both signs
  printf '%b' $nan | dd of=zero-2.safetensors bs=1 seek=$((size - 4 * element)) conv=notrunc status=none
done
statistics_job zero.cfg fisher zero h5 'parameters = { floor = 0.0; }; nonfinite = "zero";'
sed -i 's/zero-1.h5/fisher-1.h5/; s/zero-2.h5/zero-2.safetensors/' zero.cfg
rm -rf out zeroed
"$INGOT" run --quiet zero.cfg || fail "Fisher information that counts as 0"
mv out zeroed
sed 's/"fisher"/"mats"/; s/floor = 0.0;/metric = "fisher"; start = "base";/; s/nonfinite/base = "base"; nonfinite/' zero.cfg >mats-zero.cfg
"$INGOT" run --quiet mats-zero.cfg || fail "mats: Fisher information that counts as 0"
"$INGOT" diff zeroed/m.h5 out/m.h5 >diff.txt || fail "mats: a bad value of Fisher information is not 0: $(cat diff.txt)"
# In a model, in a tensor that the start alone decides (rest = "start").
cp -rL models/expert-2 nan-model
size=$(stat -c %s nan-model/model.safetensors)
for ((at = size - 2; at < size; at++)); do printf '\xff' | dd of=nan-model/model.safetensors bs=1 seek=$at conv=notrunc status=none; done
sed 's/models.expert-2/nan-model/; s/output =/statistics_model = "ignore"; output =/' mats.cfg >bad.cfg
refuse 3 'values are not finite' bad.cfg
# Below zero, in files of others; a zero's sign is nothing.
cp tensors-1.safetensors negative-1.safetensors
cp plain-1.h5 negative-1.h5
cp tensors-2.safetensors negative-2.safetensors
poison negative-2.safetensors '\x00\x00\x80\xbf' # -1
"$PLAIN_HDF5" negative-2.safetensors negative-2.h5
negative='1 values of Fisher information, a mean of squares, are below zero; the first is in'
statistics_job bad.cfg fisher negative safetensors
refuse 3 "negative-2.safetensors: $negative lm_head.weight[" bad.cfg
statistics_job bad.cfg mats negative h5 'parameters = { metric = "fisher"; }; nonfinite = "keep";'
refuse 3 "negative-2.h5: $negative" bad.cfg
poison negative-2.safetensors '\x00\x00\x00\x80'
statistics_job good.cfg fisher negative safetensors
rm -rf out
"$INGOT" run --quiet good.cfg || fail "a negative zero of Fisher information"
# A sum that is a little, and one that is far from positive definite.
for k in 1 2; do
  cp other-$k.safetensors near-$k.safetensors
  poison near-$k.safetensors '\x17\xb7\xd1\x38' # 1e-4
  cp other-$k.safetensors far-$k.safetensors
  poison far-$k.safetensors '\x00\x24\x74\xc9' # -1e6
done
sed 's/other-/near-/g' other.cfg >good.cfg
rm -rf out
"$INGOT" run good.cfg 2>stderr.txt || fail "a sum of Gram matrices that needs a ridge"
grep -q 'sums of Gram matrices are not positive definite: 1 of' stderr.txt || fail "no warning of a ridge: $(cat stderr.txt)"
sed 's/other-/far-/g' other.cfg >bad.cfg
refuse 3 'is not positive definite (leading minor' bad.cfg
sed 's/regmean/mats/; s/far-2/other-2/' bad.cfg >bad-mats.cfg
refuse 3 'is not positive: a direction has the curvature -' bad-mats.cfg
