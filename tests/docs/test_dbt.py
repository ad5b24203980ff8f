"""The dbt source file names what is landed, and its models run, as far as DuckDB can say without dbt."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from plaud_provider.warehouse.tables import plaud_tables
from tests.unit.warehouse.warehouses import Warehouse, connected, landing, segment

MODELS = Path(__file__).resolve().parents[2] / "docs" / "dbt" / "models"
_CALL = re.compile(r"\{\{ (?P<call>source|ref)\((?P<arguments>[^)]*)\) \}\}")


def described() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((MODELS / "plaud.yml").read_text())
    return found


def sql_of(model: str) -> str:
    """Return a model's SQL, with its sources by their names and other models in it."""

    def put_in(call: re.Match[str]) -> str:
        *_, name = re.findall(r"'([^']*)'", call["arguments"])
        return name if call["call"] == "source" else f"({sql_of(name)}\n)"

    return _CALL.sub(put_in, (MODELS / f"{model}.sql").read_text())


@pytest.fixture
def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    made = connected("duckdb", tmp_path, monkeypatch)
    writer = made.writer()
    writer.ensure_tables()
    said = [
        segment(0, text="one  two\n three "),
        segment(1, text=""),
        segment(2, text="four", end_seconds=None),
    ]
    writer.replace([landing("txn_1", segments=tuple(said)), landing("txn_2", segments=0)])
    return made


def test_sources_are_the_tables_with_all_their_columns() -> None:
    [source] = described()["sources"]
    declared = {
        str(table.name): {column.name: column.comment for column in table.columns}
        for table in plaud_tables().parameters
    }

    assert {
        table["name"]: {column["name"]: column["description"] for column in table["columns"]}
        for table in source["tables"]
    } == declared


def test_every_model_is_described() -> None:
    assert {model["name"] for model in described()["models"]} == {path.stem for path in MODELS.glob("*.sql")}


def test_model_of_speakers_is_the_query_of_the_view(warehouse: Warehouse) -> None:
    found = warehouse.rows(f"{sql_of('plaud_speakers')} order by 1, 2")

    assert len(found) == 2
    assert found == warehouse.rows("select * from plaud_speakers order by 1, 2")


def test_calls_have_their_main_speaker(warehouse: Warehouse) -> None:
    rows = warehouse.rows(
        f"select transcription_id, main_speaker, main_share, words from ({sql_of('plaud_calls')}) order by 1"
    )

    # Of two who talk as long, one by name.
    assert rows == [("txn_1", "speaker_0", 0.5, 4), ("txn_2", None, None, None)]
