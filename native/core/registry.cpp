#include "registry.h"

#include <cstring>

#include "status.h"

namespace og {

// Filled by core/registry_isa.cpp, which is compiled once per instruction set.
namespace reference {
extern const og_kernel kTable[];
}
#if !defined(OG_NO_BASELINE)
namespace baseline {
extern const og_kernel kTable[];
}
#endif
#if defined(__x86_64__) && !defined(OG_NO_AVX2)
namespace avx2 {
extern const og_kernel kTable[];
}
#endif
#if defined(__x86_64__) && !defined(OG_NO_AVX512)
namespace avx512 {
extern const og_kernel kTable[];
}
#endif

namespace {

constexpr bool same_name(const char* a, const char* b) {
  while (*a && *a == *b) a++, b++;
  return *a == *b;
}

/** Operands that may be absent. All others are there when a kernel starts, so that it need not ask. */
constexpr struct {
  const char* name;
  uint32_t operands;
} kOptional[] = {
    {"attention", 0x1fu << 3},                              // mask, slopes, offsets (2), spans
    {"attention_backward", 0x1fu << 3 | 1u << 14},          // the same; the mask's gradient
    {"attention_paged", 0x1fu << 3 | 1u << 9},              // mask, slopes, spans, scales (2); table
    {"kv_append", 1u << 3 | 1u << 6 | 1u << 7},             // table; scales
    {"kv_read", 1u << 2 | 1u << 3 | 1u << 5},               // scales; table
    {"chain", 0x3ffffu},                                    // any of the operands
    {"matmul_chain", 0xfffcu | 0x3fu << 17},                // bias, packed b, the chain's operands and results
    {"matmul", 7u << 2 | 1u << 6},                          // bias, residual, packed b; pre-activation
    {"matmul_int8", 0x3fcu},                                // packed b, zero points, scales, bias, residual, factors
    {"conv2d", 1u << 2},                                    // bias
    {"cross_entropy", 1u << 2},                             // weight
    {"cross_entropy_backward", 1u << 2},                    // weight
    {"layer_norm", 1u << 1 | 1u << 2 | 1u << 4 | 1u << 5},  // weight, bias; mean, rstd
    {"rms_norm", 1u << 1 | 1u << 3},                        // weight; rstd
    {"layer_norm_backward", 1u << 1 | 1u << 5 | 1u << 6 | 1u << 7},  // weight; all gradients
    {"rms_norm_backward", 1u << 1 | 1u << 4 | 1u << 5},              // weight; both gradients
    {"cross_entropy_fused", 1u << 2},                                // weight
    {"add_layer_norm", 1u << 2 | 1u << 3 | 1u << 6 | 1u << 7},       // weight, bias; mean, rstd
    {"add_rms_norm", 1u << 2 | 1u << 5},                             // weight; rstd
    {"add_layer_norm_backward", 1u << 1 | 1u << 5 | 7u << 6},        // weight, gradient of the sum; all gradients
    {"add_rms_norm_backward", 1u << 1 | 1u << 4 | 3u << 5},          // weight, gradient of the sum; both gradients
    {"swiglu_backward", 3u << 3},                                    // both gradients
    {"adamw_step", 0x1fffffu},                                       // factor; tensors after the first
    {"sgd_step", 1u << 1 | 1u << 3},                                 // factor; momentum
    {"lion_step", 1u << 1},                                          // factor
    {"sum_squares", 0xffffu},                                        // any of the tensors
    {"csr_linear", 1u << 4 | 1u << 5},                               // scale, bias
    {"block_linear", 1u << 4 | 1u << 5},                             // scale, bias
    {"semi_structured_linear", 1u << 3 | 1u << 4},                   // scale, bias
    {"quantize", 1u << 1 | 1u << 2 | 1u << 4 | 1u << 5 | 1u << 6},   // given scale, zero; found scale, zero, errors
    {"obs_block", 7u << 2 | 1u << 7},                                // keep, scale, zero; codes
    {"dequantize", 1u << 2},                                         // zero points
    {"fake_quantize", 1u << 2},                                      // zero points
    {"linear_weight_only", 15u << 3},                                // zero points, bias, packed weight, residual
    {"linear_weight_only_pack", 1u << 2},                            // zero points
};

constexpr uint32_t optional_operands(const char* name) {
  for (const auto& entry : kOptional)
    if (same_name(entry.name, name)) return entry.operands;
  return 0;
}

/** Element-wise kernels, by file or by name. */
constexpr const char* kElementwise[] = {"binary", "unary", "activation", "ternary", "copy", "swiglu", "dropout"};

constexpr bool is_elementwise(const char* file, const char* name, int inputs, int outputs) {
  if (inputs == 0 || outputs != 1) return false;
  for (const char* entry : kElementwise)
    if (same_name(entry, file) || same_name(entry, name)) return true;
  return false;
}

constexpr KernelInfo kInfo[] = {
#define OG_KERNEL(file, entry, inputs, outputs, attrs) \
  {#entry,                                             \
   #file,                                              \
   inputs,                                             \
   outputs,                                            \
   attrs,                                              \
   optional_operands(#entry),                          \
   is_elementwise(#file, #entry, inputs, outputs),     \
   same_name(#file, "linalg")},
#include "kernels.def"
#undef OG_KERNEL
};

const og_kernel* table_of(Isa isa) {
  switch (isa) {
#if !defined(OG_NO_BASELINE)
    case kBaseline:
      return baseline::kTable;
#endif
#if defined(__x86_64__) && !defined(OG_NO_AVX2)
    case kAvx2:
      return avx2::kTable;
#endif
#if defined(__x86_64__) && !defined(OG_NO_AVX512)
    case kAvx512:
      return avx512::kTable;
#endif
    default:
      return reference::kTable;
  }
}

bool has_float64(const og_call& call) {
  for (int32_t i = 0; i < call.input_count; i++)
    if (call.inputs[i].dtype == OG_F64) return true;
  for (int32_t i = 0; i < call.output_count; i++)
    if (call.outputs[i].dtype == OG_F64) return true;
  return false;
}

}  // namespace

int32_t kernel_count() { return (int32_t)(sizeof kInfo / sizeof kInfo[0]); }

const KernelInfo& kernel_info(int32_t id) { return kInfo[id]; }

int32_t kernel_id(const char* name) {
  for (int32_t i = 0; i < kernel_count(); i++)
    if (std::strcmp(kInfo[i].name, name) == 0) return i;
  return -1;
}

int32_t run_kernel_on(Isa isa, int32_t id, const og_call& call) {
  OG_REQUIRE(id >= 0 && id < kernel_count(), "kernel %d does not exist", id);
  const KernelInfo& info = kInfo[id];
  OG_REQUIRE(call.input_count == info.inputs && call.output_count == info.outputs && call.attr_count == info.attrs,
             "%s: expected %d inputs, %d outputs, %d attributes, got %d, %d, %d", info.name, info.inputs, info.outputs,
             info.attrs, call.input_count, call.output_count, call.attr_count);
  for (int32_t i = 0; i < info.inputs + info.outputs; i++) {
    const og_view& operand = i < info.inputs ? call.inputs[i] : call.outputs[i - info.inputs];
    OG_REQUIRE(operand.dtype >= 0 || (info.optional >> i & 1), "%s: operand %d is absent", info.name, i);
  }
  OG_SUPPORTED(isa_available(isa), "instruction set %s is not available", isa_name(isa));
  return table_of(has_float64(call) && !info.wide ? kReference : isa)[id](&call);
}

int32_t run_kernel(int32_t id, const og_call& call) { return run_kernel_on(current_isa(), id, call); }

}  // namespace og
