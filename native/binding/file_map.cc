#include "file_map.h"

#include <cstdio>

#if defined(_WIN32)

namespace og {

bool map_file(const char*, void**, int64_t*, char* message) {
  std::snprintf(message, 256, "mapping files is not available on Windows; the reader falls back to reading");
  return false;
}
void unmap_file(void*, int64_t) {}

}  // namespace og

#else

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace og {

bool map_file(const char* path, void** base, int64_t* bytes, char* message) {
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) {
    std::snprintf(message, 256, "%s", std::strerror(errno));
    return false;
  }
  struct stat info;
  if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode)) {
    std::snprintf(message, 256, "not a regular file");
    close(file);
    return false;
  }
  *base = nullptr;
  *bytes = (int64_t)info.st_size;
  if (*bytes > 0) {
    // Private and writable: a kernel that writes in place changes its own copy of the page, never the file.
    void* mapped = mmap(nullptr, (size_t)*bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    if (mapped == MAP_FAILED) {
      std::snprintf(message, 256, "%s", std::strerror(errno));
      close(file);
      return false;
    }
    *base = mapped;
  }
  close(file);
  return true;
}

void unmap_file(void* base, int64_t bytes) {
  if (base) munmap(base, (size_t)bytes);
}

}  // namespace og

#endif
