// The kernels as XLA custom calls, on XLA's own threads.
#include <algorithm>
#include <exception>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <new>
#include <string>
#include <utility>

#include "arrange.h"
#include "run.h"
#include "work.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace srigl {
namespace {

ParallelFor on_pool(ffi::ThreadPool pool, int64_t threads) {
  return [pool, threads](int64_t count, const std::function<void(int64_t)>& task) {
    share(count, task, threads, [&](std::function<void()> help) {
      ffi::ThreadPool scheduler = pool;
      scheduler.Schedule(std::move(help));
    });
  };
}

// What `call` returns; an exception, which must not leave a handler, as an error.
template <typename Call>
ffi::Error without_exceptions(const Call& call) {
  try {
    return call();
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                      "condensed layer: out of memory");
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("condensed layer: ") + error.what());
  }
}

ffi::Error error_of(Status status, int64_t fan_in, int64_t neurons) {
  switch (status) {
    case Status::kBadIndex:
      return ffi::Error::InvalidArgument(
          "condensed layer: an index is not below the fan-in, " +
          std::to_string(fan_in));
    case Status::kBadActive:
      return ffi::Error::InvalidArgument(
          "condensed layer: active must ascend and stay below the number of neurons, " +
          std::to_string(neurons));
    case Status::kBadWindows:
      return ffi::Error::InvalidArgument(
          "condensed layer: its arrangement in windows is damaged");
    case Status::kNoMemory:
      return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                        "condensed layer: there is no room to pack the inputs of a fan-in"
                        " of " + std::to_string(fan_in));
    case Status::kOk:
      break;
  }
  return ffi::Error::Success();
}

// Whether the product of sizes that come from a file can be indexed with 32 bits.
bool is_indexable(std::initializer_list<int64_t> sizes) {
  int64_t product = 1;
  for (int64_t size : sizes)
    if (size < 0 || __builtin_mul_overflow(product, size, &product) ||
        product > std::numeric_limits<int32_t>::max())
      return false;
  return true;
}

ffi::Error solve(ffi::ThreadPool pool, Problem& p, ffi::Buffer<ffi::F32> values,
                 ffi::AnyBuffer indices, ffi::Buffer<ffi::S32> active,
                 ffi::Buffer<ffi::F32> bias, std::string_view instructions) {
  const auto shape = values.dimensions(), same = indices.dimensions();
  if (shape.size() != 2 || same.size() != 2 || same[0] != shape[0] ||
      same[1] != shape[1] || active.element_count() != static_cast<size_t>(shape[0]))
    return ffi::Error::InvalidArgument(
        "values and indices must be [active, k], and active [active]");
  if (indices.element_type() != ffi::U16 && indices.element_type() != ffi::S32)
    return ffi::Error::InvalidArgument("indices must be uint16 or int32");
  if (bias.element_count() && bias.element_count() != static_cast<size_t>(p.neurons))
    return ffi::Error::InvalidArgument("bias must be [neurons], or empty");
  p.values = values.typed_data();
  p.indices = indices.untyped_data();
  p.index_bytes = indices.element_type() == ffi::U16 ? 2 : 4;
  p.active = active.typed_data();
  p.active_count = shape[0];
  p.k = shape[1];
  p.bias = bias.element_count() ? bias.typed_data() : nullptr;
  const Kernels* kernels = kernels_for(std::string(instructions).c_str());
  if (!kernels)
    return ffi::Error::InvalidArgument("this machine does not run the kernels '" +
                                       std::string(instructions) + "'");
  const int64_t threads = std::max<int64_t>(1, pool.num_threads());
  return error_of(run(p, *kernels, threads, on_pool(pool, threads)), p.fan_in(),
                  p.neurons);
}

ffi::Error matmul(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x,
                  ffi::Buffer<ffi::F32> values, ffi::AnyBuffer indices,
                  ffi::Buffer<ffi::S32> active, ffi::Buffer<ffi::F32> bias,
                  ffi::ResultBuffer<ffi::F32> y, std::string_view instructions) {
  const auto in = x.dimensions(), out = y->dimensions();
  if (in.size() != 2 || out.size() != 2 || in[0] != out[0])
    return ffi::Error::InvalidArgument("x and y must be [batch, features]");
  if (!is_indexable({in[1]}) || !is_indexable({out[1]}))
    return ffi::Error::InvalidArgument("fan-in and neurons must be below 2**31");
  Problem p = {};
  p.x = x.typed_data();
  p.y = y->typed_data();
  p.batch = in[0];
  p.channels = in[1];
  p.neurons = out[1];
  p.height = p.width = p.out_height = p.out_width = 1;
  p.kernel_height = p.kernel_width = p.stride_height = p.stride_width = p.groups = 1;
  return solve(pool, p, values, indices, active, bias, instructions);
}

ffi::Error convolution(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x,
                       ffi::Buffer<ffi::F32> values, ffi::AnyBuffer indices,
                       ffi::Buffer<ffi::S32> active, ffi::Buffer<ffi::F32> bias,
                       ffi::ResultBuffer<ffi::F32> y, std::string_view instructions,
                       ffi::Span<const int64_t> window) {
  const auto in = x.dimensions(), out = y->dimensions();
  if (in.size() != 4 || out.size() != 4 || in[0] != out[0] || window.size() != 7)
    return ffi::Error::InvalidArgument("x and y must be [batch, height, width, channels]");
  Problem p = {};
  p.x = x.typed_data();
  p.y = y->typed_data();
  p.batch = in[0];
  p.height = in[1];
  p.width = in[2];
  p.channels = in[3];
  p.out_height = out[1];
  p.out_width = out[2];
  p.neurons = out[3];
  p.kernel_height = window[0];
  p.kernel_width = window[1];
  p.stride_height = window[2];
  p.stride_width = window[3];
  p.pad_top = window[4];
  p.pad_left = window[5];
  p.groups = window[6];
  if (p.groups < 1 || p.channels % p.groups || p.neurons % p.groups)
    return ffi::Error::InvalidArgument("groups must divide channels and neurons");
  for (size_t i = 0; i < window.size(); ++i)
    if (const bool is_padding = i == 4 || i == 5;
        window[i] < !is_padding || !is_indexable({window[i]}))
      return ffi::Error::InvalidArgument(
          "kernel and strides must be from 1 up, padding from 0, all below 2**31");
  if (!is_indexable({p.kernel_height, p.kernel_width, p.group_channels()}) ||
      !is_indexable({p.neurons}))
    return ffi::Error::InvalidArgument("fan-in and neurons must be below 2**31");
  return solve(pool, p, values, indices, active, bias, instructions);
}

ffi::Error windows(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x,
                   ffi::Buffer<ffi::U32> packed, ffi::Buffer<ffi::F32> bias,
                   ffi::ResultBuffer<ffi::F32> y, int64_t width, int64_t lanes,
                   int64_t blocks, int64_t groups) {
  const auto in = x.dimensions(), out = y->dimensions();
  const Kernels* kernels = kernels_for_width(width);
  if (!kernels)
    return ffi::Error::InvalidArgument(
        "condensed layer: it is arranged for vectors of " + std::to_string(width) +
        " floats, which this machine does not have; arrange it here");
  if (in.size() != 2 || out.size() != 2 || in[0] != out[0] || lanes % width ||
      lanes < width || lanes > width * kernels->most ||
      !is_indexable({blocks, 8, lanes}) || !is_indexable({groups, 2, lanes}) ||
      static_cast<int64_t>(packed.element_count()) != packed_size(blocks, groups, lanes) ||
      (bias.element_count() && bias.element_count() != static_cast<size_t>(out[1])))
    return ffi::Error::InvalidArgument("shapes of an arrangement do not fit together");
  Windows w = unpacked(packed.typed_data(), blocks, groups, lanes);
  w.x = x.typed_data();
  w.bias = bias.element_count() ? bias.typed_data() : nullptr;
  w.y = y->typed_data();
  w.batch = in[0];
  w.fan_in = in[1];
  w.outputs = out[1];
  const int64_t threads = std::max<int64_t>(1, pool.num_threads());
  return error_of(run(w, *kernels, threads, on_pool(pool, threads)), in[1], out[1]);
}

// A handler that throws nothing.
template <auto handler>
struct Guarded;
template <typename... Arguments, ffi::Error (*handler)(Arguments...)>
struct Guarded<handler> {
  static ffi::Error call(Arguments... arguments) {
    return without_exceptions([&] { return handler(arguments...); });
  }
};

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(srigl_windows, Guarded<windows>::call,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("width")
                                  .Attr<int64_t>("lanes")
                                  .Attr<int64_t>("blocks")
                                  .Attr<int64_t>("groups"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(srigl_matmul, Guarded<matmul>::call,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<std::string_view>("instructions"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(srigl_convolution, Guarded<convolution>::call,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<std::string_view>("instructions")
                                  .Attr<ffi::Span<const int64_t>>("window"));

}  // namespace srigl

extern "C" {

// The instruction set in use, "avx512", "avx2" or "plain", and the floats in its vectors.
__attribute__((visibility("default"))) const char* srigl_instructions() {
  return srigl::kernels_for("")->name;
}
__attribute__((visibility("default"))) int64_t srigl_width() {
  return srigl::kernels_for("")->width;
}

// An arrangement, to be freed, or null for want of memory; its numbers of lanes, blocks
// and groups and the size of its packed form; and that form.
__attribute__((visibility("default"))) void* srigl_arrange(
    const float* values, const int32_t* indices, const int32_t* active,
    int64_t active_count, int64_t k, int64_t fan_in) {
  try {
    const srigl::Kernels& kernels = *srigl::kernels_for("");
    return new srigl::Arrangement(srigl::arrange(values, indices, active, active_count, k,
                                                 fan_in, kernels.width, kernels.window,
                                                 kernels.most));
  } catch (const std::exception&) {
    return nullptr;
  }
}
__attribute__((visibility("default"))) void srigl_arranged_sizes(void* arrangement,
                                                                 int64_t* sizes) {
  const auto* a = static_cast<srigl::Arrangement*>(arrangement);
  const int64_t found[] = {a->lanes, a->blocks(), a->groups(), a->packed_size()};
  std::copy(std::begin(found), std::end(found), sizes);
}
__attribute__((visibility("default"))) void srigl_arranged_pack(void* arrangement,
                                                                uint32_t* packed) {
  static_cast<srigl::Arrangement*>(arrangement)->pack(packed);
}
__attribute__((visibility("default"))) void srigl_arranged_free(void* arrangement) {
  delete static_cast<srigl::Arrangement*>(arrangement);
}

}  // extern "C"
