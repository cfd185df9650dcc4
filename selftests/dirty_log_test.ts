// SPDX-License-Identifier: GPL-2.0-only
/**
 * Dirty page logging: a page is in the log if and only if the guest has written it, with KVM_GET_DIRTY_LOG alone and with
 * KVM_CLEAR_DIRTY_LOG. After dirty_log_test.c of the KVM selftests; the dirty ring is skipped, as KVM does not offer it. Adds
 * to upstream: -s sets the size of the memory, refusals of both ioctls, bits beyond the end, logging off and on.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import { KVM_CAP } from '../lib/uapi/capabilities.ts';
import type { Backend, Steps } from '../lib/kvm_util/backend.ts';
import { vmGuestModeString, VM_MODE_DEFAULT } from '../lib/kvm_util/guest_modes.ts';
import { TestSkip } from '../lib/kvm_util/test_util.ts';
import { LOG_MODES, parseTestParams, type LogMode } from './dirty_log/options.ts';
import { runTest } from './dirty_log/run_test.ts';

/** log_mode_supported(). */
function supported(backend: Backend, mode: LogMode): boolean {
  const has = (cap: number): boolean => backend.kvm.checkExtension(cap) !== 0;
  if (mode === 'dirty-log') return true;
  if (mode === 'clear-log') return has(KVM_CAP.MANUAL_DIRTY_LOG_PROTECT2);
  return has(KVM_CAP.DIRTY_LOG_RING) || has(KVM_CAP.DIRTY_LOG_RING_ACQ_REL);
}

function* run(t: SelftestContext): Steps<void> {
  const p = parseTestParams(t.args);
  t.print(`Test iterations: ${p.iterations}, interval: ${p.interval} (ms)`);
  for (const mode of p.logMode === 'all' ? LOG_MODES : [p.logMode]) {
    t.print(`Testing Log Mode '${mode}'`);
    if (!supported(t.backend, mode)) {
      const reason = `Log mode '${mode}' not supported`;
      if (p.logMode === mode) throw new TestSkip(reason);
      t.print(`SKIP - ${reason}`);
      continue;
    }
    t.print(`Testing guest mode: ${vmGuestModeString(VM_MODE_DEFAULT)}`);
    yield* runTest(t, p, mode);
  }
}

export const selftest: Selftest = {
  name: 'dirty_log_test',
  summary: 'dirty page logging against a writing guest, with KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG',
  upstream: 'dirty_log_test.c',
  timeoutSeconds: 3600,
  quickArgs: ['-i', '3', '-I', '1', '-s', '4M'],
  ramBytes: 0x6000_0000,
  run,
};
