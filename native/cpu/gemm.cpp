/**
 * Float products for the kernels that have some (matmul, convolution, quantised weights): one copy of the code of
 * gemm_frame.h and gemm_small.h for all of them. No kernel, but compiled with them, once per set.
 */
#ifndef OG_IS_REFERENCE

#include "gemm_small.h"

namespace og {
namespace OG_ISA {

int32_t gemm_of_floats(const void* call) { return gemm_of<FloatPanels>(*static_cast<const GemmCall*>(call)); }

bool multiply_unpacked(const void* call, int32_t* status) {
  return multiply_small(*static_cast<const GemmCall*>(call), status);
}

}  // namespace OG_ISA
}  // namespace og

#endif
