#include "run.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace srigl {
namespace {

// Multiplications that take a thread about ten microseconds, which is what it takes to
// wake another one; writing an output or packing an input counts as a few.
constexpr int64_t kSingleWork = 30'000;
constexpr int64_t kWindowsWork = 90'000;
constexpr int64_t kTileWork = 300'000;
constexpr int64_t kMoveWork = 4;
// Threads wake late: several tasks for each, so that those awake can go on.
constexpr int64_t kTasksPerThread = 6;
// Packed inputs of a tile, in bytes, up to which it has four vectors of positions, and up
// to which two.
constexpr int64_t kNearBytes = 160 * 1024;
constexpr int64_t kFarBytes = 384 * 1024;
// The room that a call may ask for at a time, and the room that a thread keeps after it,
// in bytes. A layer that needs more is a damaged one: systems that promise memory which
// they do not have would otherwise kill the process.
constexpr int64_t kMostBytes = int64_t{4} << 30;
constexpr int64_t kKeptBytes = int64_t{16} << 20;

// Into how many tasks it is worth splitting `work`, of which `unit` takes as long as waking
// a thread. Sizes of any file are multiplied here: no integer would hold all of them.
int64_t tasks_for(double work, double unit, int64_t threads) {
  if (threads == 1 || work < 2 * unit) return 1;
  return std::min<double>(2 * work / unit, kTasksPerThread * threads);
}

bool active_is_valid(const Problem& p) {
  int64_t last = -1;
  for (int64_t i = 0; i < p.active_count; ++i) {
    if (p.active[i] <= last || p.active[i] >= p.neurons) return false;
    last = p.active[i];
  }
  return true;
}

// Large outputs lie in memory that has just been given to XLA: handing it out in pages of
// 4 KiB takes the system longer than filling it takes the kernels.
void ask_for_large_pages(float* y, int64_t floats) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t kLarge = 2 << 20;
  const uintptr_t address = reinterpret_cast<uintptr_t>(y);
  const uintptr_t begin = (address + kLarge - 1) / kLarge * kLarge;
  const uintptr_t end = (address + floats * sizeof(float)) / kLarge * kLarge;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// Splits the active neurons of every group into chunks of `size`, all outputs covered.
std::vector<Chunk> make_chunks(const Problem& p, int64_t size) {
  std::vector<Chunk> chunks;
  for (int64_t group = 0; group < p.groups; ++group) {
    const int64_t first = group * p.group_neurons(), last = first + p.group_neurons();
    const int32_t* end = p.active + p.active_count;
    const int64_t low = std::lower_bound(p.active, end, first) - p.active;
    const int64_t high = std::lower_bound(p.active, end, last) - p.active;
    int64_t begin = low;
    do {
      const int64_t stop = std::min(high, begin + size);
      const int64_t from = begin == low ? first : p.active[begin];
      const int64_t to = stop == high ? last : p.active[stop];
      chunks.push_back({begin, stop, group, from, to});
      begin = stop;
    } while (begin < high);
  }
  return chunks;
}

// Which inputs a thread has packed.
struct Packed {
  int64_t call = 0, tile = 0, group = 0;

  bool operator==(const Packed& other) const {
    return call == other.call && tile == other.tile && group == other.group;
  }
};

struct Free {
  void operator()(float* p) const { std::free(p); }
};

// Room for packed inputs, kept by each thread up to kKeptBytes and aligned to cache lines:
// a vector that crosses one costs two loads.
struct Scratch {
  std::unique_ptr<float, Free> buffer;
  int64_t size = 0;
  Packed packed;

  float* floats() { return buffer.get(); }
};

Scratch& scratch_of(int64_t floats) {
  thread_local Scratch scratch;
  if (floats > scratch.size) {
    const int64_t bytes = (floats * 4 + 63) / 64 * 64;
    scratch.buffer.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    scratch.size = scratch.buffer ? bytes / 4 : 0;
    scratch.packed = {};
  }
  return scratch;
}

Status run_single(const Problem& p, const Kernels& kernels, int64_t threads,
                  const ParallelFor& parallel_for) {
  const double work = static_cast<double>(p.active_count) * p.k;
  const int64_t tasks = tasks_for(work, kSingleWork, threads);
  const auto chunks = make_chunks(p, (p.active_count + tasks - 1) / tasks);
  std::atomic<bool> ok{true};
  parallel_for(chunks.size(), [&](int64_t task) {
    if (!kernels.single(p, chunks[task])) ok = false;
  });
  return ok ? Status::kOk : Status::kBadIndex;
}

Status run_depthwise(const Problem& p, const Kernels& kernels, int64_t threads,
                     const ParallelFor& parallel_for) {
  const int64_t taps_count = p.fan_in();
  if (taps_count > kMostBytes / 4 / p.neurons) return Status::kNoMemory;
  std::vector<float> taps(taps_count * p.neurons, 0.0f);
  for (int64_t i = 0; i < p.active_count; ++i)
    for (int64_t j = 0; j < p.k; ++j) {
      const int64_t at = i * p.k + j;
      const int64_t tap = p.index_bytes == 2
                              ? static_cast<const uint16_t*>(p.indices)[at]
                              : static_cast<const uint32_t*>(p.indices)[at];
      if (tap >= taps_count) return Status::kBadIndex;
      taps[tap * p.neurons + p.active[i]] += p.values[at];
    }
  const int64_t rows = p.batch * p.out_height;
  const double outputs = static_cast<double>(p.positions()) * p.neurons;
  const double work = outputs * (taps_count + kMoveWork);
  const int64_t tasks = std::min(rows, tasks_for(work, kTileWork, threads));
  parallel_for(tasks, [&](int64_t task) {
    kernels.depthwise(p, taps.data(), rows * task / tasks, rows * (task + 1) / tasks);
  });
  return Status::kOk;
}

// Vectors of positions in a whole tile; the last one may have fewer. Two keep the
// latency of multiply-add hidden and the packed inputs, which are read in any order, in
// a core's second level of cache; four are faster where they nearly fit the first.
int tile_vectors(const Problem& p, int64_t width) {
  const int64_t bytes = p.fan_in() * width * 4;
  return 4 * bytes <= kNearBytes ? 4 : 2 * bytes <= kFarBytes ? 2 : 1;
}

// Each thread packs the inputs of the tiles that it works on: to wait for each other's, and
// to fetch them from another core's cache, would cost more.
Status run_tiles(const Problem& p, const Kernels& kernels, int64_t threads,
                 const ParallelFor& parallel_for) {
  const int64_t width = kernels.width, positions = p.positions();
  if (p.fan_in() > kMostBytes / 4 / width) return Status::kNoMemory;
  const int64_t needed = (positions + width - 1) / width;
  const int64_t lanes = std::min<int64_t>(tile_vectors(p, width), needed) * width;
  const int64_t input_floats = p.fan_in() * lanes;
  const auto chunks = make_chunks(p, kTileNeurons);
  // Pieces of work are chunks of neurons at tiles of positions, all of a tile together.
  const int64_t count = chunks.size();
  const int64_t tiles = (positions + lanes - 1) / lanes, pieces = tiles * count;
  const double moved = static_cast<double>(p.groups) * p.fan_in() + p.neurons;
  const double weights = static_cast<double>(p.active_count) * p.k;
  const double work = needed * width * (weights + kMoveWork * moved);
  const int64_t tasks = std::min(pieces, tasks_for(work, kTileWork, threads));
  const std::vector<float> zeros(p.group_channels(), 0.0f);
  // Tells the packed inputs of this call from what an earlier one has left.
  static std::atomic<int64_t> calls{0};
  const int64_t call = ++calls;
  std::vector<std::atomic<bool>> is_checked(count);
  std::atomic<bool> ok{true}, has_room{true};
  parallel_for(tasks, [&](int64_t task) {
    Scratch& scratch = scratch_of(input_floats + kTileNeurons * lanes);
    float* inputs = scratch.floats();
    if (!inputs) {
      has_room = false;
      return;
    }
    for (int64_t i = pieces * task / tasks; i < pieces * (task + 1) / tasks; ++i) {
      const int64_t tile = i / count, begin = tile * lanes;
      const int64_t size = std::min(lanes, positions - begin);
      const int vectors = (size + width - 1) / width;
      const Chunk& chunk = chunks[i % count];
      if (!is_checked[i % count]) {
        if (!kernels.check(p, chunk)) ok = false;
        if (!ok) return;
        is_checked[i % count] = true;
      }
      const Packed wanted = {call, tile, chunk.group};
      if (!(scratch.packed == wanted)) {
        for (int64_t first = 0; first < size; first += width)
          kernels.pack(p, chunk.group, begin + first, std::min(width, size - first),
                       vectors * width, zeros.data(), inputs + first);
        scratch.packed = wanted;
      }
      kernels.tile(p, chunk, begin, size, vectors, inputs, inputs + input_floats);
    }
    if (scratch.size * 4 > kKeptBytes) scratch = {};
  });
  if (!has_room) return Status::kNoMemory;
  return ok ? Status::kOk : Status::kBadIndex;
}

}  // namespace

Status run(const Windows& w, const Kernels& kernels, int64_t threads,
           const ParallelFor& parallel_for) {
  std::vector<float> padded;
  Windows here = w;
  const int64_t whole = (w.fan_in + kernels.width - 1) / kernels.width * kernels.width;
  here.fan_in = std::max(whole, kernels.window);
  if (here.fan_in > w.fan_in) {
    padded.resize(w.batch * here.fan_in);
    for (int64_t b = 0; b < w.batch; ++b)
      std::copy_n(w.x + b * w.fan_in, w.fan_in, &padded[b * here.fan_in]);
    here.x = padded.data();
  }
  // Inactive neurons are in no group.
  for (int64_t b = 0; b < w.batch; ++b)
    for (int64_t n = 0; n < w.outputs; ++n)
      w.y[b * w.outputs + n] = w.bias ? w.bias[n] : 0.0f;
  const double work = static_cast<double>(w.batch) * w.blocks * kSteps * w.lanes;
  const int64_t tasks = std::min(w.groups, tasks_for(work, kWindowsWork, threads));
  std::atomic<bool> ok{true};
  parallel_for(tasks, [&](int64_t task) {
    if (!kernels.windows(here, w.groups * task / tasks, w.groups * (task + 1) / tasks))
      ok = false;
  });
  return ok ? Status::kOk : Status::kBadWindows;
}

Status run(const Problem& p, const Kernels& kernels, int64_t threads,
           const ParallelFor& parallel_for) {
  if (!active_is_valid(p)) return Status::kBadActive;
  if (p.positions() == 0 || p.neurons == 0) return Status::kOk;
  if (p.is_single()) return run_single(p, kernels, threads, parallel_for);
  ask_for_large_pages(p.y, p.positions() * p.neurons);
  if (p.groups == p.channels && p.neurons == p.channels && p.groups > 1)
    return run_depthwise(p, kernels, threads, parallel_for);
  return run_tiles(p, kernels, threads, parallel_for);
}

const Kernels* kernels_for_width(int64_t width) {
  for (const char* name : {"avx512", "avx2", "plain"})
    if (const Kernels* kernels = kernels_for(name); kernels && kernels->width == width)
      return kernels;
  return nullptr;
}

const Kernels* kernels_for(const char* name) {
  const auto is = [&](const Kernels& kernels) {
    for (const char *a = name, *b = kernels.name;; ++a, ++b)
      if (*a != *b) return false;
      else if (!*a) return true;
  };
#if defined(__x86_64__)
  const bool any = !name || !*name;
  if ((any || is(avx512_kernels())) && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq"))
    return &avx512_kernels();
  if ((any || is(avx2_kernels())) && __builtin_cpu_supports("avx2") &&
      __builtin_cpu_supports("fma"))
    return &avx2_kernels();
#else
  const bool any = !name || !*name;
#endif
  return any || is(plain_kernels()) ? &plain_kernels() : nullptr;
}

}  // namespace srigl
