// SPDX-License-Identifier: GPL-2.0-only
/**
 * KVM_GET_NESTED_STATE and KVM_SET_NESTED_STATE: struct kvm_nested_state. Mirrors arch/x86/include/uapi/asm/kvm.h, 6.12.
 * The format decides which members of the two unions mean something. Left out: data of SVM.
 */

/** kvm_nested_state.format. */
export const KVM_STATE_NESTED_FORMAT = { VMX: 0, SVM: 1 } as const;

/** kvm_nested_state.flags. */
// prettier-ignore
export const KVM_STATE_NESTED = {
  GUEST_MODE:  0x001,
  RUN_PENDING: 0x002,
  EVMCS:       0x004,
  MTF_PENDING: 0x008,
  GIF_SET:     0x100,
} as const;

/** kvm_vmx_nested_state_hdr.smm.flags. */
export const KVM_STATE_NESTED_SMM = { GUEST_MODE: 0x1, VMXON: 0x2 } as const;

/** kvm_vmx_nested_state_hdr.flags. */
export const KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE = 0x1;

/** sizeof(struct kvm_nested_state): everything but the data. */
export const KVM_NESTED_STATE_SIZE = 128;
/** Bytes of the VMCS that L1 made current, and of its shadow VMCS. */
export const KVM_STATE_NESTED_VMX_VMCS_SIZE = 0x1000;
/** What KVM_CAP_NESTED_STATE gives on Intel: the header, vmcs12 and its shadow. */
export const KVM_NESTED_STATE_MAX_SIZE = KVM_NESTED_STATE_SIZE + 2 * KVM_STATE_NESTED_VMX_VMCS_SIZE;

/** No VMXON region or no current VMCS: -1ull. */
export const KVM_NESTED_NO_PA = 2n ** 64n - 1n;

/** struct kvm_vmx_nested_state_hdr. */
export interface KvmVmxNestedStateHdr {
  vmxon_pa: bigint;
  vmcs12_pa: bigint;
  smm: { flags: number };
  flags: number;
  preemption_timer_deadline: bigint;
}

/** struct kvm_svm_nested_state_hdr. */
export interface KvmSvmNestedStateHdr {
  vmcb_pa: bigint;
}

/** struct kvm_nested_state. `size` says how much of the data is there, whatever the arrays' lengths are. */
export interface KvmNestedState {
  flags: number;
  format: number;
  size: number;
  hdr: { vmx: KvmVmxNestedStateHdr; svm: KvmSvmNestedStateHdr };
  /** struct kvm_vmx_nested_state_data. */
  data: { vmx: { vmcs12: Uint8Array; shadow_vmcs12: Uint8Array } };
}

/** A struct kvm_nested_state of zeroes that says it has `size` bytes. */
export function kvmNestedState(size: number = KVM_NESTED_STATE_SIZE): KvmNestedState {
  return {
    flags: 0,
    format: KVM_STATE_NESTED_FORMAT.VMX,
    size,
    hdr: {
      vmx: { vmxon_pa: 0n, vmcs12_pa: 0n, smm: { flags: 0 }, flags: 0, preemption_timer_deadline: 0n },
      svm: { vmcb_pa: 0n },
    },
    data: {
      vmx: {
        vmcs12: new Uint8Array(KVM_STATE_NESTED_VMX_VMCS_SIZE),
        shadow_vmcs12: new Uint8Array(KVM_STATE_NESTED_VMX_VMCS_SIZE),
      },
    },
  };
}
