// SPDX-License-Identifier: GPL-2.0-only
/** The command line: `nestbed run`, `nestbed list`, `nestbed differential`. Bad input gets one clear line and exit code 2. */
import { readFileSync } from 'node:fs';
import process from 'node:process';
import { UsageError } from '../lib/kvm_util/test_util.ts';
import { listCommand, runCommand } from './commands.ts';
import { differentialCommand } from './differential/command.ts';

const usage = `nestbed - a conformance suite and laboratory for nested virtualization

  nestbed run [-l] [-t TEST]... [-P module.param=value]... [--seed N]
              [--reporter summary|ktap|junit] [--trace FILE] [--timeout S]
              [-- test options]
  nestbed list
  nestbed differential [--only PROGRAM]... [--keep DIR] [--update]
  nestbed --version | --help

  -l             list the tests that would run, and stop
  -t TEST        run TEST; may be repeated; TEST may carry its own options: -t 'memslot_perf_test -s 512'
  -P M.P=V       set a module parameter, as in kvm_intel.ept=0
  --seed N       seed of everything that is left to chance (default 1)
  --trace FILE   write KVM's trace events to FILE as ftrace prints them
  --timeout S    give a test up after S seconds (default 120, or what the test says)
  --reporter R   form of the result on standard output; progress goes to standard error

  Without -t every test runs with its quick options. What follows -- is given to each test that -t names.
  Exit code: 0 pass, 1 fail, 2 bad input, 4 everything skipped.

  differential   boots guest images on Bochs, too, and compares what they print, line by line
  --only PROGRAM one program of the corpus; may be repeated
  --keep DIR     leave disk images, Bochs's configuration and log, and both texts in DIR
  --update       keep the agreed lines as expected values of the tests`;

const version = (): string =>
  (JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string })
    .version;

const write = (line: string): void => {
  process.stdout.write(`${line}\n`);
};

async function dispatch(argv: readonly string[]): Promise<number> {
  const [command, ...rest] = argv;
  switch (command) {
    case 'run':
      return runCommand(rest, { version: version(), write });
    case 'list':
      return listCommand(rest, write);
    case 'differential':
      return differentialCommand(rest, write);
    case '--version':
      write(version());
      return 0;
    case '-h':
    case '--help':
    case 'help':
      write(usage);
      return 0;
    default:
      throw new UsageError(
        command === undefined
          ? 'no command; see nestbed --help'
          : `unknown command '${command}'; see nestbed --help`,
      );
  }
}

/** Run the command line; returns the process's exit code. */
export async function main(argv: readonly string[]): Promise<number> {
  try {
    return await dispatch(argv);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    if (error.help) {
      write(error.message);
      return 0;
    }
    process.stderr.write(`nestbed: ${error.message}\n`);
    return 2;
  }
}
