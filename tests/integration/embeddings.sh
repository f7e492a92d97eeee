#!/usr/bin/env bash
# Embeddings and heads of different numbers of rows: refused, and with embeddings = "crop" what mergekit makes of them (the files of
# tests/golden/embeddings, by tests/golden/embeddings_reference.py); the config follows, and the recipe says it.
. "$(dirname "$0")/lib.sh"
: "${NEAR:?}"
golden=$SOURCE/tests/golden/embeddings

crop_job() { # METHOD BODY
  cat >"$1.cfg" <<END
models = { base = "$golden/base"; a = "$golden/a"; b = "$golden/b"; };
steps = ( { type = "merge"; method = "$1"; output = "out/$1"; $2 } );
END
}

crop_job linear 'models = ( "a", "b" ); parameters = { weight = 0.5; };'
crop_job slerp 'base = "a"; models = ( "b" ); parameters = { t = 0.25; };'
crop_job task_arithmetic 'base = "base"; models = ( "a", "b" ); parameters = { weight = 0.5; };'
crop_job ties 'base = "base"; models = ( "a", "b" ); parameters = { weight = 1.0; density = 0.5; normalize = true; };'

expect 3 'model.embed_tokens.weight: [7, 8] in "b"' "$INGOT" run linear.cfg
grep -qF '(embeddings = "crop" merges the rows that all have)' stderr.txt || fail "the message names no setting"
grep -qF 'vocab_size is 9 in "a"' stderr.txt || fail "vocab_size is not compared"
[ ! -e out ] || fail "something was written"

for method in linear slerp task_arithmetic ties; do
  rows=7; case $method in t*) rows=6 ;; esac
  "$INGOT" run --set 'steps[0].embeddings="crop"' $method.cfg >stdout.txt 2>stderr.txt || { cat stderr.txt >&2; fail "$method"; }
  for tensor in model.embed_tokens.weight lm_head.weight; do
    grep -qF "tensor $tensor: the first $rows rows are merged, which all models have; \"a\" ($golden/a) has 9" stderr.txt ||
      fail "$method: no warning of $tensor"
  done
  if [ $method = slerp ]; then "$NEAR" "$golden/$method.safetensors" out/$method/model.safetensors 1e-6 || fail "$method: other values"
  else "$INGOT" diff "$golden/$method.safetensors" out/$method || fail "$method: other values"; fi
  grep -qF "\"vocab_size\": $rows" out/$method/config.json || fail "$method: config.json"
  grep -A 4 -F 'model.embed_tokens.weight:' out/$method/README.md | grep -qF "rows: $rows" || fail "$method: the model card does not say it"
done

# The plan reads and writes no more than the rows kept.
"$INGOT" plan --set 'steps[0].embeddings="crop"' linear.cfg >stdout.txt 2>/dev/null
grep -qF '4.56 KiB to read, 2.28 KiB to write' stdout.txt || { cat stdout.txt >&2; fail "plan: other traffic"; } # 584 elements
for n in $(rank_counts); do
  ranks "$n" "$INGOT" run --quiet --fresh --set 'steps[0].embeddings="crop"' --set 'steps[0].output="ranks.h5"' ties.cfg 2>/dev/null ||
    fail "$n ranks"
  "$INGOT" diff --quiet "$golden/ties.safetensors" ranks.h5 >/dev/null || fail "$n ranks: other values"
done
