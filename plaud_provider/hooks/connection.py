"""What an Airflow connection of type ``plaud`` says, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plaud_provider.api.regions import Region, resolve_base_url
from plaud_provider.api.requests import Account
from plaud_provider.exceptions import PlaudConfigurationError

if TYPE_CHECKING:
    from airflow.sdk import Connection

#: Plaud's documented figure is second-hand; the connection may say another.
DEFAULT_REQUESTS_PER_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class PlaudSettings:
    """
    A connection's settings.

    :param account: Who asks, and where.
    :param requests_per_minute: Budget of submit and result calls together.
    """

    account: Account
    requests_per_minute: float


def read_connection(connection: Connection, extra: Mapping[str, Any], *, region: str | None) -> PlaudSettings:
    """
    Read a connection: login = client id, password = secret key, host = base URL override, extras as in the
    docs.

    :param connection: The Airflow connection.
    :param extra: Its extra, parsed.
    :param region: What the caller asserts the region to be.
    :raises PlaudConfigurationError: if the connection is incomplete or contradicts ``region``; nothing was
        sent.
    """
    conn_id = connection.conn_id
    if not connection.login or not connection.password:
        missing = "login (Plaud client id)" if not connection.login else "password (Plaud secret key)"
        raise PlaudConfigurationError(f"Connection {conn_id!r}: the {missing} is empty. Nothing was sent.")
    connected = Region.parse(str(extra.get("region") or Region.US.value))
    if region is not None and Region.parse(region) is not connected:
        raise PlaudConfigurationError(
            f"region: {region!r} was asked for, but connection {conn_id!r} belongs to region "
            f"'{connected.value}'. Credentials belong to one region: use a connection of the region you "
            "mean. Nothing was sent."
        )
    base_url = resolve_base_url(
        connected, _host(connection), allowed_hosts=_names(extra.get("allowed_hosts"))
    )
    account = Account(connected, base_url, connection.login.strip(), connection.password.strip())
    return PlaudSettings(account, _requests_per_minute(extra.get("requests_per_minute"), conn_id))


def _host(connection: Connection) -> str:
    host = (connection.host or "").strip()
    if not host:
        return ""
    if connection.port and ":" not in host.rpartition("]")[2].removeprefix("http:").removeprefix("https:"):
        host = f"{host.rstrip('/')}:{connection.port}"
    if connection.schema and "://" not in host:
        host = f"{connection.schema}://{host}"
    return host


def _names(value: object) -> list[str]:
    """Return a list of names given as a list, or as one string with commas or blanks between them."""
    if isinstance(value, (list, tuple)):
        return [str(name) for name in value]
    return str(value).replace(",", " ").split() if value else []


def _requests_per_minute(value: object, conn_id: str) -> float:
    if value is None or value == "":
        return DEFAULT_REQUESTS_PER_MINUTE
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number <= 0:
        raise PlaudConfigurationError(
            f"Connection {conn_id!r}: requests_per_minute is {value!r}; it takes a number above 0 (default "
            f"{DEFAULT_REQUESTS_PER_MINUTE:.0f}). Nothing was sent."
        )
    return number
