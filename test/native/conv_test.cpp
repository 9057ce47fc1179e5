// conv2d and its gradients: against the definition in double over windows, groups, layouts, dtypes; NaN and infinity
// stay where they belong; any number of threads.
#include "check.h"

using namespace og_test;

namespace {

struct Case {
  int64_t batch, inputs, outputs, groups, height, width;  // inputs and outputs of a group
  double window[8];                                       // kernel, stride, padding, dilation
};

const Case kCases[] = {
    {2, 3, 5, 1, 7, 6, {3, 2, 2, 1, 1, 0, 1, 2}},      // few positions: images together
    {1, 1, 1, 1, 1, 1, {1, 1, 1, 1, 0, 0, 1, 1}},      //
    {1, 2, 4, 2, 9, 33, {3, 3, 1, 1, 1, 1, 1, 1}},     //
    {2, 2, 6, 3, 5, 40, {2, 5, 3, 3, 0, 2, 2, 3}},     // windows apart, some of the image in none
    {0, 2, 4, 1, 4, 4, {2, 2, 1, 1, 0, 0, 1, 1}},      //
    {1, 4, 4, 1, 2, 2, {3, 3, 1, 1, 2, 2, 1, 1}},      // mostly padding
    {3, 1, 1, 5, 11, 37, {3, 3, 1, 1, 1, 1, 1, 1}},    // depthwise
    {2, 1, 2, 4, 10, 50, {3, 5, 2, 3, 2, 2, 2, 1}},    // depthwise, strided and dilated
    {1, 6, 3, 1, 8, 70, {3, 3, 2, 2, 1, 1, 1, 1}},     // few outputs of several channels
    {1, 3, 40, 1, 20, 24, {4, 4, 4, 4, 0, 0, 1, 1}},   // patches
    {2, 3, 33, 1, 20, 44, {4, 5, 4, 5, 1, 2, 1, 1}},   // patches with padding
    {1, 5, 16, 1, 30, 29, {1, 1, 1, 1, 0, 0, 1, 1}},   // single elements
    {2, 5, 7, 2, 9, 9, {1, 1, 2, 3, 1, 0, 1, 1}},      // single elements, strided and padded
    {1, 20, 17, 1, 1, 700, {1, 3, 1, 2, 0, 1, 1, 1}},  // a sequence
    {1, 9, 14, 1, 26, 25, {3, 3, 2, 2, 1, 1, 1, 1}},   //
    {2, 5, 13, 2, 12, 30, {3, 3, 1, 1, 1, 1, 1, 1}},   // one step apart: padded planes
    {1, 4, 16, 1, 20, 61, {5, 3, 1, 1, 2, 2, 1, 2}},   // the same, dilated
    {1, 8, 8, 1, 9, 100, {2, 3, 1, 1, 0, 0, 2, 1}},    // the same, without padding
};

int64_t positions(const Case& c, int axis) {
  const int64_t size = axis ? c.width : c.height;
  const double* w = c.window + axis;
  return (int64_t)((size + 2 * w[4] - w[6] * (w[0] - 1) - 1) / w[2]) + 1;
}

/** Calls body(index into x, into y, into the weights) for each product of the sums. */
template <class F>
void products(const Case& c, const F& body) {
  const double* w = c.window;
  const int64_t kh = (int64_t)w[0], kw = (int64_t)w[1], oh = positions(c, 0), ow = positions(c, 1);
  const int64_t outputs = c.groups * c.outputs;
  for (int64_t at = 0; at < c.batch * outputs * oh * ow; at++) {
    const int64_t j = at % ow, i = at / ow % oh, o = at / (ow * oh) % outputs, b = at / (ow * oh * outputs);
    const int64_t first = b * c.groups * c.inputs + o / c.outputs * c.inputs;
    const int64_t top = (int64_t)((double)i * w[2] - w[4]), left = (int64_t)((double)j * w[3] - w[5]);
    int64_t k = o * c.inputs * kh * kw;
    for (int64_t channel = first; channel < first + c.inputs; channel++)
      for (int64_t r = 0; r < kh; r++)
        for (int64_t s = 0; s < kw; s++, k++) {
          const int64_t h = top + r * (int64_t)w[6], v = left + s * (int64_t)w[7];
          if (h < 0 || h >= c.height || v < 0 || v >= c.width) continue;
          body((channel * c.height + h) * c.width + v, at, k);
        }
  }
}

struct Operands {
  Tensor x, y, weight, bias;

  Operands(const Case& c, int32_t dtype, Layout layout, Layout other)
      : x(dtype, {c.batch, c.groups * c.inputs, c.height, c.width}, layout),
        y(dtype, {c.batch, c.groups * c.outputs, positions(c, 0), positions(c, 1)}, other),
        weight(dtype, {c.groups * c.outputs, c.inputs, (int64_t)c.window[0], (int64_t)c.window[1]}, layout),
        bias(dtype, {c.groups * c.outputs}, layout == kTransposed ? kDense : layout) {}
};

int32_t call(og::Isa isa, const char* name, const Case& c, std::initializer_list<Tensor*> from, Tensor& to) {
  const double* w = c.window;
  return run(isa, name, from, {&to}, {w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], (double)c.groups});
}

/** Checks one result: |got − want| within what a float loop over the same terms may err by, and a rounding. */
void check_sums(const Tensor& got, const std::vector<double>& want, const std::vector<double>& sizes,
                const std::vector<double>& terms, const char* what) {
  const double unit = roundoff(got.dtype()), sum = got.dtype() == OG_F64 ? 0x1p-53 : 0x1p-24;
  for (size_t i = 0; i < want.size(); i++) {
    const double allowed = (terms[i] + 2) * sum * sizes[i] + 1.01 * unit * std::fabs(want[i]) + 0x1p-24 * unit;
    if (close(got.get((int64_t)i), want[i], 0, allowed)) continue;
    CHECK(false, "%s[%zu] is %.9g, expected %.9g (%s)", what, i, got.get((int64_t)i), want[i], dtype_name(got.dtype()));
    return;
  }
  CHECK(got.count() == (int64_t)want.size(), "%s: wrong size", what);
}

struct Sums {
  std::vector<double> value, size, terms;
  explicit Sums(const Tensor& like)
      : value((size_t)like.count(), 0.), size((size_t)like.count(), 0.), terms((size_t)like.count(), 0.) {}
  void add(int64_t at, double x) {
    value[(size_t)at] += x;
    size[(size_t)at] += std::fabs(x);
    terms[(size_t)at]++;
  }
  void check(const Tensor& got, const char* what) const { check_sums(got, value, size, terms, what); }
};

void check_case(og::Isa isa, const Case& c, int32_t dtype, Layout layout, Layout other, Random& random) {
  Operands all(c, dtype, layout, other);
  Tensor &x = all.x, &y = all.y, &weight = all.weight, &bias = all.bias;
  x.normal(random);
  weight.normal(random);
  bias.normal(random);
  const std::vector<double> xs = x.values(), ws = weight.values();  // read once: each is a factor of many products
  Sums plain(y);
  products(c, [&](int64_t i, int64_t j, int64_t k) { plain.add(j, xs[(size_t)i] * ws[(size_t)k]); });
  Sums forward = plain;
  const int64_t area = positions(c, 0) * positions(c, 1), outputs = c.groups * c.outputs;
  for (int64_t j = 0; j < y.count(); j++) forward.add(j, bias.get(j / area % outputs));
  CHECK_OK(call(isa, "conv2d", c, {&x, &weight, &bias}, y));
  forward.check(y, "conv2d");
  Tensor none;
  CHECK_OK(call(isa, "conv2d", c, {&x, &weight, &none}, y));
  plain.check(y, "conv2d without bias");

  y.normal(random);
  const std::vector<double> ys = y.values();
  Sums weights(weight), images(x);
  products(c, [&](int64_t i, int64_t j, int64_t k) {
    weights.add(k, xs[(size_t)i] * ys[(size_t)j]);
    images.add(i, ys[(size_t)j] * ws[(size_t)k]);
  });
  Operands results(c, dtype, other, layout);
  CHECK_OK(call(isa, "conv2d_weight_gradient", c, {&x, &y}, results.weight));
  weights.check(results.weight, "conv2d_weight_gradient");
  CHECK_OK(call(isa, "conv2d_input_gradient", c, {&y, &weight}, results.x));
  images.check(results.x, "conv2d_input_gradient");
}

/** What is not finite in one element of x or y reaches the elements that read it, and no others. */
void check_spread(og::Isa isa, const Case& c, double bad) {
  Operands all(c, OG_F32, kDense, kDense);
  const auto one = [](int64_t) { return 1.; };
  all.x.fill(one), all.weight.fill(one);
  Tensor none;
  const int64_t at = all.x.count() / 2, result = all.y.count() / 2;
  all.x.set(at, bad);
  std::vector<bool> reads((size_t)all.y.count(), false), read((size_t)all.x.count(), false);
  products(c, [&](int64_t i, int64_t j, int64_t) {
    if (i == at) reads[(size_t)j] = true;
    if (j == result) read[(size_t)i] = true;
  });
  CHECK_OK(call(isa, "conv2d", c, {&all.x, &all.weight, &none}, all.y));
  for (int64_t j = 0; j < all.y.count(); j++)
    CHECK(std::isfinite(all.y.get(j)) != reads[(size_t)j], "conv2d[%lld] of %g", (long long)j, bad);
  all.y.fill(one);
  all.y.set(result, bad);
  CHECK_OK(call(isa, "conv2d_input_gradient", c, {&all.y, &all.weight}, all.x));
  for (int64_t i = 0; i < all.x.count(); i++)
    CHECK(std::isfinite(all.x.get(i)) != read[(size_t)i], "conv2d_input_gradient[%lld] of %g", (long long)i, bad);
  // the weights' gradient at (0, 0) of the first output and channel: as the definition says
  all.x.fill(one);
  double want = 0;
  products(c, [&](int64_t i, int64_t j, int64_t k) {
    if (k == 0) want += all.x.get(i) * all.y.get(j);
  });
  CHECK_OK(call(isa, "conv2d_weight_gradient", c, {&all.x, &all.y}, all.weight));
  if (c.window[4] == 0 && c.window[5] == 0)
    CHECK(std::isfinite(all.weight.get(0)) == std::isfinite(want), "conv2d_weight_gradient of %g", bad);
}

}  // namespace

int main() {
  Random random(7);
  for_each_isa([&](og::Isa isa) {
    for (const Case& c : kCases) {
      for (int layout = 0; layout < kLayoutCount; layout++) {
        if (!is_chosen((int)(&c - kCases), layout)) continue;
        for (int32_t dtype : {OG_F32, OG_F16, OG_BF16, OG_F64}) {
          if (dtype == OG_F64 && isa != 0) continue;
          if (dtype != OG_F32 && layout > kTransposed) continue;
          check_case(isa, c, dtype, (Layout)layout, (Layout)(layout == 0 ? 0 : kLayoutCount - 1 - layout), random);
        }
      }
      if (c.batch > 0)
        for (double bad : {(double)NAN, (double)INFINITY}) check_spread(isa, c, bad);
    }
    const Case large[] = {{2, 16, 40, 1, 40, 41, {3, 3, 1, 1, 1, 1, 1, 1}},
                          {3, 1, 1, 24, 30, 31, {3, 3, 2, 2, 1, 1, 1, 1}},
                          {2, 3, 48, 1, 56, 56, {8, 8, 8, 8, 0, 0, 1, 1}}};
    for (const Case& c : large) {
      if (thread_limit(isa, 5) == 1) break;  // only what threads have to do with
      Operands all(c, OG_F32, kDense, kDense);
      all.x.normal(random), all.weight.normal(random), all.bias.normal(random);
      const auto same = [&](const char* name, std::initializer_list<Tensor*> from, Tensor& to) {
        check_threads([&] { CHECK_OK(call(isa, name, c, from, to)); }, [&] { return to.bytes(); });
      };
      same("conv2d", {&all.x, &all.weight, &all.bias}, all.y);
      same("conv2d_input_gradient", {&all.y, &all.weight}, all.x);
      same("conv2d_weight_gradient", {&all.x, &all.y}, all.weight);
    }
    const Case c = {1, 2, 3, 1, 5, 5, {3, 3, 1, 1, 1, 1, 1, 1}};
    Operands all(c, OG_F32, kDense, kDense);
    Tensor none, wrong(OG_F32, {1, 3, 5, 4}), half(OG_F16, {3, 2, 3, 3}), channels(OG_F32, {1, 3, 5, 5});
    CHECK_FAILS(call(isa, "conv2d", c, {&all.x, &all.weight, &none}, wrong), OG_INVALID);
    CHECK_FAILS(call(isa, "conv2d", c, {&channels, &all.weight, &none}, all.y), OG_INVALID);
    CHECK_FAILS(call(isa, "conv2d", c, {&all.x, &half, &none}, all.y), OG_UNSUPPORTED);
  });
  return finish("conv");
}
