// SPDX-License-Identifier: GPL-2.0-only
/** Numbers against include/uapi/linux/kvm.h and asm-generic/errno-base.h (values written down by hand from there). */
import { describe, expect, it } from 'vitest';
import { KVM_CAP } from './capabilities.ts';
import { errnoName, KvmError } from './errno.ts';
import { KVM_IOCTL } from './ioctls.ts';
import { kvmDirtyBitmapBytes, KVM_MEM_MAX_NR_PAGES, KVM_USER_MEM_SLOTS } from './memory.ts';
import { kvmRun } from './run.ts';
import { KVM_STATS_DESC_SIZE, KVM_STATS_HEADER_SIZE, KVM_VCPU_STATS, KVM_VM_STATS } from './stats.ts';

describe('KvmError', () => {
  it('names the ioctl, the errno and the detail', () => {
    const error = new KvmError('KVM_SET_USER_MEMORY_REGION', -17, 'slot 3 overlaps slot 1');
    expect(error.message).toBe('KVM_SET_USER_MEMORY_REGION: EEXIST: slot 3 overlaps slot 1');
    expect(error.errno).toBe(17);
    expect(error.ioctl).toBe('KVM_SET_USER_MEMORY_REGION');
  });

  it('leaves the detail out if there is none', () => {
    expect(new KvmError('KVM_RUN', 4).message).toBe('KVM_RUN: EINTR');
  });

  it('shows an unknown errno as a number', () => {
    expect(errnoName(-133)).toBe('errno 133');
  });
});

describe('tables of the ABI', () => {
  it('has the capability numbers of the kernel', () => {
    expect(KVM_CAP.NR_MEMSLOTS).toBe(10);
    expect(KVM_CAP.READONLY_MEM).toBe(81);
    expect(KVM_CAP.NESTED_STATE).toBe(157);
    expect(KVM_CAP.MANUAL_DIRTY_LOG_PROTECT2).toBe(168);
    expect(KVM_CAP.BINARY_STATS_FD).toBe(203);
    expect(KVM_CAP.DISABLE_QUIRKS2).toBe(213);
    expect(KVM_CAP.USER_MEMORY2).toBe(231);
  });

  it('has no capability number twice', () => {
    const numbers = Object.values(KVM_CAP);
    expect(new Set(numbers).size).toBe(numbers.length);
    expect(numbers.length).toBeLessThanOrEqual(120);
  });

  it('has the command numbers of the kernel', () => {
    expect(KVM_IOCTL.KVM_CREATE_VM).toBe(0x01);
    expect(KVM_IOCTL.KVM_SET_USER_MEMORY_REGION).toBe(0x46);
    expect(KVM_IOCTL.KVM_SET_USER_MEMORY_REGION2).toBe(0x49);
    expect(KVM_IOCTL.KVM_RUN).toBe(0x80);
    expect(KVM_IOCTL.KVM_CLEAR_DIRTY_LOG).toBe(0xc0);
    expect(KVM_IOCTL.KVM_GET_STATS_FD).toBe(0xce);
  });

  it('offers userspace 32764 slots of less than 2^31 pages', () => {
    expect(KVM_USER_MEM_SLOTS).toBe(32_764);
    expect(KVM_MEM_MAX_NR_PAGES).toBe(2 ** 31 - 1);
  });

  it('counts dirty bitmaps in whole 64-bit words', () => {
    expect([1, 64, 65, 512].map(kvmDirtyBitmapBytes)).toEqual([8, 8, 16, 64]);
  });

  it('sizes the stats headers as the structures of the kernel', () => {
    expect(KVM_STATS_HEADER_SIZE).toBe(24);
    expect(KVM_STATS_DESC_SIZE).toBe(64);
    expect(KVM_VM_STATS[0]).toBe('remote_tlb_flush');
    expect(KVM_VCPU_STATS.at(-1)).toBe('notify_window_exits');
  });

  it('makes kvm_run objects that share nothing', () => {
    const [one, two] = [kvmRun(), kvmRun()];
    one.mmio.data[0] = 1;
    one.s.regs.regs.rax = 5n;
    expect(two.mmio.data[0]).toBe(0);
    expect(two.s.regs.regs.rax).toBe(0n);
  });
});
