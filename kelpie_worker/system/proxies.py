"""The proxy that a request goes through: one rule for the API and for the bucket.

The libraries that send the requests differ in how they read the variables: one knows ALL_PROXY and networks in
NO_PROXY, the other neither.
"""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_SCHEMES = ("http", "https")


class UnusableProxy(ValueError):
    """A variable names a proxy that no request can go through; a sentence names the variable."""


@dataclass(frozen=True)
class Proxy:
    """`url` has a scheme and may have a password; `variable` names it."""

    url: str = field(repr=False)
    variable: str

    def __str__(self) -> str:
        return f"the proxy {urlsplit(self.url).netloc.rpartition('@')[2]} ({self.variable})"


def proxy_for(url: str, environment: Mapping[str, str] = os.environ) -> Proxy | None:
    """The proxy for requests to an address; None: they go there directly. Raises UnusableProxy.

    The variable of the address's scheme comes before ALL_PROXY, and the spelling in lower case before the other.
    """
    address = urlsplit(url)
    for name in (f"{address.scheme}_proxy", "all_proxy"):
        variable, value = _setting(name, environment)
        if value:
            _, exceptions = _setting("no_proxy", environment)
            return (
                None if is_excepted(address.hostname or "", address.port, exceptions) else _proxy(variable, value)
            )
    return None


def reached(url: str, proxy: Proxy | None, trusted: object) -> str:
    """How an address is reached, in words; `trusted` are the authorities for its certificate."""
    way = f"through {proxy}" if proxy else "directly"
    certificate = f", its certificate checked against {trusted}" if url.startswith("https:") else ""
    return f"reached {way}{certificate}"


def is_excepted(host: str, port: int | None, exceptions: str) -> bool:
    """Whether NO_PROXY excepts a host: by `*`, its name, a domain above it, its address, a network, each with or
    without a port."""
    return any(_matches(one, host.lower(), port) for one in exceptions.lower().replace(",", " ").split())


def _setting(name: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """The variable's name as it is spelled, and its value; an empty one in lower case hides the other."""
    variable = name if name in environment else name.upper()
    return variable, environment.get(variable, "").strip()


def _proxy(variable: str, value: str) -> Proxy:
    url = value if "://" in value else f"http://{value.removeprefix('//')}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UnusableProxy(f"{variable} must name an http or https proxy, as http://HOST:PORT.")
    return Proxy(url, variable)


def _matches(exception: str, host: str, port: int | None) -> bool:
    if exception == "*":
        return True
    address, network = _address(host), _network(exception)
    if address and network:
        return address in network
    name, its_port = _split_port(exception)
    if its_port is not None and its_port != port:
        return False
    if address:
        return _address(name) == address
    name = name.removeprefix("*").lstrip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _split_port(exception: str) -> tuple[str, int | None]:
    """`host:1`, `[::1]:1` and `[::1]` in parts. Of an IPv6 address without brackets nothing is a port."""
    try:
        parts = urlsplit(f"//{exception}")
        if exception.startswith("[") or exception.count(":") == 1:
            return parts.hostname or "", parts.port
    except ValueError:
        pass
    return exception, None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    if "/" not in text:
        return None
    try:
        return ipaddress.ip_network(text.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return None
