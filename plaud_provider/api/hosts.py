"""
Which host a client's requests may go to.

Credentials and data belong to one region and one API: a request for one never reaches the host of another.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import urlsplit

from plaud_provider.api.dialects import DIALECTS, OPENAPI, Dialect
from plaud_provider.api.loopback import is_loopback
from plaud_provider.api.regions import Region
from plaud_provider.exceptions import PlaudConfigurationError

_LABEL = "[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
# A name that ends in a number is an address in disguise (2130706433, 0x7f.1).
_HOST_NAME = rf"({_LABEL}\.)*(?!\d+$|0x){_LABEL}"
#: The paths of requests, which follow a base URL.
_API_PATH = re.compile("/(open|oauth)/partner(/|$)")
#: Whose a public host of Plaud's is.
_OWNERS = {
    urlsplit(url).hostname: (dialect, region)
    for dialect in DIALECTS.values()
    for region, url in (*dialect.base_urls.items(), *dialect.announced_urls.items())
}


def resolve_base_url(
    region: Region, host: str | None, *, allowed_hosts: Collection[str] = (), dialect: Dialect = OPENAPI
) -> str:
    """
    Return the base URL for ``region``, after checking an override.

    :param region: The region that the credentials belong to.
    :param host: A base URL or host name instead of the region's own; empty for the region's own.
        ``https`` unless it is on loopback, where ``http`` is the default.
    :param allowed_hosts: Exact names of private gateways that may receive this region's requests; of a URL
        or a name with a port, the name counts.
    :param dialect: The API that is spoken there.
    :raises PlaudConfigurationError: if requests for ``region`` may not go to ``host``, or if the API is not
        offered there.
    """
    own = dialect.base_url(region)
    if not host:
        return own
    if "@" in host:
        raise _refused("(not shown)", "carries user information; credentials belong in login and password")
    shown = host.partition("?")[0]
    if not host.isascii() or not host.isprintable() or any(character in " \\%" for character in host):
        raise _refused(shown, "is not a plain ASCII host name")
    try:
        url = urlsplit(host if "://" in host else f"//{host}")
        name, port = _compared(url.hostname or ""), url.port
    except ValueError:
        name, port = "", None
    if not _is_host_name(name):
        raise _refused(shown, "is not a URL or host name")
    if url.query or url.fragment or not {".", ".."}.isdisjoint(url.path.split("/")):
        raise _refused(name, "has a query, a fragment, '.' or '..' in it")
    if _API_PATH.search(url.path):
        raise _refused(shown, "has a path of the API itself in it, which is added to it: name what is before")

    loopback = is_loopback(name)
    scheme = url.scheme or ("http" if loopback else "https")
    if scheme != "https" and not (loopback and scheme == "http"):
        raise _refused(name, f"uses {scheme}://; only https is allowed (http on loopback)")

    owner = _OWNERS.get(name)
    if owner is not None:
        its_dialect, its_region = owner
        if its_region is not region:
            raise _refused(
                name, f"belongs to region '{its_region.value}' while the connection says '{region.value}'"
            )
        if its_dialect is not dialect:
            raise _refused(
                name, f"is that of the API '{its_dialect.name}' while the connection says '{dialect.name}'"
            )
        if port not in (None, 443):
            raise _refused(name, "is asked for on another port than 443")
        if not url.path.strip("/"):
            return own
    elif not loopback and not _is_allowed(name, allowed_hosts):
        raise _refused(name, f"is neither the host of region '{region.value}' nor one of the allowed hosts")
    # With its scheme's own port it is the same client: one token, one quota.
    is_default_port = port in (None, 443 if scheme == "https" else 80)
    netloc = (f"[{name}]" if ":" in name else name) + ("" if is_default_port else f":{port}")
    return f"{scheme}://{netloc}{url.path.rstrip('/')}"


def _compared(name: str) -> str:
    """Return a host's name as it is compared, and asked for: without a dot at its end, addresses in short."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.removesuffix(".")


def _named_in(allowed: str) -> str:
    """Return the host that an entry of the allowed hosts names; empty if it names none."""
    entry = allowed.strip().lower()
    try:
        return str(ipaddress.ip_address(entry))
    except ValueError:
        pass
    try:
        return _compared(urlsplit(entry if "://" in entry else f"//{entry}").hostname or "")
    except ValueError:
        return ""


def _is_host_name(name: str) -> bool:
    """Whether it is a host name or an address that is written as one."""
    if name in ("http", "https"):
        # Of "https:/host" and "https://https://host".
        return False
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
    return name in set(map(_named_in, allowed_hosts))


def _refused(shown: str, why: str) -> PlaudConfigurationError:
    return PlaudConfigurationError(
        f"Connection host: {shown!r} {why}. Nothing was sent. Leave the host empty for the region's own, "
        "correct region or api, or list a private gateway's exact name in the connection's allowed hosts."
    )
