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

/** adamw_step on up to five tensors; a null operand is absent. */
struct AdamCall {
  Tensor none;
  Tensor *factor = &none, *grad[5], *param[5], *first[5], *second[5];

  AdamCall() {
    for (int i = 0; i < 5; i++) grad[i] = param[i] = first[i] = second[i] = &none;
  }
  void set(int i, Tensor& g, Tensor& p, Tensor& m, Tensor& v) {
    grad[i] = &g;
    param[i] = &p;
    first[i] = &m;
    second[i] = &v;
  }
  int32_t operator()(og::Isa isa, std::initializer_list<double> attrs) {
    return run(isa, "adamw_step", {factor, grad[0], grad[1], grad[2], grad[3], grad[4]},
               {param[0], param[1], param[2], param[3], param[4], first[0], first[1], first[2], first[3], first[4],
                second[0], second[1], second[2], second[3], second[4]},
               attrs);
  }
};

/** sum_squares of up to three tensors. */
int32_t sum_squares(og::Isa isa, Tensor& out, Tensor& a, Tensor* b = nullptr, Tensor* c = nullptr) {
  Tensor none;
  Tensor* const o = &none;
  return run(isa, "sum_squares", {&a, b ? b : o, o, c ? c : o, o, o, o, o, o, o, o, o, o, o, o, o}, {&out});
}

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
        AdamCall call;
        call.set(step % 2 ? 0 : 4, t.grad, t.param, t.first, t.second);
        CHECK_OK(call(isa, {lr, beta1, beta2, eps, decay, c1, c2, scale, (double)decoupled}));
        t.check("adamw param");
      }
    }
  });
}

/** Several tensors in one call, and a factor: the bits of calls one by one on gradients that were scaled before. */
void adamw_together() {
  Random random(16);
  for_each_isa([&](og::Isa isa) {
    const std::vector<std::vector<int64_t>> shapes = {{40000}, {7, 9}, {0}, {33000}, {}};
    std::vector<Tensor> grad, scaled, p, m, v, p2, m2, v2;
    for (const auto& shape : shapes) {
      for (auto* list : {&grad, &p, &m, &v}) list->emplace_back(OG_F32, shape);
      grad.back().normal(random);
      p.back().normal(random);
      m.back().normal(random, 0.1);
      v.back().uniform(random, 0, 0.1);
    }
    scaled = grad;
    for (Tensor& g : scaled) g.fill([&](int64_t i) { return (double)((float)g.get(i) * 0.3f); });
    p2 = p, m2 = m, v2 = v;
    Tensor factor(OG_F32, {});
    factor.set(0, 0.3);
    AdamCall together;
    together.factor = &factor;
    for (int i = 0; i < 5; i++) {
      const size_t k = (size_t)i;
      together.set(i, grad[k], p[k], m[k], v[k]);
      AdamCall alone;
      alone.set(0, scaled[k], p2[k], m2[k], v2[k]);
      CHECK_OK(alone(isa, {0.1, 0.9, 0.99, 1e-8, 0.1, 0.5, 0.5, 1, 1}));
    }
    CHECK_OK(together(isa, {0.1, 0.9, 0.99, 1e-8, 0.1, 0.5, 0.5, 1, 1}));
    for (size_t k = 1; k < 5; k++)
      for (int64_t i = 0; i < p[k].count(); i++) {
        CHECK(close(p[k].get(i), p2[k].get(i), isa == og::kReference ? 1e-6 : 0, 1e-7), "param");
        CHECK(close(v[k].get(i), v2[k].get(i), isa == og::kReference ? 1e-6 : 0, 1e-9), "second");
      }
    if (isa != og::kReference)  // which multiplies in double
      CHECK(p[0].bytes() == p2[0].bytes() && p[3].bytes() == p2[3].bytes() && m[3].bytes() == m2[3].bytes(), "bits");
    together.param[1] = &together.none;
    CHECK_FAILS(together(isa, {0.1, 0.9, 0.99, 1e-8, 0.1, 0.5, 0.5, 1, 1}), OG_INVALID);
    together.param[1] = &p[1];
    together.factor = &p[1];
    CHECK_FAILS(together(isa, {0.1, 0.9, 0.99, 1e-8, 0.1, 0.5, 0.5, 1, 1}), OG_INVALID);
  });
}

void scaling() {
  Random random(17);
  everywhere([&](og::Isa isa, int32_t dtype, const std::vector<int64_t>& shape, Layout layout) {
    Tensor x(dtype, shape, layout), factor(dtype == OG_F64 ? OG_F64 : OG_F32, {});
    x.normal(random);
    std::vector<double> want = x.values();
    factor.set(0, 1);
    CHECK_OK(run(isa, "scale_", {&factor}, {&x}));
    CHECK(x.values() == want, "a factor of 1");
    factor.set(0, 0.7);
    CHECK_OK(run(isa, "scale_", {&factor}, {&x}));
    for (double& value : want) value *= factor.get(0);
    check_close(x, want, 1.001 * og_test::roundoff(dtype), dtype == OG_F16 ? 1e-7 : 0, "scale_");
  });
  for_each_isa([&](og::Isa isa) {
    Tensor x(OG_F32, {5}), whole(OG_I32, {5}), factor(OG_F32, {}), two(OG_F32, {2});
    x.normal(random);
    factor.set(0, NAN);
    CHECK_OK(run(isa, "scale_", {&factor}, {&x}));
    CHECK(std::isnan(x.get(0)) && std::isnan(x.get(4)), "a factor of NaN");
    CHECK_FAILS(run(isa, "scale_", {&factor}, {&whole}), OG_UNSUPPORTED);
    CHECK_FAILS(run(isa, "scale_", {&two}, {&x}), OG_INVALID);
  });
}

void sgd() {
  Random random(11);
  const double lr = 0.1, decay = 0.01, scale = 2;
  Tensor factor(OG_F32, {});  // 2·½: both multiply
  factor.set(0, 0.5);
  everywhere([&](og::Isa isa, int32_t dtype, const std::vector<int64_t>& shape, Layout layout) {
    for (int mode = 0; mode < 4; mode++) {  // plain, momentum, dampened, Nesterov
      const double momentum = mode ? 0.9 : 0, dampening = mode == 2 ? 0.3 : 0, nesterov = mode == 3;
      Tensors t(random, dtype, shape, layout);
      Tensor none;
      for (int step = 0; step < 3; step++) {
        t.grad.normal(random, 0.3);
        for (size_t i = 0; i < t.p.size(); i++) {
          double g = t.grad.get((int64_t)i) * 0.5 * scale + decay * t.p[i];
          if (mode) {
            t.m[i] = step == 0 ? g : momentum * t.m[i] + (1 - dampening) * g;
            g = nesterov ? g + momentum * t.m[i] : t.m[i];
          }
          t.p[i] = stored(dtype, t.p[i] - lr * g);
        }
        CHECK(run(isa, "sgd_step", {&t.grad, &factor}, {&t.param, mode ? &t.first : &none},
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
  Tensor none;
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
      CHECK(run(isa, "lion_step", {&t.grad, &none}, {&t.param, &t.first}, {lr, beta1, beta2, decay, scale}) == OG_OK,
            "%s", og::last_message());
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
    CHECK(sum_squares(isa, sum, x) == OG_OK, "%s", og::last_message());
    CHECK(close(sum.get(0), want, dtype == OG_F64 ? 1e-14 : 1e-6, 0), "sum of squares %.9g, expected %.9g", sum.get(0),
          want);
    Tensor y(dtype, {3}), z(dtype, {40, 5}, layout);
    for (Tensor* t : {&y, &z}) {
      t->normal(random);
      for (double v : t->values()) want += v * v;
    }
    CHECK_OK(sum_squares(isa, sum, x, &y, &z));
    CHECK(close(sum.get(0), want, dtype == OG_F64 ? 1e-14 : 1e-6, 0), "sum of squares of three %.9g, expected %.9g",
          sum.get(0), want);
  });
  for_each_isa([&](og::Isa isa) {
    Tensor x(OG_F32, {70001}), sum(OG_F32, {});
    x.fill([](int64_t) { return 0.1; });
    sum_squares(isa, sum, x);
    CHECK(close(sum.get(0), 70001 * (double)0.1f * (double)0.1f, 2e-6, 0), "sum of squares %.9g", sum.get(0));
    x.set(69999, -INFINITY);
    sum_squares(isa, sum, x);
    CHECK(sum.get(0) == INFINITY, "infinity gives %g", sum.get(0));
    x.set(3, NAN);
    sum_squares(isa, sum, x);
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
          AdamCall call;
          call.set(0, grad, param, m, v);
          call(isa, {0.1, 0.9, 0.99, 1e-8, 0.1, 0.5, 0.5, 1, 1});
          sum_squares(isa, sum, param, &grad);
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
    CHECK(run(isa, "lion_step", {&wrong, &none}, {&p, &p}, {0, 0, 0, 0, 1}) == OG_INVALID, "shape");
    CHECK(run(isa, "lion_step", {&whole, &none}, {&p, &p}, {0, 0, 0, 0, 1}) == OG_UNSUPPORTED, "dtype");
    CHECK(run(isa, "sgd_step", {&p, &none}, {&p, &none}, {0, 0.9, 0, 0, 0, 1, 1}) == OG_INVALID,
          "momentum without a buffer");
    CHECK(sum_squares(isa, p, p) == OG_INVALID, "output size");
  });
}

}  // namespace

int main() {
  context() = "adamw";
  adamw();
  adamw_together();
  context() = "scale_";
  scaling();
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
