"""The XDP program and its maps, through libbpf."""
