// SPDX-License-Identifier: GPL-2.0-only
/**
 * Where guest code was written: the TypeScript line of each statement, from the stack of the builder call. The stack is
 * captured at once but formatted only when somebody asks, since most statements are never asked for.
 * A macro of the guest library (GUEST_ASSERT) counts as the line that uses it, as __FILE__ and __LINE__ do in C.
 */
import { fileURLToPath } from 'node:url';

/** A source line of guest code; `file` is relative to the project. */
export interface SrcLoc {
  readonly file: string;
  readonly line: number;
}

/** A captured place in the TypeScript source, resolved on first use. */
export interface Site {
  /** The line, or `<unknown>:0` if the stack does not tell. */
  loc(): SrcLoc;
  /** `file:line`. */
  text(): string;
}

/** The name of the function under which a body is built: frames above it belong to whoever links the image. */
export const BODY_MARKER = 'buildGuestBody';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const UNKNOWN: SrcLoc = { file: '<unknown>', line: 0 };
const FRAME = /\(?((?:file:\/\/)?\/[^():]+):(\d+):\d+\)?$/;

/** Resolves the frames of a formatted stack; exported for tests. */
export function locateStack(stack: string, root: string = ROOT): SrcLoc {
  let inLibrary: SrcLoc | undefined;
  for (const frame of stack.split('\n').slice(1)) {
    if (frame.includes(BODY_MARKER)) break;
    const match = FRAME.exec(frame.trim());
    if (!match) continue;
    const path = match[1]!.replace(/^file:\/\//, '');
    const file = path.startsWith(root) ? path.slice(root.length) : path;
    const isTest = file.endsWith('.test.ts');
    if (file.startsWith('lib/guest/dsl/') && !isTest) continue;
    const loc = { file, line: Number(match[2]) };
    if (isTest || !file.startsWith('lib/guest/')) return loc;
    inLibrary ??= loc;
  }
  return inLibrary ?? UNKNOWN;
}

class CapturedSite implements Site {
  private readonly trace: { stack?: string };
  private resolved: SrcLoc | undefined;

  constructor(trace: { stack?: string }) {
    this.trace = trace;
  }

  loc(): SrcLoc {
    this.resolved ??= locateStack(this.trace.stack ?? '');
    return this.resolved;
  }

  text(): string {
    const { file, line } = this.loc();
    return `${file}:${line}`;
  }
}

/** Remembers the caller's source line; frames of the DSL itself are skipped. */
export function captureSite(): Site {
  const trace: { stack?: string } = {};
  Error.captureStackTrace(trace, captureSite);
  return new CapturedSite(trace);
}
