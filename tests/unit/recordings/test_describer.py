from __future__ import annotations

import gzip
import json
import logging
import tracemalloc
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from plaud_provider.exceptions import PlaudInputError, PlaudStorageError
from plaud_provider.recordings.describer import Describer

URI = "s3://aws_default@calls/anna/2024-03-01/17.mp3"


def fields(uri: str = URI, **arguments: Any) -> Any:
    described = Describer(**arguments).describe([uri])[uri]
    return json.loads(described.json) if described.json else None


def written(folder: Path, text: str, name: str = "calls.csv") -> str:
    path = folder / name
    content = text.encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return str(path)


def test_argument_outranks_the_list_and_the_list_the_pattern(tmp_path: Path) -> None:
    found = fields(
        metadata={"agent": "given"},
        metadata_pattern="{agent}/{day}/{call_id}.mp3",
        metadata_path=written(tmp_path, "reference,agent,day,team\n17.mp3,listed,listed,\n"),
    )

    assert found == {"agent": "given", "day": "listed", "call_id": "17"}


def test_times_are_those_of_the_zone_that_is_named() -> None:
    described = Describer(
        metadata_pattern="{agent}/{at:%Y-%m-%d}/{call_id}.mp3",
        metadata={"started_at": "2024-03-02T00:30:00"},
        metadata_columns="agent, call_id",
        metadata_timezone="Europe/Berlin",
    ).describe([URI])[URI]

    assert described.started_at == datetime(2024, 3, 1, 23, 30, tzinfo=UTC)
    # As it is named where the call was.
    assert described.date == date(2024, 3, 1)
    assert described.columns == {"agent": "anna", "call_id": "17"}


@pytest.mark.parametrize(
    ("listed", "uri"),
    [
        (URI, URI),
        ("s3://calls/anna/2024-03-01/17.mp3", URI),
        ("anna/2024-03-01/17.mp3", URI),
        ("17.mp3", URI),
        ("/data/calls/17.mp3", "/data/calls/17.mp3"),
        ("/data/calls/17.mp3", "file:///data/calls/17.mp3"),
        ("calls/17.mp3", "/data/calls/17.mp3"),
        ("https://h.example/a%20b.mp3", "https://h.example/a%20b.mp3"),
        ("https://h.example/a%20b.mp3?signature=secret", "https://h.example/a%20b.mp3"),
        ("https://h.example/a b.mp3", "https://h.example/a%20b.mp3"),
        ("a b.mp3", "https://h.example/a%20b.mp3"),
        ("日本 語?.mp3", "s3://calls/日本 語?.mp3"),
    ],
)
def test_list_finds_a_recording_by_whatever_people_call_it(tmp_path: Path, listed: str, uri: str) -> None:
    listing = json.dumps({"reference": listed, "agent": "x", "score": 1}) + "\n"

    for name in ("calls.jsonl", "calls.ndjson.gz"):
        found = fields(uri, metadata_path=written(tmp_path, listing, name))
        assert found == {"agent": "x", "score": 1}


@pytest.mark.parametrize(
    "listed", ["7.mp3", "x17.mp3", "2024-03-02/17.mp3", "calls", "", "nna/2024-03-01/17.mp3"]
)
def test_list_does_not_take_a_recording_for_another(tmp_path: Path, listed: str) -> None:
    assert fields(metadata_path=written(tmp_path, f"reference,agent\n{listed},x\n")) is None


def test_of_two_names_that_fit_the_longer_counts_and_of_equals_the_last(tmp_path: Path) -> None:
    lines = "reference,agent\n2024-03-01/17.mp3,first\n2024-03-01/17.mp3,last\n17.mp3,short\n"

    assert fields(metadata_path=written(tmp_path, lines)) == {"agent": "last"}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_is_read_as_spreadsheets_write_it(tmp_path: Path, separator: str) -> None:
    lines = '\ufeffaudio_uri,agent,note\r\n17.mp3,"Löw, Anna","two\nlines"\r\n18.mp3\r\n'
    if separator != ",":
        lines = lines.replace(",", separator).replace(f"Löw{separator} Anna", "Löw, Anna")

    for name in ("calls.csv", "calls.tsv", "CALLS.CSV.gz"):
        assert fields(metadata_path=written(tmp_path, lines, name)) == {
            "agent": "Löw, Anna",
            "note": "two\nlines",
        }


def test_what_is_not_described_is_null_and_one_warning_for_each_source_counts_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    describer = Describer(
        metadata_pattern="{agent}/{at:%Y-%m-%d}/{call_id}.mp3",
        metadata_path=written(tmp_path, "reference,team\n1.mp3,x\n"),
        metadata_columns=["agent"],
    )
    uris = [f"s3://calls/{number}.mp3" for number in range(50)]

    with caplog.at_level(logging.WARNING):
        described = describer.describe([URI, None, *uris])

    assert described[None].json is None
    assert described["s3://calls/7.mp3"].columns == {"agent": None}
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "51 of 52 recordings do not match metadata_pattern",
        "51 of 52 recordings do not match metadata_path",
    ]


def test_all_described_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    Describer(metadata_pattern="{call_id}.mp3").describe([URI])

    assert caplog.records == []


def test_list_of_a_million_lines_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "calls.csv"
    with path.open("w") as file:
        file.write("reference,agent,team\n")
        file.writelines(
            f"calls/{number}.mp3,agent {number},team {number % 7}\n" for number in range(1_000_000)
        )
    uris = [f"s3://archive/calls/{number}.mp3" for number in range(0, 1_000_000, 5000)]
    describer = Describer(metadata_path=str(path), metadata_columns=["agent"])

    tracemalloc.start()
    described = describer.describe(uris)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert [one.columns["agent"] for one in described.values()] == [
        f"agent {n}" for n in range(0, 1_000_000, 5000)
    ]
    assert peak < 4 * 1024 * 1024


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("calls.csv", "agent,team\na,b\n"),
        ("calls.csv", ""),
        ("calls.jsonl", "{\n"),
        ("calls.jsonl", '{"agent": "x"}\n'),
        ("calls.jsonl", "[1]\n"),
        ("calls.txt", "reference\n"),
        ("missing", ""),
    ],
)
def test_list_that_is_none_is_refused_before_anything_is_paid_for(
    tmp_path: Path, name: str, text: str
) -> None:
    path = written(tmp_path, text, name) if name != "missing" else str(tmp_path / "missing.csv")

    with pytest.raises(PlaudInputError, match=r"^metadata_path: .*calls|^metadata_path: .*missing"):
        Describer(metadata_path=path).check()


@pytest.mark.parametrize(
    ("name", "content"),
    [("calls.csv.gz", b"reference,agent\n"), ("calls.jsonl.gz", gzip.compress(b"x" * 9999, mtime=0)[:40])],
)
def test_list_that_is_broken_is_an_error_that_a_retry_may_mend(
    tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(PlaudStorageError, match=r"^metadata_path: .*its content is not what its name says"):
        Describer(metadata_path=str(path)).describe([URI])


def test_lines_that_are_broken_keep_no_recording_from_landing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = '{"reference": "1.mp3"}\n{"refer\n\n7\n{"reference": "17.mp3", "agent": "x"}\n'

    with caplog.at_level(logging.WARNING):
        assert fields(metadata_path=written(tmp_path, lines, "calls.jsonl")) == {"agent": "x"}

    assert "2 lines of" in caplog.text


@pytest.mark.parametrize("columns", [["agnet"], "agent, agnet"])
def test_column_that_nothing_has_a_field_for_is_refused(tmp_path: Path, columns: Any) -> None:
    listed = written(tmp_path, "reference,agent\n")

    with pytest.raises(
        PlaudInputError, match=r"^metadata_columns: nothing has a field 'agnet'.*agent, call_id"
    ):
        Describer(metadata_path=listed, metadata_pattern="{call_id}.mp3", metadata_columns=columns).check()
    with pytest.raises(PlaudInputError, match="have none"):
        Describer(metadata_columns=columns).check()


@pytest.mark.parametrize("value", ['{"agent": "Löw"}', "{'agent': 'Löw'}", {"agent": "Löw"}])
def test_fields_are_taken_as_templates_render_them(value: Any) -> None:
    assert fields(metadata=value) == {"agent": "Löw"}


@pytest.mark.parametrize("value", ["", "None", None, {}])
def test_fields_that_are_unset_are_none(value: Any) -> None:
    assert fields(metadata=value) is None


@pytest.mark.parametrize("value", ["agent", "[1]", ["agent"], 7])
def test_what_is_no_mapping_is_refused(value: Any) -> None:
    with pytest.raises(PlaudInputError, match=r"^metadata: takes a mapping"):
        Describer(metadata=value)


def test_zone_that_does_not_exist_is_refused() -> None:
    for name in ("Europe/Nowhere", "../x", "/etc/passwd"):
        with pytest.raises(PlaudInputError, match=r"^metadata_timezone: "):
            Describer(metadata_timezone=name)
