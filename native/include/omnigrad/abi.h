/**
 * The border between the runtime and its kernels: plain C structs, so that a back-end can live in another library
 * (CUDA will) and be refused by version number instead of crashing.
 */
#ifndef OMNIGRAD_ABI_H
#define OMNIGRAD_ABI_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define OG_ABI_VERSION 1
#define OG_MAX_RANK 8
#define OG_MAX_VIEWS 24 /* inputs plus outputs of one call; wide ops (optimisers) are called once per tensor */
#define OG_MAX_ATTRS 32

/** Element types. The numbers are part of the ABI and equal those of src/tensor/dtype.ts. */
enum og_dtype {
  OG_F32 = 0,
  OG_F16 = 1,
  OG_BF16 = 2,
  OG_F64 = 3,
  OG_I8 = 4,
  OG_U8 = 5,
  OG_I32 = 6,
  OG_I64 = 7,
  OG_BOOL = 8,
  OG_DTYPE_COUNT = 9
};

/** Result of a kernel; 0 is success. The text belonging to a failure lies in a per-thread buffer (core/status.h). */
enum og_status {
  OG_OK = 0,
  OG_INVALID = 1,     /* the call breaks the kernel's contract: a bug above, or a hand-written frame */
  OG_UNSUPPORTED = 2, /* dtype or layout this kernel does not take */
  OG_OUT_OF_MEMORY = 3,
  OG_CANCELLED = 4, /* the environment is being torn down */
  OG_INDEX = 5      /* an index found in the data lies outside its axis */
};

/**
 * A strided view. `data` points at element (0, …, 0); strides count elements and may be zero or negative.
 * An absent optional operand has dtype -1, rank 0 and data NULL.
 */
typedef struct og_view {
  void* data;
  int32_t dtype;
  int32_t rank;
  int64_t shape[OG_MAX_RANK];
  int64_t strides[OG_MAX_RANK];
} og_view;

/** One kernel call. Numbers in attrs are exact up to 2^53; the meaning of each slot is the kernel's own. */
typedef struct og_call {
  const og_view* inputs;
  const og_view* outputs;
  const double* attrs;
  int32_t input_count;
  int32_t output_count;
  int32_t attr_count;
} og_call;

typedef int32_t (*og_kernel)(const og_call* call);

/** What a back-end library exports as `og_backend_open`. A NULL kernel means: not on this device. */
typedef struct og_backend {
  int32_t abi_version;
  const char* name;         /* "cpu", "cuda" */
  int32_t kernel_count;     /* must equal the registry's */
  const og_kernel* kernels; /* indexed as in kernels.def */
  int32_t (*score)(void);   /* 0: this machine cannot run it */
} og_backend;

#ifdef __cplusplus
}
#endif
#endif
