// SPDX-License-Identifier: GPL-2.0-only
/**
 * The entry-check matrix as a guest program: L1 makes each VMCS from a saved valid one, executes VMLAUNCH, and records how that
 * ended. It needs no host in between: what it recorded is read or printed at the end.
 */
import { VMX_EXIT_REASONS } from '../../x86/vmx/exit_reasons.ts';
import { vmcsFieldType, VMCS_TYPE } from '../../x86/vmx/field.ts';
import { VMCS_CTRL } from '../../x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../x86/vmx/vmcs_guest.ts';
import { VMCS_HOST } from '../../x86/vmx/vmcs_host.ts';
import { VMCS_INFO } from '../../x86/vmx/vmcs_info.ts';
import type { GuestCode } from '../dsl/builder.ts';
import { at, imm, lit, type Place } from '../dsl/expr.ts';
import { type GuestFn, guestUnit } from '../dsl/function.ts';
import { guestGlobal } from '../dsl/global.ts';
import type { Operand } from '../dsl/rvalue.ts';
import { array, bool, type IntType, ptr, type PtrType, u32, u64, u8, type VoidType } from '../dsl/types.ts';
import { GUEST_ASSERT, GUEST_ASSERT_EQ } from '../guest_assert.ts';
import { cpuid, get_cs, rdmsr } from '../processor.ts';
import { memset } from '../string.ts';
import { prepare_for_vmx_operation, VMCS_SHADOW_BIT } from '../vmx.ts';
import {
  vm_instruction_error,
  vmclear,
  vmcs_revision,
  vmptrld,
  vmread,
  vmreadz,
  vmwrite,
  VMX_STATUS,
} from '../vmx_insns.ts';
import { VmxPages } from '../vmx_pages.ts';
import { prepare_vmcs } from '../vmx_vmcs.ts';
import type { EntryCase } from './cases.ts';
import { entry_check_l2, entry_check_launch } from './l2.ts';
import { OUTCOME, OutcomeRecord } from './outcome.ts';
import { CHECK_PAGES, type CheckPage, WRITE_OP } from './row.ts';
import {
  CASE_FLAG,
  CaseRecord,
  checkPages,
  type CheckTables,
  checkTables,
  NO_PAGE,
  WriteRecord,
} from './tables.ts';

const L1 = guestUnit('L1').fn;
const PAGE = 4096;
const GATES = 256;

/** Every field that software writes, but HOST_RSP and HOST_RIP. */
const FIELDS: readonly number[] = [VMCS_CTRL, VMCS_GUEST, VMCS_HOST]
  .flatMap((table): number[] => Object.values(table))
  .filter(
    (field) => field !== VMCS_HOST.RSP && field !== VMCS_HOST.RIP && vmcsFieldType(field) !== VMCS_TYPE.INFO,
  );

const pages = checkPages();
const fields = guestGlobal('entry_check_fields', array(u32, FIELDS.length), FIELDS);
const baseline = guestGlobal('entry_check_baseline', array(u64, FIELDS.length));
const exists = guestGlobal('entry_check_field_exists', array(u8, FIELDS.length));
/** 2 to the physical-address width. */
export const beyondWidth = guestGlobal('entry_check_beyond', u64);
const idt = guestGlobal('entry_check_idt', array(u64, 2 * GATES));
const stack = guestGlobal('entry_check_stack', array(u64, 512));
const areas = guestGlobal('entry_check_vmx_pages', VmxPages);

/** The guest virtual and the guest physical address of a page. */
export const checkPageVirtual = (name: CheckPage): Place => pages.virtual.at(CHECK_PAGES.indexOf(name));
export const checkPagePhysical = (name: CheckPage): Place<IntType> =>
  pages.physical.at(CHECK_PAGES.indexOf(name));

/** The areas that the VMX library uses are the first pages. */
function fillAreas(g: GuestCode): void {
  const use = (area: 'vmxon' | 'vmcs' | 'msr' | 'vmread' | 'vmwrite', page: CheckPage): void => {
    g.set(areas.f[area], checkPageVirtual(page));
    g.set(areas.f[`${area}_gpa`], checkPagePhysical(page));
  };
  use('vmxon', 'vmxon');
  use('vmcs', 'vmcs');
  for (const area of ['msr', 'vmread', 'vmwrite'] as const) use(area, 'zero');
}

/** Every gate of L2's IDT leads to its VMCALL. */
const fillIdt = L1('entry_check_fill_idt', [], (g) => {
  const handler = g.let(lit(entry_check_l2).cast(u64));
  const low = g.let(
    handler
      .and(0xffff)
      .or(get_cs(g).cast(u64).shl(16))
      .or(imm(u64, 0x8e00n << 32n)),
  );
  g.set(low, '|=', handler.shr(16).and(0xffff).shl(48));
  const i = g.local(u32);
  g.forRange(i, 0, GATES, 1, () => {
    g.set(idt.at(i.mul(2)), low);
    g.set(idt.at(i.mul(2).add(1)), handler.shr(32));
  });
});

/** An identity map of the low 4 GiB by 1-GByte pages: read, write, execute, write-back. */
const fillEpt = L1('entry_check_fill_ept', [], (g) => {
  g.set(at(u64, checkPageVirtual('ept')), checkPagePhysical('ept_pdpt').or(7));
  const i = g.local(u64);
  g.forRange(i, 0, 4, 1, () =>
    g.set(at(u64, checkPageVirtual('ept_pdpt').cast(u64).add(i.mul(8))), i.shl(30).or(0xb7)),
  );
});

/** Saves every field that the processor has. */
const saveBaseline = L1('entry_check_save', [], (g) => {
  const i = g.local(u32);
  g.forRange(i, 0, FIELDS.length, 1, () => {
    const status = vmread(g, fields.at(i), baseline.at(i));
    g.set(exists.at(i), status.eq(VMX_STATUS.SUCCEED).cast(u8));
  });
});

/** A VMCS that was never launched, with every field as saved. */
export const freshVmcs = L1('entry_check_fresh', [], (g) => {
  GUEST_ASSERT_EQ(g, vmclear(g, checkPagePhysical('vmcs')), VMX_STATUS.SUCCEED);
  GUEST_ASSERT_EQ(g, vmptrld(g, checkPagePhysical('vmcs')), VMX_STATUS.SUCCEED);
  const i = g.local(u32);
  g.forRange(i, 0, FIELDS.length, 1, () =>
    g.if(exists.at(i), () => vmwrite(g, fields.at(i), baseline.at(i))),
  );
});

/** VMX operation, and a valid VMCS whose guest leaves by VMCALL. */
export const entry_check_set_up = L1('entry_check_set_up', [], (g) => {
  fillAreas(g);
  fillIdt(g);
  fillEpt(g);
  // CPUID.80000008H:EAX[7:0] is the physical-address width.
  const width = cpuid(g, 0x8000_0008).eax.and(0xff);
  g.set(beyondWidth, imm(u64, 1).shl(width));
  GUEST_ASSERT(g, prepare_for_vmx_operation(g, areas.addr()));
  for (const page of ['vmcs', 'vmcs2'] as const) g.set(at(u32, checkPageVirtual(page)), vmcs_revision(g));
  g.set(at(u32, checkPageVirtual('shadow')), vmcs_revision(g).or(VMCS_SHADOW_BIT));
  GUEST_ASSERT_EQ(g, vmclear(g, checkPagePhysical('vmcs')), VMX_STATUS.SUCCEED);
  GUEST_ASSERT_EQ(g, vmptrld(g, checkPagePhysical('vmcs')), VMX_STATUS.SUCCEED);
  prepare_vmcs(g, areas.addr(), entry_check_l2, stack.at(256).addr());
  vmwrite(g, VMCS_GUEST.IDTR_BASE, idt.addr().cast(u64));
  vmwrite(g, VMCS_GUEST.IDTR_LIMIT, 0xfff);
  // Every exception of L2 is a VM exit, page faults included.
  vmwrite(g, VMCS_CTRL.EXCEPTION_BITMAP, 0xffff_ffff);
  vmwrite(g, VMCS_CTRL.PAGE_FAULT_ERROR_CODE_MATCH, 0);
  saveBaseline(g);
});

/** The value of a write: number, page and width. */
const writeValue = L1('entry_check_value', [ptr(WriteRecord)], u64, (g, write) => {
  const value = g.local(u64, write.f.value);
  g.if(write.f.page.ne(NO_PAGE), () => g.set(value, '+=', pages.physical.at(write.f.page)));
  g.if(write.f.beyond, () => g.set(value, '+=', beyondWidth));
  g.return(value);
});

/** Fields are written even if the processor lacks them: then a need says so. */
const applyWrite = L1('entry_check_apply', [ptr(WriteRecord)], (g, write) => {
  const { op, field, into } = write.f;
  const value = g.let(writeValue(g, write));
  g.switch(op, [
    [WRITE_OP.SET, () => vmwrite(g, field, value)],
    [WRITE_OP.OR, () => vmwrite(g, field, vmreadz(g, field).or(value))],
    [WRITE_OP.CLEAR, () => vmwrite(g, field, vmreadz(g, field).and(value.bnot()))],
    [WRITE_OP.POKE, () => g.set(at(u64, pages.virtual.at(into).cast(u64).add(field)), value)],
  ]);
});

/** Whether the processor has what a case needs. */
const needsMet = (tables: CheckTables): GuestFn<readonly [PtrType<typeof CaseRecord>], typeof bool> =>
  L1('entry_check_needs_met', [ptr(CaseRecord)], bool, (g, one) => {
    const i = g.local(u32);
    g.forRange(i, one.f.first_need, one.f.first_need.add(one.f.nr_needs), 1, () => {
      const need = tables.needs.at(i);
      g.if(rdmsr(g, need.f.msr).and(need.f.mask).ne(need.f.want), () => g.return(0));
    });
    g.return(1);
  });

/** Leaves an outcome. */
export function record(
  g: GuestCode,
  out: Place<PtrType<typeof OutcomeRecord>>,
  kind: Operand,
  number: Operand = 0,
  qualification: Operand = 0,
): void {
  const { f } = out;
  g.set(f.kind, kind);
  g.set(f.number, lit(number).cast(u32));
  g.set(f.qualification, lit(qualification).cast(u64));
}

/** What VMLAUNCH did. */
const recordEntry = L1('entry_check_record', [ptr(OutcomeRecord), u32], (g, out, status) => {
  g.if(status.eq(VMX_STATUS.FAIL_INVALID), () => {
    record(g, out, OUTCOME.VMFAIL_INVALID);
    g.return();
  });
  g.if(status.eq(VMX_STATUS.FAIL_VALID), () => {
    record(g, out, OUTCOME.VMFAIL_VALID, vm_instruction_error(g));
    g.return();
  });
  const reason = vmreadz(g, VMCS_INFO.VM_EXIT_REASON);
  g.if(
    reason.and(VMX_EXIT_REASONS.FAILED_VMENTRY >>> 0).ne(0),
    () =>
      record(
        g,
        out,
        OUTCOME.ENTRY_FAILURE,
        reason.and(VMX_EXIT_REASONS.BASIC_MASK),
        vmreadz(g, VMCS_INFO.EXIT_QUALIFICATION),
      ),
    () => record(g, out, OUTCOME.ENTERED),
  );
});

/** A program: a function of L1 that runs all cases, and where it leaves the outcomes. */
export interface EntryCheckProgram {
  readonly run: GuestFn<readonly [], VoidType>;
  readonly tables: CheckTables;
}

/** The program of these cases. */
export function entryCheckProgram(cases: readonly EntryCase[]): EntryCheckProgram {
  const tables = checkTables(cases);
  const met = needsMet(tables);
  const runCase = L1('entry_check_case', [ptr(CaseRecord), ptr(OutcomeRecord)], (g, one, out) => {
    g.if(met(g, one).lnot(), () => {
      record(g, out, OUTCOME.SKIPPED);
      g.return();
    });
    freshVmcs(g);
    memset(g, checkPageVirtual('data'), 0, PAGE);
    const i = g.local(u32);
    const lateField = g.local(u64, 0);
    const lateValue = g.local(u64, 0);
    g.forRange(i, one.f.first_write, one.f.first_write.add(one.f.nr_writes), 1, () => {
      const write = tables.writes.at(i);
      applyWrite(g, write.addr());
      g.if(write.f.op.eq(WRITE_OP.LATE), () => {
        g.set(lateField, write.f.field.cast(u64));
        g.set(lateValue, writeValue(g, write.addr()));
      });
    });
    const movSs = one.f.flags.and(CASE_FLAG.AFTER_MOV_SS).cast(u64);
    recordEntry(g, out, g.call(entry_check_launch, lateField, lateValue, movSs).cast(u32));
    g.if(one.f.flags.and(CASE_FLAG.HOST).ne(0), () => {
      // Host state as it was comes back with the next VM exit.
      freshVmcs(g);
      GUEST_ASSERT_EQ(g, g.call(entry_check_launch, 0, 0, 0), 0);
    });
  });
  const run = L1('entry_check_run', [], (g) => {
    const i = g.local(u32);
    g.forRange(i, 0, tables.nrCases, 1, () =>
      runCase(g, tables.cases.at(i).addr(), tables.results.at(i).addr()),
    );
  });
  return { run, tables };
}
