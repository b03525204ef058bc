"""Which addresses are public: what a user names may lead to no other (docs/design/protocol.md, Webhooks)."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from kelpie_api.net.addresses import inner_v4

# Listed here, since what `ipaddress` calls global differs between releases of Python and is wrong for some.
CLOSED_V4 = [
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network; Linux connects to itself
        "10.0.0.0/8",
        "100.64.0.0/10",  # between carriers and their customers; also a metadata service
        "127.0.0.0/8",
        "168.63.129.16/32",  # a metadata service at a public address
        "169.254.0.0/16",  # link-local, metadata services
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays, which no longer exist
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
]
OPEN_V6 = IPv6Network("2000::/3")  # all that has been allocated; loopback, local and multicast lie outside
CLOSED_V6 = [
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocols, Teredo among them
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
    )
]


def is_public(address: str) -> bool:
    """Whether this is a public address. For an IPv4 address that is embedded in an IPv6 one, that one decides."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address):
        inner = inner_v4(ip)
        if inner is None:
            scoped = ip.scope_id is not None
            return ip in OPEN_V6 and ip.is_global and not scoped and not any(ip in net for net in CLOSED_V6)
        ip = inner
    return ip.is_global and not any(ip in net for net in CLOSED_V4)


def is_open(address: tuple[Any, ...]) -> bool:
    """Whether an address is public. A scoped one (`fe80::1%eth0`) belongs to this machine's network: it is not."""
    return not any(address[3:]) and is_public(str(address[0]))
