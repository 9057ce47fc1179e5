#include "status.h"

#include <cstdarg>
#include <cstdio>

namespace og {

static thread_local char message[256];

int32_t fail(int32_t code, const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::vsnprintf(message, sizeof message, format, args);
  va_end(args);
  return code;
}

const char* last_message() { return message; }

}  // namespace og
