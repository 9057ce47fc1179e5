// ONNX models as protocol-buffer bytes (onnx.proto of IR version 10, operator set 23).

/** Numbers of element types. */
export const types = { float32: 1, uint8: 2, int8: 3, int32: 6, int64: 7, float16: 10, bfloat16: 16 };

function varint(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return Buffer.from([...bytes, value]);
}
// Parts may be weights of a hundred megabytes: buffers are put together once, at the end.
const sizeOf = (parts) => parts.reduce((sum, part) => sum + part.length, 0);
const integer = (field, value) => [varint(field * 8), varint(value)];
const message = (field, parts) => [varint(field * 8 + 2), varint(sizeOf(parts)), ...parts];
const text = (field, value) => message(field, [Buffer.from(value)]);
const raw = (field, data) => message(field, [Buffer.from(data.buffer, data.byteOffset, data.byteLength)]);

function float(field, value) {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return [varint(field * 8 + 5), bytes];
}

function valueInfo(field, { name, type, shape }) {
  const dimensions = shape.flatMap((length) => message(1, integer(1, length)));
  const tensorType = [...integer(1, types[type]), ...message(2, dimensions)];
  return message(field, [...text(1, name), ...message(2, message(1, tensorType))]);
}

function initializer({ name, type, shape, data }) {
  const dimensions = shape.flatMap((length) => integer(1, length));
  return message(5, [...dimensions, ...integer(2, types[type]), ...text(8, name), ...raw(9, data)]);
}

/** Whole numbers, `{ float }`, and lists of whole numbers. */
function attribute([name, value]) {
  if (Array.isArray(value))
    return message(5, [...text(1, name), ...value.flatMap((v) => integer(8, v)), ...integer(20, 7)]);
  if (typeof value === 'object') return message(5, [...text(1, name), ...float(2, value.float), ...integer(20, 1)]);
  return message(5, [...text(1, name), ...integer(3, value), ...integer(20, 2)]);
}

function node({ op, domain, attributes = {}, inputs, outputs }) {
  return message(1, [
    ...inputs.flatMap((name) => text(1, name)),
    ...outputs.flatMap((name) => text(2, name)),
    ...text(4, op),
    ...Object.entries(attributes).flatMap(attribute),
    ...(domain === undefined ? [] : text(7, domain)),
  ]);
}

/**
 * @param {object} graph
 * @param {{ op: string, domain?: string, attributes?: object, inputs: string[], outputs: string[] }[]} graph.nodes
 * @param {{ name: string, type: string, shape: number[] }[]} graph.inputs
 * @param {{ name: string, type: string, shape: number[] }[]} graph.outputs
 * @param {{ name: string, type: string, shape: number[], data: ArrayBufferView }[]} graph.constants
 */
export function model({ nodes, inputs, outputs, constants }) {
  const graph = [
    ...nodes.flatMap(node),
    ...text(2, 'nodes'),
    ...constants.flatMap(initializer),
    ...inputs.flatMap((input) => valueInfo(11, input)),
    ...outputs.flatMap((output) => valueInfo(12, output)),
  ];
  const microsoft = [...text(1, 'com.microsoft'), ...integer(2, 1)];
  return Buffer.concat([
    ...integer(1, 10),
    ...message(7, graph),
    ...message(8, integer(2, 23)),
    ...message(8, microsoft),
  ]);
}
