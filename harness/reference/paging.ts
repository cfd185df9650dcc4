// SPDX-License-Identifier: GPL-2.0-only
/**
 * Page walk and TLB of the reference interpreter. SDM, "4-Level Paging and 5-Level Paging", "Determination of Access
 * Rights", "Page-Fault Exceptions", "Accessed and Dirty Flags", "Optional Invalidation".
 * The TLB keeps every translation for ever, or none. For ever: what is charged is one walk for each page and, for a page
 * first read, one more for its first write. None: one walk for each page of each access. One address space; no EPT, no PCID, no paging-structure caches.
 */
import { PFERR, VECTOR } from '../../lib/x86/exceptions.ts';
import { CR0, CR4, EFER, RFLAGS } from '../../lib/x86/registers.ts';
import type { RefMemory } from './memory.ts';
import { GuestException } from './outcome.ts';
import type { RefState } from './state.ts';

/** What an access is for. */
export type Access = 'read' | 'write' | 'exec';

/** What takes how long, and what a cached translation that forbids the access does. */
export interface ReferenceRules {
  readonly maxPhysBits: number;
  readonly missCycles: number;
  readonly referenceCycles: number;
  /** `fault`: page fault from the cached entry, which is dropped; `rewalk`: the tables decide. */
  readonly denied: 'fault' | 'rewalk';
  /** Whether the TLB keeps every translation, or none. */
  readonly keep: 'forever' | 'nothing';
  /** Cycles of a locked access, a division, a fence, besides the one of every instruction. */
  readonly extra: { readonly lock: number; readonly div: number; readonly fence: number };
}

interface Translation {
  /** Linear and physical address of the first byte of the page. */
  readonly linear: bigint;
  readonly physical: bigint;
  readonly size: bigint;
  readonly writable: boolean;
  readonly user: boolean;
  readonly noExec: boolean;
  readonly key: number;
  readonly dirty: boolean;
}

const P = 1n;
const RW = 2n;
const US = 4n;
const A = 0x20n;
const D = 0x40n;
const PS = 0x80n;
const XD = 1n << 63n;
const PAGE_SIZES = [0x1000n, 0x20_0000n, 0x4000_0000n];

export class RefPaging {
  readonly #state: RefState;
  readonly #memory: RefMemory;
  readonly rules: ReferenceRules;
  /** By page size and linear address of the page. */
  readonly #tlb = new Map<string, Translation>();

  constructor(state: RefState, memory: RefMemory, rules: ReferenceRules) {
    this.#state = state;
    this.#memory = memory;
    this.rules = rules;
  }

  /** Forget all translations. */
  flush(): void {
    this.#tlb.clear();
  }

  /** Forget the translations of one address, whatever their size. */
  forget(linear: bigint): void {
    for (const size of PAGE_SIZES) this.#tlb.delete(keyOf(linear & ~(size - 1n), size));
  }

  /** Physical address of a canonical linear address; throws the page fault. */
  translate(linear: bigint, access: Access): number {
    const cached = this.#lookup(linear);
    if (cached !== undefined) {
      const allowed = this.#allows(cached, access);
      if (allowed && (access !== 'write' || cached.dirty)) return physicalOf(cached, linear);
      this.#tlb.delete(keyOf(cached.linear, cached.size));
      if (!allowed && this.rules.denied === 'fault') this.#fault(linear, access, PFERR.PRESENT, cached);
    }
    const found = this.#walk(linear, access);
    if (this.rules.keep === 'forever') this.#tlb.set(keyOf(found.linear, found.size), found);
    return physicalOf(found, linear);
  }

  #lookup(linear: bigint): Translation | undefined {
    for (const size of PAGE_SIZES) {
      const found = this.#tlb.get(keyOf(linear & ~(size - 1n), size));
      if (found !== undefined) return found;
    }
    return undefined;
  }

  #walk(linear: bigint, access: Access): Translation {
    const { cr3, cr4 } = this.#state;
    this.#state.cycles += this.rules.missCycles;
    const path: number[] = [];
    let writable = true;
    let user = true;
    let noExec = false;
    let table = cr3;
    for (let level = (cr4 & CR4.LA57) !== 0 ? 5 : 4; ; level--) {
      this.#state.cycles += this.rules.referenceCycles;
      const index = (linear >> BigInt(12 + 9 * (level - 1))) & 511n;
      const at = Number((table & this.#addressMask()) + index * 8n);
      // A table outside of RAM reads as ones: the address bits beyond MAXPHYADDR are then set.
      const entry = this.#memory.has(at) ? this.#memory.entry(at) : (1n << 64n) - 1n;
      if ((entry & P) === 0n) this.#fault(linear, access, 0);
      const leaf = level === 1 || (entry & PS) !== 0n;
      if (this.#reservedBitSet(entry, level, leaf)) this.#fault(linear, access, PFERR.PRESENT | PFERR.RSVD);
      path.push(at);
      writable &&= (entry & RW) !== 0n;
      user &&= (entry & US) !== 0n;
      noExec ||= (entry & XD) !== 0n;
      table = entry;
      if (!leaf) continue;
      const size = 1n << BigInt(12 + 9 * (level - 1));
      const key = Number((entry >> 59n) & 15n);
      const dirty = access === 'write' || (entry & D) !== 0n;
      const physical = entry & this.#addressMask() & ~(size - 1n);
      const result = { linear: linear & ~(size - 1n), physical, size, writable, user, noExec, key, dirty };
      if (!this.#allows(result, access)) this.#fault(linear, access, PFERR.PRESENT, result);
      this.#setFlags(path, access);
      return result;
    }
  }

  /** Accessed in all entries of the walk, dirty in the last of a write. */
  #setFlags(path: readonly number[], access: Access): void {
    path.forEach((at, n) => {
      const old = this.#memory.entry(at);
      const dirty = access === 'write' && n === path.length - 1 ? D : 0n;
      if ((old | A | dirty) !== old) this.#memory.setEntry(at, old | A | dirty);
    });
  }

  #addressMask(): bigint {
    return ((1n << BigInt(this.rules.maxPhysBits)) - 1n) & ~0xfffn;
  }

  #reservedBitSet(entry: bigint, level: number, leaf: boolean): boolean {
    let reserved = ((1n << 52n) - 1n) & ~((1n << BigInt(this.rules.maxPhysBits)) - 1n);
    if ((this.#state.efer & EFER.NXE) === 0) reserved |= XD;
    if (level >= 4) reserved |= PS;
    if (leaf && level === 2) reserved |= 0x1f_e000n;
    if (leaf && level === 3) reserved |= 0x3fff_e000n;
    return (entry & reserved) !== 0n;
  }

  #allows(page: Translation, access: Access): boolean {
    const { cpl, cr0, cr4, efer, rflags } = this.#state;
    const fetchDenied = page.noExec && (efer & EFER.NXE) !== 0;
    if (cpl === 3) {
      if (!page.user) return false;
      if (access === 'exec') return !fetchDenied;
      return (access === 'read' || page.writable) && !this.#keyDenies(page, access);
    }
    if (access === 'exec') return !fetchDenied && !(page.user && (cr4 & CR4.SMEP) !== 0);
    if (page.user && (cr4 & CR4.SMAP) !== 0 && (rflags & RFLAGS.AC) === 0) return false;
    if (access === 'write' && !page.writable && (cr0 & CR0.WP) !== 0) return false;
    return !this.#keyDenies(page, access);
  }

  /** SDM, "Protection Keys": data accesses to user pages only. */
  #keyDenies(page: Translation, access: Access): boolean {
    const { cr0, cr4, cpl, pkru } = this.#state;
    if ((cr4 & CR4.PKE) === 0 || !page.user || access === 'exec') return false;
    const accessDisable = ((pkru >>> (2 * page.key)) & 1) !== 0;
    const writeDisable = ((pkru >>> (2 * page.key + 1)) & 1) !== 0;
    if (accessDisable) return true;
    return access === 'write' && writeDisable && (cpl === 3 || (cr0 & CR0.WP) !== 0);
  }

  #fault(linear: bigint, access: Access, reason: number, page?: Translation): never {
    const { cpl, cr4, efer } = this.#state;
    let code = reason;
    if (access === 'write') code |= PFERR.WRITE;
    if (cpl === 3) code |= PFERR.USER;
    const fetchBit = (efer & EFER.NXE) !== 0 || (cr4 & CR4.SMEP) !== 0;
    if (access === 'exec' && fetchBit) code |= PFERR.FETCH;
    if (page !== undefined && this.#keyDenies(page, access)) code |= PFERR.PK;
    throw new GuestException(VECTOR.PF, code, linear);
  }
}

function keyOf(linear: bigint, size: bigint): string {
  return `${size}:${linear}`;
}

function physicalOf(page: Translation, linear: bigint): number {
  return Number(page.physical + (linear - page.linear));
}
