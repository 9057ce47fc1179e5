/** The kernels of this build: one entry per line of kernels.def, one function per instruction set. */
#ifndef OMNIGRAD_CORE_REGISTRY_H
#define OMNIGRAD_CORE_REGISTRY_H

#include <cstdint>

#include "cpu_features.h"
#include "omnigrad/abi.h"

namespace og {

struct KernelInfo {
  const char* name;
  const char* file;
  int32_t inputs;  // operands expected; absent optional ones count
  int32_t outputs;
  int32_t attrs;
  uint32_t optional;  // bit i: operand i may be absent, inputs first
  bool elementwise;   // one output, of its operands' shape, element by element: may be a step of a chain
  bool wide;          // computes in double by design: float64 operands run on every set, not on `reference` alone
};

int32_t kernel_count();
const KernelInfo& kernel_info(int32_t id);
/** Id of an entry, or -1. Linear search: for tests and start-up. */
int32_t kernel_id(const char* name);

/** Checks the operand counts and runs the kernel on the instruction set in use; any float64 operand selects
 * `reference`, unless the kernel is `wide`. */
int32_t run_kernel(int32_t id, const og_call& call);
/** The same on a given set. */
int32_t run_kernel_on(Isa isa, int32_t id, const og_call& call);

}  // namespace og
#endif
