/** @internal One number of 48 bits from several: FNV-1a over their 32-bit halves, in two variants of which 24 bits each count. */
export function seedFrom(numbers: readonly number[]): number {
  let [low, high] = [0x811c9dc5, 0x9dc5811c];
  for (const number of numbers) {
    for (const word of [number >>> 0, Math.floor(number / 2 ** 32) >>> 0]) {
      low = Math.imul(low ^ word, 0x01000193) >>> 0;
      high = Math.imul(high ^ (word + 0x9e3779b9), 0x01000193) >>> 0;
    }
  }
  return (low & 0xffffff) * 2 ** 24 + (high & 0xffffff);
}
