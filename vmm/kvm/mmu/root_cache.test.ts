// SPDX-License-Identifier: GPL-2.0-only
/**
 * Switching between L1 and L2: initialisation is skipped while no role changes, roots are found again. Expectations from
 * the patch series "optimize MMU switch" and its fixes, as spec/mmu-switch.md lists them, and from
 * cached_root_find_and_keep_current() of arch/x86/kvm/mmu/mmu.c.
 */
import { describe, expect, it } from 'vitest';
import type { Hpa } from '../../../lib/x86/addr.ts';
import { CR0, CR4, EFER } from '../../../lib/x86/registers.ts';
import type { Steps } from '../../host/steps.ts';
import type { Kvm, Vcpu } from '../kvm_host.ts';
import { INVALID_PAGE, KVM_MMU_ROOTS_ALL, type KvmMmu } from '../kvm_host_x86.ts';
import { KVM_REQ } from '../request_numbers.ts';
import { kvmCheckRequest, kvmTestRequest } from '../requests.ts';
import { drive, guestAccess } from '../testing/test_kvm.ts';
import {
  leaveL2,
  runNested,
  testNested,
  type Ept12,
  type EptOptions,
  type TestNested,
} from '../testing/test_nested.ts';
import { enterGuestMode } from '../x86/cache_regs.ts';
import { kvmMmuFreeGuestModeRoots, kvmMmuFreeRoots } from './free_roots.ts';
import { kvmInitMmu } from './init.ts';
import { kvmMmuAfterSetCpuid, kvmMmuReload } from './mmu.ts';
import { kvmMmuNewPgd } from './root_cache.ts';

const L2 = 0x40_0000_0000;

/** L1 in 64-bit mode, as L2 will be. */
const LONG_MODE: { cr0: number; cr4: number; efer: number } = {
  cr0: CR0.PG | CR0.PE | CR0.WP,
  cr4: CR4.PAE,
  efer: EFER.LME | EFER.LMA | EFER.NXE,
};

function longMode(vcpu: Vcpu): void {
  Object.assign(vcpu.arch, LONG_MODE);
  kvmInitMmu(vcpu);
}

const inits = ({ arch }: Vcpu): number[] => [arch.rootMmu.inits, arch.guestMmu.inits, arch.nestedMmu.inits];

describe('a transition with the same modes', () => {
  it('initialises each object once and builds each root once, however often it is made', () =>
    runNested({}, function* ({ kvm, vcpu, ept, enter, leave, l2, read }) {
      longMode(vcpu);
      ept.map(L2, 0x5000);
      enter();
      yield* l2(L2);
      leave();
      yield* read(0x5000);
      const [before, misses] = [inits(vcpu), kvm.stat.mmu_cache_miss];
      for (let i = 0; i < 20; i++) {
        enter();
        yield* l2(L2);
        leave();
        yield* read(0x5000);
      }
      expect(inits(vcpu)).toEqual(before);
      expect(before.slice(1)).toEqual([1, 1]);
      expect(kvm.stat.mmu_cache_miss).toBe(misses);
      expect(kvm.arch.tdpMmuRoots).toHaveLength(1);
    }));

  it('asks for the root to be loaded, and for no flush and no sync', () =>
    runNested({}, function* ({ vcpu, enter, leave, l2 }) {
      enter();
      yield* l2(L2);
      leave();
      kvmCheckRequest(KVM_REQ.LOAD_MMU_PGD, vcpu);
      vcpu.arch.mmioGfn = 5 as never;
      enter();
      expect(kvmTestRequest(KVM_REQ.LOAD_MMU_PGD, vcpu)).toBe(true);
      expect(kvmTestRequest(KVM_REQ.TLB_FLUSH_CURRENT, vcpu)).toBe(false);
      expect(kvmTestRequest(KVM_REQ.MMU_SYNC, vcpu)).toBe(false);
      expect(vcpu.arch.mmioGfn).toBe(-1);
    }));

  it('asks for a flush and a sync with kvm.flush_on_reuse', () =>
    runNested({ params: ['kvm.flush_on_reuse=1'] }, function* ({ vcpu, enter, leave, l2 }) {
      enter();
      yield* l2(L2);
      leave();
      kvmCheckRequest(KVM_REQ.MMU_SYNC, vcpu);
      enter();
      expect(kvmTestRequest(KVM_REQ.TLB_FLUSH_CURRENT, vcpu)).toBe(true);
      expect(kvmTestRequest(KVM_REQ.MMU_SYNC, vcpu)).toBe(true);
    }));
});

describe('the role of L2 in nested_mmu', () => {
  const changes: Readonly<Record<string, Partial<typeof LONG_MODE>>> = {
    'CR0.WP': { cr0: LONG_MODE.cr0 & ~CR0.WP },
    'CR0.PG': { cr0: LONG_MODE.cr0 & ~CR0.PG, efer: 0 },
    'CR4.PSE': { cr4: LONG_MODE.cr4 | CR4.PSE },
    'CR4.PAE and EFER.LMA': { cr4: 0, efer: EFER.NXE },
    'CR4.LA57': { cr4: LONG_MODE.cr4 | CR4.LA57 },
    'CR4.SMEP': { cr4: LONG_MODE.cr4 | CR4.SMEP },
    'CR4.SMAP': { cr4: LONG_MODE.cr4 | CR4.SMAP },
    'CR4.PKE': { cr4: LONG_MODE.cr4 | CR4.PKE },
    'EFER.NX': { efer: LONG_MODE.efer & ~EFER.NXE },
  };
  for (const [what, change] of Object.entries(changes)) {
    it(`changes with ${what}, and only nested_mmu with it`, () => {
      const { vcpu, enter } = testNested();
      longMode(vcpu);
      enter();
      const before = inits(vcpu);
      Object.assign(vcpu.arch, change);
      kvmInitMmu(vcpu);
      expect(inits(vcpu)).toEqual([before[0], before[1], before[2]! + 1]);
      kvmInitMmu(vcpu);
      expect(vcpu.arch.nestedMmu.inits).toBe(before[2]! + 1);
    });
  }

  it('does not change with CR4.PGE, CR4.OSXSAVE, CR0.TS or EFER.SCE', () => {
    const { vcpu, enter } = testNested();
    longMode(vcpu);
    enter();
    const before = inits(vcpu);
    const { cr0, cr4, efer } = LONG_MODE;
    Object.assign(vcpu.arch, { cr0: cr0 | CR0.TS, cr4: cr4 | CR4.PGE | CR4.OSXSAVE, efer: efer | EFER.SCE });
    kvmInitMmu(vcpu);
    expect(inits(vcpu)).toEqual(before);
  });
});

describe('the role of EPT12', () => {
  const rows: readonly (readonly [string, EptOptions])[] = [
    ['accessed and dirty flags', { accessedDirty: true }],
    ['execute-only', { execonly: false }],
  ];
  for (const [what, options] of rows) {
    it(`changes with ${what}`, () => {
      const { vcpu, ept, enter, leave } = testNested();
      enter();
      leave();
      enter(ept, options);
      expect(vcpu.arch.guestMmu.inits).toBe(2);
      leave();
      enter(ept, options);
      expect(vcpu.arch.guestMmu.inits).toBe(2);
    });
  }

  it('has room for the walk length, SMM and guest mode', () => {
    const { vcpu, enter } = testNested();
    enter();
    const { cpuRole, rootRole } = vcpu.arch.guestMmu;
    expect([cpuRole.base.level, rootRole.guestMode, rootRole.direct, rootRole.access]).toEqual([
      4,
      true,
      false,
      7,
    ]);
  });

  it('does not hold what CPUID says, so that CPUID makes all roles invalid', () =>
    runNested({}, function* ({ vcpu, ept, enter, leave, l2 }) {
      ept.map(L2, 0x5000);
      ept.write(ept.entry(L2, 1), (1n << 40n) | 0x5037n);
      enter();
      expect(yield* l2(L2)).toMatchObject({ fault: { errorCode: 0xd } });
      leave();
      vcpu.arch.maxphyaddr = 46;
      kvmMmuAfterSetCpuid(vcpu);
      enter();
      expect(inits(vcpu)[1]).toBe(2);
      expect(yield* l2(L2)).toEqual({ kind: 'emulate' });
    }));
});

/** Which EPT12 the roots of guest_mmu are for, most recent first; -1 for none. */
const cached = (mmu: KvmMmu, epts: readonly Ept12[]): number[] =>
  [mmu.root, ...mmu.prevRoots].map(({ hpa, pgd }) =>
    hpa === INVALID_PAGE ? -1 : epts.findIndex((ept) => ept.root === pgd - 0x1e),
  );

/** Enter with each EPT12 in turn; how many roots had to be looked up. */
function* visit(nested: TestNested, epts: readonly Ept12[]): Steps<number> {
  let misses = 0;
  for (const ept of epts) {
    nested.enter(ept);
    if (nested.vcpu.arch.mmu.root.hpa === INVALID_PAGE) misses++;
    yield* nested.l2(L2);
  }
  return misses;
}

describe('the cache of roots', () => {
  const epts = (nested: TestNested, n: number): Ept12[] => Array.from({ length: n }, () => nested.newEpt());

  it('holds four: a fifth in turn is never found, a fourth always', () => {
    const nested = testNested();
    const five = epts(nested, 5);
    drive(nested, visit(nested, five));
    expect(drive(nested, visit(nested, [...five, ...five]))).toBe(10);
    const four = five.slice(0, 4);
    drive(nested, visit(nested, four));
    expect(drive(nested, visit(nested, [...four, ...four]))).toBe(0);
  });

  it('drops the least recently used', () => {
    const nested = testNested();
    const five = epts(nested, 5);
    const [a, b, c, d, e] = five as [Ept12, Ept12, Ept12, Ept12, Ept12];
    drive(nested, visit(nested, [a, b, c, d]));
    expect(cached(nested.vcpu.arch.guestMmu, five)).toEqual([3, 2, 1, 0]);
    drive(nested, visit(nested, [a]));
    expect(cached(nested.vcpu.arch.guestMmu, five)).toEqual([0, 3, 2, 1]);
    expect(drive(nested, visit(nested, [e]))).toBe(1);
    expect(cached(nested.vcpu.arch.guestMmu, five)).toEqual([4, 0, 3, 2]);
    expect(drive(nested, visit(nested, [b]))).toBe(1);
  });

  it('closes the gap when there is no current root', () => {
    const nested = testNested();
    const four = epts(nested, 4);
    drive(nested, visit(nested, four));
    const { guestMmu } = nested.vcpu.arch;
    kvmMmuFreeRoots(nested.kvm, guestMmu, 1);
    nested.enter(four[1]);
    expect(cached(guestMmu, four)).toEqual([1, 2, 0, -1]);
  });

  it('is left alone where the current root is the one', () => {
    const nested = testNested();
    const two = epts(nested, 2);
    drive(nested, visit(nested, two));
    nested.leave();
    nested.enter(two[1]);
    expect(cached(nested.vcpu.arch.guestMmu, two)).toEqual([1, 0, -1, -1]);
  });

  it('does not confuse an EPTP with a CR3 of the same value', () =>
    runNested({}, function* ({ vcpu, ept, enter, leave, eptp, l2, read }) {
      vcpu.arch.cr3 = eptp(ept);
      ept.map(L2, 0x5000);
      yield* read(0x5000);
      const l1 = vcpu.arch.rootMmu.root.hpa;
      enter();
      yield* l2(L2);
      expect(vcpu.arch.mmu.root.hpa).not.toBe(l1);
      leave();
      expect(vcpu.arch.mmu.root.hpa).toBe(l1);
    }));

  it('loses roots of a slot that is gone, previous ones too', () => {
    const nested = testNested();
    const four = epts(nested, 4);
    drive(nested, visit(nested, four));
    drive(nested, nested.setSlot({ slot: 1, gpa: 0x4000_0000 }));
    drive(nested, nested.setSlot({ slot: 1, bytes: 0 }));
    drive(nested, nested.l2(L2));
    expect(cached(nested.vcpu.arch.guestMmu, four)).toEqual([3, -1, -1, -1]);
  });

  it('of L2 can be emptied while L1 runs', () => {
    const nested = testNested();
    const two = epts(nested, 2);
    drive(nested, visit(nested, two));
    nested.leave();
    drive(nested, nested.read(0x1000));
    const { guestMmu, rootMmu } = nested.vcpu.arch;
    kvmMmuFreeRoots(nested.kvm, guestMmu, KVM_MMU_ROOTS_ALL);
    expect(cached(guestMmu, two)).toEqual([-1, -1, -1, -1]);
    expect(rootMmu.root.hpa).not.toBe(INVALID_PAGE);
    expect(drive(nested, visit(nested, two))).toBe(2);
  });
});

/** L1 that runs L2 without EPT12: L2's addresses are L1's. */
function enterWithoutEpt(vcpu: Vcpu): void {
  enterGuestMode(vcpu);
  kvmInitMmu(vcpu);
  kvmMmuNewPgd(vcpu, vcpu.arch.cr3);
}

const rootsOf = (kvm: Kvm): Hpa[] => kvm.arch.tdpMmuRoots.map(({ hpa }) => hpa);

describe('an L2 without EPT12', () => {
  it('has another root than L1, also with the same CR3, and finds both again', () =>
    runNested({}, function* ({ kvm, vcpu, write }) {
      yield* write(0x1000, 1);
      const l1 = vcpu.arch.mmu.root.hpa;
      enterWithoutEpt(vcpu);
      expect(vcpu.arch.mmu).toBe(vcpu.arch.rootMmu);
      expect(vcpu.arch.mmu.rootRole.guestMode).toBe(true);
      yield* guestAccess(vcpu, 0x1000);
      const l2 = vcpu.arch.mmu.root.hpa;
      expect(rootsOf(kvm)).toEqual([l1, l2]);
      leaveL2(vcpu);
      expect(vcpu.arch.mmu.root.hpa).toBe(l1);
      enterWithoutEpt(vcpu);
      expect(vcpu.arch.mmu.root.hpa).toBe(l2);
    }));

  it("gives up L2's roots and no others for INVVPID", () =>
    runNested({}, function* ({ kvm, vcpu, write }) {
      yield* write(0x1000, 1);
      enterWithoutEpt(vcpu);
      expect(() => kvmMmuFreeGuestModeRoots(kvm, vcpu.arch.rootMmu)).toThrow('L2 cannot');
      yield* guestAccess(vcpu, 0x1000);
      leaveL2(vcpu);
      const { root } = vcpu.arch.mmu;
      kvmMmuFreeGuestModeRoots(kvm, vcpu.arch.rootMmu);
      expect(vcpu.arch.rootMmu.prevRoots.every(({ hpa }) => hpa === INVALID_PAGE)).toBe(true);
      expect(vcpu.arch.mmu.root).toBe(root);
      expect(kvmMmuReload(vcpu)).toBe(0);
    }));
});
