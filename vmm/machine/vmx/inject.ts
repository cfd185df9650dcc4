// SPDX-License-Identifier: GPL-2.0-only
/** Event injection, the last step of VM entry. SDM, "Event Injection". */
import { INTR_INFO, INTR_TYPE } from '../../../lib/x86/vmx/intr_info.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { deliverEvent } from '../cpu/system/exceptions.ts';
import { VMX_PENDING, VMX_RESULT } from './vmx_unit.ts';
import * as W from './words.ts';

const EVENT_BITS = INTR_INFO.VECTOR_MASK | INTR_INFO.TYPE_MASK | INTR_INFO.DELIVER_CODE_MASK;

/** Deliver the event of the VM-entry interruption information. EXITED: a VM exit took place on the way. */
export function injectEvent(cpu: Cpu, info: number): number {
  const {
    mem: { i32 },
    vmx,
  } = cpu;
  const type = info & INTR_INFO.TYPE_MASK;
  if (type === INTR_TYPE.OTHER_EVENT) {
    vmx.pending |= VMX_PENDING.MTF;
    return VMX_RESULT.SUCCEED;
  }
  const errorCode = (info & INTR_INFO.DELIVER_CODE_MASK) !== 0 ? i32[vmx.base + W.ENTRY_ERROR_CODE]! : 0;
  const length = type >= INTR_TYPE.SOFT_INTR ? i32[vmx.base + W.ENTRY_INSN_LEN]! : 0;
  return deliverEvent(cpu, info & EVENT_BITS, errorCode, length) === -1
    ? VMX_RESULT.SUCCEED
    : VMX_RESULT.EXITED;
}
