#include "arrange.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace srigl {
namespace {

// Lanes advance together, and the one that is behind holds the window back: neurons
// whose j-th inputs lie close together for all j belong into one group. Each group is
// the neurons of `left` nearest to the first one left.
void group_neighbours(const int32_t* indices, std::vector<int32_t> left, int64_t k,
                      int64_t lanes, std::vector<int32_t>& order) {
  std::vector<std::pair<double, int32_t>> distances;
  while (!left.empty()) {
    const int32_t* first = indices + left[0] * k;
    distances.clear();
    for (int32_t row : left) {
      const int32_t* other = indices + row * k;
      float distance = 0;
      for (int64_t j = 0; j < k; ++j) {
        const float difference = first[j] - other[j];
        distance += difference * difference;
      }
      // The seed itself, even among its equals.
      distances.push_back({row == left[0] ? -1.0 : distance, row});
    }
    const int64_t count = std::min<int64_t>(lanes, distances.size());
    std::partial_sort(distances.begin(), distances.begin() + count, distances.end());
    std::vector<int32_t> rest;
    for (int64_t i = 0; i < static_cast<int64_t>(distances.size()); ++i)
      (i < count ? order : rest).push_back(distances[i].second);
    std::sort(rest.begin(), rest.end());
    left.swap(rest);
  }
}

// Neurons that are compared with each other: time is quadratic in them.
constexpr int64_t kBlock = 2048;

// All neurons in groups. Those of a large layer are sorted by the mean of their inputs, in
// which neighbours agree, and grouped block by block.
std::vector<int32_t> group_all(const int32_t* indices, int64_t active_count, int64_t k,
                               int64_t lanes) {
  std::vector<int32_t> rows(active_count), order;
  std::iota(rows.begin(), rows.end(), 0);
  if (active_count > kBlock) {
    std::vector<int64_t> sums(active_count);
    for (int64_t row = 0; row < active_count; ++row)
      sums[row] = std::accumulate(indices + row * k, indices + (row + 1) * k, int64_t{0});
    std::stable_sort(rows.begin(), rows.end(),
                     [&](int32_t a, int32_t b) { return sums[a] < sums[b]; });
  }
  for (int64_t begin = 0; begin < active_count; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, active_count);
    group_neighbours(indices, {rows.begin() + begin, rows.begin() + end}, k, lanes, order);
  }
  return order;
}

// The weights of a row: where its indices stop ascending, padding begins.
int64_t length_of(const int32_t* row, int64_t k) {
  int64_t length = k > 0 ? 1 : 0;
  while (length < k && row[length] > row[length - 1]) ++length;
  return length;
}

int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What is the same for all groups of a layer.
struct Layer {
  const float* values;
  const int32_t* indices;
  int64_t k, width, window, last_base;
};

// Adds the blocks of a group, whose neurons are `rows` of the layer.
void append_group(const Layer& layer, const int32_t* rows, int64_t count,
                  Arrangement& out) {
  std::vector<int64_t> next(count), end(count);
  int64_t left = 0;
  for (int64_t lane = 0; lane < count; ++lane) {
    next[lane] = rows[lane] * layer.k;
    end[lane] = next[lane] + length_of(layer.indices + next[lane], layer.k);
    left += end[lane] - next[lane];
  }
  for (int64_t step = 0; left > 0; step = (step + 1) % kSteps) {
    if (step == 0) {
      out.values.resize(out.values.size() + kSteps * out.lanes, 0.0f);
      out.offsets.resize(out.offsets.size() + out.lanes, 0);
      out.bases.resize(out.bases.size() + kSteps, 0);
    }
    // The window begins with the vector of the least input still to be read.
    int64_t base = layer.last_base;
    for (int64_t lane = 0; lane < count; ++lane)
      if (next[lane] < end[lane])
        base = std::min(base, layer.indices[next[lane]] / layer.width);
    out.bases[out.bases.size() - kSteps + step] = base;
    float* values = &out.values[out.values.size() - (kSteps - step) * out.lanes];
    uint32_t* offsets = &out.offsets[out.offsets.size() - out.lanes];
    for (int64_t lane = 0; lane < count; ++lane) {
      if (next[lane] == end[lane]) continue;
      const int64_t offset = layer.indices[next[lane]] - base * layer.width;
      if (offset >= layer.window) continue;
      values[lane] = layer.values[next[lane]++];
      offsets[lane] |= static_cast<uint32_t>(offset) << 8 * step;
      --left;
    }
  }
}

}  // namespace

void Arrangement::pack(uint32_t* packed) const {
  const auto append = [&](const auto& array) {
    if (!array.empty()) std::memcpy(packed, array.data(), 4 * array.size());
    packed += array.size();
  };
  append(values);
  append(offsets);
  append(bases);
  append(starts);
  append(neurons);
}

Windows unpacked(const uint32_t* packed, int64_t blocks, int64_t groups, int64_t lanes) {
  Windows w = {};
  w.blocks = blocks;
  w.groups = groups;
  w.lanes = lanes;
  w.values = reinterpret_cast<const float*>(packed);
  w.offsets = packed + blocks * kSteps * lanes;
  w.bases = reinterpret_cast<const int32_t*>(w.offsets + blocks * lanes);
  w.starts = w.bases + blocks * kSteps;
  w.neurons = w.starts + groups + 1;
  return w;
}

Arrangement arrange(const float* values, const int32_t* indices, const int32_t* active,
                    int64_t active_count, int64_t k, int64_t fan_in, int64_t width,
                    int64_t window, int64_t most) {
  Arrangement out;
  const int64_t vectors = std::max<int64_t>(1, divided_up(active_count, width));
  // Groups of the same size, or nearly.
  out.lanes = width * divided_up(vectors, divided_up(vectors, most));
  // Inputs are in whole vectors, and the last window ends with the last one.
  const int64_t across = window / width;
  const int64_t last_base = std::max(divided_up(fan_in, width), across) - across;
  const Layer layer = {values, indices, k, width, window, last_base};
  const auto order = group_all(indices, active_count, k, out.lanes);
  out.starts.push_back(0);
  for (int64_t begin = 0; begin < active_count; begin += out.lanes) {
    const int64_t count = std::min(out.lanes, active_count - begin);
    append_group(layer, &order[begin], count, out);
    out.starts.push_back(out.bases.size() / kSteps);
    for (int64_t lane = 0; lane < out.lanes; ++lane)
      out.neurons.push_back(lane < count ? active[order[begin + lane]] : -1);
  }
  return out;
}

}  // namespace srigl
