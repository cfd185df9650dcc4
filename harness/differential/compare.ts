// SPDX-License-Identifier: GPL-2.0-only
/**
 * Two texts of one program, line by line. A case that one side cannot show prints `name: absent`; such a line is skipped,
 * as is a line on which Bochs is known to be wrong, or L0 to follow KVM and not the hardware. Agreed lines are kept as
 * expected values.
 */
import { bochsFaultOf } from './bochs_faults.ts';
import { kvmFactOf } from './kvm_facts.ts';
import type { Side } from './program.ts';

/** What becomes of a line. */
export type LineVerdict = 'equal' | 'differs' | 'skipped' | 'listed';

export interface ComparedLine {
  readonly number: number;
  readonly verdict: LineVerdict;
  readonly here: string;
  readonly there: string;
}

/** Stands in a file of expected lines for a line without an expectation. */
export const NO_EXPECTATION = '~';
/** What a text that ends early has instead of a line. */
const MISSING = '(no line)';

const ABSENT = /: absent$/;

/** The lines of a text; the last one ends with a line feed. */
export function linesOf(text: string): readonly string[] {
  return text.replace(/\n$/, '').split('\n');
}

/** Whose text it is. */
export interface TextOf {
  readonly program: string;
  readonly side: Side;
}

/** Why a line is not compared, or undefined. */
const listedReason = ({ program, side }: TextOf, here: string): string | undefined =>
  bochsFaultOf(program, here) ?? (side === 'L0' ? kvmFactOf(program, here) : undefined);

function verdictOf(of: TextOf, here: string, there: string): LineVerdict {
  if (ABSENT.test(here) || ABSENT.test(there)) return 'skipped';
  if (listedReason(of, here) !== undefined) return 'listed';
  return here === there ? 'equal' : 'differs';
}

/** Every line of both texts with what becomes of it. */
export function compareTexts(of: TextOf, here: string, there: string): readonly ComparedLine[] {
  const [mine, theirs] = [linesOf(here), linesOf(there)];
  return Array.from({ length: Math.max(mine.length, theirs.length) }, (_, n) => {
    const pair = { here: mine[n] ?? MISSING, there: theirs[n] ?? MISSING };
    return { number: n + 1, verdict: verdictOf(of, pair.here, pair.there), ...pair };
  });
}

/** The text of a file of expected lines: those on which some side agrees with Bochs, and none differs. */
export function expectedText(sides: readonly (readonly ComparedLine[])[]): string {
  const texts = sides[0]!.map((_, n) => {
    const same = sides.map((lines) => lines[n]!);
    const agreed = same.find(({ verdict }) => verdict === 'equal');
    return agreed !== undefined && same.every(({ verdict }) => verdict !== 'differs')
      ? agreed.there
      : NO_EXPECTATION;
  });
  return `${texts.join('\n')}\n`;
}

/** Where our text is not what the kept lines say: `line n: expected ..., got ...`. What a side cannot show is not wrong. */
export function checkExpected(of: TextOf, expected: string, here: string): readonly string[] {
  const [kept, mine] = [linesOf(expected), linesOf(here)];
  const wrong: string[] = [];
  for (let n = 0; n < Math.max(kept.length, mine.length); n++) {
    const [want, got] = [kept[n] ?? MISSING, mine[n] ?? MISSING];
    const free =
      (want === NO_EXPECTATION && got !== MISSING) || ABSENT.test(got) || listedReason(of, got) !== undefined;
    if (want !== got && !free) wrong.push(`line ${n + 1}: expected '${want}', got '${got}'`);
  }
  return wrong;
}
