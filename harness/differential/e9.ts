// SPDX-License-Identifier: GPL-2.0-only
/**
 * How guest code of the differential corpus talks: text to port 0xE9, byte by byte, which Bochs prints and a VMM sees as
 * KVM_EXIT_IO; and the end of the run, the word "Shutdown" to port 0x8900. Neither needs memory that the host knows of.
 */
import { R } from '../../lib/asm/operands.ts';
import { fixed } from '../../lib/guest/dsl/asm_spec.ts';
import {
  array,
  guest_vsnprintf,
  guestFn,
  guestGlobal,
  lit,
  ptr,
  str,
  u64,
  u8,
  type GuestCode,
  type Operand,
} from '../../lib/guest/index.ts';
import { GuestCodeError } from '../../lib/guest/index.ts';

/** Bochs's debugging port, `port_e9_hack`. */
export const E9_PORT = 0xe9;
/** Bochs's shutdown port. */
export const SHUTDOWN_PORT = 0x8900;
export const SHUTDOWN_WORD = 'Shutdown';

const LINE_BYTES = 512;
const MAX_ARGS = 10;

/** Prints a string. */
export const e9_puts = guestFn('e9_puts', [ptr(u8)], (g, s) => {
  const at = g.local(ptr(u8), s);
  g.while(at.deref().ne(0), () => {
    g.asm({
      in: { port: fixed('rdx', E9_PORT), value: fixed('rax', at.deref()) },
      emit: (a) => a.emit('out', R.dx, R.al),
    });
    g.inc(at);
  });
});

const e9_line = guestGlobal('e9_line', array(u8, LINE_BYTES));

const e9_vprintf = guestFn('e9_vprintf', [ptr(u8), ptr(u64)], (g, fmt, va) => {
  guest_vsnprintf(g, e9_line, LINE_BYTES, fmt, va);
  e9_puts(g, e9_line);
});

/** Prints formatted text; every value is taken as 64 bits, so conversions want the qualifier `l`. */
export function e9_printf(g: GuestCode, fmt: string, ...args: readonly Operand[]): void {
  if (args.length > MAX_ARGS) throw new GuestCodeError(`format with ${args.length} values`);
  const va = g.local(array(u64, Math.max(1, args.length)));
  args.forEach((value, i) => g.set(va.at(i), lit(value).cast(u64)));
  e9_vprintf(g, str(fmt), va);
}

/** Ends the run. */
export const e9_shutdown = guestFn('e9_shutdown', [], (g) => {
  for (const char of SHUTDOWN_WORD) {
    g.asm({
      in: { port: fixed('rdx', SHUTDOWN_PORT), value: fixed('rax', char.charCodeAt(0)) },
      emit: (a) => a.emit('out', R.dx, R.al),
    });
  }
  g.loop(() => undefined);
});
