// SPDX-License-Identifier: GPL-2.0-only
/** Groups of fields against single VMREADs and VMWRITEs. SDM, "VMREAD", "VMWRITE", appendix "Field Encoding in VMCS". */
import { describe, expect, it } from 'vitest';
import { vmcsFieldIs64, vmcsFieldWidth, VMCS_WIDTH } from '../../../lib/x86/vmx/field.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_HOST } from '../../../lib/x86/vmx/vmcs_host.ts';
import { VMCS_INFO } from '../../../lib/x86/vmx/vmcs_info.ts';
import { COST } from '../cost/points.ts';
import { PROFILES } from '../cost/profiles.ts';
import { vmxCapsOf } from './caps.ts';
import { AT, VmxBox } from './testing/fixture.ts';
import { vmread32, vmread64, vmwrite32, vmwrite64, vmwriteNum } from './vmcs_access.ts';
import { type FieldImage, VmcsFieldList } from './vmcs_field_list.ts';
import { VMCS_STATE, VMCS_WORD, vmcsEpochWord } from './vmcs_layout.ts';

const { fieldWord } = vmxCapsOf(PROFILES.skylake);
const FIELDS = [VMCS_CTRL, VMCS_INFO, VMCS_GUEST, VMCS_HOST]
  .flatMap((table) => Object.values(table))
  .filter((field) => fieldWord[field] !== -1);
const ALL = new VmcsFieldList(
  FIELDS,
  FIELDS.map((_, n) => 8 * n),
);

function image(fill: number): FieldImage {
  const i32 = new Int32Array(2 * FIELDS.length).map((_, n) => fill ^ (n * 0x0101_0101));
  return { i32, u16: new Uint16Array(i32.buffer) };
}

/** What a field of `width` holds after it was written with lo and hi. */
function kept(field: number, lo: number, hi: number): bigint {
  if (vmcsFieldWidth(field) === VMCS_WIDTH.U16) return BigInt(lo & 0xffff);
  return (vmcsFieldIs64(field) ? BigInt(hi >>> 0) << 32n : 0n) | BigInt(lo >>> 0);
}

describe('a list of VMCS fields', () => {
  const box = new VmxBox().begin();
  const { cpu } = box;

  it('writes what VMREAD of each field then gives', () => {
    const from = image(0x7654_3210);
    ALL.write(cpu, from);
    FIELDS.forEach((field, n) => {
      expect(vmread64(cpu, field), field.toString(16)).toBe(
        kept(field, from.i32[2 * n]!, from.i32[2 * n + 1]!),
      );
    });
  });

  it('reads what VMWRITE gave each field, and leaves the bytes behind a short field alone', () => {
    FIELDS.forEach((field, n) => {
      vmwrite64(cpu, field, 0x1122_3344_5566_7700n + BigInt(n));
    });
    const to = image(-1);
    const before = to.i32.slice();
    ALL.read(cpu, to);
    FIELDS.forEach((field, n) => {
      const lo = 0x5566_7700 + n;
      const old = before[2 * n]!;
      const is16 = vmcsFieldWidth(field) === VMCS_WIDTH.U16;
      expect(to.i32[2 * n]).toBe(is16 ? (old & ~0xffff) | (lo & 0xffff) : lo);
      expect(to.i32[2 * n + 1]).toBe(vmcsFieldIs64(field) ? 0x1122_3344 : before[2 * n + 1]);
    });
  });

  it('costs as many instructions as it has fields', () => {
    const reads = cpu.counts[COST.VMREAD]!;
    const writes = cpu.counts[COST.VMWRITE]!;
    ALL.read(cpu, image(0));
    ALL.write(cpu, image(0));
    expect(cpu.counts[COST.VMREAD]! - reads).toBe(FIELDS.length);
    expect(cpu.counts[COST.VMWRITE]! - writes).toBe(FIELDS.length);
  });
});

describe('a value that a field has already', () => {
  const stateOf = (box: VmxBox): number =>
    box.cpu.mem.i32[box.cpu.vmx.base + VMCS_WORD.STATE]! & VMCS_STATE.BITS;
  const list = new VmcsFieldList(
    [VMCS_GUEST.CS_LIMIT, VMCS_GUEST.CS_SELECTOR, VMCS_GUEST.CS_BASE],
    [0, 4, 8],
  );
  const same = (box: VmxBox): FieldImage => {
    const i32 = Int32Array.of(
      vmread32(box.cpu, VMCS_GUEST.CS_LIMIT),
      vmread32(box.cpu, VMCS_GUEST.CS_SELECTOR),
      0,
      0,
    );
    return { i32, u16: new Uint16Array(i32.buffer) };
  };

  it('leaves the checks that passed as they are', () => {
    const box = new VmxBox().begin();
    box.code([0x0f, 0xa2]); // cpuid
    box.launch();
    const state = stateOf(box);
    expect(state & VMCS_STATE.GUEST_OK).toBe(VMCS_STATE.GUEST_OK);
    list.write(box.cpu, same(box));
    vmwrite32(box.cpu, VMCS_GUEST.CS_LIMIT, vmread32(box.cpu, VMCS_GUEST.CS_LIMIT));
    vmwrite64(box.cpu, VMCS_GUEST.CS_BASE, 0n);
    expect(stateOf(box)).toBe(state);
    vmwrite64(box.cpu, VMCS_GUEST.CS_BASE, 1n << 40n);
    expect(stateOf(box) & VMCS_STATE.GUEST_OK).toBe(0);
  });

  it('but an address names the frame as it is now', () => {
    const box = new VmxBox().begin();
    const { cpu } = box;
    vmwriteNum(cpu, VMCS_CTRL.MSR_BITMAP, AT.MSR_BITMAP);
    const frame = AT.MSR_BITMAP >>> 12;
    const word = cpu.vmx.base + vmcsEpochWord(VMCS_CTRL.MSR_BITMAP);
    const old = cpu.mem.i32[word]!;
    cpu.frames.epoch[frame] = old + 1;
    vmwriteNum(cpu, VMCS_CTRL.MSR_BITMAP, AT.MSR_BITMAP);
    expect(cpu.mem.i32[word]).toBe(old + 1);
    cpu.frames.epoch[frame] = old + 2;
    const i32 = Int32Array.of(AT.MSR_BITMAP, 0);
    new VmcsFieldList([VMCS_CTRL.MSR_BITMAP], [0]).write(cpu, { i32, u16: new Uint16Array(i32.buffer) });
    expect(cpu.mem.i32[word]).toBe(old + 2);
  });
});
