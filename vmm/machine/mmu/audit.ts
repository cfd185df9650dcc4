// SPDX-License-Identifier: GPL-2.0-only
/**
 * The inclusion audit: every entry of the fast TLB stands for a live record of the modelled one, of the same page and
 * frame, in a context that may use it, and allows nothing that the record does not. For tests and the harness.
 */
import { hex } from '../../../lib/x86/bits.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { FAST_TLB_ENTRIES } from '../layout.ts';
import { ENTRY, pageOffsetMask, PERM } from '../tlb/entry.ts';
import { recordHpa } from '../tlb/tlb_array.ts';
import { contextMayUse } from './context.ts';
import { FAST_NO_TAG, fastFrameOf } from './fast.ts';

/** What is wrong with the fast TLB of a CPU, one line each; empty: it is included in the modelled TLB. */
export function auditFastTlb(cpu: Cpu): string[] {
  const found: string[] = [];
  for (let slot = 0; slot < FAST_TLB_ENTRIES; slot++) {
    const wrong = auditSlot(cpu, slot);
    if (wrong !== '') found.push(`CPU ${cpu.id}, fast TLB slot ${slot}: ${wrong}`);
  }
  return found;
}

function auditSlot(cpu: Cpu, slot: number): string {
  const { mmu, fast } = cpu;
  const { tlb } = mmu;
  const frame = fastFrameOf(cpu, slot);
  if (frame < 0) return '';
  const page = [fast.readTag[slot]!, fast.writeTag[slot]!, fast.execTag[slot]!].find(
    (tag) => tag !== FAST_NO_TAG,
  )!;
  const b = tlb.fastRecord[slot]!;
  if (b < 0) return `allows page ${hex(page >>> 0)} without a record`;
  const space = tlb.i[b + ENTRY.SPACE]!;
  if (space < 0) return `allows page ${hex(page >>> 0)} by a record that is free`;
  const mask = pageOffsetMask(tlb.i[b]! & 3);
  if ((page & ~mask) !== (tlb.i[b]! & ~0xfff)) return `page ${hex(page >>> 0)} is not the record's`;
  const number = fast.hiTag[slot]! ^ tlb.i[b + ENTRY.KEY_HI]!;
  if (!contextMayUse(mmu, number, space))
    return `context constant ${hex(number >>> 0)} may not use the record`;
  if (recordHpa(tlb, b, page) >>> 12 !== frame) return `frame ${hex(frame)} is not the record's`;
  const perm = tlb.i[b + ENTRY.PERM]!;
  if (fast.writeTag[slot] !== FAST_NO_TAG && (perm & PERM.D) === 0) return 'allows stores to a clean page';
  if (fast.writeTag[slot] !== FAST_NO_TAG && cpu.code.hasCode(frame))
    return 'allows stores to a page with decoded code';
  return '';
}
