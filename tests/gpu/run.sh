#!/usr/bin/env bash
# Build with CUDA and run everything that needs a GPU; a table of the results comes last.
#
#   tests/gpu/run.sh [PART...]     PART: test sanitize kernels models nn linalg statistics training process; all of them when none is named
#
#   test      the same bytes on CPU and GPU, every method, dtype and size
#   sanitize  the same under compute-sanitizer: memcheck and racecheck
#   kernels   bandwidth of every method's kernels beside the card's own copy; start-up times
#   models    forward and backward of tiny models against Transformers, in float32, TF32 and bfloat16; speed of a Llama
#             of 1.1 G parameters
#   nn        operators of the transformer runtime: against the CPU, under compute-sanitizer, and their speed
#   linalg    float64 matrices: against the CPU, under compute-sanitizer, and the speed of RegMean's solves beside the
#             library's own (WIDTHS, default "4096 14336"); under a minute
#   statistics  steps evaluate, fisher, gram and regmean_plus, and merges with statistics: against the CPU, two GPUs against one,
#             compute-sanitizer, time
#   training  steps ensemble, logits, soup, distill and generate: against the CPU; the speed of a distillation beside PyTorch's
#   process   whole runs of the program on generated models, CPU and GPU: time, and the same bytes
#
# BUILD (folder, default build/gpu), ARCH (CMAKE_CUDA_ARCHITECTURES, default native), MILLIONS (parameters of a generated
# model, default 1100), WORK (folder for the models, kept; default one in BUILD, removed; 12 bytes a parameter), THREADS.
# Exit code 0 when all parts passed.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=${BUILD:-$root/build/gpu}
threads=${THREADS:-$(nproc)}
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(test sanitize kernels models nn linalg statistics training process)
logs=$build/gpu-logs
table=()
failed=0

note() { # PART RESULT
  table+=("$(printf '%-34s %s' "$1" "$2")")
}

configure() {
  local -a more=()
  [ "${NO_MPI:-0}" = 1 ] && more+=(-DINGOT_MPI=OFF)
  cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DINGOT_CUDA=ON \
    -DCMAKE_CUDA_ARCHITECTURES="${ARCH:-native}" "${more[@]}" >"$logs/configure.log" 2>&1 ||
    { tail -n 30 "$logs/configure.log"; exit 1; }
  cmake --build "$build" --target test_gpu_methods bench_gpu >"$logs/build.log" 2>&1 ||
    { tail -n 30 "$logs/build.log"; exit 1; }
}

# Run a command, log it, and note ok or FAILED with its exit code.
step() { # NAME LOG COMMAND...
  local name=$1 log=$logs/$2 begin rc=0
  shift 2
  begin=$(date +%s.%N)
  "$@" >"$log" 2>&1 || rc=$?
  local took
  took=$(awk -v a="$begin" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f s", b - a }')
  if [ "$rc" -eq 0 ]; then
    note "$name" "ok, $took"
  else
    note "$name" "FAILED ($rc), $took"
    failed=1
    tail -n 25 "$log"
  fi
}

part_test() {
  step "bytes, CPU against GPU" test.log "$build/tests/gpu/test_gpu_methods"
}

part_sanitize() {
  local tool
  if ! command -v compute-sanitizer >/dev/null; then
    note "compute-sanitizer" "not run: not installed"
    return
  fi
  for tool in memcheck racecheck; do
    step "compute-sanitizer $tool" "$tool.log" \
      compute-sanitizer --tool "$tool" --error-exitcode 9 "$build/tests/gpu/test_gpu_methods" --brief
    note "" "$(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$logs/$tool.log" | tail -n 1)"
  done
}

part_kernels() {
  step "kernel bandwidth" kernels.log "$build/tests/gpu/bench_gpu" "${ELEMENTS_MI:-64}"
  cat "$logs/kernels.log"
}

part_models() {
  local kind name
  cmake --build "$build" --target test_model test_model_decode test_model_load test_model_pass bench_model >>"$logs/build.log" 2>&1 ||
    { tail -n 30 "$logs/build.log"; exit 1; }
  for kind in cuda cuda-tf32 cuda-bf16; do
    for name in test_model test_model_decode test_model_load test_model_pass; do
      step "$name, $kind" "$name-$kind.log" env INGOT_TEST_NN=$kind "$build/tests/workers/model/$name"
    done
  done
  step "speed of passes" bench_model.log "$build/tests/bench/bench_model" --device cuda --gram
  cat "$logs/bench_model.log"
}

part_nn() {
  local tool
  cmake --build "$build" --target test_nn_cuda test_nn_training_cuda test_nn_cache_cuda bench_nn_cuda test_attention_cuda bench_attention \
    >>"$logs/build.log" 2>&1 ||
    { tail -n 30 "$logs/build.log"; exit 1; }
  step "operators, CPU against GPU" nn.log "$build/tests/gpu/test_nn_cuda"
  step "training, CPU against GPU" nn_training.log "$build/tests/gpu/test_nn_training_cuda"
  step "cached attention, CPU against GPU" nn_cache.log "$build/tests/gpu/test_nn_cache_cuda"
  step "attention" attention.log "$build/tests/gpu/test_attention_cuda"
  for tool in memcheck racecheck; do
    command -v compute-sanitizer >/dev/null || break
    # failing allocations are part of the test
    step "operators, compute-sanitizer $tool" "nn_$tool.log" \
      compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 9 "$build/tests/gpu/test_nn_cuda" --brief
    note "" "$(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$logs/nn_$tool.log" | tail -n 1)"
    step "training, compute-sanitizer $tool" "nn_training_$tool.log" \
      compute-sanitizer --tool "$tool" --error-exitcode 9 "$build/tests/gpu/test_nn_training_cuda" --brief
    note "" "$(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$logs/nn_training_$tool.log" | tail -n 1)"
    step "cached attention, compute-sanitizer $tool" "nn_cache_$tool.log" \
      compute-sanitizer --tool "$tool" --error-exitcode 9 "$build/tests/gpu/test_nn_cache_cuda" --brief
    note "" "$(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$logs/nn_cache_$tool.log" | tail -n 1)"
    step "attention, compute-sanitizer $tool" "attention_$tool.log" \
      compute-sanitizer --tool "$tool" --error-exitcode 9 "$build/tests/gpu/test_attention_cuda" --brief
    note "" "$(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$logs/attention_$tool.log" | tail -n 1)"
  done
  step "operators, speed" nn_bench.log "$build/tests/gpu/bench_nn_cuda"
  cat "$logs/nn_bench.log"
  step "attention, speed" attention_bench.log "$build/tests/gpu/bench_attention"
  cat "$logs/attention_bench.log"
}

part_linalg() {
  local width tool part
  cmake --build "$build" --target test_linalg_cuda bench_linalg >>"$logs/build.log" 2>&1 || { tail -n 30 "$logs/build.log"; exit 1; }
  step "matrices, CPU against GPU" linalg.log timeout 60 "$build/tests/gpu/test_linalg_cuda"
  for tool in memcheck racecheck; do
    command -v compute-sanitizer >/dev/null || break
    part=--brief # racecheck: the libraries' kernels are theirs to check
    [ "$tool" = memcheck ] || part=--transfers
    step "matrices, compute-sanitizer $tool" "linalg_$tool.log" timeout 60 \
      compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 9 "$build/tests/gpu/test_linalg_cuda" $part
    note "" "$(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$logs/linalg_$tool.log" | tail -n 1)"
  done
  for width in ${WIDTHS:-4096 14336}; do
    step "RegMean of 4, width $width" "linalg_$width.log" timeout 60 "$build/tests/bench/bench_linalg" "$width" 4 1 cuda
    cat "$logs/linalg_$width.log"
  done
}

part_statistics() {
  local work=${WORK:-$build/gpu-statistics}
  cmake --build "$build" --target ingot make_models >>"$logs/build.log" 2>&1 || { tail -n 30 "$logs/build.log"; exit 1; }
  step "evaluate, fisher, gram" statistics.log "$root/tests/gpu/statistics.sh" "$build" "$work" "${MILLIONS:-1100}" \
    "${WINDOWS:-1024}" "$((threads < 8 ? threads : 8))"
  cat "$logs/statistics.log"
  [ -n "${WORK:-}" ] || rm -rf "$work"
}

part_training() {
  local work=${WORK:-$build/gpu-training}
  cmake --build "$build" --target ingot make_models >>"$logs/build.log" 2>&1 || { tail -n 30 "$logs/build.log"; exit 1; }
  step "ensemble, logits, soup, distill" training.log "$root/tests/gpu/training.sh" "$build" "$work" "${MILLIONS:-1100}" \
    "${STEPS:-40}" "$((threads < 8 ? threads : 8))"
  cat "$logs/training.log"
  [ -n "${WORK:-}" ] || rm -rf "$work"
}

part_process() {
  local work=${WORK:-$build/gpu-work}
  cmake --build "$build" --target ingot make_models limit >>"$logs/build.log" 2>&1 ||
    { tail -n 30 "$logs/build.log"; exit 1; }
  mkdir -p "$work"
  step "whole process" process.log "$root/tests/gpu/process.sh" "$build" "$work" "${MILLIONS:-1100}" "$threads"
  cat "$logs/process.log"
  [ -n "${WORK:-}" ] || rm -rf "$work"
}

mkdir -p "$logs"
configure
for part in "${parts[@]}"; do
  case $part in
  test) part_test ;;
  sanitize) part_sanitize ;;
  kernels) part_kernels ;;
  nn) part_nn ;;
  models) part_models ;;
  linalg) part_linalg ;;
  statistics) part_statistics ;;
  training) part_training ;;
  process) part_process ;;
  *) echo "unknown part: $part" >&2; exit 2 ;;
  esac
done
printf '\n'
printf '%s\n' "${table[@]}"
exit $failed
