// SPDX-License-Identifier: GPL-2.0-only
/**
 * Entry-check rows: VM-exit and VM-entry controls but event injection. SDM, "VM-Exit Control Fields" and "VM-Entry Control
 * Fields" of "Checks on VMX Controls"; "Loading MSRs" of VM entry, for what a list may hold.
 */
import { MSR } from '../../x86/msr.ts';
import { PIN_BASED, VM_ENTRY, VM_EXIT } from '../../x86/vmx/controls.ts';
import { EXIT_REASON } from '../../x86/vmx/exit_reasons.ts';
import { VMXERR } from '../../x86/vmx/insn_errors.ts';
import { VMCS_CTRL as C } from '../../x86/vmx/vmcs_ctrl.ts';
import {
  type AnyValue,
  beyond,
  by,
  type EntryRow,
  entry,
  entryFailure,
  exit,
  failValid,
  hasExit,
  hasPin,
  page,
  pin,
  poke,
  set,
  type Write,
} from './row.ts';

const EXIT = 'VM-Exit Control Fields';
const ENTRY = 'VM-Entry Control Fields';
const LOADING = 'Loading MSRs';
const expected = failValid(VMXERR.ENTRY_INVALID_CONTROL_FIELD);

/** A list entry that every processor takes: {index, reserved, value}. */
const msrEntry = (n: number, index: number, value: AnyValue, reserved = 0): readonly Write[] => [
  poke('data', n * 16, (BigInt(reserved) << 32n) | BigInt(index >>> 0)),
  poke('data', n * 16 + 8, value),
];
const HARMLESS = [...msrEntry(0, MSR.KERNEL_GS_BASE, 0), ...msrEntry(1, MSR.KERNEL_GS_BASE, 0)];

/** One of the three MSR areas. */
function area(section: string, name: string, address: number, count: number): readonly EntryRow[] {
  const row = (rule: string, valid: readonly Write[], invalid: readonly Write[]): EntryRow => ({
    section,
    rule: `${name}: ${rule}`,
    valid: by(...HARMLESS, ...valid),
    invalid: by(...HARMLESS, ...invalid),
    expected,
  });
  const at = (value: AnyValue, n: number): readonly Write[] => [set(address, value), set(count, n)];
  return [
    row('bits 3:0 of the address are 0', at(page('data', 16), 1), at(page('data', 8), 1)),
    row('an empty list may be anywhere', at(page('data', 1), 0), at(page('data', 1), 1)),
    row('the bits beyond the physical-address width are 0', at(page('data'), 2), at(beyond('data'), 1)),
    row(
      'the last byte is within the physical-address width',
      at(beyond('data'), 0),
      at({ beyond: true, plus: -16 }, 2),
    ),
    row('bit 63 of the address is 0', at(page('data', 16), 1), at({ plus: 1n << 63n }, 1)),
  ];
}

const TIMER_SAVED = [hasPin(PIN_BASED.VMX_PREEMPTION_TIMER), hasExit(VM_EXIT.SAVE_VMX_PREEMPTION_TIMER)];

const CONTROL_FIELDS: readonly EntryRow[] = [
  {
    section: EXIT,
    rule: 'saving the VMX-preemption timer needs its activation',
    needs: TIMER_SAVED,
    valid: by(pin(PIN_BASED.VMX_PREEMPTION_TIMER), exit(VM_EXIT.SAVE_VMX_PREEMPTION_TIMER)),
    invalid: by(exit(VM_EXIT.SAVE_VMX_PREEMPTION_TIMER)),
    expected,
  },
  {
    section: ENTRY,
    rule: '"entry to SMM" is 0 outside of SMM',
    invalid: {
      ...by(entry(VM_ENTRY.SMM)),
      bochs: { where: 'VMenterLoadCheckVmControls()', why: 'found by the checks on guest state only' },
    },
    expected,
  },
  {
    section: ENTRY,
    rule: '"deactivate dual-monitor treatment" is 0 outside of SMM',
    invalid: by(entry(VM_ENTRY.DEACT_DUAL_MONITOR)),
    expected,
  },
  ...area(EXIT, 'VM-exit MSR-store area', C.VM_EXIT_MSR_STORE_ADDR, C.VM_EXIT_MSR_STORE_COUNT),
  ...area(EXIT, 'VM-exit MSR-load area', C.VM_EXIT_MSR_LOAD_ADDR, C.VM_EXIT_MSR_LOAD_COUNT),
  ...area(ENTRY, 'VM-entry MSR-load area', C.VM_ENTRY_MSR_LOAD_ADDR, C.VM_ENTRY_MSR_LOAD_COUNT),
];

/** An entry list of two of which the second is bad: it fails with the number of the entry. */
function loaded(rule: string, bad: readonly Write[], good: readonly Write[] = []): EntryRow {
  const list = [set(C.VM_ENTRY_MSR_LOAD_ADDR, page('data')), set(C.VM_ENTRY_MSR_LOAD_COUNT, 2)];
  return {
    section: LOADING,
    rule,
    valid: by(...HARMLESS, ...good, ...list),
    invalid: by(...HARMLESS, ...bad, ...list),
    expected: entryFailure(EXIT_REASON.MSR_LOAD_FAIL, 2),
  };
}

const second = (index: number, value: AnyValue, reserved = 0): readonly Write[] =>
  msrEntry(1, index, value, reserved);
const NOT_CANONICAL = 1n << 47n;

const LISTS: readonly EntryRow[] = [
  loaded('IA32_FS_BASE is not in the list', second(MSR.FS_BASE, 0)),
  loaded('IA32_GS_BASE is not in the list', second(MSR.GS_BASE, 0)),
  loaded('bits 63:32 of an entry are 0', second(MSR.KERNEL_GS_BASE, 0, 1)),
  loaded('an MSR of the x2APIC range is not in the list', second(0x808, 0)),
  loaded('the whole range 800H-8FFH belongs to x2APIC', second(0x8ff, 0)),
  {
    ...loaded('an MSR that does not exist fails', []),
    invalid: {
      ...loaded('', second(0x4000_0fff, 0)).invalid!,
      bochs: { where: 'LoadMSRs()', why: 'Debian builds Bochs so that unknown MSRs are ignored' },
    },
  },
  loaded(
    'a value that WRMSR would refuse fails',
    second(MSR.KERNEL_GS_BASE, NOT_CANONICAL),
    second(MSR.KERNEL_GS_BASE, NOT_CANONICAL - 1n),
  ),
  loaded('a read-only MSR fails', second(0x480, 0)),
  {
    ...loaded('the first bad entry is told', [...msrEntry(0, MSR.FS_BASE, 0), ...second(MSR.FS_BASE, 0)]),
    expected: entryFailure(EXIT_REASON.MSR_LOAD_FAIL, 1),
  },
];

/** Rows of this file. */
export const TRANSITION_ROWS: readonly EntryRow[] = [...CONTROL_FIELDS, ...LISTS];
