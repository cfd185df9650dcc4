// SPDX-License-Identifier: GPL-2.0-only
/** The options of demand_paging_test, with upstream's defaults and refusals; what needs userfaultfd is refused. */
import type { BackingSource } from '../../lib/kvm_util/backend.ts';
import { atoiNonNegative, atoiPositive, getopt, parseSize } from '../../lib/kvm_util/getopt.ts';
import { guestModesCmdline, guestModesHelp } from '../../lib/kvm_util/guest_modes.ts';
import { UsageError } from '../../lib/kvm_util/test_util.ts';
import { MAX_VCPUS } from './guest.ts';

export interface TestParams {
  vcpus: number;
  /** Bytes of memory that each vCPU pages in. */
  vcpuMemSize: number;
  backing: BackingSource;
  /** False with -o: all vCPUs access all of the memory. */
  partition: boolean;
}

/** Backing sources by upstream's names, as far as the host has them. */
const BACKING: Readonly<Record<string, BackingSource>> = {
  anonymous: 'anonymous',
  anonymous_thp: 'anonymous_thp',
  shmem: 'memfd',
};

/** Known upstream, and not here. */
const OTHER_BACKING = /^(anonymous_hugetlb(_\d+[kmg]b)?|shared_hugetlb)$/;

function help(): UsageError {
  const lines = [
    'usage: demand_paging_test [-h] [-m vm_mode] [-u uffd_mode] [-a]',
    '          [-d uffd_delay_usec] [-r readers_per_uffd] [-b memory]',
    '          [-s type] [-v vcpus] [-c cpu_list] [-o]',
    ...guestModesHelp(),
    " -u: use userfaultfd to handle vCPU page faults. Only 'none' is supported.",
    ' -b: specify the size of the memory region which should be',
    '     demand paged by each vCPU. e.g. 10M or 3G.',
    '     Default: 1G',
    ` -s: specify the type of memory: ${Object.keys(BACKING).join(', ')} (default: anonymous)`,
    ' -v: specify the number of vCPUs to run.',
    ' -o: Overlap guest memory accesses instead of partitioning',
    '     them into a separate region of memory for each vCPU.',
  ];
  return new UsageError(lines.join('\n'), { help: true });
}

function parseBacking(text: string): BackingSource {
  if (Object.hasOwn(BACKING, text)) return BACKING[text]!;
  if (OTHER_BACKING.test(text))
    throw new UsageError(`backing source '${text}' is not supported: there is no hugetlbfs`);
  throw new UsageError(`Unknown backing src type: ${text}`);
}

function refuseUffd(mode: string): void {
  if (mode === 'none') return;
  if (mode === 'MISSING' || mode === 'MINOR')
    throw new UsageError(`UFFD mode '${mode}' is not supported: there is no userfaultfd`);
  throw new UsageError("UFFD mode must be 'MISSING' or 'MINOR'.");
}

function parseVcpus(text: string, maxVcpus: number): number {
  const vcpus = atoiPositive('Number of vCPUs', text);
  const max = Math.min(maxVcpus, MAX_VCPUS);
  if (vcpus > max) throw new UsageError(`Invalid number of vcpus, must be between 1 and ${max}`);
  return vcpus;
}

function apply(p: TestParams, opt: string, arg: string, maxVcpus: number): void {
  switch (opt) {
    case 'm':
      guestModesCmdline(arg);
      return;
    case 'u':
      refuseUffd(arg);
      return;
    case 'd':
      // Ignored without -u.
      atoiNonNegative('UFFD delay', arg);
      return;
    case 'b':
      p.vcpuMemSize = parseSize(arg);
      return;
    case 's':
      p.backing = parseBacking(arg);
      return;
    case 'v':
      p.vcpus = parseVcpus(arg, maxVcpus);
      return;
    case 'o':
      p.partition = false;
      return;
    case 'a':
      throw new UsageError('-a is not supported: there is no userfaultfd');
    case 'r':
      throw new UsageError('-r is not supported: there is no userfaultfd');
    case 'c':
      throw new UsageError('-c is not supported: vCPUs are spread over the pCPUs in turn');
    default:
      throw help();
  }
}

/** Parse argv. Throws UsageError with upstream's words. */
export function parseTestParams(argv: readonly string[], maxVcpus: number): TestParams {
  const p: TestParams = { vcpus: 1, vcpuMemSize: 2 ** 30, backing: 'anonymous', partition: true };
  const { options, rest } = getopt(argv, 'ahom:u:d:b:s:v:c:r:');
  for (const { opt, arg } of options) apply(p, opt, arg, maxVcpus);
  if (rest.length > 0) throw new UsageError(`unexpected argument '${rest[0]!}'; -h shows the options`);
  if (p.vcpuMemSize % 4096 !== 0) throw new UsageError('Guest memory size is not guest page size aligned.');
  return p;
}
