/**
 * How much a model minds when one of its layers is quantised.
 *
 * @module
 */
import { AttributeError, ShapeError } from '../../errors.js';
import { noGrad } from '../../autograd/grad.js';
import type { SavableModel } from '../../models/saved_model.js';
import { Linear } from '../../nn/linear.js';
import type { Module } from '../../nn/module.js';
import { chooseSites, sitesOf, type Target } from '../../nn/surgery.js';
import { mul, sub } from '../../ops/arithmetic.js';
import { to } from '../../ops/copy.js';
import { crossEntropy } from '../../ops/cross_entropy.js';
import { sum } from '../../ops/reduce.js';
import { logSoftmax } from '../../ops/softmax.js';
import { exp } from '../../ops/unary.js';
import { narrow } from '../../ops/views.js';
import { synchronize } from '../../runtime/backend.js';
import { item } from '../../tensor/read.js';
import { keep, scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkKeys, checkOneOf } from '../../util/assert.js';
import { formatValue } from '../../util/format.js';
import { checkCalibration, type Calibration } from '../calibration.js';
import { quantize, type QuantizedLayerReport } from './quantize_model.js';
import { checkGroups, needsCalibration, resolveQuantization, type LayerQuantization } from './scheme.js';

/** Logits of the unquantised model are kept up to this size, else computed again each time. */
const KEPT_BYTES = 1 << 28;

/** Options of {@link sensitivity}. */
export interface SensitivityOptions {
  /** What the model is compared on: for language models ids `[B, T]`. Methods that need it calibrate with it as well. */
  readonly calibration: Calibration;
  /** Ways to quantise each layer. */
  readonly candidates: readonly LayerQuantization[];
  /**
   * `kl`: mean Kullback–Leibler divergence of the quantised model's distribution from the model's own, nats a position. `loss`: by how
   * much the mean cross-entropy of the next token grows, nats a token; ids `[B, T]` only. Default `kl`.
   */
  readonly metric?: 'kl' | 'loss';
  /** Which layers. Default: all linear layers but the output layer. */
  readonly target?: Target;
  /** Told of each layer and candidate when it is measured. */
  readonly onMeasured?: (path: string, measured: MeasuredCandidate) => void;
  /** Stops between measurements; the promise is rejected with its reason. */
  readonly signal?: AbortSignal;
}

/** One way to quantise one layer. */
export interface MeasuredCandidate {
  readonly quantization: LayerQuantization;
  /** By the metric, with this layer alone quantised. */
  readonly loss: number;
  /** Of weight and bias then. */
  readonly bytes: number;
}

/** A layer with what each candidate does to the model. */
export interface LayerSensitivity {
  readonly path: string;
  /** Of weight and bias as they are. */
  readonly bytes: number;
  /** In the order of the options. */
  readonly candidates: readonly MeasuredCandidate[];
}

const isLinear = (module: Module): module is Linear => Object.getPrototypeOf(module) === Linear.prototype;

/** Sums over positions of the metric, of one input's logits against the reference's. */
function measure(metric: 'kl' | 'loss', ids: Tensor, logits: Tensor, reference: Tensor): Tensor {
  if (metric === 'kl') {
    const [own, want] = [logSoftmax(to(logits, 'float32'), -1), logSoftmax(to(reference, 'float32'), -1)];
    return sum(mul(exp(want), sub(want, own)));
  }
  const time = ids.shape[1]!;
  const targets = narrow(ids, 1, 1, time - 1);
  const lossOf = (all: Tensor): Tensor => crossEntropy(narrow(all, 1, 0, time - 1), targets, { reduction: 'sum' });
  return sub(lossOf(logits), lossOf(reference));
}

/** @throws AttributeError or ShapeError before any work */
function checkOptions(op: string, model: Module, options: SensitivityOptions): { readonly sites: string[] } {
  checkKeys(op, options, ['calibration', 'candidates', 'metric', 'target', 'onMeasured', 'signal']);
  const { candidates, calibration, target = 'all-linear' } = options;
  checkCalibration(op, calibration);
  if (!Array.isArray(candidates) || candidates.length === 0) {
    const expected = "at least one, such as { scheme: 'w4a16' }";
    throw new AttributeError({ op, argument: 'candidates', expected, actual: formatValue(candidates) });
  }
  const sites = chooseSites(op, sitesOf(model, isLinear).values(), target);
  for (const candidate of candidates as readonly LayerQuantization[]) {
    const resolved = resolveQuantization(op, candidate);
    for (const { path, layer } of sites) checkGroups(op, path, layer.inFeatures, resolved);
  }
  if (checkOneOf(op, 'metric', options.metric ?? 'kl', ['kl', 'loss']) === 'loss') {
    for (const [i, input] of calibration.entries()) {
      if (input.rank === 2 && input.shape[1]! > 1) continue;
      const expected = 'ids [B, T] with T > 1 for the loss of the next token';
      throw new ShapeError({ op, argument: `calibration[${i}]`, expected, actual: `[${input.shape.join(', ')}]` });
    }
  }
  return { sites: sites.map(({ path }) => path) };
}

/**
 * Quantises each layer alone, in each of the candidate ways, and measures what that does to the model on calibration inputs. Layers come
 * in the order of what the worst candidate costs, most sensitive first. It takes layers × candidates passes over the calibration inputs, and the memory of a
 * second model. {@link planMixedPrecision} makes a plan of it.
 *
 * @throws AttributeError if an option cannot be, names no layer, or groups do not divide a layer's inputs
 * @throws ShapeError if inputs have no next token, for the metric `loss`
 * @throws StateError if the model is not one that can be copied, or calibration misses a layer
 * @source the ranking by divergence of single layers: Cai et al. 2020 (ZeroQ), arXiv 2001.00281, section 3.3
 */
export async function sensitivity<M extends SavableModel>(
  model: M,
  options: SensitivityOptions,
): Promise<LayerSensitivity[]> {
  const op = 'sensitivity';
  const { sites } = checkOptions(op, model, options);
  const { calibration, candidates, metric = 'kl', onMeasured, signal } = options;
  const wasTraining = model.training;
  const run = (of: Module, input: Tensor): Tensor =>
    scope(() => noGrad(() => (of.forward as (x: Tensor) => Tensor)(input)));
  const kept: Tensor[] = [];
  const made: LayerSensitivity[] = [];
  try {
    model.eval();
    for (const input of calibration) {
      const logits = run(model, input);
      if ((kept.length + 1) * logits.bytes > KEPT_BYTES) {
        logits.dispose();
        break;
      }
      kept.push(keep(logits));
      await synchronize();
    }
    const lossOf = async (changed: Module): Promise<number> => {
      let [total, positions] = [0, 0];
      for (const [i, input] of calibration.entries()) {
        signal?.throwIfAborted();
        const part = scope(() =>
          noGrad(() => {
            const logits = run(changed, input);
            const rows = logits.size / logits.shape.at(-1)!;
            positions += metric === 'kl' ? rows : rows - input.shape[0]!;
            return measure(metric, input, logits, kept[i] ?? run(model, input));
          }),
        );
        total += (await item(part)) as number;
        part.dispose();
      }
      return total / positions;
    };
    for (const path of sites) {
      const measured: MeasuredCandidate[] = [];
      let before = 0;
      for (const quantization of candidates) {
        const reports: QuantizedLayerReport[] = [];
        const changed = await quantize(model, {
          ...quantization,
          ...(needsCalibration(resolveQuantization(op, quantization)) ? { calibration } : {}),
          target: (name) => name === path,
          onLayer: (report) => reports.push(report),
          ...(signal === undefined ? {} : { signal }),
        });
        try {
          const candidate = { quantization, loss: await lossOf(changed.eval()), bytes: reports[0]!.bytesAfter };
          measured.push(candidate);
          before = reports[0]!.bytesBefore;
          onMeasured?.(path, candidate);
        } finally {
          changed.dispose();
        }
      }
      made.push({ path, bytes: before, candidates: measured });
    }
  } finally {
    model.train(wasTraining);
    for (const logits of kept) logits.dispose();
  }
  const worst = ({ candidates: list }: LayerSensitivity): number => Math.max(...list.map(({ loss }) => loss));
  return made.sort((a, b) => worst(b) - worst(a));
}
