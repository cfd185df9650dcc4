// SPDX-License-Identifier: GPL-2.0-only
/**
 * Runs one program on the machine's interpreter and on the reference. First in lockstep, one instruction or iteration at
 * a time: outcome, registers, flags, RIP and clock after each, memory at the end. Then on the machine alone in pieces of
 * random length, each compared with what the lockstep run saw at that cycle.
 * Compared: everything above, A and D flags included, at the price 1 for an instruction or iteration and invented prices
 * for page walks. Not compared: the prices of DIV, LOCK and fences, which are zero here; what system instructions do.
 */
import { RAM_BASE } from '../../vmm/machine/layout.ts';
import { getRflags } from '../../vmm/machine/cpu/flags.ts';
import { getReg } from '../../vmm/machine/cpu/regs.ts';
import { RUN } from '../../vmm/machine/cpu/state.ts';
import { compareMemory, compareOutcome, compareState } from './compare.ts';
import { ReferenceCpu } from './interpreter.ts';
import { MachineSide, MISS_CYCLES, REFERENCE_CYCLES } from './machine_side.ts';
import { RefMemory } from './memory.ts';
import type { Outcome } from './outcome.ts';
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
  readonly #sides: Readonly<Record<Program['vendor'], MachineSide>> = {
    skylake: new MachineSide('skylake'),
    milan: new MachineSide('milan'),
  };
  readonly #memory = new RefMemory(RAM_BASE, RAM_BYTES);
  readonly #initial = new Uint8Array(RAM_BYTES);
  /** Steps executed so far. */
  steps = 0;

  /** Run a program both ways; undefined if nothing differs. */
  check(program: Program): Mismatch | undefined {
    const layout = layOutProgram(program);
    this.#build(program, layout);
    const side = this.#sides[program.vendor];
    const run = new LockstepRun(side, this.#memory, program, layout);
    this.#load(side);
    this.#memory.bytes.set(this.#initial);
    const mismatch = run.run();
    this.steps += run.trace.length;
    if (mismatch !== undefined) return mismatch;
    this.#load(side);
    return runInPieces(side, this.#memory, program, run);
  }

  #build(program: Program, layout: Layout): void {
    buildWorld(this.#initial, program, new Random(program.seed ^ 0x5eed));
    this.#initial.set(layout.bytes, codeOffset(CODE + BigInt(program.start)));
  }

  #load(side: MachineSide): void {
    for (const [offset, length] of USED) side.loadMemory(this.#initial, offset, length);
  }
}

class LockstepRun {
  readonly trace: Step[] = [];
  readonly start: RefState;
  readonly #side: MachineSide;
  readonly #reference: ReferenceCpu;
  readonly #memory: RefMemory;
  readonly #layout: Layout;
  /** After the last instruction inside of the program: where to go on after an event. */
  #resume: bigint;

  constructor(side: MachineSide, memory: RefMemory, program: Program, layout: Layout) {
    const { maxPhysBits, denied } = side;
    const rules = { maxPhysBits, denied, missCycles: MISS_CYCLES, referenceCycles: REFERENCE_CYCLES };
    this.#side = side;
    this.#memory = memory;
    this.#layout = layout;
    this.#reference = new ReferenceCpu(memory, rules);
    this.#resume = CODE + BigInt(program.start);
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
      const differences = this.#stepMachine(outcome);
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
    let returned: number;
    try {
      returned = side.run(side.clock + 1);
    } catch (error) {
      return [`machine threw ${String(error)}, reference ${outcome.kind}`];
    }
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
    if (rip < CODE || rip >= this.#layout.end || outcome.kind === 'unsupported') return;
    this.#resume = rip + BigInt(Math.max(1, outcome.length));
  }

  /** Step over what has faulted or would be the system room's; give a lost stack back. */
  #recover(outcome: Outcome): void {
    const { state } = this.#reference;
    const inside = state.rip >= CODE && state.rip < this.#layout.end;
    const length = outcome.kind === 'unsupported' ? 1 : Math.max(1, outcome.length);
    state.rip = inside ? state.rip + BigInt(length) : this.#resume;
    if (this.trace.length % 4 === 0) state.gpr[4] = STACK_TOP;
    this.#side.moveTo(state.rip, state.gpr[4]!);
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
    const deadline = Math.min(last, state.cycles + 1 + random.below(random.oneIn(3) ? 200 : 12));
    // Where it must stop: at the first event, or at the first instruction that begins at the deadline or later.
    while (done < trace.length && state.cycles < deadline && trace[done]!.outcome.kind === 'done') {
      state = trace[done++]!.after;
    }
    const event = state.cycles < deadline ? trace[done] : undefined;
    if (event === undefined && state.cycles >= last && done < trace.length && deadline >= last) {
      // Only events that take no time are left; the lockstep run has seen them.
      done = trace.length;
    }
    const differences = stopOf(side, deadline, state, event);
    if (differences.length > 0) return { run: 'pieces', step: done, rip: state.rip, differences };
    if (event === undefined) continue;
    state = event.after;
    done++;
    side.moveTo(state.rip, state.gpr[4]!);
  }
  const differences = USED.flatMap(([offset, length]) => compareMemory(side, memory.bytes, offset, length));
  return differences.length > 0 ? { run: 'pieces', step: done, rip: state.rip, differences } : undefined;
}

function stopOf(side: MachineSide, deadline: number, state: RefState, event: Step | undefined): string[] {
  let returned: number;
  try {
    returned = side.run(deadline);
  } catch (error) {
    return [`machine threw ${String(error)}`];
  }
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
