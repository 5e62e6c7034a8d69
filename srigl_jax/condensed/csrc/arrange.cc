#include "arrange.h"

#include <algorithm>
#include <numeric>

namespace srigl {
namespace {

// Lanes advance together, and the one that is behind holds the window back: neurons
// whose j-th inputs lie close together for all j belong into one group. Each group is
// the neurons of `left` nearest to the first one left.
void group_neighbours(const int32_t* indices, std::vector<int32_t> left, int64_t k,
                      int64_t width, std::vector<int32_t>& order) {
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
    const int64_t count = std::min<int64_t>(width, distances.size());
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
                               int64_t width) {
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
    group_neighbours(indices, {rows.begin() + begin, rows.begin() + end}, k, width, order);
  }
  return order;
}

// The weights of a row: where its indices stop ascending, padding begins.
int64_t length_of(const int32_t* row, int64_t k) {
  int64_t length = k > 0 ? 1 : 0;
  while (length < k && row[length] > row[length - 1]) ++length;
  return length;
}

}  // namespace

Arrangement arrange(const float* values, const int32_t* indices, const int32_t* active,
                    int64_t active_count, int64_t k, int64_t fan_in, int64_t width,
                    int64_t window) {
  Arrangement out;
  const int64_t room = std::max<int64_t>(0, fan_in - window);
  const auto order = group_all(indices, active_count, k, width);
  out.starts.push_back(0);
  for (int64_t begin = 0; begin < active_count; begin += width) {
    const int64_t lanes = std::min(width, active_count - begin);
    std::vector<int64_t> next(lanes, 0), length(lanes);
    int64_t left = 0;
    for (int64_t lane = 0; lane < lanes; ++lane)
      left += length[lane] = length_of(indices + order[begin + lane] * k, k);
    while (left > 0) {
      // The window begins at the least input still to be read.
      int64_t base = fan_in;
      for (int64_t lane = 0; lane < lanes; ++lane)
        if (next[lane] < length[lane])
          base = std::min<int64_t>(base, indices[order[begin + lane] * k + next[lane]]);
      base = std::min(base, room);
      out.bases.push_back(base);
      for (int64_t lane = 0; lane < width; ++lane) {
        float value = 0;
        uint8_t offset = 0;
        if (lane < lanes && next[lane] < length[lane]) {
          const int64_t at = order[begin + lane] * k + next[lane];
          if (indices[at] >= base && indices[at] < base + window) {
            value = values[at];
            offset = indices[at] - base;
            ++next[lane];
            --left;
          }
        }
        out.values.push_back(value);
        out.lanes.push_back(offset);
      }
    }
    out.starts.push_back(out.bases.size());
    for (int64_t lane = 0; lane < width; ++lane)
      out.neurons.push_back(lane < lanes ? active[order[begin + lane]] : -1);
  }
  return out;
}

}  // namespace srigl
