// SPDX-License-Identifier: GPL-2.0-only
/** JUnit XML: one suite, one case per selftest. Written at the end, since the suite's totals come first. */
import { headerLine, type Reporter, type RunHeader, type TestResult } from '../result.ts';

const entities: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
/** XML 1.0 has no escape for control characters; they are dropped. */
const escape = (s: string): string =>
  s.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g, '').replace(/[&<>"]/g, (c) => entities[c] ?? c);

const outcome = (r: TestResult): string => {
  const first = escape(r.message.split('\n')[0] ?? '');
  const body = escape(`${r.message}\nrerun: ${r.rerun}`);
  if (r.status === 'skip') return `<skipped message="${first}"/>`;
  if (r.status === 'fail') return `<failure message="${first}">${body}</failure>`;
  return r.status === 'error' ? `<error message="${first}">${body}</error>` : '';
};

export function junitReporter(write: (line: string) => void): Reporter {
  let suite = 'nestbed';
  return {
    start(header: RunHeader) {
      suite = headerLine(header);
    },
    result() {
      // Everything is known at the end only.
    },
    end(results) {
      const count = (s: string): number => results.filter((r) => r.status === s).length;
      const time = results.reduce((sum, r) => sum + r.seconds, 0).toFixed(3);
      const totals = `tests="${results.length}" failures="${count('fail')}" errors="${count('error')}" skipped="${count('skip')}" time="${time}"`;
      write('<?xml version="1.0" encoding="UTF-8"?>');
      write(`<testsuites ${totals}>`);
      write(`  <testsuite name="${escape(suite)}" ${totals}>`);
      for (const r of results) {
        write(
          `    <testcase classname="selftests" name="${escape(r.name)}" time="${r.seconds.toFixed(3)}">${outcome(r)}`,
        );
        write(`      <system-out>${escape(r.output.join('\n'))}</system-out>`);
        write('    </testcase>');
      }
      write('  </testsuite>');
      write('</testsuites>');
    },
  };
}
