// SPDX-License-Identifier: GPL-2.0-only
/**
 * Random programs from the assembler's tables, so that every form of every instruction comes up, with operands that
 * matter: pointers at page borders, corner values, counts that fit. Every fifth program is made of raw bytes instead.
 */
import { type Encoding, encodeForm } from '../../lib/asm/encode.ts';
import { type Form, parseForm } from '../../lib/asm/forms.ts';
import { FORMS, PREFIX_WORDS } from '../../lib/asm/isa.ts';
import {
  type Address,
  gpr,
  type GpSize,
  lab,
  mem,
  type Mem,
  type Operand,
  R,
  type Reg,
} from '../../lib/asm/operands.ts';
import { instructionText } from '../../lib/asm/text.ts';
import { CR0, CR4, RFLAGS } from '../../lib/x86/registers.ts';
import { RAM_BASE } from '../../vmm/machine/layout.ts';
import { type Program, type ProgramLine, lineSymbol } from './program.ts';
import type { Random } from './random.ts';
import { DATA, LARGE, POINTER_PAGES, STACK_TOP } from './world.ts';

/** Instructions beyond the reference, or that end a program. */
const LEFT_OUT = /^(fx|xsave|xrstor|retf|serialize|rsm|wbnoinvd)/;

interface Pick {
  readonly form: Form;
  readonly system: boolean;
}

/** Instructions that both sides only stop at. */
const SYSTEM_OPCODES =
  /^(0F 01|0F 00|0F 0[2-9]|0F 2[0-3]|0F 3[0-5]|0F 7[89]|0F A[0189A]|F[14AB]|C[CDF]|9[CD]|E[4-7C-F]|6[C-F])\b/;

const distinctForms = (): readonly Pick[] => {
  const seen = new Map<string, Pick>();
  for (const [mnemonic, forms] of FORMS) {
    for (const form of forms) {
      const opcode = form.row[2].replace(/^(REX\.W|o16|F3|66|a32) (\+ )?/, '');
      if (!LEFT_OUT.test(mnemonic))
        seen.set(`${form.row[1]}|${form.row[2]}`, { form, system: SYSTEM_OPCODES.test(opcode) });
    }
  }
  return [...seen.values()];
};

const ALL = distinctForms();
const ORDINARY: readonly Form[] = ALL.filter(({ system }) => !system).map(({ form }) => form);
const SYSTEM: readonly Form[] = ALL.filter(({ system }) => system).map(({ form }) => form);

/** The system instructions that the reference executes. */
const CONTROL: readonly Form[] = SYSTEM.filter(({ row }) =>
  /^(pushf|popf|cli|stac|clac|clts|invlpg|mov$|rdfs|rdgs|wrfs|wrgs|rdpkru|wrpkru)/.test(row[0]),
);

/** Every form that programs are made of; for the test that all of them come up. */
export const GENERATED_FORMS: readonly string[] = ALL.map(({ form }) => form.row.join('|'));

/** A pointer near something. */
export function randomPointer(random: Random): bigint {
  const page = random.pick(POINTER_PAGES);
  const offset = random.oneIn(2)
    ? random.below(0x1000)
    : random.pick([0, 1, 8, 0x800, 0xff0, 0xff8, 0xffc, 0xffd, 0xfff]);
  const aligned = random.oneIn(3) ? offset & ~15 : offset;
  return BigInt.asUintN(64, page + BigInt(aligned));
}

const encodeLine = (
  form: Form,
  ops: readonly Operand[],
  lead?: number,
  word = '',
): ProgramLine | undefined => {
  const encoding = encodeForm(form, ops, lead);
  if ('rank' in encoding) return undefined;
  const { bytes, fields }: Encoding = encoding;
  return { text: `${word}${instructionText(form.row[0], ops)}`, form: form.row.join('|'), bytes, fields };
};

const MOV_IMM64 = parseForm(['mov', 'r64, imm64', 'REX.W + B8+ro io']);

const JMP_REL32 = parseForm(['jmp', 'rel32', 'E9 cd']);

const loadRegister = (reg: number, value: bigint): ProgramLine => {
  const signed = BigInt.asIntN(64, value);
  return encodeLine(MOV_IMM64, [gpr(reg), signed])!;
};

/** Registers whose loss makes a program boring are seldom written. */
const dataRegister = (random: Random): number => {
  const n = random.below(16);
  return n === 4 && !random.oneIn(8) ? random.below(4) : n;
};

const displacement = (random: Random): number => {
  const kind = random.below(4);
  if (kind === 0) return 0;
  if (kind === 1) return random.below(256) - 128;
  return kind === 2 ? random.below(0x2000) - 0x1000 : random.below(16) - 8;
};

/** A memory operand, and the lines that make its registers point somewhere. */
function memoryOperand(random: Random, size: number, before: ProgramLine[]): Mem {
  const kind = random.below(16);
  const seg = random.oneIn(10) ? random.pick([R.fs, R.gs, R.fs, R.gs, R.ds, R.ss, R.es]) : undefined;
  if (kind === 0) return mem(size, { disp: Number(DATA) + random.below(0x9000), seg });
  if (kind === 1) return mem(size, { seg: random.pick([R.fs, R.gs]), disp: random.below(0x3000) - 0x1000 });
  if (kind === 2) return mem(size, { label: `0x${(DATA + BigInt(random.below(0x9000))).toString(16)}`, seg });
  if (kind === 3) return mem(size, { label: lineSymbol(random.below(40)), disp: random.below(8), seg });
  const width: GpSize = kind === 4 ? 32 : 64;
  const base = random.below(16);
  const disp = displacement(random);
  if (kind === 5) {
    // Whatever is in the registers.
    return mem(size, {
      base: gpr(base),
      index: indexRegister(random, 64),
      scale: random.pick([1, 2, 4, 8]),
      disp,
      seg,
    });
  }
  if (base !== 4) {
    const pointer = width === 32 ? DATA + BigInt(random.below(0x9000)) : randomPointer(random);
    const there = seg === R.fs || seg === R.gs ? BigInt(random.below(0x1000)) : pointer - BigInt(disp);
    const upper = width === 32 && random.oneIn(2) ? random.bits64() << 32n : 0n;
    before.push(loadRegister(base, BigInt.asUintN(64, there | upper)));
  }
  const address: Address = { base: gpr(base, width), disp, seg };
  if (!random.oneIn(4)) return mem(size, address);
  const index = indexRegister(random, width);
  if (index.num !== base) before.push(loadRegister(index.num, BigInt(random.below(17)) - 8n));
  return mem(size, { ...address, index, scale: random.pick([1, 2, 4, 8]) });
}

function indexRegister(random: Random, width: GpSize): Reg {
  const n = random.below(15);
  return gpr(n >= 4 ? n + 1 : n, width);
}

function immediate(random: Random, bits: number, extendedTo: number): bigint | number {
  const value = BigInt.asIntN(bits, random.value());
  return extendedTo === bits && random.oneIn(2) ? BigInt.asUintN(bits, value) : value;
}

function operandOf(random: Random, form: Form, n: number, at: number, before: ProgramLine[]): Operand {
  const { kind } = form.slots[n]!;
  if (kind.one) return 1;
  if (kind.rel) return lab(lineSymbol(Math.max(0, at + random.below(kind.rel === 8 ? 14 : 24) - 4)));
  if (kind.implied) return (R as Readonly<Record<string, Reg>>)[kind.text.toLowerCase()]!;
  if (kind.imm)
    return immediate(random, kind.imm.bits, kind.imm.signExtended ? form.operandSize : kind.imm.bits);
  const { reg } = kind;
  // preparations() has loaded RAX for these.
  if (/^(CR, r64)$/.test(form.row[1]) && kind.text === 'r64') return R.rax;
  if (/^wr[fg]sbase/.test(form.row[0]) && random.oneIn(2)) return gpr(0, reg!.size as GpSize);
  if (reg !== undefined && (kind.mem === undefined || random.oneIn(2))) {
    if (reg.cls === 'gp' && !(reg.size === 8 && random.oneIn(3))) {
      const found = gpr(dataRegister(random), reg.size as GpSize);
      if (reg.accepts(found)) return found;
    }
    const fits = (r: Reg): boolean =>
      r.size === reg.size && (r.cls === reg.cls || (r.cls === 'gp8h' && reg.cls === 'gp')) && reg.accepts(r);
    return random.pick(Object.values(R).filter(fits));
  }
  return memoryOperand(random, kind.mem ?? 0, before);
}

const pushRax: ProgramLine = { text: 'push rax', bytes: [0x50], fields: [] };

/** Something to load into CR0, CR3 or CR4. */
function controlValue(random: Random): bigint {
  const cr4 = CR4.PAE | CR4.PGE | CR4.OSFXSR;
  const values = [
    () => BigInt(RAM_BASE),
    () => BigInt((CR0.PE | CR0.ET | CR0.NE | CR0.PG | (random.oneIn(2) ? CR0.WP : 0)) >>> 0),
    () => BigInt(cr4 | (random.next() & (CR4.SMEP | CR4.SMAP | CR4.PKE | CR4.FSGSBASE))),
    () => random.value(),
  ];
  return random.pick(values)();
}

/** What has to be in registers for an instruction to do something. */
function preparations(random: Random, form: Form): readonly ProgramLine[] {
  const [mnemonic, operands] = form.row;
  if (/^(movs|stos|lods|cmps|scas)[bwdq]$/.test(mnemonic)) {
    return [
      loadRegister(6, randomPointer(random)),
      loadRegister(7, randomPointer(random)),
      loadRegister(1, BigInt(random.below(12))),
    ];
  }
  if (/^i?div$/.test(mnemonic) && !random.oneIn(4)) {
    return [loadRegister(2, BigInt(random.below(3))), loadRegister(0, random.value())];
  }
  if (/CL$/.test(operands) && !random.oneIn(3)) return [loadRegister(1, BigInt(random.below(70)))];
  if (mnemonic === 'cmpxchg8b' || mnemonic === 'cmpxchg16b' || mnemonic === 'leave') {
    return mnemonic === 'leave' && !random.oneIn(3) ? [loadRegister(5, STACK_TOP)] : [];
  }
  if (/^popf/.test(mnemonic)) return [loadRegister(0, BigInt(random.next() & 0x3f_feff)), pushRax];
  if (/pkru$/.test(mnemonic) && !random.oneIn(4)) {
    return [
      loadRegister(1, 0n),
      loadRegister(2, 0n),
      loadRegister(0, BigInt(random.pick([0, 4, 8, 0x24, 0x18]))),
    ];
  }
  if (operands === 'CR, r64') return [loadRegister(0, controlValue(random))];
  if (/^wr[fg]sbase/.test(mnemonic)) return [loadRegister(0, random.pick(POINTER_PAGES))];
  if (/^(j[er]cxz|loop)/.test(mnemonic)) return [loadRegister(1, BigInt(random.below(3)))];
  if (/^bt[src]?$/.test(mnemonic) && random.oneIn(2))
    return [loadRegister(random.below(3), BigInt.asUintN(64, BigInt(random.below(4000) - 2000)))];
  if (/^(call|jmp)$/.test(mnemonic) && random.oneIn(2)) {
    const target = encodeLine(MOV_IMM64, [gpr(random.below(4)), lab(lineSymbol(random.below(40)))]);
    return target ? [target] : [];
  }
  return [];
}

const leadWord = (random: Random, mnemonic: string, ops: readonly Operand[]): string => {
  const words = [...PREFIX_WORDS]
    .filter(([, { mnemonics }]) => mnemonics.has(mnemonic))
    .map(([word]) => word);
  if (words.length === 0 || random.oneIn(3)) return '';
  const word = random.pick(words);
  const memory = ops.some((op) => typeof op === 'object' && op.kind === 'mem');
  return word === 'lock' && !memory && !random.oneIn(10) ? '' : word;
};

/** An instruction with what it needs before it. */
function instruction(random: Random, at: number, form: Form): readonly ProgramLine[] {
  const before: ProgramLine[] = [...preparations(random, form)];
  const ops = form.slots.map((_, n) => operandOf(random, form, n, at, before));
  const word = leadWord(random, form.row[0], ops);
  const line = encodeLine(form, ops, PREFIX_WORDS.get(word)?.byte, word === '' ? '' : `${word} `);
  if (line === undefined) return [];
  return [...before, random.oneIn(20) ? withStrayPrefix(random, line) : line];
}

/** A prefix that changes the instruction, or that should not. */
function withStrayPrefix(random: Random, line: ProgramLine): ProgramLine {
  const prefix = random.pick([0x66, 0x67, 0x2e, 0x3e, 0x64, 0x65, 0xf2, 0xf3, 0x40, 0x48, 0xf0]);
  const fields = line.fields.map((field) => ({ ...field, at: field.at + 1 }));
  return { text: `.byte 0x${prefix.toString(16)}; ${line.text}`, bytes: [prefix, ...line.bytes], fields };
}

const PREFIX_BYTES = [0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x64, 0x65, 0x2e, 0x48, 0x41, 0x44, 0x4c, 0x4f];

function rawBytes(random: Random): ProgramLine {
  const bytes: number[] = [];
  while (random.oneIn(3)) bytes.push(random.pick(PREFIX_BYTES));
  if (random.oneIn(4)) bytes.push(0x0f);
  const tail = 1 + random.below(7);
  for (let n = 0; n < tail; n++)
    bytes.push(random.oneIn(4) ? random.pick([0, 4, 5, 0xc0, 0xff, 0x25]) : random.below(256));
  return { text: '.byte', bytes, fields: [] };
}

function randomLines(random: Random, raw: boolean): readonly ProgramLine[] {
  const lines: ProgramLine[] = [];
  const wanted = 8 + random.below(30);
  while (lines.length < wanted) {
    if (raw) lines.push(rawBytes(random));
    else
      lines.push(
        ...instruction(
          random,
          lines.length,
          random.pick(random.oneIn(20) ? (random.oneIn(2) ? SYSTEM : CONTROL) : ORDINARY),
        ),
      );
  }
  return lines;
}

/** Most programs run once, some go round until the steps are used up. */
function withLoop(random: Random, lines: readonly ProgramLine[]): readonly ProgramLine[] {
  return random.oneIn(3) ? [...lines, encodeLine(JMP_REL32, [lab(lineSymbol(0))])!] : lines;
}

function randomRegisters(random: Random): readonly bigint[] {
  const values = Array.from({ length: 16 }, () => (random.oneIn(2) ? randomPointer(random) : random.value()));
  values[4] = random.oneIn(16) ? randomPointer(random) : STACK_TOP - BigInt(random.below(64));
  return values;
}

/** The program of a seed. */
export function generateProgram(seed: number, random: Random): Program {
  const user = random.oneIn(2);
  const la57 = random.oneIn(8);
  const lines = withLoop(random, randomLines(random, random.oneIn(5)));
  const flag = (bit: number, n: number): number => (random.oneIn(n) ? bit : 0);
  const arithmetic = random.next() & (RFLAGS.CF | RFLAGS.PF | RFLAGS.AF | RFLAGS.ZF | RFLAGS.SF | RFLAGS.OF);
  return {
    seed,
    lines,
    without: new Set(),
    user,
    la57,
    start: random.oneIn(3) ? 0xf80 + random.below(0x80) : random.below(0x800),
    vendor: random.oneIn(4) ? 'milan' : 'skylake',
    tlb: random.pick(['keep-forever', 'keep-forever', 'real', 'keep-nothing']),
    wp: !random.oneIn(3),
    cr4:
      flag(CR4.FSGSBASE, 2) |
      flag(CR4.SMEP, 2) |
      flag(CR4.SMAP, 3) |
      flag(CR4.PKE, 2) |
      (la57 ? CR4.LA57 : 0),
    pkru: random.oneIn(2) ? 0 : random.pick([0x4, 0x8, 0x24, 0x18, 0x3c]),
    rflags: arithmetic | flag(RFLAGS.DF, 3) | flag(RFLAGS.AC, 3) | RFLAGS.FIXED,
    gpr: randomRegisters(random),
    fsBase: random.pick([DATA, DATA + 0x800n, LARGE, 0n, 0xffff_ffff_ffff_f000n]),
    gsBase: random.pick([DATA + 0x1000n, 0x7fff_ffff_f000n, 0xffff_8000_0000_0000n]),
  };
}
