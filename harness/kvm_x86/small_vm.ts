// SPDX-License-Identifier: GPL-2.0-only
/** A small emulated host with one VM on it, for tests of what guest and userspace see of L0's x86 half. */
import type { Steps } from '../../lib/kvm_util/backend.ts';
import { KvmError } from '../../lib/uapi/errno.ts';
import { KVM_EXIT } from '../../lib/uapi/run.ts';
import { codeName } from '../../lib/x86/bits.ts';
import { kvmVmFree, type KvmVcpu, type KvmVm } from '../../lib/kvm_util/kvm_util.ts';
import { getUcall, reportGuestAssert, vcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { vmCreateWithVcpus } from '../../lib/kvm_util/vm_create.ts';
import { vmInstallExceptionHandler } from '../../lib/kvm_util/x86/exceptions.ts';
import { guestFn, linkGuest, type FnLinkable, type GuestCode } from '../../lib/guest/index.ts';
import { UCALL } from '../../lib/guest/ucall.ts';
import { createEmulatedHost, type EmulatedHost, type EmulatedHostOptions } from '../../vmm/emulated.ts';

/** What a test's host half is given. */
export interface SmallVm {
  readonly host: EmulatedHost;
  readonly vm: KvmVm;
  readonly vcpu: KvmVcpu;
}

export interface SmallVmOptions extends EmulatedHostOptions {
  readonly vcpus?: number;
  readonly irqchip?: 'kernel' | 'none';
  /** Handlers by vector; linked and installed. */
  readonly handlers?: Readonly<Record<number, FnLinkable>>;
}

/** Options of a VM whose interrupts are userspace's business. */
export const NO_IRQCHIP = { irqchip: 'none' } as const;

/** 24 MiB and two pCPUs unless the options say otherwise. */
export const smallHost = (options: EmulatedHostOptions = {}): EmulatedHost =>
  createEmulatedHost({ ramBytes: 0x0180_0000, nrCpus: 2, ...options });

/** Run `body` as the process's main thread, with a VM that starts in `code`. */
export function withVm(
  code: FnLinkable,
  body: (small: SmallVm) => Steps<void>,
  options: SmallVmOptions = {},
): EmulatedHost {
  const host = smallHost(options);
  const handlers = Object.entries(options.handlers ?? {});
  const image = linkGuest(code, ...handlers.map(([, fn]) => fn));
  host.runMain(function* () {
    const vm = yield* vmCreateWithVcpus(host, options.vcpus ?? 1, {
      image,
      irqchip: options.irqchip ?? 'kernel',
    });
    for (const [vector, fn] of handlers) vmInstallExceptionHandler(vm, Number(vector), fn.symbol);
    yield* body({ host, vm, vcpu: vm.vcpus[0]! });
    yield* kvmVmFree(vm);
  });
  return host;
}

/** A guest function without arguments. */
export const guest = (build: (g: GuestCode) => void): FnLinkable => guestFn('guest_code', [], build);

/** KVM_RUN up to the next ucall: its arguments; GUEST_DONE gives an empty list, a failed guest assertion throws. */
export function* nextSync(vcpu: KvmVcpu): Steps<readonly bigint[]> {
  yield* vcpuRun(vcpu);
  const uc = getUcall(vcpu);
  if (uc.cmd === UCALL.ABORT) reportGuestAssert(vcpu, uc);
  if (uc.cmd === UCALL.DONE) return [];
  if (uc.cmd !== UCALL.SYNC) throw new Error(`exit ${exitName(vcpu)} where a ucall was expected`);
  return uc.args.slice(1, 6);
}

/** The name of the last exit to userspace. */
export const exitName = (vcpu: KvmVcpu): string => codeName(KVM_EXIT, vcpu.fd.run.exit_reason);

/** The errno of a refused ioctl, 0 if it was not refused. */
export function errnoOf(call: () => unknown): number {
  try {
    call();
    return 0;
  } catch (error) {
    if (error instanceof KvmError) return error.errno;
    throw error;
  }
}
