/** Random orders that depend on two numbers only, so that nothing but those has to be saved. */

/** Small fast generator for host-side shuffles (sfc32, from PractRand); not for tensors. */
export function hostRandom(seed: number, stream: number): () => number {
  let a = seed >>> 0;
  let b = Math.floor(seed / 2 ** 32) >>> 0;
  let c = stream >>> 0;
  let counter = 1;
  const next = (): number => {
    const t = (a + b + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + t;
    return (t >>> 0) / 2 ** 32;
  };
  for (let i = 0; i < 15; i++) next();
  return next;
}

/** The numbers from 0 to count − 1, shuffled by (seed, epoch), or in order. Fisher–Yates. */
export function permutationOf(
  count: number,
  by: { readonly seed: number; readonly epoch: number } | null,
): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  if (by === null) return order;
  const random = hostRandom(by.seed, by.epoch);
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    const held = order[i]!;
    order[i] = order[j]!;
    order[j] = held;
  }
  return order;
}
