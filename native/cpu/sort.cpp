/**
 * sort (stable) and topk over the last axis; values keep their bits, indices are int64. NaN counts as the largest
 * number, so it comes last in ascending and first in descending order, as in PyTorch; −0 equals 0.
 *
 * Keys: each element becomes an unsigned integer whose order is the wanted one (floats: the sign-magnitude trick;
 * descending: complement), 32 bits wide, or 64 for int64 and float64. sort: insertion for up to 48 elements, beyond
 * that a least-significant-digit radix sort with 8-bit digits, one counting pass for all digits, and digits that are
 * equal everywhere skipped. topk: a heap of the k best, whose root rejects most elements with one comparison (dense
 * floats of up to 32 bits: vectors of them), ties to the smaller index; for k above length / 8 the row is sorted.
 * Results are always ordered, whether asked for or not. Any strides. Parallel split: by rows. Scratch: two pairs of key
 * and index a row element.
 */
#include "../core/scratch.h"
#include "elementwise.h"

namespace og {
namespace OG_ISA {
namespace {

constexpr int64_t kInsertion = 48;

inline uint32_t ordered(float x) {
  if (x != x) return 0xffffffffu;
  const uint32_t u = float_bits(x + 0.f);  // −0 + 0 is 0
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}
inline uint32_t ordered(f16 x) { return ordered(to_float(x)); }
inline uint32_t ordered(bf16 x) { return ordered(to_float(x)); }
inline uint64_t ordered(double x) {
  if (x != x) return ~uint64_t{0};
  x += 0.;
  uint64_t u;
  std::memcpy(&u, &x, 8);
  return u >> 63 ? ~u : u | uint64_t{1} << 63;
}
inline uint32_t ordered(int8_t x) { return (uint32_t)x ^ 0x80000000u; }
inline uint32_t ordered(uint8_t x) { return x; }
inline uint32_t ordered(int32_t x) { return (uint32_t)x ^ 0x80000000u; }
inline uint64_t ordered(int64_t x) {
  return (uint64_t)x ^ uint64_t { 1 } << 63;
}

template <class K>
struct Item {
  K key;
  uint32_t index;
};

template <class K>
inline bool before(const Item<K>& a, const Item<K>& b) {
  return a.key < b.key || (a.key == b.key && a.index < b.index);
}

template <class K>
void insertion_sort(Item<K>* items, int64_t n) {
  for (int64_t i = 1; i < n; i++) {
    const Item<K> item = items[i];
    int64_t j = i;
    for (; j > 0 && item.key < items[j - 1].key; j--) items[j] = items[j - 1];
    items[j] = item;
  }
}

/** Returns whichever of the two buffers holds the result. */
template <class K>
Item<K>* radix_sort(Item<K>* items, Item<K>* other, int64_t n) {
  constexpr int kDigits = (int)sizeof(K);
  uint32_t counts[kDigits][256];
  std::memset(counts, 0, sizeof counts);
  for (int64_t i = 0; i < n; i++)
    for (int d = 0; d < kDigits; d++) counts[d][(items[i].key >> (8 * d)) & 255]++;
  for (int d = 0; d < kDigits; d++) {
    uint32_t* count = counts[d];
    if (count[(items[0].key >> (8 * d)) & 255] == (uint32_t)n) continue;
    uint32_t at = 0;
    for (int v = 0; v < 256; v++) {
      const uint32_t c = count[v];
      count[v] = at;
      at += c;
    }
    for (int64_t i = 0; i < n; i++) other[count[(items[i].key >> (8 * d)) & 255]++] = items[i];
    Item<K>* swap = items;
    items = other;
    other = swap;
  }
  return items;
}

template <class K>
Item<K>* sort_items(Item<K>* items, Item<K>* other, int64_t n) {
  if (n > kInsertion) return radix_sort(items, other, n);
  insertion_sort(items, n);
  return items;
}

/** Restores "no child after its parent": the root is the item that is worst among the kept. */
template <class K>
void sift_down(Item<K>* heap, int64_t n, int64_t i) {
  const Item<K> item = heap[i];
  for (int64_t child = 2 * i + 1; child < n; child = 2 * i + 1) {
    if (child + 1 < n && before(heap[child], heap[child + 1])) child++;
    if (!before(item, heap[child])) break;
    heap[i] = heap[child];
    i = child;
  }
  heap[i] = item;
}

struct Task {
  const og_view &x, &values, &indices;
  int64_t n, k;  // row length, results a row
  bool descending;
};

#ifndef OG_IS_REFERENCE

/** A bit for each lane that may come before `bound`: wherever the comparison with it does not say otherwise. */
template <bool D>
OG_INLINE uint64_t may_precede(Vf x, Vf bound) {
#if OG_LANES == 16
  return _mm512_cmp_ps_mask((__m512)x, (__m512)bound, D ? _CMP_NLE_UQ : _CMP_NGE_UQ);
#elif OG_LANES == 8
  return (uint64_t)_mm256_movemask_ps(_mm256_cmp_ps((__m256)x, (__m256)bound, D ? _CMP_NLE_UQ : _CMP_NGE_UQ));
#elif defined(__x86_64__)
  return (uint64_t)_mm_movemask_ps(D ? _mm_cmpnle_ps((__m128)x, (__m128)bound)
                                     : _mm_cmpnge_ps((__m128)x, (__m128)bound));
#else
  const Vi not_after = D ? (x <= bound) : (x >= bound);
  uint64_t mask = 0;
  for (int i = 0; i < kLanes; i++) mask |= (uint64_t)(not_after[i] == 0) << i;
  return mask;
#endif
}

/** Calls take(i) for each element from `i` on that may come before element `worst()`, four vectors at a time; where it
 * stopped for want of whole ones. take may change what `worst` says. */
template <bool D, class T, class Worst, class Take>
int64_t each_candidate(const T* row, int64_t i, int64_t n, const Worst& worst, const Take& take) {
  Vf bound = set1(widen<float>(row[worst()]));
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    uint64_t mask = 0;
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) mask |= may_precede<D>(load(row + i + v * kLanes), bound) << (v * kLanes);
    if (mask == 0) continue;
    for (; mask; mask &= mask - 1) take(i + __builtin_ctzll(mask));
    bound = set1(widen<float>(row[worst()]));
  }
  return i;
}

#endif

/** The first k items of the row in order. */
template <class T, class K>
Item<K>* best_of_row(const Task& task, const T* row, Item<K>* items, Item<K>* other) {
  const int64_t stride = task.x.strides[task.x.rank - 1];
  const K flip = task.descending ? (K)~K(0) : K(0);
  const auto key = [=](int64_t i) { return (K)((K)ordered(row[i * stride]) ^ flip); };
  if (task.k > task.n / 8) {
    for (int64_t i = 0; i < task.n; i++) items[i] = {key(i), (uint32_t)i};
    return sort_items(items, other, task.n);
  }
  for (int64_t i = 0; i < task.k; i++) items[i] = {key(i), (uint32_t)i};
  for (int64_t i = task.k / 2 - 1; i >= 0; i--) sift_down(items, task.k, i);
  const auto take = [&](int64_t i) {
    const K candidate = key(i);
    if (candidate >= items[0].key) return;
    items[0] = {candidate, (uint32_t)i};
    sift_down(items, task.k, 0);
  };
  int64_t next = task.k;
#ifndef OG_IS_REFERENCE
  if constexpr (std::is_same<T, float>::value || std::is_same<T, f16>::value || std::is_same<T, bf16>::value) {
    const auto worst = [&] { return (int64_t)items[0].index; };
    if (stride == 1)
      next = task.descending ? each_candidate<true>(row, next, task.n, worst, take)
                             : each_candidate<false>(row, next, task.n, worst, take);
  }
#endif
  for (; next < task.n; next++) take(next);
  for (int64_t size = task.k - 1; size > 0; size--) {
    const Item<K> worst = items[0];
    items[0] = items[size];
    items[size] = worst;
    sift_down(items, size, 0);
  }
  return items;
}

template <class T>
int32_t order_rows(const Task& task) {
  typedef decltype(ordered(T{})) K;
  const int last = task.x.rank - 1;
  int64_t rows = 1;
  for (int i = 0; i < last; i++) rows *= task.x.shape[i];
  const bool heap = task.k <= task.n / 8;
  const int64_t room = heap ? task.k : task.n;
  int32_t failed = 0;
  parallel_ranges(rows, grain_for(heap ? task.n : 8 * task.n), [&](int64_t begin, int64_t end) {
    ScratchFrame frame;
    Item<K>* items = frame.take<Item<K>>(room);
    Item<K>* other = frame.take<Item<K>>(heap ? 1 : room);
    if (!items || !other) {
      __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
      return;
    }
    const int64_t stride = task.x.strides[last];
    for (int64_t r = begin; r < end; r++) {
      const T* row = data_of<const T>(task.x) + offset_of(task.x, r, last);
      T* values = data_of<T>(task.values) + offset_of(task.values, r, last);
      int64_t* indices = data_of<int64_t>(task.indices) + offset_of(task.indices, r, last);
      const Item<K>* best = best_of_row<T, K>(task, row, items, other);
      for (int64_t i = 0; i < task.k; i++) {
        values[i * task.values.strides[last]] = row[(int64_t)best[i].index * stride];
        indices[i * task.indices.strides[last]] = best[i].index;
      }
    }
  });
  return failed ? fail(OG_OUT_OF_MEMORY, "sort: no memory for the keys of a row") : OG_OK;
}

int32_t order(const char* op, const og_call* call, bool descending) {
  const og_view &x = call->inputs[0], &values = call->outputs[0], &indices = call->outputs[1];
  OG_REQUIRE(x.rank > 0 && values.rank == x.rank && same_shape(values, indices), "%s: shapes do not fit", op);
  const int last = x.rank - 1;
  for (int i = 0; i < last; i++) OG_REQUIRE(values.shape[i] == x.shape[i], "%s: shapes do not fit", op);
  OG_REQUIRE(values.shape[last] <= x.shape[last], "%s: %lld results of %lld elements", op,
             (long long)values.shape[last], (long long)x.shape[last]);
  OG_REQUIRE(values.dtype == x.dtype && indices.dtype == OG_I64, "%s: values must have x's dtype, indices int64", op);
  OG_SUPPORTED(x.shape[last] <= (int64_t)0xffffffffu, "%s: rows are limited to 2^32 elements", op);
  if (count_of(values) == 0) return OG_OK;
  const Task task = {x, values, indices, x.shape[last], values.shape[last], descending};
  int32_t status = OG_OK;
  with_storage(x.dtype, [&](auto type) { status = order_rows<decltype(type)>(task); });
  return status;
}

}  // namespace

/** attrs: descending. */
int32_t kernel_sort(const og_call* call) {
  const int last = call->inputs[0].rank - 1;
  OG_REQUIRE(last >= 0 && same_shape(call->inputs[0], call->outputs[0]), "sort: shapes differ");
  return order("sort", call, call->attrs[0] != 0);
}

/** attrs: largest, sorted; k is the length of the outputs' last axis. */
int32_t kernel_topk(const og_call* call) { return order("topk", call, call->attrs[0] != 0); }

}  // namespace OG_ISA
}  // namespace og
