// SPDX-License-Identifier: GPL-2.0-only
/** For people: the tests' output, a line per result, one block per failure and the totals last. */
import { headerLine, type Reporter, type RunHeader, type TestResult } from '../result.ts';

const word: Readonly<Record<TestResult['status'], string>> = {
  pass: 'PASS',
  skip: 'SKIP',
  fail: 'FAIL',
  error: 'ERROR',
};

export function summaryReporter(write: (line: string) => void): Reporter {
  return {
    start(header: RunHeader) {
      write(`# ${headerLine(header)}`);
    },
    result(r) {
      for (const line of r.output) write(`  ${line}`);
      const reason = r.status === 'skip' ? `: ${r.message}` : '';
      write(`${word[r.status].padEnd(5)} ${r.name} (${r.seconds.toFixed(2)} s)${reason}`);
      if (r.status !== 'fail' && r.status !== 'error') return;
      for (const line of r.message.split('\n')) write(`      ${line}`);
      write(`      rerun: ${r.rerun}`);
    },
    end(results) {
      const count = (s: string): number => results.filter((r) => r.status === s).length;
      write(`${count('pass')} pass, ${count('fail')} fail, ${count('error')} error, ${count('skip')} skip`);
    },
  };
}
