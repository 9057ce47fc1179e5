/** The core without kernels' arithmetic: ring queue, slots, frames, thread pool, scratch. Clean under ThreadSanitizer.
 */
#include "core/queue.h"

#include <atomic>
#include <chrono>
#include <thread>

#include "check.h"
#include "core/frame.h"
#include "core/scratch.h"

using namespace og;

namespace {

constexpr int64_t kRing = 1 << 14;

/** What JavaScript does: writes frames, moves HEAD, wakes. */
struct Writer {
  std::vector<double> ring = std::vector<double>(kRing);
  int32_t control[kControlWords] = {};
  std::atomic<int> notified{0};
  Queue queue{ring.data(), kRing, control, [](void* self) { static_cast<Writer*>(self)->notified++; }, this};
  int64_t at = 0;
  int32_t head = 0;

  std::atomic<int32_t>& word(int i) { return reinterpret_cast<std::atomic<int32_t>*>(control)[i]; }

  void put(const std::vector<double>& frame) {
    if (at + (int64_t)frame.size() > kRing) {
      if (at < kRing) ring[at] = -1;
      at = 0;
    }
    std::copy(frame.begin(), frame.end(), ring.begin() + at);
    at += (int64_t)frame.size();
    word(kHead).store(++head);
    int32_t parked = 1;
    if (word(kParked).compare_exchange_strong(parked, 0)) queue.wake();
  }
};

std::vector<double> fill_frame(int64_t handle, int64_t offset, int64_t count, double value) {
  return {(double)kernel_id("fill"), 12, 0, 1, 1, (double)handle, (double)offset, OG_F32, 1, (double)count, 1, value};
}

std::vector<double> copy_frame(int64_t from, int64_t to, int64_t count) {
  return {(double)kernel_id("copy"),
          17,
          1,
          1,
          0,
          (double)from,
          0,
          OG_F32,
          1,
          (double)count,
          1,
          (double)to,
          0,
          OG_F32,
          1,
          (double)count,
          1};
}

/** Each frame depends on the one before it; the ring wraps many times. */
void test_order() {
  og_test::context() = "order";
  Writer writer;
  std::vector<float> a(64), b(64);
  SlotTable& slots = writer.queue.slots();
  const int64_t ha = slots.add(a.data(), 256, nullptr), hb = slots.add(b.data(), 256, nullptr);
  for (int round = 0; round < 3000; round++) {
    writer.put(fill_frame(ha, 0, 64, round));
    writer.put(copy_frame(ha, hb, 64));
    writer.put(fill_frame(ha, 0, 64, -1));
    if (round % 100 != 99) continue;  // the ring holds some 390 rounds: what is unread must not be overwritten
    CHECK(writer.queue.wait_for(writer.head), "wait");
    CHECK(b[0] == (float)round && b[63] == (float)round, "got %g for round %d", b[0], round);
    CHECK(a[17] == -1.f, "got %g", a[17]);
  }
  CHECK(!writer.queue.wait_for(writer.head + 1), "the future was waited for");
  writer.queue.stop();
}

void test_waiters() {
  og_test::context() = "waiters";
  Writer writer;
  std::vector<float> block(1 << 16);
  const int64_t handle = writer.queue.slots().add(block.data(), (int64_t)block.size() * 4, nullptr);
  for (int round = 0; round < 20; round++) {
    writer.word(kWakeAt).store(writer.head + 8);
    writer.word(kArmed).store(1);
    for (int i = 0; i < 8; i++) writer.put(fill_frame(handle, 0, 1 << 16, round));
    std::vector<std::thread> waiting;
    std::atomic<int> done{0};
    for (int i = 0; i < 3; i++)
      waiting.emplace_back([&, i] {
        if (writer.queue.wait_for(writer.word(kHead).load() - i)) done++;
      });
    for (std::thread& thread : waiting) thread.join();
    CHECK(done == 3, "%d of 3", done.load());
    CHECK(writer.queue.wait_for(writer.head), "wait");
    while (writer.notified.load() != round + 1) std::this_thread::yield();
    CHECK(writer.word(kArmed).load() == 0, "armed after the notification");
  }
}

/** The first failure stays; frames behind it are skipped until it is taken. */
void test_errors() {
  og_test::context() = "errors";
  Writer writer;
  float block[4] = {};
  const int64_t handle = writer.queue.slots().add(block, sizeof block, nullptr);
  QueueError error;
  for (int round = 0; round < 200; round++) {
    const int32_t first = writer.head;
    writer.put(fill_frame(handle, 0, 4, 1));
    writer.put(fill_frame(handle, 0, 5, 2));
    writer.put(fill_frame(handle, 0, 4, 3));
    writer.put(fill_frame(handle + 1, 0, 4, 4));
    CHECK(writer.queue.wait_for(writer.head), "wait");
    CHECK(block[0] == 1.f, "a frame ran after a failure");
    CHECK(writer.queue.take_error(&error), "no error");
    CHECK(error.code == OG_INVALID && error.sequence == first + 1, "code %d at %d", error.code, error.sequence);
    CHECK(std::strstr(error.message, "16 bytes") != nullptr, "%s", error.message);
    CHECK(!writer.queue.take_error(&error), "taken twice");
    writer.put(fill_frame(handle, 0, 4, 0));
    CHECK(writer.queue.wait_for(writer.head) && block[3] == 0.f, "the queue did not recover");
  }
}

void test_stop() {
  og_test::context() = "stop";
  std::vector<float> block(1 << 22);
  for (int round = 0; round < 12; round++) {
    Writer writer;
    const int64_t handle = writer.queue.slots().add(block.data(), (int64_t)block.size() * 4, nullptr);
    for (int i = 0; i < 200; i++) writer.put(fill_frame(handle, 0, 1 << 22, i));
    // someone waits for work that will be skipped
    std::thread waiter([&] { writer.queue.wait_for(writer.word(kHead).load()); });
    if (round % 3 == 1) std::this_thread::sleep_for(std::chrono::microseconds(300 * round));
    writer.queue.stop();
    waiter.join();
    writer.queue.stop();
    writer.queue.wake();  // ignored
    const std::vector<double> frame = fill_frame(handle, 0, 4, 9);
    CHECK(writer.queue.run_inline(frame.data(), 12) == OG_CANCELLED, "ran after the end");
  }
  Writer untouched;  // never started
}

void test_slots() {
  og_test::context() = "slots";
  SlotTable slots;
  static int released;
  released = 0;
  char memory[8];
  void* base;
  int64_t bytes;
  std::vector<int64_t> seen;
  for (int i = 0; i < 5000; i++) {
    const int64_t handle = slots.add(memory, 8, [](void*, int64_t) { released++; });
    CHECK(slots.find(handle, &base, &bytes) && base == memory && bytes == 8, "not found");
    for (size_t k = seen.size() < 4 ? 0 : seen.size() - 4; k < seen.size(); k++)
      CHECK(seen[k] != handle && !slots.find(seen[k], &base, &bytes), "an old handle is found");
    seen.push_back(handle);
    CHECK(slots.remove(handle) && !slots.remove(handle), "removal");
  }
  CHECK(released == 5000 && slots.live() == 0, "%d released", released);
  std::vector<int64_t> many;
  for (int i = 0; i < 10000; i++) many.push_back(slots.add(memory, i, nullptr));  // several pages
  for (int i = 0; i < 10000; i++) CHECK(slots.find(many[i], &base, &bytes) && bytes == i, "block %d", i);
  for (const int64_t wrong : {int64_t{-1}, int64_t{0}, many[0] + (int64_t{2} << 24), int64_t{1} << 52, INT64_MAX})
    CHECK(!slots.find(wrong, &base, &bytes) && !slots.remove(wrong), "%lld", (long long)wrong);
  {
    SlotTable dying;
    dying.add(memory, 8, [](void*, int64_t) { released++; });
  }
  CHECK(released == 5001, "what was left was not released");
}

void test_frames() {
  og_test::context() = "frames";
  SlotTable slots;
  float block[16];
  const int64_t handle = slots.add(block, sizeof block, nullptr);
  static DecodedFrame out;
  const std::vector<double> good = fill_frame(handle, 0, 16, 1);
  CHECK_OK(decode_frame(good.data(), 12, slots, &out));
  CHECK(out.call.outputs[0].data == block && out.call.attrs[0] == 1, "decoded");
  const double nan = std::nan(""), infinity = HUGE_VAL;
  const double wrong[] = {nan, infinity, -infinity, -1, 0.5, 1e300, 9007199254740992., -9007199254740992., 1e9};
  for (size_t i = 0; i < 11; i++)
    for (const double value : wrong) {
      std::vector<double> frame = good;
      frame[i] = value;
      const int32_t status = decode_frame(frame.data(), 12, slots, &out);
      const bool absent = i == 5 && value == -1;
      CHECK(status == (absent ? OG_OK : OG_INVALID), "word %zu of %g", i, value);
    }
  for (int64_t available = 0; available < 12; available++)
    CHECK_FAILS(decode_frame(good.data(), available, slots, &out), OG_INVALID);
  // to the last byte, and one beyond, forwards and backwards
  struct {
    double offset, count, stride;
    bool fits;
  } reach[] = {{0, 16, 1, true},  {4, 15, 1, true},   {4, 16, 1, false}, {60, 16, -1, true}, {56, 16, -1, false},
               {0, 6, 3, true},   {0, 7, 3, false},   {64, 0, 1, true},  {68, 0, 1, false},  {60, 1, 1e15, true},
               {64, 1, 1, false}, {0, 1e15, 0, true}, {2, 1, 1, false}};
  for (const auto& r : reach) {
    std::vector<double> frame = fill_frame(handle, (int64_t)r.offset, (int64_t)r.count, 1);
    frame[10] = r.stride;
    CHECK(decode_frame(frame.data(), 12, slots, &out) == (r.fits ? OG_OK : OG_INVALID), "offset %g, %g × %g", r.offset,
          r.count, r.stride);
  }
}

/** Two threads use the pool at once; every chunk runs exactly once, and the pool may change size between jobs. */
void test_parallel() {
  og_test::context() = "parallel";
  const int before = threads();
  std::vector<std::thread> users;
  std::atomic<int> wrong{0};
  for (int user = 0; user < 2; user++)
    users.emplace_back([&] {
      for (int round = 0; round < 300; round++) {
        const int64_t chunks = 1 + round % 37;
        std::vector<std::atomic<int>> counts(chunks);
        parallel_for(chunks, [&](int64_t chunk) { counts[chunk]++; });
        for (auto& count : counts) wrong += count != 1;
        std::atomic<int64_t> sum{0};
        parallel_ranges(1000 + round, 64, [&](int64_t begin, int64_t end) {
          parallel_for(2, [&](int64_t half) { sum += half ? end - begin : 0; });  // nested
        });
        wrong += sum != 1000 + round;
      }
    });
  for (int count = 1; count <= 40; count++) set_threads(1 + count % 4);
  for (std::thread& user : users) user.join();
  CHECK(wrong == 0, "%d chunks ran not once", wrong.load());
  set_threads(before);

  std::atomic<bool> cancel{true};
  const std::atomic<bool>* old = set_cancel_flag(&cancel);
  int ran = 0;
  parallel_for(1000, [&](int64_t) { ran++; });
  CHECK(ran < 1000, "a cancelled job ran to its end");
  set_cancel_flag(old);
}

void test_scratch() {
  og_test::context() = "scratch";
  std::vector<std::thread> users;
  for (int user = 0; user < 3; user++)
    users.emplace_back([user] {
      for (int round = 0; round < 100; round++) {
        ScratchFrame outer;
        int* a = outer.take<int>(1000);
        for (int i = 0; i < 1000; i++) a[i] = user;
        {
          ScratchFrame inner;
          double* b = inner.take<double>(100 + 5000 * round);
          if (b) b[0] = b[99 + 5000 * round] = -1;
        }
        for (int i = 0; i < 1000; i++)
          if (a[i] != user) std::abort();
      }
    });
  for (std::thread& user : users) user.join();
  ScratchFrame frame;
  char* first = frame.take<char>(1);
  char* second = frame.take<char>(1);
  CHECK(first && second && ((uintptr_t)first & 63) == 0 && ((uintptr_t)second & 63) == 0 && first != second,
        "alignment");
  CHECK(frame.take<double>(-1) == nullptr, "a negative size");
  CHECK(frame.take<double>(INT64_MAX) == nullptr, "a size that overflows");
  CHECK(frame.take<char>(INT64_MAX - 8) == nullptr, "more than there is");
  CHECK(frame.take<char>(64) != nullptr, "after a refusal");
}

}  // namespace

int main() {
  test_slots();
  test_frames();
  test_order();
  test_waiters();
  test_errors();
  test_stop();
  test_parallel();
  test_scratch();
  return og_test::finish("queue_test");
}
