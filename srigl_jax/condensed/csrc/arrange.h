// Arranges a condensed layer into windows; see Windows in kernels.h.
#pragma once

#include <cstdint>
#include <vector>

namespace srigl {

struct Arrangement {
  std::vector<float> values;
  std::vector<uint32_t> offsets;
  std::vector<int32_t> bases, starts, neurons;
  int64_t lanes;  // in a group
};

// `values` f32 and `indices` i32 [active_count, k], ascending in each row but for a
// tail of zero values; `active` i32[active_count]; indices already checked. Windows of
// `window` inputs, groups of up to `most` vectors of `width` floats.
Arrangement arrange(const float* values, const int32_t* indices, const int32_t* active,
                    int64_t active_count, int64_t k, int64_t fan_in, int64_t width,
                    int64_t window, int64_t most);

}  // namespace srigl
