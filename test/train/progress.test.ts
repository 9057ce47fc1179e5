/** What a run shows on a terminal and in a pipe. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import * as og from '../../src/index.js';
import { tinyTrainer } from '../helpers/tiny_run.js';

/** A terminal, as far as a bar needs one: keeps the lines as they would stand on the screen. */
class Screen {
  readonly isTTY = true;
  readonly lines: string[] = [''];
  readonly written: string[] = [];
  private row = 0;
  private column = 0;

  constructor(readonly columns: number) {}

  private put(text: string): void {
    const line = this.lines[this.row]!.padEnd(this.column);
    this.lines[this.row] = line.slice(0, this.column) + text + line.slice(this.column + text.length);
    this.column += text.length;
  }

  write(text: string): boolean {
    this.written.push(text);
    // oxlint and editors dislike a bare escape character.
    const pattern = new RegExp(
      `${String.fromCharCode(27)}\\[(\\??[0-9;]*)([A-Za-z])|\\r|\\n|[^\\r\\n${String.fromCharCode(27)}]+`,
      'g',
    );
    for (const [match, numbers, command] of text.matchAll(pattern)) {
      const count = Number(numbers || 1);
      if (match === '\n') {
        this.row++;
        this.column = 0;
        if (this.lines.length === this.row) this.lines.push('');
      } else if (match === '\r') this.column = 0;
      else if (command === undefined) this.put(match);
      else if (command === 'A') this.row = Math.max(0, this.row - count);
      else if (command === 'G') this.column = count - 1;
      else if (command === 'K')
        this.lines[this.row] = numbers === '2' ? '' : this.lines[this.row]!.slice(0, this.column);
      else assert.fail(`a sequence that changes the terminal: ${JSON.stringify(match)}`);
    }
    return true;
  }

  cursorTo = (): boolean => true;
}

const step = (n: number, more: Partial<og.StepEvent> = {}): og.StepEvent => ({ type: 'step', step: n, total: 40, epoch: 1, loss: 3.25, lr: 8.1e-4, gradNorm: 0.8712, tokens: n * 10, tokensPerSecond: 12345.6, elapsed: n / 2, ...more }); // prettier-ignore

describe('a terminal', () => {
  test('two lines are redrawn in place; messages go above them', async () => {
    const screen = new Screen(120);
    using progress = new og.TrainingProgress({ stream: screen });
    progress.show(step(1));
    progress.show({ type: 'eval', step: 1, loss: 3, perplexity: 20.0855, metrics: {}, sets: {} });
    for (let n = 2; n <= 20; n++) progress.show(step(n));
    progress.onPhase('validating');
    progress.show({ type: 'rollback', step: 10, why: 'a spike' } as unknown as og.TrainEvent);
    await wait(300);
    const [message, first, second] = screen.lines;
    assert.equal(message, 'rollback  step 10  why a spike');
    assert.equal(first, `${'█'.repeat(12)}${'░'.repeat(12)} 20/40  epoch 2  loss 3.250  valid 3.000  0:10 left`);
    assert.match(
      second!,
      /^validating {2}lr 8\.1e-4 {2}grad norm 0\.871 {2}12,346 tokens\/s {2}memory .+ \(process .+ MiB\)$/,
    );
    assert.equal(screen.lines.length, 3);
    progress.show({ type: 'done', step: 40, reason: 'finished', elapsed: 20 });
    assert.equal(screen.lines[3], 'Finished at step 40 after 0:20.');
    const before = screen.written.length;
    await wait(300);
    assert.equal(screen.written.length, before, 'nothing is drawn after the end');
  });

  test('a narrow one cuts lines instead of wrapping them', async () => {
    const screen = new Screen(40);
    using progress = new og.TrainingProgress({ stream: screen });
    progress.show(step(3));
    await wait(300);
    assert.deepEqual(
      screen.lines.map((line) => line.length).filter((length) => length >= 40),
      [],
    );
  });
});

test('a terminal that does not know its width gets 80 columns', async () => {
  const screen = new Screen(0);
  using progress = new og.TrainingProgress({ stream: screen });
  progress.show(step(3));
  await wait(300);
  assert.match(screen.lines[0]!, / 3\/40 {2}epoch 2 {2}loss 3\.250 /);
});

describe('a pipe', () => {
  const pipe = () => {
    const lines: string[] = [];
    return { lines, stream: { write: (text: string) => lines.push(...text.trimEnd().split('\n')) } };
  };

  test('gets a line at intervals, the last step, and every message', () => {
    const { lines, stream } = pipe();
    const progress = new og.TrainingProgress({ stream, interval: 4 });
    progress.show({ type: 'resume', step: 4, path: 'x/step-4' });
    for (let n = 5; n <= 20; n++) progress.show(step(n, { total: 20 }));
    progress.show({ type: 'eval', step: 20, loss: 3, perplexity: 20.0855, metrics: {}, sets: {} });
    progress.show({ type: 'done', step: 20, reason: 'earlyStopping', elapsed: 10 } as unknown as og.TrainEvent);
    assert.equal(lines[0], 'Going on from step 4 (x/step-4).');
    assert.deepEqual(
      lines.slice(1, -2).map((line) => line.split('  ')[0]),
      ['step 5/20', 'step 13/20', 'step 20/20'],
    );
    assert.match(
      lines[1]!,
      /epoch 2 {2}loss 3\.250 {2}lr 8\.1e-4 {2}grad norm 0\.871 {2}12,346 tokens\/s {2}memory .+ left$/,
    );
    assert.deepEqual(lines.slice(-2), [
      'step 20  valid 3.000 (perplexity 20.1)',
      'Ended (earlyStopping) at step 20 after 0:10.',
    ]);
  });

  test('as a callback it is told of phases', async () => {
    const { lines, stream } = pipe();
    const phases: string[] = [];
    const progress = new og.TrainingProgress({ stream, interval: 0 });
    const watch = { onPhase: (phase: og.TrainPhase) => void phases.push(phase) };
    const trainer = tinyTrainer({ steps: 2 });
    const withCallbacks = new og.Trainer(trainer.model, {
      train: new og.TextDataset(
        Int32Array.from({ length: 200 }, (_, i) => i % 32),
        { context: 16 },
      ),
      valid: new og.TextDataset(
        Int32Array.from({ length: 200 }, (_, i) => i % 32),
        { context: 16 },
      ),
      batchSize: 2,
      steps: 2,
      optimizer: (parameters) => new og.optim.SGD(parameters, { lr: 0.1 }),
      callbacks: [progress, watch],
    });
    for await (const _ of withCallbacks.run());
    assert.deepEqual(phases, ['validating', 'training']);
    assert.equal(lines.filter((line) => line.startsWith('step')).length, 3);
    assert.match(lines.at(-1)!, /^Finished at step 2/);
  });
});

test('options that cannot be are refused', () => {
  assert.throws(() => new og.TrainingProgress({ mode: 'loud' as 'auto' }), /mode: expected "auto" or "lines"/);
  assert.throws(() => new og.TrainingProgress({ intervall: 1 } as object), /Did you mean interval/);
});
