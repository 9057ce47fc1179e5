/**
 * csr_sampled: the sampled dense-dense product. out[e] = Σ_m a[m, row(e)] · b[m, col(e)] for the positions that crow
 * [N+1] and col [nnz] name; a [M, N], b [M, K] with any strides. With a the gradient of a sparse layer's output and b
 * its input this is the gradient of the kept values; nothing is computed for the others.
 *
 * float32: a and b are packed into panels (sparse_panel.h), so that a position is a dot product of two runs of memory.
 * The sums stay vectors until all panels were added; a group of rows works on the stretches of b's panel that fit L1.
 * Error at most (M + 4)·2^-24·Σ|a·b|. float64 on `reference`. Parallel split: by rows; M is never split.
 */
#include "csr.h"
#include "stage.h"
#ifndef OG_IS_REFERENCE
#include "sparse_panel.h"
#endif

namespace og {
namespace OG_ISA {
namespace {

constexpr char kName[] = "csr_sampled";

#ifdef OG_IS_REFERENCE

template <class T>
void sample(const Csr& s, const og_view& a, const og_view& b, const og_view& out) {
  parallel_ranges(s.rows, csr_grain(s, a.shape[0], 1 << 16), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; n++)
      for (int64_t e = s.crow[n]; e < s.crow[n + 1]; e++) {
        double sum = 0;
        for (int64_t m = 0; m < a.shape[0]; m++)
          sum += (double)data_of<const T>(a)[m * a.strides[0] + n * a.strides[1]] *
                 data_of<const T>(b)[m * b.strides[0] + s.col[e] * b.strides[1]];
        data_of<T>(out)[e] = (T)sum;
      }
  });
}

int32_t sample(const Csr& s, const og_call* call) {
  const og_view &a = call->inputs[0], &b = call->inputs[1], &out = call->outputs[0];
  if (a.dtype == OG_F64)
    sample<double>(s, a, b, out);
  else
    sample<float>(s, a, b, out);
  return OG_OK;
}

#else

/** Non-zeros whose vectors of sums are held at a time. */
constexpr int64_t kHeld = 2048;

struct Sampled {
  Csr s;
  Panels a, b;
  float* out;
  bool first;     // round of M: sets, later ones add
  int64_t depth;  // of a stretch of k

  template <int V>
  OG_INLINE void dots(const float* x, const float* panel, const int32_t* col, int64_t count, float* sums) const {
    Vf g[V];
#pragma GCC unroll 8
    for (int j = 0; j < V; j++) g[j] = load(x + j * kLanes);
    for (int64_t e = 0; e < count; e++) {
      const float* row = panel + (int64_t)col[e] * (V * kLanes);
      Vf v = load(sums + e * kLanes);
#pragma GCC unroll 8
      for (int j = 0; j < V; j++) v = fma(g[j], load(row + j * kLanes), v);
      store(sums + e * kLanes, v);
    }
  }

  /** Rows [n0, n1), whose sums fit `sums`; ends: of the stretches of k, by row. */
  void group(int64_t n0, int64_t n1, int64_t stretches, int32_t* ends, float* sums) const {
    const int64_t base = s.begin(n0), count = s.crow[n1] - base;
    std::memset(sums, 0, sizeof(float) * (size_t)(count * kLanes));
    for (int64_t n = n0; n < n1; n++) {
      int32_t at = s.crow[n];
      for (int64_t k = 0; k < stretches; k++)
        ends[(n - n0) * stretches + k] = at =
            k + 1 == stretches ? s.crow[n + 1] : first_at_least(s.col, at, s.crow[n + 1], (k + 1) * depth);
    }
    for (int64_t panel = 0; panel < a.count(); panel++) {
      with_vectors(panel_vectors(a.rows(panel)), [&](auto v) {
        constexpr int V = decltype(v)::value;
        for (int64_t k = 0; k < stretches; k++)
          for (int64_t n = n0; n < n1; n++) {
            const int32_t* end = ends + (n - n0) * stretches + k;
            const int64_t begin = k == 0 ? s.begin(n) : end[-1];
            dots<V>(a.at(panel) + n * V * kLanes, b.at(panel), s.col + begin, *end - begin,
                    sums + (begin - base) * kLanes);
          }
      });
    }
    for (int64_t e = 0; e < count; e += kLanes) {
      const int here = lanes_left(count - e, 0);
      const float* rows[kLanes];
      for (int i = 0; i < here; i++) rows[i] = sums + (e + i) * kLanes;
      Vf lanes[kBlockK];
      transpose_block(rows, here, kLanes, lanes);
      Vf total = lanes[0];
#pragma GCC unroll 16
      for (int i = 1; i < kLanes; i++) total += lanes[i];
      float* to = out + base + e;
      store_first(to, first ? total : total + load_first(to, here), here);
    }
  }
};

int32_t sample(const Csr& s, const og_call* call) {
  const og_view &a = call->inputs[0], &b = call->inputs[1];
  const int64_t m = a.shape[0];
  ScratchFrame scratch;
  const int64_t rows = m < kPanelRows ? m : kPanelRows;
  float* left = scratch.take<float>(Panels::floats(rows, s.rows) + 1);
  float* right = scratch.take<float>(Panels::floats(rows, s.columns) + 1);
  OG_SCRATCH(left, "panels of a");
  OG_SCRATCH(right, "panels of b");
  Sampled body{s,    {rows, s.rows, left},         {rows, s.columns, right}, data_of<float>(call->outputs[0]),
               true, stretch_depth(s, kPanelDepth)};
  const int64_t stretches = rows > kPanelWidth / 2 ? (s.columns + body.depth - 1) / body.depth : 1;
  const int64_t held = s.columns > kHeld ? s.columns : kHeld;
  int32_t failed = 0;
  for (int64_t m0 = 0; m0 < m; m0 += kPanelRows) {
    body.a.m = body.b.m = m - m0 < kPanelRows ? m - m0 : kPanelRows;
    body.first = m0 == 0;
    body.a.fill(advance({a.data, OG_F32, a.strides[0], a.strides[1]}, m0, 0));
    body.b.fill(advance({b.data, OG_F32, b.strides[0], b.strides[1]}, m0, 0));
    parallel_ranges(s.rows, csr_grain(s, body.a.m, 1 << 18), [&](int64_t begin, int64_t end) {
      ScratchFrame own;
      float* sums = own.take<float>(held * kLanes);
      int32_t* ends = own.take<int32_t>((end - begin) * stretches);
      if (!sums || !ends) {
        __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        return;
      }
      for (int64_t n0 = begin; n0 < end;) {
        int64_t n1 = n0 + 1;
        while (n1 < end && s.crow[n1 + 1] - s.crow[n0] <= held) n1++;
        body.group(n0, n1, stretches, ends, sums);
        n0 = n1;
      }
    });
    if (failed) return fail(OG_OUT_OF_MEMORY, "%s: no memory for sums", kName);
  }
  return OG_OK;
}

#endif

}  // namespace

int32_t kernel_csr_sampled(const og_call* call) {
  const og_view &a = call->inputs[0], &b = call->inputs[1], &out = call->outputs[0];
  OG_REQUIRE(a.rank == 2 && b.rank == 2 && a.shape[0] == b.shape[0], "%s: a is [M, N] and b [M, K]", kName);
  OG_SUPPORTED((out.dtype == OG_F32 || out.dtype == OG_F64) && a.dtype == out.dtype && b.dtype == out.dtype,
               "%s: a, b and the result must be float32 or float64", kName);
  Csr s;
  OG_TRY(read_checked_csr(kName, call->inputs[2], call->inputs[3], b.shape[1], out, &s));
  OG_REQUIRE(s.rows == a.shape[1], "%s: crow has %lld rows, a %lld columns", kName, (long long)s.rows,
             (long long)a.shape[1]);
  OG_REQUIRE(out.rank == 1 && out.shape[0] == s.count, "%s: the result must be [%lld]", kName, (long long)s.count);
  OG_SUPPORTED(is_dense(out), "%s: the result must be dense in memory", kName);
  if (s.count == 0) return OG_OK;
  if (a.shape[0] == 0) {
    std::memset(out.data, 0, (size_t)(s.count * dtype_size(out.dtype)));
    return OG_OK;
  }
  return sample(s, call);
}

}  // namespace OG_ISA
}  // namespace og
