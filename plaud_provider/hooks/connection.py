"""What an Airflow connection of type ``plaud`` says, checked."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from plaud_provider.api.account import Account
from plaud_provider.api.dialects import DIALECTS, OPENAPI, Dialect
from plaud_provider.api.hosts import resolve_base_url
from plaud_provider.api.limits import REQUESTS_A_MINUTE
from plaud_provider.api.regions import Region, refuse_other_region
from plaud_provider.exceptions import PlaudConfigurationError
from plaud_provider.hooks.transport import ca_bundle

if TYPE_CHECKING:
    from airflow.sdk import Connection

DEFAULT_CONN_ID = "plaud_default"
#: Where the API server takes Plaud's calls; the id of the connection follows.
WEBHOOKS_PATH = "/plaud/webhooks"


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """
    How Plaud's calls come to those who wait.

    :param url: What Plaud is to call when a transcription is final.
    :param secrets: Any of them may have signed a call.
    :param path: Folder of the marks that calls leave.
    """

    url: str
    secrets: tuple[str, ...] = field(repr=False)
    path: str


class PlaudSettings(NamedTuple):
    """
    A connection's settings.

    :param account: Who asks, and where.
    :param requests_per_minute: Quota of submit and result calls together.
    :param budget_conn_id: Airflow connection of the SQL database that several hosts share the quota through;
        ``None`` if only this host uses the client.
    :param webhooks: How Plaud calls; ``None`` if it does not.
    :param price_per_hour: What an hour of audio costs, as the connection has it, unchecked: no wrong price
        keeps anything from being done.
    """

    account: Account
    requests_per_minute: float
    budget_conn_id: str | None = None
    webhooks: WebhookSettings | None = None
    price_per_hour: object = None

    def webhook_url(self, given: str | None) -> str | None:
        """
        Return what Plaud is to call.

        :param given: What a user has named in place of our own receiver.
        """
        return given or (None if self.webhooks is None else self.webhooks.url)


class PlaudConnection:
    """
    A connection, for tasks that seldom ask Plaud anything: it imports no HTTP library.

    It is looked up when it is first asked for something.

    :param plaud_conn_id: As for :class:`~plaud_provider.hooks.plaud.PlaudHook`.
    :param region: Likewise.
    """

    def __init__(self, plaud_conn_id: str = DEFAULT_CONN_ID, region: str | None = None) -> None:
        self.plaud_conn_id = plaud_conn_id
        self._asserted_region = region

    @cached_property
    def settings(self) -> PlaudSettings:
        """Its settings, checked; raises before anything is sent."""
        return look_up(self.plaud_conn_id, region=self._asserted_region)

    @cached_property
    def region(self) -> str:
        """Its region: ``us``, ``eu`` or ``jp``."""
        return self.settings.account.region.value

    @property
    def api(self) -> str:
        """Which of Plaud's APIs it speaks: ``openapi`` or ``embedded``."""
        return self.settings.account.dialect.name

    @cached_property
    def client_id(self) -> str:
        """The Plaud client id that pays."""
        return self.settings.account.client_id


def look_up(plaud_conn_id: str, *, region: str | None) -> PlaudSettings:
    """
    Look a connection up, and read it.

    :param plaud_conn_id: Its id.
    :param region: What the caller asserts the region to be.
    :raises PlaudConfigurationError: if there is none, if it is incomplete or contradicts ``region``, or if
        the environment names certificate authorities that are not there; nothing was sent.
    """
    try:
        connection = BaseHook.get_connection(plaud_conn_id)
    except AirflowNotFoundException:
        raise PlaudConfigurationError(no_connection(plaud_conn_id)) from None
    settings = read_connection(connection, region=region)
    # Before any submit is noted as being sent.
    ca_bundle(settings.account.base_url)
    return settings


def no_connection(plaud_conn_id: str) -> str:
    """Return what to say about a connection that does not exist."""
    return (
        f"plaud_conn_id: there is no Airflow connection {plaud_conn_id!r}. Create it (Admin > Connections, "
        f"type Plaud, or AIRFLOW_CONN_{str(plaud_conn_id).upper()}) or pass the id of yours. Nothing was "
        "sent."
    )


#: What is read of a connection's extra.
FIELDS = (
    *("region", "api", "api_key", "requests_per_minute", "allowed_hosts", "budget_conn_id", "price_per_hour"),
    *("webhook_base_url", "webhook_secret", "webhook_path"),
)


def read_connection(connection: Connection, *, region: str | None) -> PlaudSettings:
    """
    Read a connection: login = client id, password = secret key, host = base URL override, extras as in the
    docs.

    :param connection: The Airflow connection.
    :param region: What the caller asserts the region to be.
    :raises PlaudConfigurationError: if the connection is incomplete or contradicts ``region``; nothing was
        sent.
    """
    conn_id = connection.conn_id
    extra = _extra(connection)
    client_id = _credential(connection.login, "login (Plaud client id)", conn_id)
    secret_key = _credential(connection.password, "password (Plaud secret key)", conn_id)
    if ":" in client_id:
        # HTTP Basic takes what follows a colon for the secret.
        raise PlaudConfigurationError(
            f"Connection {conn_id!r}: the login (Plaud client id) has a colon in it. Is more than the client "
            "id in there? Nothing was sent."
        )
    requests_per_minute = _requests_per_minute(extra.get("requests_per_minute"), conn_id)
    host, allowed_hosts = _host(connection), _names(extra.get("allowed_hosts"))
    connected = Region.parse(str(extra.get("region") or Region.US.value))
    dialect = _dialect(extra.get("api"), conn_id)
    api_key = _api_key(extra.get("api_key"), dialect, client_id, conn_id)
    base_url = resolve_base_url(connected, host, allowed_hosts=allowed_hosts, dialect=dialect)
    refuse_other_region(connected, region, conn_id)
    account = Account(connected, base_url, client_id, secret_key, dialect, api_key)
    return PlaudSettings(
        account,
        requests_per_minute,
        str(extra.get("budget_conn_id") or "").strip() or None,
        _webhooks(extra, dialect, conn_id),
        extra.get("price_per_hour"),
    )


def _webhooks(extra: dict[str, Any], dialect: Dialect, conn_id: str) -> WebhookSettings | None:
    given = {name: str(extra.get(name) or "").strip() for name in FIELDS if name.startswith("webhook_")}
    if not any(given.values()):
        return None
    if "webhook_url" in dialect.lacks:
        raise PlaudConfigurationError(
            f"Connection {conn_id!r}: Plaud's API {dialect.name!r} has no webhooks. Empty "
            f"{', '.join(given)}. Nothing was sent."
        )
    for name, value in given.items():
        if not value:
            raise PlaudConfigurationError(
                f"Connection {conn_id!r}: {name} is empty. Plaud's calls need all of {', '.join(given)}: "
                "fill it in, or empty the others. Nothing was sent."
            )
    base, secrets = given["webhook_base_url"], tuple(given["webhook_secret"].split())
    for secret in secrets:
        mask_secret(secret)
    if not re.fullmatch(r"https://[^\s/?#@]+(/[^\s?#]*)?", base):
        raise PlaudConfigurationError(
            f"Connection {conn_id!r}: webhook_base_url is not an https:// URL without user and query, such "
            "as https://airflow.example.com, from which Plaud can reach this Airflow's API server. Nothing "
            "was sent."
        )
    url = f"{base.rstrip('/')}{WEBHOOKS_PATH}/{quote(conn_id, safe='')}"
    return WebhookSettings(url, secrets, given["webhook_path"])


def _extra(connection: Connection) -> dict[str, Any]:
    """
    Return the extra, whose secrets are masked in all logs.

    Not by ``extra_dejson``: that takes one that it cannot read for empty, so that the region would be
    another one; and it masks every value in all logs, names of hosts included.
    """
    try:
        extra = json.loads(connection.extra or "{}")
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise PlaudConfigurationError(
            f"Connection {connection.conn_id!r}: the extra is not a JSON object, so that its region is not "
            "known. Correct it. Nothing was sent."
        )
    for name in extra:
        if name not in FIELDS and (meant := _meant(name)) is not None:
            raise PlaudConfigurationError(
                f"Connection {connection.conn_id!r}: the extra has {name!r}, which is not read. Is it to "
                f"be {meant!r}? Rename it or take it out. Nothing was sent."
            )
    if extra.get("api_key"):
        mask_secret(extra["api_key"])
    return extra


def _meant(name: str) -> str | None:
    """Return the field of ours that a name in an extra looks like."""
    from difflib import get_close_matches

    plain = name.strip().lower().replace("-", "_").removeprefix("extra__").removeprefix("plaud_").lstrip("_")
    return next(iter(get_close_matches(plain, FIELDS, n=1, cutoff=0.8)), None)


def _credential(value: str | None, name: str, conn_id: str) -> str:
    credential = (value or "").strip()
    if not credential:
        raise PlaudConfigurationError(
            f"Connection {conn_id!r}: the {name} is empty. Fill it in. Nothing was sent."
        )
    return credential


def _dialect(value: object, conn_id: str) -> Dialect:
    name = str(value or "").strip().lower() or OPENAPI.name
    if name not in DIALECTS:
        raise PlaudConfigurationError(
            f"Connection {conn_id!r}: api is {value!r}; it takes one of {', '.join(DIALECTS)} (default "
            f"{OPENAPI.name}). Nothing was sent."
        )
    return DIALECTS[name]


def _api_key(value: object, dialect: Dialect, client_id: str, conn_id: str) -> str:
    """Return the API key of a dialect that has one, if it and the client id can be sent as headers."""
    if dialect.sends_token:
        return ""
    api_key = _credential(None if value is None else str(value), "field api_key (Plaud API key)", conn_id)
    for name, text in (("api_key (Plaud API key)", api_key), ("login (Plaud client id)", client_id)):
        if not text.isascii() or not text.isprintable() or " " in text:
            raise PlaudConfigurationError(
                f"Connection {conn_id!r}: the {name} has characters that no header can have. Is it copied "
                "whole, and nothing else? Nothing was sent."
            )
    return api_key


def _host(connection: Connection) -> str:
    """Return the host with the port and scheme that a connection may have in fields of their own."""
    scheme, mark, rest = (connection.host or "").strip().rpartition("://")
    authority, slash, path = rest.partition("/")
    if not authority:
        return ""
    if authority.count(":") > 1 and "[" not in authority:
        # An IPv6 address, as Airflow reads it from a URI.
        authority = f"[{authority}]"
    if connection.port and ":" not in authority.rpartition("]")[2]:
        authority = f"{authority}:{connection.port}"
    if not mark and (schema := (connection.schema or "").strip()):
        scheme, mark = schema, "://"
    return f"{scheme}{mark}{authority}{slash}{path}"


def _names(value: object) -> list[str]:
    """Return a list of names given as a list, or as one string with commas or blanks between them."""
    if isinstance(value, (list, tuple)):
        return [str(name) for name in value]
    return str(value).replace(",", " ").split() if value else []


def _requests_per_minute(value: object, conn_id: str) -> float:
    if value is None or value == "":
        return REQUESTS_A_MINUTE
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number <= 0:
        raise PlaudConfigurationError(
            f"Connection {conn_id!r}: requests_per_minute is {value!r}; it takes a number above 0 (default "
            f"{REQUESTS_A_MINUTE:.0f}). Nothing was sent."
        )
    return number
