"""STAMP probes (RFC 8762) of paths and links: sent and judged by one thread of the agent, compared in XDP."""
