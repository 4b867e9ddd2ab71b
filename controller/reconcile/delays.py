"""Delays of links as they are measured: which of them count in paths.

    as declared ── both ends measure more for SLOWER_S ──────────────────▶ as measured
                ◀── what is declared, or less, for STEADY_S; ever longer ──┘  └ something else for as long

Who declares a delay says what a link takes when it is well: what is measured counts where it is more. It decides which
of the paths that hold what is required are preferred (`Graph.measured`), not whether they hold it: promises to
neighbours and bounds of intents stand on what is declared. `restoration.follow_measured` moves what is in use.
"""

from collections.abc import Iterable

from msgspec.structs import replace

from controller.model.discovery import LinkDelay
from controller.model.inventory import Link
from controller.reconcile.facts import MEASURED_S, measurements
from controller.reconcile.transaction import Transaction

APART_US, APART_SHARE = 2000, 0.2
"""So much two delays differ at least before they are not the same."""
SLOWER_S = 5.0
STEADY_S = 30.0
FLAPS_MAX = 5
"""A link that was slower again soon after it had come back has to be well for twice as long, up to 16 minutes."""
QUIET_S = 600.0
"""So long after it has come back a link has flapped when it is slower again."""


def apart(one_us: int, other_us: int) -> bool:
    return abs(one_us - other_us) > max(APART_US, APART_SHARE * min(one_us, other_us))


def learn(transaction: Transaction, links: Iterable[str]) -> bool:
    """What is known of these now; whether what counts is another than before."""
    for name in links:
        before = transaction.link_delays.get(name)
        link = transaction.links.get(name)
        now = _learnt(transaction, link, before or LinkDelay()) if link is not None and link.b is not None else None
        if now is None:
            transaction.link_delays.drop(name)
            transaction.delays.drop(name)
            continue
        transaction.link_delays.put(name, now)
        if now.counts_us is None:
            transaction.delays.drop(name)
        else:
            transaction.delays.put(name, now.counts_us)
        if now.counts_us != (before.counts_us if before is not None else None):
            counts = "as declared" if now.counts_us is None else f"{now.counts_us / 1000:g} ms"
            transaction.log("link_delay", link=name, counts=counts)
    return transaction.delays.changed


def _learnt(transaction: Transaction, link: Link, before: LinkDelay) -> LinkDelay | None:
    """None: nothing worth remembering."""
    now_s = transaction.now_s
    said = [measurement.delay_us for _, measurement in measurements(link, transaction.nodes.all, now_s)]
    if len(said) < 2:  # what one end alone says may be its own doing; agents that begin anew have not measured yet
        is_recent = 0 <= now_s - before.measured_s <= MEASURED_S
        return replace(before, other_since_s=None) if is_recent and before != LinkDelay() else None
    measured_us = min(said)
    wanted_us = measured_us if measured_us > link.delay_us and apart(measured_us, link.delay_us) else None
    goal_us = link.delay_us if wanted_us is None else wanted_us
    counting_us = link.delay_us if before.counts_us is None else before.counts_us
    if (wanted_us is None) == (before.counts_us is None) and not apart(goal_us, counting_us):
        is_forgotten = before.counts_us is None and now_s - before.back_s > QUIET_S
        return None if is_forgotten else replace(before, other_since_s=None, measured_s=now_s)
    since_s = before.other_since_s
    if since_s is None or since_s > now_s:
        return replace(before, other_since_s=now_s, measured_s=now_s)
    if now_s - since_s < (SLOWER_S if goal_us > counting_us else STEADY_S * 2**before.flaps):
        return replace(before, measured_s=now_s)
    flaps, back_s = before.flaps, before.back_s
    if wanted_us is None:
        back_s = now_s
    elif before.counts_us is None:
        flaps = min(flaps + 1, FLAPS_MAX) if now_s - back_s <= QUIET_S * (1 + flaps) else 0
    return LinkDelay(counts_us=wanted_us, since_s=now_s, measured_s=now_s, back_s=back_s, flaps=flaps)
