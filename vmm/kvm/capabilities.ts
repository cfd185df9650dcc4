// SPDX-License-Identifier: GPL-2.0-only
/**
 * KVM_CHECK_EXTENSION and the VM capabilities of KVM_ENABLE_CAP that common code has. Mirrors
 * kvm_vm_ioctl_check_extension_generic(), kvm_vm_ioctl_check_extension() and kvm_vm_ioctl_enable_cap(), 6.12.
 */
import { KVM_CAP } from '../../lib/uapi/capabilities.ts';
import { ERRNO, KvmError } from '../../lib/uapi/errno.ts';
import {
  KVM_DIRTY_LOG,
  KVM_USER_MEM_SLOTS,
  KVM_X86_VALID_QUIRKS,
  type KvmEnableCap,
} from '../../lib/uapi/memory.ts';
import type { Kvm } from './kvm_host.ts';
import { KVM_MAX_VCPU_IDS, KVM_MAX_VCPUS } from './limits.ts';
import type { KvmModule } from './module.ts';

/** What common code answers with a constant. */
// prettier-ignore
const EXTENSIONS: Readonly<Record<number, number>> = {
  [KVM_CAP.USER_MEMORY]: 1,
  [KVM_CAP.USER_MEMORY2]: 1,
  [KVM_CAP.DESTROY_MEMORY_REGION_WORKS]: 1,
  [KVM_CAP.JOIN_MEMORY_REGIONS_WORKS]: 1,
  [KVM_CAP.INTERNAL_ERROR_DATA]: 1,
  [KVM_CAP.CHECK_EXTENSION_VM]: 1,
  [KVM_CAP.ENABLE_CAP_VM]: 1,
  [KVM_CAP.IMMEDIATE_EXIT]: 1,
  [KVM_CAP.SYNC_MMU]: 1,
  [KVM_CAP.READONLY_MEM]: 1,
  [KVM_CAP.BINARY_STATS_FD]: 1,
  [KVM_CAP.SYSTEM_EVENT_DATA]: 1,
  [KVM_CAP.MULTI_ADDRESS_SPACE]: 2,
  [KVM_CAP.NR_MEMSLOTS]: KVM_USER_MEM_SLOTS,
  [KVM_CAP.MAX_VCPUS]: KVM_MAX_VCPUS,
  [KVM_CAP.MAX_VCPU_ID]: KVM_MAX_VCPU_IDS,
  [KVM_CAP.MANUAL_DIRTY_LOG_PROTECT2]: KVM_DIRTY_LOG.MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG.INITIALLY_SET,
  [KVM_CAP.DISABLE_QUIRKS2]: KVM_X86_VALID_QUIRKS,
  [KVM_CAP.DISABLE_QUIRKS]: 1,
};

/** KVM_CHECK_EXTENSION, on /dev/kvm (`kvm` null) or on a VM. What nobody knows is 0. */
export function kvmVmIoctlCheckExtension(module: KvmModule, kvm: Kvm | null, cap: number): number {
  if (cap === KVM_CAP.NR_VCPUS) return Math.min(module.host.sched.cpus.length, KVM_MAX_VCPUS);
  if (cap === KVM_CAP.NESTED_STATE) return module.ops.nestedOps?.maxStateSize ?? 0;
  if (cap === KVM_CAP.TSC_CONTROL || cap === KVM_CAP.VM_TSC_CONTROL) return module.caps.hasTscControl ? 1 : 0;
  return EXTENSIONS[cap] ?? module.arch.vmIoctlCheckExtension(kvm, cap);
}

/**
 * KVM_ENABLE_CAP of a VM, as far as common code has it: true if it was one of these. Throws KvmError for bad arguments;
 * everything else is the architecture's.
 */
export function kvmVmIoctlEnableCapGeneric(kvm: Kvm, cap: KvmEnableCap): boolean {
  const arg = Number(cap.args[0] ?? 0);
  switch (cap.cap) {
    case KVM_CAP.MANUAL_DIRTY_LOG_PROTECT2: {
      // INITIALLY_SET means nothing without manual protection.
      const allowed = arg & KVM_DIRTY_LOG.MANUAL_PROTECT_ENABLE ? 0x3 : 0;
      if (cap.flags !== 0 || arg & ~allowed) throw refuse(cap, arg);
      kvm.manualDirtyLogProtect = arg;
      return true;
    }
    case KVM_CAP.DISABLE_QUIRKS2:
    case KVM_CAP.DISABLE_QUIRKS:
      if (cap.flags !== 0) throw refuse(cap, arg);
      if (cap.cap === KVM_CAP.DISABLE_QUIRKS2 && arg & ~KVM_X86_VALID_QUIRKS) throw refuse(cap, arg);
      kvm.arch.disabledQuirks = arg;
      return true;
    default:
      return false;
  }
}

const refuse = (cap: KvmEnableCap, arg: number): KvmError =>
  new KvmError('KVM_ENABLE_CAP', ERRNO.EINVAL, `capability ${cap.cap}, argument ${arg}, flags ${cap.flags}`);
