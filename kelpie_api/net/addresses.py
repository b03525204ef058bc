"""Hosts and ports in URLs, in one spelling each; and which of them are the coordinator's own."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from kelpie_api.cache import Cache
from kelpie_api.net.http import LONGEST_HOST, Target, resolve

NAT64 = IPv6Network("64:ff9b::/96")
THIS_MACHINE = "localhost"
PUBLIC_PORTS = (80, 443)
RESOLVED_FOR = 60.0  # seconds

Place = tuple[str, int]  # a host and a port
Resolver = Callable[[str, int], list[Target]]


def inner_v4(ip: IPv6Address) -> IPv4Address | None:
    """The embedded IPv4 address: v4-mapped, 6to4, NAT64. Other embeddings are never public."""
    if ip.ipv4_mapped or ip.sixtofour:
        return ip.ipv4_mapped or ip.sixtofour
    return IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None


def spelled(host: str) -> str:
    """A host in one spelling: `Example.com.` is example.com, 0x7f.1 is 127.0.0.1 and that is localhost."""
    if len(host) <= LONGEST_HOST:
        with suppress(UnicodeError):  # no name that a name server could know
            host = host.encode("idna").decode()
    host = host.rstrip(".").lower()
    address = address_of(host)
    if address is None:
        return THIS_MACHINE if host.endswith(f".{THIS_MACHINE}") else host
    return THIS_MACHINE if address.is_loopback or address.is_unspecified else str(address)


def address_of(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a host is, in any spelling that a resolver takes for one; None for a name."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return old_address_of(host)
    return (inner_v4(address) or address) if isinstance(address, IPv6Address) else address


def old_address_of(host: str) -> IPv4Address | None:
    """An address with fewer than four numbers, or with octal or hexadecimal ones."""
    if not re.fullmatch(r"(0[xX][0-9a-fA-F]*|[0-9]+)(\.(0[xX][0-9a-fA-F]*|[0-9]+)){0,3}", host):
        return None
    try:
        return IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def place_of(url: str) -> Place:
    """Where a URL with a scheme leads. Raises ValueError."""
    parts = urlsplit(url)
    return spelled(parts.hostname or ""), parts.port or (443 if parts.scheme == "https" else 80)


def is_url(text: str) -> bool:
    """Whether this is an http(s) URL with a host that can have an address, on any port but 0."""
    try:
        parts = urlsplit(text)
        is_host = 0 < len(parts.hostname or "") <= LONGEST_HOST
        return parts.scheme in {"http", "https"} and is_host and parts.port != 0
    except ValueError:
        return False


@dataclass(frozen=True)
class OwnAddresses:
    """Where clients reach the coordinator. Where that is a public port, the other public one is its own, too."""

    urls: Collection[str] = ()
    resolver: Resolver = resolve
    resolved: Cache[None, frozenset[Place]] = field(default_factory=lambda: Cache(1, RESOLVED_FOR))

    def named_by(self, url: str) -> bool:
        """Whether a URL names one of them, whatever its path."""
        return place_of(url) in self.places

    def reached_at(self, targets: Iterable[Target]) -> bool:
        """Whether one of these addresses, to which a name was resolved, is one to which the own names lead."""
        if not self.urls:
            return False
        own = self.resolved.get(None) or self.resolved.put(None, self._resolved())
        return any((spelled(str(address[0])), address[1]) in own for _, address in targets)

    @cached_property
    def places(self) -> set[Place]:
        places = {place_of(url) for url in self.urls}
        return places | {(host, port) for host, own in places if own in PUBLIC_PORTS for port in PUBLIC_PORTS}

    def _resolved(self) -> frozenset[Place]:
        """The addresses of the own names now; names that cannot be resolved have none."""
        found: set[Place] = set()
        for host, port in self.places:
            try:
                found |= {(spelled(str(address[0])), port) for _, address in self.resolver(host, port)}
            except (OSError, ValueError):
                continue
        return frozenset(found)
