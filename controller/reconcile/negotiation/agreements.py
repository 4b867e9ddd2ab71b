"""Dealing with neighbouring domains: what we offer, how we answer and renew."""

from collections.abc import Sequence

import msgspec

from controller.fulfillment import numbering, plan_ids
from controller.fulfillment.aliases import views
from controller.fulfillment.fabric import BorderPort
from controller.fulfillment.negotiate import make_acceptance, promise, sealed
from controller.fulfillment.plan_entries import inside_mtu, terms_in_force
from controller.fulfillment.plan_paths import likely_us, own_latency_us, promised_us
from controller.fulfillment.protocol import Role, Word, after
from controller.model.agreement import (
    RENEWS,
    TRANSLATES,
    Envelope,
    Flow,
    Mandate,
    Terms,
    TunnelEnd,
)
from controller.model.intent import Encryption
from controller.model.requirements import Connection
from controller.model.stitch import Fact, Session, Stage, Standing, Stitch
from controller.model.told import Told, Why
from controller.reconcile.bundles import flows_of, members, put_session
from controller.reconcile.negotiation.pace import has_waited, take_share
from controller.reconcile.negotiation.withdrawals import lose, refuse_upstream
from controller.reconcile.resting import rest
from controller.reconcile.tables import renewal_s
from controller.reconcile.transaction import Transaction

ID_NAME_LENGTH = 200
"""Of what others have given a name, in ids of ours."""


def offer_onward(transaction: Transaction, name: str) -> None:
    """The first offer, or a newer one, to the domain that comes next: for all that share the agreement."""
    stitch = transaction.stitches.get(name)
    egress = stitch.plan.egress if stitch is not None else None
    border_port = transaction.fabric.border_ports.get(egress.border) if egress is not None else None
    if stitch is None or egress is None or border_port is None:
        return
    earlier = stitch.downstream
    plan, connection = stitch.plan, stitch.plan.connection
    sharing = members(transaction, stitch)
    upstream = stitch.upstream.terms if stitch.upstream is not None else None
    flows = upstream.flows if upstream is not None else flows_of(sharing)
    expires_s = upstream.expires_s if upstream is not None else _offered_until_s(transaction, stitch)
    id = earlier.terms.id if earlier is not None else _agreement_id(transaction, stitch)
    revision = earlier.terms.revision + 1 if earlier is not None else 1
    lefts_us = [_left_us(transaction, member) for member in sharing]
    left_us = min((us for us in lefts_us if us is not None), default=None)
    mandate = (
        upstream.mandate
        if upstream is not None
        else _mandate(transaction, stitch, flows, id, revision, left_us, expires_s)
    )
    terms = Terms(
        id=id,
        revision=revision,
        offeror=transaction.own,
        acceptor=egress.domain,
        origin=upstream.origin if upstream is not None else transaction.own,
        border=egress.border,
        flows=flows,
        encryption=_encryption(connection),
        trust_min=connection.trust_min,
        latency_us_max=left_us,
        avoid_domains=connection.avoid_domains,
        dscp=connection.dscp,
        visited=(*(upstream.visited if upstream is not None else ()), transaction.own),
        not_before_s=int(transaction.now_s),
        expires_s=expires_s,
        offeror_end=_end(transaction, sharing, border_port, offeror=True),
        mandate=mandate,
        needs=_needs(connection),
        source_prefixes=connection.source_prefixes,
        destination_aliases=connection.destination_aliases,
    )
    offer = sealed(terms, transaction.keys)
    session = Session(
        peer=egress.domain,
        offeror=True,
        standing=after(earlier, Role.OFFEROR, Word.OFFER),
        terms=terms,
        offer=offer,
        agreement=earlier.agreement if earlier is not None else None,
        since_s=int(transaction.now_s),
    )
    put_session(transaction, stitch, session)
    transaction.send(session.peer, offer, id, revision, until_s=expires_s)
    transaction.log("offer_sent", agreement=terms.id, revision=str(terms.revision), peer=session.peer, owner=plan.owner)


def _mandate(
    transaction: Transaction,
    stitch: Stitch,
    flows: tuple[Flow, ...],
    id: str,
    revision: int,
    latency_us_max: int | None,
    expires_s: int,
) -> Envelope:
    """What an intent of ours asks all domains on the way for."""
    connection, egress = stitch.plan.connection, stitch.plan.egress
    mandate = Mandate(
        id=id,
        revision=revision,
        origin=transaction.own,
        carrier=egress.domain if egress is not None else "",
        flows=flows,
        encryption=_encryption(connection),
        trust_min=connection.trust_min,
        latency_us_max=latency_us_max,
        avoid_domains=connection.avoid_domains,
        direct=connection.direct,
        dscp=connection.dscp,
        not_before_s=int(transaction.now_s),
        expires_s=expires_s,
        needs=_needs(connection),
        source_prefixes=connection.source_prefixes,
        destination_aliases=connection.destination_aliases,
    )
    return sealed(mandate, transaction.keys)


def _needs(connection: Connection) -> tuple[str, ...]:
    """Who passes over the first would take the traffic for that of others; who cannot do the second would carry it
    without."""
    translates = (TRANSLATES,) if connection.destination_aliases else ()
    return (*translates, RENEWS) if connection.encryption == Encryption.WIREGUARD_PQ else translates


def _encryption(connection: Connection) -> Encryption:
    """Of what crosses borders, which is in a tunnel whatever is asked for."""
    is_more = connection.encryption == Encryption.WIREGUARD_PQ
    return Encryption.WIREGUARD_PQ if is_more else Encryption.WIREGUARD


def _left_us(transaction: Transaction, stitch: Stitch) -> int | None:
    """Of the latency that is required, for what comes after us. Where we are too slow, what was promised is enough."""
    upstream, session = stitch.upstream, stitch.downstream
    limit_us = upstream.terms.latency_us_max if upstream is not None else stitch.plan.connection.latency_us_max
    if limit_us is None:
        return None
    enough_us = 0
    if upstream is None and session is not None and session.agreement is not None:
        enough_us = session.agreement.latency_us
    return max(limit_us - own_latency_us(stitch.plan, transaction.sr_policies.all), enough_us)


def _offered_until_s(transaction: Transaction, stitch: Stitch) -> int:
    """What is only amended need not get another end: all entries of all that share it would be written again."""
    until_s = _own_expiry(transaction, stitch)
    agreement = stitch.downstream.agreement if stitch.downstream is not None else None
    if not stitch.plan.bundle or agreement is None or agreement.terms.expires_s > until_s:
        return until_s
    is_long = agreement.terms.expires_s - transaction.now_s > transaction.policy.lease_s / 2
    return agreement.terms.expires_s if is_long else until_s


def _own_expiry(transaction: Transaction, stitch: Stitch) -> int:
    ends = [int(transaction.now_s) + transaction.policy.lease_s]
    intent_record = transaction.intent_records.get(stitch.plan.owner.removeprefix("intents/"))
    if intent_record is not None and intent_record.expires_s is not None:
        ends.append(intent_record.expires_s)
    return min(ends)


def _agreement_id(transaction: Transaction, stitch: Stitch) -> str:
    """`offeror:name:serial`, with the name that the origin gave it, as far as there is room for that."""
    name = stitch.plan.owner.removeprefix("intents/")
    if stitch.upstream is not None:
        name = stitch.upstream.terms.id.split(":")[1][:ID_NAME_LENGTH]
    return f"{transaction.own}:{name}:{transaction.number('serial')}"


def _end(transaction: Transaction, sharing: Sequence[Stitch], border_port: BorderPort, *, offeror: bool) -> TunnelEnd:
    """Our side of a border, as the other side must know it."""
    stitch = sharing[0]
    *_, function = plan_ids.from_border(stitch.plan, plan_ids.REVERSE if offeror else plan_ids.FORWARD)
    sid = numbering.sid(transaction.fabric.locators[border_port.node], stitch.ids[function])
    return TunnelEnd(
        sid=numbering.sid_text(sid),
        public_key=border_port.public_key,
        endpoint=border_port.endpoint,
        inner_mtu=min(_size(transaction, stitch_sharing, border_port, offeror=offeror) for stitch_sharing in sharing),
    )


def _size(transaction: Transaction, stitch: Stitch, border_port: BorderPort, *, offeror: bool) -> int:
    """The largest packet that we take at a border, as far as we know what lies behind it."""
    sizes = [inside_mtu(stitch.plan, transaction.fabric, transaction.sr_policies.all), border_port.inner_mtu]
    beyond = stitch.upstream if offeror else stitch.downstream
    if beyond is not None:
        other = transaction.fabric.border_ports.get(beyond.terms.border)
        sizes += [other.inner_mtu] if other is not None else []
        if offeror:
            sizes.append(beyond.terms.offeror_end.inner_mtu)
        elif beyond.agreement is not None:
            sizes.append(beyond.agreement.acceptor_end.inner_mtu)
    return max(min(sizes), 0)


def watch_ends(transaction: Transaction) -> None:
    """Where our end of a border is another than we have signed (a gateway has a new key or endpoint, or takes smaller
    packets), the neighbour is told. What we accepted is promised anew if packets are smaller, and ends if it is another
    end, so that it is asked again; what we offered is offered anew."""
    for name in tuple(transaction.stitches.all):
        stitch = transaction.stitches.get(name)
        if stitch is None:
            continue
        upstream, downstream = stitch.upstream, stitch.downstream
        signed = (upstream.answer or upstream.agreement) if upstream is not None else None
        if signed is not None and _is_elsewhere(transaction, signed.terms.border, signed.acceptor_end):
            lose(transaction, stitch, Why(Told.LOST, f"the tunnel of {transaction.own} has a new end"), at_once=True)
            continue
        if stitch.stage == Stage.ACTIVE:
            keep_promise(transaction, stitch.plan.name)
        border_port = transaction.fabric.border_ports.get(downstream.terms.border) if downstream is not None else None
        if border_port is None or downstream is None or stitch.stage.leaving:
            continue
        if _is_elsewhere(transaction, border_port.link, downstream.terms.offeror_end):
            offer_onward(transaction, stitch.plan.name)
        else:
            offer_smaller(transaction, stitch.plan.name)


def offer_smaller(transaction: Transaction, name: str) -> None:
    """Where we take smaller packets than we have offered, it is offered anew."""
    stitch = transaction.stitches.get(name)
    session = stitch.downstream if stitch is not None else None
    if stitch is None or session is None or stitch.stage != Stage.ACTIVE or session.standing != Standing.AGREED:
        return
    border_port = transaction.fabric.border_ports.get(session.terms.border)
    if border_port is None:
        return
    if _size(transaction, stitch, border_port, offeror=True) < session.terms.offeror_end.inner_mtu:
        offer_onward(transaction, name)


def _is_elsewhere(transaction: Transaction, border: str, end: TunnelEnd) -> bool:
    """Whether the gateway at a border is no more what a signed end says."""
    border_port = transaction.fabric.border_ports.get(border)
    return border_port is not None and (border_port.public_key, border_port.endpoint) != (end.public_key, end.endpoint)


def answer(transaction: Transaction, name: str) -> None:
    """Sign what was offered to us as soon as our part and what lies beyond it stand. It is sent when installed."""
    stitch = transaction.stitches.get(name)
    session = stitch.upstream if stitch is not None else None
    if stitch is None or session is None or not session.standing.unanswered or session.answer is not None:
        return
    if _has_to_be_admitted(transaction, stitch):
        return
    border_port = transaction.fabric.border_ports.get(session.terms.border)
    if border_port is None:
        return
    if stitch.plan.egress is not None:
        onward = stitch.downstream
        agreed = onward.agreement if onward is not None else None
        if agreed is None or not _is_same(agreed.terms, session.terms):
            is_asked = onward is not None and onward.standing.unanswered and _is_same(onward.terms, session.terms)
            if not is_asked and take_share(transaction, stitch, session) is not None:
                offer_onward(transaction, name)
            return
    elif (session := take_share(transaction, stitch, session)) is None:
        return
    stitch = msgspec.structs.replace(stitch, plan=stitch.plan_to_be, wanted=None)
    bound_us = session.terms.latency_us_max
    sr_policies = transaction.sr_policies.all
    needed_us = promised_us(stitch, sr_policies)
    if bound_us is not None and needed_us > bound_us:
        if not _ask_for_less(transaction, stitch, bound_us):
            refuse_upstream(
                transaction,
                stitch,
                Why(Told.WAY, f"{transaction.own} has no way that holds what is required (latency)"),
            )
        return
    end = _end(transaction, (stitch,), border_port, offeror=False)
    pledged_us, expected_us = promise(needed_us, bound_us), likely_us(stitch, sr_policies)
    signed = make_acceptance(
        session.offer, session.terms, end, pledged_us, transaction.keys, expected_us, views(stitch).source
    )
    session = msgspec.structs.replace(session, answer=signed)
    transaction.put_stitch(msgspec.structs.replace(stitch, upstream=session, stage=stitch.stage.after(Fact.SIGNED)))
    transaction.fresh.add(name)


def _has_to_be_admitted(transaction: Transaction, stitch: Stitch) -> bool:
    """Whether it is to become what nobody has counted yet (admission)."""
    before = transaction.before.stitches.get(stitch.plan.name)
    is_new = stitch.wanted is not None and (before is None or before.wanted is not stitch.wanted)
    return is_new and stitch.plan.name not in transaction.admitted


def _is_same(terms: Terms, other: Terms) -> bool:
    """Of two borders of the same way."""
    return (terms.expires_s, terms.flows) == (other.expires_s, other.flows)


def _ask_for_less(transaction: Transaction, stitch: Stitch, bound_us: int) -> bool:
    """Whether what lies beyond us may be had with a smaller promise, so that our bound is held: it is asked, or was."""
    onward = stitch.downstream
    left_us = bound_us - own_latency_us(stitch.plan, transaction.sr_policies.all)
    if onward is None or onward.agreement is None or onward.agreement.likely_us > left_us:
        return False
    asked_us = onward.terms.latency_us_max
    if asked_us is not None and asked_us <= left_us:
        return onward.standing.unanswered
    offer_onward(transaction, stitch.plan.name)
    return True


def keep_promise(transaction: Transaction, name: str) -> None:
    """Our way, or what lies beyond it, may be longer than it was, or take smaller packets. Within our promise that
    changes nothing for others; within what the offeror allows we promise anew; beyond it the agreement ends."""
    stitch = transaction.stitches.get(name)
    session = stitch.upstream if stitch is not None else None
    agreement = session.agreement if session is not None else None
    if stitch is None or session is None or agreement is None:
        return
    if session.standing != Standing.AGREED or session.answer is not None:
        return  # what is answered says how long it takes now, and is looked at again when it is sent
    border_port, acceptor_end = transaction.fabric.border_ports.get(agreement.terms.border), agreement.acceptor_end
    if border_port is not None:
        size = min(_size(transaction, stitch, border_port, offeror=False), acceptor_end.inner_mtu)
        acceptor_end = msgspec.structs.replace(acceptor_end, inner_mtu=size)
    sr_policies = transaction.sr_policies.all
    bound_us, needed_us = agreement.terms.latency_us_max, promised_us(stitch, sr_policies)
    is_longer = bound_us is not None and needed_us > agreement.latency_us
    if not is_longer and acceptor_end == agreement.acceptor_end:
        return
    if is_longer and bound_us is not None and needed_us > bound_us:
        if not _ask_for_less(transaction, stitch, bound_us):
            lose(
                transaction, stitch, Why(Told.WAY, f"{transaction.own} has no way any more that holds what was agreed")
            )
        return
    if (session := take_share(transaction, stitch, session)) is None:
        return
    pledged_us, expected_us = agreement.latency_us, agreement.expected_us
    if is_longer:
        pledged_us, expected_us = promise(needed_us, bound_us), likely_us(stitch, sr_policies)
    signed = make_acceptance(
        agreement.offer,
        agreement.terms,
        acceptor_end,
        pledged_us,
        transaction.keys,
        expected_us,
        agreement.source_aliases,
    )
    transaction.put_stitch(msgspec.structs.replace(stitch, upstream=msgspec.structs.replace(session, answer=signed)))
    transaction.fresh.add(name)
    transaction.log("promise_amended", agreement=agreement.terms.id, peer=session.peer, latency_us=str(pledged_us))


def deliver_answer(transaction: Transaction, stitch: Stitch) -> Stitch:
    """Everything that our signature promises is installed."""
    session = stitch.upstream
    if session is None or session.answer is None:
        return stitch
    terms = session.terms
    transaction.send(session.peer, session.answer.acceptance, terms.id, terms.revision, until_s=terms.expires_s)
    transaction.log(
        "offer_accepted", agreement=session.terms.id, revision=str(session.terms.revision), peer=session.peer
    )
    standing = after(session, Role.ACCEPTOR, Word.ACCEPTANCE)
    session = msgspec.structs.replace(session, standing=standing, agreement=session.answer, answer=None)
    return msgspec.structs.replace(stitch, upstream=session)


def offer_again(transaction: Transaction, session: Session) -> None:
    """The same, to who may have lost it."""
    terms = session.terms
    transaction.send(session.peer, session.offer, terms.id, terms.revision, until_s=terms.expires_s)


def repeat_answer(transaction: Transaction, session: Session) -> None:
    """The same offer came again."""
    agreement = session.agreement
    if session.standing == Standing.AGREED and agreement is not None and agreement.terms == session.terms:
        terms = agreement.terms
        transaction.send(session.peer, agreement.acceptance, terms.id, terms.revision, until_s=terms.expires_s)


def watch_leases(transaction: Transaction) -> None:
    """Renew at half-time, end what has run out, forget ids that nobody can use any more."""
    everything = transaction.clock_set_back
    for name in tuple(transaction.stitches.all) if everything else transaction.stitches.ready(transaction.now_s):
        stitch = transaction.stitches.get(name)
        if stitch is None:
            continue
        ran_out = [
            session
            for session in (stitch.upstream, stitch.downstream)
            if session is not None and (terms_in_force(session) or session.terms).expires_s <= transaction.now_s
        ]
        if stitch.stage == Stage.LINGERING and (ran_out or stitch.until_s <= transaction.now_s):
            rest(transaction, stitch)
            transaction.drop_stitch(stitch)
            continue
        if ran_out:
            lose(transaction, stitch, Why(Told.EXPIRED, f"the agreement with {ran_out[0].peer} has expired"))
            continue
        if stitch.upstream is not None and has_waited(stitch.upstream, transaction.now_s):
            upstream = msgspec.structs.replace(stitch.upstream, put_off_s=0.0)
            transaction.put_stitch(msgspec.structs.replace(stitch, upstream=upstream))
            answer(transaction, name)
            keep_promise(transaction, name)
            continue
        session = stitch.downstream
        if stitch.upstream is None and stitch.stage == Stage.ACTIVE and session is not None and session.agreement:
            later = _own_expiry(transaction, stitch) > session.agreement.terms.expires_s
            if later and transaction.now_s >= renewal_s(session):
                offer_onward(transaction, name)
    for name in transaction.closed.ready(transaction.now_s):
        transaction.closed.drop(name)
    for name in transaction.outbox.ready(transaction.now_s):
        transaction.drop_message(name)
