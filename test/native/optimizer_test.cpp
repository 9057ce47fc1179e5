/** optimizer.cpp against torch.optim's single-tensor loops written out in double, over several steps. */
#include "check.h"

using namespace og_test;

namespace {

const std::vector<std::vector<int64_t>> kShapes = {{}, {0}, {1}, {37}, {5, 13}, {3, 4, 65}, {4097}};

/** Runs body(isa, dtype, shape, layout) over everything; float64 on reference only. */
template <class F>
void everywhere(const F& body) {
  for (const auto& shape : kShapes)
    for (int layout = 0; layout < kLayoutCount; layout++)
      for (int32_t dtype = OG_F32; dtype <= OG_F64; dtype++)
        for_each_isa([&](og::Isa isa) {
          if (dtype != OG_F64 || isa == og::kReference) body(isa, dtype, shape, (Layout)layout);
        });
}

/** The parameter is stored in its dtype after each step, so that is where its rounding goes. */
double stored(int32_t dtype, double x) {
  return dtype == OG_F64    ? x
         : dtype == OG_F16  ? og::to_float(og::to_f16((float)x))
         : dtype == OG_BF16 ? og::to_float(og::to_bf16((float)x))
                            : x;
}

struct Tensors {
  Tensor param, grad, first, second;
  int32_t wide;
  std::vector<double> p, m, v;
  double unit, small;

  Tensors(Random& random, int32_t dtype, const std::vector<int64_t>& shape, Layout layout)
      : param(dtype, shape, layout),
        grad(dtype, shape, (Layout)((layout + 1) % kLayoutCount)),
        first(dtype == OG_F64 ? OG_F64 : OG_F32, shape, (Layout)((layout + 2) % kLayoutCount)),
        second(dtype == OG_F64 ? OG_F64 : OG_F32, shape),
        wide(first.dtype()) {
    param.normal(random);
    p = param.values();
    m = first.values();
    v = second.values();
    unit = og_test::roundoff(dtype);
    small = dtype == OG_F64 ? 1e-14 : 1e-6;
  }
  void check(const char* what) {
    check_close(param, p, 4 * unit, 4 * small, what);
    check_close(first, m, 2 * small, small, "first state");
    check_close(second, v, 2 * small, small, "second state");
    p = param.values();  // so that roundings do not pile up over the steps
    m = first.values();
    v = second.values();
  }
};

void adamw() {
  Random random(10);
  const double lr = 0.01, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, decay = 0.1, scale = 0.5;
  everywhere([&](og::Isa isa, int32_t dtype, const std::vector<int64_t>& shape, Layout layout) {
    for (int decoupled = 0; decoupled < 2; decoupled++) {
      Tensors t(random, dtype, shape, layout);
      for (int step = 1; step <= 3; step++) {
        t.grad.normal(random, 0.3);
        const double c1 = 1 - std::pow(beta1, step), c2 = 1 - std::pow(beta2, step);
        for (size_t i = 0; i < t.p.size(); i++) {
          double g = t.grad.get((int64_t)i) * scale;
          if (decoupled)
            t.p[i] *= 1 - lr * decay;
          else
            g += decay * t.p[i];
          t.m[i] += (1 - beta1) * (g - t.m[i]);
          t.v[i] = beta2 * t.v[i] + (1 - beta2) * g * g;
          t.p[i] = stored(dtype, t.p[i] - lr / c1 * t.m[i] / (std::sqrt(t.v[i]) / std::sqrt(c2) + eps));
        }
        CHECK(run(isa, "adamw_step", {&t.grad}, {&t.param, &t.first, &t.second},
                  {lr, beta1, beta2, eps, decay, c1, c2, scale, (double)decoupled}) == OG_OK,
              "%s", og::last_message());
        t.check("adamw param");
      }
    }
  });
}

void sgd() {
  Random random(11);
  const double lr = 0.1, decay = 0.01, scale = 2;
  everywhere([&](og::Isa isa, int32_t dtype, const std::vector<int64_t>& shape, Layout layout) {
    for (int mode = 0; mode < 4; mode++) {  // plain, momentum, dampened, Nesterov
      const double momentum = mode ? 0.9 : 0, dampening = mode == 2 ? 0.3 : 0, nesterov = mode == 3;
      Tensors t(random, dtype, shape, layout);
      Tensor none;
      for (int step = 0; step < 3; step++) {
        t.grad.normal(random, 0.3);
        for (size_t i = 0; i < t.p.size(); i++) {
          double g = t.grad.get((int64_t)i) * scale + decay * t.p[i];
          if (mode) {
            t.m[i] = step == 0 ? g : momentum * t.m[i] + (1 - dampening) * g;
            g = nesterov ? g + momentum * t.m[i] : t.m[i];
          }
          t.p[i] = stored(dtype, t.p[i] - lr * g);
        }
        CHECK(run(isa, "sgd_step", {&t.grad}, {&t.param, mode ? &t.first : &none},
                  {lr, momentum, dampening, nesterov, decay, (double)(step == 0), scale}) == OG_OK,
              "%s", og::last_message());
        t.check("sgd param");
      }
    }
  });
}

void lion() {
  Random random(12);
  const double lr = 0.01, beta1 = 0.9, beta2 = 0.99, decay = 0.1, scale = 0.5;
  everywhere([&](og::Isa isa, int32_t dtype, const std::vector<int64_t>& shape, Layout layout) {
    Tensors t(random, dtype, shape, layout);
    for (int step = 0; step < 3; step++) {
      t.grad.normal(random, 0.3);
      if (t.grad.count() > 1) t.grad.set(0, 0);
      for (size_t i = 0; i < t.p.size(); i++) {
        const double g = t.grad.get((int64_t)i) * scale, u = beta1 * t.m[i] + (1 - beta1) * g;
        t.p[i] = stored(dtype, t.p[i] * (1 - lr * decay) - lr * (u > 0 ? 1 : u < 0 ? -1 : 0));
        t.m[i] = beta2 * t.m[i] + (1 - beta2) * g;
      }
      CHECK(run(isa, "lion_step", {&t.grad}, {&t.param, &t.first}, {lr, beta1, beta2, decay, scale}) == OG_OK, "%s",
            og::last_message());
      t.check("lion param");
    }
  });
}

void lerp_and_squares() {
  Random random(13);
  everywhere([&](og::Isa isa, int32_t dtype, const std::vector<int64_t>& shape, Layout layout) {
    for (double weight : {0., 0.001, 0.5, 1.}) {
      Tensors t(random, dtype, shape, layout);
      t.grad.normal(random);
      for (size_t i = 0; i < t.p.size(); i++)
        t.p[i] = stored(dtype, t.p[i] + weight * (t.grad.get((int64_t)i) - t.p[i]));
      CHECK(run(isa, "lerp_", {&t.grad}, {&t.param}, {weight}) == OG_OK, "%s", og::last_message());
      if (weight == 1) CHECK(t.param.values() == t.grad.values(), "weight 1 must copy");
      t.check("lerp");
    }
    Tensor x(dtype, shape, layout), sum(dtype == OG_F64 ? OG_F64 : OG_F32, {});
    x.normal(random);
    double want = 0;
    for (double v : x.values()) want += v * v;
    CHECK(run(isa, "sum_squares", {&x}, {&sum}) == OG_OK, "%s", og::last_message());
    CHECK(close(sum.get(0), want, dtype == OG_F64 ? 1e-14 : 1e-6, 0), "sum of squares %.9g, expected %.9g", sum.get(0),
          want);
  });
  for_each_isa([&](og::Isa isa) {
    Tensor x(OG_F32, {70001}), sum(OG_F32, {});
    x.fill([](int64_t) { return 0.1; });
    run(isa, "sum_squares", {&x}, {&sum});
    CHECK(close(sum.get(0), 70001 * (double)0.1f * (double)0.1f, 2e-6, 0), "sum of squares %.9g", sum.get(0));
    x.set(69999, -INFINITY);
    run(isa, "sum_squares", {&x}, {&sum});
    CHECK(sum.get(0) == INFINITY, "infinity gives %g", sum.get(0));
    x.set(3, NAN);
    run(isa, "sum_squares", {&x}, {&sum});
    CHECK(std::isnan(sum.get(0)), "NaN gives %g", sum.get(0));
  });
}

void threads() {
  Random random(14);
  for_each_isa([&](og::Isa isa) {
    Tensor start(OG_F32, {200003}), grad(OG_F32, {200003}), param, m(OG_F32, {200003}), v(OG_F32, {200003}),
        sum(OG_F32, {});
    start.normal(random);
    grad.normal(random);
    check_threads(
        [&] {
          param = start;
          m.fill([](int64_t) { return 0.1; });
          v.fill([](int64_t) { return 0.1; });
          run(isa, "adamw_step", {&grad}, {&param, &m, &v}, {0.1, 0.9, 0.99, 1e-8, 0.1, 0.5, 0.5, 1, 1});
          run(isa, "sum_squares", {&param}, {&sum});
        },
        [&] {
          std::vector<char> bytes = param.bytes();
          bytes.insert(bytes.end(), sum.bytes().begin(), sum.bytes().end());
          return bytes;
        });
  });
}

void refusals() {
  for_each_isa([&](og::Isa isa) {
    Tensor p(OG_F32, {4}), wrong(OG_F32, {5}), whole(OG_I32, {4}), none;
    CHECK(run(isa, "lion_step", {&wrong}, {&p, &p}, {0, 0, 0, 0, 1}) == OG_INVALID, "shape");
    CHECK(run(isa, "lion_step", {&whole}, {&p, &p}, {0, 0, 0, 0, 1}) == OG_UNSUPPORTED, "dtype");
    CHECK(run(isa, "sgd_step", {&p}, {&p, &none}, {0, 0.9, 0, 0, 0, 1, 1}) == OG_INVALID, "momentum without a buffer");
    CHECK(run(isa, "sum_squares", {&p}, {&p}) == OG_INVALID, "output size");
  });
}

}  // namespace

int main() {
  context() = "adamw";
  adamw();
  context() = "sgd";
  sgd();
  context() = "lion";
  lion();
  context() = "lerp, sum_squares";
  lerp_and_squares();
  context() = "threads";
  threads();
  context() = "refusals";
  refusals();
  return finish("optimizer");
}
