// SPDX-License-Identifier: GPL-2.0-only
/**
 * The guest half of the stress tests: each vCPU takes a seeded sequence of steps and checks what it reads. Before a write
 * to a recorded page it counts in `intent`, after it in `done`: a write lies between the two, whatever the host does. What a
 * vCPU draws from its generator never depends on time, so that everything in `digest` is the same on every host.
 */
import { APIC_DEST, APIC_ICR, APIC_REG } from '../../lib/x86/apic.ts';
import { x2apic_enable, x2apic_read_reg, x2apic_write_reg } from '../../lib/guest/apic.ts';
import { ExRegs } from '../../lib/guest/exceptions.ts';
import {
  array,
  at,
  atomic_add,
  atomic_inc,
  cli,
  cpu_relax,
  fnPtr,
  guestFn,
  guestGlobal,
  guest_random_u32,
  GuestRandomState,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_DONE,
  GUEST_SYNC,
  linkGuest,
  ptr,
  READ_ONCE,
  safe_halt,
  sti,
  u32,
  u64,
  type Expr,
  type GuestCode,
  type Operand,
} from '../../lib/guest/index.ts';
import {
  AREA,
  CODE_PAGE,
  COUNTER_PAGE,
  DROPPED_PAGES,
  HOST_CODE_PAGE,
  IPI_VECTOR,
  MAX_VCPUS,
  RECORDED_PAGES,
  STABLE_PAGES,
  TIMER_VECTOR,
} from './layout.ts';

const PAGE = 4096;
/** Turns of a wait before the vCPU gives its pCPU away. */
const SPINS = 40;
export const SYNC_WAITING = 1;

const perVcpu = (name: string) => guestGlobal(name, array(u64, MAX_VCPUS));

/** Globals that host and guest share. */
export const shared = {
  rng: guestGlobal('rng', array(GuestRandomState, MAX_VCPUS)),
  steps: guestGlobal('steps', u64),
  nr_vcpus: guestGlobal('nr_vcpus', u64),
  started: guestGlobal('started', u64),
  finished: guestGlobal('finished', u64),
  intent: guestGlobal('intent', array(u32, RECORDED_PAGES)),
  done: guestGlobal('done', array(u32, RECORDED_PAGES)),
  /** What was last written to a dropped page, or is being written; and how often the host had dropped it by then. */
  shadow: guestGlobal('shadow', array(u64, DROPPED_PAGES)),
  drops_seen: guestGlobal('drops_seen', array(u32, DROPPED_PAGES)),
  /** The host counts each drop of a page when it begins and when it has ended. */
  drop_begun: guestGlobal('drop_begun', array(u32, DROPPED_PAGES)),
  drop_ended: guestGlobal('drop_ended', array(u32, DROPPED_PAGES)),
  ipis: guestGlobal('ipis', array(u64, MAX_VCPUS * MAX_VCPUS)),
  ipis_sent: perVcpu('ipis_sent'),
  timers: perVcpu('timers'),
  timers_armed: perVcpu('timers_armed'),
  digest: perVcpu('digest'),
  added: perVcpu('added'),
  exact: perVcpu('exact'),
  host_code_seen: perVcpu('host_code_seen'),
} as const;
const s = shared;

const draw = (g: GuestCode, id: Expr): Expr => g.let(guest_random_u32(g, s.rng.at(id).addr()).shr(8));

const mix = (g: GuestCode, id: Expr, value: Expr): void =>
  g.set(s.digest.at(id), s.digest.at(id).mul(31).add(value));

/** One recorded write to a page that nothing takes away, and its reading back. */
function recorded(g: GuestCode, id: Expr, page: { base: number; number: Expr; record: Expr }): void {
  const addr = g.local(
    u64,
    page.number.cast(u64).mul(PAGE).add(page.base).add(draw(g, id).mod(512).cast(u64).mul(8)),
  );
  const value = g.local(u64, draw(g, id).cast(u64).mul(0x1_0001_0001).add(1));
  mix(g, id, g.let(READ_ONCE(at(u64, addr))));
  g.inc(s.intent.at(page.record));
  g.set(at(u64, addr), value);
  g.inc(s.done.at(page.record));
  GUEST_ASSERT_EQ(g, READ_ONCE(at(u64, addr)), value);
}

const step_stable = guestFn('step_stable', [u64], (g, id) => {
  const page = g.let(draw(g, id).mod(8).cast(u64).mul(MAX_VCPUS).add(id));
  recorded(g, id, { base: AREA.stable.gpa, number: page, record: page });
});

const step_moving = guestFn('step_moving', [u64], (g, id) => {
  const page = g.let(draw(g, id).mod(4).cast(u64).mul(MAX_VCPUS).add(id));
  recorded(g, id, { base: AREA.moving.gpa, number: page, record: g.let(page.add(STABLE_PAGES)) });
});

/** A page that may read as zero at any time: exact if no drop was under way. */
const step_dropped = guestFn('step_dropped', [u64], (g, id) => {
  const page = g.let(draw(g, id).mod(16).cast(u64).mul(MAX_VCPUS).add(id));
  const addr = g.local(u64, page.mul(PAGE).add(AREA.dropped.gpa));
  const found = g.local(u64);
  const begun = g.local(u32, READ_ONCE(s.drop_begun.at(page)));
  const quiet = g.local(u32, begun.eq(READ_ONCE(s.drop_ended.at(page))));
  g.set(found, READ_ONCE(at(u64, addr)));
  g.if(found.ne(0), () => GUEST_ASSERT_EQ(g, found, s.shadow.at(page)));
  g.if(s.drops_seen.at(page).eq(READ_ONCE(s.drop_begun.at(page))), () =>
    GUEST_ASSERT_EQ(g, found, s.shadow.at(page)),
  );
  g.inc(s.shadow.at(page));
  g.set(at(u64, addr), s.shadow.at(page));
  g.set(found, READ_ONCE(at(u64, addr)));
  g.if(found.ne(0), () => GUEST_ASSERT_EQ(g, found, s.shadow.at(page)));
  g.set(s.drops_seen.at(page), 0xffff_ffff);
  g.if(quiet.ne(0).land(begun.eq(READ_ONCE(s.drop_begun.at(page)))), () => {
    GUEST_ASSERT_EQ(g, found, s.shadow.at(page));
    g.inc(s.exact.at(id));
    g.set(s.drops_seen.at(page), begun);
  });
});

/** Locked additions to words that all vCPUs share. */
const step_counter = guestFn('step_counter', [u64], (g, id) => {
  const amount = g.local(u64, draw(g, id).mod(1000).cast(u64));
  const base = AREA.stable.gpa + COUNTER_PAGE * PAGE;
  atomic_inc(g, s.intent.at(COUNTER_PAGE));
  atomic_add(g, at(u64, base), amount);
  atomic_inc(g, at(u64, base + 8));
  atomic_inc(g, s.done.at(COUNTER_PAGE));
  g.set(s.added.at(id), '+=', amount);
});

/** mov eax, imm32; ret: written, executed, and the value that came back. */
const step_code = guestFn('step_code', [u64], (g, id) => {
  const page = g.let(id.add(CODE_PAGE));
  const addr = g.local(u64, page.mul(PAGE).add(AREA.stable.gpa).add(draw(g, id).mod(8).cast(u64).mul(64)));
  const value = g.local(u32, draw(g, id).cast(u32));
  g.inc(s.intent.at(page));
  g.set(at(u64, addr), value.cast(u64).shl(8).or(0xc300_0000_00b8n));
  g.inc(s.done.at(page));
  GUEST_ASSERT_EQ(g, g.call(addr.cast(fnPtr([], u32))), value);
  const seen = g.let(
    g.call(
      g.let(
        at(u64, AREA.stable.gpa + HOST_CODE_PAGE * PAGE)
          .addr()
          .cast(fnPtr([], u32)),
      ),
    ) as Expr<typeof u32>,
  );
  GUEST_ASSERT(g, seen.cast(u64).ge(s.host_code_seen.at(id)));
  g.set(s.host_code_seen.at(id), seen.cast(u64));
});

/** Spin for a while, then let the host run something else. */
function waitWhile(g: GuestCode, cond: () => Operand): void {
  const spins = g.local(u32, 0);
  g.while(cond, () => {
    cpu_relax(g);
    g.inc(spins);
    g.if(spins.ge(SPINS), () => {
      g.set(spins, 0);
      GUEST_SYNC(g, SYNC_WAITING);
    });
  });
}

/** Go on when all vCPUs are here. */
function barrier(g: GuestCode, count: typeof s.finished): void {
  atomic_inc(g, count);
  waitWhile(g, () => READ_ONCE(count).ne(s.nr_vcpus));
}

/** An IPI to the next vCPU, and its receipt. */
const step_ipi = guestFn('step_ipi', [u64], (g, id) => {
  const target = g.let(id.add(1).mod(s.nr_vcpus));
  g.inc(s.ipis_sent.at(id));
  const command = g.let(
    target
      .shl(32)
      .or(id)
      .add(IPI_VECTOR | APIC_ICR.LEVEL_ASSERT | APIC_DEST.NOSHORT),
  );
  x2apic_write_reg(g, APIC_REG.ICR, command);
  waitWhile(g, () => READ_ONCE(s.ipis.at(target.mul(MAX_VCPUS).add(id))).ne(s.ipis_sent.at(id)));
});

/** Sleep until the APIC timer fires. */
const step_timer = guestFn('step_timer', [u64], (g, id) => {
  g.inc(s.timers_armed.at(id));
  cli(g);
  x2apic_write_reg(g, APIC_REG.TMICT, draw(g, id).mod(4000).add(100));
  g.while(READ_ONCE(s.timers.at(id)).ne(s.timers_armed.at(id)), () => {
    safe_halt(g);
    cli(g);
  });
  sti(g);
});

const my_id = (g: GuestCode): Expr => g.let(x2apic_read_reg(g, APIC_REG.ID).cast(u64));

const ipi_handler = guestFn('ipi_handler', [ptr(ExRegs)], (g, regs) => {
  const id = my_id(g);
  g.inc(s.ipis.at(id.mul(MAX_VCPUS).add(regs.f.vector.sub(IPI_VECTOR))));
  x2apic_write_reg(g, APIC_REG.EOI, 0);
});

const timer_handler = guestFn('timer_handler', [ptr(ExRegs)], (g) => {
  g.inc(s.timers.at(my_id(g)));
  x2apic_write_reg(g, APIC_REG.EOI, 0);
});

const guest_code = guestFn('guest_code', [u64], (g, id) => {
  const i = g.local(u64);
  x2apic_enable(g);
  x2apic_write_reg(g, APIC_REG.TDCR, 0xb);
  x2apic_write_reg(g, APIC_REG.LVTT, TIMER_VECTOR);
  sti(g);
  // An IPI to an APIC that is not on yet is lost.
  barrier(g, s.started);
  g.forRange(i, 0, s.steps, 1, () => {
    g.switch(
      draw(g, id).mod(16),
      [
        [[0, 1, 2], () => step_stable(g, id)],
        [[3, 4, 5], () => step_moving(g, id)],
        [[6, 7, 8, 9], () => step_dropped(g, id)],
        [[10, 11], () => step_counter(g, id)],
        [[12, 13], () => step_code(g, id)],
        [14, () => step_ipi(g, id)],
      ],
      () => step_timer(g, id),
    );
  });
  // Nobody leaves before all are through: an IPI wants its receiver.
  barrier(g, s.finished);
  GUEST_DONE(g);
});

export const linkStress = () => linkGuest(guest_code, ipi_handler, timer_handler, ...Object.values(shared));
