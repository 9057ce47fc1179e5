/**
 * Philox4x32-10, a counter-based generator (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3;
 * SC'11): four 32-bit words are a function of a 128-bit counter and a 64-bit key, so any element of a stream can be
 * computed alone, and a mask replayed without storing it. Element i of a tensor is word i % 4 of counter offset + i
 * / 4.
 */
#ifndef OMNIGRAD_CORE_PHILOX_H
#define OMNIGRAD_CORE_PHILOX_H

#include <cstdint>

namespace og {
namespace {

struct PhiloxKey {
  uint32_t low, high;
};

/** words[4·q … 4·q+3] = Philox(counter first + q, stream) for q in [0, count); `stream` is the counter's third word. */
inline void philox(PhiloxKey key, uint64_t first, uint32_t stream, int64_t count, uint32_t* words) {
  constexpr int kSide = 16;  // counters side by side: the compiler turns each statement into vector code
  for (int64_t at = 0; at < count; at += kSide) {
    uint32_t a[kSide], b[kSide], c[kSide], d[kSide];
    for (int i = 0; i < kSide; i++) {
      const uint64_t counter = first + (uint64_t)(at + i);
      a[i] = (uint32_t)counter;
      b[i] = (uint32_t)(counter >> 32);
      c[i] = stream;
      d[i] = 0;
    }
    uint32_t low = key.low, high = key.high;
    for (int round = 0; round < 10; round++) {
      for (int i = 0; i < kSide; i++) {
        const uint64_t p = (uint64_t)0xd2511f53u * a[i], q = (uint64_t)0xcd9e8d57u * c[i];
        a[i] = (uint32_t)(q >> 32) ^ b[i] ^ low;
        b[i] = (uint32_t)q;
        c[i] = (uint32_t)(p >> 32) ^ d[i] ^ high;
        d[i] = (uint32_t)p;
      }
      low += 0x9e3779b9u;
      high += 0xbb67ae85u;
    }
    const int n = count - at < kSide ? (int)(count - at) : kSide;
    for (int i = 0; i < n; i++) {
      uint32_t* to = words + 4 * (at + i);
      to[0] = a[i];
      to[1] = b[i];
      to[2] = c[i];
      to[3] = d[i];
    }
  }
}

/** One block for any 128-bit counter. */
inline void philox_block(PhiloxKey key, const uint32_t counter[4], uint32_t words[4]) {
  uint32_t a = counter[0], b = counter[1], c = counter[2], d = counter[3];
  for (int round = 0; round < 10; round++) {
    const uint64_t p = (uint64_t)0xd2511f53u * a, q = (uint64_t)0xcd9e8d57u * c;
    a = (uint32_t)(q >> 32) ^ b ^ key.low;
    b = (uint32_t)q;
    c = (uint32_t)(p >> 32) ^ d ^ key.high;
    d = (uint32_t)p;
    key.low += 0x9e3779b9u;
    key.high += 0xbb67ae85u;
  }
  words[0] = a;
  words[1] = b;
  words[2] = c;
  words[3] = d;
}

}  // namespace
}  // namespace og
#endif
