/** Fast hashes of text for sets and sketches; not for security. */

/** 32-bit finaliser of MurmurHash3 (Appleby, public domain): a bijection that spreads every input bit over all output bits. */
export function mix32(value: number): number {
  let h = value | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** 32-bit hash of UTF-16 units from `start` to `end` (FNV-1a over units, then {@link mix32}). */
export function hashText(text: string, seed = 0, start = 0, end = text.length): number {
  let h = 0x811c9dc5 ^ seed;
  for (let i = start; i < end; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  return mix32(h);
}

/** 53-bit hash, exact as a number: of n different texts two collide with probability about n² / 2⁵⁴. */
export function hash53(text: string): number {
  let a = 0xdeadbeef;
  let b = 0x41c6ce57;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    a = Math.imul(a ^ unit, 0x9e3779b1);
    b = Math.imul(b ^ unit, 0x5f356495);
    b ^= b >>> 15; // lets high bits come down, so that the two are not alike in their low bits
  }
  return joinHash(mix32(a ^ (b >>> 7)), mix32(b));
}

/** One 53-bit number of two 32-bit hashes. */
export function joinHash(high: number, low: number): number {
  return (high & 0x1fffff) * 0x100000000 + (low >>> 0);
}
