# ruff: noqa: E501
"""What is sent to each warehouse, statement by statement, as one who knows it would read it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from plaud_provider.exceptions import PlaudConfigurationError, PlaudInputError, PlaudTableMismatchError
from plaud_provider.warehouse.loaders import databricks, redshift, snowflake
from plaud_provider.warehouse.loaders.choice import choose_loader
from plaud_provider.warehouse.tables import plaud_tables
from plaud_provider.warehouse.writer import WarehouseWriter
from tests.unit.warehouse.warehouses import landing

CONN_ID = "lake"


class Recorder:
    """A hook, its connection and its cursor, which answer that nothing is there yet."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    description = None

    def get_conn(self) -> Recorder:
        return self

    def cursor(self) -> Recorder:
        return self

    def close(self) -> None:
        self.statements.append("-- the session ends")

    def execute(self, statement: str, values: Any = None) -> Recorder:
        self.statements.append(statement)
        return self

    def fetchall(self) -> list[Any]:
        return []

    @property
    def text(self) -> str:
        return "\n".join(self.statements)


def recorded(
    monkeypatch: pytest.MonkeyPatch, module: Any, conn_type: str, *names: Any, **extra: Any
) -> tuple[Recorder, WarehouseWriter]:
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", json.dumps({"conn_type": conn_type, "extra": extra}))
    recorder = Recorder()
    monkeypatch.setattr(module, "hook_of", lambda *_, **__: recorder)
    monkeypatch.setattr(module, "token", lambda: "1f")
    return recorder, WarehouseWriter(choose_loader(CONN_ID, plaud_tables(*names)))


def test_snowflake_creates(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, writer = recorded(monkeypatch, snowflake, "snowflake")

    writer.ensure_tables()

    created = [one for one in recorder.statements if one.startswith("create")]
    assert created[0].startswith(
        "create table if not exists plaud_transcripts (transcription_id varchar(255) not null comment 'Id that "
        "Plaud gave', audio_uri varchar comment 'Reference to the recording, without its signature', region varchar "
        "not null comment "
    )
    assert " duration_seconds float comment " in created[0]
    assert " segment_count integer not null comment " in created[0]
    assert " landed_at timestamp_tz not null comment " in created[0]
    assert " raw variant not null comment " in created[0]
    assert (
        ", primary key (transcription_id)) comment = 'One row per transcription. Created by airflow-provider-plaud "
        in created[0]
    )
    assert created[1].startswith("create table if not exists plaud_segments (")
    assert ", primary key (transcription_id, segment_index)) comment = " in created[1]
    lock, view = created[2:]
    assert view.startswith("create view plaud_speakers as SELECT spoken.transcription_id, spoken.speaker, ")
    assert " FROM plaud_segments AS segments)" in view.replace("\n", "")
    assert lock == (
        "create table if not exists plaud_transcripts_lock comment = 'One row, which each landing updates first, "
        "so that two wait for each other' as select current_timestamp() as locked_at"
    )


def test_snowflake_lands(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, writer = recorded(monkeypatch, snowflake, "snowflake")

    writer.replace([landing("txn_1")])

    put = [one for one in recorder.statements if one.startswith("put")]
    assert all(one.startswith("put 'file:///") for one in put)
    shown = recorder.text
    for one in put:
        folder = one.split("'")[1].rpartition("/")[0]
        shown = shown.replace(folder, "file://FOLDER")
    transcripts = [column.name for column in plaud_tables().transcripts.columns]
    names = ", ".join(transcripts)
    parsed = ", ".join(f"parse_json({name})" if name in ("raw", "metadata") else name for name in transcripts)
    assert shown == dedent(
        f"""\
        create temporary stage plaud_stage_1f
        create temporary table plaud_staged_transcripts_1f ({columns(plaud_tables().transcripts)})
        put 'file://FOLDER/transcripts.parquet' @plaud_stage_1f auto_compress = false overwrite = true
        copy into plaud_staged_transcripts_1f ({names}) from (select {picked(plaud_tables().transcripts)} from @plaud_stage_1f/transcripts.parquet) file_format = (type = parquet use_logical_type = true) on_error = abort_statement
        create temporary table plaud_staged_segments_1f (transcription_id varchar(255), segment_index integer, start_seconds float, end_seconds float, speaker varchar, text varchar, language varchar)
        put 'file://FOLDER/segments.parquet' @plaud_stage_1f auto_compress = false overwrite = true
        copy into plaud_staged_segments_1f (transcription_id, segment_index, start_seconds, end_seconds, speaker, text, language) from (select $1:"transcription_id"::varchar(255), $1:"segment_index"::integer, $1:"start_seconds"::float, $1:"end_seconds"::float, $1:"speaker"::varchar, $1:"text"::varchar, $1:"language"::varchar from @plaud_stage_1f/segments.parquet) file_format = (type = parquet use_logical_type = true) on_error = abort_statement
        begin transaction
        update plaud_transcripts_lock set locked_at = current_timestamp()
        delete from plaud_segments where transcription_id in (select transcription_id from plaud_staged_transcripts_1f)
        delete from plaud_transcripts where transcription_id in (select transcription_id from plaud_staged_transcripts_1f)
        insert into plaud_transcripts ({names}) select {parsed} from plaud_staged_transcripts_1f
        insert into plaud_segments (transcription_id, segment_index, start_seconds, end_seconds, speaker, text, language) select transcription_id, segment_index, start_seconds, end_seconds, speaker, text, language from plaud_staged_segments_1f
        commit
        -- the session ends"""
    )


SNOWFLAKE = {"DATE": "date", "DOUBLE": "float", "INTEGER": "integer", "VARCHAR(255)": "varchar(255)"}


def snowflake_type(column: Any) -> str:
    if column.name.endswith("_at"):
        return "timestamp_tz"
    return SNOWFLAKE.get(str(column.type), "varchar")


def columns(table: Any) -> str:
    return ", ".join(f"{column.name} {snowflake_type(column)}" for column in table.columns)


def picked(table: Any) -> str:
    return ", ".join(f'$1:"{column.name}"::{snowflake_type(column)}' for column in table.columns)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("calls", "calls"),
        ("CALLS_2", "CALLS_2"),
        ("Calls", '"Calls"'),
        ("2calls", '"2calls"'),
        ("order", '"ORDER"'),
        ('a"b', '"a""b"'),
        ("\u901a\u8a71", '"\u901a\u8a71"'),
    ],
)
def test_snowflake_quotes_a_name_only_where_it_has_to(
    name: str, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, writer = recorded(monkeypatch, snowflake, "snowflake", "team", name)

    writer.landed(["txn_1"])

    assert recorder.statements[:2] == [
        "use schema team",
        f"select distinct transcription_id from team.{written} where status = %s and transcription_id in (%s)",
    ]


def test_snowflake_session_is_ours_and_keeps_what_the_user_set(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"TIMEZONE": "America/Los_Angeles", "STATEMENT_TIMEOUT_IN_SECONDS": 900, "QUERY_TAG": "team"}
    recorder, _ = recorded(monkeypatch, snowflake, "snowflake", session_parameters=own)

    assert recorder.session_parameters == {  # type: ignore[attr-defined]
        "AUTOCOMMIT": True,
        "LOCK_TIMEOUT": 1800,
        "QUERY_TAG": "team",
        "QUOTED_IDENTIFIERS_IGNORE_CASE": False,
        "STATEMENT_TIMEOUT_IN_SECONDS": 900,
        "TIMEZONE": "UTC",
    }


def test_snowflake_table_whose_columns_are_quoted_in_lower_case_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder, writer = recorded(monkeypatch, snowflake, "snowflake")
    text = ("TEXT", 16777216, None, None, "YES", None, "NO")
    columns = [(name, *text) for name in ("transcription_id", "REGION")]
    answers = [columns, [("BASE TABLE",)]]
    monkeypatch.setattr(recorder, "fetchall", lambda: answers.pop(0))

    with pytest.raises(
        PlaudTableMismatchError,
        match=r"'plaud_transcripts'.*'transcription_id' is missing.*'status' is missing",
    ) as told:
        writer.ensure_tables()

    assert "'region' is missing" not in str(told.value)


def test_snowflake_view_in_the_place_of_a_table_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, writer = recorded(monkeypatch, snowflake, "snowflake")
    answers = [[("TEXT", "TEXT", 16777216, None, None, "YES", None, "NO")], [("VIEW",)]]
    monkeypatch.setattr(recorder, "fetchall", lambda: answers.pop(0))

    with pytest.raises(PlaudTableMismatchError, match=r"'plaud_transcripts'.*is a view, a table is needed"):
        writer.ensure_tables()


class Folder:
    """A folder on S3 that keeps in memory what is put into it."""

    root = "s3://bucket/staging/"

    def __init__(self, *_: Any, **__: Any) -> None:
        self.lines: dict[str, list[Any]] = {}
        self.removed: list[str] = []

    def open(self) -> None: ...

    def upload(self, name: str, path: str) -> None:
        self.lines[name] = [
            json.loads(line) for line in gzip.decompress(Path(path).read_bytes()).splitlines()
        ]

    def remove(self, names: Iterable[str]) -> None:
        self.removed += names


STAGING = {"plaud_staging": "s3://aws_default@bucket/staging"}


def redshift_recorded(
    monkeypatch: pytest.MonkeyPatch, *names: Any, **extra: Any
) -> tuple[Recorder, WarehouseWriter, Folder]:
    folder = Folder()
    monkeypatch.setattr(redshift, "parse_folder", lambda *_, **__: folder)
    return (*recorded(monkeypatch, redshift, "redshift", *names, **STAGING, **extra), folder)


def test_redshift_creates(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, writer, _ = redshift_recorded(monkeypatch)
    monkeypatch.setattr(recorder, "description", ("a column",))
    fetchall = recorder.fetchall
    is_asked = "select current_schema()"
    monkeypatch.setattr(
        recorder, "fetchall", lambda: [("public",)] if recorder.statements[-1] == is_asked else fetchall()
    )

    writer.ensure_tables()

    created = [one for one in recorder.statements if one.startswith("create")]
    assert created[0].startswith(
        'create table if not exists "plaud_transcripts" ("transcription_id" varchar(255) not null, "audio_uri" '
        'varchar(65535), "region" varchar(65535) not null, "language" varchar(65535), "duration_seconds" double precision, '
    )
    assert ' "landed_at" timestamptz not null,' in created[0]
    assert ' "raw" super not null' in created[0]
    assert created[0].endswith(
        ', primary key ("transcription_id")) diststyle key distkey ("transcription_id") sortkey ("landed_at")'
    )
    assert created[1] == (
        'create table if not exists "plaud_segments" ("transcription_id" varchar(255) not null, "segment_index" bigint '
        'not null, "start_seconds" double precision, "end_seconds" double precision, "speaker" varchar(65535), "text" '
        'varchar(65535) not null, "language" varchar(65535), primary key ("transcription_id", "segment_index")) diststyle key distkey '
        '("transcription_id") sortkey ("transcription_id", "segment_index")'
    )
    [view] = [one for one in recorder.statements if one.startswith("create view")]
    assert view.startswith('create view "plaud_speakers" as SELECT "spoken"."transcription_id", ')
    assert 'FROM "public"."plaud_segments" AS "segments")' in view
    assert view.endswith('AS "spoken" with no schema binding')
    comments = [one for one in recorder.statements if one.startswith("comment")]
    assert comments[0].startswith(
        'comment on table "plaud_transcripts" is \'One row per transcription. Created by airflow-provider-plaud '
    )
    assert comments[1] == 'comment on column "plaud_transcripts"."transcription_id" is \'Id that Plaud gave\''


@pytest.mark.parametrize("kind", ["VIEW", "EXTERNAL TABLE"])
def test_redshift_what_is_no_table_is_refused_before_anything_is_paid(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    recorder, writer, _ = redshift_recorded(monkeypatch)
    monkeypatch.setattr(recorder, "description", ("a column",))
    monkeypatch.setattr(
        recorder, "fetchall", lambda: [(kind,)] if "svv_tables" in recorder.statements[-1] else []
    )

    with pytest.raises(PlaudTableMismatchError, match=rf"'plaud_transcripts'.* is a {kind.lower()}, a table"):
        writer.ensure_tables()

    assert not [one for one in recorder.statements if one.startswith(("create", "comment"))]


def test_redshift_lands(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, writer, folder = redshift_recorded(monkeypatch, plaud_iam_role="arn:aws:iam::1:role/loads")
    tables = plaud_tables()
    names = ", ".join(f'"{column.name}"' for column in tables.transcripts.columns)

    assert writer.replace([landing("txn_1", text="a\0b", raw='{"text": "a\\u0000b"}')]).nuls_replaced == 2

    assert recorder.statements[0].startswith(
        'create temporary table "plaud_staged_transcripts_1f" ("transcription_id" varchar(255), "audio_uri" '
    )
    assert '"raw" super' in recorder.statements[0]
    assert "\n".join(recorder.statements[1:]) == dedent(
        f"""\
        copy "plaud_staged_transcripts_1f" from 's3://bucket/staging/plaud-1f-transcripts.json.gz' iam_role 'arn:aws:iam::1:role/loads' format as json 'auto ignorecase' gzip timeformat 'auto' compupdate off statupdate off
        create temporary table "plaud_staged_segments_1f" ("transcription_id" varchar(255), "segment_index" bigint, "start_seconds" double precision, "end_seconds" double precision, "speaker" varchar(65535), "text" varchar(65535), "language" varchar(65535))
        copy "plaud_staged_segments_1f" from 's3://bucket/staging/plaud-1f-segments.json.gz' iam_role 'arn:aws:iam::1:role/loads' format as json 'auto ignorecase' gzip timeformat 'auto' compupdate off statupdate off
        begin
        lock table "plaud_transcripts", "plaud_segments"
        delete from "plaud_segments" where "transcription_id" in (select "transcription_id" from "plaud_staged_transcripts_1f")
        delete from "plaud_transcripts" where "transcription_id" in (select "transcription_id" from "plaud_staged_transcripts_1f")
        insert into "plaud_transcripts" ({names}) select {names} from "plaud_staged_transcripts_1f"
        insert into "plaud_segments" ("transcription_id", "segment_index", "start_seconds", "end_seconds", "speaker", "text", "language") select "transcription_id", "segment_index", "start_seconds", "end_seconds", "speaker", "text", "language" from "plaud_staged_segments_1f"
        commit
        -- the session ends"""
    )
    (row,) = folder.lines["plaud-1f-transcripts.json.gz"]
    assert (row["text"], row["raw"], row["landed_at"]) == (
        "a\ufffdb",
        {"text": "a\ufffdb"},
        "2026-03-29T01:30:00.123456+00:00",
    )
    assert "error" not in row
    assert sorted(folder.removed) == sorted(folder.lines)
    assert "plaud_staging" not in recorder.conn.extra  # type: ignore[attr-defined]


def test_redshift_text_that_is_too_long_is_refused_by_its_id_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder, writer, folder = redshift_recorded(monkeypatch)

    with pytest.raises(PlaudInputError, match=r"'text'.*65535 bytes.*txn_2.*plaud_long_texts") as told:
        writer.replace([landing("txn_1", text="short"), landing("txn_2", text="\u8a9e" * 21_846)])

    assert (recorder.statements, folder.lines) == ([], {})
    assert "\u8a9e" not in str(told.value)


def test_redshift_text_that_is_too_long_is_cut_and_says_so_if_that_is_chosen(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer, folder = redshift_recorded(monkeypatch, plaud_long_texts="cut")
    long = "\u8a9e" * 21_846
    raw = {"text": long, "segments": [{"text": "short", "words": ["\u8a9e" * 21_845] * 2}]}

    writer.replace(
        [landing("txn_2", text=long, raw=json.dumps(raw)), landing("txn_3", text="\u8a9e" * 21_845)]
    )

    cut, whole = folder.lines["plaud-1f-transcripts.json.gz"]
    assert cut["raw"] == raw | {"text": cut["text"]}
    assert cut["text"] == "\u8a9e" * 21_843 + " [cut]"
    assert whole["text"] == "\u8a9e" * 21_845
    assert "Cut 1 values of column text: txn_2" in caplog.text
    assert "Cut 1 values of column raw: txn_2" in caplog.text


def test_redshift_that_names_no_staging_folder_is_refused_with_how_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(PlaudConfigurationError, match=r"plaud_staging names the folder on S3"):
        recorded(monkeypatch, redshift, "redshift")


DATABRICKS = {"plaud_volume": "/Volumes/main/calls/staging/"}


def databricks_recorded(
    monkeypatch: pytest.MonkeyPatch, *names: Any, **extra: Any
) -> tuple[Recorder, WarehouseWriter]:
    told = {"conn_type": "databricks", "extra": DATABRICKS | extra}
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", json.dumps(told))
    recorder = Recorder()
    monkeypatch.setattr(databricks, "_hook_of", lambda *_: recorder)
    monkeypatch.setattr(databricks, "token", lambda: "1f")
    return recorder, WarehouseWriter(choose_loader(CONN_ID, plaud_tables(*names)))


def test_databricks_creates(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, writer = databricks_recorded(monkeypatch)

    writer.ensure_tables()

    created = [one for one in recorder.statements if one.startswith("create")]
    assert created[0].startswith(
        "create table if not exists `plaud_transcripts` (`transcription_id` string not null comment 'Id that Plaud gave', "
        "`audio_uri` string comment "
    )
    assert "`segment_count` bigint not null comment " in created[0]
    assert "`landed_at` timestamp not null comment " in created[0]
    assert (
        ") using delta cluster by (`transcription_id`, `landed_at`) comment 'One row per transcription. Created by "
        "airflow-provider-plaud " in created[0]
    )
    assert created[0].count("Created by") == 1
    assert "`landed_at` timestamp not null comment 'landed_at of its transcript') using delta" in created[1]
    assert created[2] == (
        "create or replace view `plaud_segments_current` comment 'Segments of the transcripts that are there' as "
        "select s.* from `plaud_segments` s join `plaud_transcripts` t on t.`transcription_id` = s.`transcription_id` "
        "and t.`landed_at` = s.`landed_at`"
    )
    assert created[3].startswith("create view `plaud_speakers` as SELECT `spoken`.`transcription_id`, ")
    assert "FROM `plaud_segments_current` AS `segments`" in created[3]


class Answering(Recorder):
    """One that tells when the ids were landed last."""

    description = ()  # type: ignore[assignment]

    def __init__(self, last: str | None) -> None:
        super().__init__()
        self.last = last

    def execute(self, statement: str, values: Any = None) -> Recorder:
        self.description = ("a column",) if statement.startswith("select") else ()  # type: ignore[assignment]
        return super().execute(statement, values)

    def fetchall(self) -> list[Any]:
        return [(self.last,)]


class Reflecting(Recorder):
    """One that has the view of segments, with some of its columns."""

    description = ()  # type: ignore[assignment]

    def __init__(self, columns: Sequence[str]) -> None:
        super().__init__()
        self.columns = columns

    def execute(self, statement: str, values: Any = None) -> Recorder:
        self.description = ("a column",) if statement.startswith("select column_name from") else ()  # type: ignore[assignment]
        return super().execute(statement, values)

    def fetchall(self) -> list[Any]:
        return [(name,) for name in self.columns]


@pytest.mark.parametrize(("lacks", "is_made"), [(None, False), ("language", True)])
def test_databricks_makes_its_view_anew_once_the_table_has_more_columns(
    monkeypatch: pytest.MonkeyPatch, lacks: str | None, is_made: bool
) -> None:
    _, writer = databricks_recorded(monkeypatch, "team")
    there = [column.name for column in plaud_tables().segments.columns if column.name != lacks]
    recorder = Reflecting([*there, "landed_at"])
    writer.loader._hook = recorder  # type: ignore[attr-defined]
    monkeypatch.setattr(writer.loader, "_there", lambda table: None)

    writer.ensure_tables()

    views = [one for one in recorder.statements if "view `team`.`plaud_segments_current`" in one]
    assert [one.partition(" view ")[0] for one in views] == ["create or replace"] * is_made


@pytest.mark.parametrize("last", [None, "2031-01-01 00:00:00.000001"])
def test_databricks_lands_segments_first_and_removes_what_is_older(
    monkeypatch: pytest.MonkeyPatch, last: str | None
) -> None:
    _, writer = databricks_recorded(monkeypatch, "team")
    recorder = Answering(last)
    writer.loader._hook = recorder  # type: ignore[attr-defined]
    names = [f"`{column.name}`" for column in plaud_tables().transcripts.columns]

    assert writer.replace([landing("it's"), landing("txn_2")]) == (2, 4, 0)

    ids = "'it\\'s', 'txn_2'"
    shown = recorder.statements
    folder = shown[1].split("'")[1].rpartition("/")[0]
    swept = (
        [
            # The clock of whoever landed before was ahead.
            (
                f"delete from `team`.`plaud_segments` where `transcription_id` in ({ids}) and `landed_at` < "
                "timestamp'2031-01-01 00:00:00.000002+00:00'"
            )
        ]
        if last
        else []
    )
    assert [one.replace(folder, "FOLDER") for one in shown] == [
        (
            "select date_format(max(`landed_at`), 'yyyy-MM-dd HH:mm:ss.SSSSSS') from (select `landed_at` from "
            f"`team`.`plaud_transcripts` where `transcription_id` in ({ids}) union all select `landed_at` from "
            f"`team`.`plaud_segments` where `transcription_id` in ({ids}))"
        ),
        "put 'FOLDER/transcripts.parquet' into '/Volumes/main/calls/staging/plaud-1f-transcripts.parquet' overwrite",
        "put 'FOLDER/segments.parquet' into '/Volumes/main/calls/staging/plaud-1f-segments.parquet' overwrite",
        (
            "insert into `team`.`plaud_segments` (`transcription_id`, `segment_index`, `start_seconds`, `end_seconds`, "
            "`speaker`, `text`, `language`, `landed_at`) select `transcription_id`, `segment_index`, `start_seconds`, "
            "`end_seconds`, `speaker`, `text`, `language`, `landed_at` from "
            "parquet.`/Volumes/main/calls/staging/plaud-1f-segments.parquet`"
        ),
        (
            f"merge into `team`.`plaud_transcripts` t using (select {', '.join(names)} from "
            "parquet.`/Volumes/main/calls/staging/plaud-1f-transcripts.parquet`) s on t.`transcription_id` = "
            "s.`transcription_id` when matched and s.`landed_at` >= t.`landed_at` then update set "
            f"{', '.join(f't.{name} = s.{name}' for name in names)} when not matched then insert ({', '.join(names)}) "
            f"values ({', '.join(f's.{name}' for name in names)})"
        ),
        "remove '/Volumes/main/calls/staging/plaud-1f-transcripts.parquet'",
        "remove '/Volumes/main/calls/staging/plaud-1f-segments.parquet'",
        *swept,
        "-- the session ends",
    ]


@pytest.mark.parametrize("volume", ["", "dbfs:/tmp", "/Volumes/main/calls", "/Volumes/a/b/c'd"])
def test_databricks_that_names_no_volume_is_refused_with_how_to(
    monkeypatch: pytest.MonkeyPatch, volume: str
) -> None:
    with pytest.raises(PlaudConfigurationError, match=r"plaud_volume names the volume"):
        databricks_recorded(monkeypatch, plaud_volume=volume)
