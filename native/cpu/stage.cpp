/**
 * The loops of stage.h for dtypes known at run time. No kernel, but compiled with them, once per set: inlined into
 * every kernel that stages its operands, they were a fifth of all code.
 */
#include "stage.h"

namespace og {
namespace OG_ISA {
namespace {

template <class C>
using Load = void (*)(const void* from, int64_t stride, int64_t n, C* to);
template <class C>
using Store = void (*)(const C* from, int64_t n, void* to, int64_t stride);

template <class C>
Load<C> load_of(int32_t dtype) {
  Load<C> load;
  with_storage(dtype, [&](auto type) {
    load = [](const void* from, int64_t stride, int64_t n, C* to) {
      load_run(static_cast<const decltype(type)*>(from), stride, n, to);
    };
  });
  return load;
}

template <class C>
Store<C> store_of(int32_t dtype) {
  Store<C> store;
  if (dtype == OG_BOOL) {
    return [](const C* from, int64_t n, void* to, int64_t stride) {
      store_bool_run(from, n, static_cast<uint8_t*>(to), stride);
    };
  }
  with_storage(dtype, [&](auto type) {
    store = [](const C* from, int64_t n, void* to, int64_t stride) {
      store_run(from, n, static_cast<decltype(type)*>(to), stride);
    };
  });
  return store;
}

template <class C>
void load_all(const Walk& walk, const og_view& view, int64_t begin, int64_t n, C* to) {
  const Load<C> load = load_of<C>(view.dtype);
  const int64_t size = dtype_size(view.dtype);
  walk_lines(walk, begin, n, [&](int64_t offset, int64_t length, int64_t stride) {
    load(data_of<const char>(view) + offset * size, stride, length, to);
    to += length;
  });
}

template <class C>
void store_all(const Walk& walk, const og_view& view, int64_t begin, int64_t n, const C* from) {
  const Store<C> store = store_of<C>(view.dtype);
  const int64_t size = dtype_size(view.dtype);
  walk_lines(walk, begin, n, [&](int64_t offset, int64_t length, int64_t stride) {
    store(from, length, data_of<char>(view) + offset * size, stride);
    from += length;
  });
}

}  // namespace

#define OG_DEFINE(C)                                                                                 \
  void load_elements(const void* from, int32_t dtype, int64_t stride, int64_t n, C* to) {            \
    load_of<C>(dtype)(from, stride, n, to);                                                          \
  }                                                                                                  \
  void store_elements(const C* from, int64_t n, void* to, int32_t dtype, int64_t stride) {           \
    store_of<C>(dtype)(from, n, to, stride);                                                         \
  }                                                                                                  \
  void load_lines(const Walk& walk, const og_view& view, int64_t begin, int64_t n, C* to) {          \
    load_all(walk, view, begin, n, to);                                                              \
  }                                                                                                  \
  void store_lines(const Walk& walk, const og_view& view, int64_t begin, int64_t n, const C* from) { \
    store_all(walk, view, begin, n, from);                                                           \
  }
OG_COMPUTE_TYPES(OG_DEFINE)
#undef OG_DEFINE

}  // namespace OG_ISA
}  // namespace og
