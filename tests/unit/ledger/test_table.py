"""The ledger's table: created, checked, and kept only where keys are enforced."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from plaud_provider.exceptions import (
    PlaudConfigurationError,
    PlaudTableMismatchError,
)
from plaud_provider.ledger.ledger import State, open_ledger
from plaud_provider.ledger.table import ledger_table
from tests.unit.ledger.ledgers import OWNER, bring, counts, ledger_in, recording
from tests.unit.warehouse.warehouses import CONN_ID, Warehouse, landing

COLUMNS = [
    *("recording_key", "state", "audio_uri", "region", "client_id", "language", "speaker_diarization"),
    *("duration_seconds", "transcription_id", "error", "owner_dag_id", "owner_run_id", "owner_task_id"),
    *("owner_map_index", "owner_try_number", "lease_until", "claimed_at", "submitted_at", "accepted_at"),
    *("finished_at", "updated_at", "target", "model", "purged_at"),
]


def existing(warehouse: Warehouse, *, key: str = "primary key", **changes: str | None) -> None:
    """Create the table as it should be, with another key or none, some columns changed or (None) left out."""
    kinds = {"sqlite": sqlite, "mysql": mysql}
    dialect = kinds.get(warehouse.kind, postgresql).dialect()
    lines = []
    for column in ledger_table().columns:
        kind = column.type.compile(dialect=dialect) + " not null" * (not column.nullable)
        lines.append((column.name, changes.get(column.name, kind)))
    columns = [f"{name} {kind}" for name, kind in lines if kind is not None]
    columns[0] += f" {key}"
    options = "default charset utf8mb4" if warehouse.kind == "mysql" else ""
    warehouse.run(f"create table plaud_submissions ({', '.join(columns)}) {options}")


def refusal(warehouse: Warehouse) -> str:
    with pytest.raises(PlaudTableMismatchError) as refused:
        ledger_in(warehouse)
    return str(refused.value)


def test_columns_are_those_of_the_design() -> None:
    table = ledger_table()

    assert table.columns.keys() == COLUMNS
    assert [column.name for column in table.primary_key] == ["recording_key"]


def test_table_is_created_on_first_use_and_used_again(warehouse: Warehouse) -> None:
    bring(open_ledger(CONN_ID), State.LANDED)

    assert counts(open_ledger(CONN_ID)) == {State.LANDED: 1}
    assert warehouse.tables() == {"plaud_submissions"}


@pytest.mark.parametrize("warehouse", ["sqlite", "postgres"], indirect=True)
def test_table_is_indexed_by_transcription_and_by_run(warehouse: Warehouse) -> None:
    ledger = ledger_in(warehouse)

    engine = ledger.database.engine
    indexes = sa.inspect(engine).get_indexes("plaud_submissions")

    assert sorted(index["column_names"] for index in indexes if not index["unique"]) == [
        # The pages of the ledger sum up from these two alone.
        ["owner_dag_id", "owner_run_id", "state", "updated_at", "duration_seconds"],
        ["state", "updated_at", "owner_dag_id", "duration_seconds"],
        ["transcription_id"],
    ]


def test_dashboard_is_one_line_of_sql(warehouse: Warehouse) -> None:
    ledger = ledger_in(warehouse)
    for known in (State.LANDED, State.UNKNOWN):
        bring(ledger, known, key=known.value)

    assert warehouse.rows("select state, count(*) from plaud_submissions group by 1 order by 1") == [
        ("landed", 1),
        ("unknown", 1),
    ]


def test_table_that_was_there_and_fits_is_used(warehouse: Warehouse) -> None:
    existing(warehouse)

    assert ledger_in(warehouse).claim([recording()], OWNER)["key_1"].is_claimed_by(OWNER)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"region": None}, "column 'region' is missing, TEXT is needed"),
        ({"lease_until": "date"}, "column 'lease_until' is DATE"),
        ({"speaker_diarization": "date"}, "column 'speaker_diarization' is DATE, BOOL"),
        ({"audio_uri": "text not null"}, "column 'audio_uri' is NOT NULL"),
        ({"key": ""}, "'recording_key' is not its primary key"),
    ],
)
def test_table_that_does_not_fit_is_refused(
    warehouse: Warehouse, changes: dict[str, Any], complaint: str
) -> None:
    existing(warehouse, **changes)

    message = refusal(warehouse)

    assert complaint in message
    assert f"Table 'plaud_submissions' of ledger '{CONN_ID}' (ledger_conn_id) does not fit" in message
    assert message.endswith("Nothing was written.")


def test_key_of_some_rows_only_is_none(postgres_warehouse: Warehouse) -> None:
    existing(postgres_warehouse, key="")
    postgres_warehouse.run(
        "create unique index its_own on plaud_submissions (recording_key) where state = 'landed'"
    )

    assert "'recording_key' is not its primary key" in refusal(postgres_warehouse)


def test_unique_key_does_as_well_as_a_primary_one(warehouse: Warehouse) -> None:
    if warehouse.kind == "duckdb":
        existing(warehouse, key="unique")
    else:
        existing(warehouse, key="")
        warehouse.run("create unique index its_own on plaud_submissions (recording_key)")

    assert ledger_in(warehouse).claim([recording()], OWNER)["key_1"].is_claimed_by(OWNER)


@pytest.mark.parametrize("warehouse", ["duckdb", "postgres"], indirect=True)
def test_ledger_may_be_in_another_schema_than_the_rows(warehouse: Warehouse) -> None:
    warehouse.run("create schema analytics")
    ledger = ledger_in(warehouse)
    writer = warehouse.writer(schema="analytics")
    writer.ensure_tables()
    bring(ledger, State.PROCESSING)
    writer.replace([landing("txn_key_1", audio_uri=None)], ledger)

    assert warehouse.rows("select audio_uri from analytics.plaud_transcripts") == [("s3://calls/key_1.wav",)]
    assert warehouse.rows("select state from plaud_submissions") == [("landed",)]


def test_table_that_does_not_fit_has_another_database_as_its_remedy(warehouse: Warehouse) -> None:
    existing(warehouse, error=None, audio_uri="integer")

    assert refusal(warehouse).endswith(
        "move it away (it is then created anew), or name another one in ledger_conn_id. Nothing was written."
    )


@pytest.mark.parametrize(
    ("connection", "shown"),
    [
        ({"conn_type": "postgres", "host": "h", "extra": {"redshift": True}}, "'redshift'"),
        ({"conn_type": "postgres", "host": "h", "extra": {"redshift-serverless": True}}, "'redshift'"),
        ({"conn_type": "snowflake", "host": "h"}, "'snowflake'"),
    ],
)
def test_database_that_does_not_enforce_keys_is_refused(
    connection: dict[str, object], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_BOOKS", json.dumps(connection))

    with pytest.raises(PlaudConfigurationError, match=rf"^ledger_conn_id: .* is of type {shown}. The ledger"):
        open_ledger("books")


def test_unknown_connection_names_the_argument() -> None:
    with pytest.raises(PlaudConfigurationError, match=r"^ledger_conn_id: there is no Airflow connection"):
        open_ledger("no_such")


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_ledger_that_would_vanish_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_BOOKS", json.dumps({"conn_type": kind, "host": ":memory:"}))

    with pytest.raises(PlaudConfigurationError, match=r"^ledger_conn_id: .* vanish with the task"):
        open_ledger("books")
