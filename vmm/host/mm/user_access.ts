// SPDX-License-Identifier: GPL-2.0-only
/**
 * Accesses to the memory of a process: by the process itself (UserMemory; a bad access is a SIGSEGV, thrown as UserFault)
 * and by the kernel on its behalf (userHpa(), copyFromUser(), copyToUser(), after lib/usercopy.c; a bad one is -EFAULT).
 * Plain code where nothing has to be waited for.
 */
import { offsetInPage, PAGE_SIZE } from '../../../lib/x86/addr.ts';
import { hex } from '../../../lib/x86/bits.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { BugError } from '../../machine/errors.ts';
import { ERRNO } from '../errno.ts';
import type { Steps } from '../steps.ts';
import { FAULT_RETRY, FOLL, handleMmFault, pteAllows } from './fault.ts';
import { migrationEntryWait, touch } from './gup.ts';
import type { MmStruct } from './mm_struct.ts';
import { PTE, ptePfn } from './page_table.ts';

/** The process accessed memory that it may not access: SIGSEGV. */
export class UserFault extends Error {
  override readonly name = 'UserFault';
  readonly address: number;

  constructor(mm: MmStruct, address: number, foll: number) {
    super(`SIGSEGV in ${mm.name}: ${foll & FOLL.WRITE ? 'write to' : 'read of'} ${hex(address)}`);
    this.address = address;
  }
}

/**
 * The host physical address behind `hva`, faulted in if need be: -EFAULT, -ENOMEM, or -EAGAIN if mmap_lock or a migration
 * would have to be waited for. No reference is taken: use it before anybody else can act.
 */
export function userHpa(mm: MmStruct, hva: number, foll: number): number {
  const table = mm.pageTable.table(hva);
  let pte = table === undefined ? 0 : table.get(hva);
  if (!pteAllows(pte, foll)) {
    if (!mm.mmapLock.readable && mm.mmapLock.writer !== mm.services.sched.context) return -ERRNO.EAGAIN;
    pte = handleMmFault(mm, hva, foll);
    if (pte === FAULT_RETRY) return -ERRNO.EAGAIN;
    if (pte < 0) return pte;
  } else if (foll & FOLL.WRITE && (pte & PTE.DIRTY) === 0) touch(table!, hva, PTE.DIRTY);
  return ptePfn(pte) * PAGE_SIZE + offsetInPage(hva);
}

/** userHpa() that waits where that one says -EAGAIN. */
export function* userHpaWait(mm: MmStruct, hva: number, foll: number): Steps<number> {
  for (;;) {
    const hpa = userHpa(mm, hva, foll);
    if (hpa !== -ERRNO.EAGAIN) return hpa;
    yield* mm.mmapLock.readLock();
    mm.mmapLock.readUnlock();
    yield* migrationEntryWait(mm, hva);
  }
}

/** copy_from_user(): 0, -EFAULT, or -EAGAIN (see userHpa). Bytes before a bad page have been copied. */
export function copyFromUser(mm: MmStruct, to: Uint8Array, hva: number): number {
  return forEachPiece(mm, hva, to.length, FOLL.READ, (at, done, length) => {
    to.set(mm.services.machine.mem.u8.subarray(at, at + length), done);
  });
}

/** copy_to_user(): 0, -EFAULT, or -EAGAIN (see userHpa). Bytes before a bad page have been written. */
export function copyToUser(mm: MmStruct, hva: number, from: Uint8Array): number {
  const { machine } = mm.services;
  return forEachPiece(mm, hva, from.length, FOLL.WRITE, (at, done, length) => {
    machine.mem.u8.set(from.subarray(done, done + length), at);
    machine.noteStore(at, length);
  });
}

function forEachPiece(
  mm: MmStruct,
  hva: number,
  length: number,
  foll: number,
  use: (hpa: number, done: number, length: number) => void,
): number {
  for (let done = 0; done < length;) {
    const piece = Math.min(length - done, PAGE_SIZE - offsetInPage(hva + done));
    const hpa = userHpa(mm, hva + done, foll);
    if (hpa < 0) return hpa;
    use(hpa, done, piece);
    done += piece;
  }
  return 0;
}

/** The process's own loads and stores. */
export class UserMemory {
  readonly mm: MmStruct;

  constructor(mm: MmStruct) {
    this.mm = mm;
  }

  read8(hva: number): number {
    return this.#memory.u8[this.#at(hva, 1, FOLL.READ)]!;
  }

  read32(hva: number): number {
    return this.#memory.view.getUint32(this.#at(hva, 4, FOLL.READ), true);
  }

  read64(hva: number): bigint {
    return this.#memory.view.getBigUint64(this.#at(hva, 8, FOLL.READ), true);
  }

  readBytes(hva: number, length: number): Uint8Array {
    const out = new Uint8Array(length);
    spend(this.mm.services.sched.cpu, COST.USER_ACCESS, Math.ceil(length / 64));
    this.#check(copyFromUser(this.mm, out, hva), hva, FOLL.READ);
    return out;
  }

  write8(hva: number, value: number): void {
    const at = this.#at(hva, 1, FOLL.WRITE);
    this.#memory.u8[at] = value;
    this.mm.services.machine.noteStore(at, 1);
  }

  write32(hva: number, value: number): void {
    const at = this.#at(hva, 4, FOLL.WRITE);
    this.#memory.view.setUint32(at, value, true);
    this.mm.services.machine.noteStore(at, 4);
  }

  write64(hva: number, value: bigint): void {
    const at = this.#at(hva, 8, FOLL.WRITE);
    this.#memory.view.setBigUint64(at, value, true);
    this.mm.services.machine.noteStore(at, 8);
  }

  writeBytes(hva: number, bytes: Uint8Array): void {
    spend(this.mm.services.sched.cpu, COST.USER_ACCESS, Math.ceil(bytes.length / 64));
    this.#check(copyToUser(this.mm, hva, bytes), hva, FOLL.WRITE);
  }

  /** memset(). */
  fill(hva: number, length: number, value: number): void {
    const { machine, sched } = this.mm.services;
    spend(sched.cpu, COST.USER_ACCESS, Math.ceil(length / 64));
    const result = forEachPiece(this.mm, hva, length, FOLL.WRITE, (at, _done, piece) => {
      machine.mem.u8.fill(value, at, at + piece);
      machine.noteStore(at, piece);
    });
    this.#check(result, hva, FOLL.WRITE);
  }

  get #memory(): MmStruct['services']['machine']['mem'] {
    return this.mm.services.machine.mem;
  }

  /** Where `size` bytes lie that must not cross a page. */
  #at(hva: number, size: number, foll: number): number {
    spend(this.mm.services.sched.cpu, COST.USER_ACCESS);
    if (offsetInPage(hva) > PAGE_SIZE - size) {
      throw new BugError(`${this.mm.name}: access of ${size} bytes at ${hex(hva)} crosses a page`);
    }
    const hpa = userHpa(this.mm, hva, foll);
    if (hpa < 0) this.#check(hpa, hva, foll);
    return hpa;
  }

  #check(result: number, hva: number, foll: number): void {
    if (result === 0) return;
    if (result === -ERRNO.EFAULT) throw new UserFault(this.mm, hva, foll);
    const why = result === -ERRNO.EAGAIN ? 'has to wait; use userHpaWait() first' : 'finds no memory';
    throw new BugError(`${this.mm.name}: access to ${hex(hva)} ${why}`);
  }
}
