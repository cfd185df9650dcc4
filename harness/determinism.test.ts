// SPDX-License-Identifier: GPL-2.0-only
/**
 * DESIGN, decision 2: same program, options and seed give the same trace, byte for byte; another seed changes only what asks
 * for chance. RDRAND is such a thing.
 */
import { describe, expect, it } from 'vitest';
import type { Steps } from '../lib/kvm_util/backend.ts';
import { guestFn, GUEST_SYNC, linkGuest, u64 } from '../lib/guest/index.ts';
import { getUcall, vcpuRun } from '../lib/kvm_util/ucall_common.ts';
import { vmCreateWithOneVcpu } from '../lib/kvm_util/vm_create.ts';
import { createEmulatedHost, type EmulatedHost } from '../vmm/emulated.ts';
import { loadSelftest } from './registry.ts';

/** The whole trace of a run as text, and the clocks of all pCPUs at its end. */
function traceOf(seed: number, main: (host: EmulatedHost) => Steps<void>): string {
  const host = createEmulatedHost({ seed });
  host.module.trace.enable();
  const lines: string[] = [];
  host.module.trace.listener = () => lines.push('');
  host.runMain(() => main(host));
  const clocks = host.machine.cpus.map((cpu) => cpu.clock[0]);
  return [...host.module.trace.text(), `${lines.length} events`, `clocks ${clocks.join()}`].join('\n');
}

const perf = await loadSelftest('memslot_perf_test');
const runPerf = (host: EmulatedHost): Steps<void> =>
  perf!.run({ backend: host, args: ['-s', '64', '-l', '0.001', '-e', '0', '-v'], print: () => undefined });

const randomCode = guestFn('random_code', [], (g) => {
  const value = g.asm({ out: { v: u64 }, emit: (a, r) => a.emit('rdrand', r.reg64('v')) }).v;
  GUEST_SYNC(g, value);
});

function* runRandom(host: EmulatedHost): Steps<void> {
  const [, vcpu] = yield* vmCreateWithOneVcpu(host, { image: linkGuest(randomCode) });
  yield* vcpuRun(vcpu);
  expect(getUcall(vcpu).args[1]).not.toBe(0n);
}

const randomOf = (seed: number): bigint => {
  const host = createEmulatedHost({ seed });
  let value = 0n;
  host.runMain(function* () {
    const [, vcpu] = yield* vmCreateWithOneVcpu(host, { image: linkGuest(randomCode) });
    yield* vcpuRun(vcpu);
    value = getUcall(vcpu).args[1]!;
  });
  return value;
};

describe('determinism', () => {
  it('the same seed gives a byte-identical trace, and so does another if the program asks for no chance', () => {
    const trace = traceOf(7, runPerf);
    expect(trace.split('\n').length).toBeGreaterThan(1000);
    expect(traceOf(7, runPerf)).toBe(trace);
    expect(traceOf(8, runPerf)).toBe(trace);
  });

  it('RDRAND follows the seed and nothing else does', () => {
    expect(randomOf(1)).toBe(randomOf(1));
    expect(randomOf(2)).not.toBe(randomOf(1));
    expect(traceOf(2, runRandom)).toBe(traceOf(1, runRandom));
  });
});
