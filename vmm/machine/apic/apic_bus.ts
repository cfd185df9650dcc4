// SPDX-License-Identifier: GPL-2.0-only
/**
 * The wire between local APICs: finds the destinations of an interrupt message and hands it to them at once. After
 * KVM's irq_comm.c and SDM, "Determining IPI Destination". Leaves out I/O APIC messages with redirection hints and focus
 * processors; lowest priority goes to the lowest PPR, then the lowest APIC ID.
 */
import { APIC_DEST, APIC_DFR, APIC_DM, APIC_ICR, APIC_REG } from '../../../lib/x86/apic.ts';
import type { LocalApic } from './local_apic.ts';

/** A message as an ICR describes it. */
export interface ApicMessage {
  /** ICR low word: vector, delivery mode, level, trigger mode, shorthand. */
  readonly icr: number;
  /** Destination: 8 bits from an xAPIC, 32 bits from an x2APIC. */
  readonly dest: number;
  /** The width of `dest`: 0xff or 0xffffffff; also the broadcast address. */
  readonly broadcast: number;
}

export class ApicBus {
  readonly apics: LocalApic[] = [];

  add(apic: LocalApic): void {
    this.apics.push(apic);
  }

  /** Deliver the message of `from`'s ICR; returns the number of destinations. */
  send(from: LocalApic, message: ApicMessage): number {
    const targets = this.apics.filter((apic) => apic.isEnabled() && isDestination(from, apic, message));
    const mode = message.icr & APIC_ICR.DM_MASK;
    const chosen = mode === APIC_DM.LOWEST ? lowestPriority(targets) : targets;
    for (const apic of chosen) {
      apic.receive(
        mode,
        message.icr & APIC_ICR.VECTOR_MASK,
        message.icr & (APIC_ICR.TRIG_LEVEL | APIC_ICR.LEVEL_ASSERT),
      );
    }
    return chosen.length;
  }
}

function lowestPriority(targets: readonly LocalApic[]): readonly LocalApic[] {
  let best: LocalApic | undefined;
  for (const apic of targets) {
    if (!apic.isSoftwareEnabled()) continue;
    if (best === undefined || (apic.ppr() & 0xf0) < (best.ppr() & 0xf0)) best = apic;
  }
  return best === undefined ? [] : [best];
}

function isDestination(from: LocalApic, apic: LocalApic, message: ApicMessage): boolean {
  switch (message.icr & APIC_ICR.DEST_MASK) {
    case APIC_DEST.SELF:
      return apic === from;
    case APIC_DEST.ALLINC:
      return true;
    case APIC_DEST.ALLBUT:
      return apic !== from;
    default:
      return (message.icr & APIC_ICR.DEST_LOGICAL) === 0
        ? matchPhysical(apic, message)
        : matchLogical(apic, message);
  }
}

/** KVM's kvm_apic_match_physical_addr(). */
function matchPhysical(apic: LocalApic, { dest, broadcast }: ApicMessage): boolean {
  return dest === broadcast || (!apic.isX2apic() && dest === 0xff) || dest === apic.id();
}

/** KVM's kvm_apic_match_logical_addr(): flat, cluster or x2APIC cluster model, as the receiver is programmed. */
function matchLogical(apic: LocalApic, { dest, broadcast }: ApicMessage): boolean {
  if (dest === broadcast) return true;
  const ldr = apic.register(APIC_REG.LDR);
  if (apic.isX2apic()) return ldr >>> 16 === dest >>> 16 && (ldr & dest & 0xffff) !== 0;
  const id = ldr >>> 24;
  const dfr = apic.register(APIC_REG.DFR) >>> 0;
  if (dfr === APIC_DFR.FLAT) return (id & dest) !== 0;
  if (dfr === APIC_DFR.CLUSTER)
    return (id >>> 4 === dest >>> 4 || dest >>> 4 === 0xf) && (id & dest & 0xf) !== 0;
  return false;
}
