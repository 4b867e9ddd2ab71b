"""Tunnels to neighbouring domains, by the kernel's WireGuard or wireguard-go."""
