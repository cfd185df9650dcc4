// SPDX-License-Identifier: GPL-2.0-only
/**
 * Every kind of ucall once: SYNC with its stage and arguments, PRINTF with its formats, a failed assertion that names file,
 * line, level and both operands, and DONE. Not upstream's: it is the smoke test of the guest library and the run loop.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import type { Steps } from '../lib/kvm_util/backend.ts';
import { kvmVmFree } from '../lib/kvm_util/kvm_util.ts';
import { getUcall, reportGuestAssert, vcpuRun } from '../lib/kvm_util/ucall_common.ts';
import { TEST_ASSERT, TEST_ASSERT_EQ, TestFailure, UsageError } from '../lib/kvm_util/test_util.ts';
import { vmCreateWithOneVcpu } from '../lib/kvm_util/vm_create.ts';
import {
  GUEST_ASSERT_EQ,
  GUEST_DONE,
  GUEST_PRINTF,
  GUEST_SYNC,
  GUEST_SYNC_ARGS,
  guestFn,
  linkGuest,
  str,
  u64,
  UCALL,
} from '../lib/guest/index.ts';

const guestCode = guestFn('guest_code', [], (g) => {
  GUEST_SYNC(g, 1);
  GUEST_SYNC_ARGS(g, 2, 0x1111, 0x2222, 0x3333, -1);
  GUEST_PRINTF(g, 'signed %ld, hex %#lx, text %s', -5, 0xabcdefn, str('hello'));
  const value = g.local(u64, 41);
  g.set(value, '+=', 1);
  GUEST_ASSERT_EQ(g, value, 42);
  GUEST_ASSERT_EQ(g, value, 43);
  GUEST_DONE(g);
});

function* run({ backend, print }: SelftestContext): Steps<void> {
  const [vm, vcpu] = yield* vmCreateWithOneVcpu(backend, { image: linkGuest(guestCode) });
  yield* vcpuRun(vcpu);
  const sync = getUcall(vcpu);
  TEST_ASSERT_EQ(sync.cmd, UCALL.SYNC, 'first ucall');
  TEST_ASSERT_EQ(sync.args[1]!, 1n, 'stage');
  yield* vcpuRun(vcpu);
  const args = getUcall(vcpu).args;
  TEST_ASSERT(
    args.slice(1, 6).join() === [2n, 0x1111n, 0x2222n, 0x3333n, 0xffff_ffff_ffff_ffffn].join(),
    `GUEST_SYNC_ARGS gave ${args.join()}`,
  );
  yield* vcpuRun(vcpu);
  const printed = getUcall(vcpu);
  TEST_ASSERT_EQ(printed.cmd, UCALL.PRINTF, 'third ucall');
  TEST_ASSERT_EQ(printed.buffer, 'signed -5, hex 0xabcdef, text hello', 'printed text');
  yield* vcpuRun(vcpu);
  const abort = getUcall(vcpu);
  TEST_ASSERT_EQ(abort.cmd, UCALL.ABORT, 'fourth ucall');
  const message = failureOf(() => reportGuestAssert(vcpu, abort));
  for (const part of ['L1', 'value == 43', 'ucall_smoke_test.ts:', '0x2a', '0x2b']) {
    TEST_ASSERT(message.includes(part), `the report of a failed guest assertion lacks "${part}": ${message}`);
  }
  yield* vcpuRun(vcpu);
  TEST_ASSERT_EQ(getUcall(vcpu).cmd, UCALL.DONE, 'last ucall');
  yield* kvmVmFree(vm);
  print('SYNC, PRINTF, ABORT and DONE arrived');
}

function failureOf(body: () => never): string {
  try {
    return body();
  } catch (error) {
    if (error instanceof TestFailure) return error.message;
    throw error;
  }
}

export const selftest: Selftest = {
  name: 'ucall_smoke_test',
  summary: 'every kind of ucall: SYNC, PRINTF, a failed assertion, DONE',
  upstream: 'nestbed',
  checkArgs: ([arg]) => {
    if (arg !== undefined) throw new UsageError(`unexpected argument '${arg}'; this test takes none`);
  },
  run,
};
