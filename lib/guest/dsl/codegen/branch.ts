// SPDX-License-Identifier: GPL-2.0-only
/** Code for conditions: compare and jump, with the short circuits of && and ||. */
import { lab } from '../../../asm/operands.ts';
import { constNode, invertCc } from '../fold.ts';
import type { Node } from '../ir.ts';
import type { Emitter } from './emitter.ts';
import type { Evaluator } from './eval.ts';
import type { RegMask } from './registers.ts';

const NOT_ZERO = { k: 'cmp', width: 4, cc: 'ne' } as const;

type When = 'holds' | 'fails';

const opposite = (when: When): When => (when === 'holds' ? 'fails' : 'holds');

/** Jumps to `label` if `node` is true (`holds`) or false (`fails`); else falls through. */
export function branch(
  em: Emitter,
  ev: Evaluator,
  node: Node,
  label: string,
  when: When,
  free: RegMask,
): void {
  switch (node.k) {
    case 'const':
      if ((node.value !== 0n) === (when === 'holds')) em.jump(label);
      return;
    case 'lnot': {
      branch(em, ev, node.x, label, opposite(when), free);
      return;
    }
    case 'land':
    case 'lor': {
      logic(em, ev, node, label, when, free);
      return;
    }
    default: {
      // What is no comparison is compared with zero.
      const test =
        node.k === 'cmp'
          ? node
          : ({ ...NOT_ZERO, opSize: node.width, l: node, r: constNode(node.width, 0n) } as const);
      ev.compare(test, free);
      em.emit(`j${when === 'holds' ? test.cc : invertCc(test.cc)}`, lab(label));
    }
  }
}

function logic(
  em: Emitter,
  ev: Evaluator,
  node: Node & { k: 'land' | 'lor' },
  label: string,
  when: When,
  free: RegMask,
): void {
  // Either side alone decides `a || b` holds, and `a && b` fails.
  if ((node.k === 'lor') === (when === 'holds')) {
    branch(em, ev, node.l, label, when, free);
    branch(em, ev, node.r, label, when, free);
    return;
  }
  const skip = em.fresh('skip');
  branch(em, ev, node.l, skip, opposite(when), free);
  branch(em, ev, node.r, label, when, free);
  em.label(skip);
}
