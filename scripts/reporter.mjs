// The reporter of `npm test`: one line per file, failures in full, skips with their reasons, and a closing summary.
import { relative } from 'node:path';
import { inspect } from 'node:util';
import { root } from './common.mjs';

const nameOf = (file) => (file ? relative(root, file) : '(unknown file)');

/** node:test wraps what a test threw; the cause is what the reader wants. */
function errorText(error) {
  const cause = error?.code === 'ERR_TEST_FAILURE' && error.cause ? error.cause : error;
  const end = error?.signal ? ` (the process was ended by ${error.signal})` : '';
  const text = typeof cause === 'string' ? cause + end : inspect(cause, { depth: 4 });
  return text
    .split('\n')
    .map((line) => `      ${line}`)
    .join('\n');
}

export default async function* report(events) {
  const files = new Map();
  const failures = [];
  const skips = new Map();
  const started = Date.now();
  const entry = (file) => {
    const name = nameOf(file);
    if (!files.has(name)) files.set(name, { passed: 0, failed: 0, skipped: 0, milliseconds: 0 });
    return files.get(name);
  };
  const path = []; // names of the enclosing suites, by nesting
  for await (const { type, data } of events) {
    if (type === 'test:stdout' || type === 'test:stderr') {
      yield data.message;
    } else if (type === 'test:start') {
      path[data.nesting] = data.name;
      path.length = data.nesting + 1;
    } else if (type === 'test:pass' || type === 'test:fail') {
      const counts = entry(data.file);
      if (data.nesting === 0) counts.milliseconds += data.details.duration_ms;
      const isSkip = data.skip !== undefined;
      const title = [...path.slice(0, data.nesting), data.name].join(' > ');
      if (type === 'test:fail') {
        // A suite fails because of a test inside it, which has been counted.
        if (data.details.error?.failureType === 'subtestsFailed') continue;
        counts.failed += 1;
        failures.push(`${nameOf(data.file)} > ${title}`);
        yield `  FAILED ${nameOf(data.file)} > ${title}\n${errorText(data.details.error)}\n`;
      } else if (isSkip) {
        counts.skipped += 1;
        const reason = `${nameOf(data.file)}: ${typeof data.skip === 'string' ? data.skip : data.name}`;
        skips.set(reason, (skips.get(reason) ?? 0) + 1);
      } else if (data.details.type !== 'suite') {
        counts.passed += 1;
      }
    }
  }
  const total = { passed: 0, failed: 0, skipped: 0 };
  yield '\n';
  for (const [name, counts] of [...files].sort((a, b) => (a[0] < b[0] ? -1 : 1))) {
    for (const key of Object.keys(total)) total[key] += counts[key];
    const words = [`${counts.passed} passed`];
    if (counts.failed > 0) words.push(`${counts.failed} FAILED`);
    if (counts.skipped > 0) words.push(`${counts.skipped} skipped`);
    yield `  ${name}: ${words.join(', ')} (${(counts.milliseconds / 1000).toFixed(1)} s)\n`;
  }
  for (const [reason, count] of skips) yield `  skipped: ${reason}${count > 1 ? ` (${count} times)` : ''}\n`;
  for (const failure of failures) yield `  failed: ${failure}\n`;
  const seconds = ((Date.now() - started) / 1000).toFixed(1);
  yield `${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped in ${files.size} files, ${seconds} s\n`;
}
