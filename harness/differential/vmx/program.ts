// SPDX-License-Identifier: GPL-2.0-only
/** A VMX program of the corpus from its table of cases: areas and IDT prepared, L1 entered with its struct vmx_pages. */
import { type GuestCode, type Expr, linkGuest } from '../../../lib/guest/index.ts';
import { vmInstallExceptionHandler } from '../../../lib/kvm_util/x86/exceptions.ts';
import { vcpuArgsSet } from '../../../lib/kvm_util/x86/processor.ts';
import { vcpuAllocVmx } from '../../../lib/kvm_util/x86/vmx.ts';
import type { DifferentialProgram } from '../program.ts';
import { AREA_PAGES, DIRECT, prepareAreas } from './areas.ts';
import { VMX_ROOTS, vmxMain, type VmxCase } from './cases.ts';
import { l1_interrupt, L1_VECTOR, prepareL2Idt } from './l2_idt.ts';

interface VmxProgram {
  readonly name: string;
  readonly summary: string;
  readonly cases: readonly VmxCase[];
  /** What L1 does after the cases, in VMX root operation. */
  readonly more?: (g: GuestCode, vmx: Expr) => void;
}

/** A program of the corpus. */
export const vmxProgram = ({ name, summary, cases, more }: VmxProgram): DifferentialProgram => ({
  name,
  summary,
  on: ['L0', 'machine'],
  image: () => linkGuest(vmxMain(cases, more), ...VMX_ROOTS),
  extraPages: AREA_PAGES,
  *prepare(vm, vcpu) {
    // Before the EPT is there: it is the cases' to use.
    vcpuArgsSet(vcpu, vcpuAllocVmx(vm));
    vmInstallExceptionHandler(vm, L1_VECTOR, l1_interrupt.symbol);
    prepareL2Idt(vm, DIRECT + BigInt(prepareAreas(vm).idt));
  },
});
