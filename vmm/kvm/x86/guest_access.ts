// SPDX-License-Identifier: GPL-2.0-only
/**
 * Copies between L0 and guest memory by guest-physical address: kvm_vcpu_read_guest() and kvm_vcpu_write_guest() of
 * virt/kvm/kvm_main.c, 6.12. Plain code: a page that would have to be waited for (mmap_lock, a migration) counts as inaccessible, and
 * marks the vCPU; who emulates an instruction begins it anew.
 */
import { PAGE_SIZE, gfn, gpa, hva, offsetInPage, type Gpa } from '../../../lib/x86/addr.ts';
import { ERRNO } from '../../../lib/uapi/errno.ts';
import { copyFromUser, copyToUser } from '../../host/mm/user_access.ts';
import { gfnToHvaSlot, kvmVcpuGfnToMemslot } from '../guest_memory.ts';
import { kvmIsErrorHva, type Vcpu } from '../kvm_host.ts';
import { markPageDirtyInSlot } from '../dirty_bitmap.ts';
import { kvmMmuTrackWrite } from '../mmu/shadow_work.ts';

/** Split [addr, addr + length) at page borders. */
function forEachPage(
  addr: Gpa,
  length: number,
  use: (page: number, offset: number, done: number, piece: number) => number,
): number {
  for (let done = 0; done < length;) {
    const at = addr + done;
    const offset = offsetInPage(at);
    const piece = Math.min(length - done, PAGE_SIZE - offset);
    const err = use(Math.floor(at / PAGE_SIZE), offset, done, piece);
    if (err < 0) return err;
    done += piece;
  }
  return 0;
}

/** What a copy's outcome means to the caller: 0 or -EFAULT. */
function failure(vcpu: Vcpu, result: number): number {
  if (result === -ERRNO.EAGAIN) vcpu.guestPageBusy = true;
  return result < 0 ? -ERRNO.EFAULT : 0;
}

/** 0 or -EFAULT. */
export function kvmVcpuReadGuest(vcpu: Vcpu, addr: Gpa, out: Uint8Array): number {
  return forEachPage(addr, out.length, (page, offset, done, piece) => {
    const address = gfnToHvaSlot(kvmVcpuGfnToMemslot(vcpu, gfn(page)), gfn(page), 'read');
    if (kvmIsErrorHva(address)) return -ERRNO.EFAULT;
    return failure(vcpu, copyFromUser(vcpu.kvm.mm, out.subarray(done, done + piece), hva(address + offset)));
  });
}

/** 0 or -EFAULT; a read-only slot refuses. Written pages are dirty. */
export function kvmVcpuWriteGuest(vcpu: Vcpu, addr: Gpa, bytes: Uint8Array): number {
  return forEachPage(addr, bytes.length, (page, offset, done, piece) => {
    const slot = kvmVcpuGfnToMemslot(vcpu, gfn(page));
    const address = gfnToHvaSlot(slot, gfn(page), 'write');
    if (slot === null || kvmIsErrorHva(address)) return -ERRNO.EFAULT;
    const copied = copyToUser(vcpu.kvm.mm, hva(address + offset), bytes.subarray(done, done + piece));
    if (copied < 0) return failure(vcpu, copied);
    markPageDirtyInSlot(slot, gfn(page));
    kvmMmuTrackWrite(vcpu.kvm, gpa(page * PAGE_SIZE + offset), piece);
    return 0;
  });
}
