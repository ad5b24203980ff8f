"""Where the pages look, and what they show: Airflow's configuration, section ``[plaud]``."""

from __future__ import annotations

from typing import Any, NamedTuple

from airflow.providers.common.compat.sdk import conf

from plaud_provider.hooks.connection import DEFAULT_CONN_ID
from plaud_provider.warehouse.lake import Lake

SECTION = "plaud"


class Place(NamedTuple):
    """
    Where transcripts are.

    :param sql_conn_id: Airflow connection of the warehouse; ``None`` for a lake alone.
    :param schema: Schema of its table; ``None`` for the connection's own.
    :param transcripts_table: Its table of transcripts.
    :param ledger_conn_id: Airflow connection of the ledger.
    :param plaud_conn_id: Airflow connection of the client whose quota is shown.
    :param lake: The lake, where there is no warehouse.
    """

    sql_conn_id: str | None
    schema: str | None
    transcripts_table: str
    ledger_conn_id: str
    plaud_conn_id: str
    lake: Lake | None = None


def configured_place() -> Place:
    """Return where to look unless a run's own tasks say otherwise."""
    sql_conn_id = _text("sql_conn_id") or "warehouse_default"
    return Place(
        sql_conn_id,
        _text("schema"),
        _text("transcripts_table") or "plaud_transcripts",
        _text("ledger_conn_id") or sql_conn_id,
        _text("plaud_conn_id") or DEFAULT_CONN_ID,
    )


def shows_text() -> bool:
    """Whether pages and downloads have what was said; else only numbers, for everybody."""
    return bool(conf.getboolean(SECTION, "show_transcripts", fallback=True))


def _text(name: str) -> str | None:
    value: Any = conf.get(SECTION, name, fallback=None)
    return str(value).strip() or None if value is not None else None
