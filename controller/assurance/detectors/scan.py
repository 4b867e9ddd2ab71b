"""Scans: a sequential hypothesis test of each source (Jung and others, Fast Portscan Detection, 2004).

Each first contact of a source with a destination's port is answered or not (a reset is no answer). Of who means well
four of five are answered, of who scans one of five. The likelihood ratio of both is carried on from contact to contact;
over FOUND it is a scan.

Sees: scans of hosts or ports, quick or slow (what is remembered of a source lasts REMEMBERED_S), that are permitted by
policy. Misses: scans of what answers; what policy denies, which has no flow record (probing.py sees that).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from controller.assurance.seen import Seen
from controller.assurance.windows import address_text, numbered
from controller.model.finding import Cause, Finding, Reason
from controller.model.flow_columns import FlowColumns

ANSWERED_USUALLY, ANSWERED_SCANNING = 0.8, 0.2
FOUND = math.log(0.99 / 1e-4)
REMEMBERED_S = 900.0
SOURCES_MAX = 4096
CONTACTS_MAX = 256
"""That are remembered of a source, so that a contact counts once."""

_FAILED = math.log((1 - ANSWERED_SCANNING) / (1 - ANSWERED_USUALLY))
_ANSWERED = math.log(ANSWERED_SCANNING / ANSWERED_USUALLY)


@dataclass(frozen=True, slots=True)
class Source:
    ratio: float = 0.0
    """Logarithm; not below 0, so that a good past is no credit."""
    contacts: frozenset[bytes] = frozenset()
    failed: int = 0
    at_s: float = 0.0
    begun_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Scan:
    sources: Mapping[bytes, Source] = field(default_factory=dict)

    def watch(self, seen: Seen, now_s: float, frozen: frozenset[str]) -> "tuple[Scan, tuple[Finding, ...]]":
        flows = seen.flows.take(seen.flows.is_new)
        if not len(flows):
            return self, ()
        port = flows.destination_port.astype("<u2").view(np.uint8).reshape(len(flows), 2)
        key = np.concatenate([flows.source_address, flows.destination_address, port], axis=1)
        first, number = numbered(key)
        answered = np.zeros(len(first), dtype=np.bool_)
        np.logical_or.at(answered, number, ((flows.reverse_packets > 0) & ~_refused(flows)) | (flows.packets <= 0))
        tried: dict[bytes, list[tuple[bytes, bool, int]]] = {}
        for row, has_answered in zip(first.tolist(), answered.tolist(), strict=True):
            source = flows.source_address[row].tobytes()
            if source in tried or len(tried) < SOURCES_MAX:
                tried.setdefault(source, []).append((key[row, 16:].tobytes(), has_answered, row))
        sources = {name: each for name, each in self.sources.items() if now_s - each.at_s < REMEMBERED_S}
        findings: list[Finding] = []
        for name, outcomes in tried.items():
            source = sources.get(name, Source(begun_s=now_s))
            rows: list[int] = []
            for contact, has_answered, row in outcomes:
                if contact not in source.contacts:
                    ratio = max(0.0, source.ratio + (_ANSWERED if has_answered else _FAILED))
                    begun_s = source.begun_s if source.ratio > 0 else now_s
                    remembered = source.contacts | {contact} if len(source.contacts) < CONTACTS_MAX else source.contacts
                    source = Source(
                        min(ratio, 2 * FOUND), remembered, source.failed + (not has_answered), now_s, begun_s
                    )
                    rows.append(row)
            sources[name] = source
            if source.ratio >= FOUND and rows:
                owners = {flows.owners[flows.owner[row]] for row in rows if flows.owner[row] >= 0}
                findings.append(_finding(source, flows.source_address[rows[0]], sorted(owners), now_s))
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


def _finding(source: Source, address: NDArray[np.uint8], owners: list[str], now_s: float) -> Finding:
    name = address_text(address)
    destinations = len({contact[:16] for contact in source.contacts})
    ports = len({contact[16:] for contact in source.contacts})
    tried = len(source.contacts)
    return Finding(
        at_s=now_s,
        cause=Cause.SCAN,
        entity=f"sources/{name}",
        detectors=("scan",),
        p=max(1e-12, math.exp(-source.ratio)),
        reasons=(
            Reason(
                feature="unanswered_contacts", observed=source.failed, usual=round(tried * (1 - ANSWERED_USUALLY), 1)
            ),
            Reason(feature="ports", observed=ports, usual=1),
            Reason(feature="destinations", observed=destinations, usual=1),
        ),
        windows=((min(source.begun_s, now_s - 1), now_s),),
        owners=tuple(owners),
        source=name,
        text=f"{name} scans: {tried} contacts ({destinations} destinations, {ports} ports), {source.failed} unanswered",
    )
