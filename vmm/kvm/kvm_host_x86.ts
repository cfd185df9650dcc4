// SPDX-License-Identifier: GPL-2.0-only
/**
 * The x86 parts of struct kvm and struct kvm_vcpu, struct kvm_mmu and the table that reaches VMX and SVM. Mirrors
 * arch/x86/include/asm/kvm_host.h, 6.12; leaves out PMU, PV features, SMM, async page faults and Hyper-V.
 * Nothing in common code asks which vendor it is: it calls `kvm.module.ops`.
 */
import type { Gfn, Hpa } from '../../lib/x86/addr.ts';
import type { KvmCpuidEntry2, KvmMsrEntry } from '../../lib/uapi/cpuid_msr.ts';
import type { KvmNestedState } from '../../lib/uapi/nested_state.ts';
import type { CpuidFeature } from '../../lib/x86/cpuid.ts';
import type { KvmDtable, KvmSegment } from '../../lib/uapi/regs.ts';
import { KVM_MP_STATE } from '../../lib/uapi/vcpu_state.ts';
import type { Cpu } from '../machine/cpu/cpu.ts';
import type { Steps } from '../host/steps.ts';
import type { Kvm, Vcpu } from './kvm_host.ts';
import { BugError } from '../machine/errors.ts';
import { GuestWalker } from './mmu/guest_walker.ts';
import { KvmPageFault } from './mmu/page_fault.ts';
import { KvmCpuRole, KvmMmuPageRole } from './mmu/role.ts';
import { RsvdBitsValidate } from './mmu/rsvd_bits.ts';
import type { TdpMmuRoot } from './mmu/mmu_page.ts';
import { ShadowMmu } from './mmu/shadow_state.ts';
import type { X86Exception } from './x86/x86_exception.ts';

/** A physical address of nothing (`INVALID_PAGE`). */
export const INVALID_PAGE = -1 as Hpa;

/** Words of `VcpuArch.regs` besides 2 * GPR number. */
export const VCPU_REGS_RIP = 32;
export const NR_VCPU_REG_WORDS = 34;

export const KVM_MMU_NUM_PREV_ROOTS = 3;
/** Bits of the roots for kvm_mmu_free_roots(). */
export const KVM_MMU_ROOT_CURRENT = 0x1;
export const KVM_MMU_ROOTS_ALL = 0xf;

/** A table page that is a root: struct kvm_mmu_page as the code that only loads and caches roots sees it. */
export interface KvmMmuRootPage {
  readonly hpa: Hpa;
  readonly role: KvmMmuPageRole;
  /** A root of the TDP MMU, else of the shadow MMU. */
  readonly tdpMmuPage: boolean;
  writeFloodingCount: number;
}

/** A root, current or previous. `pgd`: what it was made for (guest CR3 or EPTP; 0 for direct roots). */
export interface KvmMmuRootInfo {
  pgd: number;
  hpa: Hpa;
  /** root_to_sp(); null without a root, and for the dummy root. */
  sp: KvmMmuRootPage | null;
}

/** How an MMU's guest tables look: which walker reads them. */
export const PAGING = { NONE: 0, BITS_64: 1, EPT: 2 } as const;

const noRoot = (): KvmMmuRootInfo => ({ pgd: 0, hpa: INVALID_PAGE, sp: null });

const unset = (): never => {
  throw new BugError('a hook of an MMU that has not been initialised');
};

/** struct kvm_mmu: one paging context of a vCPU. */
export class KvmMmu {
  root: KvmMmuRootInfo = noRoot();
  readonly prevRoots: KvmMmuRootInfo[] = [];
  readonly rootRole = new KvmMmuPageRole();
  /** The guest's tables: a change means re-initialisation. Its level is 0 without paging. */
  readonly cpuRole = new KvmCpuRole();
  /** PAGING.* */
  format: number = PAGING.NONE;
  /** By access >> 1: for each combination of ACC.* whether the access faults. */
  readonly permissions = new Uint8Array(16);
  pkruMask = 0;
  readonly guestRsvdCheck = new RsvdBitsValidate();
  /** Times that the context was initialised, for tests: not when the role was the same. */
  inits = 0;

  /** CR3 or EPTP of the guest whose tables they are. */
  getGuestPgd: (vcpu: Vcpu) => number = unset;
  /** PDPTEs of PAE paging. */
  getPdptr: (vcpu: Vcpu, index: number) => bigint = unset;
  /** A fault of a walk of these tables goes to whoever owns them. */
  injectPageFault: (vcpu: Vcpu, fault: X86Exception) => void = unset;

  constructor() {
    for (let i = 0; i < KVM_MMU_NUM_PREV_ROOTS; i++) this.prevRoots.push(noRoot());
  }
}

/** An exception that waits for injection. struct kvm_queued_exception. */
export interface KvmQueuedException {
  pending: boolean;
  injected: boolean;
  hasErrorCode: boolean;
  vector: number;
  errorCode: number;
  hasPayload: boolean;
  payloadLo: number;
  payloadHi: number;
}

const queuedException = (): KvmQueuedException => ({
  pending: false,
  injected: false,
  hasErrorCode: false,
  vector: 0,
  errorCode: 0,
  hasPayload: false,
  payloadLo: 0,
  payloadHi: 0,
});

/** Continues an instruction after userspace did its part: the result is that of an exit handler. */
export type CompleteUserspaceIo = (vcpu: Vcpu) => MaybeSteps<number>;

/** struct kvm_vcpu_arch. 64-bit registers are lo/hi words; CR0, CR4, EFER have no bits above 31. */
export class VcpuArch {
  /** 16 GPRs by encoding and RIP (VCPU_REGS_RIP), two words each. */
  readonly regs = new Int32Array(NR_VCPU_REG_WORDS);
  /** Bitmaps of cached and changed registers (enum kvm_reg); the vendor's business. */
  regsAvail = 0;
  regsDirty = 0;
  cr0 = 0;
  cr0GuestOwnedBits = 0;
  cr2Lo = 0;
  cr2Hi = 0;
  /** Exact as a number: at most 52 bits. */
  cr3 = 0;
  cr4 = 0;
  cr4GuestOwnedBits = 0;
  cr8 = 0;
  efer = 0;
  xcr0 = 1;
  pkru = 0;
  hflags = 0;
  apicBase = 0;
  mpState: number = KVM_MP_STATE.RUNNABLE;
  sipiVector = 0;
  /** struct kvm_lapic, or null without an in-kernel APIC. */
  apic: object | null = null;
  /** The vendor's part: struct vcpu_vmx or vcpu_svm. */
  vendor: object | null = null;

  readonly exception = queuedException();
  readonly exceptionVmexit = queuedException();
  exceptionFromUserspace = false;
  readonly interrupt = { injected: false, soft: false, nr: 0 };
  nmiQueued = 0;
  nmiPending = 0;
  nmiInjected = false;

  cpuidEntries: KvmCpuidEntry2[] = [];
  maxphyaddr = 36;
  /** Bits of CR4 and EFER that this vCPU's CPUID does not offer, and does: kvm_vcpu_after_set_cpuid(). */
  cr4GuestRsvdBits = -1;
  eferValidBits = 0;

  readonly db = new Int32Array(8);
  dr6 = 0xffff_0ff0 | 0;
  dr7 = 0x400;
  guestDebug = 0;

  /** Cached MMIO access: generation, gfn and permissions of the last gfn that turned out to be MMIO. */
  mmioGen = -1;
  mmioGfn = -1 as Gfn;
  mmioGva = 0;
  mmioAccess = 0;

  completeUserspaceIo: CompleteUserspaceIo | null = null;
  readonly pio = { in: 0, port: 0, size: 0, count: 0 };

  l1TscOffset = 0n;
  /** 2^48 is the host's frequency. */
  l1TscScalingRatio = 1n << 48n;
  /** Of what runs now: L1's, or those of L2. */
  tscOffset = 0n;
  tscScalingRatio = 1n << 48n;
  virtualTscKhz = 0;
  /** Length of the instruction whose software event the last exit cut short. */
  eventExitInstLen = 0;
  tscDeadline = 0n;
  iaTscAdjust = 0n;
  pat = 0x0007_0406_0007_0406n;
  miscEnable = 0n;
  atInstructionBoundary = false;
  lastVmentryCpu = -1;

  /** The page fault being handled. */
  readonly pageFault = new KvmPageFault();
  /** EMULTYPE_ALLOW_RETRY_PF: the gfn of a table whose protection made the emulator necessary, or -1. */
  retryGfn = -1;
  /** last_retry_eip and last_retry_addr: where a table was unprotected last. */
  readonly lastRetry = { rip: 0n, addr: -1 };
  /** L1's tables, by EPT or NPT. */
  readonly rootMmu = new KvmMmu();
  /** L2's tables while L1 runs L2 with its own EPT or NPT. */
  readonly guestMmu = new KvmMmu();
  /** Walks of L2's own page tables. */
  readonly nestedMmu = new KvmMmu();
  /** What the vCPU runs on now. */
  mmu: KvmMmu = this.rootMmu;
  /** Walks of L0 by linear address, of EPT12 on their behalf, and of EPT12 for faults of L2. */
  readonly gvaWalker = new GuestWalker();
  readonly nestedWalker = new GuestWalker();
  readonly faultWalker = new GuestWalker();
  /** What translates linear addresses for the emulator. */
  walkMmu: KvmMmu = this.rootMmu;
}

/** struct kvm_arch. */
export class KvmArch {
  /** KVM_X86_QUIRK.* that userspace disabled. */
  disabledQuirks = 0;
  /** All TDP roots, invalid ones too until they are gone. */
  readonly tdpMmuRoots: TdpMmuRoot[] = [];
  /** Table pages in use. */
  tdpMmuPages = 0;
  /** Toggled by kvm_mmu_zap_all_fast(). */
  mmuValidGen = 0;
  readonly shadow = new ShadowMmu();
  apicAccessMemslotEnabled = false;
  irqchipInKernel = false;
  /** KVM_X2APIC_API_USE_32BIT_IDS: the x2APIC ID is whole in KVM_GET_LAPIC's image, not in bits 31:24. */
  x2apicFormat = false;
  bspVcpuId = 0;
  /** KVM_MSR_EXIT_REASON.* */
  userSpaceMsrMask = 0;
  /** TSC frequency of vCPUs to come; 0: the host's. */
  defaultTscKhz = 0;
  exceptionPayloadEnabled = false;
  tripleFaultEvent = false;
  disabledExits = 0;
  exitOnEmulationError = false;
  maxVcpuIds = 0;
  /** The vendor's part: struct kvm_vmx or kvm_svm. */
  vendor: object | null = null;
}

/**
 * A value now, or steps to it. Lets a handler be a plain function in the common case:
 * `const r = f(); return typeof r === 'number' ? r : yield* r;`.
 */
export type MaybeSteps<T> = T | Steps<T>;

/** enum exit_fastpath_completion. */
export const EXIT_FASTPATH = { NONE: 0, REENTER_GUEST: 1, EXIT_HANDLED: 2, EXIT_USERSPACE: 3 } as const;

/** What a vendor module provides. struct kvm_x86_ops; numbers below zero are negated errnos. */
export interface KvmX86Ops {
  /** Module name: kvm_intel, kvm_amd. */
  readonly name: string;

  /** VMXON or EFER.SVME on one pCPU. */
  hardwareEnable(cpu: Cpu): number;
  hardwareDisable(cpu: Cpu): void;

  vmInit(kvm: Kvm): number;
  vmDestroy(kvm: Kvm): void;
  vcpuCreate(vcpu: Vcpu): number;
  vcpuFree(vcpu: Vcpu): void;
  /** RESET or INIT. */
  vcpuReset(vcpu: Vcpu, event: 'reset' | 'init'): void;
  vcpuLoad(vcpu: Vcpu, cpu: Cpu): void;
  vcpuPut(vcpu: Vcpu): void;
  vcpuAfterSetCpuid(vcpu: Vcpu): void;
  prepareSwitchToGuest(vcpu: Vcpu): void;

  getMsr(vcpu: Vcpu, msr: KvmMsrEntry, by: 'guest' | 'host'): number;
  setMsr(vcpu: Vcpu, msr: KvmMsrEntry, by: 'guest' | 'host'): number;
  getMsrFeature(msr: KvmMsrEntry): number;
  /** vmx_has_emulated_msr(): the MSR is there for guests of this vendor. */
  hasEmulatedMsr(index: number): boolean;
  /** Features that only this vendor's module offers: vmx_set_cpu_caps(), svm_set_cpu_caps(). */
  readonly cpuCaps: readonly CpuidFeature[];

  getSegment(vcpu: Vcpu, seg: number, out: KvmSegment): void;
  setSegment(vcpu: Vcpu, seg: number, from: KvmSegment): void;
  getCpl(vcpu: Vcpu): number;
  isValidCr0(vcpu: Vcpu, cr0: number): boolean;
  setCr0(vcpu: Vcpu, cr0: number): void;
  isValidCr4(vcpu: Vcpu, cr4: number): boolean;
  setCr4(vcpu: Vcpu, cr4: number): void;
  setEfer(vcpu: Vcpu, efer: number): number;
  getIdt(vcpu: Vcpu): KvmDtable;
  setIdt(vcpu: Vcpu, dt: KvmDtable): void;
  getGdt(vcpu: Vcpu): KvmDtable;
  setGdt(vcpu: Vcpu, dt: KvmDtable): void;
  setDr7(vcpu: Vcpu, value: number): void;
  /** Fill the register cache for one enum kvm_reg. */
  cacheReg(vcpu: Vcpu, reg: number): void;
  getRflags(vcpu: Vcpu): number;
  setRflags(vcpu: Vcpu, rflags: number): void;

  /** All translations of the vCPU's tags, guest-physical ones too. */
  flushTlbAll(vcpu: Vcpu): void;
  /** Those of the current context (EPTP or ASID). */
  flushTlbCurrent(vcpu: Vcpu): void;
  /** Those that the guest could flush itself: no guest-physical ones. */
  flushTlbGuest(vcpu: Vcpu): void;
  flushTlbGva(vcpu: Vcpu, lo: number, hi: number): void;

  /** Before the loop of KVM_RUN: 1 to go on, 0 to go to userspace. */
  vcpuPreRun(vcpu: Vcpu): number;
  /** Enter the guest and run it up to a VM exit; yields when its slice ends. The result is EXIT_FASTPATH.*. */
  vcpuRun(vcpu: Vcpu): MaybeSteps<number>;
  /** 1: go on, 0: to userspace, below zero: errno. */
  handleExit(vcpu: Vcpu, fastpath: number): MaybeSteps<number>;
  handleExitIrqoff(vcpu: Vcpu): void;
  skipEmulatedInstruction(vcpu: Vcpu): number;
  /** L0 has carried out an instruction: what is due after it. */
  updateEmulatedInstruction(vcpu: Vcpu): void;
  getInterruptShadow(vcpu: Vcpu): number;
  setInterruptShadow(vcpu: Vcpu, mask: number): void;

  injectIrq(vcpu: Vcpu, reinjected: 'first' | 'again'): void;
  injectNmi(vcpu: Vcpu): void;
  injectException(vcpu: Vcpu): void;
  cancelInjection(vcpu: Vcpu): void;
  /** 1: yes, 0: no, below zero: a nested exit must come first. */
  /** INIT waits: L1 is in VMX root operation. */
  apicInitSignalBlocked(vcpu: Vcpu): boolean;
  interruptAllowed(vcpu: Vcpu, what: 'query' | 'injection'): number;
  nmiAllowed(vcpu: Vcpu, what: 'query' | 'injection'): number;
  getNmiMask(vcpu: Vcpu): boolean;
  setNmiMask(vcpu: Vcpu, masked: boolean): void;
  enableNmiWindow(vcpu: Vcpu): void;
  enableIrqWindow(vcpu: Vcpu): void;
  updateExceptionBitmap(vcpu: Vcpu): void;
  /** Leave the guest again right after the next entry, for an event that could not go in with it. */
  requestImmediateExit(vcpu: Vcpu): void;
  updateCr8Intercept(vcpu: Vcpu, tpr: number, irr: number): void;

  /** Point the hardware at a new root. */
  loadMmuPgd(vcpu: Vcpu, rootHpa: Hpa, rootLevel: number): void;
  /** Memory type of a leaf in the TDP tables: bits of the entry's low word. */
  getMtMask(vcpu: Vcpu, gfn: Gfn, isMmio: 'ram' | 'mmio'): number;
  writeTscOffset(vcpu: Vcpu): void;
  writeTscMultiplier(vcpu: Vcpu): void;
  /** What the current VMCS or VMCB of L1 adds for L2. */
  getL2TscOffset(vcpu: Vcpu): bigint;
  getL2TscMultiplier(vcpu: Vcpu): bigint;
  /** Entries of the CPU's dirty log (PML); 0: none. */
  readonly cpuDirtyLogSize: number;
  /** For traces. `reason`, the two exit informations, interruption information and error code go to `out`. */
  getExitInfo(vcpu: Vcpu, out: KvmExitInfo): void;
  setVirtualApicMode(vcpu: Vcpu): void;
  readonly nestedOps: KvmX86NestedOps | null;
}

/** For kvm_exit traces. */
export interface KvmExitInfo {
  reason: number;
  info1: number;
  info2: number;
  intrInfo: number;
  errorCode: number;
}

/** Instructions that L0 emulates and L1 may intercept, beyond those that always exit: enum x86_intercept. */
export type InterceptedInsn = 'hlt' | 'pause';

/** struct kvm_x86_nested_ops. */
export interface KvmX86NestedOps {
  leaveNested(vcpu: Vcpu): void;
  /** Whether an exception that L0 raises for L2 is L1's. */
  isExceptionVmexit(vcpu: Vcpu, vector: number, errorCode: number): boolean;
  /** Look for the event of highest priority, and exit to L1 if it is L1's; 0, -EBUSY: it must wait, other errnos end KVM_RUN. */
  checkEvents(vcpu: Vcpu): number;
  hasEvents(vcpu: Vcpu, what: 'query' | 'injection'): boolean;
  tripleFault(vcpu: Vcpu): void;
  /** L2's instruction, which L0 is about to emulate: true if L1 intercepts it, and has had its exit. */
  checkIntercept(vcpu: Vcpu, insn: InterceptedInsn, length: number): boolean;
  getNestedStatePages(vcpu: Vcpu): MaybeSteps<boolean>;
  /** Wait for the pages that an exit to L1 may touch, for it cannot wait itself; null: nothing to wait for. */
  settleExitPages(vcpu: Vcpu): Steps<void> | null;
  /** What KVM_CAP_NESTED_STATE gives. */
  readonly maxStateSize: number;
  /** KVM_GET_NESTED_STATE: `size` is what the whole state needs; data that `userSize` has no room for is left out. */
  getState(vcpu: Vcpu, userSize: number): KvmNestedState;
  /** KVM_SET_NESTED_STATE: 0 or a negative errno. */
  setState(vcpu: Vcpu, state: KvmNestedState): number;
  /** A dirty flag of EPT12 is about to be set for this L2 address: L1's page-modification log, if it has one. */
  writeLogDirty?(vcpu: Vcpu, l2Gpa: number): 'logged' | 'full';
}

/** The kvm_arch_* functions that architecture-neutral code calls; x86.ts provides them. */
export interface KvmArchOps {
  vmInit(kvm: Kvm): number;
  vmDestroy(kvm: Kvm): void;
  vcpuPrecreate(kvm: Kvm, id: number): number;
  vcpuCreate(vcpu: Vcpu): MaybeSteps<number>;
  vcpuPostcreate(vcpu: Vcpu): void;
  vcpuDestroy(vcpu: Vcpu): void;
  vcpuLoad(vcpu: Vcpu, cpu: Cpu): void;
  vcpuPut(vcpu: Vcpu): void;
  /** KVM_RUN with vcpu->mutex held. */
  vcpuIoctlRun(vcpu: Vcpu): Steps<number>;
  /** kvm_arch_vcpu_runnable(): must kvm_vcpu_block() return? */
  vcpuRunnable(vcpu: Vcpu): boolean;
  /** Pending timer, for kvm_vcpu_check_block(). */
  cpuHasPendingTimer(vcpu: Vcpu): boolean;
  /** KVM_CHECK_EXTENSION for what common code does not know; `kvm` is null for /dev/kvm itself. */
  vmIoctlCheckExtension(kvm: Kvm | null, cap: number): number;
}
