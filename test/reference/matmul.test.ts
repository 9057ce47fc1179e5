import { einsum } from '../../src/ops/einsum.js';
import { linear } from '../../src/ops/linear.js';
import { matmul } from '../../src/ops/matmul.js';
import { testGroup } from '../helpers/reference.js';

testGroup('ops/ops_matmul', {
  matmul: ({ a, b }) => matmul(a!, b!),
  linear: ({ x, w, b }) => linear(x!, w!, b),
  einsum: ({ a, b }, { equation }) => einsum(equation, ...(b === undefined ? [a!] : [a!, b])),
});
