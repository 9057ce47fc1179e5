/** Run by test/runtime/environment.test.ts: trains a little, prints a digest of every bit that came out, and what is in force. */
import { createHash } from 'node:crypto';
import * as og from '../../src/index.js';

const generator = og.generator(3);
const config = { vocabSize: 37, context: 24, layers: 2, heads: 4, kvHeads: 2, width: 48, position: 'rope', norm: 'rmsNorm', activation: 'swiglu', bias: false } as const; // prettier-ignore
const model = new og.GPT(config, { generator });
const optimizer = new og.optim.AdamW(model.parameters(), { lr: 1e-2 });
const hash = createHash('sha256');
for (let step = 0; step < 4; step++) {
  og.scope(() => {
    const ids = og.randint(0, 37, [5, 24], { generator });
    const loss = model.loss(ids, og.roll(ids, -1, 1));
    og.backward(loss);
    og.optim.clipGradNorm(model.parameters(), 1);
    optimizer.step();
    optimizer.zeroGrad();
    hash.update(String(loss.itemSync()));
  });
}
// Sizes that several threads share.
const big = og.randn([700, 513], { generator });
const results = [
  og.matmul(big, og.transpose(big, 0, 1)),
  og.softmax(big, 0),
  og.sum(big),
  og.cumsum(big, 0),
  og.sort(big, 0).indices,
];
for (const tensor of [...model.parameters(), ...results]) {
  const data = await tensor.data();
  hash.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
}
const { isa, threads } = og.backend();
process.stdout.write(JSON.stringify({ digest: hash.digest('hex'), isa, threads }));
