// SPDX-License-Identifier: GPL-2.0-only
/** The table of benchmarks: name, unit, goal, kernel. Names are stable; later issues append. */
import { aluKernel, callKernel, mixedKernel, pageTouchKernel, type CpuKernel } from './cpu_kernels.ts';
import { seconds, type Benchmark } from './measure.ts';
import { mapPassSeconds, slotMoveUs, slotSetupMs } from './memslot_kernels.ts';
import { l1Loop, NESTED_CAUSES, nestedRoundTrips } from './nested_kernels.ts';
import { vitestRatio } from './vitest_ratio.ts';
import { vmxRoundTrips } from './vmx_kernels.ts';

const MIPS_INSNS = 30_000_000;

/** Millions of guest instructions a second; the kernel stays warm from run to run. */
function mips(make: () => CpuKernel): () => number {
  let kernel: CpuKernel | undefined;
  return () => {
    kernel ??= make();
    const k = kernel;
    let executed = 0;
    const s = seconds(() => {
      executed = k.run(MIPS_INSNS);
    });
    return executed / s / 1e6;
  };
}

/** A fixed loop of plain JavaScript: how fast this machine is just now. The reference for all ratios. */
function referenceMops(): number {
  const turns = 100_000_000;
  let x = 1;
  const s = seconds(() => {
    for (let i = 0; i < turns; i++) x = (Math.imul(x, 1664525) + 1013904223) | 0;
  });
  // Uses the result, so that the loop cannot be left out.
  return x === 0 ? 0 : turns / s / 1e6;
}

const best = (values: readonly number[]): number => Math.min(...values);

const SPEED = { trips: 50_000, batches: 3 };
const NO_SHADOW = ['kvm_intel.enable_shadow_vmcs=0'];
/** Virtual time does not depend on how often it is measured. */
const COUNT = { trips: 1000, batches: 1 };

/** L1's VMREAD or VMWRITE: on the shadow VMCS, and emulated by L0. */
const accesses = (name: 'vmread' | 'vmwrite'): Benchmark[] => [
  { name: `nested.${name}.shadow.per_s`, unit: '1/s', run: () => l1Loop(name, SPEED).perSecond },
  {
    name: `nested.${name}.exit.per_s`,
    unit: '1/s',
    run: () => l1Loop(name, { ...SPEED, params: NO_SHADOW }).perSecond,
  },
  { name: `nested.${name}.shadow.cycles`, unit: 'cycles', run: () => l1Loop(name, COUNT).cyclesPerTrip },
  {
    name: `nested.${name}.exit.cycles`,
    unit: 'cycles',
    run: () => l1Loop(name, { ...COUNT, params: NO_SHADOW }).cyclesPerTrip,
  },
];

/** Cycles of an exit from L2 to L1 and back, by cause, and of one from L1 to L0. */
const exitCycles = (): Benchmark[] => [
  { name: 'single.cpuid.cycles', unit: 'cycles', run: () => l1Loop('cpuid', COUNT).cyclesPerTrip },
  ...(Object.keys(NESTED_CAUSES) as (keyof typeof NESTED_CAUSES)[]).flatMap((cause) => [
    {
      name: `nested.${cause}.cycles`,
      unit: 'cycles',
      run: () => nestedRoundTrips(cause, COUNT).cyclesPerTrip,
    },
    {
      name: `nested.${cause}.ept.cycles`,
      unit: 'cycles',
      run: () => nestedRoundTrips(cause, { ...COUNT, ept: true }).cyclesPerTrip,
    },
  ]),
];

// prettier-ignore
export const BENCHMARKS: readonly Benchmark[] = [
  { name: 'reference.js.mops', unit: 'Mops/s', run: referenceMops },
  { name: 'cpu.alu.mips', unit: 'MIPS', goal: { value: 100, better: 'higher' }, run: mips(aluKernel) },
  { name: 'cpu.call.mips', unit: 'MIPS', goal: { value: 100, better: 'higher' }, run: mips(callKernel) },
  { name: 'cpu.touch.mips', unit: 'MIPS', goal: { value: 90, better: 'higher' }, run: mips(pageTouchKernel) },
  { name: 'cpu.mixed.mips', unit: 'MIPS', run: mips(mixedKernel) },
  { name: 'cpu.alu.vitest_ratio', unit: 'ratio', goal: { value: 0.5, better: 'higher' }, run: vitestRatio },
  { name: 'vmx.roundtrip.per_s', unit: '1/s', goal: { value: 1e6, better: 'higher' }, run: () => vmxRoundTrips('cpuid', 500_000, () => performance.now()).perSecond },
  { name: 'nested.roundtrip.per_s', unit: '1/s', goal: { value: 3e5, better: 'higher' }, run: () => nestedRoundTrips('vmcall', SPEED).perSecond },
  ...accesses('vmread'),
  ...accesses('vmwrite'),
  ...exitCycles(),
  { name: 'memslot.setup_8192.ms', unit: 'ms', goal: { value: 50, better: 'lower' }, run: () => slotSetupMs(8192) },
  { name: 'memslot.setup_32763.ms', unit: 'ms', goal: { value: 250, better: 'lower' }, run: () => slotSetupMs(32763) },
  { name: 'memslot.op_ratio_32763_512', unit: 'ratio', goal: { value: 2, better: 'lower' },
    run: () => best([1, 2, 3].map(() => slotMoveUs(32763, 4000))) / best([1, 2, 3].map(() => slotMoveUs(512, 4000))) },
  { name: 'memslot.map_pass_8192.s', unit: 's', goal: { value: 0.5, better: 'lower' }, run: () => best(mapPassSeconds(8192, 3)) },
];
