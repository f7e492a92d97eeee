/*
 * Bandwidth of every method's kernels on large bfloat16 arrays (statistics in float32) beside the card's own copy, and
 * what a process pays before its first kernel. Bytes are those that must move: every input read once, the output
 * written once.
 *
 *   bench_gpu [MILLION_ELEMENTS]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <thread>
#include <vector>

#include <cuda_runtime.h>

#include "base/clock.h"
#include "kernels/device.h"
#include "kernels/vector.cuh"
#include "tests/kernels/run_method.h"

static const int N_REPEAT = 15, N_MODEL = 4, N_INPUT = 2 * N_MODEL + 1;

static void must(cudaError_t error, const char *what)
{
  if (error == cudaSuccess) return;
  fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  exit(1);
}

static void must(ingot_status st)
{
  if (st == INGOT_OK) return;
  fprintf(stderr, "%s\n", ingot_error_message());
  exit(1);
}

/* Median seconds of an enqueued piece of work. */
template <typename Work> static double median_s(cudaStream_t stream, Work work)
{
  cudaEvent_t         begin, end;
  std::vector<double> times;
  must(cudaEventCreate(&begin), "event");
  must(cudaEventCreate(&end), "event");
  for (int i = 0; i < N_REPEAT + 3; i++) {
    float ms = 0;
    must(cudaEventRecord(begin, stream), "record");
    work();
    must(cudaEventRecord(end, stream), "record");
    must(cudaEventSynchronize(end), "wait");
    must(cudaEventElapsedTime(&ms, begin, end), "elapsed");
    if (i >= 3) times.push_back(ms / 1e3);
  }
  must(cudaEventDestroy(begin), "event");
  must(cudaEventDestroy(end), "event");
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

static __global__ void scale_add_kernel(float4 *y, const float4 *x, int64_t n, float a, float b)
{
  int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float4 u = x[i], v = y[i];
  y[i] = make_float4(a * u.x + b * v.x, a * u.y + b * v.y, a * u.z + b * v.z, a * u.w + b * v.w);
}

/* base + a step that depends on the model; a quarter of the elements equal the base. */
static __global__ void fill_kernel(uint16_t *out, int64_t n, uint32_t input)
{
  int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    uint32_t word[4];
    ingot_philox4x32(1234, static_cast<uint64_t>(i), word);
    float v = static_cast<float>(static_cast<int32_t>(word[0])) * 0x1p-36f;
    ingot_philox4x32(1234 + input, static_cast<uint64_t>(i), word);
    if (input > 0 && word[0] >> 30 != 0) v += static_cast<float>(static_cast<int32_t>(word[1])) * 0x1p-40f;
    out[i] = ingot_bf16_from_f32(v);
  }
}

/* Squares, as Fisher information is. */
static __global__ void fill_statistic_kernel(float *out, int64_t n, uint32_t input)
{
  int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    uint32_t word[4];
    ingot_philox4x32(4321 + input, static_cast<uint64_t>(i), word);
    float g = static_cast<float>(word[0] >> 8) * 0x1p-24f;
    out[i] = g * g;
  }
}

/* The card's own speed, bytes read and written a second. */
static double copy_bandwidth(cudaStream_t stream)
{
  const size_t  bytes = size_t(1) << 30;
  const int64_t n = static_cast<int64_t>(bytes / sizeof(float4));
  float4       *x = nullptr, *y = nullptr;
  must(cudaMalloc(&x, bytes), "cudaMalloc");
  must(cudaMalloc(&y, bytes), "cudaMalloc");
  fill_kernel<<<4096, 256, 0, stream>>>(reinterpret_cast<uint16_t *>(x), static_cast<int64_t>(bytes / 2), 0);
  fill_kernel<<<4096, 256, 0, stream>>>(reinterpret_cast<uint16_t *>(y), static_cast<int64_t>(bytes / 2), 1);
  double scale_s = median_s(stream, [&] {
    scale_add_kernel<<<static_cast<unsigned>((n + 255) / 256), 256, 0, stream>>>(y, x, n, 0.5f, 0.25f);
  });
  double copy_s =
      median_s(stream, [&] { must(cudaMemcpyAsync(y, x, bytes, cudaMemcpyDeviceToDevice, stream), "copy"); });
  must(cudaGetLastError(), "copy kernels");
  must(cudaFree(x), "free");
  must(cudaFree(y), "free");
  printf("%-44s %8.0f GB/s\n", "y = a x + b y, 1 GiB float32 arrays", 3.0 * static_cast<double>(bytes) / scale_s / 1e9);
  printf("%-44s %8.0f GB/s\n", "device-to-device copy of 1 GiB", 2.0 * static_cast<double>(bytes) / copy_s / 1e9);
  return 3.0 * static_cast<double>(bytes) / scale_s;
}

struct bench {
  cudaStream_t        stream;
  int64_t             n;
  double              limit;                      /* bytes a second */
  uint16_t           *weights[N_MODEL + 1], *out; /* base first */
  float              *statistics[N_MODEL];
  ingot_dtype         in_dtype[N_INPUT];
  ingot_method_tensor view;
  const ingot_method *method;
  std::vector<char>   state;
  std::vector<double> global, per_model;
  void               *workspace, *slots, *counts;
  int64_t            *sums;
};

/* Bytes an element of all inputs. */
static int input_bytes(const bench *b)
{
  int bytes = 0;
  for (int i = 0; i < b->view.n_input; i++) bytes += static_cast<int>(ingot_dtype_size(b->in_dtype[i]));
  return bytes;
}

static void report(const bench *b, const char *what, int bytes, double seconds)
{
  double rate = static_cast<double>(bytes) * static_cast<double>(b->n) / seconds;
  printf("%-44s %8.0f GB/s  %5.2f of copy  %7.3f ms\n", what, rate / 1e9, rate / b->limit, seconds * 1e3);
}

/* Enqueue work over the whole tensor in pieces of `chunk` elements. */
template <typename Work> static void over_chunks(bench *b, int64_t chunk, Work work)
{
  for (int64_t first = 0; first < b->n; first += chunk) {
    const void        *at[N_INPUT];
    ingot_device_chunk c = {};
    int                n_weight = b->view.n_input - b->view.n_statistic;
    for (int i = 0; i < n_weight; i++) at[i] = b->weights[i] + first;
    for (int i = 0; i < b->view.n_statistic; i++) at[n_weight + i] = b->statistics[i] + first;
    c.first = first;
    c.n = std::min(chunk, b->n - first);
    c.in = at;
    c.in_dtype = b->in_dtype;
    c.out = b->out + first;
    c.out_dtype = INGOT_DTYPE_BF16;
    c.nonfinite = INGOT_NONFINITE_FAIL;
    c.n_nonfinite = static_cast<uint64_t *>(b->counts);
    c.workspace = b->workspace;
    c.stream = b->stream;
    work(c);
  }
}

static void run_passes(bench *b, const char *label)
{
  ingot_scan_plan plan = {};
  must(b->method->device->next(&b->view, b->state.data(), nullptr, &plan));
  while (plan.pass != INGOT_SCAN_DONE) {
    ingot_scan_plan done = plan;
    int64_t         n_slot = plan.tiles != nullptr ? plan.n_tiles : ingot_tile_count(b->n);
    auto            slots = std::vector<char>(static_cast<size_t>(n_slot) * plan.slot_bytes + 1);
    auto            sums = std::vector<int64_t>(static_cast<size_t>(plan.n_sum) + 1);
    char            what[96];
    auto            pass = [&] {
      int64_t k = 0;
      must(cudaMemsetAsync(b->slots, 0, slots.size(), b->stream), "memset");
      must(cudaMemsetAsync(b->sums, 0, sums.size() * sizeof(int64_t), b->stream), "memset");
      over_chunks(b, INGOT_TILE, [&](const ingot_device_chunk &c) {
        bool listed = plan.tiles == nullptr || std::find(plan.tiles, plan.tiles + plan.n_tiles, c.first / INGOT_TILE) !=
                                                   plan.tiles + plan.n_tiles;
        if (!listed) return;
        must(b->method->device->scan(&b->view, b->state.data(), &plan, &c,
                                                static_cast<char *>(b->slots) + static_cast<size_t>(k++) * plan.slot_bytes,
                                                b->sums));
      });
    };
    double seconds = median_s(b->stream, pass);
    snprintf(what, sizeof what, "%s, pass %d%s", label, plan.pass, plan.tiles != nullptr ? " (chosen tiles)" : "");
    report(b, what, input_bytes(b), seconds);
    must(cudaMemcpy(slots.data(), b->slots, slots.size(), cudaMemcpyDeviceToHost), "copy");
    must(cudaMemcpy(sums.data(), b->sums, sums.size() * sizeof(int64_t), cudaMemcpyDeviceToHost), "copy");
    ingot_scan_result result = {&done, n_slot, slots.data(), sums.data()};
    must(b->method->device->next(&b->view, b->state.data(), &result, &plan));
  }
}

static void bench_method(bench *b, const char *name, int n_model, const char *parameters)
{
  char label[64], what[96];
  b->method = ingot_method_find(name);
  if (b->method == nullptr || b->method->device == nullptr) {
    printf("%s: no GPU side\n", name);
    return;
  }
  b->global.assign(64, 0);
  b->per_model.assign(64, 0);
  must(run_parameters(b->method, n_model, parameters, b->global.data(), b->per_model.data()));
  b->view = {};
  b->view.name = "weight";
  b->view.key = 99;
  b->view.shape.n_dim = 1;
  b->view.shape.dim[0] = b->n;
  b->view.n_elem = b->n;
  b->view.has_base = b->method->base != INGOT_BASE_UNUSED;
  b->view.n_model = n_model;
  b->view.n_statistic = b->method->needs & INGOT_NEED_FISHER ? n_model : 0;
  b->view.n_input = n_model + b->view.has_base + b->view.n_statistic;
  for (int i = 0; i < b->view.n_input; i++)
    b->in_dtype[i] = i < b->view.n_input - b->view.n_statistic ? INGOT_DTYPE_BF16 : INGOT_DTYPE_F32;
  b->view.global = b->global.data();
  b->view.per_model = b->per_model.data();
  b->state.assign(b->method->state_bytes(&b->view) + 1, 0);
  must(b->method->begin(&b->view, b->state.data()));
  b->workspace = nullptr;
  if (b->method->device->workspace_bytes != nullptr)
    must(ingot_device_alloc(b->method->device->workspace_bytes(&b->view), &b->workspace));
  snprintf(label, sizeof label, "%s of %d", name, n_model);
  if (b->method->grain(&b->view) == INGOT_GRAIN_TENSOR) run_passes(b, label);
  auto apply = [&](const ingot_device_chunk &c) { must(b->method->device->apply(&b->view, b->state.data(), &c)); };
  report(b, label, input_bytes(b) + 2, median_s(b->stream, [&] { over_chunks(b, b->n, apply); }));
  snprintf(what, sizeof what, "%s, a launch a tile", label);
  report(b, what, input_bytes(b) + 2, median_s(b->stream, [&] { over_chunks(b, INGOT_TILE, apply); }));
  ingot_device_free(b->workspace);
}

/* What a process pays before its first kernel. */
static void bench_startup(void)
{
  const size_t lane_bytes = size_t(21) << 20;
  const int    n_lane = 16;
  double       t0 = ingot_clock_s();
  int          count = ingot_device_count();
  double       t1 = ingot_clock_s();
  if (count == 0) {
    fprintf(stderr, "no usable GPU\n");
    exit(77);
  }
  must(ingot_device_use(0));
  must(cudaFree(nullptr), "cudaFree");
  double t2 = ingot_clock_s();
  printf("%-44s %8.0f ms\n", "device count (driver start)", (t1 - t0) * 1e3);
  printf("%-44s %8.0f ms\n", "context", (t2 - t1) * 1e3);
  auto pinned = [&](bool parallel) {
    std::vector<void *>      block(static_cast<size_t>(n_lane));
    std::vector<std::thread> thread;
    double                   begin = ingot_clock_s();
    for (auto &p : block) {
      auto allocate = [&p, lane_bytes] {
        must(ingot_device_use(0));
        must(ingot_device_pinned_alloc(lane_bytes, &p));
      };
      if (parallel) thread.emplace_back(allocate);
      else allocate();
    }
    for (auto &t : thread) t.join();
    double end = ingot_clock_s();
    for (auto &p : block) ingot_device_pinned_free(p);
    return end - begin;
  };
  printf("%-44s %8.0f ms\n", "page-locked memory, 16 x 21 MiB, in turn", pinned(false) * 1e3);
  printf("%-44s %8.0f ms\n", "page-locked memory, 16 x 21 MiB, 16 threads", pinned(true) * 1e3);
  void  *device = nullptr;
  double t3 = ingot_clock_s();
  must(ingot_device_alloc(size_t(8) << 30, &device));
  printf("%-44s %8.0f ms\n", "device memory, 8 GiB at once", (ingot_clock_s() - t3) * 1e3);
  ingot_device_free(device);
}

int main(int argc, char **argv)
{
  bench b = {};
  b.n = (argc > 1 ? atoll(argv[1]) : 64) << 20;
  bench_startup();
  char   name[128];
  size_t total_bytes = 0, free_bytes = 0;
  must(ingot_device_info(0, name, &total_bytes, &free_bytes));
  printf("%s, %lld Mi elements, bfloat16 in and out\n", name, static_cast<long long>(b.n >> 20));
  must(cudaStreamCreateWithFlags(&b.stream, cudaStreamNonBlocking), "stream");
  b.limit = copy_bandwidth(b.stream);
  for (uint32_t i = 0; i <= N_MODEL; i++) {
    must(cudaMalloc(&b.weights[i], static_cast<size_t>(b.n) * 2), "cudaMalloc");
    fill_kernel<<<4096, 256, 0, b.stream>>>(b.weights[i], b.n, i);
  }
  for (uint32_t i = 0; i < N_MODEL; i++) {
    must(cudaMalloc(&b.statistics[i], static_cast<size_t>(b.n) * 4), "cudaMalloc");
    fill_statistic_kernel<<<4096, 256, 0, b.stream>>>(b.statistics[i], b.n, i);
  }
  must(cudaMalloc(&b.out, static_cast<size_t>(b.n) * 2), "cudaMalloc");
  must(cudaMalloc(&b.slots, size_t(64) << 20), "cudaMalloc");
  must(cudaMalloc(&b.sums, size_t(1) << 20), "cudaMalloc");
  must(cudaMalloc(&b.counts, 4096), "cudaMalloc");
  must(cudaMemset(b.counts, 0, 4096), "memset");
  must(cudaStreamSynchronize(b.stream), "fill");
  bench_method(&b, "linear", 4, "weight=1");
  bench_method(&b, "linear", 3, "weight=1");
  bench_method(&b, "task_arithmetic", 4, "weight=0.4");
  bench_method(&b, "dare_linear", 4, "weight=0.5 density=0.5 rescale=inv_density");
  bench_method(&b, "dare_ties", 4, "weight=0.5 density=0.5 rescale=inv_density");
  bench_method(&b, "dare_linear", 4, "weight=0.5 density=0.5 rescale=l1");
  bench_method(&b, "ties", 3, "weight=1 density=0.2");
  bench_method(&b, "slerp", 1, "t=0.3");
  bench_method(&b, "fisher", 4, "weight=1");
  must(cudaDeviceSynchronize(), "end");
  return 0;
}
