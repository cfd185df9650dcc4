// SPDX-License-Identifier: GPL-2.0-only
/** The guest halves of set_memory_region_test. After set_memory_region_test.c of the KVM selftests. */
import {
  __GUEST_ASSERT,
  at,
  guestFn,
  GUEST_ASSERT,
  GUEST_DONE,
  GUEST_SYNC,
  guestGlobal,
  DescPtr,
  imm,
  lidt,
  linkGuest,
  READ_ONCE,
  u16,
  u64,
  u8,
  WRITE_ONCE,
  type GuestCode,
} from '../../lib/guest/index.ts';

/** One huge page, sized and aligned: the moved region begins as exactly one large mapping. */
export const MEM_REGION_SIZE = 0x20_0000;
/** Somewhere that nothing else uses. */
export const MEM_REGION_GPA = 0xc000_0000;
export const MEM_REGION_SLOT = 10;
/** What userspace answers for a read of the region while no slot backs it. */
export const MMIO_VAL = 0xbeefn;

const word = at(u64, MEM_REGION_GPA);

/** Reads the region until it holds something else; tells the host and gives the value. */
const guest_spin_on_val = guestFn('guest_spin_on_val', [u64], u64, (g, spinVal) => {
  const val = g.local(u64);
  g.doWhile(() => g.set(val, READ_ONCE(word)), val.eq(spinVal));
  GUEST_SYNC(g, 0);
  g.return(val);
});

function expectOneOf(g: GuestCode, spinOn: bigint, a: bigint, b: bigint): void {
  const val = g.let(guest_spin_on_val(g, spinOn));
  __GUEST_ASSERT(g, val.eq(a).lor(val.eq(b)), "Expected '%lx' or '%lx', got '%lx'", a, b, val);
}

function expect(g: GuestCode, spinOn: bigint, value: bigint): void {
  const val = g.let(guest_spin_on_val(g, spinOn));
  __GUEST_ASSERT(g, val.eq(value), "Expected '%lx', got '%lx'", value, val);
}

export const guest_code_move_memory_region = guestFn('guest_code_move_memory_region', [], (g) => {
  GUEST_SYNC(g, 0);
  // A move need not show as MMIO: the time during which the slot is invalid is short.
  expectOneOf(g, 0n, 1n, MMIO_VAL);
  expectOneOf(g, MMIO_VAL, 1n, 0n);
  expectOneOf(g, 0n, 1n, MMIO_VAL);
  expect(g, MMIO_VAL, 1n);
  GUEST_DONE(g);
});

/** The last loop of the deletion test: the guest never leaves it, its code's slot is taken away. */
export const FINAL_SPIN = 'guest_final_spin';

const guest_final_spin = guestFn(FINAL_SPIN, [], (g) => {
  g.while(READ_ONCE(word).eq(MMIO_VAL), () => undefined);
});

export const guest_code_delete_memory_region = guestFn('guest_code_delete_memory_region', [], (g) => {
  GUEST_SYNC(g, 0);
  expect(g, 0n, MMIO_VAL);
  expect(g, MMIO_VAL, 0n);
  expect(g, 0n, MMIO_VAL);
  guest_final_spin(g);
  GUEST_ASSERT(g, 0);
});

/** An IDT in MMIO. */
const mmio_idt = guestGlobal('mmio_idt', DescPtr, { size: 0xfff, address: MEM_REGION_GPA });

/** No canonical address in 48 or 57 bits. */
export const NONCANONICAL = 0xaaaa_aaaa_aaaa_aaaan;

export const guest_code_mmio_during_vectoring = guestFn('guest_code_mmio_during_vectoring', [], (g) => {
  lidt(g, mmio_idt.addr());
  g.set(at(u8, imm(u64, NONCANONICAL)), 1);
  GUEST_ASSERT(g, 0);
});

/** Reports what it reads from the region, again and again. */
export const guest_code_read = guestFn('guest_code_read', [], (g) => {
  const val = g.local(u64);
  g.loop(() => {
    g.set(val, READ_ONCE(word));
    GUEST_SYNC(g, val);
  });
});

/** Value that the guest writes in each round of `guest_code_write`. */
export const WRITTEN = 0x1122_3344_5566_7788n;

/** Writes, then reports what it reads. */
export const guest_code_write = guestFn('guest_code_write', [], (g) => {
  const val = g.local(u64);
  g.loop(() => {
    WRITE_ONCE(g, word, WRITTEN);
    g.set(val, READ_ONCE(word));
    GUEST_SYNC(g, val);
  });
});

/** A 16-bit write in the middle of the first page of the region. */
export const guest_code_write_short = guestFn('guest_code_write_short', [], (g) => {
  g.loop(() => {
    WRITE_ONCE(g, at(u16, MEM_REGION_GPA + 0x802), 0xabcd);
    GUEST_SYNC(g, 0);
  });
});

/** Entry points by name; one image holds them all. */
export const GUEST_CODE = {
  move: guest_code_move_memory_region,
  delete: guest_code_delete_memory_region,
  vectoring: guest_code_mmio_during_vectoring,
  read: guest_code_read,
  write: guest_code_write,
  writeShort: guest_code_write_short,
} as const;
export type GuestCodeName = keyof typeof GUEST_CODE;

/** The image with all of them. */
export const linkSetMemoryRegion = () =>
  linkGuest(GUEST_CODE.move, ...Object.values(GUEST_CODE).filter((code) => code !== GUEST_CODE.move));
