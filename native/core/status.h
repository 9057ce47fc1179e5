/** How a kernel fails: it fills one fixed message buffer of its thread and returns a code. Nothing throws, prints or
 * aborts. */
#ifndef OMNIGRAD_CORE_STATUS_H
#define OMNIGRAD_CORE_STATUS_H

#include <cstdint>

#include "omnigrad/abi.h"

namespace og {

/** Writes the message (printf form, truncated at 255 bytes) and returns `code`. */
int32_t fail(int32_t code, const char* format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;

/** Text of this thread's last failure. */
const char* last_message();

}  // namespace og

/** Contract checks at the head of a kernel. */
#define OG_REQUIRE(condition, ...)                                \
  do {                                                            \
    if (!(condition)) return ::og::fail(OG_INVALID, __VA_ARGS__); \
  } while (0)

#define OG_SUPPORTED(condition, ...)                                  \
  do {                                                                \
    if (!(condition)) return ::og::fail(OG_UNSUPPORTED, __VA_ARGS__); \
  } while (0)

#define OG_TRY(expression)                \
  do {                                    \
    const int32_t og_try_ = (expression); \
    if (og_try_ != OG_OK) return og_try_; \
  } while (0)

#endif
