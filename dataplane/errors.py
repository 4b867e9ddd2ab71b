"""Errors of the agent, by whose fault they are."""


class AgentError(Exception):
    """The text says what failed, where, why, and what to do."""


class RequestInvalid(AgentError):
    """The request or the configuration names something that cannot be; asking again will not help."""


class NodeRefused(AgentError):
    """The kernel or a process of this node refused; the state of the node decides whether asking again helps."""
