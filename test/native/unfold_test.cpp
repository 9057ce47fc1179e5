// unfold and fold: against the definition over windows, layouts, dtypes; any number of threads.
#include "check.h"

using namespace og_test;

namespace {

struct Case {
  int64_t batch, channels, height, width;
  double window[8];  // kernel, stride, padding, dilation
};

const Case kCases[] = {
    {2, 3, 7, 6, {3, 2, 2, 1, 1, 0, 1, 2}},  {1, 1, 1, 1, {1, 1, 1, 1, 0, 0, 1, 1}},
    {1, 2, 9, 33, {3, 3, 1, 1, 1, 1, 1, 1}}, {2, 2, 5, 40, {2, 5, 3, 3, 0, 2, 2, 3}},
    {0, 2, 4, 4, {2, 2, 1, 1, 0, 0, 1, 1}},  {1, 1, 2, 2, {3, 3, 1, 1, 2, 2, 1, 1}},
};

int64_t positions(const Case& c, int axis) {
  const int64_t size = axis ? c.width : c.height;
  const double* w = c.window + axis;
  return (int64_t)((size + 2 * w[4] - w[6] * (w[0] - 1) - 1) / w[2]) + 1;
}

/** Calls body(index into the image, index into the columns) for each pair that belongs together. */
template <class F>
void pairs(const Case& c, const F& body) {
  const double* w = c.window;
  const int64_t kh = (int64_t)w[0], kw = (int64_t)w[1], oh = positions(c, 0), ow = positions(c, 1);
  for (int64_t row = 0; row < c.batch * c.channels * kh * kw; row++) {
    for (int64_t at = 0; at < oh * ow; at++) {
      const int64_t kj = row % kw, ki = row / kw % kh, plane = row / (kw * kh);
      const int64_t h = (int64_t)(at / ow * w[2] - w[4] + ki * w[6]), x = (int64_t)(at % ow * w[3] - w[5] + kj * w[7]);
      if (h >= 0 && h < c.height && x >= 0 && x < c.width)
        body((plane * c.height + h) * c.width + x, row * oh * ow + at);
    }
  }
}

int32_t call(og::Isa isa, const char* name, Tensor& from, Tensor& to, const double (&w)[8]) {
  return run(isa, name, {&from}, {&to}, {w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]});
}

}  // namespace

int main() {
  Random random(3);
  for_each_isa([&](og::Isa isa) {
    for (const Case& c : kCases) {
      const std::vector<int64_t> image = {c.batch, c.channels, c.height, c.width};
      const std::vector<int64_t> columns = {c.batch, c.channels * (int64_t)(c.window[0] * c.window[1]),
                                            positions(c, 0) * positions(c, 1)};
      for (int layout = 0; layout < kLayoutCount; layout++) {
        for (int32_t dtype : {OG_F32, OG_F16, OG_BF16, OG_F64, OG_I8, OG_I64}) {
          if (dtype == OG_F64 && isa != 0) continue;
          Tensor x(dtype, image, (Layout)layout), y(dtype, columns, (Layout)(kLayoutCount - 1 - layout));
          x.integers(random, -9, 10);
          std::vector<double> want((size_t)y.count(), 0.);
          pairs(c, [&](int64_t i, int64_t j) { want[(size_t)j] = x.get(i); });
          CHECK_OK(call(isa, "unfold", x, y, c.window));
          check_close(y, want, 0, 0, "unfold");

          y.integers(random, -9, 10);
          std::vector<double> sums((size_t)x.count(), 0.);
          pairs(c, [&](int64_t i, int64_t j) { sums[(size_t)i] += y.get(j); });
          if (dtype == OG_I8) continue;  // sums leave the range
          CHECK_OK(call(isa, "fold", y, x, c.window));
          check_close(x, sums, 0, 0, "fold");
        }
      }
    }
    Tensor x(OG_F32, {2, 8, 40, 40}), y(OG_F32, {2, 72, 1600});
    x.normal(random);
    const double window[8] = {3, 3, 1, 1, 1, 1, 1, 1};
    check_threads([&] { CHECK_OK(call(isa, "unfold", x, y, window)); }, [&] { return y.bytes(); });
    check_threads([&] { CHECK_OK(call(isa, "fold", y, x, window)); }, [&] { return x.bytes(); });
    Tensor wrong(OG_F32, {2, 72, 1599});
    CHECK_FAILS(call(isa, "unfold", x, wrong, window), OG_INVALID);
  });
  return finish("unfold");
}
