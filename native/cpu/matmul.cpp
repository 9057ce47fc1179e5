/**
 * matmul: out[…, M, N] = f(a[…, M, K] · b[…, K, N] (+ bias, [N] or of out's shape)) (+ residual, of out's shape). Batch
 * axes equal those of the output (broadcasting is a stride of zero); all strides are free. Operands must not overlap
 * the output.
 *
 * Attribute: f; 0 none, 1 gelu, 2 its tanh form, 3 silu, 4 relu, 5 sigmoid, 6 tanh. The second output, optional and
 * dense, receives what f was applied to. f, residual and this output want a float32 (`reference`: or float64) result
 * and have its dtype; they are computed on each part of the result while it is in cache (gemm_epilogue.h), with the
 * bits of separate calls.
 *
 * The fifth input, optional, is b as matmul_pack made it, for a float32 or bfloat16 b that all matrices share: products
 * that would pack b in that form read it instead, and give the same bits. It is made for one instruction set;
 * `reference` ignores it, and so does a set without dot products of bfloat16 for such a b.
 *
 * float32, float16 and bfloat16, mixed freely: float32 sums (gemm_frame.h, gemm_small.h), rounded once to the output's
 * dtype. Error against exact arithmetic: at most that of a plain float32 loop, K·2^-24·Σ|a·b|. NaN and infinity
 * propagate: no term is skipped. Two bfloat16 operands take dot products of pairs where the machine has them
 * (gemm_bf16.h): the same bound, but operands below 2^-126 may count as zero. Integers: exact modulo the output's width
 * (gemm_int.h). float64: `reference` only.
 *
 * Parallel split: by columns or rows of one product, or by matrices of a batch; by shape only, K never split.
 * `reference` is the definition: one loop per element, in k order, sum in the element type, then the bias.
 */
#include "../core/parallel.h"
#include "../core/view.h"
#include "chain.h"
#include "gemm_activation.h"
#include "gemm_int.h"
#ifndef OG_IS_REFERENCE
#include "gemm_bf16.h"
#endif

namespace og {
namespace OG_ISA {
namespace {

/** A chain that follows a product. */
struct ChainEnd {
  const Chain* chain;
  int64_t matrix_rows;  // of one matrix, after folding
  int32_t status;

  void run(int64_t row, int64_t col, int64_t rows, int64_t cols, float* product = nullptr, int64_t stride = 0) {
    const int32_t result = run_chain(*chain, row, col, rows, cols, product, stride);
    if (result != OG_OK) __atomic_store_n(&status, result, __ATOMIC_RELAXED);
  }
};

/** The operands by axis: batch axes, then rows and columns. Batch axes that continue the rows are folded into them. */
struct Product {
  int64_t m, n, k, batch;
  int rank;  // of the batch
  int64_t shape[OG_MAX_RANK];
  struct Side {
    char* data;
    int32_t dtype;
    int64_t row, column;
    int64_t strides[OG_MAX_RANK];

    void* at(int64_t offset) const { return data ? data + offset * dtype_size(dtype) : nullptr; }
  };
  Side a, b, c, bias;
  int activation;
  const Lines* residual_lines;  // of all matrices
  const void* residual;
  int64_t residual_column;
  void* pre;
  ChainEnd* chain;  // in place of these
  const float* packed_b;

  bool has_end() const { return activation != kNoActivation || residual || pre; }

  int64_t offset(const Side& side, int64_t index) const {
    int64_t offset = 0;
    for (int i = rank - 1; i >= 0; i--) {
      offset += index % shape[i] * side.strides[i];
      index /= shape[i];
    }
    return offset;
  }

  /** A B that all matrices of the innermost batch axis share, under rows that run on: one product of more rows. */
  void fold_rows() {
    while (rank > 0) {
      const int axis = rank - 1;
      const int64_t length = shape[axis];
      if (length != 1) {
        if (m == 1) {
          a.row = a.strides[axis];
          c.row = c.strides[axis];
          bias.row = bias.strides[axis];
        }
        if (b.strides[axis] != 0 || a.strides[axis] != a.row * m || c.strides[axis] != c.row * m ||
            bias.strides[axis] != bias.row * m)
          return;
        m *= length;
        batch /= length;
      }
      rank--;
    }
  }
};

Product::Side side_of(const og_view& v, int batch_rank) {
  Product::Side side{static_cast<char*>(v.data), v.dtype, 0, 0, {}};
  if (!is_present(v)) {
    side.data = nullptr;
    return side;
  }
  if (v.rank == 1) {  // a bias of one row
    side.column = v.shape[0] == 1 ? 0 : v.strides[0];
    return side;
  }
  for (int i = 0; i < batch_rank; i++) side.strides[i] = v.strides[i];
  side.row = v.strides[batch_rank];
  side.column = v.strides[batch_rank + 1];
  return side;
}

#ifdef OG_IS_REFERENCE

template <class C>
C element(const Product::Side& side, int64_t offset) {
  C value{};
  with_storage(side.dtype,
               [&](auto type) { value = widen<C>(static_cast<const decltype(type)*>(side.at(0))[offset]); });
  return value;
}

inline double times_plus(double a, double b, double sum) { return sum + a * b; }
inline float times_plus(float a, float b, float sum) { return sum + a * b; }
inline int64_t times_plus(int64_t a, int64_t b, int64_t sum) {
  return (int64_t)((uint64_t)sum + (uint64_t)a * (uint64_t)b);
}

template <class C>
int32_t multiply_batch(const Product& p) {
  parallel_ranges(p.batch * p.m, grain_for(p.n * (p.k + 1)), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const int64_t index = row / p.m, i = row % p.m;
      const int64_t a = p.offset(p.a, index) + i * p.a.row, b = p.offset(p.b, index);
      const int64_t c = p.offset(p.c, index) + i * p.c.row, bias = p.offset(p.bias, index) + i * p.bias.row;
      for (int64_t j = 0; j < p.n; j++) {
        C sum{};
        for (int64_t k = 0; k < p.k; k++)
          sum = times_plus(element<C>(p.a, a + k * p.a.column), element<C>(p.b, b + k * p.b.row + j * p.b.column), sum);
        if (p.bias.data) sum = times_plus(C(1), element<C>(p.bias, bias + j * p.bias.column), sum);
        with_storage(p.c.dtype, [&](auto type) {
          typedef decltype(type) T;
          T value = Narrow<T, C>::from(sum);
          if constexpr (std::is_same<T, float>::value || std::is_same<T, double>::value) {
            if (p.pre) static_cast<T*>(p.pre)[row * p.n + j] = value;
            value = activated(p.activation, value);
            if (p.residual)
              value += static_cast<const T*>(p.residual)[p.residual_lines->offset(row) + j * p.residual_column];
          }
          static_cast<T*>(p.c.at(0))[c + j * p.c.column] = value;
        });
      }
    }
  });
  return OG_OK;
}

int32_t multiply_floats(const Product& p) {
  const bool wide = p.a.dtype == OG_F64 || p.b.dtype == OG_F64 || p.c.dtype == OG_F64 || p.bias.dtype == OG_F64;
  return wide ? multiply_batch<double>(p) : multiply_batch<float>(p);
}
int32_t multiply_integers(const Product& p) { return multiply_batch<int64_t>(p); }

#else

MatrixView matrix(const Product& p, const Product::Side& side, int64_t index) {
  return {side.at(p.offset(side, index)), side.dtype, side.row, side.column};
}

/** The bias of one matrix as dense float32 columns: itself, or a copy. False when memory is short. */
bool bias_of(const Product& p, int64_t index, ScratchFrame& scratch, GemmCall& call) {
  if (!p.bias.data) return true;
  call.init_column = 1;
  const Product::Side& bias = p.bias;
  const char* from = static_cast<const char*>(bias.at(p.offset(bias, index)));
  if (bias.dtype == OG_F32 && (bias.column == 1 || p.n == 1)) {
    call.init = reinterpret_cast<const float*>(from);
    call.init_row = bias.row;
    return true;
  }
  const int64_t rows = bias.row == 0 ? 1 : p.m;
  float* to = scratch.take<float>(rows * p.n);
  if (!to) return false;
  for (int64_t i = 0; i < rows; i++)
    load_elements(from + i * bias.row * dtype_size(bias.dtype), bias.dtype, bias.column, p.n, to + i * p.n);
  call.init = to;
  call.init_row = rows == 1 ? 0 : p.n;
  return true;
}

void run_chain_end(const void* context, float* c, int64_t ldc, int64_t batch, int64_t row, int64_t col, int64_t rows,
                   int64_t cols) {
  ChainEnd* end = static_cast<ChainEnd*>(const_cast<void*>(context));
  end->run(batch * end->matrix_rows + row, col, rows, cols, c, ldc);
}

int32_t multiply_one(const Product& p, int64_t index) {
  ScratchFrame scratch;
  GemmCall call{p.m, p.n, p.k, matrix(p, p.a, index), matrix(p, p.b, index), matrix(p, p.c, index), nullptr, 0, 1};
  if (!bias_of(p, index, scratch, call)) return fail(OG_OUT_OF_MEMORY, "matmul: no memory for the bias");
  const ActivationEnd end{p.activation,
                          index * p.m,
                          static_cast<const float*>(p.residual),
                          p.residual_lines,
                          p.residual_column,
                          static_cast<float*>(p.pre),
                          p.n};
  if (p.has_end()) call.epilogue = {run_activation_end, &end};
  if (p.chain) call.epilogue = {run_chain_end, p.chain};
  call.batch = index;
  call.packed_b = p.packed_b;
  if (p.k > 0) {
#if OG_LANES == 16
    int32_t status;
    if (is_of_pairs(call)) return multiply_unpacked(&call, &status) ? status : gemm_of<PairPanels>(call);
#endif
    return multiply(call);
  }
  for (int64_t i = 0; i < p.m; i++) {  // an empty sum: the bias, or zero
    ScratchFrame line;
    float* zeros = line.take<float>(p.n);
    OG_SCRATCH(zeros, "row");
    for (int64_t j = 0; j < p.n; j++) zeros[j] = call.init ? call.init[i * call.init_row + j] : 0.f;
    call.finish(zeros, p.n, i, 0, 1, p.n);
    emit(zeros, p.n, 1, p.n, call.c, i, 0);
  }
  return OG_OK;
}

/** Multiply-adds of one matrix above which its own parallel split beats one matrix per thread. */
constexpr int64_t kLargeMatrix = int64_t{1} << 27;
constexpr int64_t kTaskWork = 1 << 20;

int32_t multiply_floats(const Product& p) {
  const int64_t work = p.m * p.n * (p.k > 0 ? p.k : 1);
  if (p.batch == 1) return multiply_one(p, 0);
  if (work > kLargeMatrix || (p.batch < 4 && work > kTaskWork)) {
    for (int64_t i = 0; i < p.batch; i++) OG_TRY(multiply_one(p, i));
    return OG_OK;
  }
  int failed = 0;
  parallel_ranges(p.batch, grain_for(work, kTaskWork), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      if (multiply_one(p, i) != OG_OK) __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
  });
  // the message of a helper lies in the helper's buffer; memory is the only thing that can run short
  if (failed) return fail(OG_OUT_OF_MEMORY, "matmul: no memory for a matrix of the batch");
  return OG_OK;
}

int32_t multiply_integers(const Product& p) {
  int failed = 0;
  parallel_ranges(p.batch, grain_for(p.m * p.n * (p.k + 1), kTaskWork), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const auto view = [&](const Product::Side& side) {
        return IntView{side.at(p.offset(side, i)), side.dtype, side.row, side.column};
      };
      const IntCall call{p.m, p.n, p.k, view(p.a), view(p.b), view(p.bias), view(p.c)};
      const int32_t status = dtype_size(p.c.dtype) <= 4 ? int_multiply<uint32_t>(call) : int_multiply<uint64_t>(call);
      if (status != OG_OK) __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
    }
  });
  if (failed) return fail(OG_OUT_OF_MEMORY, "matmul: no memory for a matrix of the batch");
  return OG_OK;
}

#endif

/** Whether a vector is one of (n + 63)·steps + 16 floats, the size of a packed b, with two bfloat16 to a step: the same
 * on every instruction set, so that callers need not know which. No product of sizes that a frame may claim. */
bool is_packed_size(const og_view& packed, const og_view& b, int64_t n, int64_t k) {
  if (packed.dtype != OG_F32 || packed.rank != 1 || !is_contiguous(packed)) return false;
  const int64_t room = packed.shape[0] - 16, steps = b.dtype == OG_BF16 ? k / 2 + k % 2 : k;
  return steps == 0 ? room == 0 : room % steps == 0 && room / steps == n + 63;
}
bool is_packable(const og_view& b) { return b.dtype == OG_F32 || b.dtype == OG_BF16; }

int32_t check_packed(const og_view& packed, const og_view& a, const og_view& b, Product& p) {
  if (!is_present(packed)) return OG_OK;
  OG_REQUIRE(is_packable(b) && is_packed_size(packed, b, p.n, p.k),
             "matmul: packed must hold (N + 63)·K + 16 floats for a float32 b, (N + 63)·⌈K/2⌉ + 16 for a bfloat16 b");
  for (int i = 0; i < b.rank - 2; i++)
    OG_REQUIRE(b.shape[i] == 1 || b.strides[i] == 0, "matmul: a packed b must be shared by all matrices");
#ifdef OG_IS_REFERENCE
  (void)a;
#else
  if (b.dtype == OG_F32 || (a.dtype == OG_BF16 && has_pairs())) p.packed_b = packed_start(packed.data);
#endif
  return OG_OK;
}

int32_t run_matmul(const og_call* call, ChainEnd* chain) {
  const og_view &a = call->inputs[0], &b = call->inputs[1], &bias = call->inputs[2], &residual = call->inputs[3],
                &packed = call->inputs[4];
  const og_view &c = call->outputs[0], &pre = call->outputs[1];
  OG_REQUIRE(c.rank >= 2 && a.rank == c.rank && b.rank == c.rank,
             "matmul: operands must have the output's rank, at least 2");
  const int batch_rank = c.rank - 2;
  for (int i = 0; i < batch_rank; i++)
    OG_REQUIRE(a.shape[i] == c.shape[i] && b.shape[i] == c.shape[i], "matmul: batch axis %d differs", i);
  Product p{};
  p.m = c.shape[batch_rank];
  p.n = c.shape[batch_rank + 1];
  p.k = a.shape[batch_rank + 1];
  OG_REQUIRE(a.shape[batch_rank] == p.m && b.shape[batch_rank] == p.k && b.shape[batch_rank + 1] == p.n,
             "matmul: (%lld, %lld) · (%lld, %lld) does not give (%lld, %lld)", (long long)a.shape[batch_rank],
             (long long)p.k, (long long)b.shape[batch_rank], (long long)b.shape[batch_rank + 1], (long long)p.m,
             (long long)p.n);
  if (is_present(bias))
    OG_REQUIRE(bias.rank == 1 ? bias.shape[0] == p.n || bias.shape[0] == 1 : same_shape(bias, c),
               "matmul: bias must be [N] or of the output's shape");
  const bool floats = dtype_is_float(c.dtype);
  OG_SUPPORTED(c.dtype != OG_BOOL, "matmul: no bool output");
  OG_SUPPORTED(dtype_is_float(a.dtype) == floats && dtype_is_float(b.dtype) == floats &&
                   (!is_present(bias) || dtype_is_float(bias.dtype) == floats),
               "matmul: operands must be all float or all integer");
  const double activation = call->attrs[0];
  OG_REQUIRE(activation >= 0 && activation < kActCount, "matmul: activation must be 0 to %d", kActCount - 1);
  p.activation = (int)activation;
  const og_view* const extra[] = {&residual, &pre};
  for (const og_view* more : extra) {
    if (!is_present(*more)) continue;
    OG_REQUIRE(same_shape(*more, c), "matmul: residual and pre must have the output's shape");
    OG_SUPPORTED(more->dtype == c.dtype, "matmul: residual and pre must have the output's dtype");
  }
  OG_REQUIRE(!is_present(pre) || is_contiguous(pre), "matmul: pre must be contiguous");
  OG_TRY(check_packed(packed, a, b, p));
  p.rank = batch_rank;
  p.batch = 1;
  for (int i = 0; i < batch_rank; i++) {
    p.shape[i] = c.shape[i];
    p.batch *= c.shape[i];
  }
  if (p.batch == 0 || p.m == 0 || p.n == 0) return OG_OK;
  p.a = side_of(a, batch_rank);
  p.b = side_of(b, batch_rank);
  p.c = side_of(c, batch_rank);
  p.bias = side_of(bias, batch_rank);
  const Lines residual_lines(is_present(residual) ? residual : c);
  p.residual_lines = &residual_lines;
  p.residual = is_present(residual) ? residual.data : nullptr;
  p.residual_column = is_present(residual) ? residual.strides[c.rank - 1] : 0;
  p.pre = is_present(pre) ? pre.data : nullptr;
  OG_SUPPORTED(!p.has_end() || c.dtype == OG_F32 || c.dtype == OG_F64,
               "matmul: activation, residual and pre need a float32 or float64 result");
  p.chain = chain;
  p.fold_rows();
  if (chain) chain->matrix_rows = p.m;
  return floats ? multiply_floats(p) : multiply_integers(p);
}

}  // namespace

int32_t kernel_matmul(const og_call* call) { return run_matmul(call, nullptr); }

int32_t kernel_matmul_pack(const og_call* call) {
  const og_view &b = call->inputs[0], &packed = call->outputs[0];
  OG_REQUIRE(b.rank == 2, "matmul_pack: expected a matrix");
  OG_SUPPORTED(is_packable(b) && packed.dtype == OG_F32, "matmul_pack: float32 or bfloat16 to float32 only");
  const int64_t k = b.shape[0], n = b.shape[1];
  OG_REQUIRE(is_packed_size(packed, b, n, k),
             "matmul_pack: expected room for (N + 63)·K + 16 floats, of a bfloat16 b (N + 63)·⌈K/2⌉ + 16");
  if (n == 0 || k == 0) return OG_OK;
#ifndef OG_IS_REFERENCE
  const MatrixView from{b.data, b.dtype, b.strides[0], b.strides[1]};
  if (b.dtype == OG_F32) {
    pack_whole<FloatPanels>(from, n, k, packed_start(packed.data));
    return OG_OK;
  }
#if OG_LANES == 16
  if (has_pairs()) {
    pack_whole<PairPanels>(from, n, k, packed_start(packed.data));
    return OG_OK;
  }
#endif
#endif
  std::memset(packed.data, 0, (size_t)count_of(packed) * sizeof(float));  // nobody reads it
  return OG_OK;
}

/**
 * A product and a chain of element-wise steps on it (chain.h), one pass: inputs a, b, bias and packed b, then the
 * chain's, the first of which is the product; outputs the product, dense float32, then the chain's; attributes the
 * chain's. The chain's rows are those of all matrices of the batch. The bits are those of the calls one by one.
 */
int32_t kernel_matmul_chain(const og_call* call) {
  const og_view& c = call->outputs[0];
  OG_SUPPORTED(c.dtype == OG_F32 && is_contiguous(c), "matmul_chain: the product must be dense float32");
  OG_REQUIRE(c.rank >= 2, "matmul_chain: the product must be a matrix or several");
  const og_call steps = {call->inputs + 4, call->outputs + 1, call->attrs,
                         kChainInputs,     kChainOutputs,     call->attr_count};
  Chain chain;
  OG_TRY(read_chain(&steps, &chain));
  const og_view& first = call->inputs[4];
  OG_REQUIRE(is_present(first) && first.data == c.data && first.dtype == OG_F32 && is_contiguous(first),
             "matmul_chain: the chain's first operand must be the product");
  OG_REQUIRE(chain.cols == c.shape[c.rank - 1] && chain.rows * chain.cols == count_of(c),
             "matmul_chain: the chain has another shape than the product");
  og_view inputs[5] = {call->inputs[0], call->inputs[1], call->inputs[2], {}, call->inputs[3]}, outputs[2] = {c, {}};
  inputs[3].dtype = outputs[1].dtype = -1;
  const double attrs[1] = {kNoActivation};
  const og_call product = {inputs, outputs, attrs, 5, 2, 1};
  ChainEnd end{&chain, 0, OG_OK};
#ifdef OG_IS_REFERENCE
  OG_TRY(run_matmul(&product, nullptr));
  constexpr int64_t kRows = 4;
  for (int64_t row = 0; row < chain.rows; row += kRows)
    end.run(row, 0, chain.rows - row < kRows ? chain.rows - row : kRows, chain.cols);
#else
  OG_TRY(run_matmul(&product, &end));
#endif
  return end.status == OG_OK ? OG_OK : fail(end.status, "matmul_chain: a step failed");
}

}  // namespace OG_ISA
}  // namespace og
