// SPDX-License-Identifier: GPL-2.0-only
/** I/O, MSR and VMCS-shadowing bitmaps. SDM, "I/O-Bitmap Addresses", "MSR-Bitmap Address", "VMCS Shadowing Bitmap Addresses". */
import { CPU_BASED, SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { addressIn } from './check_util.ts';
import * as W from './words.ts';

/** The four parts of the MSR bitmap. */
// prettier-ignore
const MSR_PART = { READ_LOW: 0x000, READ_HIGH: 0x400, WRITE_LOW: 0x800, WRITE_HIGH: 0xc00 } as const;
const MSR_RANGE = 0x2000;
const HIGH_MSRS = 0xc000_0000;
/** The bits of a VMCS field's encoding that have a place in the VMREAD and VMWRITE bitmaps: 14:0. */
const FIELD_MASK = 0x7fff;

/** A byte of the page whose address is in the VMCS word; ones where there is no memory. */
function byteAt(cpu: Cpu, word: number, offset: number): number {
  return cpu.mem.u8[addressIn(cpu, word) + offset] ?? 0xff;
}

/** Whether an access of `size` bytes at `port` exits: unconditionally, or by the bit of any of its ports. */
export function ioExits(cpu: Cpu, port: number, size: number): boolean {
  const { cpuBased } = cpu.vmx;
  if ((cpuBased & CPU_BASED.USE_IO_BITMAPS) === 0) return (cpuBased & CPU_BASED.UNCOND_IO_EXITING) !== 0;
  // An access that wraps around the 16-bit port space exits.
  if (port + size > 0x1_0000) return true;
  for (let p = port; p < port + size; p++) {
    const word = p < 0x8000 ? W.IO_BITMAP_A : W.IO_BITMAP_B;
    if (((byteAt(cpu, word, (p & 0x7fff) >>> 3) >>> (p & 7)) & 1) !== 0) return true;
  }
  return false;
}

/** Whether RDMSR of `msr` exits. */
export function rdmsrExits(cpu: Cpu, msr: number): boolean {
  return msrExits(cpu, msr, MSR_PART.READ_LOW, MSR_PART.READ_HIGH);
}

/** Whether WRMSR to `msr` exits. */
export function wrmsrExits(cpu: Cpu, msr: number): boolean {
  return msrExits(cpu, msr, MSR_PART.WRITE_LOW, MSR_PART.WRITE_HIGH);
}

function msrExits(cpu: Cpu, msr: number, low: number, high: number): boolean {
  if ((cpu.vmx.cpuBased & CPU_BASED.USE_MSR_BITMAPS) === 0) return true;
  const number = msr >>> 0;
  const isHigh = number >= HIGH_MSRS;
  const index = isHigh ? number - HIGH_MSRS : number;
  if (index >= MSR_RANGE) return true;
  return ((byteAt(cpu, W.MSR_BITMAP, (isHigh ? high : low) + (index >>> 3)) >>> (index & 7)) & 1) !== 0;
}

/** Whether VMREAD of the field in a register (as two words) exits. */
export function vmreadExits(cpu: Cpu, lo: number, hi: number): boolean {
  return fieldExits(cpu, W.VMREAD_BITMAP, lo, hi);
}

/** Whether VMWRITE of the field in a register (as two words) exits. */
export function vmwriteExits(cpu: Cpu, lo: number, hi: number): boolean {
  return fieldExits(cpu, W.VMWRITE_BITMAP, lo, hi);
}

function fieldExits(cpu: Cpu, word: number, lo: number, hi: number): boolean {
  if ((cpu.vmx.secondary & SECONDARY_EXEC.SHADOW_VMCS) === 0) return true;
  if (hi !== 0 || (lo & ~FIELD_MASK) !== 0) return true;
  return ((byteAt(cpu, word, lo >>> 3) >>> (lo & 7)) & 1) !== 0;
}
