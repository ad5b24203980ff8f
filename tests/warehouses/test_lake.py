"""What open table formats keep beside the contract."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plaud_provider.doctor import Subject
from plaud_provider.exceptions import PlaudInputError, PlaudWarehouseError
from plaud_provider.ledger.ledger import open_ledger
from plaud_provider.operators.export_transcription import ExportTranscriptionOperator
from plaud_provider.operators.list_recordings import ListRecordingsOperator
from plaud_provider.operators.purge_transcriptions import PurgeTranscriptionsOperator
from plaud_provider.warehouse.lake import Lake, checked_lake
from plaud_provider.warehouse.loaders.choice import choose_loader
from plaud_provider.warehouse.tables import plaud_tables
from plaud_provider.warehouse.writer import open_warehouse
from tests.unit.operators.archives import PUBLIC, Archive
from tests.unit.warehouse.warehouses import CONN_ID, NOW, connected, landing, segment


@pytest.mark.parametrize("name", ["iceberg", "delta"])
@pytest.mark.parametrize("there", [(), ("txn_1",), ("txn_2",), ("txn_1", "txn_2")])
def test_a_commit_on_an_old_version_of_the_rows_is_refused(
    name: str, there: Sequence[str], tmp_path: Path
) -> None:
    tables, ids = plaud_tables(), ["txn_1", "txn_2"]
    loader = choose_loader(None, tables, lake=Lake(str(tmp_path / "lake"), name))
    loader.ensure()
    if there:
        loader.load([landing(known) for known in there])
    old = loader._open(tables.transcripts)
    loader.load([landing("txn_1", text="newer", landed_at=NOW + timedelta(hours=1))])
    rows = loader._read(loader._open(tables.transcripts), list(tables.transcripts.c.keys()), ids)

    with pytest.raises(loader._conflicts):
        loader._replace(old, rows.cast(loader._schema(old)), ids)


def test_iceberg_reads_texts_of_no_file_but_those_that_are_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyiceberg.io.pyarrow import ArrowScan

    writer = open_warehouse(None, lake=Lake(str(tmp_path / "lake"), "iceberg"))
    for ids in (("txn_1", "txn_5"), ("txn_2", "txn_6"), ("txn_3", "txn_7")):
        writer.replace([landing(known, segments=2) for known in ids])
    read, texts = ArrowScan.to_record_batches, []

    def reading(scan: Any, tasks: Any) -> Any:
        some = [*tasks]
        texts.extend(task.file for task in some if "text" in scan._projected_schema.column_names)
        return read(scan, some)

    monkeypatch.setattr(ArrowScan, "to_record_batches", reading)

    # Each file may have the id, by its bounds.
    writer.replace([landing("txn_4", segments=2)])
    assert texts == []
    # Of both tables the one file that has another id as well.
    writer.replace([landing("txn_2", segments=3)])
    assert len(texts) == 2
    # A whole file.
    writer.replace([landing("txn_4", segments=1)])
    assert len(texts) == 2

    loader: Any = writer.loader
    counts = {one.transcription_id: one.segment_count for one in loader.stored(bool)}
    assert counts == {f"txn_{number}": {2: 3, 4: 1}.get(number, 2) for number in range(1, 8)}
    assert loader._read(loader._open(plaud_tables().segments), ("text",), None).num_rows == 14


@pytest.mark.parametrize("name", ["iceberg", "delta", "parquet"])
def test_the_later_landing_stays_though_the_earlier_one_publishes_after_it(name: str, tmp_path: Path) -> None:
    tables = plaud_tables()
    first, second = (choose_loader(None, tables, lake=Lake(str(tmp_path / "lake"), name)) for _ in range(2))
    first.ensure()
    publish = first._publish_transcripts

    def publish_late(landings: object) -> None:
        second.load(
            [landing(text="later", segments=(segment(0, text="later"),), landed_at=NOW + timedelta(1))]
        )
        publish(landings)

    first._publish_transcripts = publish_late

    first.load([landing(text="earlier", segments=2)])

    read = first._read(first._open(tables.transcripts), ("text", "landed_at"), ["txn_1"]).to_pylist()
    latest = max(read, key=lambda row: row["landed_at"])
    segments = first._read(first._open(tables.segments), ("text", "landed_at"), ["txn_1"]).to_pylist()
    assert latest["text"] == "later"
    assert [row["text"] for row in segments if row["landed_at"] == latest["landed_at"]] == ["later"]


@pytest.mark.parametrize("name", ["iceberg", "delta", "parquet"])
def test_what_is_in_one_of_two_targets_only_is_not_landed_and_lands_in_both(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected("sqlite", tmp_path, monkeypatch)
    lake = Lake(str(tmp_path / "lake"), name)
    alone = {"warehouse": open_warehouse(CONN_ID), "lake": open_warehouse(None, lake=lake)}
    both = open_warehouse(CONN_ID, lake=lake)
    alone["warehouse"].replace([landing("txn_1")])
    alone["lake"].replace([landing("txn_2")])

    assert both.landed(["txn_1", "txn_2"]) == set()
    both.replace([landing("txn_1"), landing("txn_2")])

    assert both.landed(["txn_1", "txn_2"]) == {"txn_1", "txn_2"}
    assert alone["warehouse"].landed(["txn_1", "txn_2"]) == {"txn_1", "txn_2"}
    assert alone["lake"].landed(["txn_1", "txn_2"]) == {"txn_1", "txn_2"}


def test_ledger_calls_landed_only_what_is_in_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connected("sqlite", tmp_path, monkeypatch)
    writer = open_warehouse(CONN_ID, lake=Lake(str(tmp_path / "lake"), "parquet"))
    with closing(open_ledger(CONN_ID)) as ledger:
        monkeypatch.setattr(writer.loader._lake, "load", refuse)  # type: ignore[attr-defined]
        with pytest.raises(PlaudWarehouseError):
            writer.replace([landing("txn_1")], ledger)

    assert open_warehouse(CONN_ID).landed(["txn_1"]) == set()


def refuse(*_: object) -> None:
    raise PlaudWarehouseError("the lake is away")


def test_iceberg_needs_nothing_but_its_catalog_to_be_read(tmp_path: Path) -> None:
    from pyiceberg.catalog.sql import SqlCatalog

    folder = tmp_path / "lake"
    open_warehouse(None, lake=Lake(str(folder), "iceberg")).replace([landing("txn_1", segments=2)])

    catalog = SqlCatalog("plaud", uri=f"sqlite:///{folder}/catalog.sqlite")
    table = catalog.load_table("plaud.plaud_segments")
    assert table.scan().to_arrow().num_rows == 2
    assert [field.name for field in table.spec().fields] == ["landed_day"]


def test_an_archive_lands_in_a_lake_alone_and_a_further_run_finds_it_there(
    archive: Archive, tmp_path: Path
) -> None:
    archive.add("1.wav", "2.wav")
    lake: dict[str, Any] = {"sql_conn_id": None, "lake_path": str(tmp_path / "lake"), "lake_format": "delta"}
    archive.list()
    archive.submit(**lake)
    archive.plaud.advance(601)

    counts = archive.land(**lake)

    assert (counts["total"], counts["landed"]) == (2, 2)
    assert "plaud_transcripts" not in archive.warehouse.tables()
    entries = archive.entries().values()
    assert {entry.target for entry in entries} == {f"{lake['lake_path']}:plaud_transcripts"}
    ids = [str(entry.transcription_id) for entry in entries]
    assert open_warehouse(None, lake=Lake(str(tmp_path / "lake"), "delta")).landed(ids) == set(ids)
    lake |= {"ledger_conn_id": CONN_ID, "public_urls": {str(archive.folder): PUBLIC}}
    listing = ListRecordingsOperator(
        task_id="list", path=str(archive.folder), results_path=str(archive.results), **lake
    )
    assert listing.execute(archive.context("list", "next")) == []


def test_a_lake_alone_needs_a_ledger_elsewhere_before_anything_is_listed(tmp_path: Path) -> None:
    listing = ListRecordingsOperator(
        task_id="list", path="/nowhere", results_path=str(tmp_path), lake_path=str(tmp_path / "lake")
    )

    with pytest.raises(PlaudInputError, match=r"ledger_conn_id: it is missing.*a lake cannot keep"):
        listing.execute({})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments, told",
    [
        (("lake", "iceberg", None), "lake_path: .*absolute"),
        (("ftp://host/lake", "delta", None), "lake_path: "),
        (("/lake", "hudi", None), "lake_format: 'hudi' is none of 'iceberg', 'delta', 'parquet'"),
        (("s3://aws@bucket/lake", "iceberg", None), "lake_catalog_conn_id: .* need a catalog"),
        (("/lake", "delta", "glue"), "lake_catalog_conn_id: .*'delta' have no catalog"),
        ((None, "iceberg", "glue"), "lake_catalog_conn_id: there is no lake_path"),
    ],
)
def test_a_lake_that_cannot_be_is_refused_by_its_argument(arguments: Any, told: str) -> None:
    with pytest.raises(PlaudInputError, match=told):
        checked_lake(*arguments)


def test_the_connection_in_a_path_is_not_what_other_programs_are_told() -> None:
    lake = Lake("s3://aws_calls@bucket/a/lake", "delta")

    assert (lake.conn_id, lake.location) == ("aws_calls", "s3://bucket/a/lake")
    assert Lake("/a/lake", "delta").location == "file:///a/lake"


def test_the_query_of_the_docs_finds_the_latest_landing_in_parquet_files(tmp_path: Path) -> None:
    import duckdb

    writer = open_warehouse(None, lake=Lake(str(tmp_path / "lake"), "parquet"))
    for text, count in (("old", 3), ("new", 2)):
        stretches = tuple(segment(index, text=text) for index in range(count))
        writer.replace([landing("txn_1", text=text, segments=stretches)])
    page = (Path(__file__).parents[2] / "docs/lake.md").read_text()
    query = next(part for part in page.split("\n\n") if part.startswith("    with transcripts as ("))

    found = duckdb.sql(query.replace("/shared/lake", str(tmp_path / "lake"))).fetchall()

    assert [row[5] for row in sorted(found, key=lambda row: row[1])] == ["new", "new"]


FORMATS = ["iceberg", "delta", "parquet"]


def everything_in(folder: Path) -> str:
    """Return all that is in the files of a lake, also in those that compress it."""
    import pyarrow.parquet as pq
    from pyiceberg.avro.file import AvroFile
    from pyiceberg.io.pyarrow import PyArrowFileIO
    from pyiceberg.manifest import DEFAULT_READ_VERSION, MANIFEST_ENTRY_SCHEMAS

    found = []
    for path in folder.rglob("*"):
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                found.append(str(file.read().to_pylist()))
                groups = (file.metadata.row_group(number).to_dict() for number in range(file.num_row_groups))
                found.append(str(list(groups)))
        elif path.suffix == ".avro" and not path.name.startswith("snap-"):
            schema = MANIFEST_ENTRY_SCHEMAS[DEFAULT_READ_VERSION]
            with AvroFile(PyArrowFileIO().new_input(str(path)), schema) as entries:
                found.append(str(list(entries)))
        elif path.is_file():
            found.append(path.read_bytes().decode(errors="replace"))
    return "\n".join(found)


@pytest.mark.parametrize("name", FORMATS)
def test_of_what_is_purged_no_file_has_a_word_and_the_rest_stays(name: str, tmp_path: Path) -> None:
    writer = open_warehouse(None, lake=Lake(str(tmp_path / "lake"), name))
    for word in ("SENTINEL earlier", "SENTINEL"):
        said = (segment(0, text=word, speaker=word), segment(1, text="and more"))
        purged = landing("txn_1", text=word, segments=said, raw=f'{{"text": "{word}"}}')
        writer.replace([purged, landing("txn_2", text="kept", segments=3)])
    writer.replace([landing("txn_3", text="SENTINEL", segments=said, raw='{"text": "SENTINEL"}')])
    assert "SENTINEL" in everything_in(tmp_path)

    loader = writer.loader
    assert sorted(one.transcription_id for one in loader.stored(bool)) == ["txn_1", "txn_2", "txn_3"]
    assert loader.remove(["txn_1", "txn_3"]) == (2, 4)

    assert "SENTINEL" not in everything_in(tmp_path)
    assert [one.segment_count for one in loader.stored(bool)] == [3]
    assert loader.landed(["txn_1", "txn_2", "txn_3"]) == {"txn_2"}
    assert loader.remove(["txn_1", "txn_3"]) == (0, 0)
    writer.replace([landing("txn_1", text="again")])
    assert writer.landed(["txn_1", "txn_2"]) == {"txn_1", "txn_2"}


@pytest.mark.parametrize("name", FORMATS)
def test_transcripts_of_a_lake_alone_are_exported(name: str, tmp_path: Path) -> None:
    lake = {"lake_path": str(tmp_path / "lake"), "lake_format": name}
    writer = open_warehouse(None, lake=Lake(*lake.values()))
    raw = '{"transcriptionId": "txn_1", "status": "completed", "text": "Hello.", "segments": []}'
    for _ in range(2):
        writer.replace([landing("txn_1", raw=raw), landing("txn_2", run_id="another")])

    task = ExportTranscriptionOperator(
        task_id="export", folder=str(tmp_path / "files"), formats=["txt"], **lake
    )
    written = task.execute({"ti": SimpleNamespace(dag_id="a_dag", run_id="a_run")})  # type: ignore[typeddict-item]

    assert [Path(one).read_text() for one in written] == ["Hello.\n"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_purge_that_ends_in_between_is_made_good_by_the_next_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import deltalake
    from pyiceberg.io.pyarrow import PyArrowFileIO

    from plaud_provider.warehouse.loaders.parquet import ParquetLoader

    where, method = {
        "iceberg": (PyArrowFileIO, "delete"),
        "delta": (deltalake.DeltaTable, "vacuum"),
        "parquet": (ParquetLoader, "_write"),
    }[name]
    writer = open_warehouse(None, lake=Lake(str(tmp_path / "lake"), name))
    for _ in range(2):
        writer.replace([landing("txn_1", text="SENTINEL", raw='{"text": "SENTINEL"}'), landing("txn_2")])
    do = getattr(where, method)
    for last in range(1, 4):
        left = [None] * last

        def cut_short(*arguments: Any, left: list[None] = left, **named: Any) -> Any:
            if not left:
                raise OSError("the worker was killed")
            left.pop()
            return do(*arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(where, method, cut_short)
            try:
                writer.loader.remove(["txn_1"])
            except PlaudWarehouseError as error:
                assert "were to be removed" in str(error)  # noqa: PT017

    writer.loader.remove(["txn_1"])

    assert "SENTINEL" not in everything_in(tmp_path)
    assert writer.landed(["txn_1", "txn_2"]) == {"txn_2"}


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_a_task_is_about_to_commit_survives_a_purge(name: str, tmp_path: Path) -> None:
    import shutil

    writer = open_warehouse(None, lake=Lake(str(tmp_path / "lake"), name))
    writer.replace([landing("txn_1"), landing("txn_2")])
    (some, *_) = (path for path in tmp_path.rglob("*.parquet") if "plaud_segments" in str(path))
    uncommitted = some.with_name("uncommitted.parquet.unfinished" if name == "parquet" else "new.parquet")
    shutil.copy(some, uncommitted)

    writer.loader.remove(["txn_1"])

    assert uncommitted.exists()


def test_a_tag_that_keeps_purged_rows_is_named(tmp_path: Path) -> None:
    writer = open_warehouse(None, lake=Lake(str(tmp_path / "lake"), "iceberg"))
    writer.replace([landing("txn_1")])
    loader: Any = writer.loader
    table = loader._open(plaud_tables().transcripts)
    table.manage_snapshots().create_tag(table.current_snapshot().snapshot_id, "audit").commit()

    with pytest.raises(PlaudWarehouseError, match=r"'plaud_transcripts'.*tag 'audit'"):
        loader.remove(["txn_1"])

    loader._open(plaud_tables().transcripts).manage_snapshots().remove_tag("audit").commit()
    assert loader.remove(["txn_1"]).transcripts == 1


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_in_a_warehouse_and_a_lake_is_purged_from_both(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected("sqlite", tmp_path, monkeypatch)
    lake = Lake(str(tmp_path / "lake"), name)
    both = open_warehouse(CONN_ID, lake=lake)
    both.replace([landing("txn_1", segments=2)])
    alone = open_warehouse(None, lake=lake)
    alone.replace([landing("txn_2", segments=1)])

    assert sorted(one.transcription_id for one in both.loader.stored(bool)) == ["txn_1", "txn_2"]
    assert both.loader.remove(["txn_1", "txn_2"]) == (2, 3)

    assert both.loader.stored(bool) == []


def test_duckdb_takes_the_same_rows_from_arrow_as_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plaud_provider.database import duckdb

    texts = ["\U0001f600 e\u0301 \u65e5\u672c", "", "a\0b", "'\"\\N", " \t\r\n"]
    said = [
        segment(number, text=texts[number % 5], speaker=None, start_seconds=number / 3, end_seconds=None)
        for number in range(25_000)
    ]
    found = []
    for name, rows_for_arrow in (("arrow", 1), ("lists", 1_000_000)):
        monkeypatch.setattr(duckdb, "_ROWS_FOR_ARROW", rows_for_arrow)
        (tmp_path / name).mkdir()
        warehouse = connected("duckdb", tmp_path / name, monkeypatch)
        for _ in range(2):
            open_warehouse(CONN_ID).replace([landing("txn_1", segments=tuple(said)), landing("txn_2")])
        query = "select * from plaud_segments order by transcription_id, segment_index"
        found.append([warehouse.rows(query), warehouse.rows("select * from plaud_transcripts order by 1")])

    assert found[0] == found[1]
    assert len(found[0][0]) == 25_002


@pytest.mark.parametrize("name", ["iceberg", "delta"])
def test_doctor_tries_a_lake_out_and_leaves_its_earlier_versions(name: str, tmp_path: Path) -> None:
    path = str(tmp_path / "lake")
    writer = open_warehouse(None, lake=Lake(path, name))
    writer.replace([landing("txn_1", text="earlier")])
    loader: Any = writer.loader
    opened = loader._open(plaud_tables().transcripts)

    told = Subject(sql_conn_id=None, lake_path=path, lake_format=name).warehouse()

    assert told.startswith(f"{path} ({name}): ")
    assert told.endswith("a row was written, read and removed")
    assert [one.transcription_id for one in loader.stored(bool)] == ["txn_1"]
    assert loader._read(opened, ("text",), None).to_pylist() == [{"text": "earlier"}]


def test_a_purge_of_a_lake_forgets_what_is_there_and_nothing_comes_back(
    archive: Archive, tmp_path: Path
) -> None:
    archive.add("1.wav", "2.wav")
    lake: dict[str, Any] = {
        "sql_conn_id": None,
        "lake_path": str(tmp_path / "lake"),
        "lake_format": "parquet",
    }
    archive.list()
    archive.submit(**lake)
    archive.plaud.advance(601)
    archive.land(**lake)

    task = PurgeTranscriptionsOperator(
        task_id="forget", recordings=[str(archive.folder / "1.wav")], ledger_conn_id=CONN_ID, **lake
    )
    counts = task.execute(archive.context("forget", "later"))
    archive.land(**lake)

    assert (counts["recordings"], counts["transcripts"]) == (1, 1)
    left = open_warehouse(None, lake=Lake(lake["lake_path"], "parquet")).loader.stored(bool)
    assert [str(one.audio_uri).rpartition("/")[2] for one in left] == ["2.wav"]
