// SPDX-License-Identifier: GPL-2.0-only
/**
 * Random EPT12, random changes of it, random accesses of L2: L0's shadow must agree with a little walker written here from
 * SDM, "The Extended Page Table Mechanism". Until INVEPT, an entry of level 1 may also count as it was before.
 */
import { describe, expect, it } from 'vitest';
import type { Steps } from '../../host/steps.ts';
import { KVM_MMU_ROOTS_ALL } from '../kvm_host_x86.ts';
import { tlbOf } from '../testing/test_kvm.ts';
import { runNested, type NestedKind, type NestedResult, type TestNested } from '../testing/test_nested.ts';
import { kvmDestroyVm } from '../kvm_main.ts';
import { kvmMmuFreeRoots } from './free_roots.ts';
import { kvmGfnIsWriteTracked } from './page_track.ts';
import { isLastSpte, isShadowPresentPte } from './spte.ts';

/** What an access must become: reach an address of L1, or fault. */
type Outcome = { gpa: number } | { misconfig: true } | { qualification: number };

const KINDS: readonly NestedKind[] = ['read', 'write', 'fetch'];
const MAXPHYADDR = 36n;
const bits = (value: bigint, first: number, last: number): bigint =>
  (value >> BigInt(first)) & ((1n << BigInt(last - first + 1)) - 1n);

/** Is a present entry misconfigured? With execute-only and all page sizes. */
function misconfigured(entry: bigint, level: number): boolean {
  const rights = bits(entry, 0, 2);
  if (rights === 2n || rights === 6n) return true;
  if (bits(entry, Number(MAXPHYADDR), 51) !== 0n) return true;
  const leaf = level === 1 || (level < 4 && bits(entry, 7, 7) === 1n);
  if (!leaf) return bits(entry, 3, level === 4 ? 7 : 6) !== 0n;
  if ([2n, 3n, 7n].includes(bits(entry, 3, 5))) return true;
  return level > 1 && bits(entry, 12, level === 2 ? 20 : 29) !== 0n;
}

/** The walk; `leaf` replaces the entry of level 1, if there is one. */
function walkModel(
  read: (gpa: number) => bigint,
  root: number,
  l2: number,
  kind: NestedKind,
  leaf?: bigint,
): Outcome {
  const address = BigInt(l2);
  let rights = 7n;
  let table = BigInt(root);
  for (let level = 4; ; level--) {
    const shift = 12 + 9 * (level - 1);
    const at = Number(table + 8n * bits(address, shift, shift + 8));
    const access = KINDS.indexOf(kind);
    // As KVM has it: where there is no memory, nothing is present, with the rights so far.
    if (at >= MEMORY) return { qualification: (1 << access) | (Number(rights & 7n) << 3) };
    const entry = level === 1 && leaf !== undefined ? leaf : read(at);
    rights &= entry;
    const violation = { qualification: (1 << access) | (Number(rights & 7n) << 3) };
    if (bits(entry, 0, 2) === 0n) return violation;
    if (misconfigured(entry, level)) return { misconfig: true };
    if (level === 1 || (level < 4 && bits(entry, 7, 7) === 1n)) {
      if (bits(rights, access, access) === 0n) return violation;
      const base = (bits(entry, shift, 51) << BigInt(shift)) | bits(address, 0, shift - 1);
      return { gpa: Number(base) };
    }
    table = bits(entry, 12, 51) << 12n;
  }
}

/** A generator of numbers below n. */
function random(seed: number): (n: number) => number {
  let state = seed;
  return (n) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
}

const DATA = 0x10_0000;
const PAGES = 6;
/** The end of L1's memory: MMIO begins. */
const MEMORY = 0x40_0000;

/** EPT12 of few tables, so that they are shared, and pages of L1 that hold their own number. */
class Model {
  readonly #nested: TestNested;
  readonly #pick: (n: number) => number;
  /** Tables may be any page: other tables, themselves, data, nothing. */
  readonly #wild: boolean;
  readonly tables: number[];
  /** What entries of tables were since INVEPT, by address. */
  readonly history = new Map<number, bigint[]>();

  constructor(nested: TestNested, pick: (n: number) => number, tables: 'proper' | 'wild') {
    this.#nested = nested;
    this.#pick = pick;
    this.#wild = tables === 'wild';
    this.tables = [nested.ept.root, ...Array.from({ length: 5 }, () => nested.ept.page())];
  }

  /** Three addresses of L2, each with the same index at each level. */
  address = (): number => {
    const index = this.#pick(3);
    return ((index * 512 + index) * 512 + index) * 2 ** 21 + index * 2 ** 12 + 4 * this.#pick(4);
  };

  /** An entry for a table at `level`: mostly good, sometimes with a bit too many. */
  entry(level: number): bigint {
    const good = [7, 7, 7, 5, 3, 1, 4, 0][this.#pick(8)]!;
    const rights = this.#pick(12) === 0 ? this.#pick(8) : good;
    const large = level > 1 && level < 4 && this.#pick(6) === 0;
    const table = this.tables[6 - level]!;
    const page = DATA + 0x1000 * this.#pick(PAGES);
    const to = this.#wild && this.#pick(4) === 0 ? this.#anyPage() : large ? 0 : level === 1 ? page : table;
    const type = large || level === 1 ? 6 << 3 : 0;
    const odd = this.#pick(25) === 0 ? 1n << BigInt([4, 36, 40, 52, 63][this.#pick(5)]!) : 0n;
    return BigInt(to | rights | type | (large ? 0x80 : 0)) | odd;
  }

  #anyPage(): number {
    const page = [MEMORY, MEMORY + 0x1234_5000, DATA, ...this.tables][this.#pick(3 + this.tables.length)]!;
    return page;
  }

  /** Change an entry on the way to some address, as L1 does. */
  *change(): Steps<void> {
    const level = [1, 1, 1, 1, 2, 3, 4][this.#pick(7)]!;
    const index = this.#pick(3);
    const table = level === 4 ? this.tables[0]! : this.tables[5 - level]!;
    const at = table + 8 * index;
    const entry = this.entry(level);
    if (level === 1) this.history.set(at, [...(this.history.get(at) ?? []), this.#nested.ept.read(at)]);
    // High half first: L0 zaps by the entry, whichever half is written.
    yield* this.#nested.l1Write(at + 4, Number(BigInt.asIntN(32, entry >> 32n)));
    if (level === 1) this.history.get(at)!.push(this.#nested.ept.read(at));
    yield* this.#nested.l1Write(at, Number(BigInt.asIntN(32, entry)));
  }

  /** A write to a table that L0 shadows is emulated. */
  isTable(outcome: Outcome): boolean {
    if (!('gpa' in outcome)) return false;
    return this.#nested.kvm.arch.shadow.byGfn.has(Math.floor(outcome.gpa / 0x1000));
  }

  /** What may happen now. */
  outcomes(l2: number, kind: NestedKind): Outcome[] {
    const { ept } = this.#nested;
    const read = (gpa: number): bigint => ept.read(gpa);
    const at = this.#leafAt(l2);
    const past = at === undefined ? [] : (this.history.get(at) ?? []);
    const now = walkModel(read, ept.root, l2, kind);
    return [now, ...past.map((leaf) => walkModel(read, ept.root, l2, kind, leaf))];
  }

  /** Where the entry of level 1 for an address is, if the walk gets there. */
  #leafAt(l2: number): number | undefined {
    let at: number | undefined;
    let reads = 0;
    walkModel(
      (gpa) => {
        if (++reads === 4) at = gpa;
        return this.#nested.ept.read(gpa);
      },
      this.#nested.ept.root,
      l2,
      'read',
    );
    return at;
  }
}

function contentAt({ ept }: TestNested, gpa: number): number {
  if (gpa >= MEMORY) return 0;
  const entry = ept.read(gpa - (gpa % 8));
  return Number((gpa % 8 === 0 ? entry : entry >> 32n) & 0xffff_ffffn);
}

const isMmio = (outcome: Outcome): boolean => 'gpa' in outcome && outcome.gpa >= MEMORY;

/** Does the result show this outcome? Pages of L1 hold their own address. */
function shows(nested: TestNested, result: NestedResult, outcome: Outcome): boolean {
  if (result.kind === 'done') {
    if (!('gpa' in outcome) || outcome.gpa >= MEMORY) return false;
    return result.value === contentAt(nested, outcome.gpa);
  }
  if (result.kind === 'emulate') return isMmio(outcome);
  if (result.kind !== 'fault') return false;
  if ('misconfig' in outcome) return (result.fault.errorCode & 8) !== 0;
  return 'qualification' in outcome && (result.fault.exitQualification & 0x3f) === outcome.qualification;
}

function* scenario(nested: TestNested, seed: number, tables: 'proper' | 'wild'): Steps<void> {
  const { kvm, vcpu, ept, enter, leave, l2, write } = nested;
  const pick = random(seed);
  const model = new Model(nested, pick, tables);
  const accessedDirty = seed % 2 === 0;
  for (let page = 0; page < PAGES; page++)
    for (let word = 0; word < 4; word++) yield* write(DATA + 0x1000 * page + 4 * word, DATA + 0x1000 * page);
  for (let level = 4; level >= 1; level--)
    for (let index = 0; index < 3; index++)
      ept.write((level === 4 ? model.tables[0]! : model.tables[5 - level]!) + 8 * index, model.entry(level));
  for (let step = 0; step < 60; step++) {
    const what = pick(8);
    if (what === 0) {
      kvmMmuFreeRoots(kvm, vcpu.arch.guestMmu, KVM_MMU_ROOTS_ALL);
      tlbOf(vcpu).flush();
      model.history.clear();
    } else if (what < 3) yield* model.change();
    else {
      enter(ept, { accessedDirty });
      const address = model.address();
      const kind = KINDS[pick(3)]!;
      const allowed = model.outcomes(address, kind);
      // A write writes what is there already.
      const target = allowed[0]!;
      const value = 'gpa' in target ? contentAt(nested, target.gpa) : 0;
      if (kind === 'write' && allowed.length > 1) continue;
      const result = yield* l2(address, kind, value);
      const text = `seed ${seed} step ${step}: ${kind} of ${address.toString(16)}: ${describeResult(result)}`;
      // An entry for MMIO misconfigures whatever the access is: the emulator looks at the rights.
      const any = KINDS.flatMap((other) => model.outcomes(address, other));
      if (result.kind === 'emulate' && any.some((outcome) => isMmio(outcome) || model.isTable(outcome)))
        continue;
      if (!allowed.some((outcome) => shows(nested, result, outcome)))
        expect.fail(`${text}, expected one of ${allowed.map((o) => JSON.stringify(o)).join(' ')}`);
      leave();
    }
    if (step % 10 === 9) checkInvariants(nested);
  }
}

const scenarioAndEnd = (tables: 'proper' | 'wild', seed: number): void =>
  runNested({}, function* (nested) {
    yield* scenario(nested, seed, tables);
    yield* end(nested);
  });

/** What must hold between pages, their parents, reverse maps and the protection of L1's tables. */
function checkInvariants({ kvm }: TestNested): void {
  const { shadow } = kvm.arch;
  const { i32 } = kvm.host.machine.mem;
  for (const head of shadow.rmaps.values()) {
    for (const sptep of head) expect(isShadowPresentPte(i32[sptep]!)).toBe(true);
  }
  let leaves = 0;
  for (const sp of shadow.active) {
    expect(shadow.byGfn.get(sp.gfn)).toContain(sp);
    for (let i = 0; i < 512; i++) {
      const lo = i32[sp.sptep(i)]!;
      if (isShadowPresentPte(lo) && isLastSpte(lo, sp.role.level)) leaves++;
    }
    for (const sptep of sp.parentPtes) {
      expect(i32[sptep]! & ~0xfff).toBe(sp.hpa);
      const parent = shadow.pageOf(sptep);
      const below = sp.unsync || sp.unsyncChildren.size !== 0;
      if (below) expect(parent.unsyncChildren.has(parent.indexOf(sptep))).toBe(true);
    }
    if (sp.hasGptes && sp.role.level > 1) expect(kvmGfnIsWriteTracked(kvm, sp.gfn, 0)).toBe(true);
  }
  expect([...shadow.rmaps.values()].reduce((sum, head) => sum + head.length, 0)).toBe(leaves);
}

/** Every page is given back. */
function* end({ kvm }: TestNested): Steps<void> {
  yield* kvmDestroyVm(kvm);
  const { byFrame, byGfn, rmaps, writeTrack, zapped, indirectShadowPages } = kvm.arch.shadow;
  expect([byFrame.size, byGfn.size, rmaps.size, writeTrack.size, zapped.length]).toEqual([0, 0, 0, 0, 0]);
  expect(indirectShadowPages).toBe(0);
}

const describeResult = (result: NestedResult): string =>
  result.kind === 'fault'
    ? `fault ${result.fault.errorCode}, qualification ${result.fault.exitQualification.toString(16)}`
    : JSON.stringify(result);

describe('random EPT12', () => {
  it('translates for L2 as a walker of the test says', () => {
    for (let seed = 1; seed <= 8; seed++) scenarioAndEnd('proper', seed);
  });

  it('whose tables are anything at all does no more than that', () => {
    for (let seed = 1; seed <= 8; seed++) scenarioAndEnd('wild', seed);
  });
});
