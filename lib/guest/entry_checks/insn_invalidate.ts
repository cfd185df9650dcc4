// SPDX-License-Identifier: GPL-2.0-only
/** Instruction cases: INVEPT and INVVPID. SDM, "INVEPT — Invalidate Translations Derived from EPT" and "INVVPID — ...". */
import { mem } from '../../asm/operands.ts';
import { VECTOR } from '../../x86/exceptions.ts';
import {
  VMX_EPT_CAP,
  VMX_EPT_EXTENT,
  VMX_MSR,
  VMX_VPID_CAP_HI,
  VMX_VPID_EXTENT,
} from '../../x86/vmx/capability_msrs.ts';
import { VMXERR } from '../../x86/vmx/insn_errors.ts';
import { imm } from '../dsl/expr.ts';
import type { Operand } from '../dsl/rvalue.ts';
import { array, u64 } from '../dsl/types.ts';
import {
  execute,
  FAIL_INVALID,
  failValidWith,
  faultWith,
  type InsnCase,
  NOT_CANONICAL_ADDRESS,
  SUCCEED,
  UNMAPPED_ADDRESS,
  VMX_STATE as STATE,
} from './insn_case.ts';
import { beyondWidth, checkPagePhysical as pa } from './program.ts';
import { has, lacks, may1, type Need } from './row.ts';

type Insn = 'invept' | 'invvpid';
type Words = () => readonly [Operand, Operand];

const BAD = failValidWith(VMXERR.INVALID_OPERAND_TO_INVEPT_INVVPID);
const UD = faultWith(VECTOR.UD);
const CAP = VMX_MSR.IA32_VMX_EPT_VPID_CAP;

const withDescriptor =
  (insn: Insn, type: bigint, words: Words): InsnCase['code'] =>
  (g, out) => {
    const descriptor = g.local(array(u64, 2));
    words().forEach((word, n) => g.set(descriptor.at(n), word));
    execute(g, out, {
      in: { type: imm(u64, type), address: descriptor },
      emit: (a, r) => a.emit(insn, r.reg64('type'), mem(128, { base: r.reg64('address') })),
    });
  };
const withAddress =
  (insn: Insn, type: bigint, address: bigint): InsnCase['code'] =>
  (g, out) =>
    execute(g, out, {
      in: { type: imm(u64, type), address: imm(u64, address) },
      emit: (a, r) => a.emit(insn, r.reg64('type'), mem(128, { base: r.reg64('address') })),
    });

const readsFirst = {
  where: 'INVEPT(), INVVPID()',
  why: 'Bochs reads the descriptor before it looks at the type',
} as const;

const narrowType = {
  where: 'INVEPT(), INVVPID()',
  why: 'Bochs takes 32 bits of the type without REX.W',
} as const;

/** Rules that both instructions have. */
function commonCases(
  section: 'INVEPT' | 'INVVPID',
  needs: readonly Need[],
  good: bigint,
  words: Words,
): readonly InsnCase[] {
  const insn = section === 'INVEPT' ? 'invept' : 'invvpid';
  const one = (
    name: string,
    state: number,
    expected: InsnCase['expected'],
    code: InsnCase['code'],
  ): InsnCase => ({
    section,
    name: `${section}: ${name}`,
    state,
    needs,
    expected,
    code,
  });
  return [
    one('outside of VMX operation', STATE.OFF, UD, withDescriptor(insn, good, words)),
    one('an unknown type without a current VMCS', STATE.ROOT, FAIL_INVALID, withDescriptor(insn, 9n, words)),
    one('a good type without a current VMCS', STATE.ROOT, SUCCEED, withDescriptor(insn, good, words)),
    one('type 4 does not exist', STATE.CURRENT, BAD, withDescriptor(insn, 4n, words)),
    {
      ...one(
        'bits 63:32 of the type count',
        STATE.CURRENT,
        BAD,
        withDescriptor(insn, good | (1n << 32n), words),
      ),
      bochs: narrowType,
    },
    {
      ...one(
        'an unknown type is told before the descriptor is read',
        STATE.CURRENT,
        BAD,
        withAddress(insn, 9n, UNMAPPED_ADDRESS),
      ),
      bochs: readsFirst,
    },
    one(
      'a descriptor that is not mapped',
      STATE.CURRENT,
      faultWith(VECTOR.PF),
      withAddress(insn, 1n, UNMAPPED_ADDRESS),
    ),
    one(
      'a descriptor that is not canonical',
      STATE.CURRENT,
      faultWith(VECTOR.GP),
      withAddress(insn, 1n, NOT_CANONICAL_ADDRESS),
    ),
  ];
}

const INVEPT = [
  has(
    CAP,
    VMX_EPT_CAP.INVEPT_BIT |
      VMX_EPT_CAP.EXTENT_CONTEXT_BIT |
      VMX_EPT_CAP.EXTENT_GLOBAL_BIT |
      VMX_EPT_CAP.WB_BIT,
  ),
];
const CONTEXT = BigInt(VMX_EPT_EXTENT.CONTEXT);
const GLOBAL = BigInt(VMX_EPT_EXTENT.GLOBAL);
const eptp =
  (low: number): Words =>
  () => [pa('ept').add(low), 0];
const invept = (
  name: string,
  type: bigint,
  words: Words,
  expected: InsnCase['expected'],
  needs: readonly Need[] = [],
): InsnCase => ({
  section: 'INVEPT',
  name: `INVEPT: ${name}`,
  state: STATE.CURRENT,
  needs: [...INVEPT, ...needs],
  expected,
  code: withDescriptor('invept', type, words),
});

const INVEPT_CASES: readonly InsnCase[] = [
  ...commonCases('INVEPT', INVEPT, CONTEXT, eptp(0x1e)),
  invept('type 0 does not exist', 0n, eptp(0x1e), BAD),
  invept('type 3 does not exist', 3n, eptp(0x1e), BAD),
  invept('single-context', CONTEXT, eptp(0x1e), SUCCEED),
  invept('all-context', GLOBAL, eptp(0x1e), SUCCEED),
  invept('all-context does not look at the EPTP', GLOBAL, eptp(0x1f), SUCCEED),
  invept('single-context with memory type 1', CONTEXT, eptp(0x19), BAD),
  invept('single-context with page-walk length 3', CONTEXT, eptp(0x16), BAD),
  invept('single-context with page-walk length 5, unsupported', CONTEXT, eptp(0x26), BAD, [
    lacks(CAP, VMX_EPT_CAP.PAGE_WALK_5_BIT),
  ]),
  invept('single-context with bit 11 of the EPTP', CONTEXT, eptp(0x81e), BAD),
  invept(
    'single-context beyond the physical-address width',
    CONTEXT,
    () => [pa('ept').add(beyondWidth).add(0x1e), 0],
    BAD,
  ),
];

const VPID_BITS =
  VMX_VPID_CAP_HI.INVVPID_BIT |
  VMX_VPID_CAP_HI.EXTENT_INDIVIDUAL_ADDR_BIT |
  VMX_VPID_CAP_HI.EXTENT_SINGLE_CONTEXT_BIT |
  VMX_VPID_CAP_HI.EXTENT_GLOBAL_CONTEXT_BIT |
  VMX_VPID_CAP_HI.EXTENT_SINGLE_NON_GLOBAL_BIT;
const INVVPID = [may1(CAP, VPID_BITS)];
const X = VMX_VPID_EXTENT;
const invvpid = (name: string, type: number, words: Words, expected: InsnCase['expected']): InsnCase => ({
  section: 'INVVPID',
  name: `INVVPID: ${name}`,
  state: STATE.CURRENT,
  needs: INVVPID,
  expected,
  code: withDescriptor('invvpid', BigInt(type), words),
});
const TYPES = [
  ['individual-address', X.INDIVIDUAL_ADDR],
  ['single-context', X.SINGLE_CONTEXT],
  ['all-context', X.ALL_CONTEXT],
  ['single-context, retaining globals', X.SINGLE_NON_GLOBAL],
] as const;
const vpid =
  (value: number | bigint, address: bigint = 0x1000n): Words =>
  () => [imm(u64, value), imm(u64, address)];

const INVVPID_CASES: readonly InsnCase[] = [
  ...commonCases('INVVPID', INVVPID, BigInt(X.SINGLE_CONTEXT), vpid(1)),
  ...TYPES.flatMap(([name, type]) => [
    invvpid(`${name} of VPID 1`, type, vpid(1), SUCCEED),
    invvpid(`${name} of VPID FFFFH`, type, vpid(0xffff), SUCCEED),
    invvpid(`${name} of VPID 0`, type, vpid(0), type === X.ALL_CONTEXT ? SUCCEED : BAD),
    invvpid(`${name}: bit 16 of the descriptor is reserved`, type, vpid(0x1_0001), BAD),
    invvpid(`${name}: bit 63 of the descriptor is reserved`, type, vpid((1n << 63n) | 1n), BAD),
  ]),
  invvpid(
    'individual-address: the highest canonical address of the lower half',
    X.INDIVIDUAL_ADDR,
    vpid(1, 0x7fff_ffff_ffffn),
    SUCCEED,
  ),
  invvpid(
    'individual-address: an address that is not canonical',
    X.INDIVIDUAL_ADDR,
    vpid(1, 0x8000_0000_0000n),
    BAD,
  ),
  invvpid(
    'single-context: the address does not matter',
    X.SINGLE_CONTEXT,
    vpid(1, 0x8000_0000_0000n),
    SUCCEED,
  ),
];

/** Cases of this file. */
export const INVALIDATE_CASES: readonly InsnCase[] = [...INVEPT_CASES, ...INVVPID_CASES];
