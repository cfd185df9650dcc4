// SPDX-License-Identifier: GPL-2.0-only
/**
 * INVEPT and INVVPID as L1 executes them: handle_invept() and handle_invvpid() of arch/x86/kvm/vmx/nested.c, 6.12. The tag
 * that an L2 runs with is chosen in vmx_tlb.ts.
 */
import { VECTOR } from '../../../../lib/x86/exceptions.ts';
import {
  VMX_EPT_CAP,
  VMX_EPT_EXTENT,
  VMX_VPID_CAP_HI,
  VMX_VPID_EXTENT,
} from '../../../../lib/x86/vmx/capability_msrs.ts';
import { SECONDARY_EXEC } from '../../../../lib/x86/vmx/controls.ts';
import { VMXERR } from '../../../../lib/x86/vmx/insn_errors.ts';
import type { Vcpu } from '../../kvm_host.ts';
import {
  INVALID_PAGE,
  KVM_MMU_ROOT_CURRENT,
  KVM_MMU_ROOTS_ALL,
  type KvmMmuRootInfo,
} from '../../kvm_host_x86.ts';
import { kvmMmuFreeRoots } from '../../mmu/free_roots.ts';
import { high, kvmRegisterRead, low } from '../../x86/cache_regs.ts';
import { kvmQueueException } from '../../x86/events.ts';
import { toVmx } from '../vcpu_vmx.ts';
import { nestedGetVpid02, vpidSyncContext, vpidSyncVcpuAddr } from '../vmx_tlb.ts';
import { nestedVmxCheckEptp } from './check_execution.ts';
import { readVmxQuadwords, vmxInstrInfoReg2, vmxInstructionInfo } from './vmx_operand.ts';
import { nestedVmxCheckPermission, nestedVmxFail, nestedVmxSucceed } from './vmx_results.ts';

/** Bits 11:8 of the VPID capabilities are the types of INVVPID, bits 26:25 of the EPT capabilities those of INVEPT. */
const VPID_EXTENT_SHIFT = 8;
const EPT_EXTENT_SHIFT = 24;
const EPTP_PA_MASK = 0x000f_ffff_ffff_f000n;

function undefinedInsn(vcpu: Vcpu): number {
  kvmQueueException(vcpu, VECTOR.UD);
  return 1;
}

const badOperand = (vcpu: Vcpu): number => nestedVmxFail(vcpu, VMXERR.INVALID_OPERAND_TO_INVEPT_INVVPID);

/** The type in the register operand, -1 if it is none that `types` has a bit for. */
function extentOf(vcpu: Vcpu, info: number, types: number): number {
  const type = kvmRegisterRead(vcpu, vmxInstrInfoReg2(info));
  return type < 32n && ((types >>> Number(type)) & 1) !== 0 ? Number(type) : -1;
}

/** nested_ept_root_matches(): the same table, whatever the walk length and the accessed and dirty flags. */
const rootMatches = (root: KvmMmuRootInfo, eptp: bigint): boolean =>
  root.hpa !== INVALID_PAGE && (BigInt(root.pgd) & EPTP_PA_MASK) === (eptp & EPTP_PA_MASK);

/** handle_invept(). Roots of EPT12 are always in guest_mmu. */
export function handleInvept(vcpu: Vcpu): number {
  const { msrs } = toVmx(vcpu).nested;
  const offered =
    (msrs.secondary.high & SECONDARY_EXEC.ENABLE_EPT) !== 0 && (msrs.eptCaps & VMX_EPT_CAP.INVEPT_BIT) !== 0;
  if (!offered) return undefinedInsn(vcpu);
  if (!nestedVmxCheckPermission(vcpu)) return 1;
  const info = vmxInstructionInfo(vcpu);
  const type = extentOf(vcpu, info, (msrs.eptCaps >>> EPT_EXTENT_SHIFT) & 6);
  if (type < 0) return badOperand(vcpu);
  // The operand is read, and may fault, also where it is not needed.
  const operand = readVmxQuadwords(vcpu, info, 2);
  if (operand === undefined) return 1;
  const eptp = operand[0]!;
  if (type === VMX_EPT_EXTENT.CONTEXT && !nestedVmxCheckEptp(vcpu, low(eptp), high(eptp)))
    return badOperand(vcpu);
  const roots = type === VMX_EPT_EXTENT.GLOBAL ? KVM_MMU_ROOTS_ALL : matchingRoots(vcpu, eptp);
  if (roots !== 0) kvmMmuFreeRoots(vcpu.kvm, vcpu.arch.guestMmu, roots);
  return nestedVmxSucceed(vcpu);
}

function matchingRoots(vcpu: Vcpu, eptp: bigint): number {
  const { guestMmu } = vcpu.arch;
  let roots = rootMatches(guestMmu.root, eptp) ? KVM_MMU_ROOT_CURRENT : 0;
  for (const [i, root] of guestMmu.prevRoots.entries()) if (rootMatches(root, eptp)) roots |= 2 << i;
  return roots;
}

const isCanonical = (address: bigint): boolean => BigInt.asUintN(64, BigInt.asIntN(48, address)) === address;

/** handle_invvpid(). Always the tag of L2, whichever VPID the operand names: vpid12 is not part of any tag. */
export function handleInvvpid(vcpu: Vcpu): number {
  const { msrs } = toVmx(vcpu).nested;
  const offered =
    (msrs.secondary.high & SECONDARY_EXEC.ENABLE_VPID) !== 0 &&
    (msrs.vpidCaps & VMX_VPID_CAP_HI.INVVPID_BIT) !== 0;
  if (!offered) return undefinedInsn(vcpu);
  if (!nestedVmxCheckPermission(vcpu)) return 1;
  const info = vmxInstructionInfo(vcpu);
  const type = extentOf(vcpu, info, (msrs.vpidCaps >>> VPID_EXTENT_SHIFT) & 0xf);
  if (type < 0) return badOperand(vcpu);
  const operand = readVmxQuadwords(vcpu, info, 2);
  if (operand === undefined) return 1;
  const [vpid, gla] = operand as [bigint, bigint];
  if (vpid >> 16n !== 0n) return badOperand(vcpu);
  if (type !== VMX_VPID_EXTENT.ALL_CONTEXT && vpid === 0n) return badOperand(vcpu);
  const address = type === VMX_VPID_EXTENT.INDIVIDUAL_ADDR;
  if (address && !isCanonical(gla)) return badOperand(vcpu);
  nestedInvvpid(vcpu, address ? gla : undefined);
  return nestedVmxSucceed(vcpu);
}

/** On another pCPU than vmcs02's last one, that tag may be stale there too: the next entry flushes all of it. */
function nestedInvvpid(vcpu: Vcpu, address: bigint | undefined): void {
  const { nested } = toVmx(vcpu);
  if (nested.vmcs02!.cpu !== vcpu.kvm.host.sched.cpu.id) nested.lastVpid = 0;
  else if (address !== undefined) vpidSyncVcpuAddr(vcpu, nestedGetVpid02(vcpu), low(address), high(address));
  else vpidSyncContext(vcpu, nestedGetVpid02(vcpu));
}
