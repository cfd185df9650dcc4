// SPDX-License-Identifier: GPL-2.0-only
/**
 * The guest half of demand_paging_test: each vCPU writes to every page of its part of the memory. After
 * memstress_guest_code() of lib/memstress.c of the KVM selftests, with all accesses writes and in order, as this test has them.
 */
import {
  array,
  at,
  guestFn,
  guestGlobal,
  GUEST_ASSERT_EQ,
  GUEST_SYNC,
  GUEST_SYNC_ARGS,
  linkGuest,
  READ_ONCE,
  struct,
  u64,
} from '../../lib/guest/index.ts';

/** What the guest writes to the first word of each page. */
export const MEMSTRESS_VALUE = 0x0123_4567_89ab_cdefn;
/** The most vCPUs that a run can have. */
export const MAX_VCPUS = 64;

/** struct memstress_vcpu_args. */
export const VcpuArgs = struct('struct memstress_vcpu_args', { gva: u64, pages: u64, vcpu_idx: u64 });

export const vcpu_args = guestGlobal('vcpu_args', array(VcpuArgs, MAX_VCPUS));
export const guest_page_size = guestGlobal('guest_page_size', u64);

/** Writes every page, then reads it back until the host says otherwise. */
const guest_code = guestFn('guest_code', [u64], (g, vcpuIdx) => {
  const args = g.let(vcpu_args.at(vcpuIdx).addr());
  const addr = g.local(u64);
  const i = g.local(u64);
  const wrong = g.local(u64);
  // The arguments of this vCPU are not corrupt.
  GUEST_ASSERT_EQ(g, args.f.vcpu_idx, vcpuIdx);
  g.loop(() => {
    g.forRange(i, 0, args.f.pages, 1, () => {
      g.set(addr, args.f.gva.add(i.mul(guest_page_size)));
      g.set(at(u64, addr), MEMSTRESS_VALUE);
    });
    GUEST_SYNC(g, 1);
    // Added: the vCPU reads what there is after the pages were dropped again.
    g.set(wrong, 0);
    g.forRange(i, 0, args.f.pages, 1, () => {
      g.set(addr, args.f.gva.add(i.mul(guest_page_size)));
      g.if(READ_ONCE(at(u64, addr)).ne(0), () => g.inc(wrong));
    });
    GUEST_SYNC_ARGS(g, 2, wrong, 0, 0, 0);
  });
});

export const linkDemandPaging = () => linkGuest(guest_code, vcpu_args, guest_page_size);
