# ruff: noqa: E501
"""What is sent to BigQuery, and what is special to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from textwrap import dedent
from typing import Any

import pytest
from google.api_core.exceptions import BadRequest, Conflict, ServiceUnavailable
from google.cloud.bigquery import Client

from plaud_provider.exceptions import PlaudConfigurationError, PlaudInputError, PlaudTableMismatchError
from plaud_provider.warehouse.loaders import bigquery
from tests.unit.warehouse.warehouses import landing
from tests.warehouses.lakes import CONN_ID, KINDS, BigQueryLake


@pytest.fixture
def lake(request: pytest.FixtureRequest) -> Iterator[BigQueryLake]:
    made = KINDS["bigquery"](request)
    assert isinstance(made, BigQueryLake)
    yield made
    made.close()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, lake: BigQueryLake) -> list[tuple[str, str | None]]:
    """Queries as they are sent, and their ids."""
    found: list[tuple[str, str | None]] = []
    query = Client.query

    def recorded(client: Any, statement: str, **named: Any) -> Any:
        found.append((statement.replace(f"plaud.{lake.dataset}", "PROJECT.DATASET"), named.get("job_id")))
        return query(client, statement, **named)

    monkeypatch.setattr(Client, "query", recorded)
    return found


def test_creates(lake: BigQueryLake, sent: list[tuple[str, str | None]]) -> None:
    lake.writer()

    (transcripts, _), (segments, _), (lock, _), (speakers, _) = sent
    assert transcripts.startswith(
        "create table if not exists `PROJECT.DATASET.plaud_transcripts` (`transcription_id` string not null "
        "options(description = 'Id that Plaud gave'), `audio_uri` string options(description = "
    )
    assert " `landed_at` timestamp not null options(" in transcripts
    assert " `raw` json not null options(" in transcripts
    assert (
        ", primary key (`transcription_id`) not enforced) partition by date(`landed_at`) "
        "cluster by `transcription_id` options(description = 'One row per transcription. Created by airflow-provider-plaud "
    ) in transcripts
    assert segments.startswith("create table if not exists `PROJECT.DATASET.plaud_segments` (")
    assert (
        ", primary key (`transcription_id`, `segment_index`) not enforced) cluster by `transcription_id` options("
    ) in segments
    assert lock == (
        "create table if not exists `PROJECT.DATASET.plaud_transcripts_lock` options(description = 'One row, which "
        "each landing updates first, so that two wait for each other') as select current_timestamp() as locked_at"
    )
    assert speakers.startswith("create view `PROJECT.DATASET.plaud_speakers` as ")


def test_lands_in_one_script(
    lake: BigQueryLake, sent: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = lake.writer()
    sent.clear()
    monkeypatch.setattr(bigquery, "token", lambda: "1f")

    writer.replace([landing("txn_1")])

    columns = writer.loader._tables.transcripts.columns.keys()
    names = ", ".join(f"`{name}`" for name in columns)
    values = names
    for name in ("`raw`", "`metadata`"):
        values = values.replace(name, f"parse_json({name}, wide_number_mode => 'round')")
    ((script, job_id),) = sent
    assert job_id == "plaud_1f_swap_0"
    assert script == dedent(
        f"""\
        begin transaction;
        update `PROJECT.DATASET.plaud_transcripts_lock` set locked_at = current_timestamp() where true;
        if exists (select 1 from `PROJECT.DATASET.plaud_segments` where `transcription_id` in (select `transcription_id` from `PROJECT.DATASET.plaud_staged_transcripts_1f`)) then delete from `PROJECT.DATASET.plaud_segments` where `transcription_id` in (select `transcription_id` from `PROJECT.DATASET.plaud_staged_transcripts_1f`); end if;
        if exists (select 1 from `PROJECT.DATASET.plaud_transcripts` where `transcription_id` in (select `transcription_id` from `PROJECT.DATASET.plaud_staged_transcripts_1f`)) then delete from `PROJECT.DATASET.plaud_transcripts` where `transcription_id` in (select `transcription_id` from `PROJECT.DATASET.plaud_staged_transcripts_1f`); end if;
        insert into `PROJECT.DATASET.plaud_transcripts` ({names}) select {values} from `PROJECT.DATASET.plaud_staged_transcripts_1f`;
        insert into `PROJECT.DATASET.plaud_segments` (`transcription_id`, `segment_index`, `start_seconds`, `end_seconds`, `speaker`, `text`, `language`) select `transcription_id`, `segment_index`, `start_seconds`, `end_seconds`, `speaker`, `text`, `language` from `PROJECT.DATASET.plaud_staged_segments_1f`;
        commit transaction;"""
    )


def test_staging_tables_are_gone_afterwards(lake: BigQueryLake) -> None:
    lake.writer().replace([landing("txn_1")])

    assert {table.table_id for table in lake.client.list_tables(lake.dataset)} == {
        "plaud_transcripts",
        "plaud_segments",
        "plaud_transcripts_lock",
        "plaud_speakers",
    }


def test_transaction_that_was_cancelled_or_met_trouble_is_started_anew(
    lake: BigQueryLake, sent: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = lake.writer()
    sent.clear()
    query = Client.query
    cancelled = BadRequest("Transaction is aborted due to concurrent update against table p:d.t")
    troubles = [cancelled, ServiceUnavailable("later", errors=[{"reason": "backendError"}])]

    def troubled(client: Any, statement: str, **named: Any) -> Any:
        job = query(client, statement, **named)
        if troubles:
            raise troubles.pop()
        return job

    monkeypatch.setattr(Client, "query", troubled)

    writer.replace([landing("txn_1")])

    assert [str(job_id).rpartition("_")[2] for _, job_id in sent] == ["0", "1", "2"]
    assert len(lake.segments()) == 2


def test_job_whose_start_was_asked_for_twice_is_one_job(
    lake: BigQueryLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = lake.writer()
    query = Client.query

    def answered_late(client: Any, statement: str, **named: Any) -> Any:
        query(client, statement, **named)
        raise Conflict("Already Exists: Job")

    monkeypatch.setattr(Client, "query", answered_late)
    writer.replace([landing("txn_1")])
    monkeypatch.undo()

    assert len(lake.segments()) == 2


def test_connection_without_a_dataset_is_refused_with_where_to_name_it(
    lake: BigQueryLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"conn_type": "google_cloud_platform", "extra": {"is_anonymous": True, "project": "plaud"}}
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps(told))

    with pytest.raises(PlaudConfigurationError, match=r"names no dataset.*`dataset`.*`schema`"):
        lake.writer()

    lake.writer(schema=lake.dataset)
    assert lake.transcripts() == []


@pytest.mark.parametrize(
    "names", [{"segments_table": "a.b"}, {"schema": "a`b"}, {"transcripts_table": "a\u2028"}]
)
def test_name_that_cannot_be_one_is_refused(lake: BigQueryLake, names: dict[str, str]) -> None:
    with pytest.raises(PlaudInputError, match=f"^{next(iter(names))}: "):
        lake.writer(**names)


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        ("raw string", "'raw' is STRING, json is needed"),
        ("text array<string>", r"'text' is ARRAY<STRING>, string is needed"),
        ("duration_seconds numeric", "'duration_seconds' is NUMERIC, float64 is needed"),
        ("submitted_at datetime", "'submitted_at' is DATETIME, timestamp is needed"),
        ("reviewed_by string not null", "'reviewed_by' is NOT NULL without a default"),
    ],
)
def test_column_that_does_not_fit_is_named(lake: BigQueryLake, column: str, problem: str) -> None:
    lake.run(f"create table {lake.dataset}.plaud_transcripts (transcription_id string not null, {column})")

    with pytest.raises(PlaudTableMismatchError, match=problem):
        lake.writer()


def test_table_that_takes_no_query_by_id_alone_is_refused(lake: BigQueryLake) -> None:
    lake.writer()
    table = lake.client.get_table(f"{lake.dataset}.plaud_transcripts")
    table.require_partition_filter = True
    lake.client.update_table(table, ["require_partition_filter"])

    with pytest.raises(PlaudTableMismatchError, match=r"'plaud_transcripts'.*require_partition_filter"):
        lake.writer()


def test_view_in_the_place_of_a_table_is_refused(lake: BigQueryLake) -> None:
    lake.run(f"create view {lake.dataset}.plaud_segments as select 'txn_1' as transcription_id")

    with pytest.raises(PlaudTableMismatchError, match=r"'plaud_segments'.*is a view, a table is needed"):
        lake.writer()
