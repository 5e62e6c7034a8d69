// The tasks of one call, shared by the calling thread and helpers from a pool.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace srigl {

// Each thread has a part of the tasks, the same in every call, so that weights tend to be
// in the cache of the core that needs them; whoever has done its own takes from the ends
// of the others'. The caller waits only for tasks that helpers have begun: a pool whose
// threads are all busy delays nothing. A helper that comes late finds none left, so what
// it looks at must outlive the call. Tasks must not throw.
class Work {
 public:
  Work(int64_t count, const std::function<void(int64_t)>& task, int64_t threads)
      : task_(task), left_(count), parts_(threads) {
    for (int64_t t = 0; t < threads; ++t)
      parts_[t] = pack(count * t / threads, count * (t + 1) / threads);
  }

  void run(int64_t thread) {
    const int64_t threads = parts_.size();
    for (int64_t t = 0; t < threads; ++t) {
      Part& part = parts_[(thread + t) % threads];
      for (int64_t i; (i = part.take(t == 0)) >= 0;) {
        task_(i);
        left_.fetch_sub(1);
      }
    }
  }

  // Tasks take microseconds: sleeping and waking would cost more than waiting, unless the
  // system has taken the core from a thread that has a task.
  void wait() const {
    const auto patience =
        std::chrono::steady_clock::now() + std::chrono::microseconds(200);
    while (left_.load() != 0)
      if (std::chrono::steady_clock::now() > patience) std::this_thread::yield();
  }

 private:
  // Tasks [first, last) are left: both in one word, so that they change together.
  struct Part {
    std::atomic<uint64_t> range{0};

    Part() = default;
    Part& operator=(uint64_t packed) {
      range = packed;
      return *this;
    }

    // The first or the last task that is left, or -1.
    int64_t take(bool is_first) {
      uint64_t now = range.load();
      while (true) {
        const uint64_t first = now >> 32, last = now & 0xffffffff;
        if (first >= last) return -1;
        const uint64_t then = is_first ? pack(first + 1, last) : pack(first, last - 1);
        if (range.compare_exchange_weak(now, then)) return is_first ? first : last - 1;
      }
    }
  };

  static uint64_t pack(uint64_t first, uint64_t last) { return first << 32 | last; }

  const std::function<void(int64_t)> task_;
  std::atomic<int64_t> left_;
  std::vector<Part> parts_;
};

// Calls task(i) for every i < count on at most `threads` threads, and returns when all are
// done. `schedule(f)` calls f sometime on another thread, or throws: then the call goes on
// with the helpers that it has.
template <typename Schedule>
void share(int64_t count, const std::function<void(int64_t)>& task, int64_t threads,
           const Schedule& schedule) {
  threads = std::min(threads, count);
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  auto work = std::make_shared<Work>(count, task, threads);
  try {
    for (int64_t t = 1; t < threads; ++t) schedule([work, t] { work->run(t); });
  } catch (...) {
    // The calling thread does whatever is left.
  }
  work->run(0);
  work->wait();
}

}  // namespace srigl
