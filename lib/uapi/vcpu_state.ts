// SPDX-License-Identifier: GPL-2.0-only
/** Events, MP state, local APIC state, guest debugging. Mirrors the uapi headers of KVM, 6.12. */

/** kvm_mp_state.mp_state. */
// prettier-ignore
export const KVM_MP_STATE = {
  RUNNABLE:       0,
  UNINITIALIZED:  1,
  INIT_RECEIVED:  2,
  HALTED:         3,
  SIPI_RECEIVED:  4,
  AP_RESET_HOLD:  9,
} as const;

/** struct kvm_mp_state. */
export interface KvmMpState {
  mp_state: number;
}

/** kvm_vcpu_events.flags. */
// prettier-ignore
export const KVM_VCPUEVENT_VALID = {
  NMI_PENDING:  0x01,
  SIPI_VECTOR:  0x02,
  SHADOW:       0x04,
  SMM:          0x08,
  PAYLOAD:      0x10,
  TRIPLE_FAULT: 0x20,
} as const;

/** kvm_vcpu_events.interrupt.shadow. */
export const KVM_X86_SHADOW_INT = { MOV_SS: 0x01, STI: 0x02 } as const;

/** struct kvm_vcpu_events; the __u8 flags are 0 or 1. */
export interface KvmVcpuEvents {
  exception: { injected: number; nr: number; has_error_code: number; pending: number; error_code: number };
  interrupt: { injected: number; nr: number; soft: number; shadow: number };
  nmi: { injected: number; pending: number; masked: number };
  sipi_vector: number;
  flags: number;
  smi: { smm: number; pending: number; smm_inside_nmi: number; latched_init: number };
  triple_fault: { pending: number };
  exception_has_payload: number;
  exception_payload: bigint;
}

/** struct kvm_vcpu_events of zeroes. */
export function kvmVcpuEvents(): KvmVcpuEvents {
  return {
    exception: { injected: 0, nr: 0, has_error_code: 0, pending: 0, error_code: 0 },
    interrupt: { injected: 0, nr: 0, soft: 0, shadow: 0 },
    nmi: { injected: 0, pending: 0, masked: 0 },
    sipi_vector: 0,
    flags: 0,
    smi: { smm: 0, pending: 0, smm_inside_nmi: 0, latched_init: 0 },
    triple_fault: { pending: 0 },
    exception_has_payload: 0,
    exception_payload: 0n,
  };
}

/** Argument of KVM_CAP_X2APIC_API. */
export const KVM_X2APIC_API = { USE_32BIT_IDS: 0x1, DISABLE_BROADCAST_QUIRK: 0x2 } as const;

/** Bytes of struct kvm_lapic_state. */
export const KVM_APIC_REG_SIZE = 0x400;

/** struct kvm_lapic_state: the register page's first KiB. */
export interface KvmLapicState {
  regs: Uint8Array;
}

/** kvm_guest_debug.control. */
// prettier-ignore
export const KVM_GUESTDBG = {
  ENABLE:     0x0000_0001,
  SINGLESTEP: 0x0000_0002,
  USE_SW_BP:  0x0001_0000,
  USE_HW_BP:  0x0002_0000,
  INJECT_DB:  0x0004_0000,
  INJECT_BP:  0x0008_0000,
  BLOCKIRQ:   0x0010_0000,
} as const;

/** struct kvm_guest_debug. */
export interface KvmGuestDebug {
  control: number;
  debugreg: [bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint];
}

/** struct kvm_interrupt. */
export interface KvmInterrupt {
  irq: number;
}

/** struct kvm_translation. */
export interface KvmTranslation {
  linear_address: bigint;
  physical_address: bigint;
  valid: number;
  writeable: number;
  usermode: number;
}
