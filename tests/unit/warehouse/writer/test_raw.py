"""Plaud's answers as they are kept in ``raw``: JSON that PostgreSQL can ask, whatever is in it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plaud_provider.api.answers import parse_transcription
from plaud_provider.database import copying, rows
from tests.unit.warehouse.warehouses import PostgresWarehouse, Warehouse, connected_postgres, landing


def deep(levels: int) -> Any:
    return json.loads("[" * levels + "]" * levels)


STRANGE: dict[str, Any] = {
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f1ef\U0001f1f5",
    "controls": "".join(map(chr, range(1, 32))),
    "quotes and backslashes": "\\ \\\\ \" ' / \\n \\N %s {} \\u0041",
    "not characters": "\ufffe\uffff\U0010ffff\ufdd0",
    # 1e22 is the largest power of ten that is the same as a float: jsonb keeps decimals.
    "big numbers": [10**4000, 1e22, 5e-324, -0.0, 2**53 + 1],
    "deep": deep(900),
    "long": "x\U0001f600" * 2_000_000,
    "empty": ["", {}, [], None, True],
    "keys": {"": 1, " ": 2, "\u8a9e": 3},
}


@pytest.fixture(params=["jsonb", "json", "text"])
def raw_type(request: pytest.FixtureRequest) -> str:
    """Type of the column, as it was created by this version, by a user or by an earlier version."""
    return str(request.param)


@pytest.fixture(params=["copy", "arrays", "pieces"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How rows go in."""
    if request.param == "arrays":
        monkeypatch.setattr(copying, "DRIVERS", frozenset())
    if request.param == "pieces":
        monkeypatch.setattr(rows, "LARGE_CHARACTERS", 0)
        monkeypatch.setattr(copying, "_PIECE", 997)
    return str(request.param)


@pytest.fixture(params=["psycopg", "psycopg2"])
def warehouse_of_driver(
    request: pytest.FixtureRequest, postgres_database: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> PostgresWarehouse:
    extra = {"sqlalchemy_scheme": f"postgresql+{request.param}"}
    return connected_postgres(postgres_database, monkeypatch, extra=extra)


def answer(**values: Any) -> str:
    """Return what becomes of an answer of Plaud's."""
    body = json.dumps({"transcriptionId": "txn_1", "status": "completed", **values}).encode()
    return parse_transcription(body).raw


def test_raw_is_created_as_jsonb_in_postgresql(postgres_warehouse: Warehouse) -> None:
    postgres_warehouse.writer().ensure_tables()
    postgres_warehouse.writer().replace([landing(raw=answer(language="ja"))])

    assert postgres_warehouse.rows("select raw ->> 'language' from plaud_transcripts") == [("ja",)]
    assert postgres_warehouse.rows("select pg_typeof(raw)::text from plaud_transcripts") == [("jsonb",)]


@pytest.mark.parametrize("has_key", [True, False])
def test_strange_answers_land_in_every_type_by_every_way(
    warehouse_of_driver: PostgresWarehouse, raw_type: str, way: str, has_key: bool
) -> None:
    warehouse = warehouse_of_driver
    warehouse.writer().ensure_tables()
    warehouse.run(f"alter table plaud_transcripts alter raw type {raw_type}")
    if not has_key:
        warehouse.run("alter table plaud_transcripts drop constraint plaud_transcripts_pkey")
    writer = warehouse.writer()
    writer.ensure_tables()
    landings = [landing(f"txn_{n}", raw=answer(odd=value)) for n, value in enumerate(STRANGE.values())]

    for _ in range(2):
        writer.replace(landings)

    assert [found["odd"] for found in warehouse.answers()] == list(STRANGE.values())
    assert warehouse.rows("select count(raw::jsonb ->> 'status') from plaud_transcripts") == [(len(STRANGE),)]
    assert warehouse.rows("select distinct pg_typeof(raw)::text from plaud_transcripts") == [(raw_type,)]


def test_text_stays_as_plaud_wrote_it(postgres_warehouse: Warehouse) -> None:
    postgres_warehouse.writer().ensure_tables()
    postgres_warehouse.run("alter table plaud_transcripts alter raw type text")
    raw = '{"b":1,"a":[1,2],"a":{"c": 1.50}}'

    postgres_warehouse.writer().replace([landing(raw=raw)])

    assert postgres_warehouse.rows("select raw from plaud_transcripts") == [(raw,)]


@pytest.mark.parametrize(
    ("text", "kept", "count"),
    [
        ("a\x00b", "a\ufffdb", 1),
        ("\x00\x00", "\ufffd\ufffd", 2),
        ("\\u0000", "\\u0000", 0),
        ("\\\x00", "\\\ufffd", 1),
        ("\\\\u0000\x00\\", "\\\\u0000\ufffd\\", 1),
        ("\x01u0000", "\x01u0000", 0),
    ],
)
def test_nul_is_replaced_in_answers_too(
    postgres_warehouse: Warehouse, raw_type: str, way: str, text: str, kept: str, count: int
) -> None:
    postgres_warehouse.writer().ensure_tables()
    postgres_warehouse.run(f"alter table plaud_transcripts alter raw type {raw_type}")

    landed = postgres_warehouse.writer().replace([landing(raw=answer(**{text: text}))])

    assert landed.nuls_replaced == 2 * count
    assert postgres_warehouse.answers()[0][kept] == kept
    found = "select count(*) from plaud_transcripts where raw::jsonb ->> 'status' = 'completed'"
    assert postgres_warehouse.rows(found) == [(1,)]


def test_answers_keep_their_nul_where_it_does_no_harm(file_warehouse: Warehouse) -> None:
    file_warehouse.writer().ensure_tables()

    assert file_warehouse.writer().replace([landing(raw=answer(odd="a\x00b"))]).nuls_replaced == 0
    assert file_warehouse.answers()[0]["odd"] == "a\x00b"
