// SPDX-License-Identifier: GPL-2.0-only
/** The host halves of memslot_perf_test's six sub-tests, in upstream's order. */
import { gpa, hva } from '../../lib/x86/addr.ts';
import { hex } from '../../lib/x86/bits.ts';
import { MADV, type Steps } from '../../lib/kvm_util/backend.ts';
import { vmMemRegionMove } from '../../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT } from '../../lib/kvm_util/test_util.ts';
import {
  MEM_EXTRA_SIZE,
  MEM_SIZE,
  MEM_TEST_GPA,
  MEM_TEST_MAP_SIZE,
  MEM_TEST_MOVE_GPA_DEST,
  MEM_TEST_MOVE_SIZE,
  MEM_TEST_SIZE,
  MEM_TEST_UNMAP_CHUNK_SIZE,
  MEM_TEST_UNMAP_SIZE,
  MEM_TEST_VAL_1,
  MEM_TEST_VAL_2,
  PAGE,
  type GuestCodeName,
} from './guest.ts';
import { movableArea, type VmData } from './vm_data.ts';

export interface Subtest {
  readonly name: string;
  readonly npages: number;
  /** Its slot setup time is comparable with others': it uses the whole area. */
  readonly wholeArea: boolean;
  readonly code: GuestCodeName;
  /** Moves slots, so `-q` concerns it. */
  readonly moves: boolean;
  /** False: the slots are too small for it. */
  readonly prepare?: (data: VmData) => boolean;
  readonly loop: (data: VmData, verify: boolean) => Steps<void>;
}

/** Drop `count` pages from page `first` of the test area, slot by slot. */
function* doUnmap(data: VmData, first: number, count: number): Steps<void> {
  let done = 0;
  while (done < count) {
    const address = MEM_TEST_GPA + (first + done) * PAGE;
    const place = data.place(address);
    TEST_ASSERT(place.remainingPages > 0, `Empty memory slot at gptr ${hex(address)}`);
    const npages = Math.min(place.remainingPages, count - done);
    yield* data.backend.memory.madvise(place.hva, npages * PAGE, MADV.DONTNEED);
    done += npages;
  }
  TEST_ASSERT(done === count, 'madvise(MADV_DONTNEED) should exactly cover all of the requested area');
}

/** With -d: the guest wrote what it should to page `page`; zero it. */
function mapUnmapCheck(data: VmData, page: number, expected: bigint): void {
  const address = MEM_TEST_GPA + page * PAGE;
  const at = data.place(address).hva;
  const value = data.backend.memory.readU64(at);
  TEST_ASSERT(
    value === expected,
    `Guest written values should read back correctly before unmap (${value} vs ${expected} @ ${hex(address)})`,
  );
  data.backend.memory.writeU64(at, 0n);
}

function* mapLoop(data: VmData, verify: boolean): Steps<void> {
  const half = MEM_TEST_MAP_SIZE / PAGE / 2;
  const check = (first: number, value: bigint): void => {
    if (!verify) return;
    mapUnmapCheck(data, first, value);
    mapUnmapCheck(data, first + half - 1, value);
  };
  // The second half goes while the guest writes the first; then the other way round.
  yield* doUnmap(data, half, half);
  yield* data.performSync();
  check(0, MEM_TEST_VAL_1);
  yield* doUnmap(data, 0, half);
  yield* data.performSync();
  check(half, MEM_TEST_VAL_2);
}

function* unmapLoop(data: VmData, verify: boolean, chunk: number): Steps<void> {
  const half = MEM_TEST_UNMAP_SIZE / PAGE / 2;
  for (const [first, value] of [
    [0, MEM_TEST_VAL_1],
    [half, MEM_TEST_VAL_2],
  ] as const) {
    yield* data.performSync();
    if (verify) mapUnmapCheck(data, first, value);
    for (let page = first; page < first + half; page += chunk) yield* doUnmap(data, page, chunk);
  }
}

/** The area that the guest writes: half in the moving slot if it is active, else just below it. */
function prepareMove(data: VmData, active: boolean): boolean {
  const source = data.slotGpa(data.nslots - 1);
  if (active && !movableArea(data)) return false;
  data.setMoveArea(source - (active ? MEM_TEST_MOVE_SIZE / 2 : MEM_TEST_MOVE_SIZE));
  if (active) {
    data.mmioOk = true;
    data.mmioGpaMin = source;
    data.mmioGpaMax = source + MEM_TEST_MOVE_SIZE / 2 - 1;
  }
  return true;
}

function* moveLoop(data: VmData): Steps<void> {
  const source = data.slotGpa(data.nslots - 1);
  yield* vmMemRegionMove(data.vm, data.lastSlot, gpa(MEM_TEST_MOVE_GPA_DEST));
  yield* vmMemRegionMove(data.vm, data.lastSlot, gpa(source));
}

function* rwLoop(data: VmData): Steps<void> {
  const { memory } = data.backend;
  for (let offset = PAGE / 2; offset < MEM_TEST_SIZE; offset += PAGE) {
    memory.writeU64(data.place(MEM_TEST_GPA + offset).hva, MEM_TEST_VAL_2);
  }
  yield* data.performSync();
  for (let offset = 0; offset < MEM_TEST_SIZE; offset += PAGE) {
    const at = hva(data.place(MEM_TEST_GPA + offset).hva);
    const value = memory.readU64(at);
    TEST_ASSERT(
      value === MEM_TEST_VAL_1,
      () => `Guest written values should read back correctly (is ${value} @ ${hex(MEM_TEST_GPA + offset)})`,
    );
    memory.writeU64(at, 0n);
  }
  yield* data.performSync();
}

const pages = (bytes: number): number => bytes / PAGE;
const unmapChunk = pages(MEM_TEST_UNMAP_CHUNK_SIZE);
const whole = { npages: pages(MEM_SIZE), wholeArea: true } as const;
const unmapArea = { npages: pages(MEM_TEST_UNMAP_SIZE + MEM_EXTRA_SIZE), wholeArea: false } as const;
const mapArea = { npages: pages(MEM_TEST_MAP_SIZE + MEM_EXTRA_SIZE), wholeArea: false } as const;

// prettier-ignore
export const SUBTESTS: readonly Subtest[] = [
  { name: 'map', ...mapArea, code: 'map', moves: false, loop: mapLoop },
  { name: 'unmap', ...unmapArea, code: 'unmap', moves: false, loop: (d, v) => unmapLoop(d, v, 1) },
  { name: 'unmap chunked', ...unmapArea, code: 'unmap', moves: false, loop: (d, v) => unmapLoop(d, v, unmapChunk) },
  { name: 'move active area', ...whole, code: 'move', moves: true, prepare: (d) => prepareMove(d, true), loop: moveLoop },
  { name: 'move inactive area', ...whole, code: 'move', moves: true, prepare: (d) => prepareMove(d, false), loop: moveLoop },
  { name: 'RW', ...whole, code: 'rw', moves: false, loop: rwLoop },
];
