#!/usr/bin/env bash
# What the README says: its scripts, presets and methods exist; its example job and its commands work as printed, with generated
# models in place of the example's. Nothing is built or installed here.
. "$(dirname "$0")/lib.sh"
readme=$SOURCE/README.md
# block SECTION NUMBER: the text of a fenced block of that section
block() { awk -v section="## $1" -v wanted="$2" '
  /^## / { inside = $0 == section; n = 0 }
  inside && /^```/ { if (open) open = 0; else { open = 1; n++ } next }
  inside && open && n == wanted' "$readme"; }

quoted() { grep -oE "\`$1\`" | tr -d "\`"; }

# Try it, Test it: the scripts are there; the quick start's job and the export run as in the source folder.
for section in "Try it" "Test it"; do
  script=$(block "$section" 1)
  [ -x "$SOURCE/$script" ] || fail "$section: no script \"$script\""
done
for script in $(quoted '[a-z/]+[.]sh' <"$readme"); do [ -x "$SOURCE/$script" ] || fail "no script $script"; done
grep -qF 'ingot run --fresh jobs/quickstart.cfg' "$SOURCE/jobs/quickstart.sh" || fail "quickstart.sh runs another job"
mkdir -p jobs build/release/bin
cp "$SOURCE"/jobs/*.cfg jobs
ln -s "$SOURCE/tests" tests
ln -s "$INGOT" build/release/bin/ingot
"$INGOT" run --quiet --fresh jobs/quickstart.cfg || fail "the quick start's job"
"$INGOT" verify out/quickstart.h5 >/dev/null || fail "the quick start's result"
export=$(block "Try it" 2)
case $export in "build/release/bin/ingot export "*" out/quickstart-hf") ;; *) fail "no export command: $export" ;; esac
$export >/dev/null || fail "$export"
for file in model.safetensors config.json tokenizer.json; do [ -e "out/quickstart-hf/$file" ] || fail "the export lacks $file"; done
"$INGOT" diff out/quickstart.h5 out/quickstart-hf >/dev/null || fail "the export has other values"

# A job: the example, and every command line below it.
"${MAKE_MODELS:?}" models 2 $((5 * SCALE))
block "A job" 1 | sed 's#models/expert-de#models/expert-1#; s#models/expert-fr#models/expert-2#' >JOB
[ "$(grep -c 'models/expert-[12]"' JOB)" = 2 ] || fail "the example has other models"
ingot() { "$INGOT" "$@"; }
commands=0
most=1
if [ "${INGOT_HAVE_MPI:-OFF}" = ON ]; then most=4; fi # of the eight in the README
mapfile -t lines < <(block "A job" 2)
for line in "${lines[@]}"; do
  line=${line%%  *} # what follows is the explanation
  case $line in
    "ingot methods "*) ingot methods >/dev/null && ingot methods ties >/dev/null || fail "$line" ;;
    *" ...")
      for word in $line; do
        case $word in "|" | ingot | ...) ;; *) ingot "$word" --help >/dev/null || fail "no command $word" ;; esac
      done ;;
    "mpirun -n 8 ingot run JOB")
      rm -rf out
      ranks "$most" "$INGOT" run --quiet JOB || fail "$line" ;;
    "ingot "*"JOB"*)
      if [[ $line = *--set* ]]; then rm -rf out; fi # other settings need another output
      eval "$line" >stdout.txt 2>stderr.txt || { cat stderr.txt >&2; fail "$line"; } ;;
    *) fail "unknown command line: $line" ;;
  esac
  commands=$((commands + 1))
done
[ "$commands" -ge 6 ] || fail "only $commands command lines were found"
"$INGOT" verify out/ties.h5 >/dev/null || fail "the example's result"
[ -e out/ties-hf/model.safetensors ] || [ -e out/ties-hf/model.safetensors.index.json ] || fail "the example's export"
grep -q '"event"' events.jsonl || fail "no events"

# Build, Methods.
presets=$(grep '^Presets:' "$readme" | quoted '[a-z]+')
[ -n "$presets" ] || fail "no presets were found"
for preset in $presets; do grep -q "\"name\": \"$preset\"" "$SOURCE/CMakePresets.json" || fail "no preset $preset"; done
for method in $(ingot methods | grep -oE '^[a-z_]+'); do
  grep -q "^|.*\`$method\`.*|" "$readme" || fail "the table of methods lacks $method"
done

# Links lead somewhere.
while read -r link; do
  [ -e "$SOURCE/$link" ] || fail "a link to $link, which is not there"
done < <(grep -oE '\]\([^)]+\)' "$SOURCE/README.md" | sed 's/^](//; s/)$//' | grep -v '^http')
