// SPDX-License-Identifier: GPL-2.0-only
/** Entry-check cases as data of the guest image, and the pages that they name. */
import { vmcsFieldType, VMCS_TYPE } from '../../x86/vmx/field.ts';
import { type GuestGlobal, guestGlobal, type Init } from '../dsl/global.ts';
import { struct } from '../dsl/struct.ts';
import { array, type ArrayType, ptr, u16, u32, u64, u8, type IntType, type PtrType } from '../dsl/types.ts';
import { Page } from '../vmx_pages.ts';
import type { EntryCase } from './cases.ts';
import { OutcomeRecord } from './outcome.ts';
import { CHECK_PAGES, type CheckPage, type Need, type Write, WRITE_OP } from './row.ts';

/** `page` and `into` are indices into the pages, NO_PAGE for none. */
export const WriteRecord = struct('struct check_write', {
  op: u8,
  page: u8,
  beyond: u8,
  into: u8,
  field: u32,
  value: u64,
});
export const NeedRecord = struct('struct check_need', { msr: u64, mask: u64, want: u64 });
export const CaseRecord = struct('struct check_case', {
  first_write: u32,
  nr_writes: u16,
  nr_needs: u16,
  first_need: u32,
  flags: u32,
});

export const NO_PAGE = 0xff;
/** AFTER_MOV_SS: VMLAUNCH follows a MOV SS. HOST: a VM exit leaves L1 with other registers. */
export const CASE_FLAG = { AFTER_MOV_SS: 1, HOST: 2 } as const;

const pageIndex = (page: CheckPage | undefined): number =>
  page === undefined ? NO_PAGE : CHECK_PAGES.indexOf(page);

const writeInit = ({ op, field, value, into }: Write): Init => ({
  op,
  page: pageIndex(value.page),
  beyond: value.beyond ? 1 : 0,
  into: pageIndex(into),
  field,
  value: BigInt.asUintN(64, BigInt(value.plus ?? 0)),
});
const needInit = ({ msr, mask, want }: Need): Init => ({ msr, mask, want });

const touchesHost = (writes: readonly Write[]): boolean =>
  writes.some(({ op, field }) => op !== WRITE_OP.POKE && vmcsFieldType(field) === VMCS_TYPE.HOST);

interface Encoded {
  readonly cases: Init[];
  readonly writes: Init[];
  readonly needs: Init[];
}

function encode(list: readonly EntryCase[]): Encoded {
  const out: Encoded = { cases: [], writes: [], needs: [] };
  for (const { row, variant } of list) {
    const needs = row.needs ?? [];
    const flags =
      (variant.afterMovSs ? CASE_FLAG.AFTER_MOV_SS : 0) | (touchesHost(variant.writes) ? CASE_FLAG.HOST : 0);
    out.cases.push({
      first_write: out.writes.length,
      nr_writes: variant.writes.length,
      nr_needs: needs.length,
      first_need: out.needs.length,
      flags,
    });
    out.writes.push(...variant.writes.map(writeInit));
    out.needs.push(...needs.map(needInit));
  }
  return out;
}

/** The globals of a program. */
export interface CheckTables {
  readonly nrCases: number;
  readonly cases: GuestGlobal<ArrayType<typeof CaseRecord>>;
  readonly writes: GuestGlobal<ArrayType<typeof WriteRecord>>;
  readonly needs: GuestGlobal<ArrayType<typeof NeedRecord>>;
  readonly results: GuestGlobal<ArrayType<typeof OutcomeRecord>>;
}

/** Symbol of the results. */
export const ENTRY_RESULTS = 'entry_check_results';

/** Lays out the cases. */
export function checkTables(list: readonly EntryCase[]): CheckTables {
  const { cases, writes, needs } = encode(list);
  return {
    nrCases: list.length,
    cases: guestGlobal('entry_check_cases', array(CaseRecord, cases.length), cases),
    writes: guestGlobal('entry_check_writes', array(WriteRecord, writes.length), writes),
    needs: guestGlobal('entry_check_needs', array(NeedRecord, Math.max(1, needs.length)), needs),
    results: guestGlobal(ENTRY_RESULTS, array(OutcomeRecord, list.length)),
  };
}

/** The symbol of a page. */
export const checkPageSymbol = (page: CheckPage): string => `entry_check_page_${page}`;
/** Symbol of the guest physical addresses of the pages: eight bytes each, in the order of CHECK_PAGES. */
export const CHECK_GPAS = 'entry_check_gpas';

/** The pages, by address: guest virtual, and guest physical, which the host half corrects if the two differ. */
export interface CheckPages {
  readonly virtual: GuestGlobal<ArrayType<PtrType>>;
  readonly physical: GuestGlobal<ArrayType<IntType>>;
}

/** Lays out the pages. */
export function checkPages(): CheckPages {
  const pages = CHECK_PAGES.map((page) => guestGlobal(checkPageSymbol(page), Page).data);
  return {
    virtual: guestGlobal('entry_check_pages', array(ptr(), pages.length), pages),
    physical: guestGlobal(CHECK_GPAS, array(u64, pages.length), pages),
  };
}
