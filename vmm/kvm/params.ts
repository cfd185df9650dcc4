// SPDX-License-Identifier: GPL-2.0-only
/**
 * Module parameters, written as on the kernel command line: `kvm_intel.ept=0`. Mirrors the module_param() lines of
 * arch/x86/kvm and virt/kvm, 6.12, as far as they are modelled.
 * DEVIATION: off by default, since not modelled: pml, avic, halt polling and NX huge pages.
 * DEVIATION: enable_apicv only decides whether L1 is offered posted interrupts; L1's own APIC is emulated either way.
 */

/** What a parameter may be. `auto`: a bool that may also be -1 or "auto". */
export type ParamKind = 'bool' | 'int' | 'auto';

interface ParamSpec {
  readonly kind: ParamKind;
  readonly default: number;
  readonly min?: number;
  readonly max?: number;
  readonly text: string;
}

/** Every parameter by `module.name`. */
// prettier-ignore
export const KVM_PARAMS = {
  'kvm.tdp_mmu':                { kind: 'bool', default: 1, text: 'use the TDP MMU if two-dimensional paging is on' },
  'kvm.mmio_caching':           { kind: 'bool', default: 1, text: 'cache MMIO gfns in SPTEs that misconfigure' },
  'kvm.flush_on_reuse':         { kind: 'bool', default: 0, text: 'flush and sync when a cached root is used again' },
  'kvm.eager_page_split':       { kind: 'bool', default: 1, text: 'split huge pages when dirty logging starts' },
  'kvm.ignore_msrs':            { kind: 'bool', default: 0, text: 'unknown MSRs read as zero and ignore writes' },
  'kvm.report_ignored_msrs':    { kind: 'bool', default: 1, text: 'trace accesses that ignore_msrs hides' },
  'kvm.enable_vmware_backdoor': { kind: 'bool', default: 0, text: 'intercept GP for the VMware backdoor' },
  'kvm.force_emulation_prefix': { kind: 'int',  default: 0, min: 0, max: 1, text: 'UD prefix that forces emulation' },
  'kvm.halt_poll_ns':           { kind: 'int',  default: 0, min: 0, max: 0xffff_ffff, text: 'longest halt poll' },
  'kvm.nx_huge_pages':          { kind: 'auto', default: 0, text: 'split huge pages on execution' },
  'kvm_intel.ept':              { kind: 'bool', default: 1, text: 'extended page tables' },
  'kvm_intel.eptad':            { kind: 'bool', default: 1, text: 'accessed and dirty bits in EPT entries' },
  'kvm_intel.vpid':             { kind: 'bool', default: 1, text: 'virtual processor identifiers' },
  'kvm_intel.unrestricted_guest': { kind: 'bool', default: 1, text: 'guests without paging' },
  'kvm_intel.flexpriority':     { kind: 'bool', default: 1, text: 'TPR shadow and APIC access page' },
  'kvm_intel.enable_apicv':     { kind: 'bool', default: 1, text: 'posted interrupts for L1 to give its guests' },
  'kvm_intel.nested':           { kind: 'bool', default: 1, text: 'guests may use VMX' },
  'kvm_intel.enable_shadow_vmcs': { kind: 'bool', default: 1, text: 'shadow VMCS for L1' },
  'kvm_intel.nested_early_check': { kind: 'bool', default: 0, text: 'let hardware check vmcs12 early' },
  'kvm_intel.preemption_timer': { kind: 'bool', default: 1, text: 'APIC timer by the VMX preemption timer' },
  'kvm_intel.pml':              { kind: 'bool', default: 0, text: 'page-modification logging' },
  'kvm_intel.ple_gap':          { kind: 'int',  default: 128, min: 0, max: 0xffff_ffff, text: 'PAUSE-loop exiting gap' },
  'kvm_amd.npt':                { kind: 'bool', default: 1, text: 'nested page tables' },
  'kvm_amd.nested':             { kind: 'bool', default: 1, text: 'guests may use SVM' },
  'kvm_amd.vls':                { kind: 'bool', default: 1, text: 'virtual VMLOAD and VMSAVE' },
  'kvm_amd.vgif':               { kind: 'bool', default: 1, text: 'virtual GIF' },
  'kvm_amd.avic':               { kind: 'bool', default: 0, text: 'AVIC' },
} as const satisfies Record<string, ParamSpec>;

export type ParamName = keyof typeof KVM_PARAMS;

/** The parameters that change something here; the others keep their defaults. */
const MODELLED: readonly ParamName[] = [
  'kvm.mmio_caching',
  'kvm.eager_page_split',
  'kvm.flush_on_reuse',
  'kvm.ignore_msrs',
  'kvm.force_emulation_prefix',
  'kvm_intel.eptad',
  'kvm_intel.vpid',
  'kvm_intel.unrestricted_guest',
  'kvm_intel.enable_apicv',
  'kvm_intel.nested',
  'kvm_intel.enable_shadow_vmcs',
];

/** One clear line if a parameter that is not modelled has another value than its default, else undefined. */
export function unmodelledParam(params: KvmParams): string | undefined {
  const names = Object.keys(KVM_PARAMS) as ParamName[];
  const name = names.find((n) => !MODELLED.includes(n) && params[n] !== KVM_PARAMS[n].default);
  return name === undefined
    ? undefined
    : `${name}: not modelled yet; only its default, ${KVM_PARAMS[name].default}, is accepted`;
}
/** The values of one loaded module. */
export type KvmParams = Readonly<Record<ParamName, number>>;

/** A parameter that does not exist, or a value that it refuses: one line for the user. */
export class ParamError extends Error {
  override readonly name: string = 'ParamError';
}

/** Every parameter at its default. */
export function defaultParams(): Record<ParamName, number> {
  const entries = Object.entries(KVM_PARAMS).map(([name, spec]) => [name, spec.default]);
  return Object.fromEntries(entries) as Record<ParamName, number>;
}

/** Parse `["kvm_intel.ept=0", "kvm.mmio_caching"]` (a bare bool means 1) over the defaults. */
export function parseParams(args: readonly string[]): KvmParams {
  const params = defaultParams();
  for (const arg of args) {
    const at = arg.indexOf('=');
    const name = canonicalName(at < 0 ? arg : arg.slice(0, at));
    params[name] = parseValue(name, at < 0 ? null : arg.slice(at + 1));
  }
  return params;
}

/** The kernel takes - for _ in parameter names. */
function canonicalName(given: string): ParamName {
  const name = given.replaceAll('-', '_');
  if (Object.hasOwn(KVM_PARAMS, name)) return name as ParamName;
  const dot = name.indexOf('.');
  const module = dot < 0 ? '' : name.slice(0, dot + 1);
  const known = Object.keys(KVM_PARAMS).filter((key) => module !== '' && key.startsWith(module));
  const hint = known.length === 0 ? 'modules are kvm, kvm_intel and kvm_amd' : `known: ${known.join(', ')}`;
  throw new ParamError(`unknown parameter '${given}'; ${hint}`);
}

function parseValue(name: ParamName, text: string | null): number {
  const spec: ParamSpec = KVM_PARAMS[name];
  if (spec.kind === 'int') return parseInteger(name, spec, text);
  if (text === null || /^(1|y|on)/i.test(text)) return 1;
  if (/^(0|n|off)/i.test(text)) return 0;
  if (spec.kind === 'auto' && (text === 'auto' || text === '-1')) return spec.default;
  const auto = spec.kind === 'auto' ? ', or auto' : '';
  throw new ParamError(`${name}: '${text}' is not a boolean (0, 1, n, y, off, on${auto})`);
}

function parseInteger(name: ParamName, spec: ParamSpec, text: string | null): number {
  if (text === null) throw new ParamError(`${name}: needs a value`);
  const value = /^(0x[0-9a-f]+|[0-9]+)$/i.test(text) ? Number(text) : Number.NaN;
  const min = spec.min ?? 0;
  const max = spec.max ?? Number.MAX_SAFE_INTEGER;
  if (value >= min && value <= max) return value;
  throw new ParamError(`${name}: '${text}' is not an integer between ${min} and ${max}`);
}
