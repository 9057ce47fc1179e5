/** Compiled once per instruction set: the table of that set's entry points. */
#include "omnigrad/abi.h"

namespace og {
namespace OG_ISA {

#define OG_KERNEL(file, entry, inputs, outputs, attrs) int32_t kernel_##entry(const og_call*);
#include "kernels.def"
#undef OG_KERNEL

extern const og_kernel kTable[];
const og_kernel kTable[] = {
#define OG_KERNEL(file, entry, inputs, outputs, attrs) kernel_##entry,
#include "kernels.def"
#undef OG_KERNEL
};

}  // namespace OG_ISA
}  // namespace og
