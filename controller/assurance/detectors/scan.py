"""Scans: a sequential hypothesis test of each source (Jung and others, Fast Portscan Detection, 2004).

Each first contact of a source with a destination's port is answered or not (a reset is no answer). Of who means well
four of five are answered, of who scans one of five. The likelihood ratio of both is carried on from contact to contact;
over FOUND it is a scan.

Sees: scans of hosts or ports, quick or slow (what is remembered of a source lasts REMEMBERED_S), that are permitted by
policy. Misses: scans of what answers; what policy denies, which has no flow record (probing.py sees that).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from controller.assurance.grouping import numbered
from controller.assurance.seen import Seen
from controller.assurance.windows import address_text, frozen_addresses, packed
from controller.model.finding import Cause, Finding, Reason
from controller.model.flow_columns import FlowColumns

ANSWERED_USUALLY, ANSWERED_SCANNING = 0.8, 0.2
FOUND = math.log(0.99 / 1e-4)
REMEMBERED_S = 900.0
OVER_S = 60.0
"""After a scan nothing is remembered of its source once nothing was unanswered for so long: the next contact that is
not answered is one, and no scan."""
SOURCES_MAX = 4096
CONTACTS_MAX = 256
"""The newest that are remembered of a source, so that a contact counts once."""

_FAILED = math.log((1 - ANSWERED_SCANNING) / (1 - ANSWERED_USUALLY))
_ANSWERED = math.log(ANSWERED_SCANNING / ANSWERED_USUALLY)
_SOURCE, _KEY = 16, 34
"""Bytes of an address; of source, destination and port."""


@dataclass(frozen=True, slots=True)
class Source:
    ratio: float = 0.0
    """Logarithm; not below 0, so that a good past is no credit."""
    contacts: Mapping[bytes, None] = field(default_factory=dict)
    """The oldest first."""
    tried: int = 0
    failed: int = 0
    at_s: float = 0.0
    failed_s: float = 0.0
    begun_s: float = 0.0

    def remembered(self, now_s: float) -> bool:
        return now_s - self.at_s < REMEMBERED_S and (self.ratio < FOUND or now_s - self.failed_s < OVER_S)

    def after(self, outcomes: Sequence[tuple[bytes, bool]], now_s: float) -> "Source":
        contacts, ratio, tried, failed, begun_s = dict(self.contacts), self.ratio, 0, 0, self.begun_s
        for contact, is_answered in outcomes:
            if contact in contacts:
                continue
            contacts[contact] = None
            begun_s = begun_s if ratio > 0 else now_s
            ratio = min(max(0.0, ratio + (_ANSWERED if is_answered else _FAILED)), 2 * FOUND)
            tried, failed = tried + 1, failed + (not is_answered)
        if not tried:
            return self
        kept = [*contacts][-CONTACTS_MAX:] if len(contacts) > CONTACTS_MAX else None
        return Source(
            ratio=ratio,
            contacts=contacts if kept is None else dict.fromkeys(kept),
            tried=self.tried + tried,
            failed=self.failed + failed,
            at_s=now_s,
            failed_s=now_s if failed else self.failed_s,
            begun_s=begun_s,
        )


@dataclass(frozen=True, slots=True)
class Scan:
    sources: Mapping[bytes, Source] = field(default_factory=dict)

    def watch(self, seen: Seen, now_s: float, frozen: frozenset[str]) -> "tuple[Scan, tuple[Finding, ...]]":
        """Who does not answer because of what is done about it (`frozen`) is nobody's failure."""
        flows = seen.flows.take(seen.flows.is_new)
        if not len(flows):
            return self, ()
        port = flows.destination_port.astype("<u2").view(np.uint8).reshape(len(flows), 2)
        key = np.concatenate([flows.source_address, flows.destination_address, port], axis=1)
        first, number = numbered(key)
        is_answer = ((flows.reverse_packets > 0) & ~_refused(flows)) | (flows.packets <= 0)
        answered = (np.bincount(number, is_answer, minlength=len(first)) > 0).tolist()
        raw = key[first].tobytes()
        silenced = {packed(name) for name in frozen_addresses(frozen)}
        tried: dict[bytes, list[tuple[bytes, bool]]] = {}
        rows: dict[bytes, list[int]] = {}
        for at, is_answered in enumerate(answered):
            begin = at * _KEY
            source = raw[begin : begin + _SOURCE]
            if silenced and raw[begin + _SOURCE : begin + 2 * _SOURCE] in silenced:
                continue
            if source in tried or len(tried) < SOURCES_MAX:
                tried.setdefault(source, []).append((raw[begin + _SOURCE : begin + _KEY], is_answered))
                rows.setdefault(source, []).append(at)
        sources = {name: each for name, each in self.sources.items() if each.remembered(now_s)}
        findings: list[Finding] = []
        for name, outcomes in tried.items():
            before = sources.get(name, Source(begun_s=now_s))
            after = sources[name] = before.after(outcomes, now_s)
            if after.ratio >= FOUND and after.failed > before.failed:
                numbers = {*flows.owner[first[rows[name]]].tolist()}
                owners = {flows.owners[owner] for owner in numbers if owner >= 0}
                findings.append(_finding(after, address_text(name), sorted(owners), now_s))
        if len(sources) > SOURCES_MAX:
            newest = sorted(sources, key=lambda name: (-sources[name].ratio, -sources[name].at_s))[:SOURCES_MAX]
            sources = {name: sources[name] for name in newest}
        return replace(self, sources=sources), tuple(findings)

    def forget(self, owner: str) -> "Scan":
        """Sources are nobody's."""
        return self


def _refused(flows: FlowColumns) -> NDArray[np.bool_]:
    """What came back was resets alone: 40 bytes (60 with IPv6), where an answer to a SYN has options."""
    is_ipv4 = (flows.source_address[:, :10] == 0).all(axis=1) & (flows.source_address[:, 10:12] == 255).all(axis=1)
    smallest = np.where(is_ipv4, 40, 60)
    refused: NDArray[np.bool_] = (
        (flows.protocol == 6)
        & (flows.reverse_packets > 0)
        & (flows.reverse_bytes > 0)
        & (flows.reverse_bytes <= flows.reverse_packets * smallest)
    )
    return refused


def _finding(source: Source, name: str, owners: list[str], now_s: float) -> Finding:
    destinations = len({contact[:16] for contact in source.contacts})
    ports = len({contact[16:] for contact in source.contacts})
    usual = round(source.tried * (1 - ANSWERED_USUALLY), 1)
    return Finding(
        at_s=now_s,
        cause=Cause.SCAN,
        entity=f"sources/{name}",
        detectors=("scan",),
        p=max(1e-12, math.exp(-source.ratio)),
        reasons=(
            Reason(feature="unanswered_contacts", observed=source.failed, usual=usual),
            Reason(feature="ports", observed=ports, usual=1),
            Reason(feature="destinations", observed=destinations, usual=1),
        ),
        windows=((min(source.begun_s, now_s - 1), now_s),),
        owners=tuple(owners),
        source=name,
        text=f"{name} scans: {source.tried} contacts, {source.failed} unanswered "
        f"(of late {destinations} destinations, {ports} ports)",
    )
