#!/usr/bin/env bash
# A family of 70 G parameters for `ingot plan --nodes`: a base and eight experts with the tensors of a Llama of 80 layers (8192, 28672,
# 64 and 8 heads of 128, vocabulary 128256) in bfloat16, in 17 shards. Headers and sizes are real, the data are holes: the nine
# models take a few MB of disk (on a file system with holes), and plan as the real ones would.
#
#   tests/bench/make_70g.sh DIR [METHOD]     then: ingot plan --nodes 1,2,4,8,16,32,64 DIR/job.cfg
set -euo pipefail
dir=${1:?usage: make_70g.sh DIR [METHOD]} method=${2:-task_arithmetic}
layers=80 layers_a_shard=5
mkdir -p "$dir"

shard_tensors() { # SHARD: name, rows, columns (0: a vector) of each tensor; shard 0 has what is outside the layers
  local i
  if [ "$1" = 0 ]; then
    printf '%s %d %d\n' model.embed_tokens.weight 128256 8192 model.norm.weight 8192 0 lm_head.weight 128256 8192
    return
  fi
  for ((i = ($1 - 1) * layers_a_shard; i < $1 * layers_a_shard; i++)); do
    printf "model.layers.$i.%s.weight %d %d\n" input_layernorm 8192 0 self_attn.q_proj 8192 8192 self_attn.k_proj 1024 8192 \
      self_attn.v_proj 1024 8192 self_attn.o_proj 8192 8192 post_attention_layernorm 8192 0 mlp.gate_proj 28672 8192 \
      mlp.up_proj 28672 8192 mlp.down_proj 8192 28672
  done
}
# The header of a safetensors file, and after a tab the bytes of data.
header() {
  awk '{ n = $2 * ($3 ? $3 : 1) * 2; shape = ($3 ? $2 "," $3 : $2); start = (NR > 1 ? "," : "{")
         printf "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%s],\"data_offsets\":[%.0f,%.0f]}", start, $1, shape, at, at + n; at += n }
       END { printf "}\t%.0f", at }'
}
little_endian() { # 8 bytes
  local i n=$1
  for ((i = 0; i < 8; i++)); do printf '%b' "\\0$(printf %o $((n & 255)))"; n=$((n >> 8)); done
}
make_model() { # DIR
  local shard name text bytes map='' count=$((layers / layers_a_shard + 1))
  mkdir -p "$1"
  for ((shard = 0; shard < count; shard++)); do
    name=$(printf 'model-%05d-of-%05d.safetensors' $((shard + 1)) "$count")
    IFS=$'\t' read -r text bytes < <(shard_tensors "$shard" | header; echo)
    { little_endian ${#text}; printf %s "$text"; } >"$1/$name"
    truncate -s $((8 + ${#text} + bytes)) "$1/$name"
    map+=$(shard_tensors "$shard" | awk -v file="$name" '{ printf "\"%s\":\"%s\",", $1, file }')
  done
  printf '{"metadata":{},"weight_map":{%s}}\n' "${map%,}" >"$1/model.safetensors.index.json"
  printf '%s\n' '{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":8192,"intermediate_size":28672,' \
    '"num_hidden_layers":80,"num_attention_heads":64,"num_key_value_heads":8,"vocab_size":128256,"tie_word_embeddings":false,' \
    '"max_position_embeddings":8192,"rms_norm_eps":1e-5,"rope_theta":500000.0,"hidden_act":"silu","dtype":"bfloat16"}' >"$1/config.json"
}

make_model "$dir/base"
for i in {1..8}; do make_model "$dir/expert-$i"; done
{
  echo 'name = "seventy"; models = { base = "base";'
  for i in {1..8}; do echo "  e$i = \"expert-$i\";"; done
  echo "}; steps = ( { type = \"merge\"; method = \"$method\"; base = \"base\"; output = \"out/merged.h5\";"
  echo '  models = ( "e1", "e2", "e3", "e4", "e5", "e6", "e7", "e8" ); parameters = { weight = 0.125; }; } );'
} >"$dir/job.cfg"
