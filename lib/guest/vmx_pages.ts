// SPDX-License-Identifier: GPL-2.0-only
/**
 * struct vmx_pages: where L1's VMX areas are, by guest virtual and guest physical address. After include/x86/vmx.h of
 * tools/testing/selftests/kvm. The host half fills it (vcpu_alloc_vmx); where there is no host half and memory is identity-mapped,
 * it is a global of the image (vmx_pages_global).
 */
import { type GuestGlobal, guestGlobal } from './dsl/global.ts';
import { struct } from './dsl/struct.ts';
import { array, ptr, u32, u64, u8 } from './dsl/types.ts';

/** Addresses of the VMX areas; a `_hva` means something to the host half only. */
export const VmxPages = struct('struct vmx_pages', {
  vmxon_hva: ptr(),
  vmxon_gpa: u64,
  vmxon: ptr(),
  vmcs_hva: ptr(),
  vmcs_gpa: u64,
  vmcs: ptr(),
  msr_hva: ptr(),
  msr_gpa: u64,
  msr: ptr(),
  shadow_vmcs_hva: ptr(),
  shadow_vmcs_gpa: u64,
  shadow_vmcs: ptr(),
  vmread_hva: ptr(),
  vmread_gpa: u64,
  vmread: ptr(),
  vmwrite_hva: ptr(),
  vmwrite_gpa: u64,
  vmwrite: ptr(),
  apic_access_hva: ptr(),
  apic_access_gpa: u64,
  apic_access: ptr(),
  /** The root of L1's EPT, or 0: then L2 runs without EPT. */
  eptp_gpa: u64,
});

/** An entry of a VM-entry MSR-load, VM-exit MSR-store or VM-exit MSR-load area. */
export const VmxMsrEntry = struct(
  'struct vmx_msr_entry',
  { index: u32, reserved: u32, value: u64 },
  { align: 16 },
);

/** A page as a type: a global of it lies on a page boundary. */
export const Page = struct('struct page', { bytes: array(u8, 4096) }, { align: 4096 });

/** The areas of struct vmx_pages. */
export const VMX_AREAS = [
  ...(['vmxon', 'vmcs', 'msr', 'shadow_vmcs', 'vmread', 'vmwrite', 'apic_access'] as const),
] as const;

/** A struct vmx_pages in the image with its pages, for images whose guest virtual addresses are guest physical ones. */
export function vmx_pages_global(symbol: string): GuestGlobal<typeof VmxPages> {
  const init = Object.fromEntries(
    VMX_AREAS.flatMap((area) => {
      const page = guestGlobal(`${symbol}_${area}`, Page).data;
      return [
        [`${area}_gpa`, page],
        [area, page],
      ];
    }),
  );
  return guestGlobal(symbol, VmxPages, init);
}
