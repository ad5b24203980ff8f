"""The ledger's table, declared once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from plaud_provider.database.tables import DeclaredTables, schema_name, table_name
from plaud_provider.database.types import UtcTime

DEFAULT_SUBMISSIONS_TABLE = "plaud_submissions"
#: MySQL wants to be told how much of a text is in an index.
_SHORT_STATE: Mapping[str, Any] = {"mysql_length": {"state": 16}, "mariadb_length": {"state": 16}}


class LedgerTables(DeclaredTables):
    """
    The table of one ledger.

    :param schema: Schema that it is in; ``None`` for the connection's own.
    :param submissions: One row per recording, key ``recording_key``.
    """

    def __init__(self, schema: str | None, submissions: sa.Table) -> None:
        super().__init__(schema, {submissions: "table"}, keyed=frozenset({submissions}))
        self.submissions = submissions


def ledger_tables(schema: str | None = None, table: str = DEFAULT_SUBMISSIONS_TABLE) -> LedgerTables:
    """
    Declare the table under a name given by a user.

    :param schema: Schema that it is in; ``None`` for the connection's own. It has to exist.
    :param table: Its name, taken literally.
    :raises PlaudInputError: if a name is empty or has control characters.
    """
    schema = schema_name(schema)
    name = table_name("table", table, f"the default is {DEFAULT_SUBMISSIONS_TABLE!r}")
    submissions = sa.Table(
        name,
        sa.MetaData(schema=schema),
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
    stem = _index_stem(name)
    c = submissions.c
    sa.Index(f"ix_{stem}_transcription_id", c.transcription_id)
    # The ledger's page sums up from these two alone: the table itself of a million rows is too much to read.
    sums = (c.state, c.updated_at)
    sa.Index(
        f"ix_{stem}_owner_run", c.owner_dag_id, c.owner_run_id, *sums, c.duration_seconds, **_SHORT_STATE
    )
    sa.Index(f"ix_{stem}_state", *sums, c.owner_dag_id, c.duration_seconds, **_SHORT_STATE)
    return LedgerTables(schema, submissions)


def _index_stem(table: str) -> str:
    """Return what tells this table's indexes from those of another, in a length that all databases take."""
    is_short = table.isascii() and table.isidentifier() and len(table) <= 30
    return table if is_short else hashlib.sha256(table.encode()).hexdigest()[:16]
