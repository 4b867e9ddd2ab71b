"""Keys of tunnels are renewed with each neighbour, by signed messages, before those in use go.

```
 whose name comes first                                     the neighbour
 its node makes keys   ──── keys, ML-KEM key ────────────▶  its node makes keys, encapsulates, has a second device
 its node has a second
 device, shakes hands  ◀─── keys, ciphertext ─────────────
 what leaves takes it  ──── sends ───────────────────────▶
                       ◀──── sends ───────────────────────  what leaves takes it
 both say so: the older device goes on both sides, when what is under way has arrived
```

Private keys and shared secrets are the nodes' alone (`dataplane/wireguard/renewed_keys.py`). What is said is what the
node has said: so what gets lost, or comes twice, or after a restart, is said again until both send by these keys.

Who knows nothing of what is in use (its store or its node's keys are lost) says epoch 0. Then both take the keys that
agreements name, and begin anew.
"""

from collections.abc import Collection

from msgspec.structs import replace

from controller.fulfillment.fabric import BorderPort
from controller.fulfillment.negotiate import sealed
from controller.model.agreement import RENEWS, RenewedKeys, TunnelEnd
from controller.model.intent import Encryption
from controller.model.stitch import Stage, Stitch
from controller.model.told import Told, Why
from controller.model.tunnel_keys import BorderKeys, Epoch, TheirKeys
from controller.reconcile.negotiation.withdrawals import lose
from controller.reconcile.tables import link_key
from controller.reconcile.transaction import Transaction, understands
from controller.reconcile.tunnel_ends import end_objection
from dataplane import addressing
from dataplane.host_api import BorderStatus, TunnelKeys

LINGER_S = 1.0
"""For so long what was under way by the older keys may still arrive."""
REPEAT_S = 5.0
"""After that what is not complete is said again."""
ABANDON_S = 60.0
"""After that it is begun anew."""
PACE_S = 0.5
"""A neighbour has no more epochs begun than one in this time."""
LIFE_S = 60.0
"""For so long a message is carried to a neighbour that is not reached."""


def follow(transaction: Transaction, links: Collection[str] | None = None) -> None:
    """Takes each border as far as it can go now. `links`: those alone."""
    for name, border_port in transaction.fabric.border_ports.items():
        if links is None or name in links:
            _follow(transaction, border_port)
    for name in tuple(transaction.tunnel_keys.all):
        if name not in transaction.links.all:
            transaction.tunnel_keys.drop(name)


def at(transaction: Transaction, node: str) -> list[str]:
    """Borders of a node."""
    return [name for name, border_port in transaction.fabric.border_ports.items() if border_port.node == node]


def met(transaction: Transaction, peer: str) -> None:
    """On a new connection each says again where it stands; a release that cannot renew takes the keys of agreements."""
    for name, keys in tuple(transaction.tunnel_keys.all.items()):
        link = transaction.links.get(name)
        if link is None or link.domain != peer:
            continue
        if understands(transaction, peer, RENEWS):
            transaction.tunnel_keys.put(name, replace(keys, said="", said_s=0.0))
        else:
            transaction.tunnel_keys.put(name, _anew(transaction, name, keys.last))


def _follow(transaction: Transaction, border_port: BorderPort) -> None:
    name, now_s = border_port.link, transaction.now_s
    status = _status(transaction, border_port)
    if status is None or not understands(transaction, border_port.domain, RENEWS):
        return
    keys = transaction.tunnel_keys.get(name) or BorderKeys()
    ours = {each.epoch: each for each in status.keys}
    if keys.in_use is not None and keys.in_use.number not in ours:
        transaction.log("tunnel_keys_lost", "error", border=name, epoch=str(keys.in_use.number))
        keys = _anew(transaction, name, keys.last)
        _say(transaction, border_port, RenewedKeys(border=name, epoch=0, issued_s=int(now_s)))
    keys = _promoted(transaction, name, keys)
    if keys.next is None and _begins(transaction, border_port) and status.renews and _is_due(transaction, keys, name):
        number = _following(keys)
        keys = replace(keys, last=number, next=Epoch(number=number, begun_s=now_s))
        transaction.log("tunnel_keys_begun", border=name, epoch=str(number))
    if keys.next is not None:
        keys = _went_on(transaction, border_port, keys, ours.get(keys.next.number))
    shown = keys.next if keys.next is not None else keys.in_use
    told = ours.get(shown.number) if shown is not None else None
    if shown is not None and told is not None:
        keys = _told(transaction, border_port, keys, shown, told)
    if keys != BorderKeys() or transaction.tunnel_keys.get(name) is not None:
        transaction.tunnel_keys.put(name, keys)


def _status(transaction: Transaction, border_port: BorderPort) -> BorderStatus | None:
    standing = transaction.nodes.get(border_port.node)
    if standing is None or not standing.described or not standing.reachable or standing.description is None:
        return None
    return next((status for status in standing.description.borders if status.name == border_port.border), None)


def _begins(transaction: Transaction, border_port: BorderPort) -> bool:
    return transaction.own < border_port.domain


def _is_due(transaction: Transaction, keys: BorderKeys, name: str) -> bool:
    """Of a tunnel that is there."""
    border_port = transaction.fabric.border_ports[name]
    standing = transaction.nodes.get(border_port.node)
    state = standing.state if standing is not None else None
    if state is None or border_port.border not in {tunnel.border for tunnel in state.host.tunnels}:
        return False
    if keys.in_use is None:
        return True
    age_s = transaction.now_s - (keys.in_use.complete_s or 0.0)
    return not 0 <= age_s < transaction.policy.renew_keys_s  # a clock that was set back puts nothing off


def _following(keys: BorderKeys) -> int:
    """Of the device that those in use are not in."""
    in_use = keys.in_use.number if keys.in_use is not None else 0
    return keys.last + (1 if (keys.last + 1 - in_use) % 2 else 2)


def _promoted(transaction: Transaction, name: str, keys: BorderKeys) -> BorderKeys:
    following = keys.next
    if following is None or following.complete_s is None:
        return keys
    if not 0 <= transaction.now_s - following.complete_s < LINGER_S:
        transaction.log("tunnel_keys_renewed", border=name, epoch=str(following.number))
        return replace(keys, in_use=following, next=None)
    return keys


def _went_on(
    transaction: Transaction, border_port: BorderPort, keys: BorderKeys, told: TunnelKeys | None
) -> BorderKeys:
    following, now_s = keys.next, transaction.now_s
    assert following is not None
    sends = told is not None and told.sends
    if sends != following.we_send:
        following = replace(following, we_send=sends)
    if following.we_send and following.they_send and following.complete_s is None:
        following = replace(following, complete_s=now_s)
        transaction.fresh |= {
            name for name in _post_quantum(transaction, border_port.link) if _is_added(transaction, name)
        }
    is_old = not 0 <= now_s - following.begun_s < ABANDON_S
    if following.complete_s is None and is_old and _begins(transaction, border_port):
        transaction.log("tunnel_keys_abandoned", "warning", border=border_port.link, epoch=str(following.number))
        number = _following(keys)
        following, keys = Epoch(number=number, begun_s=now_s), replace(keys, last=number)
    return replace(keys, next=following)


def _told(
    transaction: Transaction, border_port: BorderPort, keys: BorderKeys, shown: Epoch, told: TunnelKeys
) -> BorderKeys:
    """The neighbour, of what is new, or not complete for long."""
    content = f"{shown.number} {told.public_key} {told.endpoint} {shown.we_send} {shown.they_send}"
    is_late = shown.complete_s is None and not 0 <= transaction.now_s - keys.said_s < REPEAT_S
    if content == keys.said and not is_late:
        return keys
    said = RenewedKeys(
        border=border_port.link,
        epoch=shown.number,
        public_key=told.public_key,
        endpoint=told.endpoint,
        kem_key=told.kem_key,
        kem_ciphertext=told.kem_ciphertext,
        sends=shown.we_send,
        heard=shown.they_send,
        issued_s=int(transaction.now_s),
    )
    _say(transaction, border_port, said)
    return replace(keys, said=content, said_s=transaction.now_s)


def _say(transaction: Transaction, border_port: BorderPort, message: RenewedKeys) -> None:
    envelope = sealed(message, transaction.keys)
    until_s = transaction.now_s + LIFE_S
    transaction.send(border_port.domain, envelope, border_port.link, message.epoch, until_s=until_s, unasked=True)


def hear(transaction: Transaction, peer: str, message: RenewedKeys) -> str:
    """What a neighbour has signed; why it counts for nothing, or an empty text."""
    link, border_port = transaction.links.get(message.border), transaction.fabric.border_ports.get(message.border)
    if link is None or link.domain != peer:
        return f"there is no border {message.border} with {peer}"
    if border_port is None:
        return ""  # our gateway has not said what it is; it is said again
    keys = transaction.tunnel_keys.get(link.name) or BorderKeys()
    if not message.epoch:
        transaction.tunnel_keys.put(link.name, _anew(transaction, link.name, keys.last))
    elif objection := _objection(transaction, border_port, message):
        return objection
    else:
        theirs = TheirKeys(
            public_key=message.public_key,
            endpoint=message.endpoint,
            kem_key=message.kem_key,
            kem_ciphertext=message.kem_ciphertext,
        )
        heard = _heard(transaction, border_port, keys, message, theirs)
        if isinstance(heard, str):
            return heard
        transaction.tunnel_keys.put(link.name, heard)
    follow(transaction, (link.name,))
    return ""


def _heard(
    transaction: Transaction, border_port: BorderPort, keys: BorderKeys, message: RenewedKeys, theirs: TheirKeys
) -> BorderKeys | str:
    number, now_s, begins = message.epoch, transaction.now_s, _begins(transaction, border_port)
    following = keys.next
    if following is not None and following.number == number:
        if following.theirs is None or (following.theirs != theirs and not begins and not following.we_send):
            following = replace(following, theirs=theirs, they_send=message.sends)
        elif following.theirs != theirs:
            return f"epoch {number} of {message.border} has other keys than were said before"
        return replace(keys, next=replace(following, they_send=message.sends or following.they_send))
    if keys.in_use is not None and keys.in_use.number == number:
        if keys.in_use.theirs == theirs:
            return keys if message.heard else replace(keys, said="")  # it hears it again
        if not begins:
            return f"epoch {number} of {message.border} is in use with other keys"
        return _anew(transaction, message.border, keys.last)
    if number <= keys.last:
        return keys if keys.in_use is None else replace(keys, said="")  # said again: it hears which one is in use
    if begins:  # it knows of one that we do not, so our store is one from before: we begin behind it
        return _anew(transaction, message.border, number)
    if following is not None and not 0 <= now_s - following.begun_s < PACE_S:
        following = None
    if following is not None and following.complete_s is None:
        return keys  # too soon; it is said again
    in_use = keys.next if keys.next is not None and keys.next.complete_s is not None else keys.in_use
    begun = Epoch(number=number, begun_s=now_s, theirs=theirs, they_send=message.sends)
    return replace(keys, last=number, in_use=in_use, next=begun)


def _objection(transaction: Transaction, border_port: BorderPort, message: RenewedKeys) -> str:
    asked = message.kem_ciphertext if _begins(transaction, border_port) else message.kem_key
    if not asked:
        return "renewed keys without the ML-KEM exchange"
    end = TunnelEnd(sid="", public_key=message.public_key, endpoint=message.endpoint, inner_mtu=0)
    try:
        addressing.key(message.public_key)
        addressing.endpoint(message.endpoint)
    except ValueError as error:
        return f"the tunnel's end is malformed: {error}"
    return end_objection(transaction, border_port.link, end)


def waits(transaction: Transaction, stitch: Stitch) -> bool:
    """Whether its traffic must not leave yet: it needs post-quantum keys, and the tunnel to the next domain has none
    that both ends use. Who asked us waits for us."""
    plan = stitch.plan
    if plan.connection.encryption != Encryption.WIREGUARD_PQ or plan.egress is None:
        return False
    keys = transaction.tunnel_keys.get(plan.egress.border)
    if keys is None:
        return True
    return keys.in_use is None and (keys.next is None or keys.next.complete_s is None)


def _anew(transaction: Transaction, link: str, last: int) -> BorderKeys:
    """The keys that agreements name are all that there is: what needs others ends, until there are such."""
    for name in _post_quantum(transaction, link):
        stitch = transaction.stitches.get(name)
        if stitch is not None and not _is_added(transaction, name):
            lose(transaction, stitch, Why(Told.LOST, f"the post-quantum keys of {link} are lost"), at_once=True)
    return BorderKeys(last=last)


def _post_quantum(transaction: Transaction, link: str) -> list[str]:
    """Stitches over a border that need it."""
    return [
        name
        for name in transaction.stitches.all.by(link_key(link))
        if transaction.stitches.all[name].plan.connection.encryption == Encryption.WIREGUARD_PQ
    ]


def _is_added(transaction: Transaction, name: str) -> bool:
    """It waits for what is installed."""
    stitch = transaction.stitches.get(name)
    return stitch is not None and stitch.stage == Stage.ADDING
