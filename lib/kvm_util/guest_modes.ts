// SPDX-License-Identifier: GPL-2.0-only
/**
 * Guest modes: sizes of addresses and pages. enum vm_guest_mode of kvm_util.h and guest_modes.c in
 * tools/testing/selftests/kvm. x86 has one of them; the others belong to other architectures and are refused by name.
 */
import type { Backend } from './backend.ts';
import { UsageError } from './test_util.ts';

/** vm_guest_mode_string(), by the mode's number. */
// prettier-ignore
const VM_GUEST_MODES = [
  'PA-bits:52,  VA-bits:48,  4K pages', 'PA-bits:52,  VA-bits:48, 16K pages', 'PA-bits:52,  VA-bits:48, 64K pages',
  'PA-bits:48,  VA-bits:48,  4K pages', 'PA-bits:48,  VA-bits:48, 16K pages', 'PA-bits:48,  VA-bits:48, 64K pages',
  'PA-bits:40,  VA-bits:48,  4K pages', 'PA-bits:40,  VA-bits:48, 16K pages', 'PA-bits:40,  VA-bits:48, 64K pages',
  'PA-bits:ANY, VA-bits:48,  4K pages',
  'PA-bits:47,  VA-bits:64,  4K pages', 'PA-bits:44,  VA-bits:64,  4K pages',
  'PA-bits:36,  VA-bits:48,  4K pages', 'PA-bits:36,  VA-bits:48, 16K pages', 'PA-bits:36,  VA-bits:48, 64K pages',
  'PA-bits:47,  VA-bits:47, 16K pages', 'PA-bits:36,  VA-bits:47, 16K pages',
] as const;

/** VM_MODE_PXXV48_4K: the default, and on x86 the only one. */
export const VM_MODE_DEFAULT = 9;

export const vmGuestModeString = (mode: number): string => VM_GUEST_MODES[mode] ?? `mode ${mode}`;

/** guest_modes_help(). */
export const guestModesHelp = (): string[] => [
  ' -m: specify the guest mode ID to test',
  '     (default: test all supported modes)',
  '     This option may be used multiple times.',
  '     Guest mode IDs:',
  ...VM_GUEST_MODES.map(
    (text, i) => `         ${i}:    ${text}${i === VM_MODE_DEFAULT ? ' (supported)' : ''}`,
  ),
];

/** guest_modes_cmdline(): the mode that the option names; what cannot be run is refused. */
export function guestModesCmdline(text: string): number {
  const mode = /^\d+$/.test(text) ? Number(text) : VM_GUEST_MODES.length;
  if (mode >= VM_GUEST_MODES.length) throw new UsageError(`Guest mode ID ${text} too big`);
  if (mode !== VM_MODE_DEFAULT)
    throw new UsageError(`Guest mode ID ${mode} (${vmGuestModeString(mode)}) not supported.`);
  return mode;
}

/** vm->max_gfn of that mode: the last frame below MAXPHYADDR. SDM, "CPUID leaf 80000008H". */
export function vmMaxGfn(backend: Backend): number {
  const leaf = backend.kvm.getSupportedCpuid().find((e) => e.function === 0x8000_0008);
  const paBits = leaf === undefined ? 36 : leaf.eax & 0xff;
  return 2 ** (paBits - 12) - 1;
}
