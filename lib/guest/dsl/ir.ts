// SPDX-License-Identifier: GPL-2.0-only
/**
 * The intermediate form of guest code: expression trees without side effects, and structured statements. Values live in
 * 32- or 64-bit registers; narrow integers are widened when loaded. A call, an atomic or an inline instruction is a
 * statement of its own, so that nothing inside a tree can clobber a register behind the compiler's back.
 */
import type { Site } from './srcloc.ts';
import type { AnyType, FnType, IntSize } from './types.ts';

/** Width of a register value in bytes. */
export type Width = 4 | 8;

/** Something with an address in the image: function, raw assembly, global or string. */
export interface Linkable {
  readonly linkKind: 'fn' | 'asm' | 'data' | 'string';
  /** The symbol; for a string its text. */
  readonly symbol: string;
}

/** A function as a value. */
export interface FnLinkable extends Linkable {
  readonly linkKind: 'fn' | 'asm';
  readonly type: FnType;
}

/** A local variable or parameter. */
export interface Local {
  readonly id: number;
  readonly type: AnyType;
  /** Its address was taken, or it is an aggregate: it cannot live in a register. */
  inMemory: boolean;
}

export type BinOp = 'add' | 'sub' | 'mul' | 'and' | 'or' | 'xor' | ShiftOp | DivOp;
export type ShiftOp = 'shl' | 'shr' | 'sar';
export type DivOp = 'udiv' | 'sdiv' | 'umod' | 'smod';
/** Condition codes in the assembler's spelling. */
export type CondCode = 'e' | 'ne' | 'b' | 'be' | 'a' | 'ae' | 'l' | 'le' | 'g' | 'ge';

export interface ConstNode {
  readonly k: 'const';
  readonly width: Width;
  /** Unsigned, within the width. */
  readonly value: bigint;
}
/** The value of a scalar local. */
export interface LocalNode {
  readonly k: 'local';
  readonly width: Width;
  readonly local: Local;
}
/** The address of a local, plus `offset`. */
export interface LocalAddrNode {
  readonly k: 'localAddr';
  readonly width: 8;
  readonly local: Local;
  readonly offset: number;
}
/** The address of a symbol, plus `addend`. */
export interface SymNode {
  readonly k: 'sym';
  readonly width: 8;
  readonly target: Linkable;
  readonly addend: number;
}
/** A load of `size` bytes, extended to `width`. */
export interface LoadNode {
  readonly k: 'load';
  readonly width: Width;
  readonly size: IntSize;
  readonly signed: boolean;
  readonly addr: Node;
}
export interface BinNode {
  readonly k: 'bin';
  readonly op: BinOp;
  readonly width: Width;
  readonly l: Node;
  readonly r: Node;
}
export interface UnNode {
  readonly k: 'un';
  readonly op: 'neg' | 'not';
  readonly width: Width;
  readonly x: Node;
}
/** The low `from` bytes of `x`, extended to `width`. */
export interface ExtNode {
  readonly k: 'ext';
  readonly width: Width;
  readonly from: 1 | 2 | 4;
  readonly signed: boolean;
  readonly x: Node;
}
/** A comparison: 0 or 1. */
export interface CmpNode {
  readonly k: 'cmp';
  readonly width: 4;
  readonly cc: CondCode;
  /** How many bytes of the operands are compared. */
  readonly opSize: IntSize;
  readonly l: Node;
  readonly r: Node;
}
/** Short-circuit logic: 0 or 1. */
export interface LogicNode {
  readonly k: 'land' | 'lor';
  readonly width: 4;
  readonly l: Node;
  readonly r: Node;
}
export interface NotNode {
  readonly k: 'lnot';
  readonly width: 4;
  readonly x: Node;
}
export interface SelectNode {
  readonly k: 'select';
  readonly width: Width;
  readonly c: Node;
  readonly a: Node;
  readonly b: Node;
}

export type Node =
  | ConstNode
  | LocalNode
  | LocalAddrNode
  | SymNode
  | LoadNode
  | BinNode
  | UnNode
  | ExtNode
  | CmpNode
  | LogicNode
  | NotNode
  | SelectNode;

/** What may be assigned to. */
export type LValue =
  { readonly kind: 'local'; readonly local: Local } | { readonly kind: 'mem'; readonly addr: Node };

/** A condition with the statements that compute it (a call inside a condition). */
export interface Cond {
  readonly pre: readonly Stmt[];
  readonly node: Node;
}

/** A 64-bit general-purpose register by name. */
export type GpName =
  | 'rax'
  | 'rcx'
  | 'rdx'
  | 'rbx'
  | 'rbp'
  | 'rsi'
  | 'rdi'
  | 'r8'
  | 'r9'
  | 'r10'
  | 'r11'
  | 'r12'
  | 'r13'
  | 'r14'
  | 'r15';

/** An operand of inline assembly: a tree that goes in, a local that takes what comes out, or both. */
export interface AsmOperand {
  readonly name: string;
  readonly reg?: GpName;
  readonly size: IntSize;
  readonly input?: Node;
  readonly output?: Local;
}

/** What inline assembly sees of its operands; opaque here, filled in by the code generator. */
export type AsmEmit = (sink: unknown, operands: unknown) => void;

export type Stmt =
  /** Begins the life of a local that has no initialiser. */
  | { readonly s: 'decl'; readonly site: Site; readonly local: Local }
  | { readonly s: 'assign'; readonly site: Site; readonly local: Local; readonly value: Node }
  | {
      readonly s: 'store';
      readonly site: Site;
      readonly size: IntSize;
      readonly addr: Node;
      readonly value: Node;
    }
  | {
      readonly s: 'if';
      readonly site: Site;
      readonly cond: Cond;
      readonly then: readonly Stmt[];
      readonly else: readonly Stmt[];
    }
  | {
      readonly s: 'loop';
      readonly site: Site;
      /** Where the condition is tested first: before the body, or after it (do-while). */
      readonly test: 'top' | 'bottom';
      readonly cond: Cond;
      readonly body: readonly Stmt[];
      readonly step: readonly Stmt[];
    }
  | { readonly s: 'break'; readonly site: Site }
  | { readonly s: 'continue'; readonly site: Site }
  | { readonly s: 'return'; readonly site: Site; readonly value: Node | undefined }
  | {
      readonly s: 'call';
      readonly site: Site;
      readonly target: Node;
      readonly args: readonly Node[];
      readonly result: Local | undefined;
    }
  | {
      readonly s: 'asm';
      readonly site: Site;
      readonly operands: readonly AsmOperand[];
      readonly clobbers: readonly GpName[];
      readonly emit: AsmEmit;
    };

/** A function's body, ready for code generation. */
export interface FnBody {
  readonly symbol: string;
  readonly site: Site;
  readonly params: readonly Local[];
  readonly locals: readonly Local[];
  readonly stmts: readonly Stmt[];
}
