// SPDX-License-Identifier: GPL-2.0-only
/** Binary statistics from the bytes of a stats file descriptor. Documentation/virt/kvm/api.rst, "KVM_GET_STATS_FD". */
import type { StatsFd } from './backend.ts';
import { TEST_ASSERT, TEST_FAIL } from './test_util.ts';

export interface KvmStatsHeader {
  readonly flags: number;
  readonly nameSize: number;
  readonly numDesc: number;
  readonly idOffset: number;
  readonly descOffset: number;
  readonly dataOffset: number;
}

export interface KvmStatsDesc {
  readonly name: string;
  readonly flags: number;
  readonly exponent: number;
  /** Number of u64 values. */
  readonly size: number;
  /** Byte offset of the values in the data block. */
  readonly offset: number;
  readonly bucketSize: number;
}

export const STATS_HEADER_BYTES = 24;
/** A descriptor without its name. */
export const STATS_DESC_BYTES = 16;

const dataView = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** A NUL-terminated string in a field of fixed size. */
export function fixedString(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return String.fromCharCode(...bytes.subarray(0, end < 0 ? bytes.length : end));
}

export function readStatsHeader(fd: StatsFd): KvmStatsHeader {
  const v = dataView(fd.read(0, STATS_HEADER_BYTES));
  const u32 = (i: number): number => v.getUint32(i * 4, true);
  return {
    flags: u32(0),
    nameSize: u32(1),
    numDesc: u32(2),
    idOffset: u32(3),
    descOffset: u32(4),
    dataOffset: u32(5),
  };
}

export function readStatsDescriptors(fd: StatsFd, header: KvmStatsHeader): KvmStatsDesc[] {
  const stride = STATS_DESC_BYTES + header.nameSize;
  const bytes = fd.read(header.descOffset, stride * header.numDesc);
  const v = dataView(bytes);
  return Array.from({ length: header.numDesc }, (_, i) => {
    const at = i * stride;
    return {
      flags: v.getUint32(at, true),
      exponent: v.getInt16(at + 4, true),
      size: v.getUint16(at + 6, true),
      offset: v.getUint32(at + 8, true),
      bucketSize: v.getUint32(at + 12, true),
      name: fixedString(bytes.subarray(at + STATS_DESC_BYTES, at + stride)),
    };
  });
}

/** The values of one statistic. */
export function readStatData(fd: StatsFd, header: KvmStatsHeader, desc: KvmStatsDesc): bigint[] {
  const bytes = fd.read(header.dataOffset + desc.offset, desc.size * 8);
  TEST_ASSERT(bytes.length === desc.size * 8, `short read of statistic '${desc.name}'`);
  const v = dataView(bytes);
  return Array.from({ length: desc.size }, (_, i) => v.getBigUint64(i * 8, true));
}

/** kvm_get_stat(): the single value of the named statistic; fails the test if there is none of that name. */
export function getStat(fd: StatsFd, name: string): bigint {
  const header = readStatsHeader(fd);
  const desc = readStatsDescriptors(fd, header).find((d) => d.name === name);
  if (desc === undefined) return TEST_FAIL(`Unable to find stat '${name}'`);
  return readStatData(fd, header, desc)[0]!;
}
