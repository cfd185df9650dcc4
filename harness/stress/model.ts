// SPDX-License-Identifier: GPL-2.0-only
/** What the guest half computes, told again in TypeScript: memory, digests and counts that no host may change. */
import { CODE_PAGE, COUNTER_PAGE, MAX_VCPUS } from './layout.ts';

const U64 = (n: bigint): bigint => BigInt.asUintN(64, n);

/** Memory as words by `page * 512 + index`; words that were never written are absent. */
export interface Model {
  readonly stable: Map<number, bigint>;
  readonly moving: Map<number, bigint>;
  readonly digest: bigint[];
  readonly ipisSent: bigint[];
  readonly timers: bigint[];
}

/** guest_random_u32(), without the low bits, which hardly vary. */
function generator(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = Number((BigInt(state) * 1103515245n + 12345n) & 0x7fff_ffffn);
    return (state >>> 8) % below;
  };
}

const ANY = 2 ** 24;

/** Every vCPU's steps, one vCPU after the other: they share nothing but sums. */
export function stressModel(seeds: readonly number[], steps: number): Model {
  const model: Model = { stable: new Map(), moving: new Map(), digest: [], ipisSent: [], timers: [] };
  for (const [id, seed] of seeds.entries()) runVcpu(model, id, seed, steps);
  return model;
}

function runVcpu(model: Model, id: number, seed: number, steps: number): void {
  const draw = generator(seed);
  model.digest.push(0n);
  model.ipisSent.push(0n);
  model.timers.push(0n);
  const record = (memory: Map<number, bigint>, pages: number): void => {
    const page = draw(pages) * MAX_VCPUS + id;
    const word = page * 512 + draw(512);
    const value = U64(BigInt(draw(ANY)) * 0x1_0001_0001n + 1n);
    model.digest[id] = U64(model.digest[id]! * 31n + (memory.get(word) ?? 0n));
    memory.set(word, value);
  };
  for (let step = 0; step < steps; step++) {
    const kind = draw(16);
    if (kind <= 2) record(model.stable, 8);
    else if (kind <= 5) record(model.moving, 4);
    else if (kind <= 9) draw(16);
    else if (kind <= 11) count(model.stable, BigInt(draw(1000)));
    else if (kind <= 13) {
      const word = (CODE_PAGE + id) * 512 + draw(8) * 8;
      model.stable.set(word, (BigInt(draw(ANY)) << 8n) | 0xc300_0000_00b8n);
    } else if (kind === 14) model.ipisSent[id]!++;
    else {
      draw(4000);
      model.timers[id]!++;
    }
  }
}

function count(memory: Map<number, bigint>, amount: bigint): void {
  const at = COUNTER_PAGE * 512;
  memory.set(at, (memory.get(at) ?? 0n) + amount);
  memory.set(at + 1, (memory.get(at + 1) ?? 0n) + 1n);
}
