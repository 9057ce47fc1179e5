#include "cpu_features.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#endif

namespace og {
namespace {

#if defined(__aarch64__) || defined(_M_ARM64)
const char* const kNames[kIsaCount] = {"reference", "neon", "avx2", "avx512"};
#else
const char* const kNames[kIsaCount] = {"reference", "baseline", "avx2", "avx512"};
#endif

std::atomic<int> chosen{-1};
std::atomic<bool> switched_off[kFeatureCount];

bool machine_has(CpuFeature feature) {
#if defined(__x86_64__)
  if (feature == kBf16Dot) return __builtin_cpu_supports("avx512bf16");
  if (feature == kAvxVnni) {
    unsigned a = 0, b, c, d;  // compilers do not all know its name
    return __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4);
  }
  return feature == kVnni && __builtin_cpu_supports("avx512vnni");
#elif defined(__aarch64__) && defined(__linux__)
  if (feature == kMatMulInt8) return getauxval(AT_HWCAP2) & (1ul << 13);  // HWCAP2_I8MM
  return feature == kDotProduct && (getauxval(AT_HWCAP) & (1ul << 20));   // HWCAP_ASIMDDP
#elif defined(__aarch64__) && defined(__APPLE__)
  const char* const name = feature == kMatMulInt8   ? "hw.optional.arm.FEAT_I8MM"
                           : feature == kDotProduct ? "hw.optional.arm.FEAT_DotProd"
                                                    : nullptr;
  int has = 0;
  size_t size = sizeof has;
  return name && sysctlbyname(name, &has, &size, nullptr, 0) == 0 && has;
#else
  (void)feature;
  return false;
#endif
}

/** Whether the machine can run it. */
bool machine_runs(Isa isa) {
  switch (isa) {
    case kReference:
    case kBaseline:
      return true;
#if defined(__x86_64__)
    case kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    case kAvx512:
      return machine_runs(kAvx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    default:
      return false;
  }
}

/** A build for one machine leaves sets out: binding.gyp. */
bool is_built(Isa isa) {
#if defined(OG_NO_BASELINE)
  if (isa == kBaseline) return false;
#endif
#if defined(OG_NO_AVX2)
  if (isa == kAvx2) return false;
#endif
#if defined(OG_NO_AVX512)
  if (isa == kAvx512) return false;
#endif
  (void)isa;
  return true;
}

}  // namespace

const char* isa_name(Isa isa) { return isa >= 0 && isa < kIsaCount ? kNames[isa] : "unknown"; }

bool isa_available(Isa isa) { return is_built(isa) && machine_runs(isa); }

Isa default_isa() {
  if (const char* wanted = std::getenv("OG_ISA")) {
    for (int i = 0; i < kIsaCount; i++)
      if (std::strcmp(wanted, kNames[i]) == 0 && isa_available((Isa)i)) return (Isa)i;
  }
  for (int i = kIsaCount - 1; i > 0; i--)
    if (isa_available((Isa)i)) return (Isa)i;
  return kReference;
}

Isa current_isa() {
  int isa = chosen.load(std::memory_order_relaxed);
  if (isa < 0) {
    isa = default_isa();
    chosen.store(isa, std::memory_order_relaxed);
  }
  return (Isa)isa;
}

bool set_isa(Isa isa) {
  if (!isa_available(isa)) return false;
  chosen.store(isa, std::memory_order_relaxed);
  return true;
}

const char* cpu_feature_name(CpuFeature feature) {
  static const char* const names[kFeatureCount] = {"vnni", "dotprod", "bf16", "avxvnni", "i8mm"};
  return names[feature];
}

bool cpu_feature(CpuFeature feature) {
  // asked once: a virtual machine's cpuid takes microseconds
  struct Machine {
    bool has[kFeatureCount];
    Machine() {
      for (int i = 0; i < kFeatureCount; i++) has[i] = machine_has((CpuFeature)i);
    }
  };
  static const Machine machine;
  return machine.has[feature] && !switched_off[feature].load(std::memory_order_relaxed);
}

void use_cpu_feature(CpuFeature feature, bool use) { switched_off[feature].store(!use, std::memory_order_relaxed); }

}  // namespace og
