// SPDX-License-Identifier: GPL-2.0-only
/**
 * The MSR bitmap of vmcs02: an MSR is L2's without an exit only if both L0 and L1 let it. nested_vmx_prepare_msr_bitmap()
 * of arch/x86/kvm/vmx/nested.c, 6.12. SDM, "MSR-Bitmap Address".
 */
import { ERRNO } from '../../../../lib/uapi/errno.ts';
import { gfn, PAGE_SIZE } from '../../../../lib/x86/addr.ts';
import { APIC_BASE_MSR, APIC_REG } from '../../../../lib/x86/apic.ts';
import { MSR } from '../../../../lib/x86/msr.ts';
import { CPU_BASED } from '../../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { kvmVcpuMap, kvmVcpuUnmap } from '../../host_map.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { toVmx } from '../vcpu_vmx.ts';
import {
  nestedCpuHas,
  nestedCpuHasApicRegVirt,
  nestedCpuHasVid,
  nestedCpuHasVirtX2apicMode,
} from './vmcs12_controls.ts';

/** Byte offsets of the bitmap's four parts. */
const PART = { READ_LOW: 0, READ_HIGH: 0x400, WRITE_LOW: 0x800, WRITE_HIGH: 0xc00 } as const;
const X2APIC_MSRS = 0x100;

/** Where an MSR's bit is: byte offset and mask. */
function place(msr: number, access: 'read' | 'write'): readonly [number, number] {
  const highPart = msr >= 0xc000_0000;
  const part =
    access === 'read'
      ? highPart
        ? PART.READ_HIGH
        : PART.READ_LOW
      : highPart
        ? PART.WRITE_HIGH
        : PART.WRITE_LOW;
  const index = msr & 0x1fff;
  return [part + (index >> 3), 1 << (index & 7)];
}

/** The three bitmaps as byte addresses in machine memory. */
interface Bitmaps {
  readonly u8: Uint8Array;
  readonly l1: number;
  readonly vmcs01: number;
  readonly vmcs02: number;
}

/** nested_vmx_set_intercept_for_msr(). */
function setIntercept(maps: Bitmaps, msr: number, access: 'read' | 'write'): void {
  const { u8 } = maps;
  const [byte, mask] = place(msr, access);
  const at = maps.vmcs02 + byte;
  if (((u8[maps.l1 + byte]! | u8[maps.vmcs01 + byte]!) & mask) !== 0) u8[at] = u8[at]! | mask;
  else u8[at] = u8[at]! & ~mask;
}

/** nested_vmx_disable_intercept_for_x2apic_msr(): L1 alone decides, since its virtual-APIC page is what L2 reaches. */
function disableX2apicIntercept(maps: Bitmaps, reg: number, access: 'read' | 'write'): void {
  const { u8 } = maps;
  const [byte, mask] = place(APIC_BASE_MSR + (reg >> 4), access);
  if ((u8[maps.l1 + byte]! & mask) === 0) u8[maps.vmcs02 + byte] = u8[maps.vmcs02 + byte]! & ~mask;
}

function mergeX2apic(vcpu: Vcpu, maps: Bitmaps): void {
  const { u8 } = maps;
  const vmcs12 = toVmx(vcpu).nested.cachedVmcs12;
  const first = APIC_BASE_MSR >> 3;
  const bytes = X2APIC_MSRS >> 3;
  for (const part of [PART.READ_LOW, PART.WRITE_LOW]) {
    const at = maps.vmcs02 + part + first;
    u8.fill(0xff, at, at + bytes);
  }
  if (!nestedCpuHasVirtX2apicMode(vmcs12)) return;
  if (nestedCpuHasApicRegVirt(vmcs12)) {
    const from = maps.l1 + first;
    u8.copyWithin(maps.vmcs02 + first, from, from + bytes);
  }
  disableX2apicIntercept(maps, APIC_REG.TASKPRI, 'read');
  disableX2apicIntercept(maps, APIC_REG.TASKPRI, 'write');
  if (!nestedCpuHasVid(vmcs12)) return;
  disableX2apicIntercept(maps, APIC_REG.EOI, 'write');
  disableX2apicIntercept(maps, APIC_REG.SELF_IPI, 'write');
}

/** False: vmcs02 goes without a bitmap, every MSR exits. 'busy': the page must be waited for. */
export function nestedVmxPrepareMsrBitmap(vcpu: Vcpu): boolean | 'busy' {
  const vmx = toVmx(vcpu);
  const { nested } = vmx;
  const vmcs12 = nested.cachedVmcs12;
  if (!nestedCpuHas(vmcs12, CPU_BASED.USE_MSR_BITMAPS)) return false;
  const map = nested.msrBitmapMap;
  const err = kvmVcpuMap(vcpu, gfn(Math.floor(vmcs12.num(VMCS_CTRL.MSR_BITMAP) / PAGE_SIZE)), map);
  if (err !== 0) return err === -ERRNO.EAGAIN ? 'busy' : false;
  const maps = {
    u8: vcpu.kvm.host.machine.mem.u8,
    l1: map.mapping!.hpa(0, PAGE_SIZE),
    vmcs01: vmx.vmcs01.msrBitmap,
    vmcs02: vmx.loadedVmcs.msrBitmap,
  };
  mergeX2apic(vcpu, maps);
  for (const msr of [MSR.FS_BASE, MSR.GS_BASE, MSR.KERNEL_GS_BASE]) {
    setIntercept(maps, msr, 'read');
    setIntercept(maps, msr, 'write');
  }
  kvmVcpuUnmap(vcpu, map, 'clean');
  nested.forceMsrBitmapRecalc = false;
  return true;
}
