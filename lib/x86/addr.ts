// SPDX-License-Identifier: GPL-2.0-only
/**
 * Branded address types. Physical addresses and frame numbers are exact as JavaScript numbers (at most 52 bits);
 * guest linear addresses are bigint at interfaces and lo/hi pairs of int32 in hot code.
 */
declare const space: unique symbol;
type Branded<Name extends string> = number & { readonly [space]: Name };

/** Guest physical address. */
export type Gpa = Branded<'gpa'>;
/** Guest frame number: gpa >> 12. */
export type Gfn = Branded<'gfn'>;
/** Host virtual address in the address space of the process that owns the VM (below 2^47). */
export type Hva = Branded<'hva'>;
/** Host physical address; also the byte offset in the machine's memory. */
export type Hpa = Branded<'hpa'>;
/** Host page frame number: hpa >> 12. */
export type Pfn = Branded<'pfn'>;
/** Guest linear address, canonical, as an unsigned 64-bit bigint. */
export type Gva = bigint;

export const PAGE_SHIFT = 12;
export const PAGE_SIZE = 4096;
export const PAGE_SIZE_2M = 0x20_0000;
export const PAGE_SIZE_1G = 0x4000_0000;

/** The architectural limit of a physical address, exclusive. */
export const MAX_PHYS_ADDR = 2 ** 52;

export const gpa = (n: number): Gpa => n as Gpa;
export const gfn = (n: number): Gfn => n as Gfn;
export const hva = (n: number): Hva => n as Hva;
export const hpa = (n: number): Hpa => n as Hpa;
export const pfn = (n: number): Pfn => n as Pfn;

export const gpaToGfn = (a: Gpa): Gfn => Math.floor(a / PAGE_SIZE) as Gfn;
export const gfnToGpa = (n: Gfn): Gpa => (n * PAGE_SIZE) as Gpa;
export const hpaToPfn = (a: Hpa): Pfn => Math.floor(a / PAGE_SIZE) as Pfn;
export const pfnToHpa = (n: Pfn): Hpa => (n * PAGE_SIZE) as Hpa;

/** The offset of an address in its 4 KiB page. Works above 2^32: the low 12 bits survive the int32 conversion. */
export const offsetInPage = (a: number): number => a & (PAGE_SIZE - 1);
