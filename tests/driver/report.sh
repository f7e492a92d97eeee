#!/usr/bin/env bash
# ingot report: figures against NumPy (report_reference.py), the page, and what is refused.
#   report.sh SOURCE
set -euo pipefail
: "${INGOT:?}"
source=${1:?}
work=$(mktemp -d "${TMPDIR:-/tmp}/ingot-report.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
fail() { echo "FAILED: $*" >&2; exit 1; }
expect() { # CODE TEXT COMMAND...
  local code=$1 text=$2 got=0
  shift 2
  "$@" >out.txt 2>err.txt || got=$?
  [ "$got" = "$code" ] || { cat err.txt >&2; fail "exit code $got instead of $code: $*"; }
  grep -qF -- "$text" err.txt || { cat err.txt >&2; fail "message lacks \"$text\": $*"; }
}
cp -r "$source/tests/experts" experts
cat >job.cfg <<'CFG'
models = { base = "experts/base"; add = "experts/add"; sort = "experts/sort"; };
steps = ( { type = "merge"; method = "task_arithmetic"; base = "base"; dtype = "float32"; output = "<i>&\"m.h5";
            models = ( { model = "add"; weight = 1.0; }, { model = "sort"; weight = 0.0; } ); },
          { type = "merge"; method = "linear"; models = ( "add", "sort" ); parameters = { weight = 1.0; }; output = "linear.h5"; } );
CFG
"$INGOT" run --quiet job.cfg
"$INGOT" report --json --html page.html '<i>&"m.h5' >figures.json

# name, elements, active, conflicts; squares of the two task vectors; their absolute sums; the kept part of these
cat >expected.txt <<'TXT'
embeddings 10112 10099 3065 9.87621 9.5415 164.919 167.684 164.919 166.546
layer 0 116992 116845 48389 2.31255 2.35338 383.061 387.327 383.061 380.896
layer 1 116992 116890 51074 4.72065 2.94379 543.05 436.809 543.05 431.932
layer 2 116992 116897 50045 5.70219 3.56204 602.196 486.524 602.196 481.099
layer 3 116992 116954 48338 10.9018 7.25927 837.618 693.074 837.618 687.142
head and others 128 128 0 0.36853 0.320923 6.34375 5.96875 6.34375 5.96875
dot 7.49575
TXT
tr -d ' ",' <figures.json | awk -F: '
  /^name:/ { row = $2; sub(/layer/, "layer ", row); if (row == "headandothers") row = "head and others" }
  /^(elements|active|conflicts):/ { row = row " " $2 }
  /^[a-z_]+:/ { list = $1 }
  /^[-0-9.e]+$/ { if (list == "dot") dots[n++] = $1; else if (list ~ /^(square|mass|kept)$/) row = row sprintf(" %.6g", $1) }
  /^}$/ { if (row != "") print row; row = "" }
  END { printf "dot %.6g\n", dots[1]; if (dots[1] != dots[2] || n != 4) print "dot is not symmetric" }' >found.txt
diff expected.txt found.txt || fail "figures differ from NumPy's"

# The page: everything in it, names escaped, every tag closed.
grep -qF '<title>&lt;i&gt;&amp;&quot;m.h5</title>' page.html || fail "the title is not escaped"
! grep -qF '<i>&' page.html || fail "a name is in the page as it is"
! grep -qE '<script|<link|<img|url\(|https?://' page.html || fail "the page loads something"
[ "$(grep -c '<svg' page.html)" = 4 ] && [ "$(grep -c '</svg>' page.html)" = 4 ] || fail "not four charts"
grep -qF '<title>layer 3: 3.30179</title>' page.html || fail "the norm of layer 3, sqrt(10.9018), is not in the page"
if command -v xmllint >/dev/null; then
  sed -e 's/<!DOCTYPE html>//' -e 's/<meta charset="utf-8">//' page.html | xmllint --noout - || fail "the page is not well-formed"
fi

! grep -q 'Kept by the method' page.html || fail "task arithmetic drops nothing, and the page says it did"

# What a method kept, by hand. A base of zeros; a = (4, 3, -2, 1) and b = (-6, 2, -5, 1) in float32; density 0.5 keeps the two largest:
# of a 4 and 3, 7 of 10 and 25 of 30; of b -6 and -5, 11 of 14 and 61 of 66. The sums of what is kept are (-2, 3, -5, 0): a's 4 has
# the wrong sign, so 3 of 10 and 9 of 30 agree; of b all that is kept.
vector() { # NAME OCTAL_BYTES
  local header='{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
  { printf '%b' "\\0$(printf %o ${#header})" '\0\0\0\0\0\0\0'; printf %s "$header"; printf %b "$2"; } >"$1.safetensors"
}
vector zero '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
vector a '\0\0\0200\0100\0\0\0100\0100\0\0\0\0300\0\0\0200\077'
vector b '\0\0\0300\0300\0\0\0\0100\0\0\0240\0300\0\0\0200\077'
cat >hand.cfg <<'CFG'
models = { zero = "zero.safetensors"; a = "a.safetensors"; b = "b.safetensors"; };
steps = ( { type = "merge"; method = "ties"; base = "zero"; models = ( "a", "b" ); parameters = { weight = 1.0; density = 0.5; };
            output = "ties.h5"; } );
CFG
for scope in tensor model; do # of one tensor, so that both are the same; keep is that of tensors
  "$INGOT" run --quiet --fresh --set "steps[0].parameters.scope=\"$scope\"" --set 'steps[0].parameters.keep="floor"' hand.cfg
  "$INGOT" report --json --html hand.html ties.h5 | tr -d ' ",' | awk -F: '/^method:/ { on = 1 } on && /^(model|[a-z]+_(mass|square)|mass|square):/ { printf "%s ", $2 }' >found.txt
  [ "$(cat found.txt)" = 'a 10.0 30.0 7.0 25.0 3.0 9.0 b 14.0 66.0 11.0 61.0 11.0 61.0 ' ] || fail "what ties kept ($scope): $(cat found.txt)"
done
grep -qF '<tr><th>a</th><td>70.0 %</td><td>83.3 %</td><td>30.0 %</td><td>30.0 %</td>' hand.html || fail "what ties kept is not in the page"
# Drawn: what the output differs at is what was kept, since with one expert nothing else can move an element.
"$INGOT" run --quiet --set 'steps[0].method="dare_linear"' --set 'steps[0].models=("a")' --set 'steps[0].output="dare.h5"' hand.cfg
"$INGOT" report --json dare.h5 | tr -d ' ",' >found.txt
kept=$(awk -F: '/^kept:/ { getline; sum += $1 } END { printf "%.1f", sum }' found.txt)
grep -qx "kept_mass:$kept" found.txt || fail "what dare_linear kept is not $kept: $(grep kept_mass found.txt)"

expect 2 'say --html FILE or --json' "$INGOT" report '<i>&"m.h5'
expect 2 'there are no task vectors to report on' "$INGOT" report --json linear.h5
expect 3 'nothing.h5.manifest.json' "$INGOT" report --json nothing.h5
cp experts/sort/model.safetensors experts/add/model.safetensors
expect 3 'experts/add: has changed since the merge: identity was ' "$INGOT" report --json '<i>&"m.h5'
