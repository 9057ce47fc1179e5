/**
 * Einstein summation, lowered to permutations, element-wise products and matrix products.
 *
 * @module
 */
import { AttributeError, ShapeError } from '../errors.js';
import { sizeOf } from '../tensor/shape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { formatShape, formatValue } from '../util/format.js';
import { mul } from './arithmetic.js';
import { expand } from './broadcast.js';
import { matmul } from './matmul.js';
import { sum } from './reduce.js';
import { diagonal, permute, reshape } from './views.js';

/** A tensor whose axes have names. */
interface Labelled {
  readonly x: Tensor;
  readonly labels: readonly string[];
}

function bad(equation: unknown, expected: string): AttributeError {
  return new AttributeError({ op: 'einsum', argument: 'equation', expected, actual: formatValue(equation) });
}

/** The labels of a term, with `rank` telling how many axes an ellipsis stands for: they are named …0, …1 from the last. */
function labelsOf(equation: string, term: string, hidden: number): string[] {
  if (!/^[A-Za-z]*(\.\.\.)?[A-Za-z]*$/.test(term)) throw bad(equation, 'letters, commas, "..." and "->"');
  const [before, after] = term.split('...');
  if (after === undefined) return [...before!];
  return [...before!, ...Array.from({ length: hidden }, (_, i) => `…${hidden - 1 - i}`), ...after];
}

interface Parsed {
  readonly operands: Labelled[];
  readonly output: string[];
}

function parse(equation: string, tensors: readonly Tensor[]): Parsed {
  if (typeof equation !== 'string') throw bad(equation, 'a string such as "bij,bjk->bik"');
  const [left, right, ...more] = equation.replaceAll(' ', '').split('->');
  const terms = left!.split(',');
  if (more.length > 0) throw bad(equation, 'one "->" at most');
  if (terms.length !== tensors.length) throw bad(equation, `${tensors.length} terms, as there are operands`);
  let widest = 0;
  const operands = tensors.map((x, i) => {
    const letters = terms[i]!.replace('...', '').length;
    const hidden = terms[i]!.includes('...') ? x.rank - letters : 0;
    const labels = labelsOf(equation, terms[i]!, Math.max(hidden, 0));
    if (labels.length !== x.rank || hidden < 0) {
      throw new ShapeError({
        op: 'einsum',
        argument: `operand ${i}`,
        expected: `axes for "${terms[i]}"`,
        actual: formatShape(x.shape),
      });
    }
    widest = Math.max(widest, hidden);
    return { x, labels };
  });
  const all = operands.flatMap(({ labels }) => labels);
  if (right === undefined) {
    const once = [...new Set(all)]
      .filter((label) => !label.startsWith('…') && all.indexOf(label) === all.lastIndexOf(label))
      .sort();
    return { operands, output: [...labelsOf(equation, '...', widest), ...once] };
  }
  const output = labelsOf(equation, right, widest);
  if (new Set(output).size !== output.length) throw bad(equation, 'distinct letters after "->"');
  for (const label of output) {
    if (!all.includes(label) && !label.startsWith('…')) throw bad(equation, `"${label}" to occur before "->" too`);
  }
  return { operands, output };
}

/** Length of every label; axes of length 1 broadcast. */
function lengthsOf(operands: readonly Labelled[]): Map<string, number> {
  const lengths = new Map<string, number>();
  operands.forEach(({ x, labels }, i) =>
    labels.forEach((label, axis) => {
      const [length, before] = [x.shape[axis]!, lengths.get(label)];
      if (before === undefined || before === 1) lengths.set(label, length);
      else if (length !== before && length !== 1) {
        const expected = `length ${before} for "${label.replace('…', '...')}"`;
        throw new ShapeError({ op: 'einsum', argument: `operand ${i}`, expected, actual: formatShape(x.shape) });
      }
    }),
  );
  return lengths;
}

/** Repeated labels become their diagonal, and labels that nobody else wants are summed. */
function simplify(
  { x, labels }: Labelled,
  lengths: ReadonlyMap<string, number>,
  wanted: ReadonlySet<string>,
): Labelled {
  let y = expand(
    x,
    labels.map((label) => lengths.get(label)!),
  );
  let names = [...labels];
  for (let second = names.length - 1; second > 0; second--) {
    const first = names.indexOf(names[second]!);
    if (first === second) continue;
    const rest = names.flatMap((_, i) => (i === first || i === second ? [] : [i]));
    y = diagonal(permute(y, [...rest, first, second]));
    names = [...rest.map((i) => names[i]!), names[second]!];
    second = names.length;
  }
  const unwanted = names.flatMap((label, i) => (wanted.has(label) ? [] : [i]));
  if (unwanted.length === 0) return { x: y, labels: names };
  return { x: sum(y, unwanted), labels: names.filter((label) => wanted.has(label)) };
}

/** Axes in the order of `order`; labels that the tensor lacks get length 1. */
function arrange({ x, labels }: Labelled, order: readonly string[]): Tensor {
  const present = order.filter((label) => labels.includes(label));
  const y = permute(
    x,
    present.map((label) => labels.indexOf(label)),
  );
  let next = 0;
  return reshape(
    y,
    order.map((label) => (labels.includes(label) ? y.shape[next++]! : 1)),
  );
}

/** The product of two terms, summed over the labels that are in both but not in `wanted`. */
function contract(
  a: Labelled,
  b: Labelled,
  wanted: ReadonlySet<string>,
  lengths: ReadonlyMap<string, number>,
): Labelled {
  const both = a.labels.filter((label) => b.labels.includes(label));
  const batch = both.filter((label) => wanted.has(label));
  const summed = both.filter((label) => !wanted.has(label));
  const onlyA = a.labels.filter((label) => !both.includes(label));
  const onlyB = b.labels.filter((label) => !both.includes(label));
  const labels = [...batch, ...onlyA, ...onlyB];
  if (summed.length === 0) return { x: mul(arrange(a, labels), arrange(b, labels)), labels };
  const size = (names: readonly string[]): number => sizeOf(names.map((label) => lengths.get(label)!));
  const outer = batch.map((label) => lengths.get(label)!);
  const left = reshape(arrange(a, [...batch, ...onlyA, ...summed]), [...outer, size(onlyA), size(summed)]);
  // Axes to sum over last, then transposed, where that is how they lie: then nothing is copied
  const sumsLast = b.labels.at(-1) !== undefined && summed.includes(b.labels.at(-1)!);
  const right = sumsLast
    ? swapLast(reshape(arrange(b, [...batch, ...onlyB, ...summed]), [...outer, size(onlyB), size(summed)]))
    : reshape(arrange(b, [...batch, ...summed, ...onlyB]), [...outer, size(summed), size(onlyB)]);
  const y = matmul(left, right);
  return {
    x: reshape(
      y,
      labels.map((label) => lengths.get(label)!),
    ),
    labels,
  };
}

function swapLast(x: Tensor): Tensor {
  const order = [...x.shape.keys()];
  return permute(x, [...order.slice(0, -2), x.rank - 1, x.rank - 2]);
}

/**
 * Sum of products by named axes: `einsum('bhid,bhjd->bhij', q, k)`. A letter in several operands runs over them together; one
 * that is missing after `->` is summed; one that occurs twice in an operand takes the diagonal; `...` stands for any axes, which
 * broadcast. Without `->` the letters that occur once come out in alphabetical order.
 *
 * Operands are combined from left to right.
 *
 * @throws AttributeError if the equation is malformed
 * @throws ShapeError if lengths do not agree
 */
export function einsum(equation: string, ...operands: readonly Tensor[]): Tensor {
  if (operands.length === 0) throw bad(equation, 'at least one operand');
  for (const operand of operands) checkTensor('einsum', 'operand', operand);
  const parsed = parse(equation, operands);
  const lengths = lengthsOf(parsed.operands);
  const wantedBeside = (index: number): Set<string> =>
    new Set([...parsed.output, ...parsed.operands.flatMap(({ labels }, i) => (i === index ? [] : labels))]);
  const terms = parsed.operands.map((term, i) => simplify(term, lengths, wantedBeside(i)));
  let total = terms[0]!;
  for (let i = 1; i < terms.length; i++) {
    const later = new Set([...parsed.output, ...terms.slice(i + 1).flatMap(({ labels }) => labels)]);
    total = contract(total, terms[i]!, later, lengths);
  }
  return arrange(total, parsed.output);
}
