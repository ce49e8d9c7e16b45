"""Tell IP addresses of the public internet, which a server may call for a client, from all others."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network

_GLOBAL_V6 = ip_network("2000::/3")  # leaves out mapped, compatible, NAT64, local and multicast addresses
_NEVER = (
    ip_network("192.0.0.0/24"),  # IETF protocols; the standard library knows the first eight addresses only
    ip_network("192.88.99.0/24"),  # relays of 6to4
    ip_network("168.63.129.16/32"),  # public by number, but inside Azure a service of the host
    ip_network("2001::/23"),  # IETF protocols, among them Teredo, which contains an IPv4 address
    ip_network("2001:db8::/32"),  # documentation
    ip_network("2002::/16"),  # 6to4, which contains an IPv4 address
    ip_network("3fff::/20"),  # documentation
)


def is_public_address(address: str) -> bool:
    """Return whether an IP address is one of the public internet.

    Not public are private, loopback, link-local, shared (CGNAT), reserved, documentation and multicast addresses, and
    all IPv6 ranges that stand for an IPv4 address (mapped, compatible, NAT64, 6to4, Teredo).
    """
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if not ip.is_global or any(ip in network for network in _NEVER):
        return False
    if isinstance(ip, IPv4Address):
        return not ip.is_multicast and not ip.is_reserved
    return ip in _GLOBAL_V6
