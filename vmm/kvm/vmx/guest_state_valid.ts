// SPDX-License-Identifier: GPL-2.0-only
/**
 * Whether a processor without unrestricted guest could enter the guest with its segments, else L0 must emulate:
 * vmx_emulation_required() and __vmx_guest_state_valid() of arch/x86/kvm/vmx/vmx.c, 6.12.
 * DEVIATION: real mode, which KVM runs as virtual-8086 mode without unrestricted guest, counts as invalid state.
 */
import { type KvmSegment, kvmSegment } from '../../../lib/uapi/regs.ts';
import { CR0, RFLAGS } from '../../../lib/x86/registers.ts';
import { SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { VMX_AR } from '../../../lib/x86/vmx/guest_state.ts';
import { SEGN } from '../../machine/cpu/state.ts';
import type { Vcpu } from '../kvm_host.ts';
import { kvmReadCr0 } from '../x86/cache_regs.ts';
import { toVmx } from './vcpu_vmx.ts';
import { vmxGetRflags, vmxGetSegment } from './vmx_regs.ts';

const RPL_MASK = 0x3;
const TI_MASK = 0x4;

const { TYPE_CODE_MASK, TYPE_ACCESSES_MASK, TYPE_WRITEABLE_MASK } = VMX_AR;

function segmentOf(vcpu: Vcpu, seg: number): KvmSegment {
  const out = kvmSegment();
  vmxGetSegment(vcpu, seg, out);
  return out;
}

const rpl = (seg: KvmSegment): number => seg.selector & RPL_MASK;

/** code_segment_valid(). */
function codeSegmentValid(cs: KvmSegment): boolean {
  const wanted = TYPE_CODE_MASK | TYPE_ACCESSES_MASK;
  if (cs.unusable !== 0 || (~cs.type & wanted) !== 0 || cs.s === 0 || cs.present === 0) return false;
  return (cs.type & TYPE_WRITEABLE_MASK) !== 0 ? cs.dpl <= rpl(cs) : cs.dpl === rpl(cs);
}

/** stack_segment_valid(): writable and accessed, expand-down or not. */
function stackSegmentValid(ss: KvmSegment): boolean {
  if (ss.unusable !== 0) return true;
  return (ss.type === 3 || ss.type === 7) && ss.s !== 0 && ss.dpl === rpl(ss) && ss.present !== 0;
}

/** data_segment_valid(). */
function dataSegmentValid(seg: KvmSegment): boolean {
  if (seg.unusable !== 0) return true;
  if (seg.s === 0 || seg.present === 0) return false;
  return (~seg.type & (TYPE_CODE_MASK | TYPE_WRITEABLE_MASK)) === 0 || seg.dpl >= rpl(seg);
}

/** tr_valid(): a busy TSS in the GDT. */
function trValid(tr: KvmSegment): boolean {
  if (tr.unusable !== 0 || (tr.selector & TI_MASK) !== 0 || tr.present === 0) return false;
  return tr.type === VMX_AR.TYPE_BUSY_16_TSS || tr.type === VMX_AR.TYPE_BUSY_64_TSS;
}

/** ldtr_valid(). */
function ldtrValid(ldtr: KvmSegment): boolean {
  if (ldtr.unusable !== 0) return true;
  return (ldtr.selector & TI_MASK) === 0 && ldtr.type === VMX_AR.TYPE_LDT && ldtr.present !== 0;
}

/** The protected-mode half of __vmx_guest_state_valid(): segments by SEGN. RIP and RFLAGS are not looked at. */
export function segmentsValid(segment: (seg: number) => KvmSegment): boolean {
  const cs = segment(SEGN.CS);
  const ss = segment(SEGN.SS);
  if (rpl(cs) !== rpl(ss) || !codeSegmentValid(cs) || !stackSegmentValid(ss)) return false;
  const data = [SEGN.DS, SEGN.ES, SEGN.FS, SEGN.GS];
  if (!data.every((seg) => dataSegmentValid(segment(seg)))) return false;
  return trValid(segment(SEGN.TR)) && ldtrValid(segment(SEGN.LDTR));
}

/** __vmx_guest_state_valid(). */
function vmxGuestStateValid(vcpu: Vcpu): boolean {
  if ((kvmReadCr0(vcpu) & CR0.PE) === 0 || (vmxGetRflags(vcpu) & RFLAGS.VM) !== 0) return false;
  return segmentsValid((seg) => segmentOf(vcpu, seg));
}

/** is_unrestricted_guest(): L2 has it if L1 gave it. */
const isUnrestrictedGuest = (vcpu: Vcpu): boolean =>
  (toVmx(vcpu).loadedVmcs.controls.secondary & SECONDARY_EXEC.UNRESTRICTED_GUEST) !== 0;

/** vmx_emulation_required(), and vmx->emulation_required with it. */
export function vmxEmulationRequired(vcpu: Vcpu): boolean {
  const vmx = toVmx(vcpu);
  const required = !isUnrestrictedGuest(vcpu) && !vmxGuestStateValid(vcpu);
  vmx.emulationRequired = required;
  vmx.guestStateTouched = required;
  return required;
}
