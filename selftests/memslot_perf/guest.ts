// SPDX-License-Identifier: GPL-2.0-only
/** The guest halves of memslot_perf_test's sub-tests, and the area that guest and host share. */
import {
  at,
  bool,
  cmpxchg,
  guestFn,
  GUEST_ASSERT_EQ,
  GUEST_DONE,
  GUEST_SYNC,
  linkGuest,
  READ_ONCE,
  struct,
  u32,
  u64,
  WRITE_ONCE,
  type GuestCode,
} from '../../lib/guest/index.ts';

export const PAGE = 4096;
const MIB = 0x10_0000;

/** Guest-physical layout; the guest maps it one to one. */
export const MEM_EXTRA_SIZE = 0x1_0000;
export const MEM_GPA = 0x1000_0000;
export const MEM_SYNC_GPA = MEM_GPA;
export const MEM_TEST_GPA = MEM_GPA + MEM_EXTRA_SIZE;

/** Sizes of the areas that the sub-tests write to. */
export const MEM_SIZE = 512 * MIB + MEM_EXTRA_SIZE;
export const MEM_TEST_SIZE = MEM_SIZE - MEM_EXTRA_SIZE;
export const MEM_TEST_MAP_SIZE = 32 * MIB;
export const MEM_TEST_UNMAP_SIZE = 128 * MIB;
export const MEM_TEST_UNMAP_CHUNK_SIZE = 2 * MIB;
export const MEM_TEST_MOVE_SIZE = 3 * 64 * 1024;
export const MEM_TEST_MOVE_GPA_DEST = MEM_GPA + MEM_SIZE;

export const MEM_TEST_VAL_1 = 0x1122_3344_5566_7788n;
export const MEM_TEST_VAL_2 = 0x99aa_bbcc_ddee_ff00n;

/** The handshake, at MEM_SYNC_GPA. */
export const SyncArea = struct('struct sync_area', {
  guest_page_size: u32,
  start_flag: bool,
  exit_flag: bool,
  sync_flag: bool,
  move_area_ptr: u64,
});

const sync = at(SyncArea, MEM_SYNC_GPA);

const guestSpinUntilStart = (g: GuestCode): void => {
  g.while(READ_ONCE(sync.f.start_flag).lnot(), () => undefined);
};

const guestShouldExit = () => READ_ONCE(sync.f.exit_flag);

/** Waits until the host has raised sync_flag and lowers it; false if the test is over. */
const guestPerformSync = guestFn('guest_perform_sync', [], bool, (g) => {
  g.doWhile(
    () => g.if(guestShouldExit(), () => g.return(0)),
    () => cmpxchg(g, sync.f.sync_flag, 1, 0).ne(1),
  );
  g.return(1);
});

/** Writes `value` to the start of every page of [from, to). */
function writePages(g: GuestCode, from: number, to: number, value: bigint): void {
  const p = g.local(u64);
  const step = g.local(u64, sync.f.guest_page_size);
  const v = g.local(u64, value);
  g.set(p, from);
  g.for(
    p.lt(to),
    () => g.set(p, '+=', step),
    () => WRITE_ONCE(g, at(u64, p), v),
  );
}

/** The frame of a sub-test: tell the host that the vCPU runs, wait for the start, work, say goodbye. */
function subtest(name: string, body: (g: GuestCode, perform: () => void) => void) {
  return guestFn(name, [], (g) => {
    GUEST_SYNC(g, 0);
    guestSpinUntilStart(g);
    g.loop(() =>
      body(g, () =>
        g.if(
          () => guestPerformSync(g).lnot(),
          () => g.break(),
        ),
      ),
    );
    GUEST_DONE(g);
  });
}

const codeMove = guestFn('guest_code_test_memslot_move', [], (g) => {
  const base = g.local(u64, sync.f.move_area_ptr);
  const end = g.local(u64, base.add(MEM_TEST_MOVE_SIZE));
  const p = g.local(u64);
  const step = g.local(u64, sync.f.guest_page_size);
  const value = g.local(u64, MEM_TEST_VAL_1);
  GUEST_SYNC(g, 0);
  guestSpinUntilStart(g);
  // No handshake: MMIO exits are so dear that the host would measure them instead of the moves.
  g.while(guestShouldExit().lnot(), () => {
    g.set(p, base);
    g.for(
      p.lt(end),
      () => g.set(p, '+=', step),
      () => WRITE_ONCE(g, at(u64, p), value),
    );
  });
  GUEST_DONE(g);
});

const codeMap = subtest('guest_code_test_memslot_map', (g, perform) => {
  const half = MEM_TEST_GPA + MEM_TEST_MAP_SIZE / 2;
  writePages(g, MEM_TEST_GPA, half, MEM_TEST_VAL_1);
  perform();
  writePages(g, half, MEM_TEST_GPA + MEM_TEST_MAP_SIZE, MEM_TEST_VAL_2);
  perform();
});

// One page a half: more, and mapping would take the time that unmapping is measured by.
const codeUnmap = subtest('guest_code_test_memslot_unmap', (g, perform) => {
  g.set(at(u64, MEM_TEST_GPA), MEM_TEST_VAL_1);
  perform();
  g.set(at(u64, MEM_TEST_GPA + MEM_TEST_UNMAP_SIZE / 2), MEM_TEST_VAL_2);
  perform();
});

const codeRw = subtest('guest_code_test_memslot_rw', (g, perform) => {
  writePages(g, MEM_TEST_GPA, MEM_TEST_GPA + MEM_TEST_SIZE, MEM_TEST_VAL_1);
  perform();
  const p = g.local(u64);
  const step = g.local(u64, sync.f.guest_page_size);
  g.set(p, MEM_TEST_GPA + PAGE / 2);
  g.for(
    p.lt(MEM_TEST_GPA + MEM_TEST_SIZE),
    () => g.set(p, '+=', step),
    () => {
      const value = g.let(at(u64, p));
      GUEST_ASSERT_EQ(g, value, MEM_TEST_VAL_2);
      g.set(at(u64, p), 0);
    },
  );
  perform();
});

/** Entry points by name; one image holds them all. */
export const GUEST_CODE = { map: codeMap, unmap: codeUnmap, move: codeMove, rw: codeRw } as const;
export type GuestCodeName = keyof typeof GUEST_CODE;

/** The image, and where each sub-test's guest half begins. */
export const linkMemslotPerf = () => linkGuest(codeMap, codeUnmap, codeMove, codeRw);
