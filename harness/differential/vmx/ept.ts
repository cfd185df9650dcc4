// SPDX-License-Identifier: GPL-2.0-only
/**
 * L2 with EPT: violations and misconfigurations with their qualifications and addresses, accessed and dirty flags, and what
 * INVEPT and INVVPID make visible. SDM, "VMX Support for Address Translation" and "Exit Qualification for EPT Violations".
 */
import { m32, m64, R } from '../../../lib/asm/operands.ts';
import { type GuestCode, invvpid, u64, vmwrite } from '../../../lib/guest/index.ts';
import { VMX_EPT_CAP, VMX_VPID_CAP_HI, VMX_VPID_EXTENT } from '../../../lib/x86/vmx/capability_msrs.ts';
import { SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { e9_printf } from '../e9.ts';
import { entryOf, type EptLeaf, flushEpt, inPage, pageGpa, pageVa, setEpt, SPECIAL } from './areas.ts';
import { fillPage, type L2Asm, type VmxCase } from './cases.ts';

const [READ, WRITE, EXEC, WB] = [1, 2, 4, 0x30] as const;

/** What L2 does to SPECIAL, which maps the page `data`. */
const ACCESSES: Readonly<Record<string, (a: L2Asm) => void>> = {
  read: (a) => a.emit('mov', R.rax, m64({ base: R.rbx, disp: 0x18 })),
  write: (a) => a.emit('mov', m32({ base: R.rbx, disp: 0x20 }), R.ecx),
  modify: (a) => a.emit('add', m64({ base: R.rbx, disp: 0x28 }), R.rcx),
  locked: (a) => a.emit('lock inc', m64({ base: R.rbx, disp: 0x30 })),
  fetch: (a) => a.emit('jmp', R.rbx),
  push: (a) => {
    a.emit('mov', R.rsp, R.rbx);
    a.emit('add', R.rsp, 0x100);
    a.emit('push', R.rcx);
  },
  string: (a) => {
    a.emit('mov', R.rdi, R.rbx);
    a.emit('mov', R.ecx, 4);
    a.emit('rep stosb');
  },
};

const regs = { rbx: SPECIAL } as const;

/** An access with one entry changed. */
const violation = (
  access: string,
  leaf: EptLeaf,
  what: string,
  bits: number,
  more: Partial<VmxCase> = {},
): VmxCase => ({
  name: `${access}_${leaf}_${what}`,
  ept: 'identity',
  regs,
  before: (g) => setEpt(g, leaf, bits),
  code: (a) => ACCESSES[access]!(a),
  ...more,
});

const RIGHTS: readonly (readonly [what: string, bits: number, accesses: readonly string[]])[] = [
  ['absent', 0, ['read', 'write', 'modify', 'locked', 'fetch', 'push', 'string']],
  ['r', READ | WB, ['read', 'write', 'modify', 'locked', 'fetch', 'push', 'string']],
  ['rw', READ | WRITE | WB, ['read', 'write', 'fetch']],
  ['rx', READ | EXEC | WB, ['write', 'modify', 'push']],
];

const EXEC_ONLY: readonly VmxCase[] = ['read', 'write', 'modify'].map((access) =>
  violation(access, 'ept_data', 'x', EXEC | WB, { eptCaps: VMX_EPT_CAP.EXECUTE_ONLY_BIT }),
);

/** The page table that maps SPECIAL. */
const clearAccessed = (g: GuestCode): void =>
  g.set(entryOf('pte_special'), entryOf('pte_special').and(~0x60n));

const TABLES: readonly VmxCase[] = [
  violation('read', 'ept_table', 'absent', 0),
  violation('write', 'ept_table', 'absent', 0),
  violation('fetch', 'ept_table', 'absent', 0),
  violation('read', 'ept_table', 'x', EXEC | WB, { eptCaps: VMX_EPT_CAP.EXECUTE_ONLY_BIT }),
  ...['read', 'write', 'fetch'].map((access) =>
    violation(access, 'ept_table', 'r_accessed_clear', READ | WB, {
      before: (g) => {
        clearAccessed(g);
        setEpt(g, 'ept_table', READ | WB);
      },
    }),
  ),
  violation('read', 'ept_table', 'r_accessed_set', READ | WB, {
    before: (g) => {
      g.set(entryOf('pte_special'), entryOf('pte_special').or(0x60));
      setEpt(g, 'ept_table', READ | WB);
    },
  }),
];

const MISCONFIGURED: readonly (readonly [what: string, bits: bigint])[] = [
  ['w', BigInt(WRITE | WB)],
  ['wx', BigInt(WRITE | EXEC | WB)],
  ['type_2', 0x17n],
  ['type_3', 0x1fn],
  ['type_7', 0x3fn],
  ['address_beyond', 0x37n | (1n << 51n)],
];

const MISCONFIGURATIONS: readonly VmxCase[] = [
  ...MISCONFIGURED.flatMap(([what, bits]) =>
    (['read', 'write', 'fetch'] as const).map((access): VmxCase => ({
      name: `${access}_misconfigured_${what}`,
      ept: 'identity',
      regs,
      before: (g) => setEpt(g, 'ept_data', bits),
      code: (a) => ACCESSES[access]!(a),
    })),
  ),
  {
    name: 'table_misconfigured',
    ept: 'identity',
    regs,
    before: (g) => setEpt(g, 'ept_table', WRITE | WB),
    code: (a) => ACCESSES['read']!(a),
  },
  {
    name: 'ignored_bits_are_no_misconfiguration',
    ept: 'identity',
    regs,
    // Bits 11 and 62:58 of a leaf; bit 6 is IPAT.
    before: (g) => setEpt(g, 'ept_data', 0x37n | 0x840n | (0x1fn << 58n)),
    code: (a) => ACCESSES['read']!(a),
  },
];

/** Both entries' flags after an access. */
const flags = (g: GuestCode): void => {
  e9_printf(g, '  data %lx table %lx\n', entryOf('ept_data').and(0x300), entryOf('ept_table').and(0x300));
};

const ACCESSED_DIRTY: readonly VmxCase[] = [
  ...(['read', 'write', 'modify', 'fetch'] as const).map((access): VmxCase => ({
    name: `ad_${access}`,
    ept: 'identity_ad',
    eptCaps: VMX_EPT_CAP.AD_BIT,
    regs,
    before: (g) => {
      clearAccessed(g);
      g.set(inPage(u64, 'data', 0), 0xc1_010fn);
    },
    code: (a) => ACCESSES[access]!(a),
    after: flags,
  })),
  {
    name: 'ad_off',
    ept: 'identity',
    regs,
    code: (a) => ACCESSES['write']!(a),
    after: flags,
  },
  violation('read', 'ept_table', 'r_ad', READ | WB, { ept: 'identity_ad', eptCaps: VMX_EPT_CAP.AD_BIT }),
  violation('read', 'ept_table', 'rx_ad', READ | EXEC | WB, {
    ept: 'identity_ad',
    eptCaps: VMX_EPT_CAP.AD_BIT,
  }),
  violation('write', 'ept_data', 'r_ad', READ | WB, { ept: 'identity_ad', eptCaps: VMX_EPT_CAP.AD_BIT }),
];

/** A value in each of the two data pages. */
const twoValues = (g: GuestCode): void => {
  g.set(inPage(u64, 'data', 0), 0x1111);
  g.set(inPage(u64, 'data2', 0), 0x2222);
};

const readTwice = (a: L2Asm): void => {
  a.emit('mov', R.rax, m64({ base: R.rbx }));
  a.emit('vmcall');
  a.emit('mov', R.rbx, SPECIAL);
  a.emit('mov', R.rax, m64({ base: R.rbx }));
};

/** L2 goes on behind its VMCALL. */
const skipVmcall = (g: GuestCode, start: Parameters<typeof vmwrite>[2]): void => {
  vmwrite(g, VMCS_GUEST.RIP, start);
};

const INVALIDATION: readonly VmxCase[] = [
  {
    name: 'invept_shows_new_entry',
    ept: 'identity',
    regs,
    before: twoValues,
    code: readTwice,
    show: ['rax'],
    after: (g, { start, resume }) => {
      g.set(entryOf('ept_data'), pageGpa('data2').or(0x37));
      setEptTo(g);
      skipVmcall(g, start.add(6));
      resume('invept_shows_new_entry.2');
    },
  },
  ...(
    [VMX_VPID_EXTENT.SINGLE_CONTEXT, VMX_VPID_EXTENT.INDIVIDUAL_ADDR, VMX_VPID_EXTENT.ALL_CONTEXT] as const
  ).map((extent): VmxCase => ({
    name: `invvpid_${extent}_shows_new_entry`,
    set: { cpu2: SECONDARY_EXEC.ENABLE_VPID },
    vpidCaps: VMX_VPID_CAP_HI.INVVPID_BIT,
    fields: [[VMCS_CTRL.VIRTUAL_PROCESSOR_ID, 1]],
    regs,
    before: twoValues,
    code: readTwice,
    show: ['rax'],
    after: (g, { start, resume }) => {
      g.set(entryOf('pte_special'), pageGpa('data2').or(0x67));
      invvpid(g, extent, extent === VMX_VPID_EXTENT.ALL_CONTEXT ? 0 : 1, SPECIAL);
      skipVmcall(g, start.add(6));
      resume(`invvpid_${extent}_shows_new_entry.2`);
      g.set(entryOf('pte_special'), pageGpa('data').or(0x67));
      invvpid(g, VMX_VPID_EXTENT.ALL_CONTEXT, 0, 0);
    },
  })),
  {
    name: 'no_vpid_entry_shows_new_entry',
    clear: { cpu2: SECONDARY_EXEC.ENABLE_VPID },
    regs,
    before: twoValues,
    code: readTwice,
    show: ['rax'],
    after: (g, { start, resume }) => {
      g.set(entryOf('pte_special'), pageGpa('data2').or(0x67));
      skipVmcall(g, start.add(6));
      resume('no_vpid_entry_shows_new_entry.2');
      g.set(entryOf('pte_special'), pageGpa('data').or(0x67));
      // L1 itself has no translation of SPECIAL that matters.
      g.insn('nop');
    },
  },
];

/** INVEPT after a change. */
function setEptTo(g: GuestCode): void {
  setEpt(g, 'ept_data2', 0x37);
}

const CROSSING: readonly VmxCase[] = [
  {
    name: 'crossing_second_absent',
    ept: 'identity',
    regs: { rbx: pageVa('data').add(0xffc) },
    before: (g) => setEpt(g, 'ept_data2', 0),
    code: (a) => a.emit('mov', R.rax, m64({ base: R.rbx })),
  },
  {
    name: 'crossing_first_absent',
    ept: 'identity',
    regs: { rbx: pageVa('data').add(0xffc) },
    before: (g) => setEpt(g, 'ept_data', 0),
    code: (a) => a.emit('mov', R.rax, m64({ base: R.rbx })),
  },
  {
    name: 'beyond_memory',
    ept: 'identity',
    before: (g) => g.set(entryOf('pte_special'), 0x3_0000_0067n),
    regs,
    code: (a) => ACCESSES['read']!(a),
    after: (g) => g.set(entryOf('pte_special'), pageGpa('data').or(0x67)),
  },
];

/** Bits of an entry of L2's EPT: a large page, read, write, execute, write-back. */
const LARGE = 0xb7n;
const TABLE = 7n;
const TWO_MB = 0x20_0000n;

/** An EPT of its own with large pages: its PML4 is the page `list`, its PDPT `ioa`, its directory `iob`. */
function largeEpt(g: GuestCode, level: 2 | 3, bits: bigint, pml4 = TABLE): void {
  for (const page of ['list', 'ioa', 'iob'] as const) fillPage(g, page, 0);
  g.set(inPage(u64, 'list', 0), pageGpa('ioa').or(pml4));
  if (level === 3) g.set(inPage(u64, 'ioa', 0), bits);
  else {
    g.set(inPage(u64, 'ioa', 0), pageGpa('iob').or(TABLE));
    for (let n = 0n; n < 24n; n++) g.set(inPage(u64, 'iob', Number(n) * 8), (n * TWO_MB) | bits);
  }
  flushEpt(g);
}

const large = (
  name: string,
  level: 2 | 3,
  bits: bigint,
  access: keyof typeof ACCESSES = 'write',
  more: Partial<VmxCase> & { readonly pml4?: bigint } = {},
): VmxCase => {
  const { pml4, ...row } = more;
  return {
    name: `large_${level === 2 ? '2m' : '1g'}_${name}`,
    ept: 'identity',
    eptCaps: level === 2 ? VMX_EPT_CAP.PAGE_2MB_BIT : VMX_EPT_CAP.PAGE_1GB_BIT,
    before: (g) => largeEpt(g, level, bits, pml4),
    fields: [[VMCS_CTRL.EPT_POINTER, pageGpa('list').or(0x1e)]],
    regs,
    code: (a) => ACCESSES[access]!(a),
    ...row,
  };
};

const LARGE_PAGES: readonly VmxCase[] = ([2, 3] as const).flatMap((level): VmxCase[] => [
  large('runs', level, LARGE),
  large('reserved_bit_12', level, LARGE | 0x1000n),
  large('reserved_bit_below', level, LARGE | (level === 2 ? 0x10_0000n : 0x2000_0000n)),
  large('beyond', level, LARGE | (1n << 51n)),
  large('type_2', level, (LARGE & ~0x38n) | 0x10n),
  large('write_only', level, LARGE & ~1n),
  large('pml4_reserved', level, LARGE, 'read', { pml4: TABLE | 0x80n }),
  large('pml4_read_only', level, LARGE, 'write', { pml4: 5n }),
  large('ad', level, LARGE, 'read', {
    eptCaps: VMX_EPT_CAP.AD_BIT | (level === 2 ? VMX_EPT_CAP.PAGE_2MB_BIT : VMX_EPT_CAP.PAGE_1GB_BIT),
    fields: [[VMCS_CTRL.EPT_POINTER, pageGpa('list').or(0x5e)]],
    after: (g) => {
      const leaf = level === 2 ? inPage(u64, 'iob', 8 * 8) : inPage(u64, 'ioa', 0);
      const above = [inPage(u64, 'list', 0).and(0x300), inPage(u64, 'ioa', 0).and(0x300)] as const;
      e9_printf(g, '  leaf %lx above %lx %lx\n', leaf.and(0x300), ...above);
    },
  }),
]);

/** All of them. */
export const EPT_CASES: readonly VmxCase[] = [
  ...RIGHTS.flatMap(([what, bits, accesses]) =>
    accesses.map((access) => violation(access, 'ept_data', what, bits)),
  ),
  ...EXEC_ONLY,
  ...TABLES,
  ...MISCONFIGURATIONS,
  ...ACCESSED_DIRTY,
  ...INVALIDATION,
  ...CROSSING,
  ...LARGE_PAGES,
];
