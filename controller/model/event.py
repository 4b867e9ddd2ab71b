"""What happens to a controller, and what it then wants done. Values; `reconcile.step` turns the one into the other."""

import msgspec

from controller.model.access import OURSELVES, Principal
from controller.model.agreement import Envelope, Greeting
from controller.model.discovery import HeardHost, LldpCounts, PathMeasurement, PortMeasurement, RemoteSystem
from controller.model.finding import Finding
from controller.model.intent import Value
from controller.model.node_entries import Delta, NodeState
from controller.model.policy import Policy
from controller.model.preview import Preview
from controller.model.rule import Added
from dataplane.host_api import NodeDescription, PartRefused

PUT_BACK = "put back"
"""Counter of a store that was put back from a backup, until the core's first step: its agreements are past."""


class Record(Value, frozen=True, kw_only=True):
    """One thing in the store: its kind, name, and encoded content (None: removed)."""

    kind: str
    name: str
    content: bytes | None


class Problem(Value, frozen=True, kw_only=True):
    """Why something was not accepted, so that a person can mend it."""

    path: tuple[str | int, ...]
    """Where in the manifest: ("spec", "allow", 0, "to")."""
    message: str
    """What is wrong, what was expected, what to do."""


# ---- events


class Apply(Value, frozen=True, kw_only=True, tag="apply"):
    """Somebody applies manifests (already parsed to model values by `language`), all or none."""

    request_id: str
    resources: tuple["Applied", ...]
    dry_run: bool = False
    """It is only to be told what it would do (controller/views/preview.py)."""
    by: Principal = OURSELVES
    file: str = ""
    """As Provenance.file."""
    revision: int = 0
    """As Provenance.revision."""
    unchanged_since: int | None = None
    """A revision: what somebody has changed since is not replaced, nor is anything else."""


class Applied(Value, frozen=True, kw_only=True):
    kind: str
    """Intent, Rule, Network, Service, Node, Link, Domain."""
    content: bytes
    """msgspec JSON of the model value."""
    added: tuple[Added, ...] = ()
    """What requirement compilers said of an intent."""


class Delete(Value, frozen=True, kw_only=True, tag="delete"):
    """Somebody wants these away, all or none."""

    request_id: str
    resources: tuple["Reference", ...]
    ignore_missing: bool = False
    """What is not there is no reason to refuse the rest."""
    dry_run: bool = False
    """As of Apply."""
    by: Principal = OURSELVES
    unchanged_since: int | None = None
    """As Apply.unchanged_since."""


class Reference(Value, frozen=True, kw_only=True):
    kind: str
    """As Applied.kind."""
    name: str


class Renew(Value, frozen=True, kw_only=True, tag="renew"):
    """Somebody lets the lease of an intent begin anew."""

    request_id: str
    name: str
    by: Principal = OURSELVES


class SetDrain(Value, frozen=True, kw_only=True, tag="set_drain"):
    """An operator takes a node or link out of use, or into it again."""

    request_id: str
    part: str
    """`nodes/NAME` or `links/NAME`."""
    is_drained: bool
    by: Principal = OURSELVES


class EndAgreement(Value, frozen=True, kw_only=True, tag="end_agreement"):
    """Somebody ends what we carry, accept or have others carry."""

    request_id: str
    name: str
    reason: str
    hold_off_s: int
    """For so long the same intent is not accepted again."""
    by: Principal = OURSELVES


class LoadPolicy(Value, frozen=True, kw_only=True, tag="load_policy"):
    """The policy for the offers of others, as its file says it now."""

    request_id: str
    policy: Policy
    file: str
    """As Provenance.file."""
    dry_run: bool = False
    by: Principal = OURSELVES


class Decide(Value, frozen=True, kw_only=True, tag="decide"):
    """Somebody approves what an incident proposes, or rejects it."""

    request_id: str
    name: str
    approved: bool
    added: tuple[Added, ...] = ()
    """What requirement compilers said of the intent that it proposes."""
    by: Principal = OURSELVES


class Found(Value, frozen=True, kw_only=True, tag="found"):
    """Assurance has seen something unusual."""

    findings: tuple[Finding, ...]


class MessageReceived(Value, frozen=True, kw_only=True, tag="message_received"):
    """From a peer whose identity mutual TLS has proved."""

    peer: str
    message: Envelope
    objection: str = ""
    """Why a strategy of ours refuses an offer."""


class MessageSent(Value, frozen=True, kw_only=True, tag="message_sent"):
    """The peer has durably taken a message (`reason` empty), could not be reached, or does not take it."""

    peer: str
    message_id: str
    reason: str = ""
    final: bool = False
    """The peer has said no to it: the same again, to the peer as it is, would lead to the same."""


class PeerMet(Value, frozen=True, kw_only=True, tag="peer_met"):
    """A neighbouring controller has a new connection with ours."""

    peer: str
    greeting: Greeting | None = None
    """None: it has not greeted us."""
    refusal: str = ""
    """Why we cannot talk."""


class NodeDescribed(Value, frozen=True, kw_only=True, tag="node_described"):
    """The agent was (re)connected and said what it is."""

    node: str
    description: NodeDescription
    sizes: dict[str, int] = msgspec.field(default_factory=dict)
    """Of its tables and counters, as its P4Info says."""


class NodeUnreachable(Value, frozen=True, kw_only=True, tag="node_unreachable"):
    node: str
    reason: str


class Discovered(Value, frozen=True, kw_only=True, tag="discovered"):
    """What a node hears on its links and of hosts, all of it, has changed."""

    node: str
    remote_systems: tuple[RemoteSystem, ...]
    counts: LldpCounts = LldpCounts()
    hosts: tuple[HeardHost, ...] = ()


class Measured(Value, frozen=True, kw_only=True, tag="measured"):
    """All that a node's probes say now, where that is worth telling."""

    node: str
    ports: tuple[PortMeasurement, ...] = ()
    paths: tuple[PathMeasurement, ...] = ()


class Deviation(Value, frozen=True, kw_only=True):
    """A node had something else than it should have (drift)."""

    node: str
    what: str
    """`missing`, `changed` or `foreign`."""
    table: str
    detail: str
    owner: str
    """As Entry.owner; empty for foreign ones."""


class NodeSynced(Value, frozen=True, kw_only=True, tag="node_synced"):
    node: str
    generation: int
    writes: int
    deviations: tuple[Deviation, ...] = ()


class NodeRejected(Value, frozen=True, kw_only=True, tag="node_rejected"):
    """The node refused part of its state; the rest is there."""

    node: str
    generation: int
    reason: str
    refused: tuple[PartRefused, ...] | None = None
    """Owners of entries, `tunnels/BORDER` and `ports/NUMBER`, each once or more; None: nobody knows, perhaps all."""


class Tick(Value, frozen=True, kw_only=True, tag="tick"):
    """Once a second or so: leases, renewals, retries, audits."""


Event = (
    Apply
    | Delete
    | Renew
    | SetDrain
    | EndAgreement
    | LoadPolicy
    | Decide
    | Found
    | MessageReceived
    | MessageSent
    | PeerMet
    | NodeDescribed
    | NodeUnreachable
    | Discovered
    | Measured
    | NodeSynced
    | NodeRejected
    | Tick
)


# ---- effects, to be performed in order


class Persist(Value, frozen=True, kw_only=True, tag="persist"):
    """Durable before any later effect of the same step is performed."""

    records: tuple[Record, ...]


class Reply(Value, frozen=True, kw_only=True, tag="reply"):
    """Answer to what somebody asks for. With problems, a conflict or something missing nothing was stored."""

    request_id: str
    problems: tuple[Problem, ...] = ()
    conflict: str = ""
    """Why the answer is no, though the manifest is right."""
    missing: tuple[int, ...] = ()
    """Which of what was to be deleted is not there; nothing was deleted."""
    forbidden: str = ""
    """Why who asks may not."""
    stale: tuple[int, ...] = ()
    """Which of what the request is about somebody has changed since the revision that it names; nothing was stored."""
    results: tuple[str, ...] = ()
    """`intents/order-processing created`."""
    preview: Preview | None = None
    """Of a dry run."""


class Send(Value, frozen=True, kw_only=True, tag="send"):
    """To a peer, at least once until `MessageSent` says it was taken; the receiver tolerates repeats."""

    peer: str
    message_id: str
    message: Envelope


class Connect(Value, frozen=True, kw_only=True, tag="connect"):
    """Keep a session with this node; answers NodeDescribed or NodeUnreachable, again and again with back-off."""

    node: str
    agent: str


class Disconnect(Value, frozen=True, kw_only=True, tag="disconnect"):
    node: str


class SyncNode(Value, frozen=True, kw_only=True, tag="sync_node"):
    """Make the node have exactly `state` (read back, write differences). A newer generation replaces an older."""

    node: str
    generation: int
    state: NodeState
    delta: Delta | None = None
    """What of its entries is other than in an earlier generation: all that is to be done where the node has that."""
    audit: bool = False
    """True: nothing should differ; what differs is a deviation."""


class Log(Value, frozen=True, kw_only=True, tag="log"):
    """An event name and fields, for the shell's log."""

    event: str
    fields: dict[str, str] = msgspec.field(default_factory=dict)
    level: str = "info"


class Approve(Value, frozen=True, kw_only=True, tag="approve"):
    """Assurance would do what an incident proposes: feed it back as `Decide`, with what requirement compilers say."""

    incident: str


Effect = Persist | Reply | Send | Connect | Disconnect | SyncNode | Log | Approve
