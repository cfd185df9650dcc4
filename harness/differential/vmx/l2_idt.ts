// SPDX-License-Identifier: GPL-2.0-only
/**
 * L2's IDT: every vector goes to a stub that leaves for L1 by VMCALL with the vector in RAX, so that L1 sees the event and the
 * frame that it has left on L2's stack.
 */
import { lab, R } from '../../../lib/asm/operands.ts';
import { at, ExRegs, guestAsm, guestFn, NUM_INTERRUPTS, ptr, u32 } from '../../../lib/guest/index.ts';
import { symbolAddress } from '../../../lib/kvm_util/guest_global.ts';
import type { KvmVm } from '../../../lib/kvm_util/kvm_util.ts';
import { readGuest, writeGuest } from '../../../lib/kvm_util/x86/page_table.ts';
import { KERNEL_CS } from '../../../lib/kvm_util/x86/processor.ts';
import { APIC_REG } from '../../../lib/x86/apic.ts';
import { encodeGate64, SYS_TYPE } from '../../../lib/x86/segments.ts';

/** The local APIC, mapped at its physical address. */
export const APIC_PAGE = 0xfee0_0000;

/** Offset of L2's first stack pointer in its stack page: 16-byte aligned, with room above. */
export const L2_STACK_TOP = 0xf00;

/** The VMCALL that tells L1 of an event. */
export const l2_event = guestAsm('l2_event', (a) => {
  a.emit('vmcall');
  a.emit('iretq');
});

/** Addresses of the stubs, and the stubs. */
export const l2_vectors = guestAsm('l2_vectors', (a) => {
  const vectors = Array.from({ length: NUM_INTERRUPTS }, (_, vector) => vector);
  const stub = (vector: number): string => `l2_vector_${vector}`;
  vectors.forEach((vector) => a.u64({ label: stub(vector) }));
  for (const vector of vectors) {
    a.align(8);
    a.label(stub(vector));
    a.emit('mov', R.eax, vector);
    a.emit('jmp', lab(a.ref(l2_event)));
  }
});

/** The vector of the interrupts that L1 sends itself. */
export const L1_VECTOR = 0x61;

/** L1's handler of them. */
export const l1_interrupt = guestFn('l1_interrupt', [ptr(ExRegs)], (g) => {
  g.set(at(u32, APIC_PAGE + APIC_REG.EOI), 0);
});

/** Fill the page at `idt` with gates to the stubs. */
export function prepareL2Idt(vm: KvmVm, idt: bigint): void {
  const stubs = new DataView(readGuest(vm, symbolAddress(vm, l2_vectors.symbol), 8 * NUM_INTERRUPTS).buffer);
  for (let vector = 0; vector < NUM_INTERRUPTS; vector++) {
    const handler = stubs.getBigUint64(8 * vector, true);
    const words = encodeGate64(SYS_TYPE.INTERRUPT_GATE64, KERNEL_CS, handler, 0, 0);
    writeGuest(vm, idt + BigInt(16 * vector), new Uint8Array(new Int32Array(words).buffer));
  }
}
