// SPDX-License-Identifier: GPL-2.0-only
/**
 * Adding, moving and deleting memory regions, also while a vCPU uses them. After set_memory_region_test.c of the KVM
 * selftests; the tests of KVM_MEM_GUEST_MEMFD are skipped as upstream skips them without that capability. Adds to upstream:
 * overlaps and other refusals, MMIO caching, read-only slots, zapping by the MMU notifier. Sleeps are shorter.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import { KVM_CAP } from '../lib/uapi/capabilities.ts';
import { KVM_X86_QUIRK } from '../lib/uapi/memory.ts';
import type { Steps } from '../lib/kvm_util/backend.ts';
import { atoiPositive } from '../lib/kvm_util/getopt.ts';
import { UsageError } from '../lib/kvm_util/test_util.ts';
import { testDeleteMemoryRegion, testMoveMemoryRegion } from './set_memory_region/in_use.ts';
import {
  testMmioCaching,
  testMmioDuringVectoring,
  testNotifierZap,
  testReadOnlyRegion,
} from './set_memory_region/mmio.ts';
import {
  testAddMaxMemoryRegions,
  testInvalidMemoryRegionFlags,
  testRefusals,
  testZeroMemoryRegions,
} from './set_memory_region/refusals.ts';
import type { SlotZapQuirk } from './set_memory_region/vm.ts';

const DEFAULT_LOOPS = 10;

function parseLoops(args: readonly string[]): number {
  const [loops, extra] = args;
  if (loops === '-h') throw new UsageError('usage: set_memory_region_test [loops]', { help: true });
  if (extra !== undefined)
    throw new UsageError(`unexpected argument '${extra}'; the only one is the number of loops`);
  return loops === undefined ? DEFAULT_LOOPS : atoiPositive('Number of iterations', loops);
}

function* testInUse(t: SelftestContext, loops: number, quirk: SlotZapQuirk): Steps<void> {
  const state = quirk === 'quirk' ? 'enabled' : 'disabled';
  t.print(`Testing MOVE of in-use region, ${loops} loops, slot zap quirk ${state}`);
  for (let i = 0; i < loops; i++) yield* testMoveMemoryRegion(t.backend, quirk);
  t.print(`Testing DELETE of in-use region, ${loops} loops, slot zap quirk ${state}`);
  for (let i = 0; i < loops; i++) yield* testDeleteMemoryRegion(t.backend, quirk);
}

function* run(t: SelftestContext): Steps<void> {
  const { backend } = t;
  const loops = parseLoops(t.args);
  yield* testZeroMemoryRegions(t);
  yield* testMmioDuringVectoring(t);
  yield* testInvalidMemoryRegionFlags(t);
  yield* testAddMaxMemoryRegions(t);
  if (backend.kvm.checkExtension(KVM_CAP.GUEST_MEMFD) === 0)
    t.print('Skipping tests for KVM_MEM_GUEST_MEMFD memory regions');
  t.print('Testing refusals, MMIO caching, read-only regions and MMU notifiers');
  yield* testRefusals(backend);
  yield* testMmioCaching(backend);
  yield* testReadOnlyRegion(backend);
  yield* testNotifierZap(backend);
  yield* testInUse(t, loops, 'quirk');
  const quirks = backend.kvm.checkExtension(KVM_CAP.DISABLE_QUIRKS2);
  if ((quirks & KVM_X86_QUIRK.SLOT_ZAP_ALL) !== 0) yield* testInUse(t, loops, 'no quirk');
}

export const selftest: Selftest = {
  name: 'set_memory_region_test',
  summary: 'adding, moving and deleting memory regions, also under a running vCPU',
  upstream: 'set_memory_region_test.c',
  quickArgs: ['1'],
  run,
};
