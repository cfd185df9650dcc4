// SPDX-License-Identifier: GPL-2.0-only
/**
 * Binary statistics: what a read of the file of KVM_GET_STATS_FD returns. Mirrors virt/kvm/binary_stats.c and the
 * descriptor tables of arch/x86/kvm/x86.c, 6.12: header, id, descriptors, data.
 */
import {
  HALT_POLL_HIST_COUNT,
  KVM_STATS_BASE,
  KVM_STATS_DESC_SIZE,
  KVM_STATS_HEADER_SIZE,
  KVM_STATS_NAME_SIZE,
  KVM_STATS_TYPE,
  KVM_STATS_UNIT,
  KVM_VCPU_STATS,
  KVM_VM_STATS,
  type KvmStatsDesc,
  type KvmStatsHeader,
} from '../../lib/uapi/stats.ts';
import type { Kvm, Vcpu } from './kvm_host.ts';

type Values = Readonly<Record<string, number | Float64Array>>;

interface StatKind {
  readonly flags: number;
  readonly exponent?: number;
  readonly size?: number;
}

const COUNTER: StatKind = { flags: KVM_STATS_TYPE.CUMULATIVE };
const INSTANT: StatKind = { flags: KVM_STATS_TYPE.INSTANT };
const PEAK: StatKind = { flags: KVM_STATS_TYPE.PEAK };
const IBOOLEAN: StatKind = { flags: KVM_STATS_TYPE.INSTANT | KVM_STATS_UNIT.BOOLEAN };
const TIME_NSEC: StatKind = { flags: KVM_STATS_UNIT.SECONDS | KVM_STATS_BASE.POW10, exponent: -9 };
const LOGHIST_NSEC: StatKind = {
  flags: KVM_STATS_TYPE.LOG_HIST | KVM_STATS_UNIT.SECONDS | KVM_STATS_BASE.POW10,
  exponent: -9,
  size: HALT_POLL_HIST_COUNT,
};

/** Statistics that are not plain counters. */
// prettier-ignore
const KINDS: Readonly<Record<string, StatKind>> = {
  mmu_unsync: INSTANT, pages_4k: INSTANT, pages_2m: INSTANT, pages_1g: INSTANT, nx_lpage_splits: INSTANT,
  max_mmu_rmap_size: PEAK, max_mmu_page_hash_collisions: PEAK,
  halt_poll_success_ns: TIME_NSEC, halt_poll_fail_ns: TIME_NSEC, halt_wait_ns: TIME_NSEC,
  halt_poll_success_hist: LOGHIST_NSEC, halt_poll_fail_hist: LOGHIST_NSEC, halt_wait_hist: LOGHIST_NSEC,
  blocking: IBOOLEAN, guest_mode: IBOOLEAN,
};

/** Descriptors of `names`, in order, with their places in the data block. */
function describe(names: readonly string[]): KvmStatsDesc[] {
  let offset = 0;
  return names.map((name) => {
    const { flags, exponent = 0, size = 1 } = KINDS[name] ?? COUNTER;
    const desc = { flags, exponent, size, offset, bucket_size: 0, name };
    offset += 8 * size;
    return desc;
  });
}

/** A statistics file: its content at the moment of each read. */
export class KvmStatsFile {
  readonly id: string;
  readonly header: KvmStatsHeader;
  readonly descriptors: readonly KvmStatsDesc[];
  readonly #values: Values;

  constructor(id: string, names: readonly string[], values: Values) {
    const descOffset = KVM_STATS_HEADER_SIZE + KVM_STATS_NAME_SIZE;
    this.id = id;
    this.descriptors = describe(names);
    this.#values = values;
    this.header = {
      flags: 0,
      name_size: KVM_STATS_NAME_SIZE,
      num_desc: names.length,
      id_offset: KVM_STATS_HEADER_SIZE,
      desc_offset: descOffset,
      data_offset: descOffset + KVM_STATS_DESC_SIZE * names.length,
    };
  }

  /** Values of one statistic; empty if there is none of the name. */
  values(name: string): number[] {
    const value = this.#values[name];
    if (value === undefined) return [];
    return typeof value === 'number' ? [value] : [...value];
  }

  /** Bytes of the whole file. */
  get size(): number {
    return this.header.data_offset + this.descriptors.reduce((sum, desc) => sum + 8 * desc.size, 0);
  }

  /** pread(): up to `length` bytes from `offset`. */
  read(offset = 0, length = this.size): Uint8Array {
    return this.#image().subarray(offset, Math.min(offset + length, this.size));
  }

  #image(): Uint8Array {
    const bytes = new Uint8Array(this.size);
    const view = new DataView(bytes.buffer);
    Object.values(this.header).forEach((word, i) => view.setUint32(4 * i, word as number, true));
    putName(bytes, this.header.id_offset, this.id);
    this.descriptors.forEach((desc, i) => {
      const at = this.header.desc_offset + i * KVM_STATS_DESC_SIZE;
      view.setUint32(at, desc.flags, true);
      view.setInt16(at + 4, desc.exponent, true);
      view.setUint16(at + 6, desc.size, true);
      view.setUint32(at + 8, desc.offset, true);
      view.setUint32(at + 12, desc.bucket_size, true);
      putName(bytes, at + 16, desc.name);
      this.values(desc.name).forEach((value, n) => {
        view.setBigUint64(this.header.data_offset + desc.offset + 8 * n, BigInt(value), true);
      });
    });
    return bytes;
  }
}

function putName(bytes: Uint8Array, at: number, name: string): void {
  bytes.set(new TextEncoder().encode(name).subarray(0, KVM_STATS_NAME_SIZE - 1), at);
}

/** KVM_GET_STATS_FD of a VM. */
export const kvmVmIoctlGetStatsFd = (kvm: Kvm): KvmStatsFile =>
  new KvmStatsFile(kvm.name, KVM_VM_STATS, kvm.stat as unknown as Values);

/** KVM_GET_STATS_FD of a vCPU. */
export const kvmVcpuIoctlGetStatsFd = (vcpu: Vcpu): KvmStatsFile =>
  new KvmStatsFile(vcpu.name, KVM_VCPU_STATS, vcpu.stat as unknown as Values);
