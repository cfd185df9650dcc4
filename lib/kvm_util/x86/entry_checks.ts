// SPDX-License-Identifier: GPL-2.0-only
/**
 * The host half of the entry-check matrix (lib/guest/entry_checks): tells L1 where its pages are in guest physical memory, and
 * reads the outcomes that L1 has recorded.
 */
import { checkPageSymbol, CHECK_GPAS } from '../../guest/entry_checks/tables.ts';
import { type Outcome, OutcomeRecord } from '../../guest/entry_checks/outcome.ts';
import { CHECK_PAGES } from '../../guest/entry_checks/row.ts';
import { symbolAddress, u64Bytes } from '../guest_global.ts';
import type { KvmVm } from '../kvm_util.ts';
import { addrGva2gpa, readGuest, writeGuest } from './page_table.ts';

/** Before the guest runs: in the image guest physical addresses are as if they were the virtual ones. */
export function locateCheckPages(vm: KvmVm): void {
  const table = symbolAddress(vm, CHECK_GPAS);
  CHECK_PAGES.forEach((page, n) => {
    const at = addrGva2gpa(vm, symbolAddress(vm, checkPageSymbol(page)));
    writeGuest(vm, table + BigInt(n * 8), u64Bytes(BigInt(at)));
  });
}

/** `count` outcomes from the array of that symbol. */
export function readOutcomes(vm: KvmVm, symbol: string, count: number): Outcome[] {
  const bytes = readGuest(vm, symbolAddress(vm, symbol), count * OutcomeRecord.size);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: count }, (_, n) => {
    const at = (field: string): number => n * OutcomeRecord.size + OutcomeRecord.offsetof(field);
    return {
      kind: view.getUint32(at('kind'), true),
      number: view.getUint32(at('number'), true),
      qualification: view.getBigUint64(at('qualification'), true),
    };
  });
}
