// SPDX-License-Identifier: GPL-2.0-only
/**
 * The bare VM entry and VM exit: TypeScript in the place of L0, a guest that is a loop of VMCALL or CPUID, all checks
 * on. What L0 would do with the exit is only to move RIP past the instruction.
 */
import { VMCS_GUEST } from '../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../lib/x86/vmx/vmcs_info.ts';
import { cpuRun } from '../vmm/machine/cpu/system/run.ts';
import { vmresume } from '../vmm/machine/vmx/entry.ts';
import { VmxBox } from '../vmm/machine/vmx/testing/fixture.ts';
import { vmread32, vmwrite32 } from '../vmm/machine/vmx/vmcs_access.ts';

/** A kernel's outcome: round trips, and how many seconds they took by `now` (milliseconds). */
export interface VmxBenchResult {
  readonly roundTrips: number;
  readonly perSecond: number;
  readonly cyclesPerTrip: number;
}

/** Guest loops: the instruction, then a jump back to it. */
// prettier-ignore
export const VMX_GUESTS = {
  vmcall: [0x0f, 0x01, 0xc1, 0xeb, 0xfb],
  cpuid:  [0x0f, 0xa2, 0xeb, 0xfc],
} as const;

/** Run `trips` round trips; `now` is a clock in milliseconds. */
export function vmxRoundTrips(
  guest: keyof typeof VMX_GUESTS,
  trips: number,
  now: () => number,
): VmxBenchResult {
  const box = new VmxBox().begin().code(VMX_GUESTS[guest]);
  const { cpu } = box;
  box.launch();
  const startCycles = cpu.clock[0]!;
  const start = now();
  for (let n = 0; n < trips; n++) {
    vmwrite32(
      cpu,
      VMCS_GUEST.RIP,
      vmread32(cpu, VMCS_GUEST.RIP) + vmread32(cpu, VMCS_INFO.VM_EXIT_INSTRUCTION_LEN),
    );
    vmresume(cpu);
    cpuRun(cpu, Infinity);
    vmread32(cpu, VMCS_INFO.VM_EXIT_REASON);
  }
  const seconds = (now() - start) / 1000;
  return {
    roundTrips: trips,
    perSecond: trips / seconds,
    cyclesPerTrip: (cpu.clock[0]! - startCycles) / trips,
  };
}
