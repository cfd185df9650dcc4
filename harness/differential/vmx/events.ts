// SPDX-License-Identifier: GPL-2.0-only
/**
 * Exceptions of L2 and their interception, and events that L1 injects: what L2's IDT gets, and exits on the way. SDM, "Exception
 * Bitmap", "Event Injection", "Information for VM Exits That Occur During Event Delivery".
 */
import { m32, m64, R } from '../../../lib/asm/operands.ts';
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { INTR_INFO, INTR_TYPE } from '../../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { setEpt } from './areas.ts';
import type { L2Asm, VmxCase } from './cases.ts';

const C = VMCS_CTRL;
const UNMAPPED = 0x1234_5000;
const NOT_CANONICAL = 1n << 60n;

/** A page fault exits if bit 14 of the bitmap is set and the error code matches: never, with these. */
const NO_PF = [
  [C.PAGE_FAULT_ERROR_CODE_MASK, 0],
  [C.PAGE_FAULT_ERROR_CODE_MATCH, 0],
] as const;

/** What raises which exception. */
const CAUSES: readonly (readonly [
  name: string,
  vector: number,
  regs: VmxCase['regs'],
  code: (a: L2Asm) => void,
])[] = [
  ['de', VECTOR.DE, { rbx: 0 }, (a) => a.emit('div', R.ebx)],
  ['int1', VECTOR.DB, {}, (a) => a.emit('int1')],
  ['int3', VECTOR.BP, {}, (a) => a.emit('int3')],
  ['ud', VECTOR.UD, {}, (a) => a.emit('ud2')],
  ['gp', VECTOR.GP, { rbx: NOT_CANONICAL }, (a) => a.emit('mov', R.rax, m64({ base: R.rbx }))],
  ['gp_selector', VECTOR.GP, { rbx: 0x1238 }, (a) => a.emit('mov', R.ds, R.ebx)],
  ['ss', VECTOR.SS, { rbp: NOT_CANONICAL }, (a) => a.emit('mov', R.rax, m64({ base: R.rbp }))],
  ['pf_read', VECTOR.PF, { rbx: UNMAPPED }, (a) => a.emit('mov', R.rax, m64({ base: R.rbx, disp: 8 }))],
  ['pf_write', VECTOR.PF, { rbx: UNMAPPED }, (a) => a.emit('mov', m32({ base: R.rbx, disp: 8 }), R.eax)],
  ['pf_fetch', VECTOR.PF, { rbx: UNMAPPED }, (a) => a.emit('jmp', R.rbx)],
];

const EXCEPTIONS: readonly VmxCase[] = CAUSES.flatMap(([name, vector, regs, code]): VmxCase[] => [
  { name: `${name}_intercepted`, fields: [...NO_PF, [C.EXCEPTION_BITMAP, 1 << vector]], regs: regs!, code },
  {
    name: `${name}_delivered`,
    fields: [...NO_PF, [C.EXCEPTION_BITMAP, ~(1 << vector) >>> 0]],
    regs: regs!,
    code,
  },
]);

const access = (name: 'read' | 'write' | 'fetch'): Pick<VmxCase, 'regs' | 'code'> => {
  const [, , regs, code] = CAUSES.find(([cause]) => cause === `pf_${name}`)!;
  return { regs: regs!, code };
};

/** Bit 14 of the bitmap and the two error-code fields. SDM: "Software can use the page-fault error-code mask and match". */
const PAGE_FAULTS: readonly VmxCase[] = ([0, 1 << VECTOR.PF] as const).flatMap((bitmap) =>
  (
    [
      [0, 0],
      [0, 1],
      [2, 2],
      [2, 0],
      [0x1b, 0],
      [0xffff_ffff, 0x10],
    ] as const
  ).flatMap(([mask, match]) =>
    (['read', 'write', 'fetch'] as const).map((kind): VmxCase => ({
      name: `pf_${kind}_${bitmap === 0 ? 'clear' : 'set'}_${mask.toString(16)}_${match.toString(16)}`,
      fields: [
        [C.EXCEPTION_BITMAP, bitmap],
        [C.PAGE_FAULT_ERROR_CODE_MASK, mask],
        [C.PAGE_FAULT_ERROR_CODE_MATCH, match],
      ],
      ...access(kind),
    })),
  ),
);

const IDT_LIMIT_0 = [VMCS_GUEST.IDTR_LIMIT, 0] as const;
const UD2 = (a: L2Asm): void => a.emit('ud2');

/** Faults while an exception of L2 is delivered. */
const NESTED_FAULTS: readonly VmxCase[] = [
  { name: 'triple_fault', fields: [...NO_PF, IDT_LIMIT_0], code: UD2 },
  { name: 'ud_then_gp', fields: [...NO_PF, IDT_LIMIT_0, [C.EXCEPTION_BITMAP, 1 << VECTOR.GP]], code: UD2 },
  { name: 'gp_then_df', fields: [...NO_PF, IDT_LIMIT_0, [C.EXCEPTION_BITMAP, 1 << VECTOR.DF]], code: UD2 },
  {
    name: 'int3_then_gp',
    fields: [...NO_PF, IDT_LIMIT_0, [C.EXCEPTION_BITMAP, 1 << VECTOR.GP]],
    code: (a) => a.emit('int3'),
  },
  {
    name: 'int_n_then_gp',
    fields: [...NO_PF, IDT_LIMIT_0, [C.EXCEPTION_BITMAP, 1 << VECTOR.GP]],
    code: (a) => a.emit('int', 0x55),
  },
  {
    name: 'int1_then_gp',
    fields: [...NO_PF, IDT_LIMIT_0, [C.EXCEPTION_BITMAP, 1 << VECTOR.GP]],
    code: (a) => a.emit('int1'),
  },
  {
    name: 'ud_then_pf',
    fields: [...NO_PF, [VMCS_GUEST.IDTR_BASE, UNMAPPED], [C.EXCEPTION_BITMAP, 1 << VECTOR.PF]],
    code: UD2,
  },
  {
    name: 'pf_then_pf',
    fields: [...NO_PF, [VMCS_GUEST.IDTR_BASE, UNMAPPED + 0x1000], [C.EXCEPTION_BITMAP, 1 << VECTOR.DF]],
    ...access('read'),
  },
  {
    name: 'ud_ept_idt',
    ept: 'identity',
    fields: NO_PF,
    before: (g) => setEpt(g, 'ept_idt', 0),
    code: UD2,
  },
  {
    name: 'int3_ept_idt',
    ept: 'identity',
    fields: NO_PF,
    before: (g) => setEpt(g, 'ept_idt', 0),
    code: (a) => a.emit('int3'),
  },
  {
    name: 'int_n_ept_stack',
    ept: 'identity',
    fields: NO_PF,
    before: (g) => setEpt(g, 'ept_stack', 0x35),
    code: (a) => a.emit('int', 0x77),
  },
  {
    name: 'pf_ept_idt',
    ept: 'identity',
    fields: [[C.EXCEPTION_BITMAP, 0], ...NO_PF, [C.PAGE_FAULT_ERROR_CODE_MASK, 0]],
    before: (g) => setEpt(g, 'ept_idt', 0),
    ...access('write'),
  },
];

interface Injected {
  readonly name: string;
  readonly vector: number;
  readonly type: number;
  readonly error?: number;
  readonly length?: number;
  readonly rflags?: number;
}

const T = INTR_TYPE;
const INJECTED: readonly Injected[] = [
  { name: 'external', vector: 0x41, type: T.EXT_INTR, rflags: RFLAGS.IF },
  { name: 'external_0x10', vector: 0x10, type: T.EXT_INTR, rflags: RFLAGS.IF },
  { name: 'nmi', vector: VECTOR.NMI, type: T.NMI_INTR },
  { name: 'ud', vector: VECTOR.UD, type: T.HARD_EXCEPTION },
  { name: 'de', vector: VECTOR.DE, type: T.HARD_EXCEPTION },
  { name: 'db', vector: VECTOR.DB, type: T.HARD_EXCEPTION },
  { name: 'gp', vector: VECTOR.GP, type: T.HARD_EXCEPTION, error: 0x1230 },
  { name: 'np', vector: VECTOR.NP, type: T.HARD_EXCEPTION, error: 0x18 },
  { name: 'pf', vector: VECTOR.PF, type: T.HARD_EXCEPTION, error: 2 },
  { name: 'df', vector: VECTOR.DF, type: T.HARD_EXCEPTION, error: 0 },
  { name: 'ac', vector: VECTOR.AC, type: T.HARD_EXCEPTION, error: 0 },
  { name: 'soft_int', vector: 0x80, type: T.SOFT_INTR, length: 2 },
  { name: 'soft_int_long', vector: 0x81, type: T.SOFT_INTR, length: 15 },
  { name: 'soft_int_bp', vector: VECTOR.BP, type: T.SOFT_INTR, length: 2 },
  { name: 'int1', vector: VECTOR.DB, type: T.PRIV_SW_EXCEPTION, length: 1 },
  { name: 'int3', vector: VECTOR.BP, type: T.SOFT_EXCEPTION, length: 1 },
  { name: 'into', vector: VECTOR.OF, type: T.SOFT_EXCEPTION, length: 1 },
];

function injection({ vector, type, error, length, rflags }: Injected): NonNullable<VmxCase['fields']> {
  const code = error === undefined ? 0 : INTR_INFO.DELIVER_CODE_MASK;
  return [
    [C.VM_ENTRY_INTR_INFO_FIELD, (INTR_INFO.VALID_MASK | type | vector | code) >>> 0],
    [C.VM_ENTRY_EXCEPTION_ERROR_CODE, error ?? 0],
    [C.VM_ENTRY_INSTRUCTION_LEN, length ?? 0],
    [VMCS_GUEST.RFLAGS, 2 | (rflags ?? 0)],
  ];
}

const nops = (a: L2Asm): void => {
  for (let n = 0; n < 16; n++) a.emit('nop');
};

const INJECTIONS: readonly VmxCase[] = INJECTED.flatMap((row): VmxCase[] => [
  { name: `inject_${row.name}`, fields: [...NO_PF, ...injection(row)], code: nops },
  {
    // The bitmap has no say in what is injected.
    name: `inject_${row.name}_bitmap`,
    fields: [...NO_PF, ...injection(row), [C.EXCEPTION_BITMAP, 0xffff_bfff]],
    code: nops,
  },
  {
    name: `inject_${row.name}_then_gp`,
    fields: [
      ...NO_PF,
      ...injection(row),
      IDT_LIMIT_0,
      [C.EXCEPTION_BITMAP, (1 << VECTOR.GP) | (1 << VECTOR.DF)],
    ],
    code: nops,
  },
  {
    name: `inject_${row.name}_ept_idt`,
    ept: 'identity',
    fields: [...NO_PF, ...injection(row)],
    before: (g) => setEpt(g, 'ept_idt', 0),
    code: nops,
  },
]);

/** Debug exceptions of L2: single step, breakpoints, pending ones. */
const DB_EXITS = [C.EXCEPTION_BITMAP, 1 << VECTOR.DB] as const;
const DEBUG: readonly VmxCase[] = [
  { name: 'single_step', fields: [...NO_PF, DB_EXITS, [VMCS_GUEST.RFLAGS, 2 | RFLAGS.TF]], code: nops },
  { name: 'single_step_delivered', fields: [...NO_PF, [VMCS_GUEST.RFLAGS, 2 | RFLAGS.TF]], code: nops },
  {
    name: 'popf_step',
    fields: [...NO_PF, DB_EXITS],
    code: (a) => {
      a.emit('push', 0x102);
      a.emit('popfq');
      nops(a);
    },
  },
  {
    name: 'pending_bs',
    fields: [
      ...NO_PF,
      DB_EXITS,
      [VMCS_GUEST.PENDING_DBG_EXCEPTIONS, 0x4000],
      [VMCS_GUEST.RFLAGS, 2 | RFLAGS.TF],
    ],
    code: nops,
  },
  {
    name: 'pending_b1',
    fields: [...NO_PF, DB_EXITS, [VMCS_GUEST.PENDING_DBG_EXCEPTIONS, 0x1002]],
    code: nops,
  },
  {
    name: 'pending_b1_delivered',
    fields: [...NO_PF, [VMCS_GUEST.PENDING_DBG_EXCEPTIONS, 0x1002]],
    code: nops,
  },
  {
    name: 'pending_b1_not_enabled',
    fields: [...NO_PF, DB_EXITS, [VMCS_GUEST.PENDING_DBG_EXCEPTIONS, 0x0002]],
    code: nops,
  },
  {
    name: 'mov_ss_holds_step',
    fields: [...NO_PF, DB_EXITS],
    regs: { rbx: 0x10 },
    code: (a) => {
      a.emit('push', 0x102);
      a.emit('popfq');
      a.emit('mov', R.ss, R.ebx);
      nops(a);
    },
  },
];

/** All of them. */
export const EVENT_CASES: readonly VmxCase[] = [
  ...EXCEPTIONS,
  ...PAGE_FAULTS,
  ...NESTED_FAULTS,
  ...INJECTIONS,
  ...DEBUG,
];
