/**
 * Keys and values in pages (PagedAttention, arXiv 2309.06180), of a float dtype or of int8 with a scale a token and
 * head. Pages are [P, Hkv, R, D]: R places each. Sequence b holds lengths[b] places; place j lies in row j % R of page
 * table[b][j / R]. Without a table sequence b has the one page b. lengths [B] and table [B, M] are int32; a hostile one
 * gives an error before anything is read through it.
 *
 *   kv_append(k, v, lengths, table → pages of k, of v, scales of k, of v): writes k, v [B, H, T, ·] behind what is
 * held, in one pass. int8: scale = max|x| / 127 of a row, x / scale rounded to nearest: an element is off by at most
 * scale / 2.
 *   kv_read(pages of k, of v, scales of k, of v, lengths, table → k, v): [B, H, S, ·], zeros behind a sequence's end.
 *   attention_paged(q, k pages, v pages, mask, slopes, k scales, v scales, spans, lengths, table → y, lse):
 * attention.cpp's for queries [B, Hq, T, D] that stand at the last T places of their sequences. Attributes: scale,
 * causal, window, soft cap. The mask is [B, Hq, T, S], S at least the longest length. spans as in attention_common.h.
 *
 * A few queries read every key once, as attention_decode.h does: int8 stays so until it is in registers, and scales are
 * multiplied into scores and weights. Many queries (chunks of a prompt) take attention_strips.h, with one tile of keys
 * gathered from its pages at a time. float32 sums (`reference`: float or double). Parallel split: (sequence, key head,
 * block of queries, range of keys), the ranges by the longest sequence; kv_append by head, kv_read by (sequence, head).
 */
#include <atomic>

#include "../core/parallel.h"
#include "../core/scratch.h"
#include "attention_common.h"
#ifndef OG_IS_REFERENCE
#include "attention_strips.h"
#endif

namespace og {
namespace OG_ISA {
namespace {

/** Pages with a checked copy of what says where they are. */
struct Cache {
  const og_view *k, *v, *k_scales, *v_scales;
  int64_t batch, heads, pages, page, per_sequence, longest;
  const int64_t *lengths, *table;

  int64_t row(int64_t j) const { return j % page; }
  int64_t page_of(int64_t b, int64_t j) const { return table[b * per_sequence + j / page]; }
};

int32_t check_pages(const og_view& pages, const og_view& scales, const Cache& cache) {
  OG_REQUIRE(
      pages.rank == 4 && pages.shape[0] == cache.pages && pages.shape[1] == cache.heads && pages.shape[2] == cache.page,
      "pages of keys and of values must agree in number, heads and places");
  OG_SUPPORTED(dtype_is_float(pages.dtype) || pages.dtype == OG_I8, "pages must be float or int8");
  OG_SUPPORTED(pages.shape[3] <= kMaxHeadWidth, "attention_paged: head width above 256");
  OG_REQUIRE(is_present(scales) == (pages.dtype == OG_I8), "int8 pages have scales, others none");
  if (is_present(scales))
    OG_REQUIRE(scales.dtype == OG_F32 && scales.rank == 3 && scales.shape[0] == cache.pages &&
                   scales.shape[1] == cache.heads && scales.shape[2] == cache.page,
               "scales must be float32 [pages, heads, places]");
  return OG_OK;
}

/** `extra` places behind the lengths will be written. */
int32_t take_cache(const og_view& k, const og_view& v, const og_view& k_scales, const og_view& v_scales,
                   const og_view& lengths, const og_view& table, int64_t batch, int64_t extra, ScratchFrame* scratch,
                   Cache* cache) {
  OG_REQUIRE(k.rank == 4, "pages must have rank 4");
  *cache = {&k, &v, &k_scales, &v_scales, batch, k.shape[1], k.shape[0], k.shape[2], 1, 0, nullptr, nullptr};
  OG_TRY(check_pages(k, k_scales, *cache));
  OG_TRY(check_pages(v, v_scales, *cache));
  OG_REQUIRE(lengths.dtype == OG_I32 && lengths.rank == 1 && lengths.shape[0] == batch,
             "lengths must be int32, one a sequence");
  const bool listed = is_present(table);
  if (listed) {
    OG_REQUIRE(table.dtype == OG_I32 && table.rank == 2 && table.shape[0] == batch,
               "the table must be int32, one row a sequence");
    cache->per_sequence = table.shape[1];
  } else {
    OG_REQUIRE(cache->pages >= batch, "without a table every sequence has a page");
  }
  OG_SUPPORTED(cache->page < (int64_t{1} << 31) && cache->per_sequence < (int64_t{1} << 31), "pages are too large");
  int64_t* copy = scratch->take<int64_t>(batch * (cache->per_sequence + 1));
  OG_SCRATCH(copy, "the table of pages");
  cache->lengths = copy;
  cache->table = copy + batch;
  for (int64_t b = 0; b < batch; b++) {
    const int64_t length = data_of<int32_t>(lengths)[b * lengths.strides[0]];
    if (length < 0 || length + extra > cache->page * cache->per_sequence)
      return fail(OG_INDEX, "length %lld of sequence %lld and %lld more do not fit %lld places", (long long)length,
                  (long long)b, (long long)extra, (long long)(cache->page * cache->per_sequence));
    copy[b] = length;
    if (length > cache->longest) cache->longest = length;
    for (int64_t m = 0; m < cache->per_sequence; m++) {
      const bool used = m * cache->page < length + extra;
      int64_t index = used ? b : 0;
      if (listed && used) index = data_of<int32_t>(table)[b * table.strides[0] + m * table.strides[1]];
      if (used && (index < 0 || index >= cache->pages))
        return fail(OG_INDEX, "page %lld of sequence %lld is %lld of %lld", (long long)m, (long long)b,
                    (long long)index, (long long)cache->pages);
      copy[batch + b * cache->per_sequence + m] = index;
    }
  }
  return OG_OK;
}

inline float scale_at(const og_view& scales, int64_t page, int64_t head, int64_t row) {
  return data_of<float>(scales)[page * scales.strides[0] + head * scales.strides[1] + row * scales.strides[2]];
}

/** Row of place j as numbers. */
template <class C>
void load_place(const Cache& cache, const og_view& pages, const og_view& scales, int64_t b, int64_t head, int64_t j,
                C* to) {
  const int64_t page = cache.page_of(b, j), width = pages.shape[3];
  load_row(head_of(pages, page, head), cache.row(j), 0, width, to);
  if (pages.dtype != OG_I8) return;
  const C scale = (C)scale_at(scales, page, head, cache.row(j));
  for (int64_t d = 0; d < width; d++) to[d] *= scale;
}

/** 1 / scale; 0 where codes of 0 are right whatever the scale: of zeros, and of what has no finite size. */
template <class C>
C inverse_of(float scale) {
  const C inverse = C(1) / (C)scale;
  return scale > 0 && std::isfinite(scale) && std::isfinite(inverse) ? inverse : C(0);
}

/** Codes of a row; its scale, which is NaN or infinite where an element is. */
#ifdef OG_IS_REFERENCE
template <class C>
float quantise(C* row, int64_t width, int8_t* codes) {
  C most = 0;
  for (int64_t d = 0; d < width; d++) {
    const C size = std::fabs(row[d]);
    most = size > most || !(size == size) ? size : most;  // NaN stays
  }
  const float scale = (float)(most / C(127));
  const C inverse = inverse_of<C>(scale);
  for (int64_t d = 0; d < width; d++) {
    const C x = row[d] * inverse;
    codes[d] = (int8_t)std::nearbyint(x > C(127) ? C(127) : x < C(-127) ? C(-127) : x == x ? x : C(0));
  }
  return scale;
}
#else
float quantise(float* row, int64_t width, int8_t* codes) {  // row and codes: kMaxHeadWidth elements, of any contents
  for (int64_t d = width; d % kLanes; d++) row[d] = 0.f;
  Vf most{};
  for (int64_t d = 0; d < width; d += kLanes) most = max_nan(most, abs(load(row + d)));
  const float scale = max_lane(most) / 127.f;
  const float inverse = inverse_of<float>(scale);
  for (int64_t d = 0; d < width; d += kLanes) {
    Vf x = load(row + d) * inverse;
    x = min_second(set1(127.f), max_second(set1(-127.f), x));
    const Vi code = to_int(round_small(select(x == x, x, Vf{})));
    for (int i = 0; i < kLanes; i++) codes[d + i] = (int8_t)code[i];
  }
  return scale;
}
#endif

/** Stores a row at place j, quantised where the pages are int8. */
template <class C>
void store_place(const Cache& cache, const og_view& pages, const og_view& scales, int64_t b, int64_t head, int64_t j,
                 C* row) {
  const int64_t page = cache.page_of(b, j), width = pages.shape[3];
  const Head target = head_of(pages, page, head);
  if (pages.dtype != OG_I8) {
    store_row(target, cache.row(j), 0, width, row);
    return;
  }
  int8_t codes[kMaxHeadWidth];
  const float scale = quantise(row, width, codes);
  data_of<float>(scales)[page * scales.strides[0] + head * scales.strides[1] + cache.row(j) * scales.strides[2]] =
      scale;
  int8_t* to = reinterpret_cast<int8_t*>(target.at(cache.row(j)));
  for (int64_t d = 0; d < width; d++) to[d * target.column] = codes[d];
}

template <class C>
void append(const Cache& cache, const og_view& k, const og_view& v, int64_t time) {
  // by heads alone: a hostile table may name one page twice, and then the last sequence's row stays, in any order of
  // work
  const int64_t work = cache.batch * time * (k.shape[3] + v.shape[3]);
  parallel_ranges(cache.heads, grain_for(work), [&](int64_t begin, int64_t end) {
    alignas(64) C row[kMaxHeadWidth];
    for (int64_t head = begin; head < end; head++)
      for (int64_t b = 0; b < cache.batch; b++)
        for (int64_t t = 0; t < time; t++) {
          load_row(head_of(k, b, head), t, 0, k.shape[3], row);
          store_place(cache, *cache.k, *cache.k_scales, b, head, cache.lengths[b] + t, row);
          load_row(head_of(v, b, head), t, 0, v.shape[3], row);
          store_place(cache, *cache.v, *cache.v_scales, b, head, cache.lengths[b] + t, row);
        }
  });
}

template <class C>
void read(const Cache& cache, const og_view& k, const og_view& v) {
  parallel_for(cache.batch * cache.heads, [&](int64_t task) {
    const int64_t b = task / cache.heads, head = task % cache.heads;
    alignas(64) C row[kMaxHeadWidth];
    alignas(64) const C zeros[kMaxHeadWidth] = {};
    for (int64_t j = 0; j < k.shape[2]; j++) {
      const bool held = j < cache.lengths[b];
      if (held) load_place(cache, *cache.k, *cache.k_scales, b, head, j, row);
      store_row(head_of(k, b, head), j, 0, k.shape[3], held ? row : zeros);
      if (held) load_place(cache, *cache.v, *cache.v_scales, b, head, j, row);
      store_row(head_of(v, b, head), j, 0, v.shape[3], held ? row : zeros);
    }
  });
}

// mask, slopes and spans stand where attention_common.h looks for them
enum PagedInput { kKeyScales = kSlopes + 1, kValueScales, kLengths = kSpans + 1, kTable };

#ifdef OG_IS_REFERENCE

template <class C>
int32_t forward(const og_call* call, const Problem& whole, const Cache& cache) {
  const bool masked = is_present(call->inputs[kMask]);
  const C infinity = std::numeric_limits<C>::infinity();
  std::atomic<bool> failed{false};
  parallel_for(whole.batch * whole.q_heads, [&](int64_t task) {
    const int64_t b = task / whole.q_heads, h = task % whole.q_heads, head = h / whole.group;
    const Problem p = whole.of(b);
    ScratchFrame scratch;
    C* score = scratch.take<C>(2 * p.keys);
    if (!score) {
      failed = true;
      return;
    }
    C *bias = score + p.keys, row[kMaxHeadWidth], other[kMaxHeadWidth], sum[kMaxHeadWidth];
    const C slope = (C)slope_of(call, h);
    for (int64_t i = 0; i < p.queries; i++) {
      const int64_t begin = p.key_begin(i), end = p.key_end(i);
      load_row(head_of(call->inputs[kQ], b, h), i, 0, p.width, row);
      if (masked && end > begin) load_mask_row(head_of(call->inputs[kMask], b, h), i, begin, end - begin, bias + begin);
      C highest = -infinity, total = 0;
      for (int64_t j = begin; j < end; j++) {
        C dot = 0;
        load_place(cache, *cache.k, *cache.k_scales, b, head, j, other);
        for (int64_t d = 0; d < p.width; d++) dot += row[d] * other[d];
        dot *= (C)p.scale;
        if (p.soft_cap > 0) dot = (C)p.soft_cap * std::tanh(dot / (C)p.soft_cap);
        if (slope != C(0)) dot -= slope * std::abs((C)(i + p.keys - p.queries - j));
        score[j] = !masked ? dot : bias[j] == -infinity ? -infinity : dot + bias[j];
        if (score[j] > highest) highest = score[j];
      }
      const C base = highest == -infinity ? C(0) : highest;
      for (int64_t d = 0; d < p.value_width; d++) sum[d] = 0;
      for (int64_t j = begin; j < end; j++) {
        const C weight = std::exp(score[j] - base);
        total += weight;
        load_place(cache, *cache.v, *cache.v_scales, b, head, j, other);
        for (int64_t d = 0; d < p.value_width; d++) sum[d] += weight * other[d];
      }
      const C logarithm = total == C(0) ? -infinity : base + std::log(total);
      for (int64_t d = 0; d < p.value_width; d++) sum[d] = total == C(0) ? C(0) : sum[d] / total;
      store_row(head_of(call->outputs[0], b, h), i, 0, p.value_width, sum);
      store_row(head_of(call->outputs[1], b, h), i, 0, 1, &logarithm);
    }
  });
  if (failed) return fail(OG_OUT_OF_MEMORY, "attention_paged: no memory for a head");
  return OG_OK;
}

#else

/** Reads tiles of one head through the table. A tile does not cross a page's end. */
struct Reader {
  const Cache* cache;
  int64_t b, head, width, value_width, tile_keys;
  float* buffer;  // [kDecodeKeys][both widths], for rows that cannot be read in place
  alignas(64) float k_scale[kFarKeys], v_scale[kFarKeys];

  const float* scales(const og_view& view, int64_t page, int64_t row, int64_t n, float* to, int64_t step = 1) const {
    if (!is_present(view)) return nullptr;
    for (int64_t j = 0; j < n; j++) to[j * step] = scale_at(view, page, head, row + j);
    return to;
  }
  bool in_place() const {
    return reads_in_place(head_of(*cache->k, 0, head), width) &&
           reads_in_place(head_of(*cache->v, 0, head), value_width);
  }
  /** A tile that is spread over streams, none of which crosses a page's end in it. */
  KeyTile tile(int64_t j0, int64_t end, const FarKeys& far) {
    int64_t n = far.rows(j0, end);
    for (int i = 0; i < kFar; i++) {
      const int64_t left = cache->page - cache->row(far.place(j0, i));
      if (n > left) n = left;
    }
    KeyTile tile{};
    tile.n = n * kFar;
    for (int i = 0; i < kFar; i++) {
      const int64_t place = far.place(j0, i), page = cache->page_of(b, place), row = cache->row(place);
      const Head k = head_of(*cache->k, page, head), v = head_of(*cache->v, page, head);
      tile.k.stride = k.row;
      tile.k.dtype = k.dtype;
      tile.k.far[i] = k.at(row);
      tile.v.stride = v.row;
      tile.v.dtype = v.dtype;
      tile.v.far[i] = v.at(row);
      tile.k_scale = scales(*cache->k_scales, page, row, n, k_scale + i, kFar);
      tile.v_scale = scales(*cache->v_scales, page, row, n, v_scale + i, kFar);
    }
    if (tile.k_scale) tile.k_scale = k_scale;
    if (tile.v_scale) tile.v_scale = v_scale;
    return tile;
  }
  KeyTile tile(int64_t j0, int64_t end) {
    const int64_t page = cache->page_of(b, j0), row = cache->row(j0), left = cache->page - row;
    const Head k = head_of(*cache->k, page, head), v = head_of(*cache->v, page, head);
    KeyTile tile{};
    tile.n = end - j0 < tile_keys ? end - j0 : tile_keys;
    if (tile.n > left) tile.n = left;
    tile.k = decode_tile(k, row, tile.n, width, buffer);
    tile.v = decode_tile(v, row, tile.n, value_width, buffer + kDecodeKeys * round_up(width, kLanes));
    tile.k_scale = scales(*cache->k_scales, page, row, tile.n, k_scale);
    tile.v_scale = scales(*cache->v_scales, page, row, tile.n, v_scale);
    const int64_t j1 = j0 + tile.n;
    if (j1 + tile.n > end) return tile;
    const int64_t next_page = cache->page_of(b, j1), next_row = cache->row(j1);
    if (next_row + tile.n > cache->page) return tile;
    if (reads_in_place(k, width)) tile.k.next = head_of(*cache->k, next_page, head).at(next_row);
    if (reads_in_place(v, value_width)) tile.v.next = head_of(*cache->v, next_page, head).at(next_row);
    return tile;
  }
};

int32_t forward_few(const og_call* call, const Problem& p, const Cache& cache) {
  const int64_t heads = p.batch * p.kv_heads;
  const int64_t split_keys = split_of(p);
  const int64_t tile_keys = keys_of_tile(p, split_keys, cache.k->dtype);
  int64_t splits = (cache.longest + split_keys - 1) / split_keys;
  if (splits < 1) splits = 1;
  ScratchFrame scratch;
  Partials partials;
  OG_TRY(partials.take(&scratch, p.batch * p.q_heads * p.queries, splits, p.value_width));
  std::atomic<bool> failed{false};
  parallel_for(heads * splits, [&](int64_t task) {
    const int64_t split = task % splits, head = task / splits;
    const RowBlock block{head / p.kv_heads, head % p.kv_heads, 0, p.queries * p.group};
    const Problem own = p.of(block.b);
    ScratchFrame local;
    DecodeRow rows[kDecodeRows];
    Reader reader;
    reader.cache = &cache;
    reader.b = block.b;
    reader.head = block.kv_head;
    reader.width = p.width;
    reader.value_width = p.value_width;
    reader.tile_keys = tile_keys;
    reader.buffer = local.take<float>(kDecodeKeys * (round_up(p.width, kLanes) + round_up(p.value_width, kLanes)));
    if (!reader.buffer || !start_rows(call, own, block, &local, rows)) {
      failed = true;
      return;
    }
    const int64_t from = split * split_keys, to = from + split_keys < own.keys ? from + split_keys : own.keys;
    const FarKeys far = reader.in_place() ? far_keys(call, own, from, to) : FarKeys{from, 0};
    decode_ranges<true>(
        call, own, block, from, to, far, rows, [&](int64_t j0, int64_t end) { return reader.tile(j0, end); },
        [&](int64_t j0, int64_t end) { return reader.tile(j0, end, far); });
    finish_rows(call, own, block, partials, split, rows);
  });
  if (failed) return fail(OG_OUT_OF_MEMORY, "attention_paged: no memory for a task");
  if (splits > 1) combine(call, p, partials);
  return OG_OK;
}

/** Tiles for many queries: in place where one lies in one page of floats, otherwise gathered. */
struct KeysInPages {
  const Cache* cache;

  void fetch(const Problem&, int64_t b, int64_t head, int64_t from, int64_t n, Ahead* ahead) const {
    for (int part = 0; part < 3 && n > 0; part++) {  // as many as Ahead has room for
      const int64_t page = cache->page_of(b, from), row = cache->row(from), left = cache->page - row;
      const int64_t count = n < left ? n : left;
      ahead->add(head_of(*cache->k, page, head), row, count, cache->k->shape[3]);
      ahead->add(head_of(*cache->v, page, head), row, count, cache->v->shape[3]);
      from += count;
      n -= count;
    }
  }
  Rows rows(const og_view& pages, const og_view& scales, int64_t b, int64_t head, int64_t from, int64_t n,
            float* buffer) const {
    const int64_t row = cache->row(from), width = pages.shape[3];
    if (row + n <= cache->page && !is_present(scales)) {
      Head rows = head_of(pages, cache->page_of(b, from), head);
      rows.data = rows.at(row);
      return key_rows(rows, 0, n, width, buffer);
    }
    for (int64_t j = 0; j < n; j++) load_place(*cache, pages, scales, b, head, from + j, buffer + j * width);
    return {buffer, width};
  }
  Rows keys(const Problem&, int64_t b, int64_t head, int64_t from, int64_t n, float* buffer) const {
    return rows(*cache->k, *cache->k_scales, b, head, from, n, buffer);
  }
  Rows values(const Problem&, int64_t b, int64_t head, int64_t from, int64_t n, float* buffer) const {
    return rows(*cache->v, *cache->v_scales, b, head, from, n, buffer);
  }
};

template <class C>
int32_t forward(const og_call* call, const Problem& p, const Cache& cache) {
  if (p.queries * p.group <= kDecodeRows) return forward_few(call, p, cache);
  return forward_tiled(call, p, KeysInPages{&cache});
}

#endif

}  // namespace

int32_t kernel_attention_paged(const og_call* call) {
  const og_view *in = call->inputs, &q = in[kQ], &mask = in[kMask], &slopes = in[kSlopes];
  OG_REQUIRE(q.rank == 4 && in[kV].rank == 4, "attention_paged: q and pages must have rank 4");
  ScratchFrame scratch;
  Cache cache;
  OG_TRY(take_cache(in[kK], in[kV], in[kKeyScales], in[kValueScales], in[kLengths], in[kTable], q.shape[0], 0, &scratch,
                    &cache));
  Problem p{};
  p.batch = q.shape[0];
  p.q_heads = q.shape[1];
  p.kv_heads = cache.heads;
  p.queries = p.all_queries = q.shape[2];
  p.keys = p.all_keys = cache.longest;
  p.width = q.shape[3];
  p.value_width = in[kV].shape[3];
  p.sequences = 1;
  p.lengths = cache.lengths;
  OG_REQUIRE(in[kK].shape[3] == p.width, "attention_paged: q and keys differ in width");
  OG_REQUIRE(p.kv_heads > 0 ? p.q_heads % p.kv_heads == 0 : p.q_heads == 0,
             "attention_paged: query heads are not a multiple of key heads");
  p.group = p.kv_heads > 0 ? p.q_heads / p.kv_heads : 0;
  OG_SUPPORTED(dtype_is_float(q.dtype), "attention_paged: q must have a float dtype");
  if (is_present(mask)) {
    OG_SUPPORTED(mask.dtype == OG_BOOL || dtype_is_float(mask.dtype), "attention_paged: mask must be bool or float");
    OG_REQUIRE(mask.rank == 4 && mask.shape[0] == p.batch && mask.shape[1] == p.q_heads && mask.shape[2] == p.queries &&
                   mask.shape[3] >= cache.longest,
               "attention_paged: mask must have shape [B, Hq, T, S], S at least the longest length");
  }
  if (is_present(slopes))
    OG_REQUIRE((slopes.dtype == OG_F32 || slopes.dtype == OG_F64) && slopes.rank == 1 && slopes.shape[0] == p.q_heads,
               "attention_paged: slopes must be float32 or float64, one a query head");
  p.scale = call->attrs[0];
  p.causal = call->attrs[1] != 0;
  OG_REQUIRE(call->attrs[2] >= 0 && call->attrs[2] <= 9007199254740992.0,
             "attention_paged: window must not be negative");
  p.window = (int64_t)call->attrs[2];
  p.soft_cap = call->attrs[3];
  OG_REQUIRE(p.soft_cap >= 0 && p.soft_cap <= 1e30, "attention_paged: the soft cap must be positive, or 0 for none");
  OG_TRY(take_spans(in[kSpans], &scratch, &p));
  const og_view &y = call->outputs[0], &lse = call->outputs[1];
  OG_REQUIRE(has_query_shape(y, p, p.value_width) && has_query_shape(lse, p, -1),
             "attention_paged: y must have shape [B, Hq, T, Dv], lse [B, Hq, T]");
  OG_SUPPORTED(dtype_is_float(y.dtype) && dtype_is_float(lse.dtype), "attention_paged: outputs must be floats");
  if (p.batch == 0 || p.q_heads == 0 || p.queries == 0) return OG_OK;
  bool wide = y.dtype == OG_F64 || lse.dtype == OG_F64 || mask.dtype == OG_F64;
  for (int i = 0; i < 3; i++) wide |= in[i].dtype == OG_F64;
  return with_float_compute(wide ? OG_F64 : OG_F32, [&](auto type) { return forward<decltype(type)>(call, p, cache); });
}

/** k, v, lengths, table → pages of k and v, scales of k and v. */
int32_t kernel_kv_append(const og_call* call) {
  const og_view *in = call->inputs, *out = call->outputs, &k = in[0], &v = in[1];
  OG_REQUIRE(k.rank == 4 && v.rank == 4 && out[0].rank == 4 && out[1].rank == 4, "kv_append: operands need rank 4");
  ScratchFrame scratch;
  Cache cache;
  OG_TRY(take_cache(out[0], out[1], out[2], out[3], in[2], in[3], k.shape[0], k.shape[2], &scratch, &cache));
  OG_REQUIRE(k.shape[1] == cache.heads && v.shape[0] == k.shape[0] && v.shape[1] == cache.heads &&
                 v.shape[2] == k.shape[2] && k.shape[3] == out[0].shape[3] && v.shape[3] == out[1].shape[3],
             "kv_append: k and v must be [B, H, T, D] as the pages are");
  OG_SUPPORTED(dtype_is_float(k.dtype) && dtype_is_float(v.dtype), "kv_append: k and v must be floats");
  const bool wide = k.dtype == OG_F64 || v.dtype == OG_F64 || out[0].dtype == OG_F64 || out[1].dtype == OG_F64;
  return with_float_compute(wide ? OG_F64 : OG_F32, [&](auto type) {
    append<decltype(type)>(cache, k, v, k.shape[2]);
    return (int32_t)OG_OK;
  });
}

/** Pages of k and v, scales of k and v, lengths, table → k, v. */
int32_t kernel_kv_read(const og_call* call) {
  const og_view *in = call->inputs, &k = call->outputs[0], &v = call->outputs[1];
  OG_REQUIRE(k.rank == 4 && v.rank == 4 && in[0].rank == 4 && in[1].rank == 4, "kv_read: operands need rank 4");
  ScratchFrame scratch;
  Cache cache;
  OG_TRY(take_cache(in[0], in[1], in[2], in[3], in[4], in[5], k.shape[0], 0, &scratch, &cache));
  OG_REQUIRE(k.shape[1] == cache.heads && v.shape[0] == k.shape[0] && v.shape[1] == cache.heads &&
                 v.shape[2] == k.shape[2] && k.shape[3] == in[0].shape[3] && v.shape[3] == in[1].shape[3],
             "kv_read: k and v must be [B, H, S, D] as the pages are");
  OG_SUPPORTED(dtype_is_float(k.dtype) && dtype_is_float(v.dtype), "kv_read: k and v must be floats");
  const bool wide = k.dtype == OG_F64 || v.dtype == OG_F64 || in[0].dtype == OG_F64 || in[1].dtype == OG_F64;
  return with_float_compute(wide ? OG_F64 : OG_F32, [&](auto type) {
    read<decltype(type)>(cache, k, v);
    return (int32_t)OG_OK;
  });
}

}  // namespace OG_ISA
}  // namespace og
