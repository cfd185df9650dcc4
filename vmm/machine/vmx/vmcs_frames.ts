// SPDX-License-Identifier: GPL-2.0-only
/**
 * Use-after-free through physical addresses in a VMCS: each address field remembers the epoch of its frame from the
 * VMWRITE; VM entry compares. A frame that was freed and never taken again is as wrong as one in other hands.
 */
import { pfn } from '../../../lib/x86/addr.ts';
import { hex } from '../../../lib/x86/bits.ts';
import { CPU_BASED, PIN_BASED, SECONDARY_EXEC, VMX_VMFUNC } from '../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { SanitizerError } from '../errors.ts';
import { RAM_BASE } from '../layout.ts';
import { FRAME } from '../memory/frames.ts';
import { vmcsEpochWord, vmcsWord } from './vmcs_layout.ts';
import * as W from './words.ts';

interface AddressField {
  readonly name: string;
  readonly word: number;
  readonly epoch: number;
}

const named = (name: string, encoding: number): AddressField => ({
  name,
  word: vmcsWord(encoding),
  epoch: vmcsEpochWord(encoding),
});
const field = (name: keyof typeof VMCS_CTRL): AddressField => named(name, VMCS_CTRL[name]);

const IO_A = field('IO_BITMAP_A');
const IO_B = field('IO_BITMAP_B');
const MSR_BITMAP = field('MSR_BITMAP');
const VAPIC = field('VIRTUAL_APIC_PAGE_ADDR');
const APIC_ACCESS = field('APIC_ACCESS_ADDR');
const POSTED_INTR = field('POSTED_INTR_DESC_ADDR');
const EPTP_LIST = field('EPTP_LIST_ADDRESS');
const VMREAD_BITMAP = field('VMREAD_BITMAP');
const VMWRITE_BITMAP = field('VMWRITE_BITMAP');
const LINK_POINTER = named('VMCS_LINK_POINTER', VMCS_GUEST.VMCS_LINK_POINTER);
const PML = field('PML_ADDRESS');
const MSR_STORE = field('VM_EXIT_MSR_STORE_ADDR');
const MSR_LOAD = field('VM_EXIT_MSR_LOAD_ADDR');
const ENTRY_LOAD = field('VM_ENTRY_MSR_LOAD_ADDR');

/** Every structure that the VMCS now entered points to, and the VMCS itself. `secondary`: the controls in force. */
export function checkVmcsFrames(cpu: Cpu, secondary: number): void {
  const {
    vmx,
    mem: { i32 },
  } = cpu;
  const { base } = vmx;
  checkFrame(cpu, 'VMCS', vmx.currentVmcs, vmx.vmcsEpoch);
  const cpuBased = i32[base + W.CPU_BASED]!;
  if ((cpuBased & CPU_BASED.USE_IO_BITMAPS) !== 0) {
    checkField(cpu, IO_A);
    checkField(cpu, IO_B);
  }
  if ((cpuBased & CPU_BASED.USE_MSR_BITMAPS) !== 0) checkField(cpu, MSR_BITMAP);
  if ((cpuBased & CPU_BASED.TPR_SHADOW) !== 0) checkField(cpu, VAPIC);
  if ((i32[base + W.PIN]! & PIN_BASED.POSTED_INTR) !== 0) checkField(cpu, POSTED_INTR);
  const functions = (secondary & SECONDARY_EXEC.ENABLE_VMFUNC) !== 0 ? i32[base + W.VM_FUNCTION_CONTROL]! : 0;
  if ((functions & VMX_VMFUNC.EPTP_SWITCHING) !== 0) checkField(cpu, EPTP_LIST);
  if ((secondary & SECONDARY_EXEC.VIRTUALIZE_APIC_ACCESSES) !== 0) checkField(cpu, APIC_ACCESS);
  if ((secondary & SECONDARY_EXEC.SHADOW_VMCS) !== 0) {
    checkField(cpu, VMREAD_BITMAP);
    checkField(cpu, VMWRITE_BITMAP);
    checkField(cpu, LINK_POINTER);
  }
  if ((secondary & SECONDARY_EXEC.ENABLE_PML) !== 0) checkField(cpu, PML);
  if (i32[base + W.EXIT_MSR_STORE_COUNT] !== 0) checkField(cpu, MSR_STORE);
  if (i32[base + W.EXIT_MSR_LOAD_COUNT] !== 0) checkField(cpu, MSR_LOAD);
  if (i32[base + W.ENTRY_MSR_LOAD_COUNT] !== 0) checkField(cpu, ENTRY_LOAD);
}

function checkField(cpu: Cpu, { name, word, epoch }: AddressField): void {
  const { i32 } = cpu.mem;
  const { base } = cpu.vmx;
  if (i32[base + word + 1] === 0) checkFrame(cpu, name, i32[base + word]! >>> 0, i32[base + epoch]!);
}

function checkFrame(cpu: Cpu, what: string, address: number, seen: number): void {
  const { frames } = cpu;
  if (address < RAM_BASE && what !== APIC_ACCESS.name)
    throw new SanitizerError(
      `CPU ${cpu.id}: VM entry uses ${what} at ${hex(address)}, which is the machine's own memory`,
    );
  const frame = address >>> 12;
  const epoch = frames.epoch[frame];
  if (epoch === undefined || (epoch === seen && (epoch === 0 || frames.state[frame] !== FRAME.FREE))) return;
  throw new SanitizerError(
    `CPU ${cpu.id}: VM entry uses ${what} at ${hex(address)}, written to the VMCS at epoch ${seen}: ${frames.story(pfn(frame))}`,
  );
}
