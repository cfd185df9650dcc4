// SPDX-License-Identifier: GPL-2.0-only
/**
 * Times memslot-heavy operations against a running guest: mapping, unmapping, moving, reading and writing, with up to 32763
 * slots. After memslot_perf_test.c of the KVM selftests; time is virtual. Adds to upstream: -l takes fractions.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import { KVM_CAP } from '../lib/uapi/capabilities.ts';
import { KVM_X86_QUIRK } from '../lib/uapi/memory.ts';
import type { Steps } from '../lib/kvm_util/backend.ts';
import { kvmVmFree } from '../lib/kvm_util/kvm_util.ts';
import { parseTestArgs, type TestArgs } from './memslot_perf/options.ts';
import { SUBTESTS, type Subtest } from './memslot_perf/subtests.ts';
import { prepareVm, slotLayout } from './memslot_perf/vm_data.ts';

const SECOND_NS = 1e9;
const NAMES = SUBTESTS.map((s) => s.name);

interface TestResult {
  readonly slotRuntimeNs: number;
  readonly guestRuntimeNs: number;
  readonly nloops: number;
}

/** A test that cannot run with so many slots; `maxSlots` 0 if the largest number is not known. */
interface Refused {
  readonly maxSlots: number;
}

/** `s.nnnnnnnnns`, as struct timespec is printed. */
const timespec = (ns: number): string =>
  `${Math.floor(ns / SECOND_NS)}.${String(Math.floor(ns) % SECOND_NS).padStart(9, '0')}s`;

const perIteration = (r: TestResult): number => Math.floor(r.guestRuntimeNs / r.nloops);

/** test_execute(). */
function* execute(t: SelftestContext, args: TestArgs, test: Subtest): Steps<TestResult | Refused> {
  const { backend } = t;
  const layout = slotLayout(backend, args.nslots, test.npages);
  if ('maxSlots' in layout) return layout;
  if (args.verbose) {
    const rest = layout.npages % layout.nslots;
    t.print(`Allowed number of memory slots: ${layout.nslots + 1}`);
    t.print(
      `Adding slots 1..${layout.nslots}, each slot with ${layout.pagesPerSlot} pages + ${rest} extra pages last`,
    );
  }
  const { data, slotRuntimeNs } = yield* prepareVm(backend, layout, test.code);
  if (test.moves && args.disableSlotZapQuirk) {
    yield* data.vm.fd.enableCap({
      cap: KVM_CAP.DISABLE_QUIRKS2,
      flags: 0,
      args: [KVM_X86_QUIRK.SLOT_ZAP_ALL],
    });
  }
  if (test.prepare !== undefined && !test.prepare(data)) {
    yield* kvmVmFree(data.vm);
    return { maxSlots: 0 };
  }
  if (args.verbose) t.print('Launching the test VM');
  yield* data.launch();
  const began = backend.threads.nowNs();
  data.setFlag('start_flag', 1);
  let nloops = 0;
  let guestRuntimeNs = 0;
  for (;;) {
    guestRuntimeNs = backend.threads.nowNs() - began;
    if (elapsed(guestRuntimeNs, args.seconds)) break;
    yield* test.loop(data, args.mapUnmapVerify);
    nloops++;
  }
  data.setFlag('exit_flag', 1);
  yield* data.wait();
  yield* kvmVmFree(data.vm);
  return { slotRuntimeNs, guestRuntimeNs, nloops };
}

/** Upstream compares whole seconds; a length with a fraction is compared as it is. */
const elapsed = (ns: number, seconds: number): boolean =>
  Number.isInteger(seconds) ? Math.floor(ns / SECOND_NS) >= seconds : ns >= seconds * SECOND_NS;

function report(t: SelftestContext, result: TestResult): void {
  t.print(
    `Test took ${timespec(result.slotRuntimeNs)} for slot setup + ${timespec(result.guestRuntimeNs)} all iterations`,
  );
  if (result.nloops === 0) t.print('No full loops done - too short test time or system too loaded?');
  else t.print(`Done ${result.nloops} iterations, avg ${timespec(perIteration(result))} each`);
}

/** All runs of one sub-test; the results that were got. */
function* runSubtest(t: SelftestContext, args: TestArgs, test: Subtest): Steps<TestResult[]> {
  const results: TestResult[] = [];
  for (let run = 0; run < args.runs; run++) {
    const result = yield* execute(t, args, test);
    if ('maxSlots' in result) {
      if (result.maxSlots > 0)
        t.print(`Memslot count too high for this test, decrease the cap (max is ${result.maxSlots})`);
      else t.print('Memslot count may be too high for this test, try adjusting the cap');
      break;
    }
    report(t, result);
    results.push(result);
  }
  return results;
}

const least = (results: readonly TestResult[], by: (r: TestResult) => number): TestResult | undefined =>
  results.reduce<TestResult | undefined>(
    (best, r) => (best === undefined || by(r) < by(best) ? r : best),
    undefined,
  );

function* run(t: SelftestContext): Steps<void> {
  const args = parseTestArgs(t.args, NAMES);
  const comparable: TestResult[] = [];
  for (let i = args.tfirst; i <= args.tlast; i++) {
    const test = SUBTESTS[i]!;
    if (i > args.tfirst) t.print('');
    t.print(`Testing ${test.name} performance with ${args.runs} runs, ${args.seconds} seconds each`);
    const results = yield* runSubtest(t, args, test);
    if (test.wholeArea) comparable.push(...results.filter((r) => r.nloops > 0));
    const best = least(
      results.filter((r) => r.nloops > 0),
      perIteration,
    );
    if (best !== undefined) {
      t.print(
        `Best runtime result was ${timespec(perIteration(best))} per iteration (with ${best.nloops} iterations)`,
      );
    }
  }
  const setup = least(comparable, (r) => r.slotRuntimeNs);
  if (setup !== undefined)
    t.print(`Best slot setup time for the whole test area was ${timespec(setup.slotRuntimeNs)}`);
}

export const selftest: Selftest = {
  name: 'memslot_perf_test',
  summary: 'time of memslot-heavy operations against a running guest, with up to 32763 slots',
  upstream: 'memslot_perf_test.c',
  checkArgs: (args) => void parseTestArgs(args, NAMES),
  timeoutSeconds: 3600,
  quickArgs: ['-s', '8192', '-l', '0.005'],
  run,
};
