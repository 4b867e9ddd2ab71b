"""What two neighbours may say of an agreement, and what follows: one table, for both of them.

Who speaks takes the step when it speaks, and who hears takes the same step when it hears it; so both stand alike, as
soon as nothing is under way. What is not in the table is not that side's to say, and is refused with that reason.
docs/agreements.md shows it as a figure, made from this (controller/protocol_figure.py).
"""

import enum
from typing import NamedTuple

from controller.model.agreement import Acceptance, Envelope, Refusal, Said, Terms, Withdrawal
from controller.model.stitch import Session, Standing


class Role(enum.StrEnum):
    OFFEROR = "offeror"
    ACCEPTOR = "acceptor"


class Word(enum.StrEnum):
    """What a message is to what was said before."""

    OFFER = "offer"
    """Of a newer revision than all before."""
    SAME_OFFER = "same offer"
    """The newest, once more."""
    STALE_OFFER = "stale offer"
    """Of an older revision, or other terms in the same one."""
    ACCEPTANCE = "acceptance"
    """Of the newest offer."""
    REFUSAL = "refusal"
    STALE_ANSWER = "stale answer"
    """To an older offer."""
    WITHDRAWAL = "withdrawal"
    PART = "withdrawal of flows"
    """The rest stays as it is."""


SPEAKERS: dict[Role, frozenset[Word]] = {
    Role.OFFEROR: frozenset((Word.OFFER, Word.SAME_OFFER, Word.STALE_OFFER, Word.WITHDRAWAL)),
    Role.ACCEPTOR: frozenset((Word.ACCEPTANCE, Word.REFUSAL, Word.STALE_ANSWER, Word.WITHDRAWAL, Word.PART)),
}


class Reaction(enum.StrEnum):
    """What who hears it does."""

    NOTHING = "nothing"
    JUDGE = "judges it, places its part, offers on; then answers"
    JUDGE_RENEWAL = "judges what has changed, offers on; then answers"
    REPEAT = "says its acceptance again"
    REFUSE = "refuses it, and all stays as it is"
    INSTALL = "installs what is agreed"
    TAKE_PROMISE = "takes over what is promised anew"
    KEEP = "keeps what was agreed, until that ends"
    TRY_ELSEWHERE = "tries the other ways"
    TAKE_AWAY = "takes these away, and what stands on them"
    END = "ends it, and all that stands on it"
    DISOWN = "withdraws it, since it is not wanted any more"


class Step(NamedTuple):
    standing: Standing
    reaction: Reaction


_O, _A = Role.OFFEROR, Role.ACCEPTOR
_UNKNOWN, _OFFERED, _AGREED, _RENEWING, _ENDED = Standing

PROTOCOL: dict[tuple[Role, Standing, Word], Step] = {
    (_O, _UNKNOWN, Word.OFFER): Step(_OFFERED, Reaction.JUDGE),
    (_O, _OFFERED, Word.OFFER): Step(_OFFERED, Reaction.JUDGE_RENEWAL),
    (_O, _AGREED, Word.OFFER): Step(_RENEWING, Reaction.JUDGE_RENEWAL),
    (_O, _RENEWING, Word.OFFER): Step(_RENEWING, Reaction.JUDGE_RENEWAL),
    (_O, _ENDED, Word.OFFER): Step(_ENDED, Reaction.REFUSE),
    (_O, _OFFERED, Word.SAME_OFFER): Step(_OFFERED, Reaction.NOTHING),
    (_O, _AGREED, Word.SAME_OFFER): Step(_AGREED, Reaction.REPEAT),
    (_O, _RENEWING, Word.SAME_OFFER): Step(_RENEWING, Reaction.NOTHING),
    (_O, _ENDED, Word.SAME_OFFER): Step(_ENDED, Reaction.REFUSE),
    (_O, _OFFERED, Word.STALE_OFFER): Step(_OFFERED, Reaction.REFUSE),
    (_O, _AGREED, Word.STALE_OFFER): Step(_AGREED, Reaction.REFUSE),
    (_O, _RENEWING, Word.STALE_OFFER): Step(_RENEWING, Reaction.REFUSE),
    (_O, _ENDED, Word.STALE_OFFER): Step(_ENDED, Reaction.REFUSE),
    (_A, _UNKNOWN, Word.ACCEPTANCE): Step(_UNKNOWN, Reaction.DISOWN),
    (_A, _OFFERED, Word.ACCEPTANCE): Step(_AGREED, Reaction.INSTALL),
    (_A, _AGREED, Word.ACCEPTANCE): Step(_AGREED, Reaction.TAKE_PROMISE),
    (_A, _RENEWING, Word.ACCEPTANCE): Step(_AGREED, Reaction.INSTALL),
    (_A, _UNKNOWN, Word.REFUSAL): Step(_UNKNOWN, Reaction.NOTHING),
    (_A, _OFFERED, Word.REFUSAL): Step(_ENDED, Reaction.TRY_ELSEWHERE),
    (_A, _AGREED, Word.REFUSAL): Step(_AGREED, Reaction.NOTHING),
    (_A, _RENEWING, Word.REFUSAL): Step(_AGREED, Reaction.KEEP),
}
PROTOCOL |= {
    (_A, standing, Word.STALE_ANSWER): Step(standing, Reaction.NOTHING) for standing in (_OFFERED, _AGREED, _RENEWING)
}
PROTOCOL |= {
    (_A, _ENDED, word): Step(_ENDED, Reaction.NOTHING) for word in (Word.ACCEPTANCE, Word.REFUSAL, Word.STALE_ANSWER)
}
PROTOCOL |= {(_A, standing, Word.PART): Step(standing, Reaction.TAKE_AWAY) for standing in (_AGREED, _RENEWING)}
PROTOCOL |= {(_A, standing, Word.PART): Step(standing, Reaction.NOTHING) for standing in (_UNKNOWN, _OFFERED, _ENDED)}
PROTOCOL |= {
    (role, standing, Word.WITHDRAWAL): Step(_ENDED, Reaction.END)
    for role in Role
    for standing in (_OFFERED, _AGREED, _RENEWING)
}
PROTOCOL |= {
    (role, standing, Word.WITHDRAWAL): Step(standing, Reaction.NOTHING)
    for role in Role
    for standing in (_UNKNOWN, _ENDED)
}


def word(session: Session | None, message: Said, envelope: Envelope) -> Word:
    """What a message is to what has been said in `session`; None: nothing has."""
    match message:
        case Withdrawal():
            return Word.PART if message.flows else Word.WITHDRAWAL
        case Terms():
            if session is not None and envelope == session.offer:
                return Word.SAME_OFFER
            return Word.OFFER if session is None or message.revision > session.terms.revision else Word.STALE_OFFER
        case Acceptance():
            stale = session is not None and message.revision < _awaited(session).revision
            return Word.STALE_ANSWER if stale else Word.ACCEPTANCE
        case Refusal():
            stale = session is not None and message.revision != session.terms.revision
            return Word.STALE_ANSWER if stale else Word.REFUSAL


def _awaited(session: Session) -> Terms:
    """What the next acceptance may be about: where nothing is offered, what is in force is promised anew."""
    in_force = session.agreement if session.standing == Standing.AGREED else None
    return in_force.terms if in_force is not None else session.terms


def after(session: Session | None, speaker: Role, said: Word) -> Standing:
    """Where it leads; KeyError where it is not to be said."""
    return PROTOCOL[speaker, session.standing if session is not None else Standing.UNKNOWN, said].standing


def objection(speaker: Role, standing: Standing, said: Word) -> str:
    """Why something is not to be said; empty: it is."""
    if (speaker, standing, said) in PROTOCOL:
        return ""
    if said not in SPEAKERS[speaker]:
        return f"a {said} is not the {speaker}'s to say"
    return f"nothing was offered that a {said} could be about"
