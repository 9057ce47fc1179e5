/**
 * A linear layer that computes as its quantised form will, and trains.
 *
 * @module
 */
import { customFunction } from '../../autograd/custom.js';
import { StateError } from '../../errors.js';
import { noGrad } from '../../autograd/grad.js';
import { Int8Linear } from '../../nn/int8_linear.js';
import { registerLayerKind, statePart } from '../../nn/layer_forms.js';
import type { Linear } from '../../nn/linear.js';
import { Module, parameter } from '../../nn/module.js';
import { QuantizedLinear } from '../../nn/quantized_linear.js';
import { add, div, maximum, minimum, mul, sub } from '../../ops/arithmetic.js';
import { eq, lt } from '../../ops/comparison.js';
import { clone, copy_, to } from '../../ops/copy.js';
import { fakeQuantize } from '../../ops/fake_quantize.js';
import { linear } from '../../ops/linear.js';
import { dequantize, quantize, type Quantized, type QuantizeOptions } from '../../ops/quantization.js';
import { amax, amin } from '../../ops/reduce.js';
import { abs, clamp, neg, round } from '../../ops/unary.js';
import { detach, reshape } from '../../ops/views.js';
import { where } from '../../ops/where.js';
import { zeros } from '../../tensor/create.js';
import { dataSync } from '../../tensor/read.js';
import { keep, scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { initialStep, learnedStep } from './learned_step.js';
import { roundToNearest, type WeightGrid } from './weight_codes.js';

/** What a layer is trained for. JSON-safe: part of a saved model. */
export interface QatSettings {
  readonly scheme: 'w8a8' | 'w8a16' | 'w4a16' | 'w4a8' | 'nf4';
  readonly grid: WeightGrid;
  readonly activations: 'float' | 'dynamic' | 'static';
  readonly activationScheme: 'symmetric' | 'affine';
  readonly learnedSteps: boolean;
  /** Share of a new batch in the moving average of the inputs' range. */
  readonly momentum: number;
  /** Forward passes in training after which that range stays as it is. */
  readonly observerSteps: number;
}

/** Smallest scale that a learned step may shrink to. */
const LEAST_STEP = 1e-8;

/** Codes and back; the gradient passes as if nothing had happened (Bengio et al. 2013, arXiv 1308.3432): nothing is clamped by its own range. */
function roundThrough(x: Tensor, options: QuantizeOptions): Tensor {
  return customFunction<readonly [Tensor]>({
    name: 'roundThrough',
    forward: (value) => scope(() => to(dequantize(quantize(value, options)), value.dtype)),
    save: () => [],
    backward: ({ grad }) => [grad],
  })(x);
}

/** Buffers and parameters of a {@link QatLinear} beside weight and bias. */
type Extra = 'weightStep' | 'inputStep' | 'inputLow' | 'inputHigh' | 'observed';

/**
 * y = x̂·Ŵᵀ + b, where ^ is what codes make of a tensor. The weight's codes are those of its present range, or of a step that
 * is trained with it (`weightStep`, flat: one an output or group). Static inputs have the codes of a moving average of their range
 * (`inputLow`, `inputHigh`, of the first `observerSteps` passes), or a trained step too (`inputStep`).
 *
 * Shapes: x `[…, in]` → `[…, out]`.
 *
 * @source Jacob et al. 2018, arXiv 1712.05877; learned steps: Esser et al. 2020, arXiv 1902.08153
 */
export class QatLinear extends Module {
  readonly inFeatures: number;
  readonly outFeatures: number;
  readonly settings: QatSettings;
  weight: Tensor;
  bias: Tensor | null;
  weightStep: Tensor | null = null;
  inputStep: Tensor | null = null;
  inputLow: Tensor | null = null;
  inputHigh: Tensor | null = null;
  /** Forward passes in training so far, of static inputs. */
  observed: Tensor | null = null;
  /** Whether a trained step of the inputs has its first value, so that it is not written to again. */
  #begun = false;

  /** Takes over a layer's weight and bias. */
  constructor(layer: Pick<Linear, 'weight' | 'bias'>, settings: QatSettings) {
    super();
    const { weight, bias } = layer;
    [this.outFeatures, this.inFeatures] = weight.shape as [number, number];
    this.settings = settings;
    this.weight = weight;
    this.bias = bias;
    const { learnedSteps, activations } = settings;
    if (learnedSteps) {
      const step = initialStep(weight, this.weightLayout());
      this.weightStep = parameter(
        scope(() => noGrad(() => clone(maximum(reshape(to(step, 'float32'), [-1]), LEAST_STEP)))),
      );
      step.dispose();
    }
    if (activations !== 'static') return;
    if (learnedSteps) this.inputStep = parameter(zeros([]));
    else [this.inputLow, this.inputHigh] = [keep(zeros([])), keep(zeros([]))];
    this.observed = keep(zeros([], { dtype: 'int32' }));
  }

  /** `[…, in]` → `[…, out]`. */
  forward(x: Tensor): Tensor {
    return scope(() => linear(this.codedInput(x), this.codedWeight(), this.bias));
  }

  private weightLayout(): { bits: 8 | 4; axis?: number; groupSize?: number } {
    const { bits, groupSize } = this.settings.grid;
    return groupSize === null ? { bits, axis: 0 } : { bits, groupSize };
  }

  /** The weight's scales as they are stored: positive, in the scales' dtype, `[out]` or `[out, groups]`. Differentiable. */
  private weightScale(): Tensor {
    const { groupSize, scaleDType } = this.settings.grid;
    const shape = groupSize === null ? [this.outFeatures] : [this.outFeatures, this.inFeatures / groupSize];
    return to(reshape(maximum(abs(this.weightStep!), LEAST_STEP), shape), scaleDType);
  }

  private codedWeight(): Tensor {
    const { weight } = this;
    if (this.weightStep !== null) return learnedStep(weight, to(this.weightScale(), 'float32'), this.weightLayout());
    const { scheme, bits, groupSize, scaleDType } = this.settings.grid;
    return roundThrough(weight, { scheme, bits, scaleDType, ...(groupSize === null ? { axis: 0 } : { groupSize }) });
  }

  private codedInput(x: Tensor): Tensor {
    const { activations, scheme } = this.settings;
    if (activations === 'float') return x;
    if (activations === 'dynamic') {
      // a scale a row, or (w4a8) for each 32 inputs
      if (scheme === 'w4a8') return roundThrough(x, { groupSize: 32 });
      return reshape(roundThrough(reshape(x, [-1, this.inFeatures]), { axis: 0 }), x.shape);
    }
    this.observe(x);
    if (this.inputStep !== null) {
      const count = this.inFeatures;
      return learnedStep(x, maximum(abs(this.inputStep), LEAST_STEP), { bits: 8, count });
    }
    const { scale, zeroPoint } = this.inputCodes();
    const symmetric = zeroPoint === null;
    return fakeQuantize(x, scale, zeroPoint ?? 0, symmetric ? { qmin: -127, qmax: 127 } : { qmin: 0, qmax: 255 });
  }

  /** Brings range or step up to date, in training and before the first pass; nothing waits. */
  private observe(x: Tensor): void {
    scope(() =>
      noGrad(() => {
        const { momentum, observerSteps } = this.settings;
        const [seen, input] = [this.observed!, detach(x)];
        const isFirst = eq(seen, 0);
        if (this.inputStep !== null) {
          if (this.#begun) return;
          this.#begun = this.training;
          const step = detach(this.inputStep);
          copy_(step, where(isFirst, maximum(to(initialStep(input, { bits: 8 }), 'float32'), LEAST_STEP), step));
        } else {
          const share = where(isFirst, 1, where(lt(seen, this.training ? observerSteps : 0), momentum, 0));
          for (const [end, now] of [
            [this.inputLow!, amin(input)],
            [this.inputHigh!, amax(input)],
          ] as const) {
            copy_(end, add(end, mul(share, sub(to(now, 'float32'), end))));
          }
        }
        if (this.training) copy_(seen, add(seen, 1));
      }),
    );
  }

  /** Scale and zero point of static inputs, as tensors. */
  private inputCodes(): { scale: Tensor; zeroPoint: Tensor | null } {
    const positive = (scale: Tensor): Tensor => where(eq(scale, 0), 1, scale);
    if (this.inputStep !== null) return { scale: maximum(abs(detach(this.inputStep)), LEAST_STEP), zeroPoint: null };
    const [low, high] = [this.inputLow!, this.inputHigh!];
    if (this.settings.activationScheme === 'symmetric')
      return { scale: positive(div(maximum(neg(low), high), 127)), zeroPoint: null };
    const [least, largest] = [minimum(low, 0), maximum(high, 0)];
    const scale = positive(div(sub(largest, least), 255));
    return { scale, zeroPoint: to(clamp(round(div(neg(least), scale)), 0, 255), 'int32') };
  }

  private weightCodes(): Quantized {
    const { grid } = this.settings;
    if (this.weightStep === null) return roundToNearest(this.weight, grid);
    return scope(() =>
      noGrad(() => {
        const scale = clone(this.weightScale());
        const codes = quantize(detach(this.weight), { ...this.weightLayout(), packed: grid.bits === 4, scale });
        return { ...codes, scale };
      }),
    );
  }

  /** The layer of the very codes that training saw. @throws StateError if static inputs were never seen */
  convert(op: string, path: string): Int8Linear | QuantizedLinear {
    const { scheme, activations } = this.settings;
    if (this.observed !== null && dataSync(this.observed)[0] === 0) {
      const [expected, actual] = ['inputs seen in training', 'none'];
      throw new StateError({ op, argument: path, expected, actual, hint: 'Train the model before it is converted' });
    }
    const weight = this.weightCodes();
    if (scheme !== 'w8a8') return QuantizedLinear.of(weight, this.bias, scheme === 'w4a8' ? 'int8' : 'float');
    if (activations !== 'static') return new Int8Linear(weight, this.bias);
    return scope(() => {
      const { scale, zeroPoint } = noGrad(() => this.inputCodes());
      return new Int8Linear(weight, this.bias, { inputScale: clone(scale), inputZeroPoint: zeroPoint });
    });
  }
}

registerLayerKind<QatLinear>({
  kind: 'qatLinear',
  matches: (layer): layer is QatLinear => Object.getPrototypeOf(layer) === QatLinear.prototype,
  describe: ({ settings, bias }) => ({ settings, bias: bias !== null }),
  restore(form, state) {
    const bias = form['bias'] === true ? parameter(statePart(state, 'bias')) : null;
    const layer = new QatLinear(
      { weight: parameter(statePart(state, 'weight')), bias },
      form['settings'] as QatSettings,
    );
    for (const key of [
      'weightStep',
      'inputStep',
      'inputLow',
      'inputHigh',
      'observed',
    ] as const satisfies readonly Extra[]) {
      if (layer[key] === null) continue;
      layer[key].dispose();
      const value = statePart(state, key);
      layer[key] = key.endsWith('Step') ? parameter(value) : keep(value);
    }
    return layer;
  },
});
