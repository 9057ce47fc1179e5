/**
 * A scheme for each layer, within a budget.
 *
 * @module
 */
import { AttributeError } from '../../errors.js';
import { checkKeys, checkNumber } from '../../util/assert.js';
import { formatValue } from '../../util/format.js';
import type { QuantizationOverride } from './quantize_model.js';
import type { LayerQuantization } from './scheme.js';
import type { LayerSensitivity } from './sensitivity.js';

/** Budget of {@link planMixedPrecision}: one of the two. */
export interface MixedPrecisionBudget {
  /** Most bytes of all layers of the ranking together, with their biases. */
  readonly bytes?: number;
  /** Most loss, summed over layers, in the ranking's metric. */
  readonly maxLoss?: number;
}

/** A plan for `quantize`. */
export interface MixedPrecisionPlan {
  /** A scheme for each layer of the ranking, or `skip`. */
  readonly overrides: readonly QuantizationOverride[];
  /** Paths of these layers: the `target` for `quantize`. */
  readonly target: readonly string[];
  /** Of all layers of the ranking. */
  readonly bytes: number;
  /** Sum of the losses of the layers, each measured alone. */
  readonly loss: number;
}

/** What a layer may be. Null: as it is. */
interface Choice {
  readonly quantization: LayerQuantization | null;
  readonly bytes: number;
  readonly loss: number;
}

/** A layer's choices on the lower convex hull of loss over bytes, from the largest to the smallest: each step costs more loss a byte. */
function hullOf({ bytes, candidates }: LayerSensitivity): Choice[] {
  const all: Choice[] = [
    { quantization: null, bytes, loss: 0 },
    ...candidates.map((one) => ({ ...one, loss: Math.max(0, one.loss) })), // less than nothing is noise
  ];
  all.sort((a, b) => b.bytes - a.bytes || b.loss - a.loss);
  const hull: Choice[] = [];
  for (const choice of all) {
    while (hull.length > 0 && hull.at(-1)!.loss >= choice.loss) hull.pop(); // larger and not better
    while (hull.length > 1 && price(hull.at(-2)!, hull.at(-1)!) >= price(hull.at(-1)!, choice)) hull.pop();
    hull.push(choice);
  }
  return hull;
}

/** Loss for each byte that a step saves. */
function price(from: Choice, to: Choice): number {
  return (to.loss - from.loss) / (from.bytes - to.bytes);
}

/**
 * Chooses a scheme for each layer of a ranking from {@link sensitivity}, for a size or for a loss. Greedy: all layers begin at their best
 * choice, and the step that costs least loss for each byte saved is taken next, until the bytes fit, or the next step would lose too
 * much. Steps go along the convex hull of each layer's choices, so the plan is the best possible for the bytes that it comes to, as far as losses
 * of layers add up.
 *
 * @example
 * ```ts
 * const ranking = await sensitivity(gpt, { calibration, candidates: [{ scheme: 'w8a16' }, { scheme: 'w4a16' }] });
 * const { overrides, target } = planMixedPrecision(ranking, { bytes: 40e6 });
 * const mixed = await quantize(gpt, { scheme: 'w8a16', target, overrides });
 * ```
 * @throws AttributeError unless there is one budget, and it can be kept
 */
export function planMixedPrecision(
  ranking: readonly LayerSensitivity[],
  budget: MixedPrecisionBudget,
): MixedPrecisionPlan {
  const op = 'planMixedPrecision';
  checkKeys(op, budget, ['bytes', 'maxLoss'], 'budget');
  if (!Array.isArray(ranking) || ranking.length === 0) {
    const expected = 'what sensitivity gives';
    throw new AttributeError({ op, argument: 'ranking', expected, actual: formatValue(ranking) });
  }
  if ((budget.bytes === undefined) === (budget.maxLoss === undefined)) {
    const actual = budget.bytes === undefined ? 'neither' : 'both';
    throw new AttributeError({ op, argument: 'budget', expected: 'either bytes or maxLoss', actual });
  }
  const most = budget.bytes === undefined ? 0 : checkNumber(op, 'bytes', budget.bytes, 0);
  const worst = budget.maxLoss === undefined ? Infinity : checkNumber(op, 'maxLoss', budget.maxLoss, 0);
  const layers = (ranking as readonly LayerSensitivity[]).map((layer) => ({
    path: layer.path,
    hull: hullOf(layer),
    at: 0,
  }));
  let bytes = layers.reduce((sum, { hull }) => sum + hull[0]!.bytes, 0);
  let loss = layers.reduce((sum, { hull }) => sum + hull[0]!.loss, 0);
  const least = layers.reduce((sum, { hull }) => sum + hull.at(-1)!.bytes, 0);
  if (budget.bytes !== undefined && most < least) {
    const hint = 'Add candidates of fewer bits to the ranking';
    throw new AttributeError({ op, argument: 'bytes', expected: `at least ${least}`, actual: String(most), hint });
  }
  while (bytes > most) {
    let next: (typeof layers)[number] | null = null;
    let cheapest = Infinity;
    for (const layer of layers) {
      const [now, then] = [layer.hull[layer.at]!, layer.hull[layer.at + 1]];
      if (then === undefined || loss + then.loss - now.loss > worst || price(now, then) >= cheapest) continue;
      [next, cheapest] = [layer, price(now, then)];
    }
    if (next === null) break;
    const [now, then] = [next.hull[next.at]!, next.hull[++next.at]!];
    bytes += then.bytes - now.bytes;
    loss += then.loss - now.loss;
  }
  const overrides = layers.map(({ path, hull, at }): QuantizationOverride => {
    const { quantization } = hull[at]!;
    const target = (name: string): boolean => name === path;
    return quantization === null ? { target, skip: true } : { target, ...quantization };
  });
  return { overrides, target: layers.map(({ path }) => path), bytes, loss };
}
