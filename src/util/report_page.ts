/**
 * The HTML of reports: a page without scripts and without anything from elsewhere.
 *
 * @module
 */

/** Text as it may stand in HTML, in attributes, too. */
export const escapeHtml = (text: string): string =>
  text.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]!);

/** Colours of runs: apart from each other for most eyes, readable on white and on black (after Okabe and Ito). */
export const palette = [
  '#3b76c4', '#d9622b', '#2a9d74', '#b0589e', '#b98a00', '#4aa8d8', '#8a6fd1', '#7a7f87',
] as const; // prettier-ignore

/** Colour of the i-th run. */
export const colorOf = (i: number): string => palette[i % palette.length]!;

const style = `
  :root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6676; --line: #d8dee8; --panel: #f5f7fa; --page: #fff; }
  @media (prefers-color-scheme: dark) {
    :root { --ink: #e4e8ee; --soft: #98a3b3; --line: #323b48; --panel: #1b222c; --page: #12171e; }
  }
  * { box-sizing: border-box; }
  body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 1480px; margin: 2rem auto; padding: 0 1.5rem; }
  h1 { margin: 0 0 0.2rem; font-size: 1.7rem; overflow-wrap: anywhere; }
  h2 { margin: 2.4rem 0 0.8rem; font-size: 1.2rem; border-bottom: 1px solid var(--line); padding-bottom: 0.3rem; }
  h3 { font-size: 0.95rem; margin: 0 0 0.2rem; font-weight: 600; }
  p { margin: 0.3rem 0 0.8rem; } .soft { color: var(--soft); }
  .tiles { display: flex; flex-wrap: wrap; gap: 0.7rem; margin: 1.2rem 0; }
  .tile { background: var(--panel); border-radius: 8px; padding: 0.55rem 0.9rem; min-width: 8.5rem; }
  .tile b { display: block; font-size: 1.2rem; font-weight: 600; font-variant-numeric: tabular-nums; }
  .tile span { color: var(--soft); font-size: 0.82rem; }
  .charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(620px, 100%), 1fr)); gap: 1.6rem 1.4rem; }
  figure { margin: 0; min-width: 0; } figure svg { width: 100%; height: auto; display: block; overflow: visible; }
  .legend { display: flex; flex-wrap: wrap; gap: 0.3rem 1.1rem; font-size: 0.85rem; margin: 0 0 0.9rem; color: var(--soft); align-items: center; }
  .legend span { display: inline-flex; align-items: center; gap: 0.4rem; min-width: 0; }
  .legend em { font-style: normal; max-width: 26rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; color: var(--ink); }
  .legend i { width: 1.5rem; height: 0; border-top: 3px solid; flex: none; }
  .legend i.faint { opacity: 0.35; border-top-width: 2px; } .legend i.dashed { border-top-style: dashed; border-top-width: 2px; }
  .legend i.dot { width: 0.6rem; height: 0.6rem; border: 0; border-radius: 50%; background: currentColor; }
  .scroll { overflow-x: auto; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.92rem; }
  th, td { padding: 0.32rem 0.8rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; white-space: nowrap; }
  th { font-weight: 600; color: var(--soft); vertical-align: bottom; white-space: normal; overflow-wrap: break-word; max-width: 15rem; }
  th:first-child, td:first-child { text-align: left; } td.text, th.text { text-align: left; }
  td.text { white-space: normal; overflow-wrap: break-word; max-width: 46rem; } td.best { font-weight: 700; }
  td.name { white-space: normal; overflow-wrap: break-word; max-width: 18rem; }
  td .swatch { display: inline-block; width: 0.75rem; height: 0.75rem; border-radius: 3px; margin-right: 0.5rem; vertical-align: -1px; }
  pre { background: var(--panel); border-radius: 6px; padding: 0.8rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; margin: 0.4rem 0 1rem; max-height: 24rem; overflow-y: auto; }
  details { margin: 0.25rem 0; } summary { cursor: pointer; color: var(--soft); font-size: 0.88rem; }
  .smoothing { display: none; }
  .choice { display: inline-flex; gap: 0.25rem; margin-left: auto; }
  .choice label { cursor: pointer; padding: 0.05rem 0.55rem; border: 1px solid var(--line); border-radius: 99px; }
  .smooth-0, .smooth-2 { display: none; }
  #smooth-0:checked ~ section .smooth-1, #smooth-2:checked ~ section .smooth-1 { display: none; }
  #smooth-0:checked ~ section .smooth-0, #smooth-2:checked ~ section .smooth-2 { display: inline; }
  #smooth-0:checked ~ section [for=smooth-0], #smooth-1:checked ~ section [for=smooth-1], #smooth-2:checked ~ section [for=smooth-2]
    { background: var(--line); color: var(--ink); }
`;

/** One cell: text, or HTML that is already safe. */
export type Cell = string | { readonly html: string; readonly className?: string };

/** A table; columns whose number is in `texts` are set to the left. */
export function htmlTable(
  head: readonly string[],
  rows: readonly (readonly Cell[])[],
  texts: readonly number[] = [],
): string {
  const side = (i: number): string => (texts.includes(i) ? 'text' : '');
  const th = head.map((title, i) => `<th class="${side(i)}">${escapeHtml(title)}</th>`).join('');
  const body = rows.map((row) => {
    const cells = row.map((cell, i) => {
      const { html, className = '' } = typeof cell === 'string' ? { html: escapeHtml(cell) } : cell;
      return `<td class="${`${side(i)} ${className}`.trim()}">${html}</td>`;
    });
    return `<tr>${cells.join('')}</tr>`;
  });
  const header = head.length === 0 ? '' : `<thead><tr>${th}</tr></thead>`;
  return `<div class="scroll"><table>${header}<tbody>${body.join('')}</tbody></table></div>`;
}

/** Names and values. */
export const factTable = (facts: Readonly<Record<string, string>>): string => htmlTable([], Object.entries(facts), [1]);

/** A part of the page; nothing if it would be empty. */
export const section = (title: string, ...parts: readonly string[]): string =>
  parts.every((part) => part === '') ? '' : `<section><h2>${escapeHtml(title)}</h2>${parts.join('\n')}</section>`;

/** The whole page. The radio buttons choose how much curves are smoothed: their labels stand with the charts. */
export function htmlPage(title: string, summary: string, sections: readonly string[]): string {
  const radio = (i: number): string =>
    `<input class="smoothing" type="radio" name="smoothing" id="smooth-${i}"${i === 1 ? ' checked' : ''}>`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(title)}</title>
<style>${style}</style>
</head>
<body>
<h1>${escapeHtml(title)}</h1>
<p class="soft">${escapeHtml(summary)}</p>
${[0, 1, 2].map(radio).join('')}
${sections.filter((part) => part !== '').join('\n')}
</body>
</html>
`;
}

/** The labels of the radio buttons. */
export const smoothingChoice =
  '<span class="choice">smoothing <label for="smooth-0">none</label><label for="smooth-1">some</label><label for="smooth-2">much</label></span>';
