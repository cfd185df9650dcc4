// SPDX-License-Identifier: GPL-2.0-only
/** The options of memslot_perf_test, with upstream's defaults, limits and refusals; `-l` also takes fractions of a second. */
import { atoiNonNegative, atoiParanoid, atoiPositive, getopt } from '../../lib/kvm_util/getopt.ts';
import { UsageError } from '../../lib/kvm_util/test_util.ts';

export interface TestArgs {
  tfirst: number;
  tlast: number;
  /** Cap on the number of memslots; -1 for none. */
  nslots: number;
  /** Virtual time per run. */
  seconds: number;
  runs: number;
  verbose: boolean;
  mapUnmapVerify: boolean;
  disableSlotZapQuirk: boolean;
}

const DEFAULTS: Readonly<TestArgs> = {
  tfirst: 0,
  tlast: -1,
  nslots: -1,
  seconds: 5,
  runs: 1,
  verbose: false,
  mapUnmapVerify: false,
  disableSlotZapQuirk: false,
};

function help(names: readonly string[], args: TestArgs): string {
  const max = names.length - 1;
  return [
    'usage: memslot_perf_test [-h] [-v] [-d] [-q] [-s slots] [-f first_test] [-e last_test] [-l test_length] [-r run_count]',
    ' -h: print this help screen.',
    ' -v: enable verbose mode (not for benchmarking).',
    ' -d: enable extra debug checks.',
    ' -q: Disable memslot zap quirk during memslot move.',
    ` -s: specify memslot count cap (-1 means no cap; currently: ${args.nslots})`,
    ` -f: specify the first test to run (currently: ${args.tfirst}; max ${max})`,
    ` -e: specify the last test to run (currently: ${args.tlast}; max ${max})`,
    ` -l: specify the test length in seconds (currently: ${args.seconds})`,
    ` -r: specify the number of runs per test (currently: ${args.runs})`,
    '',
    'Available tests:',
    ...names.map((name, i) => `${i}: ${name}`),
  ].join('\n');
}

/** A length in seconds: upstream's whole numbers, or a decimal fraction. */
function parseSeconds(text: string): number {
  if (/^\d*\.\d+$/.test(text)) return Number(text);
  return atoiNonNegative('Test length', text);
}

function parseSlots(text: string): number {
  const nslots = atoiParanoid(text);
  if (nslots <= 1 && nslots !== -1)
    throw new UsageError('Slot count cap must be larger than 1 or -1 for no cap');
  return nslots;
}

function apply(args: TestArgs, names: readonly string[], opt: string, arg: string): void {
  switch (opt) {
    case 'v':
      args.verbose = true;
      return;
    case 'd':
      args.mapUnmapVerify = true;
      return;
    case 'q':
      args.disableSlotZapQuirk = true;
      return;
    case 's':
      args.nslots = parseSlots(arg);
      return;
    case 'f':
      args.tfirst = atoiNonNegative('First test', arg);
      return;
    case 'e':
      args.tlast = atoiNonNegative('Last test', arg);
      if (args.tlast >= names.length) {
        throw new UsageError(`Last test to run has to be non-negative and less than ${names.length}`);
      }
      return;
    case 'l':
      args.seconds = parseSeconds(arg);
      return;
    case 'r':
      args.runs = atoiPositive('Runs per test', arg);
      return;
    default:
      throw new UsageError(help(names, args), { help: true });
  }
}

/** Parse argv; `names` are those of the sub-tests. Throws UsageError with upstream's words. */
export function parseTestArgs(argv: readonly string[], names: readonly string[]): TestArgs {
  const args: TestArgs = { ...DEFAULTS, tlast: names.length - 1 };
  const { options, rest } = getopt(argv, 'hvdqs:f:e:l:r:');
  for (const { opt, arg } of options) apply(args, names, opt, arg);
  if (rest.length > 0) throw new UsageError(`unexpected argument '${rest[0]!}'; -h shows the options`);
  if (args.tfirst > args.tlast) {
    throw new UsageError('First test to run cannot be greater than the last test to run');
  }
  return args;
}
