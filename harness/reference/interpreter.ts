// SPDX-License-Identifier: GPL-2.0-only
/**
 * The reference interpreter: one instruction, or one iteration of a repeated string instruction, at a time, in 64-bit
 * mode, decoded afresh, written from the SDM's instruction pages. It is slow and shares no decoding and no execution with
 * vmm/machine/cpu; harness/reference/differential.ts compares the two.
 * Leaves out: x87 and vector instructions, interrupts, debug features, what system instructions do.
 */
import { BugError } from '../../vmm/machine/errors.ts';
import { RFLAGS } from '../../lib/x86/registers.ts';
import { Exec, type Decode, type Execute, type OpRow } from './exec.ts';
import { Linear, type Place } from './linear.ts';
import { RefMemory } from './memory.ts';
import { ALU_OPS } from './ops/alu.ts';
import { BIT_ROWS } from './ops/bit.ts';
import { CONTROL_OPS } from './ops/control.ts';
import { MOVE_OPS } from './ops/move.ts';
import { MULDIV_OPS } from './ops/muldiv.ts';
import { SHIFT_OPS } from './ops/shift.ts';
import { STACK_OPS } from './ops/stack.ts';
import { STRING_OPS } from './ops/string.ts';
import { SYSTEM_OPS } from './ops/system.ts';
import { BeyondReference, GuestException, type Outcome } from './outcome.ts';
import { type ReferenceRules, RefPaging } from './paging.ts';
import { copyState, emptyState, type RefState, restoreState } from './state.ts';

const OPS: ReadonlyMap<number, Decode> = tableOf([
  ...ALU_OPS,
  ...MULDIV_OPS,
  ...SHIFT_OPS,
  ...BIT_ROWS,
  ...MOVE_OPS,
  ...STACK_OPS,
  ...STRING_OPS,
  ...SYSTEM_OPS,
  ...CONTROL_OPS,
]);

function tableOf(rows: readonly OpRow[]): ReadonlyMap<number, Decode> {
  const table = new Map(rows);
  if (table.size !== rows.length) throw new BugError('an opcode has two rows in the reference interpreter');
  return table;
}

const SEGMENT_PREFIXES = new Set([0x26, 0x2e, 0x36, 0x3e]);

/** Reads prefixes and opcode. SDM, "Instruction Prefixes": REX counts only right before the opcode. */
function readOpcode(x: Exec): void {
  for (;;) {
    const byte = x.byte();
    if ((byte & 0xf0) === 0x40) {
      x.rex = byte;
      continue;
    }
    if (byte === 0x66) x.operandSize16 = true;
    else if (byte === 0x67) x.addressSize32 = true;
    else if (byte === 0xf0) x.lock = true;
    else if (byte === 0xf2 || byte === 0xf3) x.repeat = byte;
    else if (byte === 0x64) x.segment = 'fs';
    else if (byte === 0x65) x.segment = 'gs';
    else if (!SEGMENT_PREFIXES.has(byte)) {
      x.opcode = byte === 0x0f ? readTwoByteOpcode(x) : byte;
      return;
    }
    x.rex = 0;
  }
}

function readTwoByteOpcode(x: Exec): number {
  const second = x.byte();
  return second === 0x38 ? 0x0f3800 | x.byte() : 0x0f00 | second;
}

/** What the last step left undefined, for the comparison. */
export interface Undefined {
  readonly flags: number;
  /** A general-purpose register, or -1. */
  readonly reg: number;
  readonly place: Place | undefined;
}

export class ReferenceCpu {
  readonly state: RefState = emptyState();
  readonly memory: RefMemory;
  readonly paging: RefPaging;
  readonly #linear: Linear;
  readonly #extra: ReferenceRules['extra'];
  #undefined: Undefined = { flags: 0, reg: -1, place: undefined };

  constructor(memory: RefMemory, rules: ReferenceRules) {
    this.memory = memory;
    this.#extra = rules.extra;
    this.paging = new RefPaging(this.state, memory, rules);
    this.#linear = new Linear(this.state, memory, this.paging);
  }

  /** What the last step left undefined. */
  get undefined(): Undefined {
    return this.#undefined;
  }

  /** Execute the instruction at RIP, or one iteration of it. */
  step(): Outcome {
    const before = copyState(this.state);
    const x = new Exec(this.state, this.#linear, this.paging);
    this.memory.begin();
    this.#undefined = { flags: 0, reg: -1, place: undefined };
    let length = 0;
    try {
      const execute = decode(x);
      length = x.bytes.length;
      execute();
      if (x.bytes.length !== length)
        throw new BugError('the reference interpreter fetched while it executed');
    } catch (error) {
      // What the walks have cost has been spent; everything else is as before.
      const cycles = this.state.cycles + x.faultCycles;
      restoreState(this.state, before);
      this.state.cycles = cycles;
      if (!x.keepsStores) this.memory.rollback();
      if (error instanceof BeyondReference) {
        this.memory.rollbackWalks();
        return { kind: 'unsupported', what: error.message };
      }
      if (!(error instanceof GuestException)) throw error;
      const { vector, errorCode, cr2 } = error;
      return { kind: 'fault', vector, errorCode, cr2, length };
    }
    if (x.stop !== undefined) return { kind: 'system', length, operands: x.stop };
    this.#retire(x, length);
    return { kind: 'done', length };
  }

  #retire(x: Exec, length: number): void {
    const { state } = this;
    if (!x.again) state.rip = x.target ?? BigInt.asUintN(64, state.rip + BigInt(length));
    state.rflags = (state.rflags & 0x3f_ffff) | RFLAGS.FIXED;
    state.cycles += 1 + (x.extra === 'none' ? 0 : this.#extra[x.extra]);
    this.#undefined = { flags: x.undefinedFlags, reg: x.undefinedReg, place: x.undefinedPlace };
  }
}

function decode(x: Exec): Execute {
  readOpcode(x);
  const row = OPS.get(x.opcode) ?? x.beyond(`opcode ${x.opcode.toString(16)}`);
  const execute = row(x);
  x.finishModRm();
  if (x.lock) x.extra = 'lock';
  if (x.lock && !x.lockable) x.invalid();
  return execute;
}
