// SPDX-License-Identifier: GPL-2.0-only
/**
 * The image of a selftest's guest code: what the entry reaches, plus the symbols that the host half of the library always
 * wants (ucall_pool, exception_handlers, idt_handlers, guest_tsc_khz). It lies where ld would put a static executable.
 */
import type { GuestGlobal } from './dsl/global.ts';
import type { FnLinkable, Linkable } from './dsl/ir.ts';
import { type GuestImage, linkImage } from './dsl/link.ts';
import { exception_handlers, idt_handlers } from './exceptions.ts';
import { guest_tsc_khz } from './processor.ts';
import { ucall_pool } from './ucall.ts';

export type { CodeLocation, GuestImage, ImageSection } from './dsl/link.ts';

/** The address of a guest image unless the test wants another. */
export const GUEST_IMAGE_BASE = 0x40_0000n;

/** Links a test's guest code with the runtime that the host half relies on. */
export function linkGuest(entry: FnLinkable, ...roots: readonly (Linkable | GuestGlobal)[]): GuestImage {
  const runtime = [ucall_pool, exception_handlers, idt_handlers, guest_tsc_khz];
  return linkImage({ base: GUEST_IMAGE_BASE, entry, roots: [...runtime, ...roots] });
}
