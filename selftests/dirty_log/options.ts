// SPDX-License-Identifier: GPL-2.0-only
/** The options of dirty_log_test, with upstream's defaults and refusals; `-s` is added. */
import { atoiParanoid, getopt, parseSize } from '../../lib/kvm_util/getopt.ts';
import { guestModesCmdline, guestModesHelp } from '../../lib/kvm_util/guest_modes.ts';
import { UsageError } from '../../lib/kvm_util/test_util.ts';

export const LOG_MODES = ['dirty-log', 'clear-log', 'dirty-ring'] as const;
export type LogMode = (typeof LOG_MODES)[number];

export interface TestParams {
  iterations: number;
  /** In milliseconds. */
  interval: number;
  /** 0: as high as possible. */
  physOffset: number;
  logMode: LogMode | 'all';
  /** Bytes of the memory that is tracked, three pages less. */
  memSize: number;
}

const TEST_HOST_LOOP_N = 32;
const TEST_HOST_LOOP_INTERVAL = 10;
const TEST_DIRTY_RING_COUNT = 65536;
const DIRTY_MEM_SIZE = 2 ** 30;

const allModes = `all, ${LOG_MODES.join(', ')}`;

function help(): UsageError {
  const lines = [
    'usage: dirty_log_test [-h] [-i iterations] [-I interval] [-p offset] [-s size] [-m mode] [-M log_mode]',
    ' -c: hint to dirty ring size, in number of entries',
    `     (only useful for dirty-ring test; default: ${TEST_DIRTY_RING_COUNT})`,
    ` -i: specify iteration counts (default: ${TEST_HOST_LOOP_N})`,
    ` -I: specify interval in ms (default: ${TEST_HOST_LOOP_INTERVAL} ms)`,
    ' -p: specify guest physical test memory offset',
    '     Warning: a low offset can conflict with the loaded test code.',
    ' -s: specify the size of the test memory, e.g. 8M (default: 1G)',
    ' -M: specify the host logging mode (default: run all log modes).  Supported modes:',
    `     ${allModes}`,
    ...guestModesHelp(),
  ];
  return new UsageError(lines.join('\n'), { help: true });
}

function parseOffset(text: string): number {
  const offset = /^(0[xX][0-9a-fA-F]+|\d+)$/.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(offset) || offset % 4096 !== 0)
    throw new UsageError(`Guest physical address not on a page boundary: ${text}`);
  return offset;
}

function parseLogMode(text: string): LogMode | 'all' {
  const mode = text === 'all' ? text : LOG_MODES.find((name) => name === text);
  if (mode === undefined) throw new UsageError(`Log mode '${text}' invalid. Please choose from: ${allModes}`);
  return mode;
}

function apply(p: TestParams, opt: string, arg: string): void {
  switch (opt) {
    case 'c':
      // Without a dirty ring it has no size.
      atoiParanoid(arg);
      return;
    case 'i':
      p.iterations = atoiParanoid(arg);
      return;
    case 'I':
      p.interval = atoiParanoid(arg);
      return;
    case 'p':
      p.physOffset = parseOffset(arg);
      return;
    case 's':
      p.memSize = parseSize(arg);
      return;
    case 'm':
      guestModesCmdline(arg);
      return;
    case 'M':
      p.logMode = parseLogMode(arg);
      return;
    default:
      throw help();
  }
}

/** Parse argv. Throws UsageError with upstream's words. */
export function parseTestParams(argv: readonly string[]): TestParams {
  const p: TestParams = {
    iterations: TEST_HOST_LOOP_N,
    interval: TEST_HOST_LOOP_INTERVAL,
    physOffset: 0,
    logMode: 'all',
    memSize: DIRTY_MEM_SIZE,
  };
  const { options, rest } = getopt(argv, 'c:hi:I:p:s:m:M:');
  for (const { opt, arg } of options) apply(p, opt, arg);
  if (rest.length > 0) throw new UsageError(`unexpected argument '${rest[0]!}'; -h shows the options`);
  if (p.iterations <= 0) throw new UsageError('Iterations must be greater than zero');
  if (p.interval <= 0) throw new UsageError('Interval must be greater than zero');
  if (p.memSize % 4096 !== 0 || p.memSize > DIRTY_MEM_SIZE)
    throw new UsageError('Size of the test memory must be whole pages, 1G at most');
  return p;
}
