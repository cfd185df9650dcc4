// SPDX-License-Identifier: GPL-2.0-only
/**
 * Two texts of one program, case by case and line by line. A case that one side cannot show prints `name: absent`; then none of
 * its lines is compared. Nor is a line on which Bochs is known to be wrong, or L0 to follow KVM and not the hardware. Agreed
 * lines are kept as expected values.
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

/** Whose text it is. */
export interface TextOf {
  readonly program: string;
  readonly side: Side;
}

/** Stands in a file of expected lines for a line without an expectation; the name of its case follows. */
export const NO_EXPECTATION = '~';
/** What a text that ends early has instead of a line. */
const MISSING = '(no line)';

const ABSENT = /: absent$/;
/** The name before the colon, without the number of a resumption. */
const NAME = /^~?([^\s:]+?)(\.\d+)?:/;

/** The lines of a text; the last one ends with a line feed. */
export function linesOf(text: string): readonly string[] {
  return text.replace(/\n$/, '').split('\n');
}

/** The lines of each case: what is indented or bears the number of a resumption belongs to the case before it. */
function casesOf(text: string): readonly (readonly string[])[] {
  const cases: string[][] = [];
  let name = '';
  for (const line of linesOf(text)) {
    const [, own, again] = NAME.exec(line) ?? [];
    const goesOn = line.startsWith('  ') || (again !== undefined && own === name);
    if (goesOn && cases.length > 0) cases.at(-1)!.push(line);
    else {
      cases.push([line]);
      name = own ?? '';
    }
  }
  return cases;
}

const isAbsent = (lines: readonly string[] | undefined): boolean => ABSENT.test(lines?.[0] ?? '');

/** Why a line is not compared, or undefined. */
const listedReason = ({ program, side }: TextOf, here: string): string | undefined =>
  bochsFaultOf(program, here) ?? (side === 'L0' ? kvmFactOf(program, here) : undefined);

type Pair = Pick<ComparedLine, 'verdict' | 'here' | 'there'>;

/** One case on both sides; if either lacks it, as many lines as there are on the other side. */
function compareCase(of: TextOf, mine: readonly string[] = [], theirs: readonly string[] = []): Pair[] {
  if (isAbsent(theirs)) return [{ verdict: 'skipped', here: mine[0] ?? MISSING, there: theirs[0]! }];
  if (isAbsent(mine)) return theirs.map((there) => ({ verdict: 'skipped', here: mine[0]!, there }));
  return Array.from({ length: Math.max(mine.length, theirs.length) }, (_, n) => {
    const [here, there] = [mine[n] ?? MISSING, theirs[n] ?? MISSING];
    const listed = listedReason(of, here) !== undefined;
    return { verdict: listed ? 'listed' : here === there ? 'equal' : 'differs', here, there };
  });
}

/** Every line of both texts with what becomes of it. */
export function compareTexts(of: TextOf, here: string, there: string): readonly ComparedLine[] {
  const [mine, theirs] = [casesOf(here), casesOf(there)];
  const lines: ComparedLine[] = [];
  for (let n = 0; n < Math.max(mine.length, theirs.length); n++) {
    for (const pair of compareCase(of, mine[n], theirs[n])) lines.push({ number: lines.length + 1, ...pair });
  }
  return lines;
}

/** What stands for a line without an expectation. */
function placeholder(line: string): string {
  if (line.startsWith('  ')) return `  ${NO_EXPECTATION}`;
  const [head] = NAME.exec(line) ?? [''];
  return `${NO_EXPECTATION}${head}`;
}

const isPlaceholder = (line: string): boolean => line.trimStart().startsWith(NO_EXPECTATION);

/** The text of a file of expected lines: Bochs's, where some side agrees and none differs. All sides are compared with it. */
export function expectedText(sides: readonly (readonly ComparedLine[])[]): string {
  const texts = sides[0]!.map(({ there }, n) => {
    const verdicts = sides.map((lines) => lines[n]!.verdict);
    const agreed = verdicts.includes('equal') && !verdicts.includes('differs');
    return agreed || ABSENT.test(there) ? there : placeholder(there);
  });
  return `${texts.join('\n')}\n`;
}

/** Where our text is not what the kept lines say: `expected ..., got ...`. What a side cannot show is not wrong. */
export function checkExpected(of: TextOf, expected: string, here: string): readonly string[] {
  const [kept, mine] = [casesOf(expected), casesOf(here)];
  const wrong: string[] = [];
  for (let n = 0; n < Math.max(kept.length, mine.length); n++) {
    const [wants = [], gots = []] = [kept[n], mine[n]];
    if (isAbsent(wants) || isAbsent(gots)) continue;
    for (let i = 0; i < Math.max(wants.length, gots.length); i++) {
      const [want, got] = [wants[i] ?? MISSING, gots[i] ?? MISSING];
      const free = (isPlaceholder(want) && got !== MISSING) || listedReason(of, got) !== undefined;
      if (want !== got && !free) wrong.push(`expected '${want}', got '${got}'`);
    }
  }
  return wrong;
}
