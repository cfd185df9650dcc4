// SPDX-License-Identifier: GPL-2.0-only
/** Port I/O of one IN or OUT: kvm_fast_pio() of arch/x86/kvm/x86.c, 6.12. No port has an in-kernel device. */
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

/** Leaves for userspace; IN continues when userspace has filled the data page. Returns 0. */
export function kvmFastPio(vcpu: Vcpu, io: PioAccess): number {
  const { run } = vcpu;
  const rip = kvmRipRead(vcpu);
  run.exit_reason = KVM_EXIT.IO;
  run.io.direction = io.direction === 'in' ? KVM_EXIT_IO.IN : KVM_EXIT_IO.OUT;
  run.io.size = io.size;
  run.io.port = io.port;
  run.io.count = 1;
  run.io.data_offset = KVM_PIO_PAGE_OFFSET * PAGE;
  if (io.direction === 'out') {
    const value = kvmRegisterRead32(vcpu, GPR.RAX);
    for (let i = 0; i < io.size; i++) run.pio_data[i] = value >>> (8 * i);
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
