// The condensed product and convolution on a CPU: what is computed, and by whom.
//
// The kernels are written once, for vectors of any width, in kernels_impl.h, and
// compiled for several instruction sets; `kernels_for` picks one at run time.
#pragma once

#include <cstdint>

namespace srigl {

// y[p, active[i]] = bias[active[i]] + sum_j values[i, j] * x_p[indices[i, j]], where x_p
// is the window of the input under output position p, flattened as (kernel row, kernel
// column, channel of the group). A matrix product is a convolution with a 1x1 kernel
// over 1x1 images. Outputs of neurons that are not active are their bias.
struct Problem {
  const float* x;           // [batch, height, width, channels]
  const float* values;      // [active_count, k]
  const void* indices;      // u16 or i32[active_count, k]
  int index_bytes;          // 2 or 4
  const int32_t* active;    // [active_count], ascending
  const float* bias;        // [neurons] or null
  float* y;                 // [batch, out_height, out_width, neurons]
  int64_t active_count, k, neurons;
  int64_t batch, height, width, channels;
  int64_t kernel_height, kernel_width, out_height, out_width;
  int64_t stride_height, stride_width, pad_top, pad_left;
  int64_t groups;

  int64_t positions() const { return batch * out_height * out_width; }
  int64_t group_channels() const { return channels / groups; }
  int64_t group_neurons() const { return neurons / groups; }
  int64_t fan_in() const { return kernel_height * kernel_width * group_channels(); }
  // Whether there is one position, whose window is the whole input as it lies.
  bool is_single() const {
    return batch == 1 && groups == 1 && height == 1 && width == 1 &&
           kernel_height == 1 && kernel_width == 1 && out_height == 1 &&
           out_width == 1 && pad_top == 0 && pad_left == 0;
  }
};

// Neurons whose sums are held at a time.
constexpr int64_t kTileNeurons = 32;

// Active neurons [begin, end), all of one group, and the outputs [first, last) that
// this chunk writes: those neurons' and the inactive ones' before and between them.
struct Chunk {
  int64_t begin, end, group, first, last;
};

// Steps of an arrangement come in fours, so that one load tells what four of them read.
constexpr int kSteps = 4;

// The same product for one example at a time, arranged for permutations in registers.
//
// A group is some vectors of neurons, one in each lane. In a step each lane looks up one
// input in a window of neighbouring inputs, which is loaded once for the whole group; a
// lane with nothing to read there has value 0. Windows begin at multiples of a vector,
// since a load that crosses a cache line costs two.
struct Windows {
  const float* x;           // [batch, fan_in]
  const float* values;      // [blocks, kSteps, lanes]
  const uint32_t* offsets;  // [blocks, lanes]: where in the window, a byte for each step
  const int32_t* bases;     // [blocks, kSteps]: where the window begins, in vectors
  const int32_t* starts;    // [groups + 1]: the blocks of each group
  const int32_t* neurons;   // [groups, lanes]: outputs, -1 for an empty lane
  const float* bias;        // [outputs] or null
  float* y;                 // [batch, outputs]
  int64_t batch, fan_in, outputs, blocks, groups, lanes;
};

// Numbers of 32 bits in the five arrays of an arrangement, which are kept as one: each
// argument of a call takes a quarter of a microsecond.
constexpr int64_t packed_size(int64_t blocks, int64_t groups, int64_t lanes) {
  return blocks * (kSteps * lanes + lanes + kSteps) + groups * (1 + lanes) + 1;
}

// One set of kernels. Functions that return a bool say whether every index was below the
// fan-in; if not, the outputs concerned are unspecified, and nothing else was touched.
struct Kernels {
  const char* name;
  int64_t width;   // floats in a vector
  int64_t window;  // inputs that a lane chooses from
  int64_t most;    // vectors in a group of neurons arranged in windows

  // One example: packs k inputs at a time into vectors. Outputs of `chunk`.
  bool (*single)(const Problem&, const Chunk& chunk);

  // Many positions: inputs [fan_in, lanes] are packed with positions in the lanes, by each
  // thread for the tiles that it works on; then each weight is one broadcast and some
  // multiplications.
  //
  // Packs positions [begin, begin + count), count <= width, from lane 0 on; the other
  // lanes of the vector are 0. `zeros` are as many as a group has channels.
  void (*pack)(const Problem&, int64_t group, int64_t begin, int64_t count,
               int64_t lanes, const float* zeros, float* inputs);
  // Whether `tile` may be called for `chunk`.
  bool (*check)(const Problem&, const Chunk& chunk);
  // Outputs of `chunk`, of at most kTileNeurons, at positions [begin, begin + count),
  // count <= lanes, which are vectors * width, vectors from 1 to 4. `sums` is room for
  // kTileNeurons * lanes.
  void (*tile)(const Problem&, const Chunk& chunk, int64_t begin, int64_t count,
               int vectors, const float* inputs, float* sums);

  // Depthwise: channels in the lanes, from the taps as a dense [taps, neurons] array.
  // Output rows [begin, end) of all batch * out_height.
  void (*depthwise)(const Problem&, const float* taps, int64_t begin, int64_t end);

  // Groups [begin, end) of all examples; false if one of them reads or writes out of
  // bounds. Examples have whole vectors of inputs, `window` inputs or more.
  bool (*windows)(const Windows&, int64_t begin, int64_t end);
};

const Kernels& plain_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#endif

// The fastest set that this machine runs, or the one named; null if it cannot.
const Kernels* kernels_for(const char* name);

// The set with vectors of `width` floats; null if this machine has none.
const Kernels* kernels_for_width(int64_t width);

}  // namespace srigl
