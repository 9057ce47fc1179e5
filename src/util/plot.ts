/** Observable Plot, which draws the charts of reports into SVG. */
import { importOptional } from './optional.js';

/** The parts of Plot that are used. */
export interface PlotModule {
  plot(options: object): { outerHTML: string };
  line(data: readonly object[], options: object): object;
  dot(data: readonly object[], options: object): object;
  text(data: readonly object[], options: object): object;
  ruleX(data: readonly object[], options: object): object;
  ruleY(data: readonly number[], options?: object): object;
}

/**
 * Plot, and a document to draw into.
 *
 * @throws BackendError if `@observablehq/plot` or `linkedom` is not installed
 */
export async function loadPlot(purpose: string): Promise<{ readonly plot: PlotModule; readonly document: unknown }> {
  const plot = await importOptional<PlotModule>('@observablehq/plot', purpose);
  const { parseHTML } = await importOptional<{ parseHTML(html: string): { document: unknown } }>('linkedom', purpose);
  return { plot, document: parseHTML('<html><body></body></html>').document };
}

/** 12345 → "12.3k", 0.00081 → "8.1e-4". */
export function formatTick(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(3))}k`;
  if (size > 0 && size < 1e-4) return value.toExponential(1).replace('.0e', 'e');
  return String(Number(value.toPrecision(4)));
}
