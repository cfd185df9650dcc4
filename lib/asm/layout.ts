// SPDX-License-Identifier: GPL-2.0-only
/**
 * Layout: where everything ends up once branches have a length and alignments a size.
 * Starts with every branch short and lets those grow that do not reach, until none does; a branch that grew stays long,
 * so this ends. Branches to symbols of other images are long from the start.
 */
import type { Encoding } from './encode.ts';

/** A place in what was emitted: `raw` bytes and `spans` variable spans lie before it. */
export interface Place {
  readonly raw: number;
  readonly spans: number;
}

/** A branch that has a short and a long form. */
export interface BranchSpan extends Place {
  readonly kind: 'branch';
  readonly short: Encoding;
  readonly long: Encoding;
}

/** Padding up to a multiple of `to`. */
export interface AlignSpan extends Place {
  readonly kind: 'align';
  readonly to: number;
  /** The byte to fill with, undefined for long nops. */
  readonly fill: number | undefined;
}

/** Something whose length is decided at the end. */
export type Span = BranchSpan | AlignSpan;

/** The decided lengths. */
export interface Layout {
  /** Length of each span. */
  readonly sizes: readonly number[];
  /** Offset of a place from the start of the image. */
  readonly offsetOf: (place: Place) => number;
}

const prefixSums = (sizes: readonly number[]): Float64Array => {
  const sums = new Float64Array(sizes.length + 1);
  for (let i = 0; i < sizes.length; i++) sums[i + 1] = sums[i]! + sizes[i]!;
  return sums;
};

const reaches = (span: BranchSpan, end: number, target: number | undefined): boolean => {
  if (target === undefined) return false;
  const field = span.short.fields[0]!;
  // The field's addend holds minus the distance to the end of the branch (one byte) plus what the label adds.
  const distance = target + field.addend + 1 - end;
  return distance >= -128 && distance <= 127;
};

const alignSizes = (spans: readonly Span[], sizes: number[], base: bigint): void => {
  let before = 0;
  for (let i = 0; i < spans.length; i++) {
    const span = spans[i]!;
    if (span.kind === 'align') {
      const over = Number((base + BigInt(span.raw + before)) % BigInt(span.to));
      sizes[i] = over === 0 ? 0 : span.to - over;
    }
    before += sizes[i]!;
  }
};

/** Decides the length of every span of an image that lies at `base`. */
export const layOut = (spans: readonly Span[], labels: ReadonlyMap<string, Place>, base: bigint): Layout => {
  const sizes = spans.map((span) => (span.kind === 'branch' ? span.short.bytes.length : 0));
  for (;;) {
    alignSizes(spans, sizes, base);
    const sums = prefixSums(sizes);
    const offsetOf = (place: Place): number => place.raw + sums[place.spans]!;
    const tooShort = spans.flatMap((span, i) => {
      if (span.kind === 'align' || sizes[i] === span.long.bytes.length) return [];
      const label = labels.get(span.short.fields[0]!.symbol);
      return reaches(span, offsetOf(span) + sizes[i]!, label && offsetOf(label)) ? [] : [{ span, i }];
    });
    if (tooShort.length === 0) return { sizes, offsetOf };
    for (const { span, i } of tooShort) sizes[i] = span.long.bytes.length;
  }
};
