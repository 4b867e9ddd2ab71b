"""How often one agreement changes on behalf of a neighbour.

Each renewal that a neighbour offers is offered onward, and each new promise of the next domain is promised anew to the
one before: what one of them says a hundred times a second all on the way would have to answer. So an agreement has a
share; what comes faster waits, and only the newest of it is carried on.
"""

from msgspec.structs import replace

from controller.model.stitch import Session, Stitch
from controller.reconcile.transaction import Transaction

AT_ONCE_MAX = 60
EVERY_S = 1.0
"""From then on."""


def take_share(transaction: Transaction, stitch: Stitch, session: Session) -> Session | None:
    """One change of what `stitch` carries for others, `session`, as that is then; None: it is put off until there is a
    share again, when `agreements.watch_leases` goes on with it."""
    now_s, reserve_s = transaction.now_s, AT_ONCE_MAX * EVERY_S
    used_s = min(max(session.share_used_s, now_s), now_s + reserve_s)  # the clock may have been set back
    if used_s + EVERY_S <= now_s + reserve_s:
        taken = replace(session, share_used_s=used_s + EVERY_S, put_off_s=0.0)
        transaction.put_stitch(replace(stitch, upstream=taken))
        return taken
    waiting = replace(session, share_used_s=used_s, put_off_s=used_s + EVERY_S - reserve_s)
    transaction.put_stitch(replace(stitch, upstream=waiting))
    return None


def has_waited(session: Session, now_s: float) -> bool:
    """Whether what was put off is to go on: its time has come, or the clock was set back."""
    return session.put_off_s != 0 and not 0 < session.put_off_s - now_s <= EVERY_S
