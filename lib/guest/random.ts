// SPDX-License-Identifier: GPL-2.0-only
/**
 * A random number generator for guest code: guest_random_u32() and friends of lib/test_util.c in tools/testing/selftests/kvm,
 * a linear congruential generator of 31 bits. The seed is the test's own, so that every run is the same.
 */
import { guestFn } from './dsl/function.ts';
import { struct } from './dsl/struct.ts';
import { ptr, u32, u64 } from './dsl/types.ts';

export const GuestRandomState = struct('struct guest_random_state', { seed: u32 });

/** 31 random bits. */
export const guest_random_u32 = guestFn('guest_random_u32', [ptr(GuestRandomState)], u32, (g, state) => {
  const { seed } = state.f;
  g.set(seed, seed.mul(1103515245).add(12345).and(0x7fff_ffff).cast(u32));
  g.return(seed);
});

/** 62 random bits. */
export const guest_random_u64 = guestFn('guest_random_u64', [ptr(GuestRandomState)], u64, (g, state) => {
  const high = g.let(guest_random_u32(g, state).cast(u64));
  g.return(high.shl(32).or(guest_random_u32(g, state).cast(u64)));
});
