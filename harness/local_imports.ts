// SPDX-License-Identifier: GPL-2.0-only
/**
 * Vite plugin: rebind named imports to module-local consts.
 *
 * Vitest's module runner turns every imported binding into a getter on a dictionary object, which makes an
 * interpreter about nine times slower. The rewrite is legal because the tree has no import cycles, no
 * `export let` and no module mocks; a cycle fails at once with a ReferenceError.
 */
import { parseSync, type Plugin } from 'vite';

interface Specifier {
  readonly type: string;
  readonly imported?: { readonly type: string; readonly name?: string; readonly value?: string };
  readonly local: { readonly name: string };
}

interface ImportNode {
  readonly type: string;
  readonly start: number;
  readonly end: number;
  readonly specifiers?: readonly Specifier[];
  readonly source?: { readonly raw: string };
}

/** The names of one import declaration as `imported as local` pairs, or nothing if it has another form. */
function namedPairs(node: ImportNode): readonly (readonly [string, string])[] {
  const all = node.specifiers ?? [];
  const named = all.filter((s) => s.type === 'ImportSpecifier');
  if (named.length === 0 || named.length !== all.length) return [];
  return named.map((s) => [s.imported?.name ?? s.imported?.value ?? s.local.name, s.local.name] as const);
}

/** The replacement text; keeps the line count, so that coverage and stack traces stay right. */
function rewrite(code: string, node: ImportNode): string {
  const pairs = namedPairs(node);
  if (pairs.length === 0) return code;
  const newlines = '\n'.repeat(code.slice(node.start, node.end).split('\n').length - 1);
  const imports = pairs.map(([i, l]) => `${i} as __l_${l}`).join(', ');
  const locals = pairs.map(([, l]) => `${l} = __l_${l}`).join(', ');
  const text = `import { ${imports} } from ${node.source?.raw ?? "''"}; const ${locals};${newlines}`;
  return code.slice(0, node.start) + text + code.slice(node.end);
}

/** Applies to files whose path matches `include`. */
export function localImports(include: RegExp): Plugin {
  return {
    name: 'local-imports',
    enforce: 'post',
    transform(code, id) {
      if (!include.test(id)) return null;
      let out = code;
      for (const node of [...(parseSync(id, code).program.body as unknown as ImportNode[])].reverse()) {
        if (node.type === 'ImportDeclaration') out = rewrite(out, node);
      }
      return out === code ? null : { code: out, map: null };
    },
  };
}
