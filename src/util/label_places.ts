/**
 * Names beside the points of a chart, so that they neither cover each other nor leave the chart.
 *
 * @module
 */

/** A point of a chart in pixels, and the name that is to stand beside it. */
export interface LabelledPoint {
  readonly x: number;
  readonly y: number;
  readonly text: string;
}

/** Where a name begins (or ends) beside its point, in pixels. */
export interface LabelPlace {
  readonly dx: number;
  readonly dy: number;
  readonly textAnchor: 'start' | 'end';
}

interface Box {
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
}

/** Of the mean letter at 12 pixels, and of a line. */
const [LETTER, LINE] = [6.8, 14];
const RADIUS = 6;

/** Above and below, near first; to the right, then to the left. */
const places: readonly LabelPlace[] = [-9, 9, -24, 24, -39, 39, -54, 54, 0].flatMap((dy) =>
  (['start', 'end'] as const).map((textAnchor) => ({ dx: textAnchor === 'start' ? 9 : -9, dy, textAnchor })),
);

function boxOf({ x, y, text }: LabelledPoint, { dx, dy, textAnchor }: LabelPlace): Box {
  const [at, width] = [x + dx, text.length * LETTER];
  const left = textAnchor === 'start' ? at : at - width;
  return { left, right: left + width, top: y + dy - LINE / 2, bottom: y + dy + LINE / 2 };
}

const overlap = (a: Box, b: Box): number =>
  Math.max(0, Math.min(a.right, b.right) - Math.max(a.left, b.left)) *
  Math.max(0, Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top));

/** A place for each name, one after the other: the first that is free, or the one that covers least. */
export function labelPlaces(points: readonly LabelledPoint[], width: number, height: number): LabelPlace[] {
  const taken: Box[] = points.map(({ x, y }) => ({
    left: x - RADIUS,
    right: x + RADIUS,
    top: y - RADIUS,
    bottom: y + RADIUS,
  }));
  return points.map((point) => {
    const costs = places.map((place) => {
      const box = boxOf(point, place);
      const outside = Math.max(0, -box.left, box.right - width, -box.top, box.bottom - height);
      return taken.reduce((sum, other) => sum + overlap(box, other), LINE * outside);
    });
    const best = places[costs.indexOf(Math.min(...costs))]!;
    taken.push(boxOf(point, best));
    return best;
  });
}
