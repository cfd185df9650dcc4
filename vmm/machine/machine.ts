// SPDX-License-Identifier: GPL-2.0-only
/**
 * A whole machine: memory, frames, CPUs with their units, the APIC bus, I/O. Deterministic from its options. Knows no
 * KVM and no host kernel; those take the parts that they need from here.
 */
import type { Hpa, Pfn } from '../../lib/x86/addr.ts';
import { ApicBus } from './apic/apic_bus.ts';
import { LocalApic } from './apic/local_apic.ts';
import type { CpuProfile } from './cost/profiles.ts';
import { CodeCache } from './cpu/code_cache.ts';
import { Cpu } from './cpu/cpu.ts';
import { apicHostOf } from './cpu/system/apic_host.ts';
import { CpuidTable } from './cpu/system/cpuid.ts';
import { cpuidRows, CRYSTAL_KHZ } from './cpu/system/cpuid_profiles.ts';
import { type IoBus, IoSpace } from './cpu/system/io_bus.ts';
import { defineMsrs } from './cpu/system/msrs.ts';
import { resetCpu } from './cpu/system/reset.ts';
import { Rng } from './cpu/system/rng.ts';
import { SystemUnit } from './cpu/system/system_unit.ts';
import { BugError } from './errors.ts';
import { MAX_CPUS, TLB_BLOCK_SIZE } from './layout.ts';
import { FrameTable } from './memory/frames.ts';
import { PhysMem } from './memory/phys_mem.ts';
import { dropFastFrame, dropWriteTags } from './mmu/fast.ts';
import { Mmu, type TlbPolicy } from './mmu/mmu.ts';
import type { TlbStorage } from './tlb/tlb_array.ts';
import { vmxCapsOf } from './vmx/caps.ts';
import { VmxUnit } from './vmx/vmx_unit.ts';

export interface MachineOptions {
  readonly profile: CpuProfile;
  readonly nrCpus: number;
  readonly ramBytes: number;
  /** Replacement of the modelled TLB. */
  readonly tlb: TlbPolicy;
  /** Of everything random: RDRAND, replacement. */
  readonly seed: number;
}

export interface Machine {
  readonly profile: CpuProfile;
  readonly mem: PhysMem;
  readonly frames: FrameTable;
  readonly cpus: readonly Cpu[];
  readonly apicBus: ApicBus;
  /** Ports and devices. */
  readonly io: IoBus;
  readonly code: CodeCache;
  readonly rng: Rng;
  /** Stores to the frame take the slow path on every CPU from now on. */
  dropWriteTags(frame: Pfn): void;
  /** Memory was changed by something that is not a CPU's store: the kernel, a device. Drops decoded code. */
  noteStore(hpa: Hpa, length: number): void;
}

/** Build a machine; its CPUs are in the state after RESET. */
export function createMachine(options: MachineOptions): Machine {
  const { profile, nrCpus, seed } = options;
  if (!(nrCpus >= 1 && nrCpus <= MAX_CPUS)) throw new BugError(`${nrCpus} CPUs are not possible`);
  const mem = new PhysMem(options.ramBytes, nrCpus * TLB_BLOCK_SIZE);
  const frames = new FrameTable(mem.size, mem.memory.buffer);
  const cpus: Cpu[] = [];
  const forAll =
    (drop: (cpu: Cpu, frame: number) => void) =>
    (frame: number): void => {
      for (const cpu of cpus) drop(cpu, frame);
    };
  const machine: Machine = {
    profile,
    mem,
    frames,
    cpus,
    apicBus: new ApicBus(),
    io: { ports: new IoSpace(), mmio: new IoSpace() },
    code: new CodeCache(mem, forAll(dropWriteTags)),
    rng: new Rng(seed),
    dropWriteTags: forAll(dropWriteTags),
    noteStore: (hpa, length) => machine.code.noteStore(hpa, length),
  };
  frames.onRetire = forAll(dropFastFrame);
  const cpuid = new CpuidTable(cpuidRows(profile, nrCpus));
  for (let id = 0; id < nrCpus; id++) cpus.push(createCpu(machine, options, cpuid, id));
  return machine;
}

/** Where the modelled TLB of a CPU lies. */
const tlbStorage = (mem: PhysMem, id: number): TlbStorage => ({
  buffer: mem.memory.buffer,
  offset: mem.size + id * TLB_BLOCK_SIZE,
  size: TLB_BLOCK_SIZE,
});

function createCpu(machine: Machine, options: MachineOptions, cpuid: CpuidTable, id: number): Cpu {
  const { profile, mem, frames, apicBus: bus, io, code, rng } = machine;
  const cpu = new Cpu(id, mem, frames, profile.prices);
  const host = apicHostOf(cpu);
  const apic = new LocalApic({ id, bus, host, tscPerTick: profile.tscKhz / CRYSTAL_KHZ, bsp: id === 0 });
  const sys = new SystemUnit({ cpuid, io, apic, rng, maxPhyAddr: profile.maxPhysBits });
  const vmx = new VmxUnit(vmxCapsOf(profile));
  cpu.attach({
    mmu: new Mmu({ profile, tlb: options.tlb, storage: tlbStorage(mem, id) }),
    vmx,
    sys,
    apic,
    code,
  });
  defineMsrs(sys.msrs, profile.vendor);
  if (profile.vendor === 'intel') {
    for (const [msr, [lo, hi]] of vmx.caps.msrs) sys.msrs.constant(msr, `IA32_VMX MSR`, lo, hi);
  }
  resetCpu(cpu);
  return cpu;
}
