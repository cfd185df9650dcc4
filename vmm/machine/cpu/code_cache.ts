// SPDX-License-Identifier: GPL-2.0-only
/**
 * Decoded code, shared by all CPUs: keyed by host frame and offset, so that it survives CR3 and VMCS switches. A code
 * page has a slot: a table from page offset to record. Stores are noticed by byte, so that data beside code does not
 * throw code away. SDM, "Self-Modifying Code". Instructions that cross into another page are decoded each time.
 */
import { decodeAt } from './decode/decoder.ts';
import type { DecodedInsn } from './decode/insn.ts';
import { DECODE, OP } from './decode/ops.ts';
import { HOT, REC, REC_WORDS, recordPosition } from './hot.ts';
import {
  CODE_RECORD_BASE,
  CODE_RECORD_BYTES,
  CODE_SLOT_BASE,
  CODE_TABLE_BASE,
  CODE_TABLE_BYTES,
} from '../layout.ts';
import { lower } from './lower.ts';
import type { PhysMem } from '../memory/phys_mem.ts';

const PAGE = 4096;
const NR_SLOTS = CODE_TABLE_BYTES / (PAGE * 4);
/** Instructions decoded ahead at most, and records that they may need. */
const RUN_INSNS = 64;
const RUN_WORDS = (RUN_INSNS * 4 + 1) * REC_WORDS;

/** Word index of the first record. */
export const FIRST_RECORD = CODE_RECORD_BASE >> 2;
const END_RECORD = (CODE_RECORD_BASE + CODE_RECORD_BYTES) >> 2;
/** Word index of the offset table of slot 0, which stays empty. */
export const FIRST_TABLE = CODE_TABLE_BASE >> 2;

export class CodeCache {
  readonly mem: PhysMem;
  /** Rises whenever decoded code is thrown away. */
  generation = 0;
  /** By frame: its slot, or 0. */
  readonly slotOf: Uint8Array;
  readonly #dropWriteTags: (pfn: number) => void;
  readonly #frameOf: Int32Array = new Int32Array(NR_SLOTS);
  /** By slot: which bytes of the page have been decoded. */
  readonly #decoded: Uint8Array[] = [];
  readonly #freeSlots: number[] = [];
  /** By record. */
  readonly #insns: DecodedInsn[] = [];
  #nextRecord = FIRST_RECORD;

  /** `dropWriteTags(pfn)`: from now on stores to the frame must take the slow path on every CPU. */
  constructor(mem: PhysMem, dropWriteTags: (pfn: number) => void) {
    this.mem = mem;
    this.#dropWriteTags = dropWriteTags;
    this.slotOf = new Uint8Array(mem.memory.buffer, CODE_SLOT_BASE, mem.size / PAGE);
    for (let slot = NR_SLOTS - 1; slot > 0; slot--) this.#freeSlots.push(slot);
  }

  /** Whether instructions have been decoded from the frame: stores to it must be reported by noteStore. */
  hasCode(pfn: number): boolean {
    return this.slotOf[pfn] !== 0 && pfn < this.slotOf.length;
  }

  /** Bytes changed in memory: by a guest's store to a frame that hasCode, by a device, or by the kernel. */
  noteStore(hpa: number, length: number): void {
    if (this.slotOf[hpa >>> 12] === 0 && (hpa & (PAGE - 1)) + length <= PAGE) return;
    const end = hpa + length;
    for (let at = hpa; at < end; at = (Math.floor(at / PAGE) + 1) * PAGE) {
      const pfn = Math.floor(at / PAGE);
      const slot = this.slotOf[pfn] ?? 0;
      if (slot === 0) continue;
      const decoded = this.#decoded[slot]!;
      const last = Math.min(end - pfn * PAGE, PAGE);
      for (let off = at - pfn * PAGE; off < last; off++) {
        if (decoded[off] === 0) continue;
        this.invalidateFrame(pfn);
        break;
      }
    }
  }

  /** Forget what was decoded from a frame. */
  invalidateFrame(pfn: number): void {
    const slot = this.slotOf[pfn] ?? 0;
    if (slot === 0) return;
    const table = FIRST_TABLE + slot * PAGE;
    this.mem.i32.fill(0, table, table + PAGE);
    this.slotOf[pfn] = 0;
    this.#freeSlots.push(slot);
    this.generation++;
  }

  /** Word index of the table from page offset to record. */
  tableOf(pfn: number): number {
    return FIRST_TABLE + this.slotOf[pfn]! * PAGE;
  }

  /** The instruction that record `p` belongs to. */
  insnOf(p: number): DecodedInsn {
    return this.#insns[(p - FIRST_RECORD) >> 3]!;
  }

  /** The record of the instruction at a page offset; decodes if need be. */
  find(pfn: number, offset: number): number {
    const slot = this.slotOf[pfn]!;
    const known = slot === 0 ? 0 : this.mem.i32[FIRST_TABLE + slot * PAGE + offset]!;
    return known !== 0 ? known : this.#decodeRun(pfn, offset);
  }

  #slotFor(pfn: number): number {
    const slot = this.slotOf[pfn]!;
    if (slot !== 0) return slot;
    if (this.#freeSlots.length === 0) this.#flush();
    const fresh = this.#freeSlots.pop()!;
    this.slotOf[pfn] = fresh;
    this.#frameOf[fresh] = pfn;
    this.#decoded[fresh] = new Uint8Array(PAGE);
    this.#dropWriteTags(pfn);
    return fresh;
  }

  #flush(): void {
    for (let slot = 1; slot < NR_SLOTS; slot++) {
      const pfn = this.#frameOf[slot]!;
      if (this.slotOf[pfn] === slot) this.invalidateFrame(pfn);
    }
    this.#insns.length = 0;
    this.#nextRecord = FIRST_RECORD;
    this.generation++;
  }

  /** Decode from `offset` to the next unconditional transfer, known record or end of the page. */
  #decodeRun(pfn: number, start: number): number {
    if (this.#nextRecord + RUN_WORDS > END_RECORD) this.#flush();
    const slot = this.#slotFor(pfn);
    const { i32, u8 } = this.mem;
    const page = pfn * PAGE;
    const table = FIRST_TABLE + slot * PAGE;
    const first = this.#nextRecord;
    let offset = start;
    for (let n = 0; n < RUN_INSNS && offset < PAGE && i32[table + offset] === 0; n++) {
      const insn = decodeAt(u8, page + offset, page + PAGE);
      const end = insn.status === DECODE.OK ? offset + insn.length : PAGE;
      this.#decoded[slot]!.fill(1, offset, Math.min(end, offset + 15));
      i32[table + offset] = this.#append(insn, offset);
      if (endsRun(insn)) return first;
      offset += insn.length;
    }
    this.#appendLink(offset);
    return first;
  }

  #append(insn: DecodedInsn, offset: number): number {
    const p = this.#nextRecord;
    const count = lower(this.mem.i32, p, insn, offset);
    for (let n = 0; n < count; n++) this.#insns.push(insn);
    this.#nextRecord = p + count * REC_WORDS;
    return p;
  }

  /** A record that goes on at a page offset (which may be the end of the page) and is no instruction. */
  #appendLink(offset: number): void {
    const p = this.#nextRecord;
    const m = this.mem.i32;
    m.fill(0, p, p + REC_WORDS);
    m[p + REC.K] = HOT.LINK;
    m[p + REC.IMM] = offset;
    m[p + REC.OFF] = offset;
    m[p + REC.POS] = recordPosition(0, 1);
    this.#insns.push(this.#insns[this.#insns.length - 1]!);
    this.#nextRecord = p + REC_WORDS;
  }
}

/** Whether the record after this instruction's is not the next instruction's. */
export function endsRun(insn: DecodedInsn): boolean {
  if (insn.status !== DECODE.OK) return true;
  switch (insn.op) {
    case OP.JMP:
    case OP.JMP_IND:
    case OP.RET:
    case OP.UD:
    case OP.SYS:
      return true;
    default:
      return false;
  }
}

/** Forget what was decoded from a frame that changes its owner. */
export function invalidateCodeFrame(code: CodeCache, pfn: number): void {
  code.invalidateFrame(pfn);
}
