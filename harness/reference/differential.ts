// SPDX-License-Identifier: GPL-2.0-only
/**
 * Runs one program on the machine's interpreter and on the reference. First in lockstep, one instruction or iteration at
 * a time: outcome, registers, flags, RIP and clock after each, memory at the end. Then on the machine alone in pieces of
 * random length, each compared with what the lockstep run saw at that cycle.
 * Compared: everything above, A and D flags included, at the price 1 for an instruction or iteration and invented prices
 * for page walks, locked accesses, divisions and fences. Not compared: what system instructions do.
 */
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { BugError, UnimplementedError } from '../../vmm/machine/errors.ts';
import { RAM_BASE } from '../../vmm/machine/layout.ts';
import { getRflags } from '../../vmm/machine/cpu/flags.ts';
import { getReg } from '../../vmm/machine/cpu/regs.ts';
import { RUN } from '../../vmm/machine/cpu/state.ts';
import { compareMemory, compareOutcome, compareState } from './compare.ts';
import { ReferenceCpu } from './interpreter.ts';
import { EXTRA_CYCLES, MachineSide, MISS_CYCLES, REFERENCE_CYCLES, type Tamper } from './machine_side.ts';
import { RefMemory } from './memory.ts';
import type { Outcome } from './outcome.ts';
import type { ReferenceRules } from './paging.ts';
import { type Layout, layOutProgram, type Program } from './program.ts';
import { Random } from './random.ts';
import { copyState, type RefState } from './state.ts';
import {
  buildWorld,
  CODE,
  codeOffset,
  LARGE_OFFSET,
  LARGE_USED,
  RAM_BYTES,
  STACK_TOP,
  USED_LOW,
} from './world.ts';

/** Steps of one program: enough for a few loops. */
const MAX_STEPS = 120;

/** Where and how the two differ. */
export interface Mismatch {
  readonly run: 'lockstep' | 'pieces';
  readonly step: number;
  /** RIP before the step. */
  readonly rip: bigint;
  readonly differences: readonly string[];
}

interface Step {
  readonly outcome: Outcome;
  /** The state after the step; after an event, as the test left it. */
  readonly after: RefState;
}

const USED: readonly (readonly [offset: number, length: number])[] = [
  [0, USED_LOW],
  [LARGE_OFFSET, LARGE_USED],
];

/** The two sides of the test; machines are reused, since building one is slow. */
export class Differential {
  readonly #sides = new Map<string, MachineSide>();
  readonly #memory = new RefMemory(RAM_BASE, RAM_BYTES);
  readonly #initial = new Uint8Array(RAM_BYTES);
  readonly #worlds = new Map<string, Uint8Array>();
  /** Steps executed so far. */
  steps = 0;
  /** Forms of instructions of which one has been executed without a fault. */
  readonly retired = new Set<string>();
  readonly #tamper: Tamper | undefined;

  /** `tamper` spoils the machine after each of its runs: for the test of this test. */
  constructor(tamper?: Tamper) {
    this.#tamper = tamper;
  }

  /** Run a program both ways; undefined if nothing differs. */
  check(program: Program): Mismatch | undefined {
    const layout = layOutProgram(program);
    this.#build(program, layout);
    const side = this.#sideOf(program);
    const run = new LockstepRun(side, this.#memory, program, layout);
    this.#load(side);
    this.#clearStrays(side);
    this.#resetMemory();
    const mismatch = run.run();
    this.steps += run.trace.length;
    this.#noteRetired(program, layout, run);
    if (mismatch !== undefined) return mismatch;
    this.#load(side);
    this.#clearStrays(side);
    return runInPieces(side, this.#memory, program, run);
  }

  #resetMemory(): void {
    const { bytes, touched } = this.#memory;
    for (const [offset, length] of USED) bytes.set(this.#initial.subarray(offset, offset + length), offset);
    for (const offset of touched) bytes.set(this.#initial.subarray(offset, offset + 0x1000), offset);
  }

  /** Pages outside of the used ranges that this or an earlier program has stored to, by way of the large page. */
  #clearStrays(side: MachineSide): void {
    for (const offset of this.#memory.touched) {
      if (offset >= USED_LOW) side.loadMemory(this.#initial, offset, 0x1000);
    }
  }

  /** Tables and memory contents, the same for all programs of a kind. */
  #worldOf(program: Program): Uint8Array {
    const key = `${Number(program.user)}${Number(program.la57)}`;
    const known = this.#worlds.get(key);
    if (known !== undefined) return known;
    const world = new Uint8Array(RAM_BYTES);
    buildWorld(world, program, new Random(0x5eed));
    this.#worlds.set(key, world);
    return world;
  }

  #noteRetired(program: Program, { addresses }: Layout, { start, trace }: LockstepRun): void {
    const forms = new Map(program.lines.map(({ form }, n) => [addresses[n], form]));
    let { rip } = start;
    for (const { outcome, after } of trace) {
      const form = forms.get(rip);
      if (outcome.kind !== 'fault' && form !== undefined) this.retired.add(form);
      ({ rip } = after);
    }
  }

  #sideOf({ vendor, tlb }: Program): MachineSide {
    const key = `${vendor} ${tlb}`;
    const side = this.#sides.get(key) ?? new MachineSide(vendor, tlb, this.#tamper);
    this.#sides.set(key, side);
    return side;
  }

  #build(program: Program, layout: Layout): void {
    for (const [offset, length] of USED) {
      this.#initial.set(this.#worldOf(program).subarray(offset, offset + length), offset);
    }
    this.#initial.set(layout.bytes, codeOffset(CODE + BigInt(program.start)));
  }

  #load(side: MachineSide): void {
    for (const [offset, length] of USED) side.loadMemory(this.#initial, offset, length);
  }
}

class LockstepRun {
  readonly trace: Step[] = [];
  /** The last instruction was fetched, and nothing more, because it is not modelled. */
  cutShort = false;
  readonly start: RefState;
  readonly #side: MachineSide;
  readonly #reference: ReferenceCpu;
  readonly #memory: RefMemory;
  readonly #layout: Layout;
  readonly #base: bigint;
  /** After the last instruction inside of the program: where to go on after an event. */
  #resume: bigint;

  constructor(side: MachineSide, memory: RefMemory, program: Program, layout: Layout) {
    const { maxPhysBits, denied } = side;
    const keep: ReferenceRules['keep'] = program.tlb === 'keep-nothing' ? 'nothing' : 'forever';
    const rules = {
      maxPhysBits,
      denied,
      keep,
      missCycles: MISS_CYCLES,
      referenceCycles: REFERENCE_CYCLES,
      extra: EXTRA_CYCLES,
    };
    this.#side = side;
    this.#memory = memory;
    this.#layout = layout;
    this.#reference = new ReferenceCpu(memory, rules);
    this.#base = CODE + BigInt(program.start);
    this.#resume = this.#base;
    side.start(program, this.#resume);
    side.copyTo(this.#reference.state);
    this.start = copyState(this.#reference.state);
  }

  run(): Mismatch | undefined {
    const { state } = this.#reference;
    while (this.trace.length < MAX_STEPS && state.rip !== this.#layout.end) {
      const { rip } = state;
      const outcome = this.#reference.step();
      if (outcome.kind === 'unsupported') break;
      const differences = attempt(() => this.#stepMachine(outcome));
      if (differences === 'not modelled') {
        this.cutShort = outcome.kind === 'fault' && outcome.vector === VECTOR.UD;
        if (this.cutShort) break;
        return this.#mismatch(rip, ['the machine says that the instruction is not modelled']);
      }
      if (differences.length > 0) return this.#mismatch(rip, differences);
      this.#noteResume(rip, outcome);
      if (outcome.kind !== 'done') this.#recover(outcome);
      this.trace.push({ outcome, after: copyState(state) });
    }
    const differences = USED.flatMap(([offset, length]) =>
      compareMemory(this.#side, this.#memory.bytes, offset, length),
    );
    return differences.length > 0 ? this.#mismatch(state.rip, differences) : undefined;
  }

  #mismatch(rip: bigint, differences: readonly string[]): Mismatch {
    return { run: 'lockstep', step: this.trace.length, rip, differences };
  }

  #stepMachine(outcome: Outcome): string[] {
    const side = this.#side;
    const returned = side.run(side.clock + 1);
    const { flags, reg } = this.#reference.undefined;
    const differences = compareOutcome(side, returned, outcome);
    if (differences.length === 0) differences.push(...compareState(side, this.#reference.state, flags, reg));
    if (differences.length === 0) this.#adoptUndefined();
    return differences;
  }

  /** Go on with the machine's choice of what the manual leaves undefined. */
  #adoptUndefined(): void {
    const { cpu, machine } = this.#side;
    const {
      state,
      undefined: { flags, reg, place },
    } = this.#reference;
    state.rflags = (state.rflags & ~flags) | (getRflags(cpu) & flags);
    if (reg >= 0) state.gpr[reg] = getReg(cpu, reg);
    for (const at of place ?? []) this.#memory.setByte(at, machine.mem.u8[at]!);
  }

  #noteResume(rip: bigint, outcome: Outcome): void {
    if (rip < this.#base || rip >= this.#layout.end || outcome.kind === 'unsupported') return;
    this.#resume = rip + BigInt(Math.max(1, outcome.length));
  }

  /** Step over what has faulted or would be the system room's; give a lost stack back. */
  #recover(outcome: Outcome): void {
    const { state } = this.#reference;
    const inside = state.rip >= this.#base && state.rip < this.#layout.end;
    const length = outcome.kind === 'unsupported' ? 1 : Math.max(1, outcome.length);
    state.rip = inside ? state.rip + BigInt(length) : this.#resume;
    if (this.trace.length % 4 === 0) state.gpr[4] = STACK_TOP;
    this.#side.moveTo(state.rip, state.gpr[4]!);
  }
}

/** UnimplementedError is no difference by itself: an invalid opcode may be said to be one that is not modelled. */
function attempt(run: () => string[]): string[] | 'not modelled' {
  try {
    return run();
  } catch (error) {
    if (error instanceof UnimplementedError) return 'not modelled';
    return [`the machine threw ${String(error)}`];
  }
}

/** The same program on the machine alone, stopping at random cycles. */
function runInPieces(
  side: MachineSide,
  memory: RefMemory,
  program: Program,
  run: LockstepRun,
): Mismatch | undefined {
  const { trace } = run;
  const random = new Random(program.seed ^ 0x0dead);
  side.start(program, run.start.rip);
  let done = 0;
  let state = run.start;
  while (done < trace.length) {
    const last = trace[trace.length - 1]!.after.cycles;
    const far = state.cycles + 1 + random.below(random.oneIn(3) ? 200 : 12);
    // At the last cycle there may still be events that take no time.
    const deadline = state.cycles < last ? Math.min(last, far) : last + 1;
    // Where it must stop: at the first event, or at the first instruction that begins at the deadline or later.
    while (done < trace.length && state.cycles < deadline && trace[done]!.outcome.kind === 'done') {
      state = trace[done++]!.after;
    }
    const event = state.cycles < deadline ? trace[done] : undefined;
    const differences = attempt(() => stopOf(side, deadline, state, event));
    if (differences === 'not modelled') throw new BugError('an instruction is not modelled that was before');
    if (differences.length > 0) return { run: 'pieces', step: done, rip: state.rip, differences };
    if (event === undefined) continue;
    state = event.after;
    done++;
    side.moveTo(state.rip, state.gpr[4]!);
  }
  if (run.cutShort) return undefined;
  const differences = USED.flatMap(([offset, length]) => compareMemory(side, memory.bytes, offset, length));
  return differences.length > 0 ? { run: 'pieces', step: done, rip: state.rip, differences } : undefined;
}

function stopOf(side: MachineSide, deadline: number, state: RefState, event: Step | undefined): string[] {
  const returned = side.run(deadline);
  if (event === undefined) {
    const stopped =
      returned === RUN.DEADLINE
        ? []
        : [`machine stopped with RUN ${returned} before the deadline ${deadline}`];
    return [...stopped, ...compareState(side, state, 0)];
  }
  const differences = compareOutcome(side, returned, event.outcome);
  // A fault's walks have been paid for; the rest is as before the instruction.
  return differences.length > 0
    ? differences
    : compareState(side, { ...state, cycles: event.after.cycles }, 0);
}
