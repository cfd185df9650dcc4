// SPDX-License-Identifier: GPL-2.0-only
/** A process with two anonymous pages, for tests of what happens to pages that are mapped. */
import { PAGE_SIZE, type Pfn } from '../../../lib/x86/addr.ts';
import type { Host } from '../host.ts';
import { framePfn } from '../mm/fault.ts';
import { doMmap } from '../mm/mmap.ts';
import type { MmStruct } from '../mm/mm_struct.ts';
import { UserMemory } from '../mm/user_access.ts';
import { drive, testHost, type TestHostOptions } from './test_host.ts';

export interface TwoPages {
  readonly host: Host;
  readonly mm: MmStruct;
  readonly user: UserMemory;
  /** Two anonymous pages, touched: full of 0x5a. */
  readonly at: number;
}

export function twoPages(options: TestHostOptions = {}): TwoPages {
  const host = testHost({ nrCpus: 2, ...options });
  const mm = host.createMm('test');
  const user = new UserMemory(mm);
  const at = drive(host, doMmap(mm, { length: 2 * PAGE_SIZE }));
  user.fill(at, 2 * PAGE_SIZE, 0x5a);
  return { host, mm, user, at };
}

/** The frame mapped at `at`. */
export const frameAt = (mm: MmStruct, at: number): Pfn => framePfn(mm.pageTable.get(at));
