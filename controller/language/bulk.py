"""Many intents as JSON, quickly: typed decoding in C, then the same values as the shapes make, without positions.

Takes less than the shapes take, never more: whatever does not fit here is read again by them, and they say what is
wrong with it and where. A property test holds the two equal.
"""

import functools
import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from controller import json_fields
from controller.language import scalars
from controller.language.intent import ANY_MAX, any_service
from controller.language.selector import parse_selector
from controller.language.shape import LABELS_MAX, label_flaw
from controller.model.intent import (
    Allow,
    AnyService,
    Avoid,
    Disjoint,
    Encryption,
    Intent,
    IntentTest,
    Level,
    Ports,
    Prefer,
    Remediation,
    Require,
    Selector,
    Trust,
)

_PART = r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?"
_Name = Annotated[str, Meta(pattern=rf"^{_PART}\Z")]
_NetworkName = Annotated[str, Meta(pattern=rf"^{_PART}/{_PART}\Z")]
_Destination = Annotated[str, Meta(pattern=rf"^{_PART}/{_PART}(/{_PART})?\Z")]
_Via = Annotated[str, Meta(pattern=rf"^{_PART}(/{_PART}/{_PART})?\Z")]
_Ports = Annotated[list[str], Meta(max_length=64)] | UnsetType
_Number = int | float
_Labels = Annotated[dict[str, str], Meta(max_length=LABELS_MAX)] | UnsetType


class _Record(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """What was left out is UNSET, so that encoding gives what was written."""


class _Metadata(_Record, frozen=True):
    name: _Name
    tenant: _Name
    labels: _Labels = UNSET
    revision: int | UnsetType = UNSET


class _Selector(_Record, frozen=True):
    network: _NetworkName
    select: _Labels = UNSET
    prefixes: Annotated[list[str], Meta(max_length=64)] | UnsetType = UNSET


class _MinTrust(_Record, frozen=True):
    min: Literal["public", "partner", "own"]


class _AnyService(_Record, frozen=True):
    service: str | UnsetType = UNSET
    labels: _Labels = UNSET
    capabilities: Annotated[list[str], Meta(max_length=64)] | UnsetType = UNSET
    trust: _MinTrust | UnsetType = UNSET


class _Any(_Record, frozen=True):
    any: _AnyService


class _Allow(_Record, frozen=True, rename={"source": "from"}):
    to: _Destination | _Any
    ports: _Ports = UNSET
    source: str | _Selector | UnsetType = UNSET


class _Flow(_Record, frozen=True, rename={"source": "from"}):
    source: str | _Selector
    to: _Destination
    ports: _Ports = UNSET


class _Test(_Record, frozen=True):
    allow: _Flow | UnsetType = UNSET
    deny: _Flow | UnsetType = UNSET


class _MaxNumber(_Record, frozen=True):
    max: _Number


class _MinNumber(_Record, frozen=True):
    min: _Number


class _Avoid(_Record, frozen=True):
    domains: Annotated[list[_Name], Meta(max_length=16)] | UnsetType = UNSET
    labels: _Labels = UNSET
    nodes: Annotated[list[_Name], Meta(max_length=16)] | UnsetType = UNSET


class _Include(_Record, frozen=True):
    nodes: Annotated[list[_Name], Meta(max_length=16)]


class _Require(_Record, frozen=True):
    latency_ms: _MaxNumber | UnsetType = UNSET
    bandwidth_mbps: _MinNumber | UnsetType = UNSET
    loss_percent: _MaxNumber | UnsetType = UNSET
    encryption: Encryption | UnsetType = UNSET
    disjoint: Disjoint | UnsetType = UNSET
    trust: _MinTrust | UnsetType = UNSET
    avoid: _Avoid | UnsetType = UNSET
    include: _Include | UnsetType = UNSET


class _Prefer(_Record, frozen=True):
    cost: Level | UnsetType = UNSET
    latency: Level | UnsetType = UNSET


class _For(_Record, frozen=True, rename={"duration": "for"}):
    duration: str | UnsetType = UNSET
    until: str | UnsetType = UNSET


class _Spec(_Record, frozen=True, rename={"service_class": "class"}):
    isolate: str | _Selector | UnsetType = UNSET
    allow: Annotated[list[_Allow], Meta(max_length=256)] | UnsetType = UNSET
    via: Annotated[list[_Via], Meta(max_length=16)] | UnsetType = UNSET
    require: _Require | UnsetType = UNSET
    prefer: _Prefer | UnsetType = UNSET
    on_violation: Literal["degrade", "stop"] | UnsetType = UNSET
    on_service_down: Literal["stop", "bypass"] | UnsetType = UNSET
    priority: Annotated[int, Meta(ge=1, le=1000)] | UnsetType = UNSET
    service_class: _Name | UnsetType = UNSET
    overrides: Annotated[list[_Name], Meta(max_length=64)] | UnsetType = UNSET
    suspends: Annotated[list[_Name], Meta(max_length=64)] | UnsetType = UNSET
    remediation: Remediation | UnsetType = UNSET
    lease: _For | UnsetType = UNSET
    tests: Annotated[list[_Test], Meta(max_length=256)] | UnsetType = UNSET


class _Manifest(_Record, frozen=True, rename={"api_version": "apiVersion"}):
    api_version: Literal["netstitch/v1"]
    kind: Literal["Intent"]
    metadata: _Metadata
    spec: _Spec
    status: Raw | UnsetType = UNSET


_DECODER = msgspec.json.Decoder(_Manifest)
_BARE = Intent(name="", tenant="")
_REQUIRE, _PREFER = _BARE.require, _BARE.prefer
"""The defaults themselves: what is one of them is not written out."""
_TRUST = {trust.name.lower(): trust for trust in Trust}
_PLAIN_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


def decode(text: bytes, most_bytes: int) -> tuple[Intent, ...] | None:
    """An array of manifests, each of at most `most_bytes`; None: the shapes must read it."""
    try:
        raws = msgspec.json.decode(text, type=list[Raw])
        if any(len(raw) > most_bytes for raw in raws):
            return None
        manifests = [_DECODER.decode(raw) for raw in raws]
        kept = json_fields.all_kept(text, manifests) and all(
            json_fields.all_kept(bytes(manifest.status), msgspec.json.decode(manifest.status))
            for manifest in manifests
            if not isinstance(manifest.status, UnsetType)
        )
        return tuple([_intent(manifest) for manifest in manifests]) if kept else None
    except (ValueError, RecursionError):
        return None


def convert(data: object) -> Intent | None:
    """One manifest, as JSON is decoded; None: the shapes must read it."""
    try:
        return _intent(msgspec.convert(data, _Manifest))
    except (ValueError, RecursionError):
        return None


def _intent(manifest: _Manifest) -> Intent:
    """Raises ValueError."""
    spec = manifest.spec
    isolate = None if isinstance(spec.isolate, UnsetType) else _selector(spec.isolate)
    allows = tuple([_allow(allow, isolate) for allow in spec.allow or ()])
    if (isolate is None and not allows) or sum(allow.any is not None for allow in allows) > ANY_MAX:
        raise ValueError
    if spec.suspends and (isolate is None or allows):
        raise ValueError
    lease_s = lease_until_s = None
    if not isinstance(spec.lease, UnsetType):
        duration, until = spec.lease.duration, spec.lease.until
        if isinstance(duration, str) and until is UNSET:
            lease_s = _duration(duration)
        elif isinstance(until, str) and duration is UNSET:
            lease_until_s = scalars.TIME.make(until)
        else:
            raise ValueError
    return Intent(
        name=manifest.metadata.name,
        tenant=manifest.metadata.tenant,
        isolate=isolate,
        allow=allows,
        via=tuple(spec.via or ()),
        require=_REQUIRE if isinstance(spec.require, UnsetType) else _require(spec.require),
        prefer=_PREFER if isinstance(spec.prefer, UnsetType) else _prefer(spec.prefer),
        on_violation=spec.on_violation or "degrade",
        on_service_down=spec.on_service_down or "stop",
        priority=spec.priority or _BARE.priority,
        service_class=spec.service_class or "",
        overrides=tuple(spec.overrides or ()),
        suspends=tuple(spec.suspends or ()),
        remediation=spec.remediation or _BARE.remediation,
        lease_s=lease_s,
        lease_until_s=lease_until_s,
        tests=tuple([_test(test) for test in spec.tests or ()]),
        labels=_labels(manifest.metadata.labels) if manifest.metadata.labels else (),
    )


def _selector(written: str | _Selector) -> Selector:
    if isinstance(written, str):
        selector: Selector = _text_selector(written)
        return selector
    labels = _labels(written.select) if written.select else ()
    prefixes = tuple([_prefix(prefix) for prefix in written.prefixes]) if written.prefixes else ()
    return Selector(network=written.network, labels=labels, prefixes=prefixes)


def _labels(written: dict[str, str]) -> tuple[tuple[str, str], ...]:
    for name, value in written.items():
        if not (_PLAIN_LABEL.fullmatch(name) and _PLAIN_LABEL.fullmatch(value)) and label_flaw(name, value):
            raise ValueError
    return tuple(sorted(written.items()))


def _allow(written: _Allow, isolate: Selector | None) -> Allow:
    source = None if isinstance(written.source, UnsetType) else _selector(written.source)
    if (source is None and isolate is None) or (source is not None and isolate is not None and source != isolate):
        raise ValueError
    ports = _port_tuple(written.ports)
    if isinstance(written.to, str):
        return Allow(to=written.to, ports=ports, source=source)
    return Allow(any=_any_service(written.to.any), ports=ports, source=source)


def _any_service(written: _AnyService) -> AnyService:
    said: dict[str, Any] = {
        "service": "" if isinstance(written.service, UnsetType) else scalars.ANY_SERVICE_NAME.make(written.service),
        "labels": _labels(written.labels) if written.labels else (),
        "capabilities": tuple(map(scalars.CAPABILITY.make, written.capabilities or ())),
        "trust_min": None if isinstance(written.trust, UnsetType) else _TRUST[written.trust.min],
    }
    return any_service(said)


def _test(written: _Test) -> IntentTest:
    if isinstance(written.allow, UnsetType) == isinstance(written.deny, UnsetType):
        raise ValueError
    flow = written.deny if isinstance(written.allow, UnsetType) else written.allow
    assert not isinstance(flow, UnsetType)
    allowed = not isinstance(written.allow, UnsetType)
    return IntentTest(allowed=allowed, source=_selector(flow.source), to=flow.to, ports=_port_tuple(flow.ports))


def _port_tuple(written: list[str] | UnsetType) -> tuple[Ports, ...]:
    return tuple([_ports(ports) for ports in written or ()])


def _require(written: _Require) -> Require:
    latency, bandwidth, loss = written.latency_ms, written.bandwidth_mbps, written.loss_percent
    return Require(
        latency_us_max=None if isinstance(latency, UnsetType) else _latency(latency.max),
        bandwidth_bps_min=None if isinstance(bandwidth, UnsetType) else _rate(bandwidth.min),
        loss_ppm_max=None if isinstance(loss, UnsetType) else _loss(loss.max),
        encryption=written.encryption or Encryption.NONE,
        disjoint=written.disjoint or None,
        trust_min=None if isinstance(written.trust, UnsetType) else _TRUST[written.trust.min],
        avoid=_avoid(written.avoid),
        include_nodes=() if isinstance(written.include, UnsetType) else tuple(written.include.nodes),
    )


def _avoid(written: _Avoid | UnsetType) -> Avoid:
    if isinstance(written, UnsetType):
        return _REQUIRE.avoid
    return Avoid(
        domains=tuple(written.domains or ()),
        labels=_labels(written.labels) if written.labels else (),
        nodes=tuple(written.nodes or ()),
    )


def _prefer(written: _Prefer) -> Prefer:
    return Prefer(cost=written.cost or None, latency=written.latency or None)


def _cached(make: Any, size: int = 4096) -> Any:
    """Values repeat; a wrong one raises ValueError each time."""
    return functools.lru_cache(size)(make)


_ports = _cached(scalars.PORTS.make)
_prefix = _cached(scalars.PREFIX.make)
_duration = _cached(scalars.DURATION.make)
_latency = _cached(scalars.LATENCY_MAX_MS.make)
_rate = _cached(scalars.RATE_MBIT.make)
_loss = _cached(scalars.LOSS_MAX_PERCENT.make)
_text_selector = _cached(parse_selector)
