// SPDX-License-Identifier: GPL-2.0-only
/**
 * Port I/O: kvm_fast_pio() of one IN or OUT, and one turn of INS or OUTS for the emulator (emulator_pio_in() and
 * emulator_pio_out()) of arch/x86/kvm/x86.c, 6.12. No port has an in-kernel device.
 */
import { KVM_EXIT, KVM_EXIT_IO, KVM_PIO_PAGE_OFFSET } from '../../../lib/uapi/run.ts';
import { KVM_X86_QUIRK } from '../../../lib/uapi/memory.ts';
import { GPR } from '../../../lib/x86/registers.ts';
import type { Vcpu } from '../kvm_host.ts';
import { TP } from '../trace_events.ts';
import { kvmRegisterCache, kvmRegisterRead32, kvmRegisterWrite, kvmRipRead } from './cache_regs.ts';
import { kvmSkipEmulatedInstruction } from './skip.ts';

export interface PioAccess {
  readonly port: number;
  /** 1, 2 or 4. */
  readonly size: number;
  readonly direction: 'in' | 'out';
}

const PAGE = 4096;
const OUT_7E = 0x7e;

function tracePio(vcpu: Vcpu, io: PioAccess, value: number): void {
  const { trace } = vcpu.kvm.module;
  if (trace.on[TP.KVM_PIO] !== 0)
    trace.record(TP.KVM_PIO, io.direction === 'out' ? 1 : 0, io.port, io.size, 1, value);
}

function readData(data: Uint8Array, size: number): number {
  let value = 0;
  for (let i = size - 1; i >= 0; i--) value = value * 256 + data[i]!;
  return value;
}

/** kvm_run for one access. */
function fillRun(vcpu: Vcpu, io: PioAccess): void {
  const { run } = vcpu;
  run.exit_reason = KVM_EXIT.IO;
  run.io.direction = io.direction === 'in' ? KVM_EXIT_IO.IN : KVM_EXIT_IO.OUT;
  run.io.size = io.size;
  run.io.port = io.port;
  run.io.count = 1;
  run.io.data_offset = KVM_PIO_PAGE_OFFSET * PAGE;
}

const writeData = (data: Uint8Array, size: number, value: number): void => {
  for (let i = 0; i < size; i++) data[i] = value >>> (8 * i);
};

const stringPort = (vcpu: Vcpu): number => kvmRegisterRead32(vcpu, GPR.RDX) & 0xffff;

/** One INS: leaves for userspace, and goes on with what it read. Returns 0. */
export function kvmStringIn(vcpu: Vcpu, size: number, then: (vcpu: Vcpu, value: number) => number): number {
  const io: PioAccess = { port: stringPort(vcpu), size, direction: 'in' };
  fillRun(vcpu, io);
  vcpu.arch.completeUserspaceIo = (v) => {
    const value = readData(v.run.pio_data, size);
    tracePio(v, io, value);
    return then(v, value);
  };
  return 0;
}

/** One OUTS: leaves for userspace. Returns 0. */
export function kvmStringOut(vcpu: Vcpu, size: number, value: number): number {
  const io: PioAccess = { port: stringPort(vcpu), size, direction: 'out' };
  fillRun(vcpu, io);
  writeData(vcpu.run.pio_data, size, value);
  tracePio(vcpu, io, value);
  return 0;
}

/** Leaves for userspace; IN continues when userspace has filled the data page. Returns 0. */
export function kvmFastPio(vcpu: Vcpu, io: PioAccess): number {
  const { run } = vcpu;
  const rip = kvmRipRead(vcpu);
  fillRun(vcpu, io);
  if (io.direction === 'out') {
    const value = kvmRegisterRead32(vcpu, GPR.RAX);
    writeData(run.pio_data, io.size, value);
    tracePio(vcpu, io, io.size === 4 ? value : value & ((1 << (8 * io.size)) - 1));
    // Old userspace expects RIP behind an OUT to this port, which resets the machine.
    const early = io.port === OUT_7E && (vcpu.kvm.arch.disabledQuirks & KVM_X86_QUIRK.OUT_7E_INC_RIP) === 0;
    if (early) kvmSkipEmulatedInstruction(vcpu);
    vcpu.arch.completeUserspaceIo = (v) =>
      early || kvmRipRead(v) !== rip ? 1 : kvmSkipEmulatedInstruction(v);
    return 0;
  }
  // Userspace that moved RIP has taken the instruction away.
  vcpu.arch.completeUserspaceIo = (v) => (kvmRipRead(v) !== rip ? 1 : completeFastPioIn(v, io));
  return 0;
}

/** complete_fast_pio_in(): 32-bit results clear RAX's upper half, narrower ones keep the rest. */
function completeFastPioIn(vcpu: Vcpu, io: PioAccess): number {
  const value = readData(vcpu.run.pio_data, io.size);
  tracePio(vcpu, io, value);
  kvmRegisterCache(vcpu, GPR.RAX);
  const { regs } = vcpu.arch;
  if (io.size === 4) kvmRegisterWrite(vcpu, GPR.RAX, value | 0, 0);
  else {
    const mask = (1 << (8 * io.size)) - 1;
    kvmRegisterWrite(vcpu, GPR.RAX, (regs[2 * GPR.RAX]! & ~mask) | value, regs[2 * GPR.RAX + 1]!);
  }
  return kvmSkipEmulatedInstruction(vcpu);
}
