#include "queue.h"

#include <chrono>
#include <cstring>

#include "parallel.h"
#include "registry.h"
#include "scheduling.h"
#include "status.h"

namespace og {
namespace {

typedef std::chrono::steady_clock Clock;
// A sleeping thread takes 50-140 µs to wake on a virtual machine, so short gaps are waited out awake.
constexpr auto kExecutorSpin = std::chrono::microseconds(50);
constexpr auto kWaitSpin = std::chrono::microseconds(50);

bool reached(int32_t tail, int32_t sequence) { return (int32_t)((uint32_t)tail - (uint32_t)sequence) >= 0; }

static_assert(sizeof(std::atomic<int32_t>) == sizeof(int32_t), "control words are shared with JavaScript");

}  // namespace

Queue::Queue(double* ring, int64_t ring_words, int32_t* control, Notify notify, void* context)
    : ring_(ring),
      ring_words_(ring_words),
      control_(reinterpret_cast<std::atomic<int32_t>*>(control)),
      notify_(notify),
      context_(context) {
  word(kParked).store(1);  // not started: the first frame calls wake()
}

void Queue::wake() {
  std::lock_guard<std::mutex> lock(park_);
  if (cancel_.load()) return;
  if (!thread_.joinable()) thread_ = std::thread([this] { loop(); });
  wakes_++;
  unpark_.notify_one();
}

int32_t Queue::run_inline(const double* words, int64_t available) {
  if (cancel_.load(std::memory_order_relaxed)) return fail(OG_CANCELLED, "the queue is shut down");
  const int32_t status = decode_frame(words, available, slots_, &inline_);
  return status != OG_OK ? status : run_kernel(inline_.kernel, inline_.call);
}

void Queue::run_next(int32_t sequence) {
  if (read_ < 0 || read_ >= ring_words_) read_ = 0;
  if (ring_[read_] == -1) read_ = 0;  // the writer wrapped
  const double* words = ring_ + read_;
  const double total = words[1];
  // A malformed length would lose the ring's rhythm for good; such a frame can only be written by hand.
  const bool sane =
      read_ + kFrameHeader <= ring_words_ && total >= kFrameHeader && total <= (double)(ring_words_ - read_);
  int32_t status = OG_OK;
  if (!cancel_.load(std::memory_order_relaxed) && word(kError).load(std::memory_order_relaxed) == OG_OK) {
    frame_.kernel = -1;
    status = sane ? decode_frame(words, ring_words_ - read_, slots_, &frame_)
                  : fail(OG_INVALID, "frame lies about its length");
    if (status == OG_OK) status = run_kernel(frame_.kernel, frame_.call);
    if (cancel_.load(std::memory_order_relaxed)) status = OG_OK;
  }
  read_ += sane ? (int64_t)total : 0;
  if (status != OG_OK) {
    error_.code = status;
    error_.sequence = sequence;
    error_.kernel = frame_.kernel;
    std::strncpy(error_.message, last_message(), sizeof error_.message - 1);
    word(kError).store(status);
  }
}

void Queue::finish(int32_t sequence) {
  const int32_t tail = (int32_t)((uint32_t)sequence + 1u);
  word(kTail).store(tail);  // seq_cst: pairs with the waiter's store of ARMED or waiters_ before it looks at TAIL again
  if (word(kArmed).load() && reached(tail, word(kWakeAt).load())) {
    int32_t one = 1;
    if (word(kArmed).compare_exchange_strong(one, 0)) notify_(context_);
  }
  if (waiters_.load()) {
    std::lock_guard<std::mutex> lock(waiting_);
    done_.notify_all();
  }
}

bool Queue::park(int32_t tail) {
  std::unique_lock<std::mutex> lock(park_);
  word(kParked).store(1);
  if (word(kHead).load() != tail || cancel_.load()) {
    word(kParked).store(0);
    return !cancel_.load();
  }
  const uint64_t before = wakes_;
  unpark_.wait(lock, [&] { return wakes_ != before || cancel_.load(); });
  word(kParked).store(0);
  return !cancel_.load();
}

void Queue::loop() {
  run_below_event_loop();
  set_cancel_flag(&cancel_);
  word(kParked).store(0);
  int32_t tail = word(kTail).load();
  for (;;) {
    if (word(kHead).load() != tail) {
      run_next(tail);
      finish(tail);
      tail = (int32_t)((uint32_t)tail + 1u);
      continue;
    }
    if (cancel_.load()) return;
    const auto idle_since = Clock::now();
    bool work = false;
    while (!(work = word(kHead).load() != tail) && Clock::now() - idle_since < kExecutorSpin)
      for (int i = 0; i < 8; i++) cpu_relax();
    if (!work && !park(tail) && word(kHead).load() == tail) return;
  }
}

bool Queue::wait_for(int32_t sequence) {
  if (!reached(word(kHead).load(), sequence)) return false;
  const auto since = Clock::now();
  while (!reached(word(kTail).load(), sequence)) {
    if (cancel_.load()) return true;
    for (int i = 0; i < 16; i++) cpu_relax();
    if (Clock::now() - since < kWaitSpin) continue;
    std::unique_lock<std::mutex> lock(waiting_);
    waiters_.fetch_add(1);
    done_.wait(lock, [&] { return reached(word(kTail).load(), sequence) || cancel_.load(); });
    waiters_.fetch_sub(1);
    return true;
  }
  return true;
}

bool Queue::take_error(QueueError* out) {
  if (word(kError).load() == OG_OK) return false;
  *out = error_;
  word(kError).store(OG_OK);
  return true;
}

void Queue::stop() {
  {
    std::lock_guard<std::mutex> lock(park_);
    cancel_.store(true);
    unpark_.notify_all();
  }
  {
    std::lock_guard<std::mutex> lock(waiting_);
    done_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

}  // namespace og
