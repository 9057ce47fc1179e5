// An ONNX model of one node, as protocol-buffer bytes (onnx.proto of IR version 10, operator set 21).

const FLOAT = 1;
const INT_ATTRIBUTE = 2;

function varint(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return [...bytes, value];
}
const integer = (field, value) => [...varint(field * 8), ...varint(value)];
const message = (field, bytes) => [...varint(field * 8 + 2), ...varint(bytes.length), ...bytes];
const text = (field, value) => message(field, [...Buffer.from(value)]);

function valueInfo(field, name, shape) {
  const dimensions = shape.flatMap((length) => message(1, integer(1, length)));
  const tensorType = [...integer(1, FLOAT), ...message(2, dimensions)];
  return message(field, [...text(1, name), ...message(2, message(1, tensorType))]);
}

/**
 * @param {{ op: string, attributes: Record<string, number> }} node integer attributes
 * @param {number[][]} shapes of the operands x0, x1, …
 * @param {number[]} result shape of y
 */
export function model(node, shapes, result) {
  const attributes = Object.entries(node.attributes).flatMap(([name, value]) =>
    message(5, [...text(1, name), ...integer(3, value), ...integer(20, INT_ATTRIBUTE)]),
  );
  const body = [...shapes.flatMap((_, i) => text(1, `x${i}`)), ...text(2, 'y'), ...text(4, node.op), ...attributes];
  const graph = [
    ...message(1, body),
    ...text(2, 'one_node'),
    ...shapes.flatMap((shape, i) => valueInfo(11, `x${i}`, shape)),
    ...valueInfo(12, 'y', result),
  ];
  return Uint8Array.from([...integer(1, 10), ...message(7, graph), ...message(8, integer(2, 21))]);
}
