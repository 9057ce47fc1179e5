/** chain.cpp: random programs against their steps run one by one (equal bits), and programs that must be refused. */
#include "check.h"

using namespace og_test;

namespace {

constexpr int kNone = 31, kOutput = 12, kTemporary = 18;

double code(const char* kernel, std::initializer_list<int> in, int out, int32_t dtype) {
  double value = dtype;
  value = value * 32 + out;
  std::vector<int> operands(in);
  operands.resize(3, kNone);
  for (int i = 2; i >= 0; i--) value = value * 32 + operands[(size_t)i];
  return value * 512 + og::kernel_id(kernel);
}

int32_t run_program(og::Isa isa, std::vector<Tensor*> inputs, std::vector<Tensor*> outputs, std::vector<double> attrs) {
  Tensor none;
  inputs.resize(12, &none);
  outputs.resize(6, &none);
  attrs.resize(32, 0);
  std::vector<og_view> in, out;
  for (Tensor* t : inputs) in.push_back(t->view());
  for (Tensor* t : outputs) out.push_back(t->view());
  const og_call call = {in.data(), out.data(), attrs.data(), 12, 6, 32};
  return og::run_kernel_on(isa, og::kernel_id("chain"), call);
}

/** One step of a random program: operands are values made so far. */
struct Step {
  const char* kernel;
  std::vector<int> in;
  std::vector<double> attrs;
};

void random_programs() {
  Random random(77);
  const char* const unary[] = {"exp", "tanh", "relu", "gelu", "silu", "sigmoid", "neg", "sqrt", "clamp", "dropout"};
  const char* const two[] = {"add", "sub", "mul", "div", "maximum", "gelu_backward", "swiglu"};
  const std::vector<std::vector<int64_t>> shapes = {{1, 1},    {1, 3},    {3, 7},     {5, 33},    {129, 65},
                                                    {40, 801}, {3, 9001}, {1, 70001}, {2, 20000}, {0, 5}};
  for (const auto& shape : shapes)
    for (int trial = 0; trial < 6; trial++) {
      const int32_t dtype = trial % 3 == 2 ? OG_BF16 : trial % 3 == 1 ? OG_F16 : OG_F32;
      const int count = 2 + (int)random.below(7), operands = 1 + (int)random.below(4);
      std::vector<Step> steps;
      int attr_count = 0;
      for (int s = 0; s < count; s++) {
        const int made = operands + s;
        Step step;
        if (random.below(2)) {
          step = {unary[random.below(10)], {(int)random.below(made)}, {}};
          if (!std::strcmp(step.kernel, "clamp")) step.attrs = std::vector<double>({-0.5, 0.75});
          if (!std::strcmp(step.kernel, "gelu")) step.attrs = std::vector<double>({(double)random.below(2)});
          if (!std::strcmp(step.kernel, "dropout")) step.attrs = std::vector<double>({0.3, 7, 9, 4294967290., 2});
        } else {
          step = {two[random.below(7)], {(int)random.below(made), (int)random.below(made)}, {}};
          if (!std::strcmp(step.kernel, "gelu_backward")) step.attrs = std::vector<double>({1});
        }
        if (attr_count + (int)step.attrs.size() > 23) step = {"neg", {made - 1}, {}};
        attr_count += (int)step.attrs.size();
        steps.push_back(step);
      }
      for_each_isa([&](og::Isa isa) {
        std::vector<Tensor> values;
        for (int i = 0; i < operands; i++) {
          values.emplace_back(dtype,
                              i % 3 == 1   ? std::vector<int64_t>{1, shape[1]}
                              : i % 3 == 2 ? std::vector<int64_t>{shape[0], 1}
                                           : shape,
                              i % 2 ? kUnaligned : kGaps);
          values.back().normal(random);
          if (i % 3 == 1) values.back().broadcast(0, shape[0]);
          if (i % 3 == 2) values.back().broadcast(1, shape[1]);
        }
        for (int s = 0; s < count; s++) values.emplace_back(dtype, shape);
        for (int s = 0; s < count; s++) {
          std::vector<og_view> in;
          for (int i : steps[(size_t)s].in) in.push_back(values[(size_t)i].view());
          og_view out = values[(size_t)(operands + s)].view();
          const og_call call = {in.data(),          &out, steps[(size_t)s].attrs.data(),
                                (int32_t)in.size(), 1,    (int32_t)steps[(size_t)s].attrs.size()};
          CHECK_OK(og::run_kernel_on(isa, og::kernel_id(steps[(size_t)s].kernel), call));
        }
        // The last value and every third one are outputs, the others temporaries.
        std::vector<Tensor> made;
        made.reserve(6);
        std::vector<int> place;
        std::vector<double> program = {(double)count}, attrs;
        for (int s = 0; s < count; s++) {
          const bool is_output = s == count - 1 || s % 3 == 0;
          if (is_output) made.emplace_back(dtype, shape, s % 2 ? kGaps : kDense);
          place.push_back(is_output ? kOutput + (int)made.size() - 1 : kTemporary + s);
          const Step& step = steps[(size_t)s];
          std::vector<int> in;
          for (int i : step.in) in.push_back(i < operands ? i : place[(size_t)(i - operands)]);
          program.push_back(in.size() == 1 ? code(step.kernel, {in[0]}, place.back(), dtype)
                                           : code(step.kernel, {in[0], in[1]}, place.back(), dtype));
          for (double attr : step.attrs) attrs.push_back(attr);
        }
        for (double attr : attrs) program.push_back(attr);
        std::vector<Tensor*> inputs, outputs;
        for (int i = 0; i < operands; i++) inputs.push_back(&values[(size_t)i]);
        for (Tensor& t : made) outputs.push_back(&t);
        check_threads([&] { CHECK_OK(run_program(isa, inputs, outputs, program)); },
                      [&] { return outputs.back()->bytes(); });
        for (int s = 0, o = 0; s < count; s++) {
          if (place[(size_t)s] >= kTemporary) continue;
          const Tensor &got = made[(size_t)o++], &want = values[(size_t)(operands + s)];
          for (int64_t i = 0; i < got.count(); i++) {
            const double a = got.get(i), b = want.get(i);
            if (a == b || (std::isnan(a) && std::isnan(b))) continue;
            CHECK(false, "value %d [%lld] is %.9g, alone %.9g", s, (long long)i, a, b);
            break;
          }
          CHECK(true);
        }
      });
    }
}

/** Comparison, select and cast: values of several dtypes in one chain. */
void mixed_dtypes() {
  for_each_isa([&](og::Isa isa) {
    Random random(5);
    Tensor x(OG_F32, {37, 500}), y(OG_F32, {37, 500}), z(OG_BF16, {37, 500}), picked(OG_F32, {37, 500});
    x.normal(random), y.normal(random);
    CHECK_OK(
        run_program(isa, {&x, &y}, {&picked, &z},
                    {3, code("lt", {0, 1}, kTemporary, OG_BOOL), code("where", {kTemporary, 0, 1}, kOutput, OG_F32),
                     code("copy", {kOutput}, kOutput + 1, OG_BF16)}));
    for (int64_t i = 0; i < x.count(); i++) {
      const double want = std::min(x.get(i), y.get(i));
      if (picked.get(i) == want && z.get(i) == og::to_float(og::to_bf16((float)want))) continue;
      CHECK(false, "[%lld]", (long long)i);
      break;
    }
    CHECK(true);
  });
}

/** A product and a chain on it against the product and then the chain. */
void products() {
  Random random(11);
  struct Shape {
    int64_t batch, m, n, k;
    bool shared = false;  // one right factor for all matrices, so that rows fold
  };
  const Shape shapes[] = {{1, 1, 4, 3},    {1, 7, 33, 5},         {1, 64, 96, 40},  {1, 129, 260, 65},
                          {3, 17, 64, 20}, {3, 17, 64, 20, true}, {2, 1, 512, 300}, {1, 1, 4096, 64},
                          {5, 33, 31, 0},  {1, 300, 1000, 130},   {0, 4, 4, 4}};
  for (const Shape& shape : shapes)
    for (int with_bias = 0; with_bias < 2; with_bias++) {
      const int64_t rows = shape.batch * shape.m;
      Tensor a(OG_F32, {shape.batch, shape.m, shape.k}), b(OG_F32, {shape.shared ? 1 : shape.batch, shape.k, shape.n}),
          bias(OG_F32, {shape.n}), none, row(OG_F32, {1, shape.n}), residual(OG_F32, {rows, shape.n}, kGaps);
      a.normal(random), b.normal(random), bias.normal(random), row.normal(random), residual.normal(random);
      if (shape.shared) b.broadcast(0, shape.batch);
      row.broadcast(0, rows);
      const bool drops = shape.n % 4 == 0;
      std::vector<double> program = {
          4,
          code("add", {0, 1}, kTemporary, OG_F32),
          code("gelu", {kTemporary}, kOutput, OG_F32),
          drops ? code("dropout", {kOutput}, kTemporary + 2, OG_F32) : code("neg", {kOutput}, kTemporary + 2, OG_F32),
          code("add", {kTemporary + 2, 2}, kOutput + 1, OG_F32),
          1};
      if (drops)
        for (double attr : {0.3, 7., 9., 4294967290., 2.}) program.push_back(attr);
      program.resize(32, 0);
      for_each_isa([&](og::Isa isa) {
        Tensor product(OG_F32, {shape.batch, shape.m, shape.n}), want_gelu(OG_F32, {rows, shape.n}),
            want(OG_F32, {rows, shape.n});
        Tensor fused(OG_F32, {shape.batch, shape.m, shape.n}), gelu(OG_F32, {rows, shape.n}),
            got(OG_F32, {rows, shape.n});
        Tensor* const maybe = with_bias ? &bias : &none;
        CHECK_OK(run(isa, "matmul", {&a, &b, maybe, &none, &none}, {&product, &none}, {0}));
        const auto flat = [&](Tensor& t) {
          og_view view = t.view();
          view.rank = 2, view.shape[0] = rows, view.shape[1] = shape.n, view.strides[0] = shape.n, view.strides[1] = 1;
          return view;
        };
        const auto call_with = [&](const char* kernel, std::vector<og_view> in, std::vector<og_view> out) {
          const og_call call = {in.data(), out.data(), program.data(), (int32_t)in.size(), (int32_t)out.size(), 32};
          return og::run_kernel_on(isa, og::kernel_id(kernel), call);
        };
        const og_view gone = none.view();
        std::vector<og_view> in = {flat(product), row.view(), residual.view()}, out = {want_gelu.view(), want.view()};
        in.resize(12, gone), out.resize(6, gone);
        CHECK_OK(call_with("chain", in, out));
        in = {a.view(), b.view(), maybe->view(), gone, flat(fused), row.view(), residual.view()};
        out = {fused.view(), gelu.view(), got.view()};
        in.resize(16, gone), out.resize(7, gone);
        check_threads([&] { CHECK_OK(call_with("matmul_chain", in, out)); }, [&] { return got.bytes(); });
        CHECK(fused.bytes() == product.bytes() && gelu.bytes() == want_gelu.bytes() && got.bytes() == want.bytes(),
              "%lldx%lldx%lldx%lld differs from its parts", (long long)shape.batch, (long long)shape.m,
              (long long)shape.n, (long long)shape.k);
        in[4].shape[1] = shape.n + 1;
        CHECK_FAILS(call_with("matmul_chain", in, out), OG_INVALID);
        in[4] = in[5] = in[6] = gone, out[1] = out[2] = gone;
        CHECK_FAILS(call_with("matmul_chain", in, out), OG_INVALID);
      });
    }
}

void refusals() {
  for_each_isa([&](og::Isa isa) {
    Tensor x(OG_F32, {4, 8}), y(OG_F32, {4, 8}), wide(OG_F32, {4, 9}), flat(OG_F32, {32}), whole(OG_I32, {4, 8});
    const double good = code("exp", {0}, kOutput, OG_F32);
    CHECK_OK(run_program(isa, {&x}, {&y}, {1, good}));
    const std::vector<std::vector<double>> programs = {
        {0},
        {9, good},
        {1.5, good},
        {NAN, good},
        {1, -1},
        {1, 0x1p40},
        {1, NAN},
        {2, good, good},                                  // the same result twice
        {1, code("exp", {1}, kOutput, OG_F32)},           // no such operand
        {1, code("exp", {kTemporary}, kOutput, OG_F32)},  // not written yet
        {1, code("exp", {0}, 3, OG_F32)},                 // a result over an operand
        {1, code("exp", {0}, kOutput + 1, OG_F32)},       // an absent output
        {1, code("exp", {0}, kOutput, OG_BF16)},          // another dtype than the output's
        {1, code("exp", {0, 0}, kOutput, OG_F32)},        // too many operands
        {1, code("add", {0}, kOutput, OG_F32)},           // too few
        {1, code("softmax", {0}, kOutput, OG_F32)},       // not element-wise
        {1, code("chain", {0}, kOutput, OG_F32)},         // itself
        {8, good, good, good, good, good, good, good, good},
    };
    for (const auto& program : programs) CHECK_FAILS(run_program(isa, {&x}, {&y}, program), OG_INVALID);
    CHECK_FAILS(run_program(isa, {&wide}, {&y}, {1, good}), OG_INVALID);
    CHECK_FAILS(run_program(isa, {&flat}, {&y}, {1, good}), OG_INVALID);
    CHECK_FAILS(run_program(isa, {}, {}, {1, good}), OG_INVALID);
    CHECK_FAILS(run_program(isa, {&x}, {&whole}, {1, code("exp", {0}, kOutput, OG_I32)}), OG_UNSUPPORTED);
    if (isa != og::kReference)
      CHECK_FAILS(run_program(isa, {&x}, {&y},
                              {2, code("copy", {0}, kTemporary, OG_F64), code("copy", {kTemporary}, kOutput, OG_F32)}),
                  OG_UNSUPPORTED);
  });
}

}  // namespace

int main() {
  random_programs();
  mixed_dtypes();
  products();
  refusals();
  return finish("chain");
}
