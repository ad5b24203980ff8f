"""The quota that several hosts share through a database."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from airflow.sdk import Connection

from plaud_provider.api.effects import Operation
from plaud_provider.exceptions import PlaudConfigurationError
from plaud_provider.quota import sql_store, stores
from plaud_provider.quota.rule import Quota, Rate
from plaud_provider.quota.sql_store import SqlStore
from plaud_provider.quota.stores import StoreUnavailableError
from tests.unit.postgres_server import PostgresServer
from tests.unit.quota.conftest import stopped

BASE_URL = "https://openapi.plaud.ai"


def open_store(connection: Connection, client_id: str = "client") -> SqlStore:
    return SqlStore(connection, base_url=BASE_URL, client_id=client_id)


def count(quota: Quota, now: float) -> int:
    quota.overtaken += 1
    return quota.overtaken


def counted(quota: Quota, now: float) -> int:
    return quota.overtaken


def execute(connection: Connection, statement: str) -> list[Any]:
    if connection.conn_type == "sqlite":
        url = sa.URL.create("sqlite", database=connection.host)
    else:
        names = {"host": connection.host, "port": str(connection.port)}
        url = sa.URL.create(
            "postgresql+psycopg", username=connection.login, database=connection.schema, query=names
        )
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as opened:
        result = opened.execute(sa.text(statement))
        return [tuple(row) for row in result] if result.returns_rows else []


def test_what_one_host_changes_another_one_finds(sql_connection: Connection) -> None:
    open_store(sql_connection).update(count)

    assert open_store(sql_connection).update(count) == 2


def test_each_client_has_a_row_of_its_own_that_says_whose_it_is(sql_connection: Connection) -> None:
    open_store(sql_connection, "one").update(count)
    open_store(sql_connection, "two").update(count)

    rows = execute(sql_connection, "select base_url, client_id from plaud_budget order by client_id")
    assert rows == [(BASE_URL, "one"), (BASE_URL, "two")]


def test_no_change_is_lost_where_many_hosts_make_one_from_the_very_first(
    sql_connection: Connection,
) -> None:
    """The table and the row are made in the same moment."""
    together = threading.Barrier(6)

    def change(_: int) -> None:
        own = open_store(sql_connection)
        together.wait()
        for _ in range(10):
            own.update(count)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(change, range(6)))

    assert open_store(sql_connection).update(counted) == 60


def test_the_threads_of_a_triggerer_share_one_database_connection(postgres: Connection) -> None:
    store = open_store(postgres)

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(lambda _: store.update(count), range(40))) == list(range(1, 41))

    query = (
        "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    )
    assert execute(postgres, query) == [(1,)]


def test_a_change_that_fails_changes_nothing_and_lets_the_next_one_in(sql_connection: Connection) -> None:
    store = open_store(sql_connection)
    store.update(count)

    def fail(quota: Quota, now: float) -> None:
        quota.overtaken = 7
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        store.update(fail)

    assert store.update(counted) == 1


RATE = Rate(5.0)


def take(quota: Quota, now: float) -> float:
    return quota.take(uuid4().hex, Operation.GET, now=now, rate=RATE)


@pytest.mark.parametrize(
    "statement",
    [
        "delete from plaud_budget",
        "update plaud_budget set budget = '{'",
        "update plaud_budget set budget = '{\"version\": 1}'",
    ],
)
@pytest.mark.parametrize("is_another", [False, True])
def test_a_row_that_is_gone_or_damaged_is_made_anew_and_starts_as_if_full(
    sql_connection: Connection, statement: str, is_another: bool
) -> None:
    """Five were sent, which nobody knows of any more."""
    store = open_store(sql_connection)
    assert [store.update(take) for _ in range(5)] == [0.0] * 5
    execute(sql_connection, statement)
    if is_another:
        store = open_store(sql_connection)

    assert store.update(take) > 0
    assert open_store(sql_connection).update(take) > 0
    assert execute(sql_connection, "select count(*) from plaud_budget") == [(1,)]


def test_the_first_client_of_a_new_table_need_not_wait(sql_connection: Connection) -> None:
    assert open_store(sql_connection).update(take) == 0.0


def test_a_row_of_an_earlier_version_that_was_never_used_need_not_wait(sql_connection: Connection) -> None:
    open_store(sql_connection).update(count)
    execute(sql_connection, "update plaud_budget set budget = null")

    assert open_store(sql_connection).update(take) == 0.0


def test_hosts_that_find_the_row_gone_at_the_same_time_make_one(sql_connection: Connection) -> None:
    stores = [open_store(sql_connection) for _ in range(6)]
    for store in stores:
        store.update(count)
    execute(sql_connection, "delete from plaud_budget")

    with ThreadPoolExecutor(6) as pool:
        waits = list(pool.map(lambda store: store.update(take), stores))

    assert min(waits) > 0
    assert execute(sql_connection, "select count(*) from plaud_budget") == [(1,)]


@pytest.mark.timeout(60)
def test_a_database_that_hangs_is_away_after_seconds(
    postgres: Connection, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped as by SIGSTOP, its kernel still accepts connections and acknowledges what is sent."""
    monkeypatch.setattr(sql_store, "LOCK_SECONDS", 0.5)
    monkeypatch.setattr(sql_store, "_CONNECT_SECONDS", 2)
    known, new = open_store(postgres), open_store(postgres)
    known.update(count)
    [(backend,)] = execute(
        postgres,
        "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()",
    )
    with stopped(backend, postgres_server.pid):
        for store in (known, new):
            with pytest.raises(StoreUnavailableError, match="connection 'shared'"):
                store.update(count)

    assert known.update(count) == 2
    assert new.update(count) == 3


def test_the_database_s_clock_decides(postgres: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(stores, "time", SimpleNamespace(time=lambda: 7.0, monotonic=lambda: 7.0))

    assert open_store(postgres).update(lambda quota, moment: moment) == pytest.approx(now, abs=60)


def test_it_is_the_time_after_the_wait_for_the_row(postgres: Connection) -> None:
    """A request that was answered in between would otherwise be forgotten too early."""
    store, other = open_store(postgres), open_store(postgres)
    store.update(count)
    held, waited = threading.Event(), threading.Event()

    def hold(quota: Quota, now: float) -> None:
        held.set()
        waited.wait(20)

    with ThreadPoolExecutor(2) as pool:
        pool.submit(store.update, hold)
        held.wait(20)
        waiting = pool.submit(other.update, lambda quota, now: now)
        query = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        while execute(postgres, query) != [(1,)]:
            pass
        [(released_at,)] = execute(postgres, "select extract(epoch from clock_timestamp())")
        waited.set()

        assert waiting.result() >= float(released_at)


def test_after_a_restart_of_the_database_it_goes_on(
    postgres: Connection, postgres_server: PostgresServer
) -> None:
    """The kept connection is gone, and that is no reason to do without the database."""
    store = open_store(postgres)
    store.update(count)

    postgres_server.restart()

    assert store.update(count) == 2


def test_while_the_database_is_away_it_is_unavailable_and_then_goes_on(
    postgres: Connection, postgres_server: PostgresServer
) -> None:
    store = open_store(postgres)
    store.update(count)
    postgres_server.stop()
    try:
        with pytest.raises(StoreUnavailableError, match="connection 'shared' cannot be used") as caught:
            store.update(count)
    finally:
        postgres_server.start()

    assert "plaud_budget" not in caught.value.reason
    assert store.update(count) == 2


def test_a_table_that_someone_dropped_is_made_again(sql_connection: Connection) -> None:
    store = open_store(sql_connection)
    store.update(count)
    execute(sql_connection, "drop table plaud_budget")

    with pytest.raises(StoreUnavailableError, match="plaud_budget"):
        store.update(take)
    # What was in it is not known.
    assert store.update(take) > 0


def test_whoever_may_not_write_is_told_why(postgres: Connection) -> None:
    open_store(postgres).update(count)
    execute(postgres, "create role reader login")
    execute(postgres, "grant select on plaud_budget to reader")
    reader = Connection(
        conn_id="reader",
        **{name: getattr(postgres, name) for name in ("conn_type", "host", "port", "schema")},
    )
    reader.login = "reader"
    try:
        with pytest.raises(StoreUnavailableError, match="permission denied for table plaud_budget"):
            open_store(reader).update(count)
    finally:
        execute(postgres, "drop owned by reader")
        execute(postgres, "drop role reader")


def test_a_host_that_stopped_with_the_row_in_its_hands_loses_it(
    postgres: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_store, "LOCK_SECONDS", 0.3)
    stopped, other = open_store(postgres), open_store(postgres)
    stopped.update(count)
    held, go_on = threading.Event(), threading.Event()

    def stop(quota: Quota, now: float) -> None:
        quota.overtaken = 99
        held.set()
        go_on.wait(20)

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(stopped.update, stop)
        held.wait(20)
        for _ in range(20):
            # Those who wait give up meanwhile, and come back.
            with suppress(StoreUnavailableError):
                after = other.update(count)
                break
        go_on.set()

        # It is told, or begins again where the others are now.
        assert isinstance(ended.exception(), StoreUnavailableError) or ended.result() is None
    assert after == 2
    assert other.update(counted) in (2, 99)


@pytest.mark.parametrize("conn_type", ["duckdb", "http", "nonsense", None])
def test_a_connection_of_something_else_is_refused(conn_type: str | None) -> None:
    connection = Connection(conn_id="shared", conn_type=conn_type, host="somewhere", password="canary")

    with pytest.raises(
        PlaudConfigurationError, match=r"budget_conn_id: .*'shared'.*Nothing was sent"
    ) as caught:
        open_store(connection)
    assert "canary" not in str(caught.value)
