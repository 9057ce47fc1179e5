/** nn.SparseLinear: in a Linear's place, trained, saved and loaded. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import * as og from '../../src/index.js';

const { nn } = og;

function pruned(keep: number): { linear: og.nn.Linear; mask: og.Tensor } {
  const generator = og.generator(4);
  const linear = new nn.Linear(64, 32, { generator });
  return { linear, mask: og.rand([32, 64], { generator }).lt(keep) };
}

async function same(a: og.Tensor, b: og.Tensor, tolerance: number): Promise<void> {
  assert.ok((await og.amax(a.sub(b).abs()).item()) <= tolerance);
}

describe('SparseLinear', () => {
  const forms: readonly og.ToSparseOptions[] = [
    { layout: 'csr' },
    { layout: 'csr', dtype: 'int8' },
    { layout: 'block', blockSize: 16 },
    { layout: '2:4' },
    { layout: '2:4', dtype: 'int8' },
  ];
  for (const form of forms) {
    test(`${form.layout} ${form.dtype ?? ''}: as the masked Linear, saved and loaded`, async () => {
      const { linear, mask: free } = pruned(0.4);
      const mask = form.layout === '2:4' ? og.abs(linear.weight.detach()).reshape([512, 4]) : free;
      const chosen =
        form.layout === '2:4'
          ? og.scatter(og.full([512, 4], false), -1, og.topk(mask, 2).indices, 1).reshape([32, 64])
          : mask;
      const sparse = await nn.SparseLinear.fromLinear(linear, { ...form, mask: chosen });
      const x = og.randn([5, 64], { generator: og.generator(6) });
      const dense = og.linear(x, sparse.weight.toDense().detach(), linear.bias!.detach());
      await same(sparse.forward(x), dense, 1e-4);
      const names = Object.keys(sparse.stateDict()).sort();
      const indices = form.layout === '2:4' ? ['indices'] : ['crowIndices', 'colIndices'];
      assert.deepEqual(names, ['values', 'bias', ...indices, ...(form.dtype ? ['scale'] : [])].sort());
      assert.equal(sparse.namedParameters().length, form.dtype ? 1 : 2);

      const folder = mkdtempSync(join(tmpdir(), 'sparse-'));
      try {
        const path = join(folder, 'layer.safetensors');
        await og.saveSafetensors(path, sparse.stateDict());
        const loaded = nn.SparseLinear.fromState(await og.loadSafetensors(path), 64);
        assert.deepEqual(await loaded.forward(x).toArray(), await sparse.forward(x).toArray());
        const other = await nn.SparseLinear.fromLinear(linear, { ...form, mask: chosen });
        other.loadStateDict(await og.loadSafetensors(path));
        assert.deepEqual(await other.forward(x).toArray(), await sparse.forward(x).toArray());
      } finally {
        rmSync(folder, { recursive: true });
      }
    });
  }

  test('trains: a few steps of SGD change the kept values only', async () => {
    const { linear, mask } = pruned(0.3);
    const layer = await nn.SparseLinear.fromLinear(linear, { mask });
    const optimizer = new og.optim.SGD(layer.parameters(), { lr: 0.05 });
    const x = og.randn([16, 64], { generator: og.generator(7) });
    const target = og.randn([16, 32], { generator: og.generator(8) });
    const losses: number[] = [];
    for (let step = 0; step < 10; step++) {
      const loss = layer.forward(x).sub(target).square().mean();
      loss.backward();
      optimizer.step();
      optimizer.zeroGrad();
      losses.push(await loss.item());
    }
    assert.ok(losses.at(-1)! < losses[0]!);
    const outside = og.where(mask, 0, layer.weight.toDense().detach());
    assert.equal(await og.amax(outside.abs()).item(), 0);
  });

  test('gradients follow when other indices are loaded', async () => {
    const { linear } = pruned(1);
    const [a, b] = [0, 1].map((start) => og.arange(0, 2048).reshape([32, 64]).remainder(2).eq(start));
    const layer = await nn.SparseLinear.fromLinear(linear, { mask: a! });
    const other = await nn.SparseLinear.fromLinear(linear, { mask: b! });
    const gradient = async (module: og.nn.SparseLinear): Promise<unknown> => {
      const x = og.ones([3, 64]).requiresGrad_();
      module.forward(x).sum().backward();
      return x.grad!.toArray();
    };
    await gradient(layer);
    layer.loadStateDict(other.stateDict());
    assert.deepEqual(await gradient(layer), await gradient(other));
  });

  test('sparsifyLinear keeps a dense layer where sparse would be slower', async () => {
    const { linear } = pruned(1);
    assert.equal(await nn.sparsifyLinear(linear, { rows: 512 }), linear);
    const mask = og.rand([32, 64], { generator: og.generator(1) }).lt(0.02);
    assert.ok((await nn.sparsifyLinear(linear, { rows: 512, mask })) instanceof nn.SparseLinear);
  });

  test('refuses what is not sparse and a bias that does not fit', async () => {
    const { linear } = pruned(1);
    assert.throws(() => new nn.SparseLinear(linear.weight as never), { name: 'StateError' });
    const weight = await og.toSparse(linear.weight.detach());
    assert.throws(() => new nn.SparseLinear(weight, og.ones([3])), { name: 'ShapeError' });
    assert.throws(() => nn.SparseLinear.fromState({}, 64), { name: 'StateError' });
  });
});
