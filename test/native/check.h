/**
 * What the native tests share: checks that count failures, a generator, tensors over any layout with guarded gaps, and
 * a runner that goes through every instruction set of this machine. Expected values are computed in double.
 */
#ifndef OMNIGRAD_TEST_CHECK_H
#define OMNIGRAD_TEST_CHECK_H

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/parallel.h"
#include "core/registry.h"
#include "core/status.h"
#include "core/view.h"

namespace og_test {

inline int& failures() {
  static int count = 0;
  return count;
}
inline int& passes() {
  static int count = 0;
  return count;
}

#ifdef __SANITIZE_THREAD__
constexpr bool kUnderThreadSanitizer = true;
#else
constexpr bool kUnderThreadSanitizer = false;
#endif

/**
 * OG_TEST_SIZES=small: under sanitizers and emulators, which take ten times as long, tests leave out repetitions of
 * what smaller sizes have run through already. Every path, set and dtype stays.
 */
inline bool small_sizes() {
  static const bool is_small = [] {
    const char* wanted = std::getenv("OG_TEST_SIZES");
    return wanted && std::strcmp(wanted, "small") == 0;
  }();
  return is_small;
}
/** The definition goes element by element: its bits with several threads are left to builds that run everything. */
inline int thread_limit(og::Isa isa, int wanted) { return small_sizes() && isa == og::kReference ? 1 : wanted; }
/** Of large sizes in several layouts, the pairs that are run: each size and each layout is in some of them. */
inline bool is_chosen(int size, int layout, int layouts = 2) {
  return !small_sizes() || (size + layout) % layouts == 0;
}
/** So many draws, or a third of them. */
inline int draws(int count) { return small_sizes() ? (count + 2) / 3 : count; }

/** What is being tested just now; printed with each failure. */
inline std::string& context() {
  static std::string text;
  return text;
}

/** Sets the context, in printf form. */
inline void named(const char* format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 1, 2)))
#endif
    ;
inline void named(const char* format, ...) {
  char text[240];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  context() = text;
}

#define CHECK(condition, ...)                                                                     \
  do {                                                                                            \
    if (condition) {                                                                              \
      og_test::passes()++;                                                                        \
    } else if (++og_test::failures() <= 40) {                                                     \
      std::printf("%s:%d [%s] %s: ", __FILE__, __LINE__, og_test::context().c_str(), #condition); \
      std::printf(" " __VA_ARGS__);                                                               \
      std::printf("\n");                                                                          \
    }                                                                                             \
  } while (0)

/** The call returned OG_OK; otherwise its message is printed. */
#define CHECK_OK(call) CHECK((call) == OG_OK, "%s", og::last_message())
/** The call failed with this code. */
#define CHECK_FAILS(call, code) CHECK((call) == (code), "not " #code)

/** Last line of main(): the counts and the exit code. A test that checked nothing has failed. */
inline int finish(const char* name) {
  std::printf("%s: %d passed, %d failed\n", name, passes(), failures());
  return failures() || !passes() ? 1 : 0;
}

/** What main() returns, saying why, where the machine cannot run the test; CMakeLists.txt tells CTest. */
inline int skip(const char* why) {
  std::printf("%s\n", why);
  return 77;
}

/** splitmix64: small, seedable, the same everywhere. */
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  double uniform(double low = 0, double high = 1) { return low + (high - low) * (double)(next() >> 11) * 0x1p-53; }
  int64_t below(int64_t n) { return (int64_t)(next() % (uint64_t)n); }
  double normal() { return std::sqrt(-2 * std::log(1 - uniform())) * std::cos(6.283185307179586 * uniform()); }

 private:
  uint64_t state_;
};

enum Layout {
  kDense,       // row-major
  kTransposed,  // first axis fastest
  kGaps,        // row-major with gaps after every axis
  kReversed,    // negative stride on every axis
  kUnaligned,   // row-major, starting one element off
  kLayoutCount
};

/** A tensor that owns its memory. Elements are addressed in row-major order of the logical shape. */
class Tensor {
 public:
  Tensor() { std::memset(&view_, 0, sizeof view_), view_.dtype = -1; }  // an absent optional operand
  Tensor(int32_t dtype, std::vector<int64_t> shape, Layout layout = kDense) {
    std::memset(&view_, 0, sizeof view_);
    view_.dtype = dtype;
    view_.rank = (int32_t)shape.size();
    int64_t stride = 1, low = 0, high = 0;
    for (int step = 0; step < view_.rank; step++) {
      const int axis = layout == kTransposed ? step : view_.rank - 1 - step;
      view_.shape[axis] = shape[axis];
      if (layout == kGaps) stride += step ? 3 : 1;
      view_.strides[axis] = layout == kReversed ? -stride : stride;
      const int64_t span = (shape[axis] > 0 ? shape[axis] - 1 : 0) * view_.strides[axis];
      (span < 0 ? low : high) += span;
      stride *= shape[axis] > 0 ? shape[axis] : 1;
    }
    const int64_t size = og::dtype_size(dtype), lead = layout == kUnaligned ? 1 : 0;
    bytes_.assign((size_t)((high - low + 1 + lead) * size + 64), (char)0xa5);
    start_ = (lead - low) * size;
    find_offsets();
    fill([](int64_t) { return 0.; });
  }

  bool present() const { return view_.dtype >= 0; }
  int32_t dtype() const { return view_.dtype; }
  int64_t count() const { return og::count_of(view_); }
  std::vector<int64_t> shape() const { return std::vector<int64_t>(view_.shape, view_.shape + view_.rank); }
  og_view view() {
    og_view v = view_;
    v.data = present() ? bytes_.data() + start_ : nullptr;
    return v;
  }
  /** Makes an axis a broadcast one: every index reads element 0. */
  Tensor& broadcast(int axis, int64_t length) {
    view_.shape[axis] = length;
    view_.strides[axis] = 0;
    find_offsets();
    return *this;
  }

  double get(int64_t index) const {
    const char* p = at(index);
    switch (view_.dtype) {
      case OG_F32:
        return read<float>(p);
      case OG_F16:
        return og::to_float(read<og::f16>(p));
      case OG_BF16:
        return og::to_float(read<og::bf16>(p));
      case OG_F64:
        return read<double>(p);
      case OG_I8:
        return read<int8_t>(p);
      case OG_I32:
        return read<int32_t>(p);
      case OG_I64:
        return (double)read<int64_t>(p);
      default:
        return read<uint8_t>(p);
    }
  }
  void set(int64_t index, double value) {
    char* p = at(index);
    switch (view_.dtype) {
      case OG_F32:
        return write(p, (float)value);
      case OG_F16:
        return write(p, og::to_f16((float)value));
      case OG_BF16:
        return write(p, og::to_bf16((float)value));
      case OG_F64:
        return write(p, value);
      case OG_I8:
        return write(p, (int8_t)value);
      case OG_I32:
        return write(p, (int32_t)value);
      case OG_I64:
        return write(p, (int64_t)value);
      default:
        return write(p, (uint8_t)value);
    }
  }
  /** Integers beyond 2^53 need these. */
  int64_t get_int(int64_t index) const { return dtype() == OG_I64 ? read<int64_t>(at(index)) : (int64_t)get(index); }
  void set_int(int64_t index, int64_t value) {
    if (dtype() == OG_I64) return write(at(index), value);
    set(index, (double)value);
  }
  /** Element i becomes value(i), rounded to the dtype. */
  Tensor& fill(const std::function<double(int64_t)>& value) {
    const int64_t n = count();
    for (int64_t i = 0; i < n; i++) set(i, value(i));
    return *this;
  }
  Tensor& normal(Random& random, double scale = 1, double mean = 0) {
    return fill([&](int64_t) { return mean + scale * random.normal(); });
  }
  Tensor& uniform(Random& random, double low, double high) {
    return fill([&](int64_t) { return random.uniform(low, high); });
  }
  /** Integers of [low, high). */
  Tensor& integers(Random& random, int64_t low, int64_t high) {
    return fill([&](int64_t) { return (double)(low + random.below(high - low)); });
  }
  Tensor& assign(const std::vector<double>& list) {
    return fill([&](int64_t i) { return list[(size_t)i]; });
  }
  std::vector<double> values() const {
    std::vector<double> out((size_t)count());
    for (size_t i = 0; i < out.size(); i++) out[i] = get((int64_t)i);
    return out;
  }
  /** All bytes, gaps included. */
  const std::vector<char>& bytes() const { return bytes_; }
  /** Bytes that belong to no element still hold what they held before; `before` is an earlier bytes(). */
  bool gaps_intact(const std::vector<char>& before) const {
    const int64_t n = count(), size = og::dtype_size(view_.dtype);
    if (is_dense_) {
      const auto same = [&](int64_t begin, int64_t end) {
        return std::memcmp(bytes_.data() + begin, before.data() + begin, (size_t)(end - begin)) == 0;
      };
      return before.size() == bytes_.size() && same(0, start_) && same(start_ + n * size, (int64_t)bytes_.size());
    }
    std::vector<char> mine(bytes_);
    for (int64_t i = 0; i < n; i++) {
      const int64_t offset = at(i) - bytes_.data();
      std::memcpy(mine.data() + offset, before.data() + offset, (size_t)size);
    }
    return mine == before;
  }

 private:
  template <class T>
  static T read(const char* p) {
    T x;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  template <class T>
  static void write(char* p, T x) {
    std::memcpy(p, &x, sizeof x);
  }
  void find_offsets() {
    is_dense_ = og::is_contiguous(view_);
    offsets_.clear();
    if (is_dense_) return;
    const int64_t n = count();
    for (int64_t i = 0; i < n; i++) offsets_.push_back(og::offset_of(view_, i, view_.rank));
  }
  const char* at(int64_t index) const {
    const int64_t offset = is_dense_ ? index : offsets_[(size_t)index];
    return bytes_.data() + start_ + offset * og::dtype_size(view_.dtype);
  }
  char* at(int64_t index) { return const_cast<char*>(static_cast<const Tensor*>(this)->at(index)); }

  og_view view_;
  std::vector<char> bytes_;
  int64_t start_ = 0;
  /** Row-major without gaps, as most large ones are. */
  bool is_dense_ = false;
  /** Of any other, where each element lies: found once, as it takes a division per axis. */
  std::vector<int64_t> offsets_;
};

/** Runs a kernel by name and returns its status. Inputs must keep their bytes, outputs the bytes of their gaps. */
inline int32_t run(og::Isa isa, const char* name, std::initializer_list<Tensor*> inputs,
                   std::initializer_list<Tensor*> outputs, std::initializer_list<double> attrs = {}) {
  const int32_t id = og::kernel_id(name);
  CHECK(id >= 0, "no kernel %s", name);
  if (id < 0) return OG_INVALID;
  std::vector<og_view> in, out;
  std::vector<std::vector<char>> in_before, out_before;
  for (Tensor* t : inputs) in.push_back(t->view()), in_before.push_back(t->bytes());
  for (Tensor* t : outputs) out.push_back(t->view()), out_before.push_back(t->bytes());
  const std::vector<double> numbers(attrs);
  og_call call = {in.data(),          out.data(),          numbers.data(),
                  (int32_t)in.size(), (int32_t)out.size(), (int32_t)numbers.size()};
  const int32_t status = og::run_kernel_on(isa, id, call);
  size_t k = 0;
  for (Tensor* t : inputs) {
    bool aliased = false;
    for (Tensor* o : outputs) aliased = aliased || o == t;
    CHECK(aliased || t->bytes() == in_before[k], "%s changed input %d", name, (int)k);
    k++;
  }
  k = 0;
  for (Tensor* t : outputs) {
    CHECK(!t->present() || t->gaps_intact(out_before[k]), "%s wrote outside output %d", name, (int)k);
    k++;
  }
  return status;
}

/** Calls body(isa) for each set this machine can run, with the name in the context. float64 only runs on `reference`.
 */
template <class F>
void for_each_isa(const F& body) {
  const std::string before = context();
  for (int i = 0; i < og::kIsaCount; i++) {
    if (!og::isa_available((og::Isa)i)) continue;
    // Threads are the same in all sets, and each takes minutes there.
    if (kUnderThreadSanitizer && (og::Isa)i != og::default_isa()) continue;
    context() = before + " " + og::isa_name((og::Isa)i);
    body((og::Isa)i);
  }
  context() = before;
}

inline const char* dtype_name(int32_t dtype) {
  static const char* const names[] = {"f32", "f16", "bf16", "f64", "i8", "u8", "i32", "i64", "bool"};
  return dtype >= 0 && dtype < OG_DTYPE_COUNT ? names[dtype] : "absent";
}

/** Unit roundoff of a float dtype: half the gap between 1 and the next number. */
inline double roundoff(int32_t dtype) {
  return dtype == OG_F16 ? 0x1p-11 : dtype == OG_BF16 ? 0x1p-8 : dtype == OG_F64 ? 0x1p-53 : 0x1p-24;
}

/** |got − want| ≤ absolute + relative·|want|; NaN equals NaN and infinities must agree in sign. */
inline bool close(double got, double want, double relative, double absolute) {
  if (std::isnan(want) || std::isnan(got)) return std::isnan(want) && std::isnan(got);
  if (std::isinf(want) || std::isinf(got)) return got == want;
  return std::fabs(got - want) <= absolute + relative * std::fabs(want);
}

/** Compares a whole tensor; one check, and the first difference is reported. */
inline void check_close(const Tensor& got, const std::vector<double>& want, double relative, double absolute,
                        const char* what) {
  CHECK(got.count() == (int64_t)want.size(), "%s: %lld elements, expected %zu", what, (long long)got.count(),
        want.size());
  for (size_t i = 0; i < want.size(); i++) {
    const double value = got.get((int64_t)i);
    if (close(value, want[i], relative, absolute)) continue;
    CHECK(false, "%s[%zu] is %.9g, expected %.9g (%s)", what, i, value, want[i], dtype_name(got.dtype()));
    return;
  }
  passes()++;
}

/** Same bits for 1 and 2 and 5 threads: calls run() for each count and compares what bytes() returns. */
template <class Run, class Bytes>
void check_threads(const Run& run, const Bytes& bytes) {
  const int before = og::threads();
  std::vector<char> first;
  const int counts[] = {1, 2, 5};
  for (int count : counts) {
    og::set_threads(count);
    run();
    if (count == 1)
      first = bytes();
    else
      CHECK(bytes() == first, "%d threads gave other bits than 1", count);
  }
  og::set_threads(before);
}

}  // namespace og_test
#endif
