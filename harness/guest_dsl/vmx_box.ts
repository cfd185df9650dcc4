// SPDX-License-Identifier: GPL-2.0-only
/**
 * A GuestBox whose code is a hypervisor on the machine's own VMX: no KVM, no L0. It adds the TSS that VM entry demands of host
 * state. The image's names for levels stay: what is called is "L1", its guest "L2".
 */
import {
  type FnLinkable,
  guest_tsc_khz,
  idt_handlers,
  linkImage,
  ucall_pool,
} from '../../lib/guest/index.ts';
import type { GuestImage } from '../../lib/guest/index.ts';
import { AR, encodeDescriptor } from '../../lib/x86/segments.ts';
import { FLAT_SELECTOR, type LongModeEntry } from '../../vmm/machine/cpu/system/reset.ts';
import { BOX_GDT, BOX_IMAGE_BASE, BOX_SCRATCH, GuestBox } from './guest_box.ts';

/** In the scratch memory, which tests of VMX leave alone. */
const TSS = BOX_SCRATCH;

export class VmxBox extends GuestBox {
  constructor(image: GuestImage) {
    super(image);
    const words = [...encodeDescriptor(TSS, 0x67, AR.P | 0xb), 0, 0];
    words.forEach((word, i) =>
      this.machine.mem.view.setInt32(BOX_GDT + FLAT_SELECTOR.TSS + i * 4, word, true),
    );
  }

  protected override entryState(rip: bigint, rsp: bigint): LongModeEntry {
    return { ...super.entryState(rip, rsp), tss: { selector: FLAT_SELECTOR.TSS, base: TSS } };
  }
}

/** Runs a function of L1 in a box of its own. */
export function runVmx(fn: FnLinkable, ...args: bigint[]): { result: bigint; box: VmxBox } {
  const roots = [idt_handlers, guest_tsc_khz, ucall_pool];
  const box = new VmxBox(linkImage({ base: BOX_IMAGE_BASE, entry: fn, roots }));
  const result = box.call(fn, args);
  return { result, box };
}
