// SPDX-License-Identifier: GPL-2.0-only
/** Code for conditions: compare and jump, with the short circuits of && and ||. */
import { lab } from '../../../asm/operands.ts';
import { constNode, invertCc } from '../fold.ts';
import type { Node } from '../ir.ts';
import { compare } from './compare.ts';
import type { FnContext } from './context.ts';
import type { RegMask } from './registers.ts';
import type { Values } from './values.ts';

const NOT_ZERO = { k: 'cmp', width: 4, cc: 'ne' } as const;

type When = 'holds' | 'fails';

const opposite = (when: When): When => (when === 'holds' ? 'fails' : 'holds');

/** Jumps to `label` if `node` is true (`holds`) or false (`fails`); else falls through. */
export function branch(
  ctx: FnContext,
  ev: Values,
  node: Node,
  label: string,
  when: When,
  free: RegMask,
): void {
  switch (node.k) {
    case 'const':
      if ((node.value !== 0n) === (when === 'holds')) ctx.em.jump(label);
      return;
    case 'lnot':
      branch(ctx, ev, node.x, label, opposite(when), free);
      return;
    case 'land':
    case 'lor':
      logic(ctx, ev, node, label, when, free);
      return;
    default: {
      // What is no comparison is compared with zero.
      const test =
        node.k === 'cmp'
          ? node
          : ({ ...NOT_ZERO, opSize: node.width, l: node, r: constNode(node.width, 0n) } as const);
      compare(ctx, ev, test, free);
      ctx.em.emit(`j${when === 'holds' ? test.cc : invertCc(test.cc)}`, lab(label));
    }
  }
}

function logic(
  ctx: FnContext,
  ev: Values,
  node: Node & { k: 'land' | 'lor' },
  label: string,
  when: When,
  free: RegMask,
): void {
  // Either side alone decides `a || b` holds, and `a && b` fails.
  if ((node.k === 'lor') === (when === 'holds')) {
    branch(ctx, ev, node.l, label, when, free);
    branch(ctx, ev, node.r, label, when, free);
    return;
  }
  const skip = ctx.em.fresh('skip');
  branch(ctx, ev, node.l, skip, opposite(when), free);
  branch(ctx, ev, node.r, label, when, free);
  ctx.em.label(skip);
}
