// SPDX-License-Identifier: GPL-2.0-only
/**
 * Bochs as the second opinion: finds it, boots a disk image on it, gives the text of port 0xE9. Made for Debian's 2.7, which
 * has the debugger (so it wants commands: `c`), plug-ins (so the display is `term`, which wants a terminal: script(1)), and
 * the shutdown port 0x8900. Emulated time is not bound to the wall's, else the BIOS's waits take seconds, and runs differ.
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { GUEST_BEGINS } from './boot/entry_code.ts';

const BIOS = '/usr/share/bochs/BIOS-bochs-latest';
const VGA_BIOS = '/usr/share/vgabios/vgabios.bin';
const CPU_MODEL = 'corei7_skylake_x';
/** The disk's geometry is made up: 16 heads of 63 sectors. */
const CYLINDER = 16 * 63 * 512;

/** One line for those who do not have it. */
export const HOW_TO_INSTALL =
  'Bochs is not installed: apt-get install bochs bochs-term (Debian, Bochs 2.7 or newer), and script(1) of bsdutils';

/** Whether everything that runBochs() needs is there. */
export function bochsInstalled(): boolean {
  const has = (command: string): boolean =>
    spawnSync('sh', ['-c', `command -v ${command}`], { stdio: 'ignore' }).status === 0;
  return has('bochs') && has('script') && existsSync(BIOS) && existsSync(VGA_BIOS);
}

const config = (cylinders: number): string =>
  [
    `cpu: model=${CPU_MODEL}, count=1, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=0`,
    'clock: sync=none, time0=946684800',
    'memory: guest=64, host=64',
    `romimage: file=${BIOS}`,
    `vgaromimage: file=${VGA_BIOS}`,
    'ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14',
    `ata0-master: type=disk, path=disk.img, mode=flat, cylinders=${cylinders}, heads=16, spt=63`,
    'boot: disk',
    'port_e9_hack: enabled=1',
    'display_library: term',
    'log: bochs.log',
    'panic: action=fatal',
    'error: action=report',
    'info: action=ignore',
    'debug: action=ignore',
    '',
  ].join('\n');

/** A line of the debugger's own, which it prints where a guest of the guest has a triple fault. */
const DEBUGGER = /^\(0\)\.\[.*\n/gm;

/** What Bochs printed, from the guest's beginning to the emulator's end. */
export function guestText(output: string): string | undefined {
  const text = output.replaceAll('\r', '');
  const begin = text.indexOf(`${GUEST_BEGINS}\n`);
  if (begin < 0) return undefined;
  const rest = text.slice(begin + GUEST_BEGINS.length + 1).replaceAll(DEBUGGER, '');
  const end = rest.indexOf('========');
  return end < 0 ? rest : rest.slice(0, end);
}

export interface BochsRun {
  /** The guest's text; as far as it came if the run was given up. */
  readonly text: string;
  /** Why the text may be incomplete. */
  readonly trouble: string | undefined;
}

export interface BochsOptions {
  readonly seconds: number;
  /** Where disk, configuration and log stay; else they are deleted. */
  readonly keep?: string;
}

/** Boot a disk image until its guest shuts down. */
export async function runBochs(disk: Uint8Array, options: BochsOptions): Promise<BochsRun> {
  const folder = options.keep ?? mkdtempSync(join(tmpdir(), 'nestbed-bochs-'));
  try {
    const cylinders = Math.ceil(disk.length / CYLINDER);
    const padded = new Uint8Array(cylinders * CYLINDER);
    padded.set(disk);
    writeFileSync(join(folder, 'disk.img'), padded);
    writeFileSync(join(folder, 'bochsrc'), config(cylinders));
    writeFileSync(join(folder, 'rc'), 'c\n');
    const { output, timedOut } = await inTerminal(folder, options.seconds);
    return verdict(folder, output, timedOut ? `no end within ${options.seconds} seconds` : undefined);
  } finally {
    if (options.keep === undefined) rmSync(folder, { recursive: true, force: true });
  }
}

function verdict(folder: string, output: string, trouble: string | undefined): BochsRun {
  const text = guestText(output);
  const panic = lastPanic(join(folder, 'bochs.log'));
  const reason = trouble ?? panic ?? (text === undefined ? 'the guest did not begin' : undefined);
  return { text: text ?? '', trouble: reason };
}

/** The message of the panic that ended the run, unless it was the shutdown port. */
function lastPanic(log: string): string | undefined {
  if (!existsSync(log)) return 'Bochs wrote no log';
  const line = readFileSync(log, 'utf8')
    .split('\n')
    .find((l) => l.includes('>>PANIC<<'));
  return line === undefined || line.includes('shutdown requested') ? undefined : line.trim();
}

function inTerminal(folder: string, seconds: number): Promise<{ output: string; timedOut: boolean }> {
  return new Promise((resolve, reject) => {
    const child = spawn('script', ['-qec', 'bochs -q -f bochsrc -rc rc', '/dev/null'], {
      cwd: folder,
      detached: true,
      env: { ...process.env, TERM: 'dumb' },
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const chunks: Buffer[] = [];
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      // The group: script(1) and the emulator under it.
      if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
    }, seconds * 1000);
    child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
    child.on('error', reject);
    child.on('close', () => {
      clearTimeout(timer);
      resolve({ output: Buffer.concat(chunks).toString('latin1'), timedOut });
    });
  });
}
