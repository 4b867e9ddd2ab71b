"""The API's records as OpenAPI shows them, and what comes in (pydantic)."""

from typing import Annotated, Any, Literal, Optional

from pydantic import BaseModel, ConfigDict, FailFast, Field, TypeAdapter, model_validator
from pydantic_core import PydanticCustomError

DEPTH_LIMIT = 32
"""Manifests are not nested deeper than this."""


class Problem(BaseModel):
    path: list[str | int] = Field(description='Where: `[0, "spec", "allow", 0, "to"]` in the first manifest.')
    message: str = Field(description="What is wrong, what was expected, what to do.")


class Error(BaseModel):
    error: str = Field(description="What failed, why, and what to do.")
    problems: list[Problem]
    now: Optional["Resource"] = Field(None, description="With 412: the first that has changed, as it is now.")


class IntentPreview(BaseModel):
    name: str
    before: str = Field(description="Its phase now; empty: it is new.")
    phase: str = Field(description="What it would come to; `Deleted` where it would be gone.")
    reasons: list[str]
    paths: list[list[str]]
    latency_ms: float | None


class AgreementPreview(BaseModel):
    peer: str
    what: Literal["asked", "ended", "refused"]
    text: str


class EntryPreview(BaseModel):
    name: str
    text: str
    owner: str


class NodePreview(BaseModel):
    node: str
    added: list[EntryPreview]
    changed: list[EntryPreview]
    removed: list[EntryPreview]


class Preview(BaseModel):
    """Nothing of it is stored, sent or numbered."""

    intents: list[IntentPreview] = Field(description="Those that would stand otherwise than they do.")
    agreements: list[AgreementPreview] = Field(description="What neighbours would be told.")
    nodes: list[NodePreview] = Field(description="Entries, once what would be asked for is agreed.")


class Results(BaseModel):
    results: list[str] = Field(description="`intents/order-processing created`, in the order of the request.")
    preview: Preview | None = Field(None, description="Of a dry run only: what it would do.")


class ResourceMetadata(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str
    revision: int = Field(
        0, description="Greater whenever something that is shown of it changes, over restarts too. Tokens have none."
    )


class Resource(BaseModel):
    apiVersion: str  # noqa: N815
    kind: str
    metadata: ResourceMetadata
    spec: dict[str, Any]
    status: dict[str, Any]


class Drop(BaseModel):
    node: str
    reason: str = Field(description="`not_permitted`, `isolated`, `lease_expired` ...; empty: any, of an intent.")
    interface: str = Field(description="Where it was lost after the pipeline had let it through; empty: before.")
    packets: int
    bytes: int = Field(description="Frame length.")


class Branch(BaseModel):
    kind: str = Field(description="intent, clause, requirement, origin, plan, segments, agreement, node, entry ...")
    text: str
    name: str = Field(description="`entries/se1/steer/forwarding_class=17`; empty where it has none.")
    children: list["Branch"]


class Probe(BaseModel):
    """A packet that a host of this domain is to send."""

    model_config = ConfigDict(extra="forbid", strict=True)
    source: Annotated[str, Field(max_length=256, description="A host, `network/host` or `network/address`.")]
    destination: Annotated[str, Field(max_length=256, description="A service, host, `network/host` or address.")]
    protocol: Literal["", "tcp", "udp", "icmp"] = Field("", description="Empty: the service's first, or icmp.")
    port: int = Field(0, ge=0, le=65535, description="0: the first that the service offers.")


class Crossing(BaseModel):
    """A packet that comes out of a neighbour's tunnel."""

    model_config = ConfigDict(extra="forbid", strict=True)
    border: Annotated[str, Field(max_length=256, description="Name of the inter-domain link.")]
    frame: Annotated[str, Field(pattern="^([0-9a-f][0-9a-f]){14,2048}$", description="Ethernet, hexadecimal.")]


class Step(BaseModel):
    entry: str
    text: str
    owner: str


class Hop(BaseModel):
    domain: str
    node: str
    ingress: str
    confirmed: bool = Field(description="The node has said that it has these entries.")
    steps: list[Step]
    segments: list[str] = Field(description="Where it was encapsulated: first segment first.")
    containers: list[str] = Field(description="The same as sent: the first as destination, the others in an SRH.")
    result: str


class Onward(BaseModel):
    domain: str
    border: str
    sid: str
    frame: str


class Trace(BaseModel):
    packet: str
    hops: list[Hop]
    verdict: Literal["delivered", "dropped", "left"]
    text: str
    owner: str
    onward: Onward | None


class Check(BaseModel):
    subject: str
    name: str
    ok: bool
    detail: str
    advice: str


class Doctor(BaseModel):
    domain: str
    ok: bool
    checks: list[Check]


NAME_PATTERN = r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"
NAME_WORDS = "expected 1 to 63 of a-z, 0-9, `-` and `.`, with a letter or digit at both ends"
Name = Annotated[str, Field(pattern=NAME_PATTERN, examples=["customer-x"])]


class NewToken(BaseModel):
    """Who is to use the API. Tenants: an operator's, one or more; a reader's, or none for everything."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: Name
    role: Literal["admin", "operator", "reader"]
    tenants: Annotated[list[Name], Field(max_length=64)] = []
    lifetime_s: Annotated[int, Field(ge=1, le=10 * 365 * 86400)] | None = Field(None, description="None: for ever.")

    @model_validator(mode="after")
    def fits(self) -> "NewToken":
        if self.role == "operator" and not self.tenants:
            raise PydanticCustomError("tenants", "an operator acts for tenants: name one or more")
        if self.role == "admin" and self.tenants:
            raise PydanticCustomError("tenants", "an admin acts for everybody: name no tenants")
        return self


class CreatedToken(BaseModel):
    results: list[str]
    secret: str = Field(description="What the holder sends as bearer token. It is not stored and not shown again.")


class Who(BaseModel):
    """The holder of the token that came with the request."""

    name: str
    role: Literal["admin", "operator", "reader"]
    tenants: list[str] | None = Field(description="Whom it may act for and what it sees; null: all.")


class Health(BaseModel):
    status: str


class Manifest(BaseModel):
    """A manifest's content is checked by the controller, whose problems say where in it they are."""

    model_config = ConfigDict(extra="allow", strict=True)
    apiVersion: Annotated[str, Field(max_length=64, examples=["netstitch/v1"])]  # noqa: N815
    kind: Annotated[str, Field(max_length=64, examples=["Intent"])]
    metadata: dict[str, Any]
    spec: dict[str, Any]


class AgreementEnd(BaseModel):
    """Why an agreement is ended; the other domains are told."""

    model_config = ConfigDict(extra="forbid", strict=True)
    reason: Annotated[str, Field(min_length=1, max_length=300)]
    hold_off_s: Annotated[int, Field(ge=0, le=86400, description="How long the same intent is not accepted again.")] = (
        900
    )


class Reference(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    kind: Annotated[str, Field(max_length=64, description="In the plural.", examples=["intents"])]
    name: Annotated[str, Field(max_length=2000, examples=["order-processing"])]


BODIES: tuple[type[BaseModel], ...] = (Probe, Crossing, NewToken, AgreementEnd, Reference)
"""Whose fields are known by name."""
References = Annotated[list[Reference], FailFast()]
Manifests = TypeAdapter(Annotated[list[Manifest], FailFast()])


def depth(value: object, limit: int = DEPTH_LIMIT) -> int:
    """How deeply dicts and lists are nested, counted up to `limit`."""
    level: list[object] = [value]
    for reached in range(limit):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return reached
    return limit


def _inside(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
