// SPDX-License-Identifier: GPL-2.0-only
/**
 * A program of the differential corpus: guest code that prints lines to port 0xE9 and ends with e9_shutdown(), and what its
 * host half puts into guest memory beforehand. The same bytes run here and on Bochs.
 */
import type { GuestImage } from '../../lib/guest/index.ts';
import type { Steps } from '../../lib/kvm_util/backend.ts';
import type { KvmVcpu, KvmVm } from '../../lib/kvm_util/kvm_util.ts';

/** Where a program runs here: as L1 on L0, or as the only software of the emulated machine. */
export type Side = 'L0' | 'machine';

export interface DifferentialProgram {
  /** Name on the command line and of the file of agreed lines. */
  readonly name: string;
  /** What it covers, in a few words. */
  readonly summary: string;
  /** The sides that are compared with Bochs. */
  readonly on: readonly Side[];
  readonly image: () => GuestImage;
  /** Pages beyond those of image, stack and tables. */
  readonly extraPages?: number;
  /** Puts page-table entries and data into place; runs before the guest's memory is exported. */
  readonly prepare?: (vm: KvmVm, vcpu: KvmVcpu) => Steps<void>;
  /** What the host knows about a line that differs, for the report: disassembly, what the reference expects. */
  readonly explain?: (line: string) => string | undefined;
}
