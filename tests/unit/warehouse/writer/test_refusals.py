"""What is told when a warehouse refuses, and what is not: no transcript text, no secret."""

from __future__ import annotations

import io
import json
import logging
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from structlog.tracebacks import ExceptionDictTransformer

from plaud_provider.exceptions import PlaudConfigurationError, PlaudWarehouseError
from plaud_provider.warehouse.writer import WarehouseWriter
from tests.unit.warehouse.warehouses import CONN_ID, Warehouse, landing, segment

SENTINEL = "SENTINEL-words-of-a-caller"


def with_check(warehouse: Warehouse) -> WarehouseWriter:
    """Return a writer whose segments table refuses the sentinel, after the old rows were deleted."""
    warehouse.run(
        "create table plaud_segments (transcription_id varchar, segment_index integer, "
        "start_seconds double precision, end_seconds double precision, speaker text, "
        f"text text check (text not like '%{SENTINEL[:8]}%'), primary key (transcription_id, segment_index))"
    )
    writer = warehouse.writer()
    writer.ensure_tables()
    writer.replace([landing("txn_1", segments=3, text="old"), landing("txn_2")])
    return writer


def with_narrowed_column(warehouse: Warehouse) -> WarehouseWriter:
    """Return a writer whose segments table was changed under it: DuckDB quotes what it cannot convert."""
    writer = warehouse.writer()
    writer.ensure_tables()
    writer.replace([landing("txn_1", segments=0, text="old")])
    kind = "double precision check (typeof(text) = 'real')" if warehouse.kind == "sqlite" else "date"
    warehouse.run(
        "drop table plaud_segments",
        "create table plaud_segments (transcription_id varchar, segment_index integer, "
        f"start_seconds double precision, end_seconds double precision, speaker text, text {kind})",
    )
    return writer


def with_extra_key(warehouse: Warehouse) -> WarehouseWriter:
    """Return a writer whose segments table has a unique index of its own: DuckDB quotes the duplicate."""
    writer = warehouse.writer()
    writer.ensure_tables()
    writer.replace([landing("txn_1", segments=0), landing("txn_2", segments=(segment(0, text=SENTINEL),))])
    warehouse.run("create unique index one_text on plaud_segments (text)")
    return writer


REFUSING = [with_check, with_narrowed_column, with_extra_key]


def refused(writer: WarehouseWriter) -> PlaudWarehouseError:
    with pytest.raises(PlaudWarehouseError) as caught:
        writer.replace(
            [landing("txn_1", text=SENTINEL, raw=f'"{SENTINEL}"', segments=(segment(0, text=SENTINEL),))]
        )
    return caught.value


@pytest.mark.parametrize("refusing", REFUSING)
def test_refused_insert_leaves_the_old_rows(
    warehouse: Warehouse, refusing: Callable[[Warehouse], WarehouseWriter]
) -> None:
    writer = refusing(warehouse)
    before = warehouse.content()

    error = refused(writer)

    assert warehouse.content() == before
    assert "rolled back" in str(error)
    assert "did not take 1 transcription" in str(error)


@pytest.mark.parametrize("refusing", REFUSING)
def test_no_transcript_text_is_in_the_error_its_chain_its_frames_or_the_log(
    warehouse: Warehouse,
    refusing: Callable[[Warehouse], WarehouseWriter],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    writer = refusing(warehouse)

    error = refused(writer)

    assert error.__cause__ is None
    assert error.__context__ is None
    shown = io.StringIO()
    traceback.TracebackException.from_exception(error, capture_locals=True).print(file=shown)
    ours = [frame for frame in shown.getvalue().split("  File ") if "/tests/" not in frame.partition(",")[0]]
    assert SENTINEL not in "".join(ours)
    assert SENTINEL not in caplog.text
    assert SENTINEL not in "".join(capfd.readouterr())


def test_airflows_json_log_of_the_error_shows_no_transcript_text(duckdb_warehouse: Warehouse) -> None:
    error = refused(with_narrowed_column(duckdb_warehouse))

    exceptions = ExceptionDictTransformer(use_rich=False, show_locals=False)(
        (type(error), error, error.__traceback__)
    )

    assert len(exceptions) == 1
    assert SENTINEL not in json.dumps(exceptions)


def test_what_is_wrong_is_told_in_words(warehouse: Warehouse) -> None:
    message = str(refused(with_check(warehouse)))

    assert "a constraint of the table refused a row" in message
    assert "plaud_transcripts and plaud_segments" in message
    assert CONN_ID in message


def test_error_that_is_no_databases_is_told_by_class_and_line_only(warehouse: Warehouse) -> None:
    writer = warehouse.writer()
    writer.ensure_tables()

    with pytest.raises(PlaudWarehouseError, match=r"(Error|Exception) at \w+\.pyx?:\d+") as caught:
        writer.replace([landing(text=f"{SENTINEL}\ud800")])

    assert SENTINEL not in str(caught.value)
    assert caught.value.__context__ is None


def test_error_is_raised_without_context(warehouse: Warehouse) -> None:
    def fail(_: sa.Connection) -> None:
        raise ValueError(SENTINEL)

    with pytest.raises(PlaudWarehouseError, match=r"This was not done: ValueError at \S+\. The") as caught:
        warehouse.database.run(fail, failed="This was not done")

    assert SENTINEL not in str(caught.value)
    assert (caught.value.__context__, caught.value.__cause__) == (None, None)


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
@pytest.mark.parametrize("host", [None, "", ":memory:"])
def test_in_memory_database_is_refused(kind: str, host: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps({"conn_type": kind, "host": host}))

    with pytest.raises(PlaudConfigurationError, match="vanish with the task"):
        Warehouse(kind, Path("/nowhere")).writer().ensure_tables()


def test_read_only_sqlite_is_told(sqlite_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    sqlite_warehouse.writer().ensure_tables()
    read_only = Warehouse("sqlite", Path(f"file:{sqlite_warehouse.path}"), {"mode": "ro", "uri": "true"})
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", read_only.connection)

    with pytest.raises(PlaudWarehouseError, match="the database is read-only"):
        read_only.writer().replace([landing()])


def test_read_only_duckdb_is_told(duckdb_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    duckdb_warehouse.run("select 1")
    read_only = Warehouse("duckdb", duckdb_warehouse.path, {"read_only": True})
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", read_only.connection)

    with pytest.raises(
        PlaudWarehouseError, match=r"opened read-only .*Nothing was written. Remove read_only"
    ):
        read_only.writer().ensure_tables()


def test_folder_that_is_not_there_is_told(kind_in_missing_folder: Warehouse) -> None:
    with pytest.raises(PlaudWarehouseError, match=r"^Warehouse 'warehouse_default' could not be opened: .*"):
        kind_in_missing_folder.writer().ensure_tables()


@pytest.fixture(params=["sqlite", "duckdb"])
def kind_in_missing_folder(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Warehouse:
    warehouse = Warehouse(request.param, tmp_path / "missing" / "warehouse")
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", warehouse.connection)
    return warehouse


def test_file_that_is_no_database_is_told(file_warehouse: Warehouse) -> None:
    file_warehouse.path.write_bytes(b"this is not a database, whatever its name says" * 100)

    with pytest.raises(PlaudWarehouseError, match="Nothing was written"):
        file_warehouse.writer().ensure_tables()


def test_motherduck_token_is_in_no_error_and_no_log(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    token = "md-token-4711-abcdef"
    # An empty extension directory: MotherDuck's extension cannot be loaded, wherever this runs.
    settings = {"extension_directory": str(tmp_path), "autoload_extensions": False}
    connection = {"conn_type": "duckdb", "password": token, "schema": "calls", "extra": settings}
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps(connection))
    caplog.set_level(logging.DEBUG)

    with pytest.raises(PlaudWarehouseError, match="could not be opened") as caught:
        Warehouse("duckdb", Path("/nowhere")).writer().ensure_tables()

    assert token not in str(caught.value)
    assert token not in caplog.text
    assert token not in "".join(capfd.readouterr())
