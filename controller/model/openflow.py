"""OpenFlow switches of the inventory: nodes that other nodes' packets cross, and that run no agent of ours.

Their entries are those of one table, `openflow`, whose fields are named as OXM names them (OpenFlow 1.3.5 §7.2.3.7).
"""

import re

from controller.model.intent import Value

TABLE = "openflow"
PRIORITY = 100
"""Of what forwards or punts; what nothing of it matches, the table-miss entry drops (§5.4)."""
_AGENT = re.compile(r"openflow:([0-9a-f]{16})@(.+)")


class OpenFlowSwitch(Value, frozen=True, kw_only=True):
    datapath_id: int
    address: str
    """Where it listens for controllers: `unix:/path` or `host:port`."""


def openflow_switch(agent: str) -> OpenFlowSwitch | None:
    """What `agent` of a node says (`openflow:00000000000000a1@unix:/path`); None: it is an agent of ours."""
    if not agent.startswith("openflow:"):
        return None
    found = _AGENT.fullmatch(agent)
    return OpenFlowSwitch(datapath_id=int(found[1], 16), address=found[2]) if found is not None else None
