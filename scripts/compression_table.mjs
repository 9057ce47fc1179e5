// The tables of compressed models, of a record that bench/compression/main.ts wrote.

const percent = (share) => `${share >= 0 ? '+' : '−'}${Math.abs(100 * share).toFixed(Math.abs(share) < 0.1 ? 2 : 1)} %`;
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const times = (ratio) => ratio.toFixed(ratio < 10 ? 2 : 1);

/** Names of forms in the record's parts, in the order of the table: of trained models, and of those that were timed. */
const forms = [
  { title: 'float32', quality: 'float32', speed: 'float32', isHeadline: true },
  { title: 'w8a8, SmoothQuant', quality: 'w8a8 SmoothQuant', speed: 'w8a8 SmoothQuant', isHeadline: true },
  { title: 'w4a16 in groups of 32, to nearest', quality: 'w4a16 to nearest', speed: 'w4a16' },
  { title: 'w4a16 in groups of 32, GPTQ', quality: 'w4a16 GPTQ', speed: 'w4a16', isHeadline: true },
  {
    title: 'w4a16, to nearest, two-stage table',
    quality: 'w4a16 to nearest, two-stage table',
    speed: 'w4a16, two-stage table',
  },
  {
    title: 'w4a16, GPTQ, two-stage table',
    quality: 'w4a16 GPTQ, two-stage table',
    speed: 'w4a16, two-stage table',
    isHeadline: true,
  },
  { title: 'w4a8 in groups of 32, GPTQ', quality: 'w4a8 GPTQ', speed: 'w4a8', isHeadline: true },
  { title: 'float32, trained on', quality: 'float32, trained on', speed: null },
  { title: '2:4, fine-tuned', quality: '2:4, fine-tuned', speed: '2:4' },
  { title: '2:4, fine-tuned, int8 table', quality: '2:4, fine-tuned, int8 table', speed: '2:4, int8 table' },
  { title: '2:4, fine-tuned, int8', quality: '2:4, fine-tuned, int8', speed: '2:4, int8', isHeadline: true },
  { title: '90 % zeros, fine-tuned', quality: '90 %, fine-tuned', speed: '90 %' },
  { title: '90 % zeros, fine-tuned, int8 table', quality: '90 %, fine-tuned, int8 table', speed: '90 %, int8 table' },
  { title: '90 % zeros, fine-tuned, int8', quality: '90 %, fine-tuned, int8', speed: '90 %, int8', isHeadline: true },
  { title: 'a quarter, trained alone', quality: 'student alone', speed: 'student' },
  { title: 'a quarter, distilled', quality: 'student distilled', speed: 'student', isHeadline: true },
];

/** Forms of one model by name, its students among them. */
const formsOf = ({ forms: made, student }) => ({
  ...made,
  'student alone': student?.alone,
  'student distilled': student?.distilled,
});

function formTable({ quality, speed }, kind, layOut) {
  const models = Object.entries(quality);
  const head = ['', ...models.flatMap(([name]) => [`${name}: perplexity`, 'size'])];
  if (speed !== null) head.push('GPT-2: prompt', 'generation');
  const rows = forms
    .filter(({ isHeadline }) => kind === 'all' || isHeadline)
    .filter(({ quality: name }) => models.some(([, model]) => formsOf(model)[name] !== undefined))
    .map(({ title, quality: name, speed: timed }) => {
      const cells = models.flatMap(([, model]) => {
        const { [name]: form, float32 } = formsOf(model);
        if (form === undefined) return ['', '']; // was not measured
        const found = form.perplexity.toFixed(3);
        const change = name === 'float32' ? '' : ` (${percent(form.perplexity / float32.perplexity - 1)})`;
        return [`${found}${change}`, times(form.bytes / float32.bytes)];
      });
      if (speed === null) return [title, ...cells];
      if (timed === null) return [title, ...cells, '', ''];
      const [made, base] = [speed.forms[timed], speed.forms.float32];
      if (made === undefined) return [title, ...cells, '', '']; // was not timed
      const rates = ['prefill', 'decode'].map((part) =>
        timed === 'float32' ? `${base[part].toFixed(0)} tokens/s` : times(made[part] / base[part]),
      );
      return [title, ...cells, ...rates];
    });
  return layOut(head, rows);
}

function halfTable({ quality }, layOut) {
  const rows = Object.entries(quality).map(([name, { forms: made, half }]) => {
    const cells = ['magnitude', 'wanda', 'sparsegpt'].map((method) => {
      const values = half[method];
      const spread =
        values.length < 2 ? '' : ` (${Math.min(...values).toFixed(3)} to ${Math.max(...values).toFixed(3)})`;
      return `${mean(values).toFixed(3)}${spread}`;
    });
    return [name, made.float32.perplexity.toFixed(3), ...cells];
  });
  return layOut(['half of the weights', 'dense', 'magnitude', 'Wanda', 'SparseGPT'], rows);
}

function layerTable({ layers }, layOut) {
  const dense = layers.float32;
  const rows = Object.entries(layers)
    .filter(([name]) => name !== 'float32')
    .map(([name, timed]) => [name, ...timed.map(({ seconds }, i) => times(dense[i].seconds / seconds))]);
  return layOut(
    ['linear layers of GPT-2, times dense', ...dense.map(({ rows: n }) => (n === 1 ? '1 row' : `${n} rows`))],
    rows,
  );
}

const about = ({ cpu, isa, threads, node, date, commit }) =>
  `${cpu}, ${isa}, ${threads === 1 ? '1 thread' : `${threads} threads`}, Node ${node}, ${date.slice(0, 10)}, commit ${commit.replace('+', '')}`;

/** Markdown of a record: all of it, or the forms that matter most. */
export function compressionTables(record, kind, layOut) {
  const { quality, speed } = record;
  const parts = [formTable(record, kind, layOut)];
  if (kind === 'all') parts.push(halfTable(record, layOut), ...(speed === null ? [] : [layerTable(speed, layOut)]));
  const origins = [
    ...Object.entries(quality).map(([name, { origin, parameters, tokens }]) => {
      return `${name}: ${(parameters / 1e6).toFixed(2)} million parameters, perplexity on ${tokens.toLocaleString('en-US')} tokens (${about(origin)})`;
    }),
    ...(speed === null ? [] : [`GPT-2: the geometry of 124 million parameters (${about(speed.origin)})`]),
  ];
  return [...parts, `${origins.join('; ')}.`].join('\n\n');
}
