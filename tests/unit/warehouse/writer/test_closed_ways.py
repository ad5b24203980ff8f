"""PostgreSQL tables and databases that are closed to the quick way in: another one is taken, or told."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from plaud_provider.database import rows
from plaud_provider.exceptions import PlaudConfigurationError, PlaudWarehouseError
from plaud_provider.ledger.ledger import open_ledger
from plaud_provider.warehouse.writer import WarehouseWriter
from tests.unit.postgres_server import PostgresServer
from tests.unit.warehouse.warehouses import PostgresWarehouse, connected_postgres, landing, segment

ODD = "\\ {} '\" %s \t\n \U0001f600 \u8a9e"


@pytest.fixture(params=["psycopg", "psycopg2"])
def driver(request: pytest.FixtureRequest) -> dict[str, str]:
    return {"sqlalchemy_scheme": f"postgresql+{request.param}"}


@pytest.fixture
def loader(
    postgres_warehouse: PostgresWarehouse, driver: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[PostgresWarehouse]:
    """The same database for a role that owns nothing, and may select, insert, update and delete."""
    postgres_warehouse.writer().ensure_tables()
    role = postgres_warehouse.values["schema"] + "_loader"
    postgres_warehouse.run(
        f"create role {role} login",
        f"grant select, insert, update, delete on plaud_transcripts, plaud_segments to {role}",
    )
    yield connected_postgres(postgres_warehouse.values | {"login": role}, monkeypatch, extra=driver)
    postgres_warehouse.run(f"drop owned by {role}", f"drop role {role}")


@pytest.mark.parametrize(
    "tables", [["plaud_transcripts"], ["plaud_segments"], ["plaud_transcripts", "plaud_segments"]]
)
def test_rows_land_under_row_level_security(
    postgres_warehouse: PostgresWarehouse,
    loader: PostgresWarehouse,
    tables: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    for table in tables:
        postgres_warehouse.run(
            f"alter table {table} enable row level security",
            f"create policy p on {table} for all using (true) with check (true)",
        )
    writer = loader.writer()
    writer.ensure_tables()
    odd = segment(0, start_seconds=None, speaker=None, text=ODD)

    for _ in range(2):
        assert writer.replace([landing("txn_1", text=ODD, segments=(odd,)), landing("txn_2")]) == (2, 3, 0)

    assert postgres_warehouse.rows("select text from plaud_transcripts order by 1 desc limit 1") == [(ODD,)]
    assert postgres_warehouse.rows("select text from plaud_segments where speaker is null") == [(ODD,)]
    if "plaud_segments" in tables:
        assert caplog.text.count("COPY into plaud_segments is refused (0A000)") == 1


def test_long_answers_land_where_nobody_may_create_temporary_tables(
    postgres_warehouse: PostgresWarehouse, loader: PostgresWarehouse, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    postgres_warehouse.run(f"revoke temporary on database {loader.values['schema']} from public")
    writer = loader.writer()
    writer.ensure_tables()
    long = ODD * (rows.LARGE_CHARACTERS // len(ODD) + 1)

    for _ in range(2):
        assert writer.replace([landing("txn_1", text=long)]) == (1, 2, 0)

    assert postgres_warehouse.rows("select text from plaud_transcripts") == [(long,)]
    assert caplog.text.count("a temporary table for plaud_transcripts is refused (42501)") == 1


def test_rows_land_where_a_rule_keeps_upserts_away(
    postgres_warehouse: PostgresWarehouse, driver: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = connected_postgres(postgres_warehouse.values, monkeypatch, extra=driver)
    writer = warehouse.writer()
    writer.ensure_tables()
    writer.replace([landing("txn_1")])
    warehouse.run(
        "create table call_labels (transcription_id text references plaud_transcripts on delete cascade)",
        "insert into call_labels values ('txn_1')",
        "create rule r as on insert to plaud_transcripts do also nothing",
    )

    for text in ("new", "newer"):
        assert writer.replace([landing("txn_1", text=text), landing("txn_2", text=text)]) == (2, 4, 0)
        assert warehouse.rows("select distinct text from plaud_transcripts") == [(text,)]
    assert warehouse.rows("select * from call_labels") == [("txn_1",)]
    assert warehouse.answers() == [{"status": "completed"}] * 2


@pytest.fixture
def writer(postgres_warehouse: PostgresWarehouse) -> WarehouseWriter:
    writer = postgres_warehouse.writer()
    writer.ensure_tables()
    return writer


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("0A000", "the database does not offer what is needed here"),
        ("22021", "the database's encoding lacks a character"),
        ("22P05", "the database's encoding lacks a character"),
        ("54000", "a value is larger than the database takes"),
        ("54001", "a value is larger than the database takes"),
    ],
)
def test_what_no_retry_helps_against_says_so(
    postgres_warehouse: PostgresWarehouse, writer: WarehouseWriter, code: str, words: str
) -> None:
    postgres_warehouse.run(
        "create function fail() returns trigger language plpgsql as "
        f"$$ begin raise exception using errcode = '{code}', message = 'no' ; end $$",
        "create trigger fail before insert on plaud_segments for each row execute function fail()",
    )

    with pytest.raises(PlaudWarehouseError, match=rf"{words} \({code}\)\. .*A retry does not help"):
        writer.replace([landing()])


def test_text_that_a_users_index_cannot_take_is_told(
    postgres_warehouse: PostgresWarehouse, writer: WarehouseWriter
) -> None:
    postgres_warehouse.run("create index on plaud_segments (text)")
    long = "".join(f"{number:x}" for number in range(10_000))

    with pytest.raises(PlaudWarehouseError, match=r"larger than .* \(54000\).*Look for an index"):
        writer.replace([landing(segments=(segment(0, text=long),))])


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_database_that_cannot_hold_every_language_is_refused(
    postgres_server: PostgresServer, encoding: str, monkeypatch: pytest.MonkeyPatch, driver: dict[str, str]
) -> None:
    options = f"encoding '{encoding}' template template0 lc_collate 'C' lc_ctype 'C'"
    with postgres_server.new_database(options) as values:
        warehouse = connected_postgres(values, monkeypatch, extra=driver)

        with pytest.raises(PlaudConfigurationError, match=rf"^sql_conn_id: .* encoding {encoding}, .*UTF8"):
            warehouse.writer().ensure_tables()
        with pytest.raises(
            PlaudConfigurationError, match=rf"^ledger_conn_id: .* encoding {encoding}, .*UTF8"
        ):
            open_ledger(warehouse.conn_id)
        assert warehouse.is_untouched


def test_every_language_lands_though_clients_have_another_encoding_by_default(
    postgres_warehouse: PostgresWarehouse, driver: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = postgres_warehouse.values["schema"]
    postgres_warehouse.run(f"alter database {name} set client_encoding = 'LATIN1'")
    warehouse = connected_postgres(postgres_warehouse.values, monkeypatch, extra=driver)
    writer = warehouse.writer()
    writer.ensure_tables()

    writer.replace([landing(text=ODD)])

    query = "select text from plaud_transcripts"
    found = writer.loader.database.run(
        lambda connection: connection.exec_driver_sql(query).scalar(), failed="-"
    )
    assert found == ODD
