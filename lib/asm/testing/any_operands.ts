// SPDX-License-Identifier: GPL-2.0-only
/** Arbitrary operands (fast-check) for a form: every register, address and immediate that its columns allow. */
import fc from 'fast-check';
import type { Form } from '../forms.ts';
import type { OperandKind } from '../kinds.ts';
import { gpr, lab, type Lab, mem, type Mem, type Operand, R, type Reg } from '../operands.ts';

const anyGpr = (size: 8 | 16 | 32 | 64): fc.Arbitrary<Reg> => fc.nat(15).map((num) => gpr(num, size));
const indexGpr = (size: 32 | 64): fc.Arbitrary<Reg> => anyGpr(size).filter(({ num }) => num !== 4);
const maybe = <T>(value: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> =>
  fc.option(value, { nil: undefined });
const anyDisp = fc.oneof(
  fc.constant(0),
  fc.integer({ min: -128, max: 127 }),
  fc.integer({ min: -200, max: 200 }),
  fc.integer(),
);
const anySeg = fc.option(fc.constantFrom(R.es, R.cs, R.ss, R.ds, R.fs, R.gs), { nil: undefined, freq: 3 });
const anyScale = fc.constantFrom(1, 2, 4, 8);

const addressed = (size: number, width: 32 | 64): fc.Arbitrary<Mem> =>
  fc
    .record({
      base: maybe(anyGpr(width)),
      index: maybe(indexGpr(width)),
      scale: anyScale,
      disp: anyDisp,
      seg: anySeg,
    })
    .filter(({ base, index }) => width === 64 || base !== undefined || index !== undefined)
    .map((address) => mem(size, { ...address, scale: address.index ? address.scale : 1 }));

const labelled = (size: number): fc.Arbitrary<Mem> =>
  fc
    .record({ base: maybe(anyGpr(64)), disp: fc.integer({ min: -0x20_0000, max: 0x20_0000 }), seg: anySeg })
    .map((address) => mem(size, { ...address, label: 'target' }));

const anyMem = (size: number): fc.Arbitrary<Mem> =>
  fc.oneof(
    { weight: 6, arbitrary: addressed(size, 64) },
    { weight: 1, arbitrary: addressed(size, 32) },
    { weight: 1, arbitrary: labelled(size) },
  );

const anyImm = (bits: number, width: number): fc.Arbitrary<bigint | number> => {
  const low = -(1n << BigInt(bits - 1));
  const signed = fc.oneof(fc.constantFrom(low, -low - 1n, -1n, 0n, 1n), fc.bigInt(low, -low - 1n));
  const spelled = fc.oneof(
    signed,
    signed.map((v) => BigInt.asUintN(width, v)),
  );
  return spelled.map((v) => (v >= Number.MIN_SAFE_INTEGER && v <= Number.MAX_SAFE_INTEGER ? Number(v) : v));
};

const anyLab = (reach: 8 | 32): fc.Arbitrary<Lab> =>
  (reach === 8
    ? fc.integer({ min: -204, max: 49 })
    : fc.integer({ min: -0x7000_0000, max: 0x7000_0000 })
  ).map((addend) => lab('target', addend));

const anyRegister = ({ cls, size, accepts }: NonNullable<OperandKind['reg']>): fc.Arbitrary<Reg> =>
  fc.constantFrom(
    ...Object.values(R).filter(
      (reg) => reg.size === size && (reg.cls === cls || (reg.cls === 'gp8h' && cls === 'gp')) && accepts(reg),
    ),
  );

const anyOperand = ({ kind }: Form['slots'][number], { operandSize }: Form): fc.Arbitrary<Operand> => {
  if (kind.one) return fc.constant(1);
  if (kind.rel) return anyLab(kind.rel);
  if (kind.implied) return fc.constant((R as Readonly<Record<string, Reg>>)[kind.text.toLowerCase()]!);
  if (kind.imm) {
    const { bits, signExtended } = kind.imm;
    const value = anyImm(bits, signExtended ? operandSize : bits);
    return bits >= 32 && !signExtended
      ? fc.oneof({ weight: 9, arbitrary: value }, { weight: 1, arbitrary: anyLab(8) })
      : value;
  }
  const choices: fc.Arbitrary<Operand>[] = [];
  if (kind.reg) choices.push(anyRegister(kind.reg));
  if (kind.mem !== undefined) choices.push(anyMem(kind.mem));
  return fc.oneof(...choices);
};

/** Every combination of operands that a form takes. */
export const anyOperands = (form: Form): fc.Arbitrary<Operand[]> =>
  fc.tuple(...form.slots.map((slot) => anyOperand(slot, form))).filter((ops) => !needsNoRex(form, ops));

const isNum8To15 = (reg: Reg | undefined): boolean => (reg?.num ?? 0) > 7;

/** ah..bh beside something that needs REX: encode.test.ts's business. */
const needsNoRex = ({ rexW }: Form, ops: readonly Operand[]): boolean => {
  const high = ops.some((op) => typeof op === 'object' && op.kind === 'reg' && op.cls === 'gp8h');
  const rex = ops.some((op) => {
    if (typeof op !== 'object' || op.kind === 'label') return false;
    if (op.kind === 'mem') return isNum8To15(op.base) || isNum8To15(op.index);
    return isNum8To15(op) || (op.cls === 'gp' && op.size === 8 && op.num >= 4);
  });
  return high && (rexW || rex);
};
