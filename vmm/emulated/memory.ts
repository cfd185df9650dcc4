// SPDX-License-Identifier: GPL-2.0-only
/** The test process's address space, for the Backend: system calls of the host's mm, and loads and stores. */
import { PAGE_SIZE_2M, hva, type Hva } from '../../lib/x86/addr.ts';
import { hex } from '../../lib/x86/bits.ts';
import type { BackingSource, Steps, UserMemory } from '../../lib/kvm_util/backend.ts';
import type { Host } from '../host/host.ts';
import { errnoText } from './errors.ts';
import { doMadvise, MADV as HOST_MADV } from '../host/mm/madvise.ts';
import { migratePage } from '../host/mm/migrate.ts';
import { doMmap, doMunmap } from '../host/mm/mmap.ts';
import { doMprotect } from '../host/mm/mprotect.ts';
import type { MmStruct } from '../host/mm/mm_struct.ts';
import { UserMemory as UserAccess } from '../host/mm/user_access.ts';
import { spend } from '../machine/cost/ledger.ts';
import { COST } from '../machine/cost/points.ts';

/** A system call of the test's process was refused. */
export class SyscallError extends Error {
  override readonly name = 'SyscallError';
}

export class EmulatedMemory implements UserMemory {
  readonly mm: MmStruct;
  readonly #host: Host;
  readonly #access: UserAccess;

  constructor(host: Host, mm: MmStruct) {
    this.#host = host;
    this.mm = mm;
    this.#access = new UserAccess(mm);
  }

  *mmap(options: { length: number; backing?: BackingSource; prot?: number; align?: number }): Steps<Hva> {
    const { length, backing = 'anonymous' } = options;
    const thp = backing === 'anonymous_thp';
    const align = Math.max(options.align ?? 0, thp ? PAGE_SIZE_2M : 0);
    const addr = yield* this.#call('mmap', () =>
      doMmap(this.mm, {
        length,
        ...(options.prot === undefined ? {} : { prot: options.prot }),
        ...(align === 0 ? {} : { align }),
        ...(backing === 'memfd' ? { file: this.#host.memfdCreate('selftest', length) } : {}),
        ...(backing === 'unmanaged' ? { file: this.#host.unmanagedFile('selftest', length) } : {}),
      }),
    );
    if (thp) yield* this.#call('madvise', () => doMadvise(this.mm, addr, length, HOST_MADV.HUGEPAGE));
    return hva(addr);
  }

  *munmap(addr: Hva, length: number): Steps<void> {
    yield* this.#call('munmap', () => doMunmap(this.mm, addr, length));
  }

  *mprotect(addr: Hva, length: number, prot: number): Steps<void> {
    yield* this.#call('mprotect', () => doMprotect(this.mm, addr, length, prot));
  }

  *madvise(addr: Hva, length: number, advice: number): Steps<void> {
    yield* this.#call('madvise', () => doMadvise(this.mm, addr, length, advice));
  }

  *migratePage(addr: Hva): Steps<boolean> {
    return (yield* migratePage(this.mm, addr)) === 0;
  }

  read(addr: Hva, length: number): Uint8Array {
    return this.#access.readBytes(addr, length);
  }
  write(addr: Hva, bytes: Uint8Array): void {
    this.#access.writeBytes(addr, bytes);
  }
  readU32(addr: Hva): number {
    return this.#access.read32(addr);
  }
  writeU32(addr: Hva, value: number): void {
    this.#access.write32(addr, value);
  }
  readU64(addr: Hva): bigint {
    return this.#access.read64(addr);
  }
  writeU64(addr: Hva, value: bigint): void {
    this.#access.write64(addr, value);
  }
  fill(addr: Hva, length: number, value: number): void {
    this.#access.fill(addr, length, value);
  }

  /** One system call: its price, a place to be preempted, and its refusal as an error. */
  *#call(name: string, body: () => Steps<number>): Steps<number> {
    const { sched } = this.#host;
    spend(sched.cpu, COST.SYSCALL);
    if (sched.shouldYield()) yield;
    const r = yield* body();
    if (r < 0) throw new SyscallError(`${name} failed: ${errnoText(r)} (${hex(-r)})`);
    return r;
  }
}
