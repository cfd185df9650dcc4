// SPDX-License-Identifier: GPL-2.0-only
/**
 * CPU profiles: what each cost point is worth in core cycles, and the sizes that the timing depends on. Every value
 * has its source beside it: [S] read in a publication, [M] measured, [I] inferred, [R] recalled; spec/cost-model.md
 * has the references. Only ratios between two runs on one profile mean anything.
 */
import { COST, NR_COST_POINTS } from './points.ts';
import type { Prices } from './ledger.ts';

/** Name of a cost point. */
export type CostName = keyof typeof COST;

/** Sets and ways of the modelled TLB (`real` replacement): translations of linear and of guest-physical addresses. */
export interface TlbGeometry {
  readonly sets: number;
  readonly ways: number;
  readonly gpSets: number;
  readonly gpWays: number;
}

export interface CpuProfile {
  readonly name: 'skylake' | 'icelake' | 'milan';
  readonly vendor: 'intel' | 'amd';
  readonly title: string;
  readonly tscKhz: number;
  /** MAXPHYADDR. */
  readonly maxPhysBits: number;
  readonly tlb: TlbGeometry;
  /**
   * What happens when a cached translation forbids the access: Intel may fault from the cached entry ("Optional
   * Invalidation"), AMD walks again first ("Use of Cached Entries When Reporting a Page Fault Exception").
   */
  readonly permissionFault: 'cached' | 'rewalk';
  readonly prices: Prices;
}

/** Price on Skylake class, price on Milan class, source. */
type PriceRow = readonly [intel: number, amd: number, source: string];

// prettier-ignore
const EXECUTION_PRICES: Readonly<Partial<Record<CostName, PriceRow>>> = {
  INSN:           [1, 1, 'definition'],
  WALK_REF:       [5, 5, '[I] table in L1; 4 refs = 20 cycles, Haswell L2-TLB miss with cached tables [S]'],
  TLB_MISS:       [8, 7, '[R] Intel manual 7-9; [M] 7'],
  CPUID_INSN:     [100, 60, '[R] serialising'],
  RDTSC_INSN:     [24, 36, '[R] instruction tables'],
  RDMSR_INSN:     [80, 100, '[R]'],
  WRMSR_INSN:     [150, 150, '[R]'],
  PORT_IO:        [500, 500, '[R] uncore round trip'],
  PAUSE:          [140, 40, '[R] Skylake raised PAUSE from about 10 to 140'],
  LOCKED:         [18, 16, '[R] uncontended'],
  MOV_CR:         [40, 40, '[R]'],
  MOV_CR3:        [150, 150, '[R] 100-250 without the refill'],
  INVLPG:         [150, 150, '[R] 100-250'],
  INVPCID:        [200, 200, '[I] as INVVPID'],
  EVENT_DELIVERY: [250, 250, '[R] interrupt through an IDT gate'],
  IRET:           [120, 120, '[R]'],
  DIV:            [35, 17, '[R] 64-bit divide'],
  FENCE:          [30, 30, '[R]'],
};

// prettier-ignore
const VIRT_PRICES: Readonly<Partial<Record<CostName, PriceRow>>> = {
  VM_ENTRY:       [350, 700, '[S] share of 600 (vmlatency); AMD [I]'],
  VM_EXIT:        [250, 500, '[S] share of 600 (vmlatency); AMD [I]'],
  VMREAD:         [30, 5, '[R/I] 20-60; AMD: memory'],
  VMWRITE:        [40, 5, '[R/I] 20-60; AMD: memory'],
  VMPTRLD:        [200, 200, '[R/I] 100-300'],
  VMCLEAR:        [200, 200, '[R/I] 100-300'],
  VMXON:          [200, 200, '[I]'],
  VMFUNC:         [134, 134, '[R] EPTP switching with VPID; AMD has none'],
  INVVPID_ADDR:   [150, 150, '[I] 100-500; AMD: INVLPGA'],
  INVVPID_SINGLE: [200, 150, '[I] 100-500; AMD: TLB_CONTROL'],
  INVVPID_ALL:    [300, 150, '[I] 200-700'],
  INVEPT_SINGLE:  [250, 150, '[I] 100-500'],
  INVEPT_ALL:     [350, 150, '[I] 200-700'],
  IPI_SEND:       [500, 600, '[I] part of the 2000 of one IPI'],
  IPI_RECEIVE:    [1500, 1900, '[I] part of the 2000 of one IPI'],
  L0_EXIT_LIGHT:  [650, 700, '[I] 400-1500; CPUID in all 1300 cycles [S]'],
  L0_EXIT_FAULT:  [1500, 1500, '[I]'],
  L0_EMULATE:     [1500, 1500, '[I]'],
  VCPU_LOAD:      [800, 800, '[I]'],
  VCPU_RUN:       [1200, 1200, '[S] KVM_RUN 2528 less VMRUN 1344'],
  MEMSLOT_LOOKUP: [40, 40, '[I]'],
  MEMSLOT_UPDATE: [1500, 1500, '[I]'],
  TDP_MAP:        [250, 250, '[I]'],
  TDP_ZAP:        [120, 120, '[I]'],
  TDP_ROOT_ALLOC: [2000, 2000, '[I] allocate, zero, hash'],
  TDP_SPLIT:      [3000, 3000, '[I] 512 entries'],
  REMOTE_TLB_FLUSH: [300, 300, '[I] without the IPIs'],
  HYPERCALL:      [100, 100, '[I] dispatch only'],
  L0_NESTED_ENTRY: [1500, 1500, '[I] 3000 a direction, less the VMREADs and VMWRITEs, which are counted apart'],
  L0_NESTED_EXIT: [1500, 1500, '[I] as the entry'],
  MMU_INIT: [300, 300, '[I] middle of 200-400'],
  MMU_ROLE_CHECK: [30, 30, '[I] 20-40'],
};

// prettier-ignore
const HOST_PRICES: Readonly<Partial<Record<CostName, PriceRow>>> = {
  SYSCALL:        [400, 350, '[R] with mitigations'],
  CONTEXT_SWITCH: [2500, 2500, '[R]'],
  WAKEUP:         [1500, 1500, '[R]'],
  PAGE_ALLOC:     [150, 150, '[R] per-CPU list'],
  PAGE_CLEAR:     [250, 250, '[R] rep stosb of 4 KiB'],
  PAGE_COPY:      [500, 500, '[R]'],
  PAGE_FREE:      [100, 100, '[R]'],
  PAGE_FAULT:     [1000, 1000, '[R]'],
  GUP_FAST:       [200, 200, '[I] 150-400 with the map'],
  GUP_SLOW:       [1200, 1200, '[I]'],
  PUT_PAGE:       [50, 50, '[I] 50-150'],
  VMA_OP:         [1500, 1500, '[R]'],
  PTE_OP:         [30, 30, '[I]'],
  NOTIFIER_CALL:  [100, 100, '[I]'],
  KMAP:           [10, 10, '[I] direct map: address arithmetic'],
  KMAP_LOCAL:     [20, 20, '[I]'],
  MEMREMAP:       [5000, 5000, '[I] 3-8 k: vmap area, memtype, tables'],
  MEMUNMAP:       [5000, 5000, '[I] 3-10 k amortised'],
  VMAP_PURGE:     [3000, 3000, '[I] without the shootdown'],
  SHOOTDOWN:      [2000, 2500, '[I] 1000-5000'],
  SHOOTDOWN_PER_CPU: [500, 500, '[I]'],
  SPINLOCK:       [20, 20, '[R] uncontended'],
  RWLOCK:         [25, 25, '[R] uncontended'],
  MUTEX:          [40, 40, '[R] uncontended'],
  SRCU:           [20, 20, '[R] read side'],
  SRCU_SYNC:      [5000, 5000, '[I] grace period without readers'],
  USER_SPIN:      [10, 10, '[I]'],
  USER_ACCESS:    [5, 5, '[I]'],
};

/** Every price, by the name of its cost point. */
export const PRICE_TABLE: Readonly<Partial<Record<CostName, PriceRow>>> = {
  ...EXECUTION_PRICES,
  ...VIRT_PRICES,
  ...HOST_PRICES,
};

function pricesOf(column: 0 | 1): Prices {
  const prices = new Float64Array(NR_COST_POINTS);
  for (const [name, point] of Object.entries(COST)) {
    prices[point] = PRICE_TABLE[name as CostName]?.[column] ?? 0;
  }
  return prices;
}

/** The shipped profiles. */
export const PROFILES = {
  skylake: {
    name: 'skylake',
    vendor: 'intel',
    title: 'Intel Skylake-SP class',
    tscKhz: 2_300_000,
    maxPhysBits: 46,
    // [S] 1536-entry second-level TLB, 12 ways; [I] guest-physical: small, as nested-translation caches are.
    tlb: { sets: 128, ways: 12, gpSets: 16, gpWays: 4 },
    permissionFault: 'cached',
    prices: pricesOf(0),
  },
  // Priced as Skylake: what it has more is what it can do. [S] 2048-entry second-level TLB, 16 ways.
  icelake: {
    name: 'icelake',
    vendor: 'intel',
    title: 'Intel Ice Lake-SP class',
    tscKhz: 2_300_000,
    maxPhysBits: 52,
    tlb: { sets: 128, ways: 16, gpSets: 16, gpWays: 4 },
    permissionFault: 'cached',
    prices: pricesOf(0),
  },
  milan: {
    name: 'milan',
    vendor: 'amd',
    title: 'AMD Milan class',
    tscKhz: 2_850_000,
    maxPhysBits: 48,
    // [R] 2048-entry second-level TLB of Zen 3, 16 ways assumed.
    tlb: { sets: 128, ways: 16, gpSets: 16, gpWays: 4 },
    permissionFault: 'rewalk',
    prices: pricesOf(1),
  },
} as const satisfies Readonly<Record<string, CpuProfile>>;

/** The price table as Markdown rows, for the documentation. */
export function priceTableMarkdown(): string {
  const rows = Object.entries(PRICE_TABLE).map(
    ([name, [intel, amd, source]]) => `| ${name} | ${intel} | ${amd} | ${source} |`,
  );
  return ['| cost point | Skylake class | Milan class | source |', '|---|---|---|---|', ...rows].join('\n');
}
