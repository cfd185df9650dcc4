// SPDX-License-Identifier: GPL-2.0-only
/** One stress run: a host and a VM, vCPU threads and host threads until all vCPUs are through, then the reckoning. */
import { gpa, hva, type Hva } from '../../lib/x86/addr.ts';
import { hex } from '../../lib/x86/bits.ts';
import { KVM_CAP } from '../../lib/uapi/capabilities.ts';
import { KVM_DIRTY_LOG, KVM_X86_QUIRK } from '../../lib/uapi/memory.ts';
import type { Steps, Thread } from '../../lib/kvm_util/backend.ts';
import {
  readGuestGlobal,
  symbolAddress,
  u64Bytes,
  writeGuestGlobal,
} from '../../lib/kvm_util/guest_global.ts';
import { kvmVmFree, vmUserspaceMemRegionAdd, type KvmVm } from '../../lib/kvm_util/kvm_util.ts';
import { vmCreateWithVcpus } from '../../lib/kvm_util/vm_create.ts';
import { vmInstallExceptionHandler } from '../../lib/kvm_util/x86/exceptions.ts';
import { readGuest, virtMap, writeGuest } from '../../lib/kvm_util/x86/page_table.ts';
import { vcpuArgsSet } from '../../lib/kvm_util/x86/processor.ts';
import { createEmulatedHost, type EmulatedHost } from '../../vmm/emulated.ts';
import { Rng } from '../../vmm/machine/cpu/system/rng.ts';
import { BugError } from '../../vmm/machine/errors.ts';
import { auditFastTlb } from '../../vmm/machine/mmu/audit.ts';
import { describeProvenance } from '../../vmm/machine/mmu/provenance.ts';
import { setStaleCheck } from '../../vmm/machine/mmu/stale_hit.ts';
import { linkStress } from './guest.ts';
import { HOST_OPS, writeHostCode, type HostOpName } from './host_ops.ts';
import {
  AREA,
  AREA_PAGES,
  HOST_CODE_PAGE,
  IPI_VECTOR,
  MAX_VCPUS,
  MOVING_PAGES,
  TIMER_VECTOR,
} from './layout.ts';
import { stressModel, type Model } from './model.ts';
import { StressRun, type Scenario } from './scenario.ts';
import { vcpuThread } from './vcpu_thread.ts';

const PAGE = 4096;
const RAM = 0x0800_0000;
/** Host operations of one thread under a random schedule, where nothing else limits them. */
const RANDOM_OPS = 60;

/** Turns of the scheduler after which a run is taken to hang. */
const MAX_TURNS = 400_000;

/** What happened, by name: how often each host operation ran, what vCPU threads met, and stale hits. */
export interface StressReport {
  readonly counts: ReadonlyMap<string, number>;
  readonly staleHits: readonly string[];
}

/** Run a scenario; throws if anything is not as it must be. */
export function runStress(scenario: Scenario): StressReport {
  const host: EmulatedHost = createEmulatedHost({
    ramBytes: RAM,
    seed: scenario.seed,
    tlb: scenario.tlb ?? 'real',
    params: scenario.params ?? [],
    heartbeat: () => {
      if (host.host.sched.turns < MAX_TURNS) return;
      const tasks = host.host.sched.tasks.map((task) => task.story());
      throw new BugError(['the run does not end', ...tasks].join('\n  '));
    },
  });
  const staleHits: string[] = [];
  if (scenario.staleCheck === 'hits') watchStaleHits(host, staleHits);
  let counts: ReadonlyMap<string, number> = new Map();
  if (scenario.flushes === 'none') dropFlushes(host);
  const failed: { error?: Error } = {};
  try {
    host.runMain(function* () {
      counts = yield* runVm(host, scenario, failed);
    });
  } catch (error) {
    // A thread that fails in atomic context ends the run with an error that hides its own.
    throw failed.error ?? error;
  }
  return { counts, staleHits };
}

function watchStaleHits(host: EmulatedHost, found: string[]): void {
  for (const cpu of host.machine.cpus) {
    setStaleCheck(cpu, 'hits');
    cpu.mmu.onStaleHit = (hit) => {
      if (!flushIsDue(host))
        found.push(`${describeProvenance(hit.provenance)}; used at ${hex(hit.lin)}, now ${hit.now}`);
    };
  }
}

/** Between the change of an entry and the end of its flush, an old translation may be used: the changer still has its lock. */
function flushIsDue(host: EmulatedHost): boolean {
  const kvm = host.module.vmList[0];
  if (kvm === undefined) return false;
  return kvm.mmuLock.writer !== null || kvm.mmuInvalidateInProgress !== 0 || kvm.slotsLock.owner !== null;
}

/** L0 forgets to flush: for tests of these tests. */
function dropFlushes(host: EmulatedHost): void {
  const nothing = (): void => undefined;
  Object.assign(host.module.ops, {
    flushTlbAll: nothing,
    flushTlbCurrent: nothing,
    flushTlbGuest: nothing,
  });
}

function* runVm(
  host: EmulatedHost,
  scenario: Scenario,
  failed: { error?: Error },
): Steps<ReadonlyMap<string, number>> {
  const free = host.host.pages.nrFree;
  const { liveMappings } = host.host.counters;
  const rng = new Rng(scenario.seed * 7919 + 1);
  const seeds = Array.from({ length: scenario.vcpus }, () => rng.next() & 0x7fff_ffff);
  const vm = yield* createVm(host, scenario, seeds);
  const t = new StressRun(scenario, host, vm, host.module.vmList[0]!, rng);
  t.onFailure = (error) => (failed.error ??= error);
  writeHostCode(t);
  if (scenario.schedule === 'random') explore(t);
  yield* runThreads(t);
  host.host.sched.exploring = false;
  verify(t, stressModel(seeds, scenario.steps));
  checkLocks(t);
  yield* kvmVmFree(vm);
  // Nobody closes a memfd: its pages stay with the file.
  if (scenario.backing !== 'memfd' && host.host.pages.nrFree !== free)
    throw new BugError(`${free - host.host.pages.nrFree} pages are not free again`);
  if (host.host.counters.liveMappings !== liveMappings) throw new BugError('kernel mappings are left');
  return t.counts;
}

/** Chance decides at every guarded yield. */
function explore(t: StressRun): void {
  const { sched } = t.host.host;
  const rng = new Rng(t.scenario.seed + 17);
  sched.choose = (candidates) => (rng.next() >>> 4) % candidates.length;
  sched.exploring = true;
}

function* createVm(host: EmulatedHost, scenario: Scenario, seeds: readonly number[]): Steps<KvmVm> {
  const image = linkStress();
  const vm = yield* vmCreateWithVcpus(host, scenario.vcpus, { image, extraPages: 32 });
  yield* enableCaps(vm, scenario);
  for (const { slot, gpa: at } of Object.values(AREA)) {
    const backing = scenario.backing ?? 'anonymous';
    yield* vmUserspaceMemRegionAdd(vm, { slot, guestPhysAddr: gpa(at), npages: AREA_PAGES, backing });
    virtMap(vm, BigInt(at), gpa(at), AREA_PAGES);
  }
  for (let id = 0; id < MAX_VCPUS; id++) vmInstallExceptionHandler(vm, IPI_VECTOR + id, 'ipi_handler');
  vmInstallExceptionHandler(vm, TIMER_VECTOR, 'timer_handler');
  writeGuestGlobal(vm, 'steps', BigInt(scenario.steps));
  writeGuestGlobal(vm, 'nr_vcpus', BigInt(scenario.vcpus));
  for (const vcpu of vm.vcpus) vcpuArgsSet(vcpu, vcpu.id);
  seeds.forEach((seed, i) =>
    writeGuest(vm, symbolAddress(vm, 'rng') + BigInt(4 * i), u64Bytes(BigInt(seed)).subarray(0, 4)),
  );
  return vm;
}

function* enableCaps(vm: KvmVm, { manualProtect = 'get', slotZap = 'all' }: Scenario): Steps<void> {
  if (manualProtect !== 'get') {
    const initially = manualProtect === 'clear' ? 0 : KVM_DIRTY_LOG.INITIALLY_SET;
    const args = [KVM_DIRTY_LOG.MANUAL_PROTECT_ENABLE | initially];
    yield* vm.fd.enableCap({ cap: KVM_CAP.MANUAL_DIRTY_LOG_PROTECT2, flags: 0, args });
  }
  if (slotZap === 'slot')
    yield* vm.fd.enableCap({ cap: KVM_CAP.DISABLE_QUIRKS2, flags: 0, args: [KVM_X86_QUIRK.SLOT_ZAP_ALL] });
}

/** All threads at once; the first error of any ends the run. */
function* runThreads(t: StressRun): Steps<void> {
  const { threads } = t.host;
  const { pins, hostThreads } = t.scenario;
  t.running = t.vm.vcpus.length;
  for (const vcpu of t.vm.vcpus) {
    const pin = pins?.[vcpu.id];
    const options = pin === undefined ? {} : { cpu: pin };
    t.vcpuThreads.push(threads.spawn(`vcpu-${vcpu.id}`, () => t.guarded(vcpuThread(t, vcpu)), options));
  }
  const others: Thread[] = hostThreads.map((ops, i) =>
    threads.spawn(`host-${i}`, () => t.guarded(hostThread(t, ops))),
  );
  for (const thread of [...t.vcpuThreads, ...others]) yield* threads.join(thread);
  if (t.failure !== undefined) throw t.failure;
}

function* hostThread(t: StressRun, names: readonly HostOpName[]): Steps<void> {
  for (let n = 0; !t.over; n++) {
    if (t.scenario.schedule === 'random' && n === RANDOM_OPS) return;
    const name = names[t.draw(names.length)]!;
    yield* HOST_OPS[name](t);
    t.count(name);
    yield* t.pause(500 + t.draw(6000));
  }
}

// The reckoning.

function wordsOf(t: StressRun, area: 'stable' | 'moving', pages: number): Map<number, bigint> {
  const at: Hva = hva(t.vm.regions.get(AREA[area].slot).hostMem);
  const bytes = t.host.memory.read(at, pages * PAGE).slice();
  const words = new BigUint64Array(bytes.buffer);
  const found = new Map<number, bigint>();
  words.forEach((word, i) => {
    if (word !== 0n) found.set(i, word);
  });
  return found;
}

function compare(
  what: string,
  got: ReadonlyMap<number, bigint>,
  expected: ReadonlyMap<number, bigint>,
): void {
  const wanted = new Map([...expected].filter(([, value]) => value !== 0n));
  for (const [word, value] of [...wanted, ...got]) {
    if (got.get(word) === wanted.get(word)) continue;
    const at = `page ${Math.floor(word / 512)}, word ${word % 512}`;
    throw new BugError(
      `${what} ${at}: ${hex(got.get(word) ?? 0n)}, expected ${hex(wanted.get(word) ?? value)}`,
    );
  }
}

function verify(t: StressRun, model: Model): void {
  compare('stable', wordsOf(t, 'stable', HOST_CODE_PAGE), model.stable);
  compare('moving', wordsOf(t, 'moving', MOVING_PAGES), model.moving);
  const global = (symbol: string, i: number): bigint => {
    const bytes = readGuest(t.vm, symbolAddress(t.vm, symbol) + BigInt(8 * i), 8);
    return new DataView(bytes.buffer).getBigUint64(0, true);
  };
  const same = (symbol: string, expected: readonly bigint[]): void =>
    expected.forEach((value, i) => {
      if (global(symbol, i) !== value)
        throw new BugError(`${symbol}[${i}] is ${hex(global(symbol, i))}, expected ${hex(value)}`);
    });
  same('digest', model.digest);
  same('ipis_sent', model.ipisSent);
  same('timers', model.timers);
  const n = t.scenario.vcpus;
  same(
    'ipis',
    Array.from({ length: MAX_VCPUS * MAX_VCPUS }, (_, i) => {
      const [receiver, sender] = [Math.floor(i / MAX_VCPUS), i % MAX_VCPUS];
      return sender < n && (sender + 1) % n === receiver ? model.ipisSent[sender]! : 0n;
    }),
  );
  if (readGuestGlobal(t.vm, 'finished') !== BigInt(n)) throw new BugError('not all vCPUs have finished');
  for (let id = 0; id < n; id++)
    t.counts.set('exact', (t.counts.get('exact') ?? 0) + Number(global('exact', id)));
}

/** Nobody holds a lock, no invalidation is open, and fast TLBs allow nothing that the modelled ones do not. */
function checkLocks(t: StressRun): void {
  const { kvm } = t;
  const held = [
    ...[kvm.slotsLock, kvm.slotsArchLock, kvm.lock, kvm.mmuLock].map((lock) =>
      'owner' in lock ? lock.owner : (lock.writer ?? lock.readers[0] ?? null),
    ),
    kvm.mm.mmapLock.writer,
  ].filter((owner) => owner !== null);
  if (held.length !== 0) throw new BugError(`locks are held by ${held.map((o) => o.describe()).join(', ')}`);
  if (kvm.mmuInvalidateInProgress !== 0 || kvm.mnActiveInvalidateCount !== 0)
    throw new BugError('an invalidation has not ended');
  const wrong = t.host.machine.cpus.flatMap((cpu) => auditFastTlb(cpu));
  if (wrong.length !== 0) throw new BugError(wrong.join('\n'));
}
