/** Names beside the points of charts. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { labelPlaces } from '../../src/util/label_places.js';

test('names of points that lie near each other stand apart, within the chart', () => {
  const points = [
    { x: 100, y: 50, text: 'int8-smoothquant' },
    { x: 104, y: 50, text: 'float32' },
    { x: 108, y: 51, text: 'int4-gptq' },
    { x: 630, y: 50, text: 'student' },
  ];
  const boxes = labelPlaces(points, 640, 260).map(({ dx, dy, textAnchor }, i) => {
    const { x, y, text } = points[i]!;
    const left = textAnchor === 'start' ? x + dx : x + dx - 6.5 * text.length;
    return { left, right: left + 6.5 * text.length, top: y + dy - 7, bottom: y + dy + 7 };
  });
  for (const [i, a] of boxes.entries()) {
    assert.ok(a.left >= 0 && a.right <= 640 && a.top >= 0);
    for (const b of boxes.slice(i + 1))
      assert.ok(a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top);
  }
});
