// SPDX-License-Identifier: GPL-2.0-only
/** I/O and MSR bitmaps bit by bit. SDM, "I/O-Bitmap Addresses" and "MSR-Bitmap Address". */
import { describe, expect, it } from 'vitest';
import { CPU_BASED } from '../../../lib/x86/vmx/controls.ts';
import { EXIT_REASON as R } from '../../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL as C } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { setReg } from '../cpu/regs.ts';
import { AT, VmxBox } from './testing/fixture.ts';

const VMCALL = [0x0f, 0x01, 0xc1];
const IN = { 1: [0xec], 2: [0x66, 0xed], 4: [0xed] } as const;

/** Exit reason of IN of `size` bytes at `port` with the bit of `bit` set in the bitmaps. */
function inWith(port: number, size: 1 | 2 | 4, bit: number): number {
  const box = new VmxBox().begin().code([...IN[size], ...VMCALL]);
  box.change(C.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.USE_IO_BITMAPS);
  setReg(box.cpu, 2, BigInt(port));
  const page = bit < 0x8000 ? AT.IO_BITMAP_A : AT.IO_BITMAP_B;
  if (bit >= 0) box.cpu.mem.u8[page + ((bit & 0x7fff) >>> 3)] = 1 << (bit & 7);
  return box.launch();
}

/** Exit reason of RDMSR or WRMSR of TSC_AUX-like `msr` with the bit `bit` of the page set. */
function msrWith(bytes: readonly number[], msr: number, bit: number, use = true): number {
  const box = new VmxBox().begin().code([...bytes, ...VMCALL]);
  if (!use) box.change(C.CPU_BASED_VM_EXEC_CONTROL, 0, CPU_BASED.USE_MSR_BITMAPS);
  box.write(C.EXCEPTION_BITMAP, 1 << 13);
  setReg(box.cpu, 1, BigInt(msr >>> 0));
  setReg(box.cpu, 0, 0n);
  setReg(box.cpu, 2, 0n);
  if (bit >= 0) box.cpu.mem.u8[AT.MSR_BITMAP + (bit >>> 3)] = 1 << (bit & 7);
  return box.launch();
}

describe('I/O bitmaps', () => {
  it.each([
    { port: 0x60, size: 1, bit: 0x60 },
    { port: 0x7fff, size: 1, bit: 0x7fff },
    { port: 0x8000, size: 1, bit: 0x8000 },
    { port: 0xffff, size: 1, bit: 0xffff },
    { port: 0x60, size: 4, bit: 0x63 },
    { port: 0x7fff, size: 2, bit: 0x8000 },
  ] as const)('port $port of $size bytes exits by bit $bit', ({ port, size, bit }) => {
    expect(inWith(port, size, bit)).toBe(R.IO_INSTRUCTION);
  });

  it.each([
    { port: 0x60, size: 1, bit: 0x61 },
    { port: 0x60, size: 1, bit: 0x5f },
    { port: 0x60, size: 4, bit: 0x64 },
    { port: 0x8000, size: 1, bit: 0x0000 },
    { port: 0x0, size: 1, bit: 0x8000 },
  ] as const)('port $port of $size bytes does not exit by bit $bit', ({ port, size, bit }) => {
    expect(inWith(port, size, bit)).toBe(R.VMCALL);
  });

  it('an access that wraps around the port space exits', () => {
    expect(inWith(0xfffd, 4, -1)).toBe(R.IO_INSTRUCTION);
    expect(inWith(0xfffc, 4, -1)).toBe(R.VMCALL);
  });

  it('the bitmaps override unconditional I/O exiting', () => {
    const box = new VmxBox().begin().code([0xec, ...VMCALL]);
    box.change(C.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.USE_IO_BITMAPS | CPU_BASED.UNCOND_IO_EXITING);
    expect(box.launch()).toBe(R.VMCALL);
  });
});

const RDMSR = [0x0f, 0x32];
const WRMSR = [0x0f, 0x30];
const SYSENTER_CS = 0x174;
const TSC_AUX = 0xc000_0103;

describe('MSR bitmaps', () => {
  // SDM: read low at 0, read high at 1024, write low at 2048, write high at 3072.
  it.each([
    { name: 'RDMSR low', bytes: RDMSR, msr: SYSENTER_CS, bit: SYSENTER_CS },
    { name: 'RDMSR high', bytes: RDMSR, msr: TSC_AUX, bit: 0x2000 + 0x103 },
    { name: 'WRMSR low', bytes: WRMSR, msr: SYSENTER_CS, bit: 0x4000 + SYSENTER_CS },
    { name: 'WRMSR high', bytes: WRMSR, msr: TSC_AUX, bit: 0x6000 + 0x103 },
  ])('$name exits by its bit and by no other', ({ bytes, msr, bit }) => {
    const reason = bytes === RDMSR ? R.MSR_READ : R.MSR_WRITE;
    expect(msrWith(bytes, msr, bit)).toBe(reason);
    expect(msrWith(bytes, msr, bit + 1)).toBe(R.VMCALL);
    expect(msrWith(bytes, msr, (bit + 0x4000) & 0x7fff)).toBe(R.VMCALL);
  });

  it.each([0x2000, 0xbfff_ffff, 0xc000_2000, 0xffff_ffff])('MSR %s outside of both ranges exits', (msr) => {
    expect(msrWith(RDMSR, msr, -1)).toBe(R.MSR_READ);
    expect(msrWith(WRMSR, msr, -1)).toBe(R.MSR_WRITE);
  });

  it('every access exits without MSR bitmaps', () => {
    expect(msrWith(RDMSR, SYSENTER_CS, -1, false)).toBe(R.MSR_READ);
  });

  it('an exit comes before the GP of an MSR that does not exist', () => {
    expect(msrWith(RDMSR, 0x1fff, 0x1fff)).toBe(R.MSR_READ);
    expect(msrWith(RDMSR, 0x1fff, -1)).toBe(R.EXCEPTION_NMI);
  });
});
