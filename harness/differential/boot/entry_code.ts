// SPDX-License-Identifier: GPL-2.0-only
/**
 * The code that turns the boot sector's 64-bit mode into the state in which the VMM would enter the guest: control
 * registers, page tables, descriptor tables, segments, local APIC and general-purpose registers, all taken from the vCPU.
 * It lies in a page of the guest that is mapped at its own physical address, so that it survives its own MOV to CR3.
 */
import { Assembler } from '../../../lib/asm/assembler.ts';
import { gpr, m32, m8, mem, R } from '../../../lib/asm/operands.ts';
import type { KvmRegs, KvmSregs } from '../../../lib/uapi/regs.ts';
import { APIC_REG } from '../../../lib/x86/apic.ts';
import { MSR } from '../../../lib/x86/msr.ts';

/** What the guest sees when it begins. */
export interface EntryState {
  readonly regs: KvmRegs;
  readonly sregs: KvmSregs;
  /** The local APIC's register page, or undefined if the VM has none. */
  readonly lapic: Uint8Array | undefined;
}

/** What port 0xE9 gets before the guest begins; the BIOS may have written to it, too. */
export const GUEST_BEGINS = '#guest begins';

const APIC_PAGE = 0xfee0_0000;
/** Registers of the local APIC that a BIOS may have changed; the spurious-interrupt register last, it masks the LVT. */
const APIC_STATE = [
  ...[APIC_REG.TASKPRI, APIC_REG.DFR, APIC_REG.LDR, APIC_REG.TMICT, APIC_REG.TDCR],
  ...[APIC_REG.LVTT, APIC_REG.LVTTHMR, APIC_REG.LVTPC, APIC_REG.LVT0, APIC_REG.LVT1, APIC_REG.LVTERR],
  APIC_REG.SPIV,
] as const;

const GPR_NAMES = [
  ...(['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi'] as const),
  ...(['r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15'] as const),
] as const;

function announce(a: Assembler): void {
  a.emit('lea', R.rsi, mem(0, { label: 'begins' }));
  a.emit('mov', R.ecx, GUEST_BEGINS.length + 1);
  a.emit('mov', R.edx, 0xe9);
  a.emit('rep outsb');
}

function apicState(a: Assembler, page: Uint8Array): void {
  const view = new DataView(page.buffer, page.byteOffset);
  a.emit('mov', R.esi, APIC_PAGE);
  for (const at of APIC_STATE) {
    a.emit('mov', R.eax, view.getUint32(at, true));
    a.emit('mov', m32({ base: R.rsi, disp: at }), R.eax);
  }
}

function controlRegisters(a: Assembler, { cr0, cr3, cr4, efer }: KvmSregs): void {
  a.emit('mov', R.rax, cr4);
  a.emit('mov', R.cr4, R.rax);
  a.emit('mov', R.ecx, MSR.EFER);
  a.emit('mov', R.eax, efer & 0xffff_ffffn);
  a.emit('mov', R.edx, efer >> 32n);
  a.emit('wrmsr');
  a.emit('mov', R.rax, cr0);
  a.emit('mov', R.cr0, R.rax);
  a.emit('mov', R.rax, cr3);
  a.emit('mov', R.cr3, R.rax);
}

function segments(a: Assembler, sregs: KvmSregs): void {
  a.emit('lgdt', mem(80, { label: 'gdtr' }));
  a.emit('lidt', mem(80, { label: 'idtr' }));
  for (const name of ['ds', 'es', 'ss', 'fs', 'gs'] as const) {
    const { selector, unusable } = sregs[name];
    a.emit('mov', R.eax, unusable === 1 ? 0 : selector);
    a.emit('mov', R[name], R.eax);
  }
  a.emit('xor', R.eax, R.eax);
  a.emit('lldt', R.ax);
  // The VMM loads a busy TSS; LTR wants an available one and makes it busy.
  a.emit('mov', R.rax, sregs.gdt.base + BigInt(sregs.tr.selector) + 5n);
  a.emit('and', m8({ base: R.rax }), ~2);
  a.emit('mov', R.eax, sregs.tr.selector);
  a.emit('ltr', R.ax);
}

function enter(a: Assembler, { regs, sregs }: EntryState): void {
  GPR_NAMES.forEach((name, n) => {
    if (name !== 'rsp') a.emit('mov', gpr(n), BigInt.asIntN(64, regs[name]));
  });
  a.emit('lea', R.rsp, mem(0, { label: 'frame' }));
  a.emit('iretq');
  a.align(16, 0);
  a.label('frame');
  for (const value of [regs.rip, sregs.cs.selector, regs.rflags, regs.rsp, sregs.ss.selector]) a.u64(value);
  for (const [name, table] of [
    ['gdtr', sregs.gdt],
    ['idtr', sregs.idt],
  ] as const) {
    a.label(name);
    a.u16(table.limit);
    a.u64(table.base);
  }
  a.label('begins');
  a.bytes(new TextEncoder().encode(`${GUEST_BEGINS}\n`));
}

/** The code for a page at `base`, linear and physical. */
export function entryCode(base: number, state: EntryState): Uint8Array {
  const a = new Assembler();
  announce(a);
  if (state.lapic !== undefined) apicState(a, state.lapic);
  controlRegisters(a, state.sregs);
  segments(a, state.sregs);
  enter(a, state);
  return a.finish({ base: BigInt(base) }).bytes;
}
