"""What neighbouring domains send us."""

import math

import msgspec

from controller.fulfillment import negotiate, protocol
from controller.fulfillment.amending import narrowed, widened
from controller.fulfillment.negotiate import offer_objection, renewal_objection, signature_objection
from controller.fulfillment.place import place
from controller.fulfillment.policy import destination_domain, refusal
from controller.fulfillment.protocol import PROTOCOL, Reaction, Role, Word, after, word
from controller.model.agreement import (
    AMENDS,
    REASON_LENGTH,
    Acceptance,
    Envelope,
    Holdings,
    Message,
    Refusal,
    RenewedKeys,
    Routes,
    Said,
    Terms,
    Unreadable,
    WayBack,
    Withdrawal,
    opened,
    opened_mandate,
)
from controller.model.intent import Encryption
from controller.model.inventory import Domain
from controller.model.plan import Plan, Way
from controller.model.requirements import Connection, Unsatisfiable
from controller.model.stitch import Fact, HeldOff, Session, Stage, Standing, Stitch
from controller.model.told import Told, Why, heard, passed_on
from controller.reconcile import tunnel_keys
from controller.reconcile.advertising.hearing import hear
from controller.reconcile.bundles import members, put_session
from controller.reconcile.identifiers import NoNumber
from controller.reconcile.link_state import confirm, wait_s
from controller.reconcile.negotiation.agreements import answer, keep_promise, offer_onward, repeat_answer
from controller.reconcile.negotiation.amendments import refused_for_all
from controller.reconcile.negotiation.comparing import compare
from controller.reconcile.negotiation.withdrawals import (
    MAX_LINGER_S,
    Ending,
    end,
    flow_name,
    hold_off,
    intent_name,
    lose,
    mandate_name,
    refuse,
    refuse_upstream,
    take_away,
    withdraw,
)
from controller.reconcile.peer_admission import asked, refused_flows
from controller.reconcile.restoration import reroute
from controller.reconcile.serials import next_serial
from controller.reconcile.state import Closed
from controller.reconcile.tables import asker_key, mandate_key, peer_key
from controller.reconcile.transaction import Leaving, Lost, Transaction, understands
from controller.reconcile.tunnel_ends import end_objection

SPENT_MAX = 4096
"""Numbers (of agreements, and of the mandates they stood on) that one peer cannot use again, which are remembered until
nobody could use them any more. Who has so many makes no new agreement before some are forgotten."""
SPENT_RETRY_S = 60
STRAY_S = 3600
"""For so long a peer that accepted what nobody here knows is told so."""


def receive(transaction: Transaction, peer_name: str, envelope: Envelope, objection: str = "") -> None:
    """Repeats change nothing; what is not `peer_name`'s to say changes nothing. `objection`: of a strategy."""
    peer = transaction.domains.get(peer_name)
    if peer is None or peer.own:
        transaction.log("peer_violation", "error", peer=peer_name, reason="a message of a domain that we do not know")
        return
    try:
        message = opened(envelope)
    except Unreadable as error:
        transaction.log("peer_violation", "error", peer=peer_name, reason=str(error))
        return
    if reason := signature_objection(envelope, peer, transaction.keys):
        _violation(transaction, peer, message, Why(Told.SIGNATURE, reason))
        return
    if isinstance(message, Holdings):
        compare(transaction, peer.name, message)
    elif isinstance(message, WayBack):
        transaction.ways_back.add(peer.name)
    elif isinstance(message, Routes):
        hear(transaction, peer.name, message)
    elif isinstance(message, RenewedKeys):
        if reason := tunnel_keys.hear(transaction, peer.name, message):
            _violation(transaction, peer, message, Why(Told.INVALID, reason))
    elif why := _offer_objection(transaction, peer, message) if isinstance(message, Terms) else None:
        _violation(transaction, peer, message, why)
    else:
        _hear(transaction, peer, message, envelope, objection)


def _violation(transaction: Transaction, peer: Domain, message: Message, why: Why) -> None:
    """What counts for nothing is logged, an offer is answered, and who waits for an answer sees why it was none."""
    about = {} if isinstance(message, Holdings | WayBack | Routes | RenewedKeys) else {"agreement": message.id}
    transaction.log("peer_violation", "error", peer=peer.name, reason=why.detail, **about)
    if isinstance(message, Terms):
        refuse(transaction, peer.name, message, why)
    elif isinstance(message, Acceptance):
        stitch = transaction.stitches.get(transaction.agreements.get(message.id) or "")
        session = stitch.downstream if stitch is not None else None
        if stitch is not None and session is not None and (session.terms.id, session.peer) == (message.id, peer.name):
            put_session(transaction, stitch, msgspec.structs.replace(session, reason=heard(why.detail)))


def _offer_objection(transaction: Transaction, peer: Domain, terms: Terms) -> Why | None:
    if why := offer_objection(terms, peer, transaction.inventory, transaction.own, transaction.now_s, transaction.keys):
        return why
    if terms.encryption == Encryption.WIREGUARD_PQ and terms.border not in transaction.renewing:
        return Why(Told.RELEASE, f"the gateway of {transaction.own} at {terms.border} has no keys that are renewed")
    reason = end_objection(transaction, terms.border, terms.offeror_end)
    return Why(Told.INVALID, reason) if reason else None


def _hear(transaction: Transaction, peer: Domain, message: Said, envelope: Envelope, objection: str) -> None:
    """Does what the protocol says of it."""
    stitch = transaction.stitches.get(transaction.agreements.get(message.id) or "")
    sessions = (stitch.upstream, stitch.downstream) if stitch is not None else ()
    session = next((session for session in sessions if session is not None and session.terms.id == message.id), None)
    by_peer = message.id.startswith(f"{peer.name}:")
    if (session is not None and session.peer != peer.name) or not (
        by_peer or message.id.startswith(f"{transaction.own}:")
    ):
        _violation(transaction, peer, message, Why(Told.INVALID, f"the agreement is not {peer.name}'s to speak of"))
        return
    speaker = Role.OFFEROR if by_peer else Role.ACCEPTOR
    standing = _standing(transaction, stitch, session, message)
    said = word(session, message, envelope)
    if reason := protocol.objection(speaker, standing, said):
        _violation(transaction, peer, message, Why(Told.INVALID, reason))
        return
    match PROTOCOL[speaker, standing, said].reaction, message:
        case Reaction.JUDGE, Terms():
            _judge(transaction, peer, message, envelope, objection)
        case Reaction.JUDGE_RENEWAL, Terms() if stitch is not None and session is not None:
            _judge_renewal(transaction, stitch, session, message, envelope, objection)
        case Reaction.REPEAT, Terms() if session is not None:
            repeat_answer(transaction, session)
        case Reaction.REFUSE, Terms():
            refuse(transaction, peer.name, message, _why_not(transaction, session, message))
        case Reaction.INSTALL | Reaction.TAKE_PROMISE, Acceptance() if stitch is not None and session is not None:
            _accepted(transaction, peer, stitch, session, message, envelope)
        case Reaction.TRY_ELSEWHERE | Reaction.KEEP, Refusal() if stitch is not None and session is not None:
            by = f"{message.by}: " if message.by not in ("", peer.name) else ""
            held_off = hold_off(transaction, stitch, message.retry_after_s)
            refused(transaction, stitch, session, heard(by + message.reason), held_off, message)
        case Reaction.END, Withdrawal() if stitch is not None and session is not None:
            _withdrawn(transaction, stitch, session, message)
        case Reaction.TAKE_AWAY, Withdrawal() if stitch is not None and session is not None:
            _taken_away(transaction, stitch, session, message)
        case Reaction.DISOWN, _:
            why = Why(Told.UNWANTED, "it is not wanted any more")
            withdraw(transaction, peer.name, message.id, why, until_s=transaction.now_s + STRAY_S, unasked=True)


def _standing(transaction: Transaction, stitch: Stitch | None, session: Session | None, message: Said) -> Standing:
    if _closed(transaction, message) is not None or (stitch is not None and _lingers(stitch)):
        return Standing.ENDED
    return session.standing if session is not None else Standing.UNKNOWN


def _lingers(stitch: Stitch) -> bool:
    """Its neighbours have been told; of what is shared they are told when it is over."""
    return stitch.stage == Stage.LINGERING and not stitch.plan.bundle


def _closed(transaction: Transaction, message: Said) -> Closed | None:
    """What is known of an agreement that has ended, or of the one that stood on the same mandate."""
    mandate = mandate_name(opened_mandate(message.mandate).id) if isinstance(message, Terms) else ""
    return transaction.closed.get(message.id) or transaction.closed.get(mandate)


def _why_not(transaction: Transaction, session: Session | None, terms: Terms) -> Why:
    if (closed := _closed(transaction, terms)) is not None:
        return Why(closed.told, closed.reason)
    if session is not None and terms.revision < session.terms.revision:
        return Why(Told.CHANGED, f"revision {terms.revision} was followed by {session.terms.revision} (replayed)")
    return Why(Told.CHANGED, f"revision {terms.revision} was offered with other terms before")


def _judge(transaction: Transaction, peer: Domain, terms: Terms, offer: Envelope, objection: str) -> None:
    why, retry_after_s = _objection(transaction, peer, terms, objection)
    if why is not None:
        flows = refused_flows(transaction, terms) if why.told == Told.POLICY else ()
        refuse(transaction, peer.name, terms, why, retry_after_s, flows=flows)
        return
    if confirm(transaction, terms.border):
        reroute(transaction)
    standing = after(None, Role.OFFEROR, Word.OFFER)
    session = Session(
        peer=peer.name, offeror=False, standing=standing, terms=terms, offer=offer, since_s=int(transaction.now_s)
    )
    _carry_on(transaction, session, excluded=())


def _objection(transaction: Transaction, peer: Domain, terms: Terms, objection: str) -> tuple[Why | None, int]:
    """Why we do not take on what `peer` offers, and for how long."""
    if reason := refusal(terms, transaction.policy, transaction.own, transaction.now_s) or objection:
        return Why(Told.POLICY, reason), 0
    mandate = opened_mandate(terms.mandate).id
    for name in (intent_name(mandate), *(flow_name(terms.origin, flow) for flow in terms.flows)):
        ended = transaction.closed.get(name)
        if ended is not None and transaction.now_s < ended.until_s:
            return Why(ended.told, ended.reason), math.ceil(ended.until_s - transaction.now_s)
    if transaction.stitches.all.count(mandate_key(mandate)):
        return Why(Told.CHANGED, f"another agreement stands on mandate {mandate}, which supports one at a time"), 0
    if (count := transaction.stitches.all.count(asker_key(peer.name))) >= transaction.policy.max_agreements:
        return Why(Told.SHARE, f"{transaction.own} has {count} agreements with {peer.name}, which is the most"), 0
    if (spent := transaction.closed.all.count(peer_key(peer.name))) >= SPENT_MAX:
        reason = f"{spent} numbers of ended agreements with {peer.name} are remembered, which is the most"
        return Why(Told.SHARE, reason), SPENT_RETRY_S
    return None, 0


def _judge_renewal(
    transaction: Transaction, stitch: Stitch, session: Session, terms: Terms, offer: Envelope, objection: str
) -> None:
    """What is agreed stays as it is meanwhile, but for flows that are not wanted any more: they are gone at once."""
    agreed = session.agreement.terms if session.agreement is not None else session.terms
    if reason := renewal_objection(agreed, terms):
        refuse(transaction, session.peer, terms, Why(Told.CHANGED, reason))
        return
    if reason := refusal(terms, transaction.policy, transaction.own, transaction.now_s) or objection:
        refuse(transaction, session.peer, terms, Why(Told.POLICY, reason), flows=refused_flows(transaction, terms))
        return
    wanted = _amended(transaction, stitch, terms)
    if isinstance(wanted, Why):
        refuse(transaction, session.peer, terms, wanted, flows=refused_flows(transaction, terms))
        return
    standing = after(session, Role.OFFEROR, Word.OFFER)
    renewed = msgspec.structs.replace(
        session, standing=standing, terms=terms, offer=offer, answer=None, since_s=int(transaction.now_s)
    )
    plan = narrowed(stitch.plan, frozenset(terms.flows))
    if plan is not stitch.plan:
        transaction.fresh.add(plan.name)
    try:
        transaction.put_stitch(msgspec.structs.replace(stitch, plan=plan, wanted=wanted, upstream=renewed))
    except NoNumber as error:
        refuse(transaction, session.peer, terms, Why(Told.ROOM, str(error)))
        return
    answer(transaction, plan.name)


def _amended(transaction: Transaction, stitch: Stitch, terms: Terms) -> Plan | Why | None:
    """What the plan is to become, where these terms have flows that it has not; or why it cannot. What it has is not
    judged again by itself."""
    if {*terms.flows} <= {*stitch.plan.connection.flows}:
        return None
    if stitch.plan.egress is not None and not understands(transaction, stitch.plan.egress.domain, AMENDS):
        return Why(Told.RELEASE, f"the release of {stitch.plan.egress.domain} does not amend agreements")
    connection = asked(transaction, terms, stitch.plan.connection)
    if isinstance(connection, Why):
        return connection
    if stitch.plan.egress is not None:
        return msgspec.structs.replace(stitch.plan, connection=connection)
    placed = _place(transaction, terms, connection, (), stitch.plan.serial)
    if isinstance(placed, Unsatisfiable):
        return Why(
            Told.WAY, f"{transaction.own} has no way to all destinations that holds what is required ({placed.binding})"
        )
    return widened(stitch.plan, placed)


def _carry_on(transaction: Transaction, session: Session, excluded: tuple[str, ...]) -> None:
    """Place our part of what a neighbour offers; then offer onward, or answer."""
    terms = session.terms
    connection = asked(transaction, terms)
    if isinstance(connection, Why):
        why, retry_after_s = connection, 0
    else:
        placed = _place(transaction, terms, connection, excluded, next_serial(transaction))
        if isinstance(placed, Plan):
            _begin(transaction, session, placed)
            return
        destination = destination_domain(terms)
        reason = f"{transaction.own} has no way to {destination} that holds what is required ({placed.binding})"
        why, retry_after_s = Why(Told.WAY, reason), wait_s(transaction)
        transaction.log("offer_unsatisfiable", "warning", agreement=terms.id, reason=placed.message)
    flows = refused_flows(transaction, terms) if why.told == Told.DESTINATION else ()
    refuse(transaction, session.peer, terms, why, retry_after_s, flows=flows)


def _place(
    transaction: Transaction, terms: Terms, connection: Connection, excluded: tuple[str, ...], serial: int
) -> Plan | Unsatisfiable:
    link = transaction.inventory.links[terms.border]
    ingress = Way(border=link.name, node=link.a.node, domain=link.domain, delay_us=link.delay_us, latency_us=0)
    return place(
        connection,
        transaction.graph,
        name=terms.id,
        owner=f"agreements/{terms.id}",
        ingress=ingress,
        visited=terms.visited,
        excluded=excluded,
        serial=serial,
    )


def _begin(transaction: Transaction, session: Session, plan: Plan) -> None:
    stitch = Stitch(plan=plan, serial=transaction.number("serial"), stage=Stage.NEGOTIATING, upstream=session)
    try:
        transaction.put_stitch(stitch)
    except NoNumber as error:
        transaction.log("offer_unsatisfiable", "error", agreement=session.terms.id, reason=str(error))
        refuse(
            transaction,
            session.peer,
            session.terms,
            Why(Told.ROOM, f"{transaction.own} has no room for another agreement"),
        )
        return
    answer(transaction, plan.name)


def _accepted(
    transaction: Transaction, peer: Domain, stitch: Stitch, session: Session, acceptance: Acceptance, envelope: Envelope
) -> None:
    agreed, objection = negotiate.accepted(session, acceptance, envelope, peer, transaction.now_s)
    if agreed != session:
        objection = end_objection(transaction, session.terms.border, acceptance.acceptor_end)
    if objection:
        _violation(transaction, peer, acceptance, Why(Told.INVALID, objection))
        return
    if agreed == session:
        return
    ours = stitch.upstream is None
    _log(transaction, "agreed", stitch, agreed)
    if stitch.plan.bundle:
        put_session(transaction, stitch, agreed)
        transaction.loose.setdefault(stitch.plan.bundle, Leaving(session=agreed))
        return
    stage = stitch.stage.after(Fact.SIGNED) if ours else stitch.stage
    if stage != stitch.stage:
        transaction.fresh.add(stitch.plan.name)
    transaction.put_stitch(msgspec.structs.replace(stitch, downstream=agreed, stage=stage))
    if not ours:
        answer(transaction, stitch.plan.name)
        keep_promise(transaction, stitch.plan.name)


def refused(
    transaction: Transaction,
    stitch: Stitch,
    session: Session,
    reason: str,
    held_off: HeldOff | None,
    said: Refusal | None = None,
) -> None:
    """Our newest offer is. What is agreed stays as it is; else the other ways are tried. `held_off`: where we do not
    ask again for a while. `said`: by the neighbour's controller; None: its release does not take offers like this."""
    if stitch.plan.bundle:
        refused_for_all(transaction, stitch, session, reason, held_off, said)
        return
    standing = after(session, Role.ACCEPTOR, Word.REFUSAL)
    session = msgspec.structs.replace(session, standing=standing, reason=reason[:REASON_LENGTH])
    if standing == Standing.ENDED:
        _try_elsewhere(transaction, stitch, session, held_off, said)
        return
    stitch = msgspec.structs.replace(stitch, downstream=session)
    transaction.put_stitch(stitch)
    _log(transaction, "renewal_refused", stitch, session)
    if stitch.upstream is not None:
        if stitch.upstream.standing.unanswered:
            _pass_on(transaction, stitch, session, said)
        keep_promise(transaction, stitch.plan.name)


def _log(transaction: Transaction, event: str, stitch: Stitch, session: Session) -> None:
    transaction.log(
        event,
        agreement=session.terms.id,
        revision=str(session.terms.revision),
        peer=session.peer,
        owner=stitch.plan.owner,
    )


def _try_elsewhere(
    transaction: Transaction, stitch: Stitch, session: Session, held_off: HeldOff | None, said: Refusal | None
) -> None:
    """The other ways; if there is none, who asked us is refused too."""
    transaction.log("refused", "warning", agreement=session.terms.id, peer=session.peer, reason=session.reason)
    upstream = stitch.upstream
    if upstream is None:
        end(transaction, stitch, Why(Told.BEYOND, session.reason), towards_downstream=False)
        transaction.lost.append(Lost(stitch=stitch, refusal=f"{session.peer}: {session.reason}", held_off=held_off))
        return
    tried = (*stitch.excluded, session.terms.border)
    placed = _place(transaction, upstream.terms, stitch.plan_to_be.connection, tried, stitch.plan.serial)
    if isinstance(placed, Unsatisfiable):
        _pass_on(transaction, msgspec.structs.replace(stitch, downstream=None), session, said)
        return
    try:
        transaction.put_stitch(
            msgspec.structs.replace(stitch, plan=placed, wanted=None, downstream=None, excluded=tried)
        )
    except NoNumber as error:
        transaction.log("no_room", "warning", owner=stitch.plan.owner, plan=stitch.plan.name, reason=str(error))
        _pass_on(transaction, msgspec.structs.replace(stitch, downstream=None), session, said)
        return
    offer_onward(transaction, placed.name)


def _pass_on(transaction: Transaction, stitch: Stitch, refused: Session, said: Refusal | None) -> None:
    """Who asked us hears what we have heard, if it is one of what is told."""
    told, by = passed_on(refused.reason, refused.peer)
    # how long an amendment is refused is not said: what it would have added is asked for again by itself
    is_first = stitch.upstream is not None and stitch.upstream.agreement is None
    retry_after_s = said.retry_after_s if said is not None and is_first else 0
    why = Why(told, f"{refused.peer}: {refused.reason}")
    refuse_upstream(transaction, stitch, why, retry_after_s, by, said.flows if said is not None else ())


def _withdrawn(transaction: Transaction, stitch: Stitch, session: Session, message: Withdrawal) -> None:
    """With it end all that share it."""
    transaction.forget_messages(message.id)
    for member in members(transaction, stitch):
        _ended(transaction, member, session, message)


def _taken_away(transaction: Transaction, stitch: Stitch, session: Session, message: Withdrawal) -> None:
    """What stands on these flows ends here too; the rest of what shares the agreement goes on."""
    gone = frozenset(message.flows)
    for member in members(transaction, stitch):
        if gone.isdisjoint(member.plan.connection.flows):
            continue
        why, ending = _why_ended(transaction, session, message)
        if member.upstream is not None:
            take_away(transaction, member, gone & {*member.plan.connection.flows}, why, ending)
        else:
            lose(transaction, member, why, ending=ending)


def _why_ended(transaction: Transaction, session: Session, message: Withdrawal) -> tuple[Why, Ending]:
    reason, peer = heard(message.reason), session.peer
    told, _ = passed_on(reason, peer)
    # of what we ended ourselves nobody has to tell us
    ended_by = message.ended_by if message.ended_by != transaction.own else peer
    why = Why(told, reason if message.ended_by else f"{peer} has withdrawn it: {reason}")
    return why, Ending(domain=ended_by, retry_after_s=message.retry_after_s)


def _ended(transaction: Transaction, stitch: Stitch, session: Session, message: Withdrawal) -> None:
    why, ending = _why_ended(transaction, session, message)
    if message.linger_s and not session.offeror and stitch.stage.after(Fact.REPLACED) == Stage.LINGERING:
        end(transaction, stitch, why, towards_upstream=False, linger_s=min(message.linger_s, MAX_LINGER_S))
    elif stitch.stage == Stage.REMOVING:
        end(transaction, stitch, why, towards_upstream=session.offeror, towards_downstream=not session.offeror)
    else:
        lose(
            transaction, stitch, why, from_upstream=not session.offeror, from_downstream=session.offeror, ending=ending
        )
