/**
 * A chain: element-wise kernels run one after the other over a rectangle that stays in the cache, instead of each over
 * whole tensors in memory. The steps are the very kernels of kernels.def, called on the rectangle's part of their
 * operands, so a chain has the bits of its steps run one by one. What a step hands to later steps alone lives in
 * scratch memory and never reaches the tensors.
 */
#ifndef OMNIGRAD_CPU_CHAIN_H
#define OMNIGRAD_CPU_CHAIN_H

#include <cstring>

#include "../core/registry.h"
#include "../core/scratch.h"
#include "../core/status.h"
#include "../core/view.h"

namespace og {
namespace OG_ISA {

extern const og_kernel kTable[];

namespace {

/**
 * Registers that steps name, as src/runtime/chain.ts numbers them: operands of the call, its outputs, temporaries, and
 * (for a chain behind a product) the product.
 */
constexpr int kChainInputs = 12, kChainOutputs = 6, kChainSteps = 8;
constexpr int kFirstOutput = kChainInputs, kFirstTemporary = kFirstOutput + kChainOutputs;
constexpr int kRegisters = kFirstTemporary + kChainSteps, kNoRegister = 31;
static_assert(kRegisters <= kNoRegister, "a register has five bits");

struct ChainStep {
  int32_t kernel;
  int32_t inputs;
  int32_t in[3];
  int32_t out;
  int32_t attr_count;
  const double* attrs;
  bool counts;  // draws random numbers by the element's number
};

struct Chain {
  int32_t steps;
  ChainStep step[kChainSteps];
  int32_t temporary_dtype[kChainSteps];
  const og_view* inputs;
  const og_view* outputs;
  int64_t rows, cols;
  bool counts;
};

inline bool to_whole(double x, int64_t limit, int64_t* out) {
  if (!(x >= 0 && x < (double)limit) || x != (double)(int64_t)x) return false;
  *out = (int64_t)x;
  return true;
}

/**
 * Reads and checks a program: attrs[0] is the number of steps; one number a step: kernel + 2^9·(first operand + 2^5·
 * (second + 2^5·(third + 2^5·(result + 2^5·dtype)))); then the steps' own attributes. Operands are registers.
 */
inline int32_t read_chain(const og_call* call, Chain* chain) {
  int64_t steps = 0;
  OG_REQUIRE(to_whole(call->attrs[0], kChainSteps + 1, &steps) && steps > 0, "chain: expected 1 to 8 steps");
  chain->steps = (int32_t)steps;
  chain->inputs = call->inputs;
  chain->outputs = call->outputs;
  chain->rows = chain->cols = -1;
  chain->counts = false;
  for (int i = 0; i < kFirstTemporary; i++) {
    const og_view& view = i < kFirstOutput ? call->inputs[i] : call->outputs[i - kFirstOutput];
    if (!is_present(view)) continue;
    OG_REQUIRE(view.rank == 2, "chain: operands are matrices");
    if (chain->rows < 0) chain->rows = view.shape[0], chain->cols = view.shape[1];
    OG_REQUIRE(view.shape[0] == chain->rows && view.shape[1] == chain->cols, "chain: operands differ in shape");
  }
  OG_REQUIRE(chain->rows >= 0, "chain: no operands");
  uint32_t written = 0;
  for (int i = 0; i < kChainInputs; i++)
    if (is_present(call->inputs[i])) written |= 1u << i;
  int next_attr = 1 + (int)steps;
  for (int s = 0; s < steps; s++) {
    ChainStep& step = chain->step[s];
    int64_t code = 0;
    OG_REQUIRE(to_whole(call->attrs[1 + s], 1ll << 33, &code), "chain: step %d is malformed", s);
    step.kernel = (int32_t)(code & 511);
    OG_REQUIRE(step.kernel < kernel_count() && kernel_info(step.kernel).elementwise,
               "chain: step %d is not an element-wise kernel", s);
    const KernelInfo& info = kernel_info(step.kernel);
    code >>= 9;
    step.inputs = info.inputs;
    for (int i = 0; i < 3; i++, code >>= 5) {
      step.in[i] = (int32_t)(code & 31);
      OG_REQUIRE(i < info.inputs ? step.in[i] < kRegisters && (written >> step.in[i] & 1) : step.in[i] == kNoRegister,
                 "chain: operand %d of step %d holds no value", i, s);
    }
    step.out = (int32_t)(code & 31);
    const int32_t dtype = (int32_t)(code >> 5);
    OG_REQUIRE(step.out >= kFirstOutput && step.out < kRegisters && !(written >> step.out & 1),
               "chain: step %d has no result of its own", s);
    OG_REQUIRE(dtype < OG_DTYPE_COUNT, "chain: step %d has no dtype", s);
#ifndef OG_IS_REFERENCE
    OG_SUPPORTED(dtype != OG_F64, "chain: float64 is for the reference");
#endif
    if (step.out < kFirstTemporary) {
      OG_REQUIRE(is_present(call->outputs[step.out - kFirstOutput]), "chain: the result of step %d is absent", s);
      OG_REQUIRE(call->outputs[step.out - kFirstOutput].dtype == dtype, "chain: step %d has another dtype", s);
    } else {
      chain->temporary_dtype[step.out - kFirstTemporary] = dtype;
    }
    written |= 1u << step.out;
    step.attrs = call->attrs + next_attr;
    step.attr_count = info.attrs;
    next_attr += info.attrs;
    OG_REQUIRE(next_attr <= call->attr_count, "chain: too few attributes");
    step.counts = std::strcmp(info.name, "dropout") == 0;
    chain->counts |= step.counts;
  }
  return OG_OK;
}

/** Rows [row, row+rows) and columns [col, col+cols) of a matrix. */
inline og_view rectangle(const og_view& view, int64_t row, int64_t col, int64_t rows, int64_t cols) {
  og_view part = view;
  part.data = static_cast<char*>(view.data) + (row * view.strides[0] + col * view.strides[1]) * dtype_size(view.dtype);
  part.shape[0] = rows;
  part.shape[1] = cols;
  return part;
}

/** Dropout: elements are numbered as in the whole matrix, so a rectangle of parts of rows goes row by row. */
inline int32_t run_counting(const Chain& chain, const ChainStep& step, const og_view& x, const og_view& y, int64_t row,
                            int64_t col) {
  const int64_t rows = x.shape[0], cols = x.shape[1], height = cols == chain.cols ? rows : 1;
  int64_t low = 0, high = 0;
  OG_REQUIRE(to_whole(step.attrs[3], 1ll << 32, &low) && to_whole(step.attrs[4], 1ll << 32, &high),
             "chain: an offset is given as halves of 32 bits");
  for (int64_t i = 0; i < rows; i += height) {
    const int64_t number = (row + i) * chain.cols + col;
    OG_REQUIRE(number % 4 == 0, "chain: a rectangle starts at element %lld", (long long)number);
    // p, seed, and the number of the first four elements in two halves
    double attrs[5];
    std::memcpy(attrs, step.attrs, sizeof attrs);
    const uint64_t first = ((uint64_t)low | (uint64_t)high << 32) + (uint64_t)number / 4;
    attrs[3] = (double)(first & 0xffffffffu);
    attrs[4] = (double)(first >> 32);
    const og_view in = rectangle(x, i, 0, height, cols), out = rectangle(y, i, 0, height, cols);
    const og_call call = {&in, &out, attrs, 1, 1, 5};
    OG_TRY(kTable[step.kernel](&call));
  }
  return OG_OK;
}

/**
 * The steps over one rectangle. Its first element's number must be a multiple of 4 where a step counts. `product`, rows
 * `stride` apart, is the first operand's part where that is still on its way to memory.
 */
inline int32_t run_chain(const Chain& chain, int64_t row, int64_t col, int64_t rows, int64_t cols,
                         float* product = nullptr, int64_t stride = 0) {
  ScratchFrame scratch;
  og_view registers[kRegisters];
  for (int i = 0; i < kFirstTemporary; i++) {
    const og_view& view = i < kFirstOutput ? chain.inputs[i] : chain.outputs[i - kFirstOutput];
    if (is_present(view)) registers[i] = rectangle(view, row, col, rows, cols);
  }
  if (product) {
    registers[0].data = product;
    registers[0].strides[0] = stride, registers[0].strides[1] = 1;
  }
  uint32_t made = 0;
  for (int s = 0; s < chain.steps; s++) {
    const ChainStep& step = chain.step[s];
    if (step.out >= kFirstTemporary && !(made >> step.out & 1)) {
      const int32_t dtype = chain.temporary_dtype[step.out - kFirstTemporary];
      og_view& view = registers[step.out];
      view.data = scratch.take<char>(rows * cols * dtype_size(dtype));
      OG_SCRATCH(view.data, "a chain of element-wise kernels");
      view.dtype = dtype;
      view.rank = 2;
      view.shape[0] = rows, view.shape[1] = cols;
      view.strides[0] = cols, view.strides[1] = 1;
      made |= 1u << step.out;
    }
    og_view in[3];
    for (int i = 0; i < step.inputs; i++) in[i] = registers[step.in[i]];
    if (step.counts) {
      OG_TRY(run_counting(chain, step, in[0], registers[step.out], row, col));
      continue;
    }
    const og_call call = {in, &registers[step.out], step.attrs, step.inputs, 1, step.attr_count};
    OG_TRY(kTable[step.kernel](&call));
  }
  return OG_OK;
}

}  // namespace
}  // namespace OG_ISA
}  // namespace og
#endif
