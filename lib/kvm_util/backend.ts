// SPDX-License-Identifier: GPL-2.0-only
/**
 * What a selftest needs from below: a /dev/kvm, the address space and threads of its own process, and a clock. The
 * emulated host is one implementation; nothing here says which. Calls that may sleep in the kernel are `Steps`
 * generators, so that another thread can run meanwhile.
 */
import type { Hva } from '../x86/addr.ts';
import type { KvmCpuidEntry2, KvmMsrEntry } from '../uapi/cpuid_msr.ts';
import type {
  KvmClearDirtyLog,
  KvmDirtyLog,
  KvmEnableCap,
  KvmUserspaceMemoryRegion,
  KvmUserspaceMemoryRegion2,
} from '../uapi/memory.ts';
import type { KvmNestedState } from '../uapi/nested_state.ts';
import type { KvmDebugregs, KvmRegs, KvmSregs, KvmXcrs } from '../uapi/regs.ts';
import type { KvmRun } from '../uapi/run.ts';
import type { KvmLapicState, KvmMpState, KvmVcpuEvents } from '../uapi/vcpu_state.ts';

/** Code that may sleep: a bare `yield` gives the scheduler the chance to let others go on. */
export type Steps<T> = Generator<void, T, void>;

/** How memory given to a guest is backed. `unmanaged` has no struct page in the host kernel. */
export type BackingSource = 'anonymous' | 'anonymous_thp' | 'memfd' | 'unmanaged';

export const PROT = { NONE: 0x0, READ: 0x1, WRITE: 0x2 } as const;
export const MADV = { DONTNEED: 4 } as const;

/** The test process's own memory. Accesses fault pages in; a bad one throws the backend's SIGSEGV error. */
export interface UserMemory {
  /** Page-aligned length in bytes; returns the address, aligned to `align` bytes (default 4096). */
  mmap(options: { length: number; backing?: BackingSource; prot?: number; align?: number }): Steps<Hva>;
  munmap(addr: Hva, length: number): Steps<void>;
  mprotect(addr: Hva, length: number, prot: number): Steps<void>;
  madvise(addr: Hva, length: number, advice: number): Steps<void>;
  /** Move the page at `addr` to another frame, as compaction does. False if the page is pinned. */
  migratePage(addr: Hva): Steps<boolean>;
  read(addr: Hva, length: number): Uint8Array;
  write(addr: Hva, bytes: Uint8Array): void;
  readU32(addr: Hva): number;
  writeU32(addr: Hva, value: number): void;
  readU64(addr: Hva): bigint;
  writeU64(addr: Hva, value: bigint): void;
  /** memset(). */
  fill(addr: Hva, length: number, value: number): void;
}

export interface Thread {
  readonly name: string;
}

/** Threads of the test process, in virtual time. */
export interface Threads {
  spawn(name: string, body: () => Steps<void>, options?: { cpu?: number }): Thread;
  /** Wait for the end; an error that escaped the thread's body is thrown here. */
  join(thread: Thread): Steps<void>;
  /** Pin to one pCPU; moves at the next scheduling point. */
  setAffinity(thread: Thread, cpu: number): void;
  /** A signal: KVM_RUN of that thread returns EINTR. */
  kill(thread: Thread): void;
  sleepNs(ns: number): Steps<void>;
  /** Poll until `condition` holds; false if `timeoutNs` of virtual time passed first. */
  spinUntil(condition: () => boolean, timeoutNs?: number): Steps<boolean>;
  /** CLOCK_MONOTONIC of the current thread in nanoseconds of virtual time. */
  nowNs(): number;
  readonly nrCpus: number;
}

/** A binary statistics file descriptor: the bytes as KVM_GET_STATS_FD's read() returns them. */
export interface StatsFd {
  read(offset: number, length: number): Uint8Array;
}

export interface VcpuFd {
  readonly id: number;
  /** The shared kvm_run page. */
  readonly run: KvmRun;
  /** KVM_RUN: 0, or a KvmError with EINTR, EFAULT, ... */
  ioctlRun(): Steps<void>;
  getRegs(): KvmRegs;
  setRegs(regs: KvmRegs): void;
  getSregs(): KvmSregs;
  setSregs(sregs: KvmSregs): void;
  /** Returns the entries read, in order, up to the first that fails. */
  getMsrs(indices: readonly number[]): KvmMsrEntry[];
  /** Returns how many were set. */
  setMsrs(entries: readonly KvmMsrEntry[]): number;
  setCpuid2(entries: readonly KvmCpuidEntry2[]): void;
  getCpuid2(): KvmCpuidEntry2[];
  getLapic(): KvmLapicState;
  setLapic(state: KvmLapicState): void;
  getMpState(): KvmMpState;
  setMpState(state: KvmMpState): void;
  getVcpuEvents(): KvmVcpuEvents;
  setVcpuEvents(events: KvmVcpuEvents): void;
  getDebugregs(): KvmDebugregs;
  setDebugregs(regs: KvmDebugregs): void;
  getXcrs(): KvmXcrs;
  setXcrs(xcrs: KvmXcrs): void;
  /** KVM_GET_NESTED_STATE with a buffer of `size` bytes: E2BIG if that is not enough. */
  getNestedState(size: number): KvmNestedState;
  /** KVM_SET_NESTED_STATE; null is a bad pointer. */
  setNestedState(state: KvmNestedState | null): void;
  /** KVM_INTERRUPT. */
  interrupt(vector: number): void;
  nmi(): void;
  getTscKhz(): number;
  /** 0 is the host's frequency. */
  setTscKhz(khz: number): void;
  enableCap(cap: KvmEnableCap): void;
  statsFd(): StatsFd;
  close(): Steps<void>;
}

export interface VmFd {
  checkExtension(cap: number): number;
  enableCap(cap: KvmEnableCap): Steps<void>;
  createVcpu(id: number): Steps<VcpuFd>;
  setUserMemoryRegion(region: KvmUserspaceMemoryRegion): Steps<void>;
  setUserMemoryRegion2(region: KvmUserspaceMemoryRegion2): Steps<void>;
  getDirtyLog(log: KvmDirtyLog): Steps<void>;
  clearDirtyLog(log: KvmClearDirtyLog): Steps<void>;
  createIrqchip(): void;
  /** KVM_GET_TSC_KHZ and KVM_SET_TSC_KHZ: of vCPUs created from now on. */
  getTscKhz(): number;
  setTscKhz(khz: number): void;
  statsFd(): StatsFd;
  /** The last reference goes away: vCPUs, memslots and page tables are freed. */
  close(): Steps<void>;
}

export interface KvmDevice {
  getApiVersion(): number;
  checkExtension(cap: number): number;
  getSupportedCpuid(): KvmCpuidEntry2[];
  getMsrIndexList(): number[];
  /** KVM_GET_MSR_FEATURE_INDEX_LIST. */
  getMsrFeatureIndexList(): number[];
  /** KVM_GET_MSRS of feature MSRs: the entries read, in order, up to the first that fails. */
  getMsrs(indices: readonly number[]): KvmMsrEntry[];
  createVm(type: number): Steps<VmFd>;
}

/** One host with one test process on it. */
export interface Backend {
  readonly name: string;
  readonly kvm: KvmDevice;
  readonly memory: UserMemory;
  readonly threads: Threads;
  /** A module parameter's value as sysfs shows it (`Y`, `N` or a number), or undefined if there is none. */
  moduleParam(name: string): string | undefined;
  /** Run the process: its main thread goes to its end, with all others; errors come out here. */
  runMain(main: () => Steps<void>): void;
}
