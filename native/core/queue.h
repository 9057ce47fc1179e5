/**
 * One in-order queue of one environment. JavaScript writes frames into a ring and bumps HEAD; one executor thread runs
 * them and bumps TAIL. The control words are shared with JavaScript, which waits, wakes and polls through them, so the
 * common path crosses the border not at all. docs/adr/0007 has the reasons and the figures.
 */
#ifndef OMNIGRAD_CORE_QUEUE_H
#define OMNIGRAD_CORE_QUEUE_H

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

#include "frame.h"
#include "slots.h"

namespace og {

/** Control words, a cache line apart. Equal to those of src/runtime/queue.ts. */
enum ControlWord {
  kHead = 0,     // frames submitted (wraps)
  kTail = 16,    // frames completed or skipped (wraps)
  kParked = 32,  // 1 while the executor sleeps and needs wake()
  kWakeAt = 48,  // when ARMED: call `notify` once TAIL has reached this
  kArmed = 64,
  kError = 80,  // status of the first failed frame; frames are skipped until it is taken
  kControlWords = 96
};

struct QueueError {
  int32_t code = 0;
  int32_t sequence = 0;  // of the failed frame
  int32_t kernel = -1;
  char message[256] = {};
};

class Queue {
 public:
  typedef void (*Notify)(void* context);

  /** ring and control belong to the caller and must outlive stop(). */
  Queue(double* ring, int64_t ring_words, int32_t* control, Notify notify, void* context);
  ~Queue() { stop(); }

  SlotTable& slots() { return slots_; }

  /** Wakes a parked executor; starts it on first use. */
  void wake();
  /** Runs the frame at `words` on the calling thread. Only when the queue is idle. */
  int32_t run_inline(const double* words, int64_t available);
  /** Blocks until TAIL has reached `sequence`. False, at once, if HEAD has not: it would never come. */
  bool wait_for(int32_t sequence);
  /** The sticky error, cleared; call it when the queue is idle. False if there is none. */
  bool take_error(QueueError* out);
  /** Skips what is queued, waits for the running kernel and joins the executor. Further frames are ignored. */
  void stop();

 private:
  std::atomic<int32_t>& word(int index) { return control_[index]; }
  void loop();
  void run_next(int32_t sequence);
  void finish(int32_t sequence);
  bool park(int32_t tail);

  double* const ring_;
  const int64_t ring_words_;
  std::atomic<int32_t>* const control_;
  const Notify notify_;
  void* const context_;

  SlotTable slots_;
  DecodedFrame frame_;   // executor's
  DecodedFrame inline_;  // JavaScript thread's
  int64_t read_ = 0;
  std::atomic<bool> cancel_{false};
  std::mutex park_;
  std::condition_variable unpark_;
  uint64_t wakes_ = 0;  // guarded by park_
  std::mutex waiting_;
  std::condition_variable done_;
  std::atomic<int> waiters_{0};
  QueueError error_;  // written before kError is set
  std::thread thread_;
};

}  // namespace og
#endif
