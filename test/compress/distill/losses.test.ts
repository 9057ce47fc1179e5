/** Losses of distillation against PyTorch in float64: values and gradients, whole and in blocks. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { topKLosses } from '../../../src/compress/distill/top_k.js';
import {
  batchLoss,
  Distillation,
  distillationDivergence,
  topKOf,
  type DivergenceKind,
} from '../../../src/compress/index.js';
import * as og from '../../../src/index.js';
import { nn } from '../../../src/index.js';
import { assertClose } from '../../helpers/allclose.js';

interface Case {
  readonly name: string;
  readonly divergence: DivergenceKind;
  readonly beta: number;
  readonly temperature: number;
  readonly k: number | null;
  readonly alpha: number;
  readonly loss: number;
}

const folder = new URL('../../fixtures/compress/', import.meta.url);
const { cases } = JSON.parse(await readFile(new URL('distill.json', folder), 'utf8')) as {
  readonly cases: readonly Case[];
};
const fixture = await og.loadSafetensors(new URL('distill.safetensors', folder).pathname);
const at = (name: string): og.Tensor => fixture[name]!;
const tight = { rtol: 1e-10, atol: 1e-12 };

/** Gives what it holds, whatever it is asked. */
class Fixed extends nn.Module {
  readonly value: og.Tensor;
  constructor(value: og.Tensor, trains: boolean) {
    super();
    const copy = og.clone(value);
    this.value = trains ? nn.parameter(copy) : og.keep(copy);
  }
  forward(_x: og.Tensor): og.Tensor {
    return og.mul(this.value, 1);
  }
}

describe('divergences', () => {
  test('pure functions: rows, mean and gradient', () => {
    const plain = cases.filter(({ k, alpha }) => k === null && alpha === 1);
    assert.equal(plain.length, 9);
    for (const { name, divergence, beta, temperature, loss } of plain) {
      const student = og.clone(at('student')).requiresGrad_();
      const choice = { divergence, beta, temperature };
      const mean = distillationDivergence(student, at('teacher'), { ...choice, target: at('target') });
      assertClose([mean.itemSync()], [loss], tight, name);
      mean.backward();
      assertClose(student.grad!, at(`${name}.grad`), tight, `${name} gradient`);
      const rows = distillationDivergence(student, at('teacher'), { ...choice, reduction: 'none' });
      assertClose(rows, at(`${name}.rows`), tight, `${name} rows`);
    }
  });

  test('gradients can be differentiated again', () => {
    const teacher = og.randn([3, 4], { dtype: 'float64', generator: og.generator(1) });
    const student = og.randn([3, 4], { dtype: 'float64', generator: og.generator(2) });
    for (const divergence of ['forward', 'reverse', 'jensenShannon'] as const) {
      const f = (x: og.Tensor): og.Tensor => distillationDivergence(x, teacher, { divergence, beta: 0.3 });
      // the gradient as a function, so that its own gradient is what is checked
      const slope = (x: og.Tensor): og.Tensor =>
        og.enableGrad(() => {
          const leaf = x.requiresGrad ? x : x.detach().requiresGrad_();
          return og.gradientsOf(og.sum(f(leaf)), [leaf], { createGraph: true })[0]!;
        });
      const result = og.gradCheck(slope, [student]);
      assert.ok(result.ok, JSON.stringify(result));
    }
  });

  test('classes that are ruled out add nothing', () => {
    const student = og.tensor([[0, 1, -Infinity]]).requiresGrad_();
    const teacher = og.tensor([[1, 0, -Infinity]]);
    const two = (x: og.Tensor): og.Tensor => og.narrow(x, 1, 0, 2);
    for (const divergence of ['forward', 'reverse', 'jensenShannon'] as const) {
      const loss = distillationDivergence(student, teacher, { divergence, temperature: 1 });
      const without = distillationDivergence(two(student), two(teacher), { divergence, temperature: 1 });
      assertClose([loss.itemSync()], [without.itemSync()], { rtol: 1e-6 });
      loss.backward();
      assert.ok(student.grad!.dataSync().every((value) => Number.isFinite(Number(value))));
    }
  });

  test('16-bit logits are computed in float32', () => {
    const [student, teacher] = [og.to(at('student'), 'float16'), og.to(at('teacher'), 'float16')];
    const loss = distillationDivergence(student, teacher, { target: at('target') });
    assert.equal(loss.dtype, 'float32');
    const wide = distillationDivergence(og.to(student, 'float64'), og.to(teacher, 'float64'), { target: at('target') });
    assertClose([loss.itemSync()], [wide.itemSync()], { rtol: 1e-5 });
  });
});

test('shapes, vocabularies and options that do not fit are named', () => {
  const [student, teacher] = [at('student'), at('teacher')];
  const fewer = og.narrow(teacher, 2, 0, 10);
  assert.throws(
    () => distillationDivergence(student, fewer),
    /teacher: expected 11 classes, as the student has, got 10/,
  );
  assert.throws(() => distillationDivergence(student, og.narrow(teacher, 1, 0, 4)), { code: 'OG_SHAPE' });
  assert.throws(() => distillationDivergence(student, teacher, { target: og.zeros([2, 5]) }), { code: 'OG_DTYPE' });
  assert.throws(() => distillationDivergence(student, teacher, { temperature: 0 }), /temperature/);
  assert.throws(() => distillationDivergence(student, teacher, { divergence: 'sideways' as never }), /"forward" or/);
  assert.throws(() => topKOf(teacher, 12), /k: expected an integer from 1 to 11/);
  const module = new Distillation({ student: new Fixed(student, true), teacher: new Fixed(fewer, false) });
  assert.throws(() => module.loss(at('target'), at('target')), /11 classes/);
  assert.throws(
    () => module.loss(at('target'), og.zeros([2, 4], { dtype: 'int32' })),
    /target: expected shape \[2, 5\]/,
  );
  const kept = { ...topKOf(og.narrow(teacher, 1, 0, 4), 3, 2), temperature: 2 };
  assert.throws(() => batchLoss(module, { x: at('target'), y: at('target'), teacher: kept }), { code: 'OG_SHAPE' });
});

describe('a module for the Trainer', () => {
  test('mixtures with the task, whole and in blocks of any size', () => {
    for (const { name, divergence, beta, temperature, alpha, loss } of cases.filter(({ k }) => k === null)) {
      for (const blockRows of [1, 3, 100]) {
        const student = new Fixed(at('student'), true);
        const teacher = new Fixed(at('teacher'), false);
        const module = new Distillation({ student, teacher, divergence, beta, temperature, alpha, blockRows });
        const value = module.loss(at('target'), at('target'));
        assertClose([value.itemSync()], [loss], tight, name);
        og.mul(value, 0.5).backward();
        assertClose(og.mul(student.value.grad!, 2), at(`${name}.grad`), tight, `${name} in blocks of ${blockRows}`);
      }
    }
  });

  test('k likeliest classes and a bucket for the others', () => {
    for (const { name, divergence, beta, temperature, alpha, k, loss } of cases) {
      if (k === null) continue;
      const student = new Fixed(at('student'), true);
      const teacher = { ...topKOf(at('teacher'), k, temperature), temperature };
      const module = new Distillation({ student, divergence, beta, temperature, alpha, blockRows: 4 });
      const value = batchLoss(module, { x: at('target'), y: at('target'), teacher });
      assertClose([value.itemSync()], [loss], { rtol: 1e-9 }, name);
      value.backward();
      assertClose(student.value.grad!, at(`${name}.grad`), { rtol: 1e-8, atol: 1e-10 }, name);
      const flat = (x: og.Tensor): og.Tensor => og.reshape(x, [10, -1]);
      const kept = topKOf(flat(at('teacher')), k, temperature);
      const rows = topKLosses(flat(at('student')), kept, { divergence, beta, temperature });
      assertClose(og.reshape(rows, [2, 5]), at(`${name}.rows`), { rtol: 1e-9 }, name);
    }
  });

  test('a GPT student: blocks of hidden rows give the loss and the gradients of whole logits', () => {
    const config = { vocabSize: 19, context: 6, layers: 2, heads: 2, width: 8 };
    const teacher = new og.GPT(config, { generator: og.generator(1) }).to('float64');
    const x = og.tensor([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]], { dtype: 'int32' }); // prettier-ignore
    const y = og.tensor([[2, 3, 4, 5, 6, -100], [8, 9, 10, -100, 12, 13]], { dtype: 'int32' }); // prettier-ignore
    for (const tieEmbeddings of [true, false]) {
      const make = (): og.GPT =>
        new og.GPT({ ...config, layers: 1, tieEmbeddings }, { generator: og.generator(2) }).to('float64');
      const [student, other] = [make(), make()];
      const loss = new Distillation({ student, teacher, alpha: 0.7, temperature: 3, blockRows: 5 }).loss(x, y);
      loss.backward();
      const logits = other.forward(x);
      const soft = distillationDivergence(logits, teacher.forward(x), { temperature: 3, target: y });
      const whole = og.add(og.mul(soft, 0.7), og.mul(og.crossEntropy(logits, y), 0.3));
      whole.backward();
      assertClose([loss.itemSync()], [whole.itemSync()], tight);
      const expected = new Map(other.namedParameters());
      for (const [name, tensor] of student.namedParameters())
        assertClose(tensor.grad!, expected.get(name)!.grad!, tight, name);
      assert.ok(teacher.parameters().every(({ grad }) => grad === null));
    }
  });

  test('no more than a block of logits is held, and nothing stays', () => {
    const config = { vocabSize: 4096, context: 64, layers: 1, heads: 1, width: 8 };
    const [student, teacher] = [new og.GPT(config), new og.GPT(config)];
    const x = og.zeros([16, 64], { dtype: 'int32' }); // 1024 rows: 16 MiB of logits for each model
    const peakOf = (blockRows: number): number => {
      const module = new Distillation({ student, teacher, blockRows });
      const run = (): void => {
        og.scope(() => module.loss(x, x).backward());
        student.zeroGrad();
      };
      run();
      og.synchronizeSync();
      const { bytes, tensors } = og.memory();
      og.resetPeakMemory();
      run();
      og.synchronizeSync();
      assert.equal(og.memory().tensors, tensors);
      return (og.memory().peakBytes - bytes) / 2 ** 20;
    };
    const [small, large] = [peakOf(64), peakOf(1024)];
    assert.ok(small < 25 && large > 48, `${small} MiB in blocks of 64 rows, ${large} MiB in one`);
  });

  test('in evaluation mode it is the cross-entropy alone', () => {
    const config = { vocabSize: 19, context: 6, layers: 1, heads: 1, width: 8 };
    const [student, teacher] = [new og.GPT(config), new og.GPT(config)];
    const module = new Distillation({ student, teacher });
    const x = og.tensor([[1, 2, 3]], { dtype: 'int32' });
    module.eval();
    assert.equal(module.loss(x, x).itemSync(), student.loss(x, x).itemSync());
    assert.equal(teacher.training, true, 'the teacher is no part of it');
    module.train();
    assert.notEqual(module.loss(x, x).itemSync(), student.loss(x, x).itemSync());
    assert.equal(teacher.training, true, 'its mode comes back');
  });
});
