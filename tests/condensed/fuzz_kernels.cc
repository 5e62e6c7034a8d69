// Runs the kernels, with vectors of FUZZ_WIDTH floats, on random problems and compares
// them with the plain formula. Built and run by test_native.py under sanitizers, which
// see any access beyond the arrays, which are allocated to the byte, and any race between
// the threads that share a call.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#define SRIGL_WIDTH FUZZ_WIDTH
#define SRIGL_SET fuzz
#define SRIGL_NAME "fuzz"
#include "kernels_impl.h"

#include "arrange.h"
#include "run.h"
#include "work.h"

namespace srigl {
const Kernels& plain_kernels() { return fuzz::kKernels; }
const Kernels& avx2_kernels() { return fuzz::kKernels; }
const Kernels& avx512_kernels() { return fuzz::kKernels; }
}  // namespace srigl

namespace {

using srigl::Problem;
using srigl::Status;

std::mt19937 generator(0);

int64_t draw(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(generator);
}
float draw_float() { return std::uniform_real_distribution<float>(-1, 1)(generator); }

template <typename T>
std::vector<T> exactly(std::vector<T> v) {
  v.shrink_to_fit();
  return v;
}

std::vector<float> floats(int64_t count) {
  std::vector<float> v(count);
  for (float& f : v) f = draw_float();
  return exactly(v);
}

std::vector<std::thread> helpers;

// On real threads, which may still look for tasks when the call has returned. Now and then
// there are fewer of them than the call asks for.
srigl::ParallelFor on_threads(int64_t threads) {
  return [threads](int64_t count, const std::function<void(int64_t)>& task) {
    srigl::share(count, task, threads, [](auto help) {
      if (draw(0, 9) == 0) throw std::runtime_error("no thread is left");
      helpers.emplace_back(help);
    });
  };
}

void join_helpers() {
  for (std::thread& helper : helpers) helper.join();
  helpers.clear();
}

void fail(const char* what, int64_t problem) {
  std::printf("problem %ld: %s\n", static_cast<long>(problem), what);
  std::exit(1);
}

std::vector<float> expected(const Problem& p, const std::vector<int32_t>& indices) {
  std::vector<float> y(p.positions() * p.neurons);
  for (int64_t position = 0; position < p.positions(); ++position) {
    for (int64_t n = 0; n < p.neurons; ++n)
      y[position * p.neurons + n] = p.bias ? p.bias[n] : 0;
    const int64_t column = position % p.out_width;
    const int64_t row = position / p.out_width % p.out_height;
    const int64_t image = position / p.out_width / p.out_height;
    for (int64_t i = 0; i < p.active_count; ++i)
      for (int64_t j = 0; j < p.k; ++j) {
        const int64_t index = indices[i * p.k + j], group_channels = p.channels / p.groups;
        const int64_t c = index % group_channels;
        const int64_t w = index / group_channels % p.kernel_width +
                          column * p.stride_width - p.pad_left;
        const int64_t h = index / group_channels / p.kernel_width +
                          row * p.stride_height - p.pad_top;
        if (h < 0 || h >= p.height || w < 0 || w >= p.width) continue;
        const int64_t group = p.active[i] / (p.neurons / p.groups);
        y[position * p.neurons + p.active[i]] +=
            p.values[i * p.k + j] *
            p.x[((image * p.height + h) * p.width + w) * p.channels +
                group * group_channels + c];
      }
  }
  return y;
}

void compare(const std::vector<float>& y, const std::vector<float>& want, int64_t problem) {
  for (size_t i = 0; i < y.size(); ++i)
    if (!(std::abs(y[i] - want[i]) < 1e-3f)) fail("a wrong result", problem);
}

void check(int64_t problem) {
  Problem p = {};
  const bool is_matmul = draw(0, 1);
  p.groups = is_matmul ? 1 : draw(0, 2) ? 1 : draw(1, 4);
  // Some batches large enough for a tile for every thread.
  p.batch = draw(0, is_matmul ? (draw(0, 3) ? 80 : 900) : 3);
  const bool is_depthwise = !is_matmul && draw(0, 3) == 0;
  const bool is_wide = draw(0, 19) == 0;
  const int64_t group_channels =
      is_depthwise ? 1 : draw(1, is_wide ? 7000 : is_matmul ? 150 : 20);
  if (is_depthwise) p.groups = draw(2, 40);
  p.channels = p.groups * group_channels;
  p.neurons = p.groups * (is_depthwise ? 1 : draw(1, 40));
  p.height = is_matmul ? 1 : draw(1, 9);
  p.width = is_matmul ? 1 : draw(1, 9);
  p.kernel_height = is_matmul ? 1 : draw(1, 3);
  p.kernel_width = is_matmul ? 1 : draw(1, 3);
  p.stride_height = is_matmul ? 1 : draw(1, 3);
  p.stride_width = is_matmul ? 1 : draw(1, 3);
  p.pad_top = is_matmul ? 0 : draw(0, 2);
  p.pad_left = is_matmul ? 0 : draw(0, 2);
  p.out_height = is_matmul ? 1 : draw(0, 9);
  p.out_width = is_matmul ? 1 : draw(0, 9);
  p.k = draw(0, p.fan_in());

  std::vector<int32_t> active;
  const int64_t share = draw(0, 3);
  for (int64_t n = 0; n < p.neurons; ++n)
    if (draw(0, 2) < share) active.push_back(n);
  active = exactly(active);
  p.active_count = active.size();
  p.active = active.data();
  std::vector<int32_t> wide(p.active_count * p.k);
  std::vector<bool> taken;
  for (int64_t i = 0; i < p.active_count; ++i) {
    // Selection sampling: k of the inputs, ascending.
    int64_t left = p.k;
    for (int64_t c = 0; left > 0; ++c)
      if (draw(0, p.fan_in() - c - 1) < left) wide[i * p.k + p.k - left--] = c;
  }
  wide = exactly(wide);
  const auto narrow = exactly(std::vector<uint16_t>(wide.begin(), wide.end()));
  const auto x = floats(p.batch * p.height * p.width * p.channels);
  const auto values = floats(p.active_count * p.k), bias = floats(p.neurons);
  std::vector<float> y(p.positions() * p.neurons, NAN);
  p.x = x.data();
  p.values = values.data();
  p.bias = draw(0, 1) ? bias.data() : nullptr;
  p.y = y.data();
  const int64_t threads = draw(1, 4);
  const auto parallel_for = on_threads(threads);

  const auto want = expected(p, wide);
  for (int bytes : {2, 4}) {
    std::fill(y.begin(), y.end(), NAN);
    p.index_bytes = bytes;
    p.indices = bytes == 2 ? static_cast<const void*>(narrow.data()) : wide.data();
    if (run(p, srigl::fuzz::kKernels, threads, parallel_for) != Status::kOk)
      fail("a good problem was refused", problem);
    compare(y, want, problem);
  }

  if (!wide.empty() && p.positions() > 0) {
    for (int64_t bad : {p.fan_in(), int64_t{INT32_MAX}, int64_t{-1}, int64_t{INT32_MIN}}) {
      auto damaged = wide;
      damaged[draw(0, wide.size() - 1)] = bad;
      p.indices = damaged.data();
      if (run(p, srigl::fuzz::kKernels, threads, parallel_for) != Status::kBadIndex)
        fail("a bad index was accepted", problem);
    }
    auto damaged = active;
    damaged[draw(0, active.size() - 1)] = draw(0, 1) ? -1 : p.neurons;
    p.indices = wide.data();
    p.active = damaged.data();
    if (run(p, srigl::fuzz::kKernels, threads, parallel_for) != Status::kBadActive)
      fail("a bad neuron was accepted", problem);
    p.active = active.data();
  }

  if (!is_matmul) return;
  const auto& kernels = srigl::fuzz::kKernels;
  auto a = srigl::arrange(values.data(), wide.data(), active.data(), p.active_count, p.k,
                          p.fan_in(), kernels.width, kernels.window, draw(1, kernels.most));
  std::fill(y.begin(), y.end(), NAN);
  const auto attempt = [&] {
    std::vector<uint32_t> packed(a.packed_size());
    a.pack(packed.data());
    auto w = srigl::unpacked(packed.data(), a.blocks(), a.groups(), a.lanes);
    w.x = x.data();
    w.y = y.data();
    w.bias = p.bias;
    w.batch = p.batch;
    w.fan_in = p.channels;
    w.outputs = p.neurons;
    return run(w, kernels, threads, parallel_for);
  };
  if (attempt() != Status::kOk) fail("a good arrangement was refused", problem);
  compare(y, want, problem);
  // Surplus bits of an offset are ignored: wrong numbers, but no access out of bounds.
  for (uint32_t& offset : a.offsets) offset |= 0xC0C0C0C0;
  attempt();
  if (a.blocks() == 0) return;
  for (auto* field : {&a.bases, &a.starts, &a.neurons})
    for (int32_t bad : {INT32_MIN, -2, INT32_MAX}) {
      int32_t& victim = (*field)[draw(0, field->size() - 1)];
      const int32_t kept = victim;
      victim = bad;
      if (attempt() != Status::kBadWindows) fail("a bad arrangement was accepted", problem);
      victim = kept;
    }
}

// Every task of a call is run once, also by calls that follow at once.
void check_sharing(int64_t problem) {
  for (int call = 0; call < 4; ++call) {
    const int64_t count = draw(0, 200);
    std::vector<int> runs(count);
    on_threads(draw(1, 4))(count, [&](int64_t i) { ++runs[i]; });
    for (int n : runs)
      if (n != 1) fail("a task was not run once", problem);
  }
}

}  // namespace

int main(int, char** arguments) {
  const int64_t problems = std::atoll(arguments[1]);
  for (int64_t problem = 0; problem < problems; ++problem) {
    check(problem);
    check_sharing(problem);
    join_helpers();
  }
  std::printf("%ld problems\n", static_cast<long>(problems));
}
