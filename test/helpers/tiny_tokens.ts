/** Tokens with structure: each is a function of the two before it, now and then a surprise. */
export function tinyTokens(count = 4000, vocabSize = 32): Int32Array {
  const ids = new Int32Array(count);
  for (let i = 2; i < count; i++)
    ids[i] = i % 17 === 0 ? (i * 7) % vocabSize : (3 * ids[i - 1]! + ids[i - 2]! + 1) % vocabSize;
  return ids;
}
