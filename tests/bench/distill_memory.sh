#!/usr/bin/env bash
# The memory that `ingot plan` says of distillation on a CPU against what a run takes, for students of 50 to 60 million parameters:
# within 10 percent, or the script fails. Minutes on two cores, and 4 GB of memory.
#   tests/bench/distill_memory.sh INGOT [FOLDER]
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 INGOT [FOLDER]" >&2; exit 2; }
ingot=$(realpath "$1")
data=$(realpath "$(dirname "$0")/../experts/data")
work=$(mktemp -d "${2:-${TMPDIR:-/tmp}}/distill-memory.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"

# config FILE HIDDEN INNER LAYERS VOCABULARY
config() {
  cat >"$1" <<EOT
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": $2, "intermediate_size": $3, "num_hidden_layers": $4,
 "num_attention_heads": $(($2 / 64)), "num_key_value_heads": $(($2 / 128)), "head_dim": 64, "vocab_size": $5,
 "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false, "hidden_act": "silu",
 "attention_bias": false, "mlp_bias": false, "dtype": "float32"}
EOT
}

failed=0
# check NAME: the run's own figures
check() {
  local planned measured
  planned=$(grep -o '"planned_memory_bytes":[0-9]*' "$1.events" | tail -1 | cut -d: -f2)
  measured=$(grep -o '"peak_anon_bytes":[0-9]*' "$1.events" | tail -1 | cut -d: -f2)
  awk -v n="$1" -v p="$planned" -v m="$measured" \
    'BEGIN { r = p / m; printf "%-12s planned %8.1f MB, measured %8.1f MB, ratio %.3f\n", n, p / 1e6, m / 1e6, r; exit r < 0.9 || r > 1.1 }' || failed=1
}

# run NAME BODY: a step of distillation
run() {
  cat >"$1.cfg" <<EOT
models = { one = "deep"; two = "deep"; wide = "wide"; };
steps = ( { type = "distill"; $2 data = ( "$data/sort.calib.u16" ); output = "$3"; } );
EOT
  "$ingot" run --quiet --device cpu --no-sync --json "$1.events" "$1.cfg"
  check "$1"
}

config deep.json 640 1792 8 16384
config wide.json 384 1024 4 65536
run deep 'config = "deep.json"; alpha = 0.0; window = 64; steps = 1; batch = 1;' deep
run wide 'config = "wide.json"; alpha = 0.0; window = 128; steps = 1; batch = 2;' wide
run teacher 'student = "one"; teachers = ( "two" ); window = 256; steps = 1; batch = 4; micro_batch = 4; validation_limit = 4;
  validation = ( "'"$data"'/sort.val.u16" );' out/teacher.h5
run recompute 'student = "one"; teachers = ( "two" ); window = 256; steps = 1; batch = 4; micro_batch = 4; recompute = true;' out/recompute.h5
run vocabulary 'student = "wide"; teachers = ( "wide" ); window = 256; steps = 1; batch = 4; micro_batch = 2; combine = "log_linear"; temperature = 2.0;' out/vocabulary.h5
exit $failed
