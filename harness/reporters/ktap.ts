// SPDX-License-Identifier: GPL-2.0-only
/** KTAP version 1, as Documentation/dev-tools/ktap.rst has it. */
import { headerLine, type Reporter, type RunHeader, type TestResult } from '../result.ts';

/** KTAP takes `#` as the start of a directive; names and reasons must not hold one. */
const clean = (text: string): string => text.replaceAll('#', '').replaceAll('\n', ' ');

const directive = (r: TestResult): string => {
  if (r.status === 'skip') return ` # SKIP ${clean(r.message)}`;
  return r.status === 'error' ? ` # ERROR ${clean(r.message.split('\n')[0] ?? '')}` : '';
};

export function ktapReporter(write: (line: string) => void): Reporter {
  const diagnostics = (lines: readonly string[]): void => {
    for (const line of lines) for (const part of line.split('\n')) write(`# ${part}`.trimEnd());
  };
  return {
    start(header: RunHeader, names: readonly string[]) {
      write('KTAP version 1');
      write(`1..${names.length}`);
      diagnostics([headerLine(header)]);
    },
    result(r, index) {
      diagnostics(r.output);
      if (r.status === 'fail' || r.status === 'error') diagnostics([r.message, `rerun: ${r.rerun}`]);
      const ok = r.status === 'pass' || r.status === 'skip' ? 'ok' : 'not ok';
      write(`${ok} ${index + 1} ${clean(r.name)}${directive(r)}`);
    },
    end(results) {
      const count = (s: string): number => results.filter((r) => r.status === s).length;
      write(
        `# Totals: pass:${count('pass')} fail:${count('fail')} xfail:0 xpass:0 skip:${count('skip')} error:${count('error')}`,
      );
    },
  };
}
