"""The ledger's table, declared once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from plaud_provider.database.types import UtcTime
from plaud_provider.ledger.entry import State

LEDGER_TABLE = "plaud_submissions"
#: MySQL wants to be told how much of a text is in an index.
_SHORT_STATE: Mapping[str, Any] = {"mysql_length": {"state": 16}, "mariadb_length": {"state": 16}}


def ledger_table() -> sa.Table:
    """Declare the table: a row for each recording, in the connection's own schema."""
    table = sa.Table(
        LEDGER_TABLE,
        sa.MetaData(),
        sa.Column("recording_key", sa.String(255), primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("audio_uri", sa.Text),
        sa.Column("region", sa.Text, nullable=False),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("language", sa.Text),
        sa.Column("speaker_diarization", sa.Boolean, nullable=False),
        sa.Column("duration_seconds", sa.Double),
        sa.Column("transcription_id", sa.String(255)),
        sa.Column("error", sa.Text),
        sa.Column("owner_dag_id", sa.String(255), nullable=False),
        sa.Column("owner_run_id", sa.String(255), nullable=False),
        sa.Column("owner_task_id", sa.Text, nullable=False),
        sa.Column("owner_map_index", sa.Integer, nullable=False),
        sa.Column("owner_try_number", sa.Integer, nullable=False),
        sa.Column("lease_until", UtcTime),
        sa.Column("claimed_at", UtcTime, nullable=False),
        sa.Column("submitted_at", UtcTime),
        sa.Column("accepted_at", UtcTime),
        sa.Column("finished_at", UtcTime),
        sa.Column("updated_at", UtcTime, nullable=False),
        sa.Column("target", sa.Text),
        sa.Column("model", sa.Text),
        sa.Column("purged_at", UtcTime),
    )
    c = table.c
    sa.Index(f"ix_{LEDGER_TABLE}_transcription_id", c.transcription_id)
    # The ledger's page sums up from these two alone: the table itself of a million rows is too much to read.
    sums = (c.state, c.updated_at)
    sa.Index(
        f"ix_{LEDGER_TABLE}_owner_run",
        *(c.owner_dag_id, c.owner_run_id, *sums, c.duration_seconds),
        **_SHORT_STATE,
    )
    sa.Index(f"ix_{LEDGER_TABLE}_state", *sums, c.owner_dag_id, c.duration_seconds, **_SHORT_STATE)
    return table


def is_lapsed(table: sa.Table, now: sa.ColumnElement[datetime]) -> sa.ColumnElement[bool]:
    """
    Return the rule of what was being sent when its lease ended: nobody knows what became of it.

    :param table: The table.
    :param now: The time in SQL.
    """
    return sa.and_(table.c.state == State.SUBMITTING.value, table.c.lease_until <= now)
