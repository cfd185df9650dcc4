// SPDX-License-Identifier: GPL-2.0-only
/**
 * Memory slots and the two sets of each address space. Mirrors struct kvm_memory_slot and struct kvm_memslots of
 * include/linux/kvm_host.h, 6.12: a slot is linked into one or both sets by embedded nodes (gfn tree, hva interval
 * tree, id table); readers use the active set, a change prepares the inactive one. Leaves out private memory.
 */
import { KVM_MEM, KVM_MEM_SLOTS_NUM } from '../../lib/uapi/memory.ts';
import { PAGE_SIZE, type Gfn, type Hva } from '../../lib/x86/addr.ts';
import { BugError } from '../machine/errors.ts';
import { SlotTree, type SlotKeys } from './slot_tree.ts';

/** Flag of a slot that is being deleted or moved: it resolves to an error HVA. */
export const KVM_MEMSLOT_INVALID = 0x1_0000;

/**
 * KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS, bit 63, kept as bit 52 of a double: flagged generations stay exact, compare
 * unequal to unflagged ones and are greater than any of them.
 */
export const KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS = 2 ** 52;
/** The generation without the flag. */
export const memslotGen = (generation: number): number =>
  generation >= KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS
    ? generation - KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS
    : generation;
/** The generation as the kernel's u64, flag in bit 63. */
export const memslotGenU64 = (generation: number): bigint =>
  BigInt(memslotGen(generation)) | (generation >= KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS ? 1n << 63n : 0n);

/** struct kvm_arch_memory_slot. */
export interface KvmArchMemorySlot {
  /** Per 2 MiB of the slot: non-zero forbids a huge mapping. Shared by the copies of a slot. */
  lpageInfo: Uint16Array | null;
}

export class KvmMemorySlot {
  readonly id: number;
  readonly asId: number;
  readonly baseGfn: Gfn;
  readonly npages: number;
  /** KVM_MEM.* and KVM_MEMSLOT_INVALID. */
  flags: number;
  readonly userspaceAddr: Hva;
  /** One bit per page, in 32-bit words, a whole number of 64-bit words; null without dirty logging. */
  dirtyBitmap: Uint32Array | null = null;
  readonly arch: KvmArchMemorySlot = { lpageInfo: null };
  /** Number of the slot in the trees; 0 until it is linked. */
  handle = 0;
  /** Sets that link it. */
  linked = 0;

  constructor(where: {
    id: number;
    asId: number;
    baseGfn: Gfn;
    npages: number;
    flags: number;
    userspaceAddr: Hva;
  }) {
    this.id = where.id;
    this.asId = where.asId;
    this.baseGfn = where.baseGfn;
    this.npages = where.npages;
    this.flags = where.flags;
    this.userspaceAddr = where.userspaceAddr;
  }

  /** The same slot under other flags, sharing bitmap and arch data; not linked. */
  copyWithFlags(flags: number): KvmMemorySlot {
    const { id, asId, baseGfn, npages, userspaceAddr } = this;
    const copy = new KvmMemorySlot({ id, asId, baseGfn, npages, flags, userspaceAddr });
    copy.dirtyBitmap = this.dirtyBitmap;
    copy.arch.lpageInfo = this.arch.lpageInfo;
    return copy;
  }
}

export const kvmSlotDirtyTrackEnabled = (slot: KvmMemorySlot): boolean =>
  (slot.flags & KVM_MEM.LOG_DIRTY_PAGES) !== 0;
export const memslotIsReadonly = (slot: KvmMemorySlot): boolean => (slot.flags & KVM_MEM.READONLY) !== 0;
/** A slot that guests can use: not one that is on its way out. */
export const memslotIsVisible = (slot: KvmMemorySlot | null): slot is KvmMemorySlot =>
  slot !== null && (slot.flags & KVM_MEMSLOT_INVALID) === 0;

/** HVA of a gfn that the slot contains; no check of flags. */
export const gfnToHvaMemslot = (slot: KvmMemorySlot, gfn: Gfn): Hva =>
  (slot.userspaceAddr + (gfn - slot.baseGfn) * PAGE_SIZE) as Hva;
/** gfn of an HVA that the slot contains. */
export const hvaToGfnMemslot = (hva: Hva, slot: KvmMemorySlot): Gfn =>
  (slot.baseGfn + Math.floor((hva - slot.userspaceAddr) / PAGE_SIZE)) as Gfn;

/** What both sets of an address space share: handles, and the keys of the trees. */
class SlotColumns {
  readonly slots: (KvmMemorySlot | null)[] = [null];
  readonly gfn: SlotKeys = { first: new Float64Array(64), last: new Float64Array(64) };
  readonly hva: SlotKeys = { first: new Float64Array(64), last: new Float64Array(64) };
  readonly #free: number[] = [];

  adopt(slot: KvmMemorySlot): void {
    const handle = this.#free.pop() ?? this.slots.length;
    if (handle === this.gfn.first.length) for (const keys of [this.gfn, this.hva]) growKeys(keys);
    this.slots[handle] = slot;
    slot.handle = handle;
    this.gfn.first[handle] = slot.baseGfn;
    this.gfn.last[handle] = slot.baseGfn + slot.npages - 1;
    this.hva.first[handle] = slot.userspaceAddr;
    this.hva.last[handle] = slot.userspaceAddr + slot.npages * PAGE_SIZE - 1;
  }

  drop(slot: KvmMemorySlot): void {
    this.slots[slot.handle] = null;
    this.#free.push(slot.handle);
    slot.handle = 0;
  }
}

function growKeys(keys: SlotKeys): void {
  for (const column of ['first', 'last'] as const) {
    const bigger = new Float64Array(2 * keys[column].length);
    bigger.set(keys[column]);
    keys[column] = bigger;
  }
}

/** struct kvm_memslots: one set. */
export class KvmMemslots {
  readonly asId: number;
  /** 0 or 1: which of the two sets it is. */
  readonly nodeIdx: number;
  /** With KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS while the set is being published. */
  generation: number;
  /** Hint for readers without a vCPU. */
  lastUsedSlot: KvmMemorySlot | null = null;
  readonly #columns: SlotColumns;
  readonly #gfnTree: SlotTree;
  readonly #hvaTree: SlotTree;
  readonly #byId: (KvmMemorySlot | null)[] = [];
  #count = 0;

  private constructor(asId: number, nodeIdx: number, columns: SlotColumns) {
    this.asId = asId;
    this.nodeIdx = nodeIdx;
    this.generation = asId;
    this.#columns = columns;
    this.#gfnTree = new SlotTree(columns.gfn);
    this.#hvaTree = new SlotTree(columns.hva);
  }

  /** The two sets of an address space, both empty; the first generation is the number of the address space. */
  static pair(asId: number): readonly [KvmMemslots, KvmMemslots] {
    const columns = new SlotColumns();
    return [new KvmMemslots(asId, 0, columns), new KvmMemslots(asId, 1, columns)];
  }

  get count(): number {
    return this.#count;
  }

  idToMemslot(id: number): KvmMemorySlot | null {
    return this.#byId[id] ?? null;
  }

  /** search_memslots(): the slot that contains the gfn, without hints. */
  search(gfn: Gfn): KvmMemorySlot | null {
    const handle = this.#gfnTree.floor(gfn);
    return handle !== 0 && gfn <= this.#columns.gfn.last[handle]! ? this.#columns.slots[handle]! : null;
  }

  /** kvm_for_each_memslot_in_hva_range(): slots that overlap [start, last], by HVA. */
  inHvaRange(start: Hva, last: Hva): KvmMemorySlot[] {
    const handles: number[] = [];
    this.#hvaTree.overlaps(start, last, handles);
    return handles.map((handle) => this.#columns.slots[handle]!);
  }

  /** kvm_for_each_memslot_in_gfn_range(): slots that overlap [start, end), by gfn. */
  inGfnRange(start: Gfn, end: Gfn): KvmMemorySlot[] {
    const handles: number[] = [];
    this.#gfnTree.overlaps(start, end - 1, handles);
    return handles.map((handle) => this.#columns.slots[handle]!);
  }

  /** kvm_check_memslot_overlap(): does another slot than `id` overlap [start, end)? The first such, or null. */
  overlapping(id: number, start: Gfn, end: Gfn): KvmMemorySlot | null {
    return this.inGfnRange(start, end).find((slot) => slot.id !== id) ?? null;
  }

  /** Every slot, by gfn. */
  all(): KvmMemorySlot[] {
    return this.inGfnRange(0 as Gfn, Number.MAX_SAFE_INTEGER as Gfn);
  }

  /** kvm_replace_memslot(): unlink `old`, link `next`; either may be absent. Only on the inactive set. */
  replace(old: KvmMemorySlot | null, next: KvmMemorySlot | null): void {
    if (old !== null) this.#unlink(old);
    if (next !== null) this.#link(next);
  }

  #link(slot: KvmMemorySlot): void {
    if (slot.id >= KVM_MEM_SLOTS_NUM || slot.asId !== this.asId)
      throw new BugError(`slot ${slot.id} is not of this set`);
    if (slot.handle === 0) this.#columns.adopt(slot);
    slot.linked++;
    this.#gfnTree.insert(slot.handle);
    this.#hvaTree.insert(slot.handle);
    while (this.#byId.length <= slot.id) this.#byId.push(null);
    this.#byId[slot.id] = slot;
    this.#count++;
  }

  #unlink(slot: KvmMemorySlot): void {
    if (this.#byId[slot.id] !== slot)
      throw new BugError(`slot ${slot.id} is not linked in set ${this.nodeIdx}`);
    this.#gfnTree.erase(slot.handle);
    this.#hvaTree.erase(slot.handle);
    this.#byId[slot.id] = null;
    if (this.lastUsedSlot === slot) this.lastUsedSlot = null;
    this.#count--;
    slot.linked--;
    if (slot.linked === 0) this.#columns.drop(slot);
  }
}
