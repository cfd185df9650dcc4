// SPDX-License-Identifier: GPL-2.0-only
/**
 * L2 without VMX: a vCPU whose MMU is guest_mmu, with EPT12 in L1's memory. L1 and L2 are a test that reads and writes
 * through the real tables and through the test's TLB, which is tagged by root. What L0 injects is recorded.
 */
import { EPTE } from '../../../lib/x86/paging.ts';
import { PFERR } from '../../../lib/x86/exceptions.ts';
import { VMX_EPTP } from '../../../lib/x86/vmx/controls.ts';
import type { Gpa, Pfn } from '../../../lib/x86/addr.ts';
import { UserMemory } from '../../host/mm/user_access.ts';
import type { Steps } from '../../host/steps.ts';
import { SanitizerError } from '../../machine/errors.ts';
import type { Vcpu } from '../kvm_host.ts';
import { vcpuLoad, vcpuPut } from '../kvm_main.ts';
import { kvmMmuPageFault } from '../mmu/fault.ts';
import { kvmInitMmu, kvmInitShadowEptMmu } from '../mmu/init.ts';
import { kvmMmuFreeObsoleteRoots, kvmMmuLoadPgd, kvmMmuReload } from '../mmu/mmu.ts';
import { RET_PF } from '../mmu/page_fault.ts';
import { kvmMmuNewPgd } from '../mmu/root_cache.ts';
import { kvmMmuSyncRoots } from '../mmu/shadow_sync.ts';
import { spteIndex } from '../mmu/spte.ts';
import { KVM_REQ, VCPU_MODE } from '../request_numbers.ts';
import { kvmCheckRequest, kvmRequestPending } from '../requests.ts';
import { enterGuestMode, isGuestMode, leaveGuestMode } from '../x86/cache_regs.ts';
import { kvmVcpuWriteGuest } from '../x86/guest_access.ts';
import { X86Exception } from '../x86/x86_exception.ts';
import { guestAccess, tlbOf } from './test_kvm.ts';
import { testGuest, type TestGuest, type TestGuestOptions } from './test_guest.ts';

const MB = 0x10_0000;
/** All rights of an EPT entry, and write-back memory for leaves. */
export const RWX = EPTE.R | EPTE.W | EPTE.X;
export const WB = 6 << 3;
/** Where the tables of EPT12 are in L1's memory: MiB 3 of the first memslot. */
const TABLES = 3 * MB;

export type NestedKind = 'read' | 'write' | 'fetch';

/** What became of an access of L2. */
export type NestedResult =
  | { readonly kind: 'done'; readonly value: number }
  | { readonly kind: 'fault'; readonly fault: X86Exception }
  | { readonly kind: 'emulate' }
  | { readonly kind: 'error'; readonly errno: number };

export interface EptOptions {
  readonly execonly?: boolean;
  readonly hugePageLevel?: number;
  readonly accessedDirty?: boolean;
}

/** A large page or a page of EPT12. */
export interface EptMapping {
  readonly level?: number;
  /** Bits of the leaf besides the address; default RWX and write-back. */
  readonly bits?: number;
  /** Bits of entries above the leaf; default RWX. */
  readonly tables?: number;
}

/** EPT12 in L1's memory, written as userspace would: L0 does not notice. */
export class Ept12 {
  readonly root: number;
  readonly #memory: UserMemory;
  readonly #hva: number;
  readonly #pages: { next: number };

  constructor(guest: TestGuest, pages: { next: number }) {
    this.#memory = new UserMemory(guest.mm);
    this.#hva = guest.hva;
    this.#pages = pages;
    this.root = this.page();
  }

  /** A zeroed page for a table. */
  page(): number {
    const page = this.#pages.next;
    this.#pages.next += 4096;
    this.#memory.fill(this.#hva + page, 4096, 0);
    return page;
  }

  read(gpa: number): bigint {
    return this.#memory.read64(this.#hva + gpa);
  }

  write(gpa: number, value: bigint): void {
    this.#memory.write64(this.#hva + gpa, value);
  }

  /** Where the entry of `level` for an address of L2 is; tables above it are made with `bits`. */
  entry(l2: number, level: number, bits = RWX): number {
    let table = this.root;
    for (let at = 4; at > level; at--) {
      const gpa = table + 8 * spteIndex(Math.floor(l2 / 4096), at);
      if (this.read(gpa) === 0n) this.write(gpa, BigInt(this.page() | bits));
      table = Number(this.read(gpa) & 0xf_ffff_ffff_f000n);
    }
    return table + 8 * spteIndex(Math.floor(l2 / 4096), level);
  }

  map(l2: number, l1: number, mapping: EptMapping = {}): void {
    const { level = 1, bits = RWX | WB, tables = RWX } = mapping;
    const ps = level > 1 ? EPTE.PS : 0;
    this.write(this.entry(l2, level, tables), BigInt(l1) | BigInt(bits | ps));
  }
}

export interface TestNested extends TestGuest {
  readonly ept: Ept12;
  /** Faults that L0 injected into L1, in order. */
  readonly injected: X86Exception[];
  /** Another EPT12. */
  readonly newEpt: () => Ept12;
  readonly eptp: (ept: Ept12, options?: EptOptions) => number;
  /** Enter L2 with an EPT12; a transition, not an access. */
  readonly enter: (ept?: Ept12, options?: EptOptions) => void;
  readonly leave: () => void;
  readonly l2: (l2: number, kind?: NestedKind, value?: number) => Steps<NestedResult>;
  /** A 4-byte write of L1 itself; whether L0 had to emulate it. */
  readonly l1Write: (gpa: number, value: number) => Steps<'done' | 'emulated'>;
}

export function testNested(options: TestGuestOptions = {}): TestNested {
  const guest = testGuest({ slots: [{ bytes: 4 * MB }], ...options });
  const pages = { next: TABLES };
  const ept = new Ept12(guest, pages);
  const injected: X86Exception[] = [];
  const { vcpu } = guest;
  return {
    ...guest,
    ept,
    injected,
    newEpt: () => new Ept12(guest, pages),
    eptp: eptpOf,
    enter: (to = ept, how = {}) => enterL2(vcpu, eptpOf(to, how), how, injected),
    leave: () => leaveL2(vcpu),
    l2: (address, kind = 'read', value = 0) => nestedAccess(vcpu, injected, address, kind, value),
    l1Write: (gpa, value) => l1Write(vcpu, gpa, value),
  };
}

/** Make L2, and run `body` as the only task. */
export function runNested(options: TestGuestOptions, body: (nested: TestNested) => Steps<void>): void {
  const nested = testNested(options);
  nested.kvm.host.sched.drive('test', body(nested));
}

const eptpOf = (ept: Ept12, { accessedDirty = false }: EptOptions = {}): number =>
  ept.root | VMX_EPTP.MT_WB | VMX_EPTP.PWL_4 | (accessedDirty ? VMX_EPTP.AD_ENABLE_BIT : 0);

/** nested_ept_init_mmu_context(), as far as the MMU is concerned, and the load of CR3. */
export function enterL2(vcpu: Vcpu, eptp: number, options: EptOptions, injected: X86Exception[]): void {
  const { arch } = vcpu;
  if (isGuestMode(vcpu)) leaveL2(vcpu);
  enterGuestMode(vcpu);
  arch.mmu = arch.guestMmu;
  arch.guestMmu.getGuestPgd = () => eptp;
  arch.guestMmu.injectPageFault = (_, fault) => void injected.push(Object.assign(new X86Exception(), fault));
  const { execonly = true, hugePageLevel = 3, accessedDirty = false } = options;
  kvmInitShadowEptMmu(vcpu, { execonly, hugePageLevel, accessedDirty, newEptp: eptp });
  arch.walkMmu = arch.nestedMmu;
  kvmInitMmu(vcpu);
}

/** nested_ept_uninit_mmu_context(), and the load of L1's CR3. */
export function leaveL2(vcpu: Vcpu): void {
  const { arch } = vcpu;
  leaveGuestMode(vcpu);
  arch.mmu = arch.rootMmu;
  arch.walkMmu = arch.rootMmu;
  kvmInitMmu(vcpu);
  kvmMmuNewPgd(vcpu, arch.cr3);
}

/** The requests that the run loop serves before it enters the guest. */
function requests(vcpu: Vcpu): void {
  if (kvmCheckRequest(KVM_REQ.MMU_FREE_OBSOLETE_ROOTS, vcpu)) kvmMmuFreeObsoleteRoots(vcpu);
  if (kvmCheckRequest(KVM_REQ.MMU_SYNC, vcpu)) kvmMmuSyncRoots(vcpu);
  if (kvmCheckRequest(KVM_REQ.LOAD_MMU_PGD, vcpu)) kvmMmuLoadPgd(vcpu);
  for (const flush of [KVM_REQ.TLB_FLUSH, KVM_REQ.TLB_FLUSH_CURRENT, KVM_REQ.TLB_FLUSH_GUEST])
    if (kvmCheckRequest(flush, vcpu)) tlbOf(vcpu).flush();
}

/** One access of L2, as the run loop would do it; see guestAccess(). */
export function* nestedAccess(
  vcpu: Vcpu,
  injected: X86Exception[],
  address: number,
  kind: NestedKind,
  value: number,
): Steps<NestedResult> {
  vcpuLoad(vcpu);
  const { srcu, host } = vcpu.kvm;
  let idx = srcu.readLock();
  let result: NestedResult | null = null;
  while (result === null) {
    requests(vcpu);
    const reload = kvmMmuReload(vcpu);
    const error = typeof reload === 'number' ? reload : yield* reload;
    if (error < 0) {
      result = { kind: 'error', errno: -error };
      break;
    }
    vcpu.mode = VCPU_MODE.IN_GUEST_MODE;
    srcu.readUnlock(idx);
    if (host.sched.shouldYield()) yield;
    const read = kvmRequestPending(vcpu) ? -1 : touchNested(vcpu, address, kind, value);
    vcpu.mode = VCPU_MODE.OUTSIDE_GUEST_MODE;
    idx = srcu.readLock();
    if (read >= 0) result = { kind: 'done', value: read };
    else if (!kvmRequestPending(vcpu)) result = yield* nestedFault(vcpu, injected, address, kind);
  }
  srcu.readUnlock(idx);
  vcpuPut(vcpu);
  return result;
}

const ACCESS_ERROR = { read: PFERR.USER, write: PFERR.WRITE, fetch: PFERR.FETCH } as const;
const NEEDS = { read: EPTE.R, write: EPTE.W, fetch: EPTE.X } as const;

function* nestedFault(
  vcpu: Vcpu,
  injected: X86Exception[],
  address: number,
  kind: NestedKind,
): Steps<NestedResult | null> {
  const found = walk(vcpu, address);
  const before = injected.length;
  const error = found.misconfig ? PFERR.RSVD : ACCESS_ERROR[kind] | (found.rights !== 0 ? PFERR.PRESENT : 0);
  const steps = kvmMmuPageFault(vcpu, address as Gpa, error);
  const r = typeof steps === 'number' ? steps : yield* steps;
  if (injected.length > before) return { kind: 'fault', fault: injected.at(-1)! };
  if (r < 0) return { kind: 'error', errno: -r };
  return r === RET_PF.EMULATE ? { kind: 'emulate' } : null;
}

interface Found {
  readonly rights: number;
  readonly misconfig: boolean;
  /** Word index of the leaf, or -1. */
  readonly sptep: number;
  readonly hpa: number;
}

/** The CPU's walk of the tables that L0 made. */
export function walk(vcpu: Vcpu, address: number): Found {
  const { i32 } = vcpu.kvm.host.machine.mem;
  const gfn = Math.floor(address / 4096);
  let table: number = vcpu.arch.mmu.root.hpa;
  let rights = RWX;
  for (let level = vcpu.arch.mmu.rootRole.level; ; level--) {
    const sptep = (table >>> 2) + 2 * spteIndex(gfn, level);
    const lo = i32[sptep]!;
    if ((lo & RWX) === 0) return { rights: 0, misconfig: false, sptep: -1, hpa: 0 };
    if ((lo & 3) === EPTE.W) return { rights: 0, misconfig: true, sptep: -1, hpa: 0 };
    rights &= lo;
    if (level === 1 || (lo & EPTE.PS) !== 0) {
      const inPage = address % 2 ** (12 + 9 * (level - 1));
      return { rights, misconfig: false, sptep, hpa: (lo & 0x7fff_f000) + inPage };
    }
    table = lo & 0x7fff_f000;
  }
}

/** Through the TLB, or through the tables filling it; -1 for a fault. */
function touchNested(vcpu: Vcpu, address: number, kind: NestedKind, value: number): number {
  const { frames, mem } = vcpu.kvm.host.machine;
  const tlb = tlbOf(vcpu);
  const key = (vcpu.arch.mmu.root.hpa / 4096) * 2 ** 33 + Math.floor(address / 4096);
  const need = NEEDS[kind];
  let entry = tlb.entries.get(key);
  if (entry === undefined || (need === EPTE.W && !entry.writable) || need === EPTE.X) {
    const found = walk(vcpu, address);
    if ((found.rights & need) === 0) return -1;
    setAccessedDirty(vcpu, found.sptep, kind);
    const hpa = found.hpa - (found.hpa % 4096);
    entry = { hpa, writable: kind === 'write', epoch: frames.epoch[hpa >>> 12]! };
    if ((found.rights & EPTE.R) !== 0) tlb.entries.set(key, entry);
  }
  const frame = (entry.hpa >>> 12) as Pfn;
  if (!frames.isCurrent(frame, entry.epoch))
    throw new SanitizerError(`stale translation of L2 address ${address}: ${frames.story(frame)}`);
  const word = (entry.hpa + (address % 4096)) >>> 2;
  if (kind === 'write') mem.i32[word] = value;
  return mem.i32[word]! >>> 0;
}

function setAccessedDirty(vcpu: Vcpu, sptep: number, kind: NestedKind): void {
  const { i32 } = vcpu.kvm.host.machine.mem;
  if (vcpu.arch.mmu.rootRole.adDisabled) return;
  i32[sptep] = i32[sptep]! | EPTE.A | (kind === 'write' ? EPTE.D : 0);
}

/** L1's own write: in L1's context, and emulated if L0 protects the page. */
export function* l1Write(vcpu: Vcpu, gpa: number, value: number): Steps<'done' | 'emulated'> {
  if (isGuestMode(vcpu)) leaveL2(vcpu);
  const r = yield* guestAccess(vcpu, gpa, value);
  if (r.kind === 'done') return 'done';
  if (r.kind !== 'emulate') throw new Error(`L1 cannot write ${gpa}`);
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setInt32(0, value, true);
  if (kvmVcpuWriteGuest(vcpu, gpa as Gpa, bytes) !== 0) throw new Error(`L0 cannot write ${gpa}`);
  return 'emulated';
}
