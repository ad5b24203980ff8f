"""The faults of a server: names it cuts, restarts, lost answers, timeouts, two loaders at once."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from plaud_provider.exceptions import PlaudInputError, PlaudTableMismatchError, PlaudWarehouseError
from plaud_provider.transfers.landing import SLAB_TRANSCRIPTIONS
from plaud_provider.warehouse.loaders.rows import RowsLoader
from plaud_provider.warehouse.tables import plaud_tables
from plaud_provider.warehouse.writer import WarehouseWriter
from tests.unit.postgres_server import LossyProxy, PostgresServer
from tests.unit.warehouse.processes import before_statement
from tests.unit.warehouse.warehouses import PostgresWarehouse, connected_postgres, landing, segment

names = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=25).filter(str.strip)


@pytest.fixture
def writer(postgres_warehouse: PostgresWarehouse) -> WarehouseWriter:
    """A writer whose tables have an older landing of ``txn_1``."""
    writer = postgres_warehouse.writer()
    writer.ensure_tables()
    writer.replace([landing("txn_1", segments=3, text="old")])
    return writer


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schema=names, table=names)
@example(schema='s"; drop schema public; --', table='t"; drop table plaud_segments; --')
@example(schema="select", table="user")
@example(schema="%s %(x)s", table="?:name$1")
def test_fault_71_any_name_that_fits_is_one_quoted_identifier(
    postgres_warehouse: PostgresWarehouse, schema: str, table: str
) -> None:
    assume(not schema.startswith("pg_") and max(len(schema.encode()), len(f"{table}2".encode())) <= 63)
    quoted = '"' + schema.replace('"', '""') + '"'
    postgres_warehouse.run(f"create schema if not exists {quoted}")
    writer = postgres_warehouse.writer(table, f"{table}2", schema=schema)

    for _ in range(2):
        writer.ensure_tables()
        assert writer.replace([landing()]) == (1, 2, 0)

    assert {table, f"{table}2"} <= postgres_warehouse.tables()
    postgres_warehouse.run(f"drop schema {quoted} cascade")


@pytest.mark.parametrize("parameter", ["schema", "transcripts_table", "segments_table"])
@pytest.mark.parametrize("name", ["n" * 300, "n" * 64, "é" * 32])
def test_fault_71_name_that_would_be_cut_is_refused(
    postgres_warehouse: PostgresWarehouse, parameter: str, name: str
) -> None:
    writer = WarehouseWriter(RowsLoader(postgres_warehouse.database, plaud_tables(**{parameter: name})))

    with pytest.raises(PlaudInputError, match=rf"^{parameter}: .* postgresql takes names of at most 63"):
        writer.ensure_tables()
    assert postgres_warehouse.is_untouched


@pytest.mark.parametrize("has_keys", [True, False])
def test_fault_73_two_that_land_the_same_ids_at_once_leave_one_whole_landing(
    postgres_warehouse: PostgresWarehouse, writer: WarehouseWriter, has_keys: bool
) -> None:
    postgres_warehouse.run("delete from plaud_transcripts", "delete from plaud_segments")
    if not has_keys:
        # As in a table that a user has made.
        postgres_warehouse.run(
            "alter table plaud_transcripts drop constraint plaud_transcripts_pkey",
            "alter table plaud_segments drop constraint plaud_segments_pkey",
        )
    loaders = 4
    # All have deleted what is there before any of them inserts, unless they wait for each other.
    gate = threading.Barrier(loaders)

    def land(number: int) -> None:
        database = postgres_warehouse.database
        before_statement(database, "INSERT INTO", lambda: pause(gate))
        own = tuple(segment(index, text=str(number)) for index in range(number + 1))
        WarehouseWriter(RowsLoader(database, plaud_tables())).replace(
            [landing("txn_9", text=str(number), segments=own)]
        )

    with ThreadPoolExecutor(loaders) as threads:
        list(threads.map(land, range(loaders)))

    ((text, count),) = postgres_warehouse.rows("select text, segment_count from plaud_transcripts")
    assert count == int(text) + 1
    assert postgres_warehouse.rows("select text, count(*) from plaud_segments group by 1") == [(text, count)]


def pause(gate: threading.Barrier) -> None:
    """Wait for the others for a moment: those that are kept waiting themselves do not come."""
    try:
        gate.wait(0.3)
    except threading.BrokenBarrierError:
        gate.reset()


@pytest.fixture(params=["key", "no key"])
def keyed_or_not(request: pytest.FixtureRequest, postgres_warehouse: PostgresWarehouse) -> PostgresWarehouse:
    """A warehouse with our tables, or with those of a user who made no keys."""
    postgres_warehouse.writer().ensure_tables()
    if request.param == "no key":
        postgres_warehouse.run(
            "alter table plaud_transcripts drop constraint plaud_transcripts_pkey",
            "alter table plaud_segments drop constraint plaud_segments_pkey",
        )
    return postgres_warehouse


def test_landings_of_other_ids_do_not_wait(keyed_or_not: PostgresWarehouse) -> None:
    keyed_or_not.run(f"alter database {keyed_or_not.values['schema']} set lock_timeout = '500ms'")
    writer = keyed_or_not.writer()
    some, others = ([landing(f"txn_{start + number}") for number in range(400)] for start in (0, 400))

    def land_others_meanwhile(connection: sa.Connection) -> None:
        writer.loader.load_in(connection, some)
        keyed_or_not.writer().replace(others)

    for _ in range(2):
        writer.loader.database.run(land_others_meanwhile, failed="landing")

    assert keyed_or_not.rows("select count(*) from plaud_transcripts") == [(800,)]


def test_a_landing_of_the_same_id_waits(keyed_or_not: PostgresWarehouse) -> None:
    keyed_or_not.run(f"alter database {keyed_or_not.values['schema']} set lock_timeout = '200ms'")
    writer = keyed_or_not.writer()

    def land_the_same_meanwhile(connection: sa.Connection) -> None:
        writer.loader.load_in(connection, [landing("txn_1", segments=3)])
        with pytest.raises(PlaudWarehouseError, match="held a lock for too long"):
            keyed_or_not.writer().replace([landing("txn_0"), landing("txn_1")])

    writer.loader.database.run(land_the_same_meanwhile, failed="landing")

    assert keyed_or_not.rows("select transcription_id, count(*) from plaud_segments group by 1") == [
        ("txn_1", 3)
    ]


def test_five_full_slabs_at_once_do_not_fill_the_servers_lock_table(
    keyed_or_not: PostgresWarehouse,
) -> None:
    slabs = [
        [landing(f"txn_{slab}_{number}", segments=1) for number in range(SLAB_TRANSCRIPTIONS)]
        for slab in range(5)
    ]
    with ExitStack() as stack:
        for slab in slabs:
            writer = keyed_or_not.writer()
            connection = stack.enter_context(writer.loader.database.engine.connect())
            connection.execution_options(isolation_level="READ COMMITTED")
            assert writer.loader.load_in(connection, slab).transcripts == SLAB_TRANSCRIPTIONS


def test_fault_74_restart_in_mid_load_is_told_and_mended_by_a_retry(
    postgres_warehouse: PostgresWarehouse, writer: WarehouseWriter, postgres_server: PostgresServer
) -> None:
    before = postgres_warehouse.content()
    database = postgres_warehouse.database
    restarts: list[int] = []

    def restart_once() -> None:
        if not restarts:
            restarts.append(1)
            postgres_server.restart()

    before_statement(database, 'INSERT INTO "plaud_segments"', restart_once)
    loader = WarehouseWriter(RowsLoader(database, plaud_tables()))

    with pytest.raises(PlaudWarehouseError, match=r"the connection broke.*Retry\.") as told:
        loader.replace([landing("txn_1", segments=1, text="new")])

    assert restarts
    assert told.value.__context__ is None
    assert postgres_warehouse.content() == before
    assert loader.replace([landing("txn_1", segments=1, text="new")]) == (1, 1, 0)


def test_fault_74_server_that_is_away_is_told_with_what_it_said(
    postgres_warehouse: PostgresWarehouse, writer: WarehouseWriter, postgres_server: PostgresServer
) -> None:
    postgres_server.stop()
    try:
        with pytest.raises(
            PlaudWarehouseError, match=r"could not be opened: OperationalError: .*Nothing was"
        ):
            writer.replace([landing()])
        with pytest.raises(PlaudWarehouseError, match="could not be opened"):
            postgres_warehouse.writer().ensure_tables()
    finally:
        postgres_server.start()


def test_fault_75_connection_lost_after_commit_and_rerun_changes_nothing(
    postgres_database: dict[str, Any], lossy_proxy: LossyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = connected_postgres(postgres_database, monkeypatch, host=lossy_proxy.folder)
    writer = warehouse.writer()
    writer.ensure_tables()
    lossy_proxy.lose_the_next_commit()

    with pytest.raises(PlaudWarehouseError, match="unless it was complete when the connection broke"):
        writer.replace([landing("txn_1")])

    assert lossy_proxy.losses == 1
    landed = warehouse.content()
    assert len(landed[0]) == 1
    assert writer.replace([landing("txn_1")]) == (1, 2, 0)
    assert warehouse.content() == landed


def test_fault_76_column_missing_or_narrower_is_named_and_nothing_is_written(
    postgres_warehouse: PostgresWarehouse, writer: WarehouseWriter
) -> None:
    postgres_warehouse.run(
        "alter table plaud_segments drop column text",
        "alter table plaud_transcripts alter text type varchar(20)",
    )
    before = postgres_warehouse.content()

    with pytest.raises(PlaudTableMismatchError) as told:
        postgres_warehouse.writer().ensure_tables()

    assert "column 'text' is missing, TEXT is needed" in str(told.value)
    assert "column 'text' is VARCHAR(20), TEXT is needed" in str(told.value)
    assert postgres_warehouse.content() == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("alter table plaud_segments drop column speaker", "a column is not there any more (42703)"),
        ("drop table plaud_segments", "a table is not there any more (42P01)"),
        (
            "alter table plaud_segments alter text type varchar(15)",
            "a text is longer than its column takes (22001)",
        ),
        ("alter table plaud_segments add unique (text)", "a constraint of the table refused a row (23505)"),
    ],
)
def test_fault_76_table_changed_under_a_loader_is_told_and_rolled_back(
    postgres_warehouse: PostgresWarehouse, writer: WarehouseWriter, change: str, reason: str
) -> None:
    postgres_warehouse.run(change)
    before = postgres_warehouse.rows("select * from plaud_transcripts")

    twice = tuple(segment(index, text="said twice, at length") for index in range(2))
    with pytest.raises(PlaudWarehouseError) as told:
        writer.replace([landing("txn_1", segments=twice, text="new")])

    assert reason in str(told.value)
    assert postgres_warehouse.rows("select * from plaud_transcripts") == before


def hold_back(warehouse: PostgresWarehouse, setting: str) -> Callable[[], None]:
    """Let statements of new connections wait for a bounded time; hold a lock that they wait for."""
    warehouse.run(f"alter database {warehouse.values['schema']} set {setting} = '200ms'")
    other = warehouse.raw()
    other.execute("lock table plaud_segments in access exclusive mode")
    return other.close


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("statement_timeout", r"the statement was cancelled, by a timeout or by an operator \(57014\)"),
        ("lock_timeout", r"another writer held a lock for too long \(55P03\)"),
    ],
)
def test_fault_79_timeout_is_rolled_back(
    postgres_warehouse: PostgresWarehouse, writer: WarehouseWriter, setting: str, reason: str
) -> None:
    before = postgres_warehouse.content()
    let_go = hold_back(postgres_warehouse, setting)

    with pytest.raises(PlaudWarehouseError, match=reason):
        writer.replace([landing("txn_1", text="new")])

    let_go()
    assert postgres_warehouse.content() == before


@pytest.mark.parametrize("code", ["53100", "53200", "53300"])
def test_fault_79_full_disk_is_rolled_back(
    postgres_warehouse: PostgresWarehouse, writer: WarehouseWriter, code: str
) -> None:
    postgres_warehouse.run(
        "create function full_disk() returns trigger language plpgsql as "
        f"$$ begin raise exception using errcode = '{code}', message = 'could not extend file'; end $$",
        "create trigger full_disk before insert on plaud_segments for each row execute function full_disk()",
    )
    before = postgres_warehouse.content()

    with pytest.raises(
        PlaudWarehouseError, match=rf"out of disk space, .* \({code}\).*rolled back.*Make room"
    ):
        writer.replace([landing("txn_1", segments=1, text="new")])

    assert postgres_warehouse.content() == before


def test_permission_that_is_missing_is_told(
    postgres_warehouse: PostgresWarehouse, writer: WarehouseWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = postgres_warehouse.values["schema"] + "_reader"
    postgres_warehouse.run(
        f"create role {role} login", f"grant select on plaud_transcripts, plaud_segments to {role}"
    )
    reader = connected_postgres(postgres_warehouse.values | {"login": role}, monkeypatch)

    with pytest.raises(PlaudWarehouseError, match=r"permission was denied \(42501\).*Grant select"):
        reader.writer().replace([landing()])
    postgres_warehouse.run(f"drop owned by {role}", f"drop role {role}")


def test_the_rights_of_the_docs_page_are_enough_to_create_to_land_and_to_remove(
    postgres_warehouse: PostgresWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path("docs/load.md").read_text()
    [told] = re.findall(r"grant (.*) on schema calls to plaud;", page)
    [least] = re.findall(r"`usage` on the schema and `(.*)` on them is enough", page)
    makes, writes = (f"{postgres_warehouse.values['schema']}_{verb}" for verb in ("makes", "writes"))
    rights = {
        makes: [f"grant {told} on schema calls to {makes}"],
        writes: [
            f"grant usage on schema calls to {writes}",
            f"grant {least} on calls.plaud_transcripts, calls.plaud_segments to {writes}",
        ],
    }
    postgres_warehouse.run("create schema calls")
    for role, grants in rights.items():
        postgres_warehouse.run(f"create role {role} login", *grants)
        there = connected_postgres(postgres_warehouse.values | {"login": role}, monkeypatch)

        writer = there.writer(schema="calls")
        writer.ensure_tables()
        for _ in range(2):
            writer.replace([landing("txn_1", segments=2)])
        writer.try_out()

        assert writer.loader.remove(["txn_1"]) == (1, 2)
    for role in rights:
        postgres_warehouse.run(f"drop owned by {role}", f"drop role {role}")


def test_options_of_the_connection_reach_the_server(
    postgres_database: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"options": "-c search_path=elsewhere", "application_name": "plaud"}
    warehouse = connected_postgres(postgres_database, monkeypatch, extra=extra)
    warehouse.run("create schema elsewhere")

    warehouse.writer().ensure_tables()

    assert warehouse.rows(
        "select distinct table_schema from information_schema.tables where table_name like 'plaud%'"
    ) == [("elsewhere",)]


def test_encryption_that_is_asked_for_is_not_left_out(
    postgres_database: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a socket there is none: that libpq looks at the mode at all is what can be seen here.
    warehouse = connected_postgres(postgres_database, monkeypatch, extra={"sslmode": "no such mode"})

    with pytest.raises(PlaudWarehouseError, match="invalid sslmode value"):
        warehouse.writer().ensure_tables()


def test_database_that_repeats_reads_by_default_lands_all_the_same(
    postgres_warehouse: PostgresWarehouse, writer: WarehouseWriter
) -> None:
    name = postgres_warehouse.values["schema"]
    postgres_warehouse.run(f"alter database {name} set default_transaction_isolation = 'repeatable read'")

    level = postgres_warehouse.database.run(
        lambda connection: connection.exec_driver_sql("show transaction_isolation").scalar(), failed="asking"
    )

    assert level == "read committed"


def test_token_of_a_cloud_is_asked_for_anew_for_each_transaction(
    postgres_database: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = connected_postgres(postgres_database, monkeypatch, extra={"iam": True})
    asked: list[str] = []

    def token(_: object, connection: Any) -> tuple[str, str, int]:
        asked.append("token")
        return connection.login, "token", connection.port

    monkeypatch.setattr("airflow.providers.postgres.hooks.postgres.PostgresHook.get_iam_token", token)
    writer = warehouse.writer()
    writer.ensure_tables()
    before = len(asked)

    assert writer.replace([landing()]) == (1, 2, 0)
    assert len(asked) > before


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_either_driver_takes_rows_with_and_without_values(
    postgres_database: dict[str, Any], monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    extra = {"sqlalchemy_scheme": f"postgresql+{driver}"}
    warehouse = connected_postgres(postgres_database, monkeypatch, extra=extra)
    writer = warehouse.writer()
    writer.ensure_tables()
    odd = segment(0, start_seconds=None, speaker=None, text="\\ {} '\" %s \U0001f600\x00")

    assert writer.replace([landing("txn_1", completed_at=None, segments=(odd,)), landing("txn_2")]) == (
        2,
        3,
        1,
    )

    assert warehouse.rows(
        "select start_seconds, speaker, text from plaud_segments where speaker is null"
    ) == [(None, None, "\\ {} '\" %s \U0001f600\ufffd")]
