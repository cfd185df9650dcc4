// SPDX-License-Identifier: GPL-2.0-only
/**
 * What must hold of any statistics file. After stats_test() of kvm_binary_stats_test.c; rules in
 * Documentation/virt/kvm/api.rst, "KVM_GET_STATS_FD".
 */
import {
  KVM_STATS_BASE,
  KVM_STATS_BASE_MASK,
  KVM_STATS_TYPE,
  KVM_STATS_TYPE_MASK,
  KVM_STATS_UNIT,
  KVM_STATS_UNIT_MASK,
} from '../../lib/uapi/stats.ts';
import type { StatsFd } from '../../lib/kvm_util/backend.ts';
import {
  readStatData,
  readStatsDescriptors,
  readStatsHeader,
  STATS_DESC_BYTES,
  STATS_HEADER_BYTES,
  type KvmStatsDesc,
  type KvmStatsHeader,
} from '../../lib/kvm_util/stats.ts';
import { TEST_ASSERT, TEST_ASSERT_EQ } from '../../lib/kvm_util/test_util.ts';

const sizeDesc = (header: KvmStatsHeader): number => STATS_DESC_BYTES + header.nameSize;

/** The id is a string that begins with "kvm" and ends within its field. */
function checkId(fd: StatsFd, header: KvmStatsHeader): void {
  // Upstream reads it where the header ends: that is where it has to be.
  const id = fd.read(STATS_HEADER_BYTES, header.nameSize);
  TEST_ASSERT_EQ(id.length, header.nameSize, 'Read id string');
  const text = String.fromCharCode(...id);
  TEST_ASSERT(
    text.startsWith('kvm') && id.indexOf(0) >= 0,
    `Invalid KVM stats type, id: ${text.split('\0')[0]!}`,
  );
  TEST_ASSERT_EQ(header.idOffset, STATS_HEADER_BYTES, 'id_offset');
}

/** Blocks that begin behind the header and do not overlap. */
function checkOffsets(header: KvmStatsHeader): void {
  const { descOffset, dataOffset, numDesc } = header;
  TEST_ASSERT(
    descOffset >= STATS_HEADER_BYTES && dataOffset >= STATS_HEADER_BYTES,
    `Invalid offset fields in header: desc_offset ${descOffset}, data_offset ${dataOffset}`,
  );
  TEST_ASSERT(
    descOffset > dataOffset || descOffset + sizeDesc(header) * numDesc <= dataOffset,
    'Descriptor block is overlapped with data block',
  );
}

/** Exponents: counters, bytes and cycles are not divided, seconds are not multiplied. */
function checkExponent(desc: KvmStatsDesc): void {
  const bad = `Unsupported KVM stats (${desc.name}) exponent: ${desc.exponent}`;
  switch (desc.flags & KVM_STATS_UNIT_MASK) {
    case KVM_STATS_UNIT.NONE:
    case KVM_STATS_UNIT.BYTES:
    case KVM_STATS_UNIT.CYCLES:
      TEST_ASSERT(desc.exponent >= 0, bad);
      return;
    case KVM_STATS_UNIT.SECONDS:
      TEST_ASSERT(desc.exponent <= 0, bad);
      return;
    default:
      TEST_ASSERT_EQ(desc.exponent, 0, `exponent of the boolean ${desc.name}`);
  }
}

function checkDescriptor(header: KvmStatsHeader, desc: KvmStatsDesc): void {
  const { name } = desc;
  const type = desc.flags & KVM_STATS_TYPE_MASK;
  TEST_ASSERT(type <= KVM_STATS_TYPE.LOG_HIST, `Unknown KVM stats (${name}) type: ${type}`);
  const unit = desc.flags & KVM_STATS_UNIT_MASK;
  TEST_ASSERT(unit <= KVM_STATS_UNIT.BOOLEAN, `Unknown KVM stats (${name}) unit: ${unit}`);
  const base = desc.flags & KVM_STATS_BASE_MASK;
  TEST_ASSERT(base <= KVM_STATS_BASE.POW2, `Unknown KVM stats (${name}) base: ${base}`);
  checkExponent(desc);
  TEST_ASSERT(name.length > 0 && name.length < header.nameSize, `KVM stats name (index ${name}) too long`);
  TEST_ASSERT(desc.size > 0, `KVM descriptor(${name}) with size of 0`);
  if (type === KVM_STATS_TYPE.LINEAR_HIST)
    TEST_ASSERT(desc.bucketSize > 0, `Bucket size of Linear Histogram stats (${name}) is zero`);
  else TEST_ASSERT_EQ(desc.bucketSize, 0, `Bucket size of stats (${name}) is not zero`);
}

/** Bytes of the data block: up to the end of the value that lies last. */
const sizeData = (descs: readonly KvmStatsDesc[]): number =>
  Math.max(...descs.map((desc) => desc.offset + desc.size * 8));

/** Added: every byte of the data block belongs to one statistic. */
function checkDisjoint(descs: readonly KvmStatsDesc[]): void {
  let end = 0;
  for (const desc of descs.toSorted((a, b) => a.offset - b.offset)) {
    TEST_ASSERT_EQ(desc.offset, end, `offset of ${desc.name} behind the value before it`);
    end += desc.size * 8;
  }
}

function checkData(fd: StatsFd, header: KvmStatsHeader, descs: readonly KvmStatsDesc[]): void {
  const size = sizeData(descs);
  const { dataOffset, descOffset, numDesc } = header;
  TEST_ASSERT(
    dataOffset >= descOffset || dataOffset + size <= descOffset,
    'Data block is overlapped with Descriptor block',
  );
  TEST_ASSERT(size >= numDesc * 8, 'Data size is not correct');
  for (const desc of descs) {
    TEST_ASSERT(desc.offset < size, `Invalid offset (${desc.offset}) for stats: ${desc.name}`);
  }
  const bulk = fd.read(dataOffset, size);
  TEST_ASSERT_EQ(bulk.length, size, 'Read KVM stats data');
  const view = new DataView(bulk.buffer, bulk.byteOffset, bulk.byteLength);
  for (const desc of descs) {
    const values = readStatData(fd, header, desc);
    values.forEach((value, i) => {
      TEST_ASSERT_EQ(value, view.getBigUint64(desc.offset + 8 * i, true), `${desc.name}[${i}] read alone`);
    });
  }
  // Added: reads that go beyond the end are short, those that begin there are empty.
  TEST_ASSERT_EQ(fd.read(dataOffset + size - 8, 64).length, 8, 'bytes read across the end');
  TEST_ASSERT_EQ(fd.read(dataOffset + size, 64).length, 0, 'bytes read from the end on');
}

/** stats_test(). */
export function statsTest(fd: StatsFd): void {
  const header = readStatsHeader(fd);
  checkId(fd, header);
  TEST_ASSERT(header.numDesc > 0, 'No KVM stats defined!');
  TEST_ASSERT_EQ(header.flags, 0, 'flags of the header');
  checkOffsets(header);
  const descs = readStatsDescriptors(fd, header);
  for (const desc of descs) checkDescriptor(header, desc);
  checkDisjoint(descs);
  checkData(fd, header, descs);
}

/** Added: the file holds these statistics, each once, in this order. */
export function namesTest(fd: StatsFd, names: readonly string[]): void {
  const found = readStatsDescriptors(fd, readStatsHeader(fd)).map((desc) => desc.name);
  TEST_ASSERT_EQ(new Set(found).size, found.length, 'different names of statistics');
  TEST_ASSERT_EQ(found.join(' '), names.join(' '), 'names of the statistics');
}
