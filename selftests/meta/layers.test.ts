// SPDX-License-Identifier: GPL-2.0-only
/**
 * The house rule of docs/layers.json: every file has a room, every import points downwards, and there is no cycle
 * between rooms or, for values, between files.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';

interface Layers {
  readonly rooms: Readonly<Record<string, readonly string[]>>;
  /** By file, since each is an exception. */
  readonly nodeModules: Readonly<Record<string, readonly string[]>>;
  readonly packages: { readonly sources: string[]; readonly harness: string[]; readonly tests: string[] };
}

interface Import {
  readonly from: string;
  readonly to: string;
  readonly typeOnly: boolean;
}

const root = resolve(import.meta.dirname, '../..');
const layers = JSON.parse(readFileSync(join(root, 'docs/layers.json'), 'utf8')) as Layers;
const folders = ['lib', 'vmm', 'harness', 'selftests', 'bench'];

const listing = (folder: string): string[] =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((f) => f.endsWith('.ts'))
    .map((f) => `${folder}/${f}`);
const files = folders.flatMap(listing);

/** The longest room name that is the file, the file that it tests, or a folder above it. */
const roomOf = (file: string): string | undefined =>
  Object.keys(layers.rooms)
    .filter((room) => file.replace('.test.ts', '.ts') === room || file.startsWith(`${room}/`))
    .sort((a, b) => b.length - a.length)[0];

/** Static imports of one source text; a declaration whose names are all types counts as type-only. */
function importsOf(file: string, text: string): Import[] {
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.Latest);
  return source.statements.flatMap((s) => {
    if (!ts.isImportDeclaration(s) && !ts.isExportDeclaration(s)) return [];
    if (s.moduleSpecifier === undefined || !ts.isStringLiteral(s.moduleSpecifier)) return [];
    const spec = s.moduleSpecifier.text;
    const to = spec.startsWith('.') ? relative(root, resolve(root, dirname(file), spec)) : spec;
    const clause = ts.isImportDeclaration(s) ? s.importClause : undefined;
    const typeOnly = ts.isImportDeclaration(s)
      ? clause?.phaseModifier === ts.SyntaxKind.TypeKeyword
      : s.isTypeOnly;
    return [{ from: file, to, typeOnly }];
  });
}

const imports = files.flatMap((f) => importsOf(f, readFileSync(join(root, f), 'utf8')));
const isTest = (file: string): boolean => file.endsWith('.test.ts') || file.includes('/testing/');
const isOurs = (to: string): boolean => folders.some((f) => to.startsWith(`${f}/`));

function nodeAllowed({ from, to }: Import): boolean {
  return !/^(lib|vmm)\//.test(from) || isTest(from) || (layers.nodeModules[from] ?? []).includes(to);
}

/** What is wrong with one import, or undefined. */
function offence(i: Import): string | undefined {
  // Below the harness nothing may reach clocks or processes; docs/layers.json names the few Node modules that are pure.
  if (i.to.startsWith('node:')) return nodeAllowed(i) ? undefined : 'node module below the harness';
  const room = roomOf(i.from);
  if (room === undefined) return 'importing file has no room';
  if (!isOurs(i.to)) {
    const { sources, harness, tests } = layers.packages;
    const allowed = [...sources, ...(isTest(i.from) ? tests : []), ...(room === 'harness' ? harness : [])];
    return allowed.includes(i.to) ? undefined : 'package is not allowed here';
  }
  const target = roomOf(i.to);
  if (target === room) return undefined;
  const allowed = layers.rooms[room] ?? [];
  return allowed.some((a) => a === target || a === i.to)
    ? undefined
    : `${room} may not import ${target ?? i.to}`;
}

/** One cycle in a graph as a path, or undefined. */
function findCycle(edges: ReadonlyMap<string, readonly string[]>): string[] | undefined {
  const done = new Set<string>();
  const path: string[] = [];
  const visit = (node: string): string[] | undefined => {
    if (path.includes(node)) return [...path.slice(path.indexOf(node)), node];
    if (done.has(node)) return undefined;
    path.push(node);
    for (const next of edges.get(node) ?? []) {
      const cycle = visit(next);
      if (cycle !== undefined) return cycle;
    }
    path.pop();
    done.add(node);
    return undefined;
  };
  for (const node of edges.keys()) {
    const cycle = visit(node);
    if (cycle !== undefined) return cycle;
  }
  return undefined;
}

describe('layers', () => {
  it('every source file stands in a room', () => {
    expect(files.filter((f) => roomOf(f) === undefined)).toEqual([]);
    expect(files.length).toBeGreaterThan(20);
  });

  it('every import is allowed by docs/layers.json', () => {
    const bad = imports.flatMap((i) => {
      const why = offence(i);
      return why === undefined ? [] : [`${i.from} -> ${i.to}: ${why}`];
    });
    expect(bad).toEqual([]);
  });

  it('rooms form no cycle', () => {
    const edges = Object.entries(layers.rooms).map(
      ([room, allowed]) => [room, allowed.map((a) => roomOf(a) ?? a)] as const,
    );
    expect(findCycle(new Map(edges))).toBeUndefined();
  });

  it('files form no cycle of value imports', () => {
    const edges = new Map(
      files.map((f) => [f, imports.filter((i) => i.from === f && !i.typeOnly).map((i) => i.to)]),
    );
    expect(findCycle(edges)).toBeUndefined();
  });

  it('an upward import, an unknown package and a cycle are found', () => {
    const up = importsOf('lib/x86/a.ts', "import { b } from '../../vmm/host/b.ts';")[0];
    const pkg = importsOf('vmm/host/a.ts', "import x from 'left-pad';")[0];
    expect(up && offence(up)).toBe('lib/x86 may not import vmm/host');
    expect(pkg && offence(pkg)).toBe('package is not allowed here');
    expect(
      findCycle(
        new Map([
          ['a', ['b']],
          ['b', ['a']],
        ]),
      ),
    ).toEqual(['a', 'b', 'a']);
    expect(importsOf('lib/a.ts', "import type { b } from './b.ts';")[0]?.typeOnly).toBe(true);
  });
});
