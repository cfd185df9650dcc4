// SPDX-License-Identifier: GPL-2.0-only
/**
 * Makes snippets: the random programs of harness/reference, cut to a few lines and run on the reference interpreter, which
 * says what is undefined. Such a line is the last one, or a CMP behind it defines the flags again; lines whose result
 * or effect depends on the CPU's model, on time or on devices are not used.
 */
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { CR0, CR4, EFER } from '../../../lib/x86/registers.ts';
import { RAM_BASE } from '../../../vmm/machine/layout.ts';
import { generateProgram } from '../../reference/generate.ts';
import { ReferenceCpu } from '../../reference/interpreter.ts';
import { RefMemory } from '../../reference/memory.ts';
import type { FaultOutcome, Outcome } from '../../reference/outcome.ts';
import { layOutProgram, type Program, type ProgramLine } from '../../reference/program.ts';
import { Random } from '../../reference/random.ts';
import { CODE, CODE_PAGES, RAM_BYTES } from '../../reference/world.ts';
import { LINE_BYTES, SNIPPET_END, type Privilege, type Snippet } from './snippet.ts';
import { stateOfSeed } from './state.ts';
import { worldImage, worldPages, type WorldPage } from './world.ts';

const MAX_LINES = 14;
const MAX_STEPS = 60;
/** What is in control registers is the runner's. */
const CONTROL_REGISTER = /\bcr\d/;
const MAX_TRIES = 12;
/** CMP RSI, RDI: defines every arithmetic flag and changes nothing else. */
const DEFINE_FLAGS: ProgramLine = { text: 'cmp rsi, rdi', bytes: [0x48, 0x39, 0xfe], fields: [] };

/** System instructions that fault in user mode, or give what every CPU gives. They end a snippet. */
const LAST_IN_USER =
  /^(HLT|CLTS|LGDT|LIDT|LLDT|LTR|LMSW|INVD|WBINVD|RDMSR|WRMSR|MOV_TO_CR|MOV_FROM_CR|MOV_TO_DR|MOV_FROM_DR|SWAPGS|INVPCID|IN|OUT|INS|OUTS|CLI|STI|RDPMC|VMCLEAR|VMPTRLD|VMPTRST|VMXON|VMXOFF|VMREAD|VMWRITE|VMLAUNCH|VMRESUME|INVEPT|INVVPID)$/;
const LAST_ANYWHERE =
  /^(INT|INT1|INT3|MOV_TO_SREG|MOV_FROM_SREG|LAR|LSL|VERR|VERW|STR|SLDT|SYSCALL|SYSENTER|SYSEXIT|SYSRET|XGETBV|XSETBV)$/;
/** These store, which the reference does not do: only their register forms. */
const STORES = /^(MOV_FROM_SREG|STR|SLDT)$/;

function mayEnd(outcome: Outcome, privilege: Privilege): boolean {
  if (outcome.kind !== 'system') return false;
  const { op, rm } = outcome.operands;
  if (STORES.test(op)) return rm !== undefined && rm >= 0;
  return LAST_ANYWHERE.test(op) || (privilege === 'user' && LAST_IN_USER.test(op));
}

/**
 * What Bochs stores before it finds the fault: the return address of a CALL to a non-canonical target, the frame of an
 * ENTER whose new stack is not there. The SDM's operation sections check first.
 */
const STORES_BEFORE_FAULT = /\b(call|enter)\b/;

/** What a trial run says about the lines: fine, cut to so many, define the flags behind line n, or not usable. */
type Verdict =
  | { readonly kind: 'fine'; readonly undefinedFlags: number }
  | { readonly kind: 'cut'; readonly to: number }
  | { readonly kind: 'define'; readonly behind: number }
  | { readonly kind: 'useless' };

const USELESS: Verdict = { kind: 'useless' };

/** Linear addresses at which the VM keeps things of its own. */
const isForeign = (linear: bigint): boolean =>
  (linear >= 0x1000n && linear < CODE) || (linear >= 0x2000_0000n && linear < 0x3000_0000n);

export class SnippetMaker {
  readonly #privilege: Privilege;
  readonly #memory = new RefMemory(RAM_BASE, RAM_BYTES);
  /** Memory before the snippet under trial. */
  readonly #before: Uint8Array;
  readonly #pages: readonly WorldPage[];

  constructor(privilege: Privilege) {
    this.#privilege = privilege;
    this.#before = worldImage(privilege);
    this.#pages = worldPages(this.#before);
    this.#memory.bytes.set(this.#before);
  }

  /** The snippet of a seed, or undefined; its stores stay for the snippets to come. */
  make(seed: number): Snippet | undefined {
    const random = new Random(seed ^ 0xc0de);
    const program = this.#programOf(seed, random);
    let lines = program.lines;
    for (let n = 0; n < MAX_TRIES && lines.length > 0; n++) {
      const candidate = { ...program, lines };
      const verdict = this.#try(candidate);
      if (verdict.kind === 'fine') return this.#keep(candidate, verdict.undefinedFlags);
      this.#undo();
      if (verdict.kind === 'useless') return undefined;
      if (verdict.kind === 'cut') lines = lines.slice(0, verdict.to);
      else if (random.oneIn(2)) lines = lines.slice(0, verdict.behind + 1);
      else lines = lines.toSpliced(verdict.behind + 1, 0, DEFINE_FLAGS);
    }
    return undefined;
  }

  #programOf(seed: number, random: Random): Program {
    const program = generateProgram(seed, new Random(seed));
    const from = random.below(Math.max(1, program.lines.length - MAX_LINES));
    const lines = program.lines
      .slice(from, from + 1 + random.below(MAX_LINES))
      .filter(({ text }) => !CONTROL_REGISTER.test(text));
    const state = stateOfSeed(seed);
    return { ...program, ...state, lines, user: this.#privilege === 'user', la57: false, pkru: 0 };
  }

  #try(program: Program): Verdict {
    const layout = layOutProgram(program);
    if (program.start + layout.bytes.length + SNIPPET_END.length > CODE_PAGES * 0x1000) return USELESS;
    const cpu = this.#cpuAt(program, layout.bytes);
    const lineAt = new Map(layout.addresses.map((at, n) => [at, n]));
    for (let n = 0; n < MAX_STEPS; n++) {
      const line = lineAt.get(cpu.state.rip);
      const outcome = cpu.step();
      const { flags, reg, place } = cpu.undefined;
      if (outcome.kind === 'fault') return this.#ofFault(outcome, program.lines[line ?? -1]);
      if (outcome.kind !== 'done') {
        if (line === undefined) return USELESS;
        // A line of raw bytes may hold more than this instruction.
        const whole = outcome.kind === 'system' && outcome.length === program.lines[line]!.bytes.length;
        if (!whole || !mayEnd(outcome, this.#privilege)) return { kind: 'cut', to: line };
        if (line + 1 < program.lines.length) return { kind: 'cut', to: line + 1 };
        return this.#endsAt(layout.end) ? { kind: 'fine', undefinedFlags: 0 } : USELESS;
      }
      if (reg >= 0 || place !== undefined) return line === undefined ? USELESS : { kind: 'cut', to: line };
      if (cpu.state.rip === layout.end)
        return this.#endsAt(layout.end) ? { kind: 'fine', undefinedFlags: flags } : USELESS;
      if (flags !== 0) return line === undefined ? USELESS : { kind: 'define', behind: line };
    }
    return USELESS;
  }

  #ofFault(outcome: FaultOutcome, line: ProgramLine | undefined): Verdict {
    if (outcome.cr2 !== undefined && isForeign(outcome.cr2)) return USELESS;
    if (line === undefined || STORES_BEFORE_FAULT.test(line.text)) return USELESS;
    // Raw bytes may be such an instruction, too.
    const raw = line.text === '.byte' && outcome.vector !== VECTOR.UD;
    return raw ? USELESS : { kind: 'fine', undefinedFlags: 0 };
  }

  #cpuAt(program: Program, code: Uint8Array): ReferenceCpu {
    const rules = {
      maxPhysBits: 46,
      denied: 'rewalk',
      keep: 'nothing',
      missCycles: 0,
      referenceCycles: 0,
      extra: { lock: 0, div: 0, fence: 0 },
    } as const;
    const cpu = new ReferenceCpu(this.#memory, rules);
    this.#place(this.#memory.bytes, CODE + BigInt(program.start), code);
    const { state } = cpu;
    program.gpr.forEach((value, n) => (state.gpr[n] = value));
    state.rip = CODE + BigInt(program.start);
    state.rflags = program.rflags;
    state.fsBase = program.fsBase;
    state.gsBase = program.gsBase;
    state.cpl = program.user ? 3 : 0;
    state.cr0 = CR0.PE | CR0.ET | CR0.NE | CR0.PG | (program.wp ? CR0.WP : 0);
    state.cr3 = BigInt(RAM_BASE);
    state.cr4 = CR4.PAE | CR4.OSFXSR | program.cr4;
    state.efer = EFER.LME | EFER.LMA | EFER.NXE;
    return cpu;
  }

  /** Put code with the UD2 behind it into an image. */
  #place(image: Uint8Array, linear: bigint, code: Uint8Array): void {
    [...code, ...SNIPPET_END].forEach((byte, n) => {
      const at = this.#offsetOf(linear + BigInt(n));
      image[at] = byte;
      this.#memory.touched.add(at & ~0xfff);
    });
  }

  /** Whether the UD2 is still there: code may write to itself. */
  #endsAt(linear: bigint): boolean {
    return SNIPPET_END.every((byte, n) => this.#memory.bytes[this.#offsetOf(linear + BigInt(n))] === byte);
  }

  #offsetOf(linear: bigint): number {
    const page = this.#pages.find(({ linear: at }) => at === (linear & ~0xfffn))!;
    return page.offset + Number(linear & 0xfffn);
  }

  #undo(): void {
    const { bytes, touched } = this.#memory;
    for (const page of touched) bytes.set(this.#before.subarray(page, page + 0x1000), page);
    touched.clear();
  }

  #keep(program: Program, undefinedFlags: number): Snippet {
    const { bytes, touched } = this.#memory;
    const lines: bigint[] = [];
    const { seed, start } = program;
    const code = layOutProgram(program).bytes;
    // What the runner stores is no change that the snippet makes.
    this.#place(this.#before, CODE + BigInt(start), code);
    for (const page of [...touched].sort((a, b) => a - b)) {
      for (let at = page; at < page + 0x1000; at += LINE_BYTES) {
        if (
          Buffer.compare(bytes.subarray(at, at + LINE_BYTES), this.#before.subarray(at, at + LINE_BYTES)) !==
          0
        )
          lines.push(this.#linearOf(at));
      }
      this.#before.set(bytes.subarray(page, page + 0x1000), page);
    }
    touched.clear();
    return { seed, start, code, undefinedFlags, lines };
  }

  #linearOf(offset: number): bigint {
    const page = this.#pages.find(({ offset: at, level }) =>
      level === 1 ? at === (offset & ~0xfff) : offset >= at && offset < at + 0x20_0000,
    )!;
    return page.linear + BigInt(offset - page.offset);
  }
}

/** So many snippets, from seed 1 on. */
export function makeSnippets(privilege: Privilege, count: number): readonly Snippet[] {
  const maker = new SnippetMaker(privilege);
  const snippets: Snippet[] = [];
  for (let seed = 1; snippets.length < count; seed++) {
    const snippet = maker.make(seed);
    if (snippet !== undefined) snippets.push(snippet);
  }
  return snippets;
}
