/** How a tensor prints: as NumPy does, columns aligned, long axes shortened. */
import { toArraySync, type NestedNumbers } from './read.js';
import { isFloating } from './dtype.js';
import { setPrinter, type Tensor } from './tensor.js';

/** Elements beyond which axes are shortened, and how many stay at each end. */
const THRESHOLD = 1000;
const EDGE = 3;
const PRECISION = 4;

/** Index of each position shown along an axis; -1 stands for the dots. */
function shown(length: number, shorten: boolean): number[] {
  if (!shorten || length <= 2 * EDGE) return Array.from({ length }, (_, i) => i);
  return [0, 1, 2, -1, length - 3, length - 2, length - 1];
}

function formatter(values: readonly (number | boolean)[], floating: boolean): (value: number | boolean) => string {
  if (!floating) return String;
  const finite = values.filter(
    (value): value is number => typeof value === 'number' && Number.isFinite(value) && value !== 0,
  );
  const magnitudes = finite.map(Math.abs);
  const largest = Math.max(0, ...magnitudes);
  const smallest = Math.min(...magnitudes, Infinity);
  const special = (value: number): string => (Number.isNaN(value) ? 'nan' : value > 0 ? 'inf' : '-inf');
  if (largest >= 1e8 || (finite.length > 0 && smallest < 1e-4) || largest / smallest > 1e4 * 1e4) {
    return (value) => (Number.isFinite(value) ? (value as number).toExponential(PRECISION) : special(value as number));
  }
  const integral = finite.every(Number.isInteger);
  const digits = integral ? 0 : Math.max(1, ...finite.map((value) => trimmedDigits(value)));
  return (value) => {
    if (!Number.isFinite(value)) return special(value as number);
    const text = (value as number).toFixed(digits);
    return integral ? `${text}.` : text;
  };
}

function trimmedDigits(value: number): number {
  const [, fraction = ''] = value.toFixed(PRECISION).split('.');
  return fraction.replace(/0+$/, '').length;
}

/** The elements as text. Reads the tensor, so it waits for the kernels that make it. */
export function formatTensor(tensor: Tensor): string {
  const title = tensor.toString();
  if (tensor.size === 0) return `${title} []`;
  const shorten = tensor.size > THRESHOLD;
  const whole = toArraySync(tensor);
  const seen: (number | boolean)[] = [];
  const collect = (part: NestedNumbers, depth: number): void => {
    if (!Array.isArray(part)) {
      seen.push(part);
      return;
    }
    for (const i of shown(part.length, shorten)) if (i >= 0) collect(part[i]!, depth + 1);
  };
  collect(whole, 0);
  const format = formatter(seen, isFloating(tensor.dtype));
  const width = Math.max(...seen.map((value) => format(value).length));
  const draw = (part: NestedNumbers, depth: number): string => {
    if (!Array.isArray(part)) return format(part).padStart(width);
    const rows = shown(part.length, shorten).map((i) => (i < 0 ? '…' : draw(part[i]!, depth + 1)));
    const last = depth === tensor.rank - 1;
    const separator = last ? ', ' : `,${'\n'.repeat(tensor.rank - depth - 1)}${' '.repeat(depth + 1)}`;
    return `[${rows.join(separator)}]`;
  };
  const body = draw(whole, 0);
  const grad = tensor.node !== null ? ` grad=${tensor.node.op}` : tensor.requiresGrad ? ' requiresGrad' : '';
  return `${title}${grad}${body.includes('\n') ? '\n' : ' '}${body}`;
}

setPrinter(formatTensor);
