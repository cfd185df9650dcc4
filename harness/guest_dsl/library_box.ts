// SPDX-License-Identifier: GPL-2.0-only
/** Boxes for tests of the guest library: an image with the globals that the host half of the library would fill in. */
import {
  type FnLinkable,
  guest_tsc_khz,
  idt_handlers,
  linkImage,
  ucall_pool,
} from '../../lib/guest/index.ts';
import { BOX_IMAGE_BASE, GuestBox } from './guest_box.ts';

const RUNTIME = [idt_handlers, guest_tsc_khz, ucall_pool];

/** A box with `entry`, and `roots` that nothing in it refers to. */
export function boxOf(entry: FnLinkable, ...roots: FnLinkable[]): GuestBox {
  return new GuestBox(linkImage({ base: BOX_IMAGE_BASE, entry, roots: [...RUNTIME, ...roots] }));
}

/** Runs a function in a box of its own. */
export function run(fn: FnLinkable, ...args: bigint[]): { result: bigint; box: GuestBox } {
  const box = boxOf(fn);
  return { result: box.call(fn, args), box };
}
