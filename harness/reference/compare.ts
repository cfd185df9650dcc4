// SPDX-License-Identifier: GPL-2.0-only
/** Comparison of the machine with the reference: one line of text for each difference, none if they agree. */
import { FAULT, RUN, S, SEGN } from '../../vmm/machine/cpu/state.ts';
import { getRflags } from '../../vmm/machine/cpu/flags.ts';
import { getReg, getRip } from '../../vmm/machine/cpu/regs.ts';
import { SYSOP } from '../../vmm/machine/cpu/sys_insn.ts';
import { GPR } from '../../lib/x86/registers.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import type { MachineSide } from './machine_side.ts';
import type { FaultOutcome, Outcome, SystemOperands } from './outcome.ts';
import type { RefState } from './state.ts';

const hex = (value: bigint | number): string => `0x${value.toString(16)}`;

function differs(what: string, machine: bigint | number, reference: bigint | number): string[] {
  return machine === reference ? [] : [`${what}: machine ${hex(machine)}, reference ${hex(reference)}`];
}

/** Registers, RIP, RFLAGS but for `ignoredFlags`, and the clock. */
export function compareState(
  side: MachineSide,
  state: RefState,
  ignoredFlags: number,
  ignoredReg = -1,
): string[] {
  const { cpu } = side;
  const out = differs('RIP', getRip(cpu), state.rip);
  for (const [name, n] of Object.entries(GPR)) {
    if (n !== ignoredReg) out.push(...differs(name, getReg(cpu, n), state.gpr[n]!));
  }
  out.push(...differs('RFLAGS', getRflags(cpu) & ~ignoredFlags, state.rflags & ~ignoredFlags));
  out.push(...compareControl(side, state));
  out.push(...differs('cycles', side.clock, state.cycles));
  return out;
}

function compareControl(side: MachineSide, state: RefState): string[] {
  const { s } = side.cpu;
  return [
    ...differs('CR0', s[S.CR0]!, state.cr0),
    ...differs('CR3', BigInt(s[S.CR3]! >>> 0) | (BigInt(s[S.CR3 + 1]! >>> 0) << 32n), state.cr3),
    ...differs('CR4', s[S.CR4]!, state.cr4),
    ...differs('PKRU', s[S.PKRU]!, state.pkru),
    ...differs('FS base', side.base(SEGN.FS), state.fsBase),
    ...differs('GS base', side.base(SEGN.GS), state.gsBase),
  ];
}

/** What the machine returned against how the reference's step ended. */
export function compareOutcome(side: MachineSide, returned: number, outcome: Outcome): string[] {
  const names: Readonly<Record<number, string>> = {
    [RUN.DEADLINE]: 'done',
    [RUN.FAULT]: 'fault',
    [RUN.SYS]: 'system',
  };
  const name = names[returned] ?? `RUN ${returned}`;
  if (name !== outcome.kind) {
    const { fault, insn } = side.cpu;
    const detail =
      name === 'fault' ? ` (vector ${fault.vector})` : name === 'system' ? ` (SYSOP ${insn.op})` : '';
    return [`outcome: machine ${name}${detail}, reference ${describeOutcome(outcome)}`];
  }
  if (outcome.kind === 'fault') return compareFault(side, outcome);
  return outcome.kind === 'system' ? compareSystem(side, outcome.operands, outcome.length) : [];
}

function describeOutcome(outcome: Outcome): string {
  if (outcome.kind === 'fault')
    return `fault (vector ${outcome.vector}, error code ${hex(outcome.errorCode)})`;
  return outcome.kind === 'system' ? `system (${outcome.operands.op})` : outcome.kind;
}

function compareFault({ cpu: { fault } }: MachineSide, outcome: FaultOutcome): string[] {
  const out = differs('fault kind', fault.kind, FAULT.EXCEPTION);
  out.push(...differs('vector', fault.vector, outcome.vector));
  out.push(...differs('error code', fault.errorCode, outcome.errorCode));
  if (outcome.vector === VECTOR.PF) {
    const linear = (BigInt(fault.linHi >>> 0) << 32n) | BigInt(fault.linLo >>> 0);
    out.push(...differs('CR2', linear, outcome.cr2 ?? 0n));
  }
  return out;
}

function compareSystem({ cpu: { insn } }: MachineSide, operands: SystemOperands, length: number): string[] {
  const out = differs('instruction length', insn.length, length);
  out.push(
    ...differs(
      `SYSOP (${operands.op})`,
      insn.op,
      (SYSOP as Readonly<Record<string, number>>)[operands.op] ?? -1,
    ),
  );
  if (operands.reg !== undefined) out.push(...differs('ModRM.reg', insn.reg, operands.reg));
  if (operands.rm !== undefined) out.push(...differs('ModRM.rm', insn.rm, operands.rm));
  if (operands.linear !== undefined) {
    const linear = (BigInt(insn.eaHi >>> 0) << 32n) | BigInt(insn.eaLo >>> 0);
    out.push(...differs('linear address', linear, operands.linear));
  }
  return out;
}

/** A range of RAM; `offset` from the start of the image. */
export function compareMemory(
  side: MachineSide,
  image: Uint8Array,
  offset: number,
  length: number,
): string[] {
  const theirs = side.ram(offset, length);
  const mine = image.subarray(offset, offset + length);
  if (Buffer.compare(theirs, mine) === 0) return [];
  const out: string[] = [];
  for (let n = 0; n < length && out.length < 8; n++) {
    out.push(...differs(`RAM+${hex(offset + n)}`, theirs[n]!, mine[n]!));
  }
  return out;
}
