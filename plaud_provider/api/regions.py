"""
Which host a region's requests may go to.

Credentials and data belong to one region: a request for one region never reaches another region's host.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from enum import StrEnum
from urllib.parse import urlsplit

from plaud_provider.exceptions import PlaudConfigurationError


class Region(StrEnum):
    """A Plaud region."""

    US = "us"
    EU = "eu"
    JP = "jp"

    @property
    def base_url(self) -> str:
        """The region's public API."""
        return _BASE_URLS[self]

    @classmethod
    def parse(cls, value: str) -> Region:
        """
        Return the region named ``us``, ``eu`` or ``jp``.

        :raises PlaudConfigurationError: for any other name.
        """
        try:
            return cls(value.strip().lower())
        except (ValueError, AttributeError):
            names = ", ".join(region.value for region in cls)
            raise PlaudConfigurationError(
                f"region: {value!r} is not a Plaud region; use one of {names}. Nothing was sent."
            ) from None


_BASE_URLS = {
    Region.US: "https://openapi.plaud.ai",
    Region.EU: "https://openapi.plaud.eu",
    Region.JP: "https://openapi.plaud.jp",
}
_LABEL = "[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
# A name that ends in a number is an address in disguise (2130706433, 0x7f.1).
_HOST_NAME = rf"({_LABEL}\.)*(?!\d+$|0x){_LABEL}"
_REGION_OF_HOST = {urlsplit(url).hostname: region for region, url in _BASE_URLS.items()}


def resolve_base_url(region: Region, host: str | None, *, allowed_hosts: Collection[str] = ()) -> str:
    """
    Return the base URL for ``region``, after checking an override.

    :param region: The region that the credentials belong to.
    :param host: A base URL or host name instead of the region's own; empty for the region's own.
        ``https`` unless it is on loopback, where ``http`` is the default.
    :param allowed_hosts: Exact names of private gateways that may receive this region's requests.
    :raises PlaudConfigurationError: if requests for ``region`` may not go to ``host``.
    """
    if not host:
        return region.base_url
    if "@" in host:
        raise _refused("(not shown)", "carries user information; credentials belong in login and password")
    shown = host.partition("?")[0]
    if not host.isascii() or not host.isprintable() or any(character in " \\%" for character in host):
        raise _refused(shown, "is not a plain ASCII host name")
    try:
        url = urlsplit(host if "://" in host else f"//{host}")
        name, port = url.hostname or "", url.port
    except ValueError:
        name, port = "", None
    if not _is_host_name(name):
        raise _refused(shown, "is not a URL or host name")
    if url.query or url.fragment or ".." in url.path:
        raise _refused(name, "has a query, a fragment or '..' in it")

    loopback = is_loopback(name)
    scheme = url.scheme or ("http" if loopback else "https")
    if scheme != "https" and not (loopback and scheme == "http"):
        raise _refused(name, f"uses {scheme}://; only https is allowed (http on loopback)")

    owner = _REGION_OF_HOST.get(name)
    if owner is not None and (owner is not region or port not in (None, 443)):
        raise _refused(
            name,
            f"belongs to region '{owner.value}' while the connection says '{region.value}'"
            if owner is not region
            else "is asked for on another port than 443",
        )
    if owner is None and not loopback and not _is_allowed(name, allowed_hosts):
        raise _refused(name, f"is neither the host of region '{region.value}' nor one of the allowed hosts")
    # With its scheme's own port it is the same client: one token, one quota.
    is_default_port = port in (None, 443 if scheme == "https" else 80)
    netloc = (f"[{name}]" if ":" in name else name) + ("" if is_default_port else f":{port}")
    return f"{scheme}://{netloc}{url.path.rstrip('/')}"


def refuse_other_region(connected: Region, asserted: str | None, conn_id: str) -> None:
    """
    Check what a caller takes a connection's region to be.

    :param connected: The connection's region.
    :param asserted: What the caller takes it to be; ``None`` asserts nothing.
    :param conn_id: The connection, for the message.
    :raises PlaudConfigurationError: if it is another one; nothing was sent.
    """
    if asserted is not None and Region.parse(asserted) is not connected:
        raise PlaudConfigurationError(
            f"region: {asserted!r} was asked for, but connection {conn_id!r} belongs to region "
            f"'{connected.value}'. Credentials belong to one region: use a connection of the region you "
            "mean. Nothing was sent."
        )


def is_loopback(host: str) -> bool:
    """Whether a host name or literal address is this machine's loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_host_name(name: str) -> bool:
    """Whether it is a host name or an address that is written as one."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return len(name) <= 253 and re.fullmatch(_HOST_NAME, name, re.ASCII) is not None
    return True


def _is_allowed(name: str, allowed_hosts: Collection[str]) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        pass
    else:
        # Cloud metadata services live on link-local addresses: never a gateway.
        if (getattr(address, "ipv4_mapped", None) or address).is_link_local:
            return False
    return name in {allowed.strip().lower() for allowed in allowed_hosts}


def _refused(shown: str, why: str) -> PlaudConfigurationError:
    return PlaudConfigurationError(
        f"Connection host: {shown!r} {why}. Nothing was sent. Leave the host empty for the region's own, "
        "correct the region, or list a private gateway's exact name in the connection's allowed hosts."
    )
