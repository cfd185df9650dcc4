// SPDX-License-Identifier: GPL-2.0-only
/** The guest half of dirty_log_test: writes the number of the iteration to random pages. After dirty_log_test.c of the KVM selftests. */
import {
  at,
  guestFn,
  guestGlobal,
  guest_random_u64,
  GuestRandomState,
  GUEST_SYNC,
  linkGuest,
  READ_ONCE,
  u64,
} from '../../lib/guest/index.ts';

/** Globals that host and guest share. */
export const shared = {
  host_page_size: guestGlobal('host_page_size', u64),
  guest_page_size: guestGlobal('guest_page_size', u64),
  guest_num_pages: guestGlobal('guest_num_pages', u64),
  guest_test_virt_mem: guestGlobal('guest_test_virt_mem', u64),
  iteration: guestGlobal('iteration', u64),
  nr_writes: guestGlobal('nr_writes', u64),
  vcpu_stop: guestGlobal('vcpu_stop', u64),
  guest_rng: guestGlobal('guest_rng', GuestRandomState),
} as const;

const guest_code = guestFn('guest_code', [], (g) => {
  const s = shared;
  const addr = g.local(u64);
  g.loop(() => {
    g.while(READ_ONCE(s.vcpu_stop).eq(0), () => {
      const page = guest_random_u64(g, s.guest_rng.addr()).mod(s.guest_num_pages);
      g.set(addr, s.guest_test_virt_mem.add(page.mul(s.guest_page_size)));
      g.set(addr, '&=', s.host_page_size.sub(1).bnot());
      g.set(at(u64, addr), READ_ONCE(s.iteration));
      g.inc(s.nr_writes);
    });
    GUEST_SYNC(g, 1);
  });
});

export const linkDirtyLog = () => linkGuest(guest_code, ...Object.values(shared));
