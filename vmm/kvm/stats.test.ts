// SPDX-License-Identifier: GPL-2.0-only
/** The file of KVM_GET_STATS_FD, read as a program reads it. Layout: Documentation/virt/kvm/api, "KVM_GET_STATS_FD". */
import { describe, expect, it } from 'vitest';
import { KVM_VCPU_STATS, KVM_VM_STATS } from '../../lib/uapi/stats.ts';
import { kvmVcpuIoctlGetStatsFd, kvmVmIoctlGetStatsFd, type KvmStatsFile } from './stats.ts';
import { runGuest } from './testing/test_guest.ts';
import { testVm } from './testing/test_kvm.ts';

interface Stat {
  flags: number;
  exponent: number;
  bucketSize: number;
  values: bigint[];
}

const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));

/** Parse the bytes by the structures of the header file alone. */
function parse(file: KvmStatsFile): { id: string; stats: Map<string, Stat> } {
  const bytes = file.read();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const u32 = (at: number): number => view.getUint32(at, true);
  const [flags, nameSize, count] = [u32(0), u32(4), u32(8)];
  const [idOffset, descOffset, dataOffset] = [u32(12), u32(16), u32(20)];
  expect(flags).toBe(0);
  const stats = new Map<string, Stat>();
  let end = 0;
  for (let i = 0; i < count; i++) {
    const at = descOffset + i * (16 + nameSize);
    const size = view.getUint16(at + 6, true);
    const offset = u32(at + 8);
    expect(offset).toBe(end);
    end = offset + 8 * size;
    const values = Array.from({ length: size }, (_, n) =>
      view.getBigUint64(dataOffset + offset + 8 * n, true),
    );
    const name = text(bytes.subarray(at + 16, at + 16 + nameSize));
    stats.set(name, {
      flags: u32(at),
      exponent: view.getInt16(at + 4, true),
      bucketSize: u32(at + 12),
      values,
    });
  }
  expect(bytes.length).toBe(dataOffset + end);
  return { id: text(bytes.subarray(idOffset, idOffset + nameSize)), stats };
}

describe('binary statistics', () => {
  it('of a VM count what happened', () =>
    runGuest({ vcpuId: 3 }, function* ({ kvm, write }) {
      yield* write(0x1000, 1);
      const { id, stats } = parse(kvmVmIoctlGetStatsFd(kvm));
      expect(id).toBe('kvm-0');
      expect([...stats.keys()]).toEqual([...KVM_VM_STATS]);
      expect(stats.get('pages_4k')).toEqual({ flags: 0x1, exponent: 0, bucketSize: 0, values: [1n] });
      expect(stats.get('max_mmu_rmap_size')!.flags).toBe(0x2);
      expect(stats.get('remote_tlb_flush')!.flags).toBe(0x0);
    }));

  it('of a vCPU have units, exponents and histograms', () =>
    runGuest({ vcpuId: 3 }, function* ({ vcpu, write }) {
      yield* write(0x1000, 1);
      vcpu.stat.halt_wait_hist[2] = 9;
      vcpu.stat.halt_wait_ns = 5;
      const { id, stats } = parse(kvmVcpuIoctlGetStatsFd(vcpu));
      expect(id).toBe('kvm-0/vcpu-3');
      expect([...stats.keys()]).toEqual([...KVM_VCPU_STATS]);
      expect(stats.get('pf_fixed')!.values).toEqual([1n]);
      expect(stats.get('halt_wait_ns')).toEqual({ flags: 0x20, exponent: -9, bucketSize: 0, values: [5n] });
      expect(stats.get('halt_wait_hist')!.flags).toBe(0x24);
      expect(stats.get('halt_wait_hist')!.values.length).toBe(32);
      expect(stats.get('halt_wait_hist')!.values[2]).toBe(9n);
      expect(stats.get('blocking')!.flags).toBe(0x41);
    }));

  it('can be read in pieces, as live values', () => {
    const vm = testVm();
    const file = kvmVmIoctlGetStatsFd(vm.kvm);
    const offset = file.header.data_offset;
    expect(file.read(offset, 8)).toEqual(new Uint8Array(8));
    vm.kvm.stat.remote_tlb_flush = 258;
    expect(file.read(offset, 8)).toEqual(new Uint8Array([2, 1, 0, 0, 0, 0, 0, 0]));
    expect(file.read(file.size, 8).length).toBe(0);
    expect(file.values('remote_tlb_flush')).toEqual([258]);
    expect(file.values('nonsense')).toEqual([]);
  });
});
