// SPDX-License-Identifier: GPL-2.0-only
/**
 * Loads and stores at linear addresses for whoever is not the interpreter's fast path: misaligned and page-crossing
 * accesses, event delivery, system instructions. Physical addresses outside of RAM go to the MMIO bus.
 */
import type { Cpu } from '../cpu/cpu.ts';
import { RAM_BASE } from '../layout.ts';
import { ACCESS } from './access.ts';
import { translate } from './translate.ts';
import { apicAccess, isApicAccessPage } from '../vmx/apic_access.ts';

const PAGE_MASK = 0xfff;

/** Load 1, 2, 4 or 8 bytes. False: cpu.fault is set. `flags`: ACCESS.STACK, ACCESS.SYSTEM. */
export function loadLinear(
  cpu: Cpu,
  lo: number,
  hi: number,
  size: number,
  out: Int32Array,
  flags = 0,
): boolean {
  const hpa = translateAccess(cpu, lo, hi, size, ACCESS.READ | flags);
  if (hpa < 0) return false;
  const first = 0x1000 - (lo & PAGE_MASK);
  if (first >= size) {
    loadPhysical(cpu, hpa, size, out);
    return true;
  }
  const second = translateNextPage(cpu, lo, hi, ACCESS.READ | flags);
  if (second < 0) return false;
  loadCrossing(cpu, hpa, second, first, size, out);
  return true;
}

/** Store 1, 2, 4 or 8 bytes; nothing is written if any byte faults. */
export function storeLinear(
  cpu: Cpu,
  lo: number,
  hi: number,
  size: number,
  vLo: number,
  vHi: number,
  flags = 0,
): boolean {
  const hpa = translateAccess(cpu, lo, hi, size, ACCESS.WRITE | flags);
  if (hpa < 0) return false;
  const first = 0x1000 - (lo & PAGE_MASK);
  if (first >= size) {
    storePhysical(cpu, hpa, size, vLo, vHi);
    return true;
  }
  const second = translateNextPage(cpu, lo, hi, ACCESS.WRITE | flags);
  if (second < 0) return false;
  for (let n = 0; n < size; n++) {
    const byte = n < 4 ? vLo >>> (n * 8) : vHi >>> ((n - 4) * 8);
    storePhysical(cpu, n < first ? hpa + n : second + n - first, 1, byte & 0xff, 0);
  }
  return true;
}

/** loadLinear() as an implicit supervisor access. */
export function loadLinearSystem(cpu: Cpu, lo: number, hi: number, size: number, out: Int32Array): boolean {
  return loadLinear(cpu, lo, hi, size, out, ACCESS.SYSTEM);
}

/** storeLinear() as an implicit supervisor access. */
export function storeLinearSystem(
  cpu: Cpu,
  lo: number,
  hi: number,
  size: number,
  vLo: number,
  vHi: number,
): boolean {
  return storeLinear(cpu, lo, hi, size, vLo, vHi, ACCESS.SYSTEM);
}

/** translate() for `size` bytes, of which only those in the first page count; follows an access to the APIC-access page. */
export function translateAccess(cpu: Cpu, lo: number, hi: number, size: number, access: number): number {
  const hpa = translate(cpu, lo, hi, access);
  return hpa >= 0 && isApicAccessPage(cpu, hpa) ? apicAccess(cpu, hpa, size, access) : hpa;
}

/** Translate the first byte of the page after the one that holds lo/hi. */
function translateNextPage(cpu: Cpu, lo: number, hi: number, access: number): number {
  const next = ((lo & ~PAGE_MASK) + 0x1000) | 0;
  return translateAccess(cpu, next, next === 0 ? (hi + 1) | 0 : hi, 8, access); // crossing: too wide for an APIC
}

/** Load from a host physical address; must not cross a page. */
export function loadPhysical(cpu: Cpu, hpa: number, size: number, out: Int32Array): void {
  const { mem } = cpu;
  out[1] = 0;
  if (hpa >= mem.size || hpa < RAM_BASE) cpu.sys.mmioRead(hpa, size, out);
  else if (size === 4) out[0] = mem.view.getInt32(hpa, true);
  else if (size === 8) {
    out[0] = mem.view.getInt32(hpa, true);
    out[1] = mem.view.getInt32(hpa + 4, true);
  } else if (size === 2) out[0] = mem.view.getUint16(hpa, true);
  else out[0] = mem.u8[hpa]!;
}

/** Store to a host physical address; must not cross a page. Decoded code of the frame is forgotten. */
export function storePhysical(cpu: Cpu, hpa: number, size: number, vLo: number, vHi: number): void {
  const { mem } = cpu;
  if (hpa >= mem.size || hpa < RAM_BASE) {
    cpu.sys.mmioWrite(hpa, size, vLo, vHi);
    return;
  }
  if (size === 4) mem.view.setInt32(hpa, vLo, true);
  else if (size === 8) {
    mem.view.setInt32(hpa, vLo, true);
    mem.view.setInt32(hpa + 4, vHi, true);
  } else if (size === 2) mem.view.setInt16(hpa, vLo, true);
  else mem.u8[hpa] = vLo;
  if (cpu.code.hasCode(hpa >>> 12)) cpu.code.noteStore(hpa, size);
}

function loadCrossing(
  cpu: Cpu,
  first: number,
  second: number,
  inFirst: number,
  size: number,
  out: Int32Array,
): void {
  let lo = 0;
  let hi = 0;
  for (let n = 0; n < size; n++) {
    loadPhysical(cpu, n < inFirst ? first + n : second + n - inFirst, 1, out);
    if (n < 4) lo |= out[0]! << (n * 8);
    else hi |= out[0]! << ((n - 4) * 8);
  }
  out[0] = lo;
  out[1] = hi;
}
