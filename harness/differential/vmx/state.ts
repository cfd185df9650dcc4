// SPDX-License-Identifier: GPL-2.0-only
/**
 * State that VM entry and VM exit load and save: MSR areas, PAT, EFER, debug controls, TSC offset; and features with memory of
 * their own: EPTP switching, page-modification logging, VMCS shadowing. SDM, "VM Entries", "VM Exits", "VM Functions".
 */
import { m64, R } from '../../../lib/asm/operands.ts';
import {
  type GuestCode,
  lit,
  type Operand,
  rdmsr,
  u16,
  u32,
  u64,
  u8,
  vmclear,
  vmcs_revision,
  VMCS_SHADOW_BIT,
  vmptrld,
  vmptrstz,
  vmreadz,
  vmwrite,
  wrmsr,
} from '../../../lib/guest/index.ts';
import { MSR } from '../../../lib/x86/msr.ts';
import { VMX_EPT_CAP } from '../../../lib/x86/vmx/capability_msrs.ts';
import { CPU_BASED, SECONDARY_EXEC, VM_ENTRY, VM_EXIT } from '../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_HOST } from '../../../lib/x86/vmx/vmcs_host.ts';
import { e9_printf } from '../e9.ts';
import { entryGpa, inPage, pageGpa, type PageName, SPECIAL } from './areas.ts';
import { fillPage, type L2Asm, type VmxCase } from './cases.ts';

const C = VMCS_CTRL;
const G = VMCS_GUEST;
const H = VMCS_HOST;

type MsrRow = readonly [index: number, value: Operand, reserved?: number];

/** An MSR area in a page. */
function fillArea(g: GuestCode, page: PageName, rows: readonly MsrRow[]): void {
  fillPage(g, page, 0);
  rows.forEach(([index, value, reserved = 0], n) => {
    g.set(inPage(u32, page, 16 * n), index);
    g.set(inPage(u32, page, 16 * n + 4), reserved);
    g.set(inPage(u64, page, 16 * n + 8), lit(value).cast(u64));
  });
}

const readMsr =
  (index: number) =>
  (a: L2Asm): void => {
    a.emit('mov', R.ecx, index);
    a.emit('rdmsr');
  };

const BITMAP = { cpu: CPU_BASED.USE_MSR_BITMAPS } as const;
const NO_MSR_EXITS = [C.MSR_BITMAP, pageGpa('junk')] as const;

const entryLoad = (name: string, rows: readonly MsrRow[], more: Partial<VmxCase> = {}): VmxCase => ({
  name: `entry_load_${name}`,
  set: BITMAP,
  before: (g) => {
    fillPage(g, 'junk', 0);
    fillArea(g, 'entry', rows);
  },
  fields: [
    NO_MSR_EXITS,
    [C.VM_ENTRY_MSR_LOAD_ADDR, pageGpa('entry')],
    [C.VM_ENTRY_MSR_LOAD_COUNT, rows.length],
  ],
  code: readMsr(MSR.KERNEL_GS_BASE),
  show: ['rax', 'rdx'],
  after: (g) => wrmsr(g, MSR.KERNEL_GS_BASE, 0),
  ...more,
});

const KGS = MSR.KERNEL_GS_BASE;
const ENTRY_AREA: readonly VmxCase[] = [
  entryLoad('one', [[KGS, 0x1234_5678_9abcn]]),
  entryLoad('last_wins', [
    [KGS, 1],
    [KGS, 2],
  ]),
  entryLoad('fs_base', [[MSR.FS_BASE, 0]]),
  entryLoad('gs_base_second', [
    [KGS, 5],
    [MSR.GS_BASE, 0],
  ]),
  entryLoad('reserved_bits', [[KGS, 5, 1]]),
  entryLoad('x2apic', [[0x802, 0]]),
  entryLoad('not_canonical', [
    [KGS, 3],
    [KGS, 4],
    [KGS, 1n << 62n],
  ]),
  entryLoad('no_such_msr', [[0x4000_1234, 0]]),
  entryLoad('efer_bad', [[MSR.EFER, 1n << 40n]]),
];

const exitStore = (name: string, rows: readonly MsrRow[], more: Partial<VmxCase> = {}): VmxCase => ({
  name: `exit_store_${name}`,
  set: BITMAP,
  before: (g) => {
    fillPage(g, 'junk', 0);
    fillArea(g, 'store', rows);
  },
  fields: [
    NO_MSR_EXITS,
    [C.VM_EXIT_MSR_STORE_ADDR, pageGpa('store')],
    [C.VM_EXIT_MSR_STORE_COUNT, rows.length],
  ],
  code: (a) => {
    a.emit('mov', R.ecx, KGS);
    a.emit('mov', R.eax, 0x7777_1111);
    a.emit('xor', R.edx, R.edx);
    a.emit('wrmsr');
  },
  after: (g) => {
    rows.forEach((_, n) => e9_printf(g, `  slot ${n} %lx\n`, inPage(u64, 'store', 16 * n + 8)));
    wrmsr(g, KGS, 0);
  },
  ...more,
});

const exitLoad = (name: string, rows: readonly MsrRow[]): VmxCase => ({
  name: `exit_load_${name}`,
  before: (g) => fillArea(g, 'load', rows),
  fields: [
    [C.VM_EXIT_MSR_LOAD_ADDR, pageGpa('load')],
    [C.VM_EXIT_MSR_LOAD_COUNT, rows.length],
  ],
  code: (a) => a.emit('nop'),
  after: (g) => {
    e9_printf(g, '  kernel gs base %lx\n', rdmsr(g, KGS));
    wrmsr(g, KGS, 0);
  },
});

const EXIT_AREAS: readonly VmxCase[] = [
  exitStore('one', [[KGS, 0]]),
  exitStore('two', [
    [MSR.IA32_SYSENTER_CS, 1],
    [KGS, 1],
  ]),
  exitLoad('one', [[KGS, 0x4444_5555n]]),
  exitLoad('last_wins', [
    [KGS, 1],
    [KGS, 2],
  ]),
];

const PAT = 0x0007_0406_0007_0406n;
const OTHER_PAT = 0x0606_0606_0606_0606n;

/** What L1 has after the exit, and what the exit saved. */
const sayPat = (g: GuestCode): void => {
  e9_printf(g, '  L1 %lx saved %lx\n', rdmsr(g, MSR.IA32_CR_PAT), vmreadz(g, G.IA32_PAT));
  wrmsr(g, MSR.IA32_CR_PAT, 0x0007_0406_0007_0406n);
};

const writePat = (a: L2Asm): void => {
  a.emit('mov', R.ecx, MSR.IA32_CR_PAT);
  a.emit('rdmsr');
  a.emit('mov', R.rsi, R.rax);
  a.emit('mov', R.eax, 0x0505_0505);
  a.emit('wrmsr');
};

const pat = (name: string, set: VmxCase['set'], clear: VmxCase['clear']): VmxCase => ({
  name,
  set: { ...BITMAP, ...set },
  ...(clear === undefined ? {} : { clear }),
  before: (g) => fillPage(g, 'junk', 0),
  fields: [NO_MSR_EXITS, [G.IA32_PAT, OTHER_PAT], [H.IA32_PAT, PAT]],
  code: writePat,
  show: ['rsi'],
  after: sayPat,
});

const PAT_CASES: readonly VmxCase[] = [
  pat(
    'pat_load_both',
    { entry: VM_ENTRY.LOAD_IA32_PAT, exit: VM_EXIT.LOAD_IA32_PAT },
    { exit: VM_EXIT.SAVE_IA32_PAT },
  ),
  pat(
    'pat_save',
    { entry: VM_ENTRY.LOAD_IA32_PAT, exit: VM_EXIT.LOAD_IA32_PAT | VM_EXIT.SAVE_IA32_PAT },
    undefined,
  ),
  pat(
    'pat_exit_only',
    { exit: VM_EXIT.LOAD_IA32_PAT },
    { entry: VM_ENTRY.LOAD_IA32_PAT, exit: VM_EXIT.SAVE_IA32_PAT },
  ),
];

const REGISTERS: readonly VmxCase[] = [
  {
    name: 'efer_save',
    set: { entry: VM_ENTRY.LOAD_IA32_EFER, exit: VM_EXIT.LOAD_IA32_EFER | VM_EXIT.SAVE_IA32_EFER, ...BITMAP },
    before: (g) => fillPage(g, 'junk', 0),
    fields: [NO_MSR_EXITS, [G.IA32_EFER, 0xd01], [H.IA32_EFER, 0xd00]],
    code: (a) => {
      readMsr(MSR.EFER)(a);
      a.emit('mov', R.rsi, R.rax);
    },
    show: ['rsi'],
    after: (g) => e9_printf(g, '  L1 %lx saved %lx\n', rdmsr(g, MSR.EFER), vmreadz(g, G.IA32_EFER)),
  },
  {
    name: 'debug_controls_loaded',
    set: { entry: VM_ENTRY.LOAD_DEBUG_CONTROLS, exit: VM_EXIT.SAVE_DEBUG_CONTROLS },
    fields: [[G.DR7, 0x0402]],
    code: (a) => {
      a.emit('mov', R.rsi, R.dr7);
      a.emit('mov', R.eax, 0x0401);
      a.emit('mov', R.dr7, R.rax);
    },
    show: ['rsi'],
    after: (g) => {
      const dr7 = g.asm({ out: { v: u64 }, emit: (a, r) => a.emit('mov', r.reg('v'), R.dr7) }).v;
      e9_printf(g, '  L1 %lx saved %lx\n', dr7, vmreadz(g, G.DR7));
    },
  },
  {
    name: 'sysenter_saved',
    set: BITMAP,
    before: (g) => fillPage(g, 'junk', 0),
    fields: [NO_MSR_EXITS, [G.SYSENTER_CS, 0x33], [H.IA32_SYSENTER_CS, 0x44], [H.IA32_SYSENTER_ESP, 0x5000]],
    code: (a) => {
      readMsr(MSR.IA32_SYSENTER_CS)(a);
      a.emit('mov', R.rsi, R.rax);
      a.emit('mov', R.eax, 0x55);
      a.emit('wrmsr');
    },
    show: ['rsi'],
    after: (g) => {
      const [cs, esp] = [rdmsr(g, MSR.IA32_SYSENTER_CS), rdmsr(g, MSR.IA32_SYSENTER_ESP)];
      e9_printf(g, '  L1 %lx %lx saved %lx\n', cs, esp, vmreadz(g, G.SYSENTER_CS));
      wrmsr(g, MSR.IA32_SYSENTER_CS, 0);
      wrmsr(g, MSR.IA32_SYSENTER_ESP, 0);
    },
  },
  {
    name: 'segments_saved',
    fields: [
      [G.FS_SELECTOR, 0x10],
      [G.FS_BASE, 0x1234_5000],
      [G.FS_AR_BYTES, 0xc093],
      [G.LDTR_SELECTOR, 0],
    ],
    regs: { rbx: 0x10 },
    code: (a) => {
      a.emit('mov', R.gs, R.ebx);
      a.emit('xor', R.eax, R.eax);
      a.emit('mov', R.es, R.eax);
    },
    after: (g) => {
      for (const name of ['FS', 'GS', 'ES', 'LDTR', 'TR'] as const) {
        const [selector, base] = [vmreadz(g, G[`${name}_SELECTOR`]), vmreadz(g, G[`${name}_BASE`])];
        const ar = vmreadz(g, G[`${name}_AR_BYTES`]);
        if (name === 'TR') e9_printf(g, `  ${name} %lx ar %lx\n`, selector, ar);
        // Of an unusable segment, the rest of the rights is undefined.
        else {
          g.if(
            ar.and(0x1_0000),
            () => e9_printf(g, `  ${name} %lx unusable\n`, selector),
            () => e9_printf(g, `  ${name} %lx base %lx ar %lx\n`, selector, base, ar),
          );
        }
      }
    },
  },
  {
    name: 'tsc_offset',
    set: { cpu: CPU_BASED.USE_TSC_OFFSETTING },
    fields: [[C.TSC_OFFSET, 0x5500_0000_0000_0000n]],
    code: (a) => {
      a.emit('rdtsc');
      a.emit('shr', R.edx, 24);
      a.emit('xor', R.eax, R.eax);
    },
    show: ['rdx'],
  },
  {
    name: 'tsc_offset_rdmsr',
    set: { cpu: CPU_BASED.USE_TSC_OFFSETTING | CPU_BASED.USE_MSR_BITMAPS },
    before: (g) => fillPage(g, 'junk', 0),
    fields: [NO_MSR_EXITS, [C.TSC_OFFSET, 0x5500_0000_0000_0000n]],
    code: (a) => {
      readMsr(MSR.IA32_TSC)(a);
      a.emit('shr', R.edx, 24);
      a.emit('xor', R.eax, R.eax);
    },
    show: ['rdx'],
  },
];

const EPTP = 0x1e;
const vmfunc = (name: string, eax: number, ecx: number): VmxCase => ({
  name: `vmfunc_${name}`,
  ept: 'identity',
  set: { cpu2: SECONDARY_EXEC.ENABLE_VMFUNC },
  before: (g) => {
    fillPage(g, 'list', 0);
    g.set(inPage(u64, 'list', 8), entryGpa('ept_root').or(EPTP));
    g.set(inPage(u64, 'list', 16), entryGpa('ept_root').or(0x7));
  },
  fields: [
    [C.VM_FUNCTION_CONTROL, 1],
    [C.EPTP_LIST_ADDRESS, pageGpa('list')],
  ],
  regs: { rax: eax, rcx: ecx },
  code: (a) => a.emit('vmfunc'),
});

const VMFUNC: readonly VmxCase[] = [
  vmfunc('switch', 0, 1),
  vmfunc('bad_eptp', 0, 2),
  vmfunc('empty', 0, 0),
  vmfunc('index_beyond', 0, 512),
  vmfunc('function_1', 1, 0),
  vmfunc('function_63', 63, 0),
  vmfunc('function_64', 64, 0),
];

const pml = (name: string, index: number, code: VmxCase['code']): VmxCase => ({
  name: `pml_${name}`,
  ept: 'identity_ad',
  eptCaps: VMX_EPT_CAP.AD_BIT,
  set: { cpu2: SECONDARY_EXEC.ENABLE_PML },
  before: (g) => fillPage(g, 'pml', 0),
  fields: [
    [C.PML_ADDRESS, pageGpa('pml')],
    [G.PML_INDEX, index],
  ],
  regs: { rbx: SPECIAL },
  code,
});

/** Whether the newest entries are the page `data`, and how the index has moved. */
const sayPml = (g: GuestCode): void => {
  const index = g.let(vmreadz(g, G.PML_INDEX).cast(u16));
  const found = g.local(u64, 0);
  const i = g.local(u64);
  const offset = g.local(u64, 0);
  g.forRange(i, 0, 512, 1, () => {
    const entry = inPage(u64, 'pml', i.mul(8));
    g.if(entry.and(~0xfffn).eq(pageGpa('data')), () => {
      g.inc(found);
      g.set(offset, entry.and(0xfff));
    });
  });
  e9_printf(g, '  index below 511 %ld, data logged %ld, offset %lx\n', index.lt(511), found, offset);
};

const PML: readonly VmxCase[] = [
  { ...pml('write', 511, (a) => a.emit('mov', m64({ base: R.rbx, disp: 0x38 }), R.rcx)), after: sayPml },
  { ...pml('read', 511, (a) => a.emit('mov', R.rcx, m64({ base: R.rbx }))), after: sayPml },
  {
    ...pml('write_twice', 511, (a) => {
      a.emit('mov', m64({ base: R.rbx, disp: 0x38 }), R.rcx);
      a.emit('mov', m64({ base: R.rbx, disp: 0x40 }), R.rcx);
    }),
    after: sayPml,
  },
];

/** A shadow VMCS with known fields, linked. */
function shadow(g: GuestCode): void {
  const current = vmptrstz(g);
  g.set(inPage(u32, 'vmcs2', 0), vmcs_revision(g).or(VMCS_SHADOW_BIT));
  vmclear(g, pageGpa('vmcs2'));
  vmptrld(g, pageGpa('vmcs2'));
  vmwrite(g, G.RSP, 0xabcd);
  vmwrite(g, G.ES_SELECTOR, 0x18);
  vmclear(g, pageGpa('vmcs2'));
  vmptrld(g, current);
  fillPage(g, 'ioa', 0);
  fillPage(g, 'iob', 0);
}

const shadowed = (name: string, code: VmxCase['code'], more: Partial<VmxCase> = {}): VmxCase => ({
  name: `shadow_${name}`,
  set: { cpu2: SECONDARY_EXEC.SHADOW_VMCS },
  before: shadow,
  fields: [
    [G.VMCS_LINK_POINTER, pageGpa('vmcs2')],
    [C.VMREAD_BITMAP, pageGpa('ioa')],
    [C.VMWRITE_BITMAP, pageGpa('iob')],
  ],
  regs: { rbx: G.RSP, rcx: 0x77, rsi: SPECIAL },
  code: (a) => {
    code(a);
    // CF and ZF.
    a.emit('pushfq');
    a.emit('pop', R.rdi);
    a.emit('and', R.edi, 0x41);
  },
  show: ['rax', 'rdi'],
  ...more,
});

const withBit =
  (page: PageName, field: number) =>
  (g: GuestCode): void => {
    shadow(g);
    g.set(inPage(u8, page, field >> 3), 1 << (field & 7));
  };

const SHADOWING: readonly VmxCase[] = [
  shadowed('vmread', (a) => a.emit('vmread', R.rax, R.rbx)),
  shadowed('vmread_bit_set', (a) => a.emit('vmread', R.rax, R.rbx), { before: withBit('ioa', G.RSP) }),
  shadowed('vmread_nowhere', (a) => a.emit('vmread', R.rax, R.rbx), { regs: { rbx: 0x6ffe } }),
  shadowed('vmread_beyond_bitmap', (a) => a.emit('vmread', R.rax, R.rbx), { regs: { rbx: 0x1_0000 } }),
  shadowed('vmwrite', (a) => {
    a.emit('vmwrite', R.rbx, R.rcx);
    a.emit('vmread', R.rax, R.rbx);
  }),
  shadowed('vmwrite_bit_set', (a) => a.emit('vmwrite', R.rbx, R.rcx), { before: withBit('iob', G.RSP) }),
  shadowed('vmread_memory', (a) => {
    a.emit('vmread', m64({ base: R.rsi }), R.rbx);
    a.emit('mov', R.rax, m64({ base: R.rsi }));
  }),
  shadowed('vmread_no_link', (a) => a.emit('vmread', R.rax, R.rbx), {
    fields: [
      [G.VMCS_LINK_POINTER, 0xffff_ffff_ffff_ffffn],
      [C.VMREAD_BITMAP, pageGpa('ioa')],
      [C.VMWRITE_BITMAP, pageGpa('iob')],
    ],
  }),
];

/** All of them. */
export const STATE_CASES: readonly VmxCase[] = [
  ...ENTRY_AREA,
  ...EXIT_AREAS,
  ...PAT_CASES,
  ...REGISTERS,
  ...VMFUNC,
  ...PML,
  ...SHADOWING,
];
