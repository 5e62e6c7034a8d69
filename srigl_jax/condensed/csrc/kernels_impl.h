// The kernels, for vectors of SRIGL_WIDTH floats, in namespace SRIGL_SET.
//
// Included once by each kernels_*.cc, which is compiled for one instruction set. No
// standard library function may be called from here: an inline one compiled for AVX-512
// could be the copy that the linker keeps for all.
#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace srigl {
namespace SRIGL_SET {
namespace {

constexpr int kWidth = SRIGL_WIDTH;
// Alignment 4: a load through it is an unaligned one.
typedef float Vector __attribute__((vector_size(4 * SRIGL_WIDTH), aligned(4), may_alias));

inline Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }
inline Vector zero() { return Vector{}; }

template <size_t... I>
inline Vector broadcast(float f, std::index_sequence<I...>) {
  return Vector{((void)I, f)...};
}
inline Vector broadcast(float f) {
  return broadcast(f, std::make_index_sequence<kWidth>());
}

// Inputs are looked up one by one: hardware gathers are slower on the machines measured.
template <size_t... I>
inline Vector lookup(const float* x, const uint32_t* index, std::index_sequence<I...>) {
  return Vector{x[index[I]]...};
}
// Loads are what bounds this: four indices come in one.
template <size_t... I>
inline Vector lookup(const float* x, const uint16_t* index, std::index_sequence<I...>) {
  uint64_t four[kWidth / 4];
  __builtin_memcpy(four, index, sizeof(four));
  return Vector{x[static_cast<uint16_t>(four[I / 4] >> (16 * (I % 4)))]...};
}
template <typename Index>
inline Vector lookup(const float* x, const Index* index) {
  return lookup(x, index, std::make_index_sequence<kWidth>());
}

inline float sum(Vector v) {
  float parts[kWidth];
  store(parts, v);
  for (int half = kWidth / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) parts[i] += parts[i + half];
  return parts[0];
}

// Transposition of kWidth vectors. First blocks of 4 by 4 are put in their places, by
// halves: the off-diagonal blocks of side S are exchanged within blocks of side 2S.
template <int S, size_t... I>
inline void exchange(Vector& a, Vector& b, std::index_sequence<I...>) {
  const Vector low = __builtin_shufflevector(
      a, b, ((I & S) ? kWidth + static_cast<int>(I) - S : static_cast<int>(I))...);
  const Vector high = __builtin_shufflevector(
      a, b, ((I & S) ? kWidth + static_cast<int>(I) : static_cast<int>(I) + S)...);
  a = low;
  b = high;
}
template <int S>
inline void exchange_all(Vector* rows) {
  if constexpr (S >= 4) {
    for (int i = 0; i < kWidth; ++i)
      if (!(i & S))
        exchange<S>(rows[i], rows[i + S], std::make_index_sequence<kWidth>());
    exchange_all<S / 2>(rows);
  }
}
// Then each block is transposed where it is: hardware shuffles are fastest within 128
// bits. From each block of 4, elements Half and Half + 1 of a and b, alternating; and
// two neighbours of a, then two of b.
template <int Half, size_t... I>
inline Vector alternate(Vector a, Vector b, std::index_sequence<I...>) {
  return __builtin_shufflevector(
      a, b,
      (static_cast<int>(I / 4 * 4 + Half + I % 4 / 2) + (I % 2 ? kWidth : 0))...);
}
template <int Half, size_t... I>
inline Vector concatenate(Vector a, Vector b, std::index_sequence<I...>) {
  return __builtin_shufflevector(
      a, b,
      (static_cast<int>(I / 4 * 4 + Half + I % 2) + (I % 4 / 2 ? kWidth : 0))...);
}
inline void transpose(Vector* rows) {
  constexpr auto all = std::make_index_sequence<kWidth>();
  exchange_all<kWidth / 2>(rows);
  for (int i = 0; i < kWidth; i += 4) {
    const Vector low01 = alternate<0>(rows[i], rows[i + 1], all);
    const Vector high01 = alternate<2>(rows[i], rows[i + 1], all);
    const Vector low23 = alternate<0>(rows[i + 2], rows[i + 3], all);
    const Vector high23 = alternate<2>(rows[i + 2], rows[i + 3], all);
    rows[i] = concatenate<0>(low01, low23, all);
    rows[i + 1] = concatenate<2>(low01, low23, all);
    rows[i + 2] = concatenate<0>(high01, high23, all);
    rows[i + 3] = concatenate<2>(high01, high23, all);
  }
}

// Negative indices are read as large ones. The largest is of the indices' own type, so
// that as many as possible are compared at a time.
template <typename Index>
inline bool all_below(const Index* indices, int64_t count, int64_t bound) {
  Index largest = 0;
  for (int64_t j = 0; j < count; ++j)
    largest = indices[j] > largest ? indices[j] : largest;
  return count == 0 || largest < static_cast<uint64_t>(bound);
}

inline void fill_with_bias(const Problem& p, const Chunk& chunk, float* y) {
  for (int64_t n = chunk.first; n < chunk.last; ++n) y[n] = p.bias ? p.bias[n] : 0.0f;
}

template <typename Index>
bool single(const Problem& p, const Chunk& chunk) {
  const Index* all = static_cast<const Index*>(p.indices);
  if (chunk.last - chunk.first != chunk.end - chunk.begin)
    fill_with_bias(p, chunk, p.y);
  for (int64_t i = chunk.begin; i < chunk.end; ++i) {
    const Index* indices = all + i * p.k;
    const float* values = p.values + i * p.k;
    if (!all_below(indices, p.k, p.fan_in())) return false;
    Vector even = zero(), odd = zero();
    int64_t j = 0;
    for (; j + 2 * kWidth <= p.k; j += 2 * kWidth) {
      even += lookup(p.x, indices + j) * load(values + j);
      odd += lookup(p.x, indices + j + kWidth) * load(values + j + kWidth);
    }
    for (; j + kWidth <= p.k; j += kWidth)
      even += lookup(p.x, indices + j) * load(values + j);
    float y = sum(even + odd);
    for (; j < p.k; ++j) y += p.x[indices[j]] * values[j];
    const int64_t n = p.active[i];
    p.y[n] = p.bias ? y + p.bias[n] : y;
  }
  return true;
}

bool single(const Problem& p, const Chunk& chunk) {
  return p.index_bytes == 2 ? single<uint16_t>(p, chunk) : single<uint32_t>(p, chunk);
}

// Where the window of an output position begins.
struct Corner {
  int64_t image, top, left;
};

inline Corner corner_of(const Problem& p, int64_t position) {
  const int64_t column = position % p.out_width, rest = position / p.out_width;
  return {rest / p.out_height, rest % p.out_height * p.stride_height - p.pad_top,
          column * p.stride_width - p.pad_left};
}

// The group's first channel under (row, column) of the kernel, or null in the padding.
inline const float* input_at(const Problem& p, const Corner& corner, int64_t row,
                             int64_t column, int64_t group) {
  const int64_t h = corner.top + row, w = corner.left + column;
  if (h < 0 || h >= p.height || w < 0 || w >= p.width) return nullptr;
  return p.x + ((corner.image * p.height + h) * p.width + w) * p.channels +
         group * p.group_channels();
}

// inputs[c * stride + lane] = pointers[lane][c].
void pack_lanes(const float* const* pointers, int64_t channels, int64_t stride,
                float* inputs) {
  int64_t c = 0;
  for (; c + kWidth <= channels; c += kWidth) {
    Vector rows[kWidth];
    for (int lane = 0; lane < kWidth; ++lane)
      rows[lane] = load(pointers[lane] + c);
    transpose(rows);
    for (int i = 0; i < kWidth; ++i) store(inputs + (c + i) * stride, rows[i]);
  }
  for (; c < channels; ++c)
    for (int lane = 0; lane < kWidth; ++lane)
      inputs[c * stride + lane] = pointers[lane][c];
}

void pack(const Problem& p, int64_t group, int64_t begin, int64_t count, int64_t lanes,
          const float* zeros, float* inputs) {
  Corner corners[kWidth] = {};
  for (int lane = 0; lane < count; ++lane) corners[lane] = corner_of(p, begin + lane);
  for (int64_t row = 0; row < p.kernel_height; ++row)
    for (int64_t column = 0; column < p.kernel_width; ++column) {
      const float* pointers[kWidth];
      for (int lane = 0; lane < kWidth; ++lane) {
        // Padding is read from zeros: a branch at every load would cost more.
        const float* x =
            lane < count ? input_at(p, corners[lane], row, column, group) : nullptr;
        pointers[lane] = x ? x : zeros;
      }
      pack_lanes(pointers, p.group_channels(), lanes, inputs);
      inputs += p.group_channels() * lanes;
    }
}

// sums[lanes] = what some weights of one neuron bring, or += unless they are its first
// ones. Several partial sums hide the latency of multiply-add. (Loops this plain are what
// leaves them in registers.)
template <int kVectors, bool kIsFirst, typename Index>
inline void sum_row(const float* values, const Index* indices, int64_t count,
                    const float* inputs, float* sums) {
  constexpr int kLanes = kVectors * kWidth;
  constexpr int kUnroll = kVectors == 1 ? 8 : kVectors == 2 ? 4 : kVectors == 3 ? 2 : 1;
  Vector partial[kUnroll][kVectors];
  for (int u = 0; u < kUnroll; ++u)
    for (int v = 0; v < kVectors; ++v) partial[u][v] = zero();
  if (!kIsFirst)
    for (int v = 0; v < kVectors; ++v) partial[0][v] = load(sums + v * kWidth);
  int64_t j = 0;
  for (; j + kUnroll <= count; j += kUnroll)
    for (int u = 0; u < kUnroll; ++u) {
      const float* x = inputs + static_cast<size_t>(indices[j + u]) * kLanes;
      const Vector value = broadcast(values[j + u]);
      for (int v = 0; v < kVectors; ++v) partial[u][v] += value * load(x + v * kWidth);
    }
  for (; j < count; ++j) {
    const float* x = inputs + static_cast<size_t>(indices[j]) * kLanes;
    const Vector value = broadcast(values[j]);
    for (int v = 0; v < kVectors; ++v) partial[0][v] += value * load(x + v * kWidth);
  }
  for (int v = 0; v < kVectors; ++v) {
    for (int u = 1; u < kUnroll; ++u) partial[0][v] += partial[u][v];
    store(sums + v * kWidth, partial[0][v]);
  }
}

// Packed inputs, in bytes, that stay in a core's first level of cache anyway; and how
// many weights of each neuron are taken at a time where they do not.
constexpr int64_t kNearestBytes = 24 * 1024;
constexpr int64_t kTogether = 48;

// Rows ascend, so the j-th weights of all neurons read inputs near one another. Taken
// some at a time, they find most of these where the neuron before has left them.
template <int kVectors, typename Index>
void sum_rows(const Problem& p, int64_t first, int64_t neurons, const float* inputs,
              float* sums) {
  constexpr int kLanes = kVectors * kWidth;
  const Index* indices = static_cast<const Index*>(p.indices) + first * p.k;
  const float* values = p.values + first * p.k;
  const bool is_near = kVectors == 1 || p.fan_in() * kLanes * 4 <= kNearestBytes;
  const int64_t together = is_near || p.k < kTogether ? p.k : kTogether;
  for (int64_t u = 0; u < neurons; ++u)
    sum_row<kVectors, true>(values + u * p.k, indices + u * p.k, together, inputs,
                            sums + u * kLanes);
  for (int64_t j = together; j < p.k; j += together)
    for (int64_t u = 0; u < neurons; ++u)
      sum_row<kVectors, false>(values + u * p.k + j, indices + u * p.k + j,
                               p.k - j < together ? p.k - j : together, inputs,
                               sums + u * kLanes);
}

// What a neuron that is not active brings, as long as the sums of one that is.
alignas(64) const float kNothing[4 * kWidth] = {};

// `sums` f32[active neurons of the chunk, lanes] as rows of y, with the bias: kWidth
// outputs at kWidth positions at a time, transposed. Where some are not active, rows of
// zeros take their places, which costs less than writing the others one by one.
void write(const Problem& p, const Chunk& chunk, int64_t begin, int64_t count,
           int64_t lanes, const float* sums) {
  const int32_t* active = p.active + chunk.begin;
  const int32_t* const end = p.active + chunk.end;
  const auto sums_of = [&](int64_t n) {
    if (active == end || *active != n) return static_cast<const float*>(kNothing);
    ++active;
    return (sums += lanes) - lanes;
  };
  float* const y = p.y + begin * p.neurons;
  int64_t n = chunk.first;
  for (; n + kWidth <= chunk.last; n += kWidth) {
    const float* own[kWidth];
    for (int u = 0; u < kWidth; ++u) own[u] = sums_of(n + u);
    const Vector bias = p.bias ? load(p.bias + n) : zero();
    for (int64_t first = 0; first < count; first += kWidth) {
      Vector rows[kWidth];
      for (int u = 0; u < kWidth; ++u) rows[u] = load(own[u] + first);
      transpose(rows);
      const int64_t left = count - first < kWidth ? count - first : kWidth;
      for (int64_t i = 0; i < left; ++i)
        store(y + (first + i) * p.neurons + n, rows[i] + bias);
    }
  }
  for (; n < chunk.last; ++n) {
    const float* own = sums_of(n);
    const float bias = p.bias ? p.bias[n] : 0.0f;
    for (int64_t i = 0; i < count; ++i) y[i * p.neurons + n] = own[i] + bias;
  }
}

template <int kVectors>
void rows(const Problem& p, const Chunk& chunk, const float* inputs, float* sums) {
  const int64_t neurons = chunk.end - chunk.begin;
  if (p.index_bytes == 2)
    sum_rows<kVectors, uint16_t>(p, chunk.begin, neurons, inputs, sums);
  else
    sum_rows<kVectors, uint32_t>(p, chunk.begin, neurons, inputs, sums);
}

bool check(const Problem& p, const Chunk& chunk) {
  const int64_t first = chunk.begin * p.k, count = (chunk.end - chunk.begin) * p.k;
  return p.index_bytes == 2
             ? all_below(static_cast<const uint16_t*>(p.indices) + first, count,
                         p.fan_in())
             : all_below(static_cast<const uint32_t*>(p.indices) + first, count,
                         p.fan_in());
}

void tile(const Problem& p, const Chunk& chunk, int64_t begin, int64_t count,
          int vectors, const float* inputs, float* sums) {
  if (vectors == 1)
    rows<1>(p, chunk, inputs, sums);
  else if (vectors == 2)
    rows<2>(p, chunk, inputs, sums);
  else if (vectors == 3)
    rows<3>(p, chunk, inputs, sums);
  else
    rows<4>(p, chunk, inputs, sums);
  write(p, chunk, begin, count, vectors * kWidth, sums);
}

// One output pixel of a depthwise convolution with one neuron for each channel.
void depthwise_pixel(const Problem& p, const float* taps, const Corner& corner,
                     float* y) {
  int64_t c = 0;
  for (; c + kWidth <= p.channels; c += kWidth) {
    Vector sum = p.bias ? load(p.bias + c) : zero();
    for (int64_t row = 0; row < p.kernel_height; ++row)
      for (int64_t column = 0; column < p.kernel_width; ++column)
        if (const float* x = input_at(p, corner, row, column, 0))
          sum += load(x + c) *
                 load(taps + (row * p.kernel_width + column) * p.neurons + c);
    store(y + c, sum);
  }
  for (; c < p.channels; ++c) {
    float sum = p.bias ? p.bias[c] : 0.0f;
    for (int64_t row = 0; row < p.kernel_height; ++row)
      for (int64_t column = 0; column < p.kernel_width; ++column)
        if (const float* x = input_at(p, corner, row, column, 0))
          sum += x[c] * taps[(row * p.kernel_width + column) * p.neurons + c];
    y[c] = sum;
  }
}

void depthwise(const Problem& p, const float* taps, int64_t begin, int64_t end) {
  for (int64_t position = begin * p.out_width; position < end * p.out_width; ++position)
    depthwise_pixel(p, taps, corner_of(p, position), p.y + position * p.neurons);
}

// result[i] = window[byte `step` of offsets[i]], of which surplus bits are ignored. The
// loads of a window are the same for all vectors of a group, and done once.
#if defined(__AVX512F__) && SRIGL_WIDTH == 16
// Twice as many inputs as one instruction chooses from leave fewer lanes idle.
constexpr int kWindow = 64, kMostVectors = 4;
template <int step>
inline Vector choose(const float* window, const uint32_t* offsets) {
  const __m512i packed = _mm512_loadu_si512(offsets);
  const __m512i index = _mm512_srli_epi32(packed, 8 * step);
  const __m512 low = _mm512_permutex2var_ps(_mm512_loadu_ps(window), index,
                                            _mm512_loadu_ps(window + 16));
  const __m512 high = _mm512_permutex2var_ps(_mm512_loadu_ps(window + 32), index,
                                             _mm512_loadu_ps(window + 48));
  const __mmask16 is_high =
      _mm512_test_epi32_mask(packed, _mm512_set1_epi32(32 << 8 * step));
  return (Vector)_mm512_mask_mov_ps(low, is_high, high);
}
#elif defined(__AVX2__) && SRIGL_WIDTH == 8
constexpr int kWindow = 16, kMostVectors = 2;
template <int step>
inline Vector choose(const float* window, const uint32_t* offsets) {
  const __m256i packed =
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(offsets));
  const __m256i index = _mm256_srli_epi32(packed, 8 * step);
  const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(window), index);
  const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(window + 8), index);
  const __m256i is_high = _mm256_slli_epi32(packed, 28 - 8 * step);
  return (Vector)_mm256_blendv_ps(low, high, _mm256_castsi256_ps(is_high));
}
#else
constexpr int kWindow = 2 * kWidth, kMostVectors = 2;
template <int step>
inline Vector choose(const float* window, const uint32_t* offsets) {
  Vector result;
  for (int i = 0; i < kWidth; ++i)
    result[i] = window[(offsets[i] >> 8 * step) & (kWindow - 1)];
  return result;
}
#endif
static_assert(kWindow % kWidth == 0 && kWindow <= 256);

// Numbers as unsigned, so that negative ones are large.
inline bool in_bounds(const Windows& w, int64_t begin, int64_t end) {
  if (w.starts[begin] < 0 || w.starts[end] > w.blocks) return false;
  for (int64_t group = begin; group < end; ++group)
    if (w.starts[group] > w.starts[group + 1]) return false;
  uint32_t largest = 0;
  for (int64_t i = kSteps * w.starts[begin]; i < int64_t{kSteps} * w.starts[end]; ++i) {
    const uint32_t base = w.bases[i];
    largest = base > largest ? base : largest;
  }
  if (int64_t{largest} * kWidth + kWindow > w.fan_in) return false;
  largest = 0;
  for (int64_t i = begin * w.lanes; i < end * w.lanes; ++i) {
    const uint32_t above = static_cast<uint32_t>(w.neurons[i]) + 1;  // 0: an empty lane
    largest = above > largest ? above : largest;
  }
  return largest <= w.outputs;
}

template <int kVectors, int step>
inline void add_step(const float* x, const uint32_t* offsets, const float* values,
                     Vector* sums) {
  for (int v = 0; v < kVectors; ++v)
    sums[v] += choose<step>(x, offsets + v * kWidth) *
               load(values + (step * kVectors + v) * kWidth);
}

// sums[lanes] of one group.
template <int kVectors>
void sum_group(const Windows& w, const float* x, int64_t group, float* sums) {
  constexpr int kLanes = kVectors * kWidth;
  Vector even[kVectors] = {}, odd[kVectors] = {};
  for (int64_t block = w.starts[group]; block < w.starts[group + 1]; ++block) {
    const uint32_t* offsets = w.offsets + block * kLanes;
    const float* values = w.values + block * kSteps * kLanes;
    const int32_t* bases = w.bases + block * kSteps;
    add_step<kVectors, 0>(x + int64_t{bases[0]} * kWidth, offsets, values, even);
    add_step<kVectors, 1>(x + int64_t{bases[1]} * kWidth, offsets, values, odd);
    add_step<kVectors, 2>(x + int64_t{bases[2]} * kWidth, offsets, values, even);
    add_step<kVectors, 3>(x + int64_t{bases[3]} * kWidth, offsets, values, odd);
  }
  for (int v = 0; v < kVectors; ++v) store(sums + v * kWidth, even[v] + odd[v]);
}

bool windows(const Windows& w, int64_t begin, int64_t end) {
  if (!in_bounds(w, begin, end)) return false;
  const auto sum = w.lanes == kWidth ? sum_group<1>
                   : w.lanes == 2 * kWidth ? sum_group<2>
                   : w.lanes == 3 * kWidth ? sum_group<3>
                                           : sum_group<4>;
  float sums[4 * kWidth];
  for (int64_t example = 0; example < w.batch; ++example) {
    float* y = w.y + example * w.outputs;
    for (int64_t group = begin; group < end; ++group) {
      sum(w, w.x + example * w.fan_in, group, sums);
      const int32_t* neurons = w.neurons + group * w.lanes;
      for (int64_t lane = 0; lane < w.lanes; ++lane)
        if (const int64_t n = neurons[lane]; n >= 0)
          y[n] = w.bias ? sums[lane] + w.bias[n] : sums[lane];
    }
  }
  return true;
}

}  // namespace

const Kernels kKernels = {SRIGL_NAME, kWidth, kWindow, kMostVectors, single,
                          pack,       check,  tile,    depthwise,    windows};

}  // namespace SRIGL_SET
}  // namespace srigl
