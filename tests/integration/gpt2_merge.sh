#!/usr/bin/env bash
# Fisher, RegMean and MaTS of GPT-2, whose linear layers are stored as [in, out]: statistics and merges of the program against
# PyTorch and NumPy (gpt2_merge/make_reference.py), and Gram matrices of others in every form that is read.
. "$(dirname "$0")/lib.sh"
: "${NEAR:?}"
ln -s "$SOURCE/tests/integration/gpt2_merge" g
export OMP_NUM_THREADS=1

pair() { # STATISTICS_A STATISTICS_B
  echo "models = ( { model = \"a\"; statistics = \"$1\"; weight = 1.0; }, { model = \"b\"; statistics = \"$2\"; weight = 0.5; } );"
}
gather() { # TYPE MODEL NAME [BODY]
  echo "{ type = \"$1\"; name = \"$3\"; model = \"$2\"; data = ( \"g/$2.u16\" ); window = 16; output = \"out/$3.h5\"; ${4:-} },"
}
regmean() { # OUTPUT STATISTICS_A STATISTICS_B
  echo "{ type = \"merge\"; method = \"regmean\"; parameters = { alpha = 0.8; }; output = \"out/$1\"; $(pair "$2" "$3") }"
}

cat >all.cfg <<EOT
models = { a = "g/a"; b = "g/b"; };
steps = ( $(gather fisher a fa) $(gather fisher b fb) $(gather gram a ga "outputs = true;") $(gather gram b gb "outputs = true;")
  { type = "merge"; method = "fisher"; parameters = { floor = 1e-9; }; output = "out/fisher"; $(pair fa fb) },
  $(regmean regmean ga gb),
  { type = "merge"; method = "mats"; parameters = { metric = "kfac"; alpha = 0.5; tolerance = 1e-14; iterations = 3000; };
    output = "out/mats"; $(pair ga gb) },
  $(regmean packed g/a.packed.safetensors g/b.packed.safetensors),
  $(regmean full g/a.full.weight.safetensors g/b.full.weight.h5),
  $(regmean bare g/a.full.bare.h5 g/b.full.bare.safetensors) );
EOT
for n in $(rank_counts); do
  [ "$n" = 2 ] && continue # the layers of two and of four ranks are dealt out alike
  rm -rf out
  ranks "$n" "$INGOT" run --quiet --device cpu all.cfg || fail "merges of GPT-2, $n ranks"
  for method in fisher regmean mats; do
    "$NEAR" "g/$method.safetensors" "out/$method" 2e-5 || fail "$method: not the reference's, $n ranks"
  done
  "$NEAR" g/regmean.safetensors out/packed 1e-6 || fail "packed matrices of others: not the reference's, $n ranks"
  for form in full bare; do
    cmp out/packed/model.safetensors "out/$form/model.safetensors" || fail "Gram matrices $form: another merge than packed ones, $n ranks"
  done
done
"$INGOT" inspect out/ga.h5 | grep -q 'h.1.mlp.c_proj.weight#output' || fail "no Gram matrix of outputs"
