// SPDX-License-Identifier: GPL-2.0-only
/** Fields that are copied together between a VMCS of the processor and vmcs12: the runs of assignments in vmx/nested.c. */
import type { Cpu } from '../../../machine/cpu/cpu.ts';
import { VmcsFieldList } from '../../../machine/vmx/vmcs_field_list.ts';
import type { Vmcs12 } from './vmcs12.ts';
import { vmcs12Offset } from './vmcs12_layout.ts';

export class FieldGroup {
  readonly #list: VmcsFieldList;

  /** `from`: the fields of vmcs12 that these are copied from and to, of the same widths and in the same order. */
  constructor(fields: readonly number[], from: readonly number[] = fields) {
    this.#list = new VmcsFieldList(fields, from.map(vmcs12Offset));
  }

  /** From the current VMCS. */
  toVmcs12(cpu: Cpu, vmcs12: Vmcs12): void {
    this.#list.read(cpu, vmcs12);
  }

  /** To the current VMCS. */
  toVmcs(cpu: Cpu, vmcs12: Vmcs12): void {
    this.#list.write(cpu, vmcs12);
  }
}
