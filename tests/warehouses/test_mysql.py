"""What MySQL's own defaults and limits would do to transcripts."""

from __future__ import annotations

import re
import threading
from contextlib import closing
from pathlib import Path

import pytest

from plaud_provider.exceptions import PlaudConfigurationError, PlaudTableMismatchError, PlaudWarehouseError
from plaud_provider.ledger.ledger import open_ledger
from tests.unit.warehouse.warehouses import CONN_ID, landing
from tests.warehouses.lakes import KINDS, MySqlLake
from tests.warehouses.mariadb_server import MariaDbServer


@pytest.fixture
def lake(request: pytest.FixtureRequest) -> MySqlLake:
    made = KINDS["mysql"](request)
    assert isinstance(made, MySqlLake)
    return made


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("modify text text", "column 'text' is TEXT, LONGTEXT is needed"),
        ("modify text varchar(1000)", r"column 'text' is VARCHAR\(1000\)"),
        ("modify text longtext character set latin1", "column 'text' has the character set latin1"),
        ("modify landed_at datetime not null", "column 'landed_at' is DATETIME, DATETIME"),
        ("modify segment_count tinyint not null", "column 'segment_count' is TINYINT"),
        ("engine = Aria", "its engine is Aria, InnoDB is needed"),
    ],
)
def test_table_that_would_cut_or_lose_is_refused_with_its_column(
    lake: MySqlLake, change: str, complaint: str
) -> None:
    lake.writer()
    lake.warehouse.run(f"alter table plaud_transcripts {change}")

    with pytest.raises(PlaudTableMismatchError, match=complaint):
        lake.writer()


def test_the_rights_of_the_docs_page_are_enough_to_create_to_land_and_to_remove(lake: MySqlLake) -> None:
    database = lake.warehouse.values["schema"]  # type: ignore[attr-defined]
    page = Path("docs/mysql.md").read_text()
    [told] = re.findall(r"grant (.*) on calls\.\* to plaud;", page)
    [least] = re.findall(r"are there already, `(.*)` is enough", page)
    for login, rights in (("creates", told), ("writes", least)):
        lake.warehouse.run(
            f"create user {login}_{database} identified by 'secret'",
            f"grant {rights} on {database}.* to {login}_{database}",
        )
        lake.reconnect(login=f"{login}_{database}", password="secret")

        writer = lake.writer()
        open_ledger(CONN_ID)
        for _ in range(2):
            writer.replace([landing("txn_1", segments=2)])
        writer.try_out()

        assert writer.loader.remove(["txn_1"]) == (1, 2)


def test_ids_that_differ_in_case_are_two(lake: MySqlLake) -> None:
    lake.writer().replace([landing("txn_a", segments=1), landing("txn_A", segments=2)])

    assert [row["segment_count"] for row in lake.transcripts()] == [2, 1]


def test_row_beyond_the_servers_packet_is_refused_with_its_size(lake: MySqlLake) -> None:
    writer = lake.writer()

    with pytest.raises(PlaudWarehouseError, match=r"'txn_1'.* bytes; .*Raise max_allowed_packet"):
        writer.replace([landing("txn_1", text="x" * 17_000_000)])
    assert lake.content() == ([], [])


def test_rows_that_replace_others_go_many_to_a_statement_as_those_that_do_not(lake: MySqlLake) -> None:
    writer = lake.writer()
    many = [landing(f"txn_{number:03}", raw=f'{{"text": "{5_000 * "x"}"}}') for number in range(200)]
    query = "select variable_value from information_schema.global_status where variable_name = 'Com_insert'"
    sent = []
    for _ in range(2):
        before = int(lake.warehouse.rows(query)[0][0])
        writer.replace(many)
        sent.append(int(lake.warehouse.rows(query)[0][0]) - before)

    # Of each table two, as rows are made a hundred transcriptions at a time.
    assert sent == [4, 4]


def test_lock_that_another_writer_holds_is_waited_for(lake: MySqlLake) -> None:
    lake.writer().replace([landing("txn_1", text="old")])
    writer = lake.writer()
    with closing(lake.warehouse.raw()) as other:
        other.execute("start transaction")
        other.execute("update plaud_transcripts set text = 'theirs'")
        waiting = threading.Thread(target=writer.replace, args=([landing("txn_1", text="new")],))
        waiting.start()
        # Longer than one wait for a lock, after which MySQL gives up with error 1205.
        waiting.join(11)
        assert waiting.is_alive()
        other.commit()
        waiting.join(60)

    assert [row["text"] for row in lake.transcripts()] == ["new"]


def test_table_without_a_key_takes_one_writer_at_a_time(lake: MySqlLake) -> None:
    lake.create_by_hand()
    writers = [
        threading.Thread(target=lake.writer().replace, args=([landing("txn_1", segments=count)],))
        for count in (3, 5)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)

    assert len(lake.transcripts()) == 1
    assert len(lake.segments()) == lake.transcripts()[0]["segment_count"]


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"schema": ""}, "names no database"),
        ({"extra": {"client": "mysql-connector-python"}}, "Only mysqlclient"),
    ],
)
def test_connection_that_does_not_serve_is_refused(
    lake: MySqlLake, values: dict[str, object], complaint: str
) -> None:
    lake.reconnect(**values)

    with pytest.raises(PlaudConfigurationError, match=complaint):
        lake.writer()


def test_server_that_restarts_is_used_again(lake: MySqlLake, mariadb_server: MariaDbServer) -> None:
    writer = lake.writer()
    writer.replace([landing("txn_1", text="old")])
    mariadb_server.stop()

    with pytest.raises(PlaudWarehouseError, match=r"the connection broke|could not be opened"):
        writer.replace([landing("txn_1", text="new")])
    mariadb_server.start()
    writer.replace([landing("txn_1", text="new")])

    assert [row["text"] for row in lake.transcripts()] == ["new"]
