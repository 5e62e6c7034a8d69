// Arranges a condensed layer into windows; see Windows in kernels.h.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace srigl {

struct Arrangement {
  std::vector<float> values;
  std::vector<uint32_t> offsets;
  std::vector<int32_t> bases, starts, neurons;
  int64_t lanes;  // in a group

  int64_t blocks() const { return bases.size() / kSteps; }
  int64_t groups() const { return starts.size() - 1; }
  int64_t packed_size() const { return srigl::packed_size(blocks(), groups(), lanes); }
  // Writes all arrays, one after the other.
  void pack(uint32_t* packed) const;
};

// Pointers into an arrangement that `pack` has written; sizes are set, the rest is 0.
Windows unpacked(const uint32_t* packed, int64_t blocks, int64_t groups, int64_t lanes);

// `values` f32 and `indices` i32 [active_count, k], ascending in each row but for a
// tail of zero values; `active` i32[active_count]; indices already checked. Windows of
// `window` inputs, groups of up to `most` vectors of `width` floats.
Arrangement arrange(const float* values, const int32_t* indices, const int32_t* active,
                    int64_t active_count, int64_t k, int64_t fan_in, int64_t width,
                    int64_t window, int64_t most);

}  // namespace srigl
