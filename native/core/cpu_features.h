/** Which instruction sets this machine offers, and which one the kernels use. */
#ifndef OMNIGRAD_CORE_CPU_FEATURES_H
#define OMNIGRAD_CORE_CPU_FEATURES_H

namespace og {

/** In order of preference, worst first. Every build holds `reference` and `baseline` (NEON on arm64). */
enum Isa { kReference = 0, kBaseline = 1, kAvx2 = 2, kAvx512 = 3, kIsaCount = 4 };

const char* isa_name(Isa isa);
/** Whether this build holds the set and this machine can run it. */
bool isa_available(Isa isa);
/** The best available set, or what OG_ISA names if that is available. */
Isa default_isa();
/** The set in use, process-wide. */
Isa current_isa();
/** False, and nothing changes, if the set is not available. */
bool set_isa(Isa isa);

/** Instructions beyond a set's own that single kernels use where the machine has them. */
enum CpuFeature {
  kVnni = 0,        // AVX512_VNNI: dot products of bytes
  kDotProduct = 1,  // the same on arm64 (FEAT_DotProd)
  kBf16Dot = 2,     // AVX512_BF16: dot products of bfloat16
  kAvxVnni = 3,     // AVX-VNNI: dot products of bytes for machines without AVX-512
  kMatMulInt8 = 4,  // arm64 (FEAT_I8MM): products of 2 × 8 and 8 × 2 bytes
  kFeatureCount = 5
};
/** Its name, as in the addon's configuration: vnni, dotprod, bf16, avxvnni, i8mm. */
const char* cpu_feature_name(CpuFeature feature);
/** Whether the machine has it and it has not been switched off. */
bool cpu_feature(CpuFeature feature);
/** Switches a feature off, or on again where the machine has it: for tests and comparisons of the other path. */
void use_cpu_feature(CpuFeature feature, bool use);

}  // namespace og
#endif
