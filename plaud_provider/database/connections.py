"""From the id of an Airflow connection to its hook."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from copy import copy
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException

from plaud_provider.exceptions import PlaudConfigurationError, how_to_install

if TYPE_CHECKING:
    from airflow.sdk import Connection

# Redshift is reached by PostgreSQL's hook as well.
_REDSHIFT = ("redshift", "redshift-serverless")
_SECRET_NAME = r"(?i)token|secret|passw|key"


def look_up(conn_id: str | None, *, parameter: str) -> Connection:
    """
    Return a connection.

    :param conn_id: Its id; ``None`` if a template made nothing of it.
    :param parameter: Argument that names it, for messages.
    :raises PlaudConfigurationError: if there is none.
    """
    if conn_id is None:
        raise PlaudConfigurationError(
            f"{parameter}: it is empty. Pass the id of the database's connection. Nothing was sent."
        )
    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise PlaudConfigurationError(
            f"{parameter}: there is no Airflow connection {conn_id!r}. Create it (Admin > Connections, "
            f"or AIRFLOW_CONN_{conn_id.upper()}) or pass the id of the database's connection. Nothing "
            "was sent."
        ) from None


def kind_of(connection: Connection) -> str:
    """Return what a connection leads to: its type, where that tells."""
    kind = str(connection.conn_type)
    if kind == "postgres" and any(connection.extra_dejson.get(name) for name in _REDSHIFT):
        return "redshift"
    return kind


def with_extra(connection: Connection, extra: Mapping[str, Any]) -> Connection:
    """
    Return a connection with another extra: drivers do not know what of it is a setting of ours.

    :param connection: The connection, which stays as it is.
    :param extra: What its extra is to be.
    """
    bare = copy(connection)
    bare.extra = json.dumps(extra)
    return bare


def hook_of(connection: Connection, *, parameter: str) -> Any:
    """
    Return the hook of a connection.

    :param connection: The connection.
    :param parameter: Argument that names it, for messages.
    :raises PlaudConfigurationError: if no provider for its type is installed.
    """
    # Each lookup is a request to Airflow: these hooks take what has been looked up.
    given = {"connection": connection} if connection.conn_type in ("postgres", "mysql") else None
    try:
        return connection.get_hook(hook_params=given)
    except (AirflowException, ImportError):
        pass
    raise PlaudConfigurationError(
        f"{parameter}: the Airflow provider of the type {connection.conn_type!r} of connection "
        f"{connection.conn_id!r} is not installed. Install it: {how_to_install(str(connection.conn_type))}. "
        "Nothing was sent."
    )


def safe_message(error: BaseException, connection: Connection) -> str:
    """
    Return the first line of a driver's message without the connection's secrets.

    Only for what happens before any row is sent: later messages may quote rows.

    :param error: What the driver raised.
    :param connection: The connection.
    """
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    message = f"{type(error).__name__}: {lines[0].strip().rstrip('.') if lines else 'no message'}"
    secrets = [connection.password]
    secrets += [value for name, value in connection.extra_dejson.items() if re.search(_SECRET_NAME, name)]
    for secret in secrets:
        if isinstance(secret, str) and secret:
            message = message.replace(secret, "***")
    return message[:300]
