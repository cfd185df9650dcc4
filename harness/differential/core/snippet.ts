// SPDX-License-Identifier: GPL-2.0-only
/**
 * A snippet of straight-line code for the differential corpus, and its form in the files beside this one: one line each, so
 * that a change of generator or assembler does not change what Bochs has judged.
 */

export type Privilege = 'user' | 'supervisor';

export interface Snippet {
  /** Gives the state that it starts in: stateOfSeed(). */
  readonly seed: number;
  /** Offset of the first instruction in the world's code pages. */
  readonly start: number;
  readonly code: Uint8Array;
  /** Flags that the last instruction leaves undefined: not compared. */
  readonly undefinedFlags: number;
  /** 64-byte lines of memory that it changes, by linear address: compared. */
  readonly lines: readonly bigint[];
}

export const LINE_BYTES = 64;
/** UD2, put behind every snippet: both privileges can execute it, and it changes nothing. */
export const SNIPPET_END = [0x0f, 0x0b] as const;

/** `seed start code undefined-flags line...`, all but the first in hexadecimal. */
export function snippetText({ seed, start, code, undefinedFlags, lines }: Snippet): string {
  const words = [undefinedFlags.toString(16), ...lines.map((at) => at.toString(16))];
  return [String(seed), start.toString(16), Buffer.from(code).toString('hex'), ...words].join(' ');
}

/** The snippets of a file; lines that begin with `#` are comments. */
export function parseSnippets(text: string): readonly Snippet[] {
  return text
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => {
      const [seed = '', start = '', code = '', flags = '', ...lines] = line.split(' ');
      return {
        seed: Number(seed),
        start: Number.parseInt(start, 16),
        code: new Uint8Array(Buffer.from(code, 'hex')),
        undefinedFlags: Number.parseInt(flags, 16),
        lines: lines.map((at) => BigInt(`0x${at}`)),
      };
    });
}
