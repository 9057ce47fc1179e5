/**
 * Optimisers against torch.optim (20 steps on given gradients), clipping, learning-rate schedules, and a training run of 30
 * steps in which all three work together.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { testGroup, type Attributes, type Operation } from '../helpers/reference.js';

const { optim, schedules } = og;

/** torch's names of hyper-parameters to ours. */
function optionsOf({ defaults }: Attributes): Record<string, never> {
  const names: Record<string, string> = {
    weight_decay: 'weightDecay',
    lr_decay: 'lrDecay',
    momentum_decay: 'momentumDecay',
    beta2_decay: 'beta2Decay',
    d: 'clipThreshold',
  };
  const own = [
    ...['lr', 'momentum', 'dampening', 'nesterov', 'betas', 'eps', 'amsgrad', 'alpha', 'centered'],
    ...Object.keys(names),
  ];
  const known = Object.entries(defaults as Record<string, never>).filter(([name]) => own.includes(name));
  return Object.fromEntries(known.map(([name, value]) => [names[name] ?? name, value]));
}

const constructors = {
  sgd: optim.SGD,
  sgd_momentum: optim.SGD,
  sgd_nesterov_wd: optim.SGD,
  sgd_dampening: optim.SGD,
  adam: optim.Adam,
  adam_wd_l2: optim.Adam,
  adam_amsgrad: optim.Adam,
  adamw: optim.AdamW,
  adamw_wd: optim.AdamW,
  rmsprop: optim.RMSprop,
  adagrad: optim.Adagrad,
  adamax: optim.Adamax,
  nadam: optim.NAdam,
  radam: optim.RAdam,
  adafactor_torch: optim.Adafactor,
  lion: optim.Lion,
} as const;

/** A copy that asks for a gradient, made outside any scope's care. */
const leaf = (x: og.Tensor): og.Tensor => og.noGrad(() => og.clone(x)).requiresGrad_();

/** Steps with the given gradients; returns the parameters after each. */
const optimise: Operation = ({ w0, b0, gw, gb }, attrs) => {
  const [w, b] = [leaf(w0!), leaf(b0!)];
  const Made = constructors[attrs.optimiser as keyof typeof constructors] as typeof optim.SGD;
  const optimizer = new Made([w, b], optionsOf(attrs));
  const after: [og.Tensor[], og.Tensor[]] = [[], []];
  for (let i = 0; i < gw!.shape[0]!; i++) {
    w.grad = og.clone(og.select(gw!, 0, i));
    b.grad = og.clone(og.select(gb!, 0, i));
    optimizer.step();
    optimizer.zeroGrad();
    [w, b].forEach((param, k) => after[k]!.push(og.noGrad(() => og.clone(param))));
  }
  optimizer.dispose();
  return { w: og.stack(after[0]), b: og.stack(after[1]) };
};

/** A small network trained by AdamW under OneCycle, which moves the first beta too, with clipped gradients. */
const trainMlp: Operation = ({ x, y, ...weights }) => {
  const [w1, b1, w2, b2] = ['w1', 'b1', 'w2', 'b2'].map((name) => leaf(weights[name]!)) as [
    og.Tensor,
    og.Tensor,
    og.Tensor,
    og.Tensor,
  ];
  const params = [w1, b1, w2, b2];
  const optimizer = new optim.AdamW(params, { lr: 0.05, weightDecay: 0.01 });
  const factor = schedules.oneCycle();
  const losses: og.Tensor[] = [];
  const norms: og.Tensor[] = [];
  for (let step = 0; step < 30; step++) {
    optimizer.lr = 0.05 * factor(step, 30);
    optimizer.groups[0]!.betas = [betaOf(step, 30), 0.999];
    const loss = og.crossEntropy(og.linear(og.gelu(og.linear(x!, w1, b1)), w2, b2), y!);
    og.backward(loss);
    norms.push(optim.clipGradNorm(params, 0.5));
    losses.push(og.detach(loss));
    optimizer.step();
    optimizer.zeroGrad();
  }
  optimizer.dispose();
  return { losses: og.stack(losses), grad_norms: og.stack(norms), w1, b1, w2, b2 };
};

/** torch's OneCycleLR takes the momentum from 0.95 down to 0.85 while the rate rises, and back. */
function betaOf(step: number, total: number): number {
  const top = 0.3 * total - 1;
  const part = step <= top ? step / top : (step - top) / (total - 1 - top);
  const [from, to] = step <= top ? [0.95, 0.85] : [0.85, 0.95];
  return to + ((from - to) / 2) * (1 + Math.cos(Math.PI * part));
}

const clip: Operation = ({ gw, gb }, { max_norm: maxNorm, norm_type: type }) => {
  const params = [gw!, gb!].map((grad) => {
    const param = og.zeros(grad.shape);
    param.grad = og.clone(grad);
    return param;
  });
  const total = optim.clipGradNorm(params, maxNorm, type === 'inf' ? Infinity : Number(type));
  return { total_norm: total, gw: params[0]!.grad!, gb: params[1]!.grad! };
};

/** Schedule, base rate and length of the run that a case stands for. */
function scheduleOf(name: string, a: Attributes): [schedule: og.schedules.Schedule, base: number, total: number] {
  const base = a.base_lr as number;
  switch (name) {
    case 'lr_cosine_annealing':
      return [schedules.cosine({ end: a.eta_min / base }), base, a.T_max];
    case 'lr_cosine_warm_restarts':
      return [
        schedules.cosineWarmRestarts({ period: a.T_0, multiplier: a.T_mult, end: a.eta_min / base }),
        base,
        a.steps,
      ];
    case 'lr_hf_cosine_warmup':
      return [schedules.cosine({ warmup: a.warmup }), base, a.total];
    case 'lr_hf_linear_warmup':
      return [schedules.linear({ warmup: a.warmup }), base, a.total];
    case 'lr_hf_constant_warmup':
      return [schedules.constant({ warmup: a.warmup }), base, a.steps];
    case 'lr_onecycle':
    case 'lr_onecycle_linear': {
      const options = { rise: a.pct_start, divFactor: a.div_factor, finalDivFactor: a.final_div_factor };
      return [
        schedules.oneCycle({ ...options, anneal: a.anneal === 'cos' ? 'cosine' : 'linear' }),
        a.max_lr,
        a.total_steps,
      ];
    }
    case 'lr_step':
      return [schedules.stepDecay({ stepSize: a.step_size, gamma: a.gamma }), base, a.steps];
    case 'lr_multistep':
      return [schedules.multiStep({ milestones: a.milestones, gamma: a.gamma }), base, a.steps];
    case 'lr_exponential':
      return [schedules.exponential({ gamma: a.gamma }), base, a.steps];
    case 'lr_linear':
      return [schedules.linearRamp({ start: a.start_factor, end: a.end_factor, steps: a.total_iters }), base, a.steps];
    case 'lr_polynomial':
      return [schedules.polynomial({ power: a.power }), base, a.total_iters];
    default:
      return assert.fail(`no schedule for ${name}`);
  }
}

const schedule: Operation = (_inputs, attrs, { name }) => {
  const [factor, base, total] = scheduleOf(name, attrs);
  const rates = Array.from({ length: attrs.steps as number }, (_, step) => base * factor(step, total));
  return { lr: og.tensor(rates, { dtype: 'float64' }) };
};

testGroup('numeric/optimisers', {
  optimiser: optimise,
  train_mlp: trainMlp,
  clip_grad_norm: clip,
  lr_schedule: schedule,
});

test('schedules one after the other count their own steps', () => {
  const both = schedules.sequence([schedules.linearRamp({ start: 0, end: 1, steps: 4 }), schedules.linear()], [0, 4]);
  const factors = Array.from({ length: 9 }, (_, step) => both(step, 8));
  assert.deepEqual(factors, [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0]);
});
