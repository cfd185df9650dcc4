// SPDX-License-Identifier: GPL-2.0-only
/** Random values that have a chance to matter: edges of numbers, and addresses inside and outside of the guest's memory. */
import type { Rng } from './rng.ts';

/** Where a random address may lie. */
export interface AddressSpace {
  /** Pages that the fuzzer may fill, by both addresses. */
  readonly arena: readonly { readonly linear: bigint; readonly physical: bigint }[];
  /** Bytes of guest-physical memory from 0 on. */
  readonly memoryBytes: number;
}

const EDGES: readonly bigint[] = [
  0n,
  1n,
  0xfffn,
  0x1000n,
  0x7fff_ffffn,
  0x8000_0000n,
  0xffff_ffffn,
  0x1_0000_0000n,
  0x7fff_ffff_ffffn,
  0x8000_0000_0000n,
  0xffff_8000_0000_0000n,
  0xffff_ffff_ffff_ffffn,
];

/** Any 64-bit value: an edge, one bit, few bits, many bits. */
export function wordValue(rng: Rng): bigint {
  switch (rng.below(5)) {
    case 0:
      return rng.pick(EDGES);
    case 1:
      return 1n << BigInt(rng.below(64));
    case 2:
      return BigInt(rng.below(0x100));
    case 3:
      return BigInt(rng.u32());
    default:
      return rng.u64();
  }
}

/** An address, mostly of an arena page, at times of other memory, of none, or not even of the right width. */
export function addressValue(rng: Rng, space: AddressSpace, kind: 'linear' | 'physical'): bigint {
  const page = rng.pick(space.arena)[kind];
  const where = rng.below(100);
  if (where < 65) return page;
  if (where < 73) return page + BigInt(rng.below(0x1000));
  if (where < 79) return BigInt(rng.below(space.memoryBytes)) & ~0xfffn;
  if (where < 84) return BigInt(space.memoryBytes) + BigInt(rng.below(0x1000)) * 0x1000n;
  if (where < 88) return 0xfee0_0000n;
  if (where < 92)
    return (1n << BigInt(rng.pick([32, 45, 46, 47, 51, 52, 63]))) - BigInt(rng.pick([0, 1, 0x1000]));
  return wordValue(rng);
}
