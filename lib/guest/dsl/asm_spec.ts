// SPDX-License-Identifier: GPL-2.0-only
/**
 * Inline assembly of guest code: operands in registers that the instruction demands or that the compiler chooses, as GNU C's
 * extended asm. Left out: memory operands (pass the address in a register) and condition-code outputs (use setcc).
 */
import type { Instruction } from '../../asm/isa.ts';
import type { Operand as AsmArg, Reg } from '../../asm/operands.ts';
import { GuestCodeError } from './error.ts';
import { constNode, signedValue } from './fold.ts';
import type { AsmOperand, GpName, Local, Node } from './ir.ts';
import { rvalue, type Operand, type RValue } from './rvalue.ts';
import { isInt, isScalar } from './types.ts';
import type { AnyType, IntSize, IntType, PtrType } from './types.ts';

/** Where inline assembly goes: the assembler, without its bookkeeping. */
export interface AsmSink {
  /** Emits one instruction. */
  emit(mnemonic: Instruction, ...operands: AsmArg[]): void;
  /** Binds a label. */
  label(name: string): void;
}

/** The registers given to the operands, and labels that are unique to this expansion. */
export interface AsmRegs<N extends string> {
  /** The register of an operand, in the width of its type. */
  reg(name: N): Reg;
  /** The same register in 64 bits. */
  reg64(name: N): Reg;
  /** The full name of a label of this expansion, for `a.label` and `lab`. */
  local(name: string): string;
}

/** An operand bound to one register. */
export interface Fixed<V> {
  readonly fixed: GpName;
  readonly value: V;
}

/** Demands a register for an operand: `fixed('rcx', msr)`. */
export const fixed = <V>(reg: GpName, value: V): Fixed<V> => ({ fixed: reg, value });

type Scalar = IntType | PtrType;

/** Inline assembly. An output with the name of an input shares its register. */
export interface AsmSpec<I extends string, O extends string> {
  readonly in?: Readonly<Record<I, Operand | Fixed<Operand>>>;
  readonly out?: Readonly<Record<O, Scalar | Fixed<Scalar>>>;
  readonly clobbers?: readonly GpName[];
  readonly emit: (a: AsmSink, r: AsmRegs<I | O>) => void;
}

const isFixed = <V>(value: V | Fixed<V>): value is Fixed<V> =>
  typeof value === 'object' && value !== null && 'fixed' in value;

interface Draft {
  name: string;
  reg?: GpName;
  size: IntSize;
  input?: Node;
  output?: Local;
}

/** A literal has no width of its own: it fills the register, sign-extended as C's int would be. */
function inputNode({ type, node }: RValue): Node {
  if (node.k !== 'const') return node;
  return constNode(8, isInt(type) && type.signed ? signedValue(node) : node.value);
}

function inputDraft(name: string, given: Operand | Fixed<Operand>): Draft {
  const node = inputNode(rvalue(isFixed(given) ? given.value : given));
  const draft: Draft = { name, size: node.width, input: node };
  if (isFixed(given)) draft.reg = given.fixed;
  return draft;
}

/** Resolves the operands of a spec; `makeLocal` gives the variable that takes an output. */
export function asmOperands(
  spec: AsmSpec<string, string>,
  makeLocal: (type: AnyType) => Local,
): AsmOperand[] {
  const drafts = new Map<string, Draft>();
  for (const [name, given] of Object.entries(spec.in ?? {})) drafts.set(name, inputDraft(name, given));
  for (const [name, given] of Object.entries(spec.out ?? {})) {
    const type = isFixed(given) ? given.value : given;
    checkOutput(name, type);
    const draft = drafts.get(name) ?? { name, size: type.size };
    const reg = isFixed(given) ? given.fixed : draft.reg;
    if (draft.reg !== undefined && reg !== draft.reg) {
      throw new GuestCodeError(`asm operand ${name} is both in ${draft.reg} and ${reg}`);
    }
    if (reg !== undefined) draft.reg = reg;
    draft.output = makeLocal(type);
    drafts.set(name, draft);
  }
  checkRegisters([...drafts.values()]);
  return [...drafts.values()];
}

function checkOutput(name: string, type: AnyType): void {
  if (!isScalar(type)) throw new GuestCodeError(`asm output ${name} of type ${type.name}`);
}

function checkRegisters(drafts: readonly Draft[]): void {
  for (const side of ['input', 'output'] as const) {
    const seen = new Set<string>();
    for (const draft of drafts) {
      if (draft.reg === undefined || draft[side] === undefined) continue;
      if (seen.has(draft.reg)) throw new GuestCodeError(`asm: two ${side}s in ${draft.reg}`);
      seen.add(draft.reg);
    }
  }
}
