/** Files as copy-on-write memory, for the slot table. */
#ifndef OMNIGRAD_BINDING_FILE_MAP_H
#define OMNIGRAD_BINDING_FILE_MAP_H

#include <cstdint>

namespace og {

/** Maps a whole regular file. On failure returns false and `message` (256 bytes) says why; an empty file has base
 * nullptr. */
bool map_file(const char* path, void** base, int64_t* bytes, char* message);
void unmap_file(void* base, int64_t bytes);

}  // namespace og
#endif
