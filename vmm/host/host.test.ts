// SPDX-License-Identifier: GPL-2.0-only
/** A host kernel on a whole machine: profile prices, the split of memory, stores that reach the code cache. */
import { describe, expect, it } from 'vitest';
import { pfn } from '../../lib/x86/addr.ts';
import { COST } from '../machine/cost/points.ts';
import { PROFILES } from '../machine/cost/profiles.ts';
import { createMachine } from '../machine/machine.ts';
import { createHost } from './host.ts';
import { FOLL } from './mm/fault.ts';
import { getUserPage } from './mm/gup.ts';
import { doMmap } from './mm/mmap.ts';
import { UserMemory } from './mm/user_access.ts';
import type { Steps } from './steps.ts';

describe('a host on a machine', () => {
  it('divides its memory, and processes reach the machine through it', () => {
    const machine = createMachine({
      profile: PROFILES.skylake,
      nrCpus: 2,
      ramBytes: 8 << 20,
      tlb: 'real',
      seed: 1,
    });
    const host = createHost({ machine, unmanagedBytes: 1 << 20 });
    expect([host.pages.nrFree, host.unmanaged.nrFree]).toEqual([1792, 256]);
    const mm = host.createMm('qemu');
    const result = host.sched.drive(
      'main',
      (function* (): Steps<number> {
        const at = yield* doMmap(mm, { length: 8192 });
        new UserMemory(mm).write32(at + 4, 0x12345678);
        return yield* getUserPage(mm, at, FOLL.WRITE);
      })(),
      { process: mm, cpu: 1 },
    );
    expect(machine.mem.view.getUint32(result * 4096 + 4, true)).toBe(0x12345678);
    expect(host.pages.pageCount(pfn(result))).toBe(2);
    const cpu = machine.cpus[1]!;
    const priced = cpu.counts.reduce((sum, count, point) => sum + count * cpu.prices[point]!, 0);
    expect(cpu.clock[0]).toBe(priced);
    expect(cpu.counts[COST.PAGE_FAULT]).toBe(1);
    expect(host.cpu).toBe(machine.cpus[0]);
  });
});
