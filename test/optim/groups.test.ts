/** Parameter groups: of models, in states and checkpoints, under schedules; what is refused. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { numbersOf } from '../helpers/allclose.js';

const { optim, schedules } = og;

const config = { vocabSize: 16, context: 8, layers: 3, heads: 2, width: 8 };

/** Names of a model's parameters by group. */
function namesOf(
  model: og.nn.Module,
  groups: readonly { readonly name: string; readonly params: readonly og.Tensor[] }[],
) {
  const names = new Map(model.namedParameters().map(([name, tensor]) => [tensor, name]));
  return Object.fromEntries(
    groups.map(({ name, params }) => [name, params.map((tensor) => names.get(tensor)!).sort()]),
  );
}

test('decayGroups spares biases, norms and vectors, and embeddings on request; each parameter is in one group', () => {
  const model = new og.GPT(config);
  const groups = optim.decayGroups(model, { weightDecay: 0.1 });
  const { decay, noDecay } = namesOf(model, groups) as { decay: string[]; noDecay: string[] };
  assert.deepEqual(groups.map((group) => group.weightDecay), [0.1, 0]); // prettier-ignore
  assert.deepEqual([...decay, ...noDecay].sort(), model.namedParameters().map(([name]) => name).sort()); // prettier-ignore
  assert.ok(decay.includes('tokens.weight') && decay.includes('blocks.0.attention.q.weight'));
  assert.ok(
    noDecay.every((name) => name.endsWith('.bias') || /[nN]orm/.test(name)),
    String(noDecay),
  );
  assert.ok(
    decay.every((name) => !name.endsWith('.bias') && !/[nN]orm/.test(name)),
    String(decay),
  );
  const spared = namesOf(model, optim.decayGroups(model, { weightDecay: 0.1, decayEmbeddings: false }));
  assert.deepEqual(decay.filter((name) => !spared.decay!.includes(name)), ['positions.weight', 'tokens.weight']); // prettier-ignore
  const excluded = namesOf(model, optim.decayGroups(model, { weightDecay: 0.1, exclude: /attention/g }));
  assert.deepEqual(excluded.decay, decay.filter((name) => !name.includes('attention'))); // prettier-ignore
  model.freeze(/blocks/);
  const rest = namesOf(model, optim.decayGroups(model, { weightDecay: 0.1 }));
  assert.ok(Object.values(rest).flat().every((name) => !name.includes('blocks'))); // prettier-ignore
  model.freeze();
  assert.throws(
    () => optim.decayGroups(model, { weightDecay: 0.1 }),
    /at least one parameter that asks for a gradient/,
  );
});

test('a norm over two axes does not decay either', () => {
  class Two extends og.nn.Module {
    readonly norm = new og.nn.LayerNorm([2, 3]);
    readonly bias = og.nn.parameter(og.zeros([2, 2]));
    readonly weight = og.nn.parameter(og.zeros([2, 2]));
    override forward(x: og.Tensor): og.Tensor {
      return this.norm.forward(x);
    }
  }
  const model = new Two();
  const names = namesOf(model, optim.decayGroups(model, { weightDecay: 1 }));
  assert.deepEqual(names, { decay: ['weight'], noDecay: ['bias', 'norm.bias', 'norm.weight'] });
});

test('layerwiseRates lets each layer learn decay times as fast as the one above', () => {
  const model = new og.GPT(config);
  const groups = optim.layerwiseRates(model, { lr: 1, decay: 0.5 });
  assert.deepEqual(groups.map(({ name, lr }) => [name, lr]), [['layer0', 1 / 16], ['layer1', 1 / 8], ['layer2', 1 / 4], ['layer3', 1 / 2], ['layer4', 1]]); // prettier-ignore
  const names = namesOf(model, groups);
  assert.deepEqual(names.layer0, ['positions.weight', 'tokens.weight']);
  assert.ok(names.layer2!.every((name) => name.startsWith('blocks.1.')));
  assert.ok(names.layer4!.every((name) => !name.startsWith('blocks.') && !/tokens|positions/.test(name)));
  assert.equal(Object.values(names).flat().length, model.parameters().length);
  const halves = optim.layerwiseRates(model, { lr: 1, decay: 0.5, weightDecay: 0.3 });
  const find = (name: string) => halves.find((group) => group.name === name)!;
  assert.deepEqual([find('layer2.decay').lr, find('layer2.decay').weightDecay], [1 / 4, 0.3]);
  assert.deepEqual([find('layer2.noDecay').lr, find('layer2.noDecay').weightDecay], [1 / 4, 0]);
  // Frozen layers do not move the others.
  model.freeze((name) => /^blocks\.2/.test(name) || names.layer4!.includes(name));
  const rates = Object.fromEntries(
    optim.layerwiseRates(model, { lr: 1, decay: 0.5 }).map(({ name, lr }) => [name, lr]),
  );
  assert.deepEqual(rates, { layer0: 1 / 16, layer1: 1 / 8, layer2: 1 / 4 });
  const flat = optim.layerwiseRates(model, { lr: 1, decay: 0.5, depthOf: (name) => Number(name.startsWith('blocks')) });
  assert.deepEqual(flat.map(({ lr }) => lr), [0.5, 1]); // prettier-ignore
  assert.throws(() => optim.layerwiseRates(model, { lr: 1, decay: 0 }), og.AttributeError);
  assert.throws(() => optim.layerwiseRates(model, { lr: 1, decay: 0.5, depthOf: () => -1 }), og.AttributeError);
  assert.throws(() => optim.layerwiseRates({} as never, { lr: 1, decay: 0.5 }), /a module/);
});

test('muonGroups gives Muon the hidden matrices and AdamW the rest; both learn', () => {
  const model = new og.GPT({ ...config, tieEmbeddings: false }, { generator: og.generator(1) });
  const groups = optim.muonGroups(model, { lr: 0.05, adamLr: 0.01 });
  const names = namesOf(model, groups);
  assert.ok(names['muon.decay']!.every((name) => /^blocks\..*\.weight$/.test(name)));
  assert.deepEqual(names['adamw.decay'], ['head.weight', 'positions.weight', 'tokens.weight']);
  assert.equal(Object.values(names).flat().length, model.parameters().length);
  const optimizer = new optim.Muon(groups);
  const x = og.tensor(Int32Array.from({ length: 32 }, (_, i) => (i * 5) % 16), { shape: [4, 8] }); // prettier-ignore
  const losses = Array.from({ length: 40 }, () => {
    const loss = model.loss(x, x);
    loss.backward();
    optimizer.step();
    optimizer.zeroGrad();
    return loss.itemSync() as number;
  });
  assert.ok(losses.at(-1)! < 0.3 * losses[0]!, String(losses));
  const vector = og.ones([3]);
  assert.throws(() => new optim.Muon([vector]), /useMuon: false/);
  assert.doesNotThrow(() => new optim.Muon([{ params: [vector], useMuon: false }]));
});

test('orthogonalize brings all singular values near 1 and keeps the singular vectors', () => {
  for (const [rows, columns] of [
    [12, 5],
    [5, 12],
    [8, 8],
    [1, 9],
    [9, 1],
  ] as const) {
    // prettier-ignore
    const x = og.randn([rows, columns], { generator: og.generator(rows), dtype: 'float64' });
    const y = optim.orthogonalize(x);
    assert.deepEqual(y.shape, [rows, columns]);
    // Converging coefficients give the polar factor: y yᵀ = 1 along the shorter side, and yᵀx is symmetric.
    const exact = optim.orthogonalize(x, { nsCoefficients: [15 / 8, -10 / 8, 3 / 8], nsSteps: 40 });
    const gram = rows <= columns ? og.matmul(exact, og.transpose(exact)) : og.matmul(og.transpose(exact), exact);
    assert.ok(
      (og.norm(og.sub(gram, og.eye(Math.min(rows, columns), undefined, { dtype: 'float64' }))).itemSync() as number) <
        1e-9,
    );
    const product = og.matmul(og.transpose(exact), x);
    assert.ok((og.norm(og.sub(product, og.transpose(product))).itemSync() as number) < 1e-9);
    // Muon's own coefficients stay within its band: with the polar factor q, yᵀq has the singular values of y.
    const band = (og.norm(y).itemSync() as number) / Math.sqrt(Math.min(rows, columns));
    assert.ok(band > 0.6 && band < 1.25, String(band));
  }
  assert.ok(numbersOf(optim.orthogonalize(og.zeros([2, 3]))).every((value) => value === 0));
  assert.throws(() => optim.orthogonalize(og.ones([3])), og.ShapeError);
});

test('a schedule multiplies each group’s own rate, and the base rates are part of the state', () => {
  const [a, b] = [og.ones([2]), og.ones([3])];
  const make = (): og.optim.SGD =>
    new optim.SGD(
      [
        { params: [a], name: 'slow' },
        { params: new Set([b]), lr: 0.5 },
      ],
      { lr: 0.125 },
    );
  const optimizer = make();
  const rates = (of: og.optim.SGD): number[] => of.groups.map((group) => group.lr);
  optimizer.setRateFactor(schedules.linear()(2, 4));
  assert.deepEqual(rates(optimizer), [0.0625, 0.25]);
  optimizer.setRateFactor(schedules.linear()(1, 4));
  assert.deepEqual(rates(optimizer), [0.09375, 0.375]);
  optimizer.groups[1]!.baseLr = 1;
  optimizer.groups[1]!.momentum = 0.5;
  const state = JSON.parse(JSON.stringify(optimizer.stateDict())) as og.optim.OptimizerState;
  assert.deepEqual(state.groups!.map(({ params, name }) => [params, name]), [[[0], 'slow'], [[1], undefined]]); // prettier-ignore
  const other = make();
  other.loadStateDict(state);
  assert.deepEqual(rates(other), [0.09375, 0.375]);
  assert.deepEqual([other.groups[1]!.momentum, other.groups[1]!.baseLr], [0.5, 1]);
  const own = make();
  own.loadStateDict(state, { options: false });
  assert.deepEqual([rates(own), own.groups[1]!.momentum], [[0.125, 0.5], 0]);
  assert.throws(() => own.setRateFactor(-1), og.AttributeError);
  assert.throws(() => own.loadStateDict({ ...state, groups: state.groups!.slice(1) }), og.StateError);
  assert.throws(() => own.loadStateDict({ ...state, groups: 3 as never }), og.StateError);
  assert.throws(() => own.loadStateDict({ ...state, groups: [null, null] as never }), og.StateError);
  const wrong = state.groups!.map((group) => ({ ...group, options: { ...group.options, lr: 'x' } }));
  assert.throws(() => own.loadStateDict({ ...state, groups: wrong }), og.AttributeError);
  assert.throws(() => own.loadStateDict({ ...state, steps: [0, -1] }), og.AttributeError);
});

test('a state of another precision is refused', () => {
  const single = new optim.SGD([og.ones([2])], { momentum: 0.9 });
  const state = { tensors: { '0.momentumBuffer': og.ones([2], { dtype: 'float64' }) }, steps: [1], lrs: [0.1] };
  assert.throws(() => single.loadStateDict(state), og.DTypeError);
});

test('wrong groups and options are refused, and the option that was meant is named', () => {
  const [a, b] = [og.ones([3]), og.ones([3])];
  const throws = (make: () => unknown, message: RegExp): void => {
    assert.throws(make, (error: unknown) => error instanceof og.OmniError && message.test(error.message));
  };
  throws(() => new optim.AdamW([{ params: [a] }, { params: [b, a] }]), /the same tensor twice, in groups 0 and 1/);
  throws(() => new optim.AdamW([]), /at least one tensor, got none/);
  throws(() => new optim.AdamW([{ params: [a] }, { params: [] }]), /none in group 1/);
  throws(() => new optim.AdamW([{ params: [], name: 'head' }]), /none in group "head"/);
  throws(() => new optim.AdamW([a, { params: [b] }] as never), /Put single tensors into a group/);
  throws(() => new optim.AdamW(a as never), /params/);
  throws(() => new optim.AdamW(null as never), /params/);
  throws(() => new optim.AdamW([{ params: a }] as never), /params/);
  throws(() => new optim.AdamW([null] as never), /params/);
  throws(() => new optim.AdamW([og.zeros([2], { dtype: 'int32' })]), /floating-point tensors, got int32/);
  throws(() => new optim.AdamW([a], { weight_decay: 0.1 } as never), /"weight_decay"\. Did you mean weightDecay/);
  throws(() => new optim.AdamW([{ params: [a], beta: [0.9, 0.99] }] as never), /"beta"\. Did you mean betas/);
  throws(
    () => new optim.AdamW([{ params: [a], learningRate: 1 }] as never),
    /expected lr, betas.*got "learningRate"\.$/,
  );
  throws(() => new optim.AdamW([a], { betas: [0.9, 1] }), /two numbers in \[0, 1\)/);
  throws(() => new optim.AdamW([a], { betas: [0.9] as never }), /betas/);
  throws(() => new optim.AdamW([a], { eps: -1 }), /eps/);
  throws(() => new optim.AdamW([a], { amsgrad: 1 as never }), /true or false/);
  throws(() => new optim.SGD([a], { nesterov: true }), /momentum above 0/);
  throws(() => new optim.SGD([a], { nesterov: true, momentum: 0.9, dampening: 0.1 }), /dampening 0/);
  throws(() => new optim.Adafactor([a], { eps: 1e-3 as never }), /eps/);
  throws(() => new optim.Muon([og.ones([2, 2])], { adjustLr: 'match' as never }), /matchRmsAdamW/);
  throws(() => new optim.Muon([og.ones([2, 2])], { nsCoefficients: [1, 2] as never }), /three numbers/);
});

test('wrong schedules are refused', () => {
  const throws = (make: () => unknown): void => void assert.throws(make, og.AttributeError);
  assert.throws(() => schedules.cosine({ warmUp: 3 } as never), /Did you mean warmup/);
  throws(() => schedules.wsd({} as never));
  throws(() => schedules.wsd({ decay: 3, shape: 'exponential' }));
  throws(() => schedules.wsd({ decay: 3, shape: 'square' as never }));
  throws(() => schedules.inverseSqrt({ timescale: 0 }));
  throws(() => schedules.piecewise({ points: [] }));
  throws(() => schedules.piecewise({ points: [[1, 1], [1, 2]] })); // prettier-ignore
  throws(() => schedules.piecewise({ points: [[1]] as never }));
  throws(() => schedules.multiStep({ milestones: 3 as never }));
  throws(() => schedules.oneCycle({ anneal: 'cos' as never }));
  throws(() => schedules.chain());
  throws(() => schedules.sequence([schedules.constant()], [1]));
  throws(() => schedules.sequence([schedules.constant(), schedules.constant()], [0, 0]));
  throws(() => schedules.sequence([schedules.reduceOnPlateau()], [0]));
  throws(() => schedules.reduceOnPlateau({ factor: 1 }));
  throws(() => schedules.reduceOnPlateau().observe('x' as never));
  assert.throws(() => schedules.reduceOnPlateau().loadStateDict([]), og.StateError);
  assert.throws(() => schedules.chain(schedules.reduceOnPlateau()).loadStateDict([]), og.StateError);
});

test('a chain tells its parts what was observed, and keeps their states', () => {
  const make = () =>
    schedules.chain(schedules.reduceOnPlateau({ patience: 0, factor: 0.5 }), schedules.constant({ warmup: 2 }));
  const schedule = make();
  for (const metric of [1, 2, 3]) schedule.observe(metric);
  assert.deepEqual([schedule(1, 9), schedule(5, 9)], [0.125, 0.25]);
  const other = make();
  other.loadStateDict(JSON.parse(JSON.stringify(schedule.stateDict())) as og.schedules.ScheduleState);
  other.observe(4);
  assert.equal(other(5, 9), 0.125);
});
