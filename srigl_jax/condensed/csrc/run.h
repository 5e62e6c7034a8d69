// Splits a Problem into tasks, and runs them on whatever threads there are.
#pragma once

#include <cstdint>
#include <functional>

#include "kernels.h"

namespace srigl {

// Calls task(i) for every i < count, in any order, from any thread, and returns when
// all are done.
using ParallelFor =
    std::function<void(int64_t count, const std::function<void(int64_t)>& task)>;

enum class Status { kOk, kBadIndex, kBadActive, kBadWindows, kNoMemory };

// Computes the whole of p.y. `threads` says into how many parts it is worth splitting.
Status run(const Problem& p, const Kernels& kernels, int64_t threads,
           const ParallelFor& parallel_for);

// Computes the whole of w.y, with kernels of the width that w is arranged for.
Status run(const Windows& w, const Kernels& kernels, int64_t threads,
           const ParallelFor& parallel_for);

}  // namespace srigl
