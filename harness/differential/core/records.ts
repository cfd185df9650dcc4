// SPDX-License-Identifier: GPL-2.0-only
/** The table of snippets as guest data: a record each, their code, and the memory lines that they change. */
import { array, guestGlobal, struct, u64, u8, type GuestGlobal } from '../../../lib/guest/index.ts';
import { CODE } from '../../reference/world.ts';
import { SNIPPET_END, type Snippet } from './snippet.ts';
import { stateOfSeed } from './state.ts';

/** What the runner needs to know of a snippet; `gpr` by register number. */
export const SnippetRecord = struct('struct snippet', {
  gpr: array(u64, 16),
  rip: u64,
  rflags: u64,
  fs_base: u64,
  gs_base: u64,
  cr4: u64,
  cr0: u64,
  undefined_flags: u64,
  code: u64,
  code_len: u64,
  lines: u64,
  nr_lines: u64,
});

/** Globals of the guest that hold a list of snippets. */
export interface SnippetTables {
  readonly records: GuestGlobal;
  readonly code: GuestGlobal;
  readonly lines: GuestGlobal;
  readonly count: number;
}

function codeBytes(snippets: readonly Snippet[]): Uint8Array {
  return new Uint8Array(snippets.flatMap(({ code }) => [...code, ...SNIPPET_END]));
}

const WP = 0x1_0000n;

function recordBytes(snippets: readonly Snippet[]): Uint8Array {
  const bytes = new Uint8Array(SnippetRecord.size * snippets.length);
  const view = new DataView(bytes.buffer);
  let [code, lines] = [0, 0];
  snippets.forEach((snippet, n) => {
    const { gpr, rflags, fsBase, gsBase, wp, cr4 } = stateOfSeed(snippet.seed);
    const length = snippet.code.length + SNIPPET_END.length;
    const rip = CODE + BigInt(snippet.start);
    const words = [
      ...[...gpr, rip, rflags, fsBase, gsBase, cr4, wp ? WP : 0, snippet.undefinedFlags],
      ...[code, length, lines, snippet.lines.length],
    ];
    words.forEach((word, i) => view.setBigUint64(n * SnippetRecord.size + i * 8, BigInt(word), true));
    code += length;
    lines += snippet.lines.length;
  });
  return bytes;
}

/** The guest's tables of a list. */
export function snippetTables(snippets: readonly Snippet[]): SnippetTables {
  const lines = snippets.flatMap((snippet) => snippet.lines);
  const code = codeBytes(snippets);
  return {
    records: guestGlobal('snippet_records', array(SnippetRecord, snippets.length), recordBytes(snippets)),
    code: guestGlobal('snippet_code', array(u8, code.length), code),
    lines: guestGlobal('snippet_lines', array(u64, lines.length), lines),
    count: snippets.length,
  };
}
