"""
Tables of other people: such as would change, lose or refuse rows, and such as only look as if they would.

What is done to the tables is done after the package has made them, by statements, or by Python where a kind
of warehouse has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tests.warehouses.lakes import IcebergLake, Lake, OpenLake, SqlLake

Change = str | Callable[[Any], object]


class Unfit(NamedTuple):
    """
    A table that no transcription may be paid for.

    :param complaint: What the refusal says.
    :param changes: What makes it so.
    """

    complaint: str
    changes: Sequence[Change]


def change(lake: Lake, changes: Sequence[Change]) -> None:
    """Do to the tables of a warehouse what their owner may."""
    lake.writer()
    for one in changes:
        if callable(one):
            one(lake)
        elif isinstance(lake, SqlLake):
            lake.warehouse.run(one)
        else:
            lake.client.command(one)  # type: ignore[attr-defined]


def _postgres_trigger(body: str) -> list[Change]:
    return [
        f"create function theirs() returns trigger language plpgsql as $$ begin {body} end $$",
        "create trigger theirs before insert on plaud_segments for each row execute function theirs()",
    ]


def _again(table: str, declared: str, options: str = "") -> list[Change]:
    """Return what makes a table anew with some columns declared otherwise."""

    def make(lake: Any) -> None:
        words = dict(one.strip().split(" ", 1) for one in declared.split(";"))
        columns = lake.warehouse.columns(table).split(", ")
        own = [f"{one.split()[0]} {words.get(one.split()[0], one.split(' ', 1)[1])}" for one in columns]
        lake.warehouse.run(
            "drop view if exists plaud_speakers",
            f"drop table {table}",
            f"create table {table} ({', '.join(own)}) {options}",
        )

    return [make]


def _clickhouse(table: str, options: str, **kinds: str | None) -> list[Change]:
    """Return what makes a table anew with some columns of other kinds, and other options."""

    def make(lake: Any) -> None:
        query = f"select name, type from system.columns where table = '{table}'"
        columns = {**dict(lake.client.query(query).result_rows), **kinds}
        declared = ", ".join(f"{name} {kind}" for name, kind in columns.items() if kind)
        for view in ("plaud_speakers", f"{table}_current", table):
            lake.client.command(f"drop table {view}")
        lake.client.command(f"create table {table} ({declared}) {options}")

    return [make]


def _iceberg(table: str, work: Callable[[Any], object]) -> list[Change]:
    def make(lake: IcebergLake) -> None:
        work(lake.loader()._catalog.load_table(("plaud", table)))

    return [make]


def _set(**properties: str) -> Callable[[Any], None]:
    def work(table: Any) -> None:
        with table.transaction() as transaction:
            transaction.set_properties({name.replace("__", "."): value for name, value in properties.items()})

    return work


def _partition(field: str, transform: str) -> Callable[[Any], None]:
    def work(table: Any) -> None:
        from pyiceberg import transforms

        kinds = {
            "void": transforms.VoidTransform(),
            "bucket": transforms.BucketTransform(4),
            "hour": transforms.HourTransform(),
            "identity": transforms.IdentityTransform(),
        }
        with table.update_spec() as update:
            update.add_field(field, kinds[transform], f"{field}_{transform}")

    return work


def _renamed(table: Any) -> None:
    with table.update_schema() as update:
        update.rename_column("language", "Language")


def _delta(table: str, **options: Any) -> list[Change]:
    """Return what makes a table anew, empty, with other options."""

    def make(lake: Any) -> None:
        import pyarrow as pa
        from deltalake import DeltaTable

        there = lake._table(table)
        schema = pa.schema(there.schema().to_arrow())
        renamed = options.get("rename", {})
        schema = (
            schema.empty_table().rename_columns([renamed.get(name, name) for name in schema.names]).schema
        )
        DeltaTable.create(
            there.table_uri,
            schema,
            mode="overwrite",
            partition_by=options.get("partition_by"),
            configuration=options.get("configuration"),
        )

    return [make]


def _delta_check(table: str, condition: str) -> list[Change]:
    return [lambda lake: lake._table(table).alter.add_constraint({"theirs": condition})]


def _parquet_renamed(lake: OpenLake) -> None:
    import pyarrow.parquet as pq

    for path in lake._files("plaud_transcripts"):  # type: ignore[attr-defined]
        with path.open("rb") as file:
            rows = pq.read_table(file)
        names = ["Language" if name == "language" else name for name in rows.schema.names]
        with path.open("wb") as file:
            pq.write_table(rows.rename_columns(names), file)


_OTHER_TEXT = r"'plaud_segments'.*column 'text' has another value"
_LOST = r"'plaud_segments'.*of 8 rows .* 0 are there"
_ONE_ID = r"of 2 rows .* 1 are there"
_NOT_TAKEN = r"do not take every transcription"

UNFIT: dict[str, dict[str, Unfit]] = {
    "postgres": {
        "trigger-changes": Unfit(_OTHER_TEXT, _postgres_trigger("new.text := upper(new.text); return new;")),
        "trigger-drops": Unfit(_LOST, _postgres_trigger("return null;")),
        "trigger-keeps-what-was-there": Unfit(
            r"'plaud_transcripts'.*column 'text'.* has another value",
            [
                "create function theirs() returns trigger language plpgsql as $$ begin return old; end $$",
                (
                    "create trigger theirs before update on plaud_transcripts "
                    "for each row execute function theirs()"
                ),
            ],
        ),
        "trigger-raises": Unfit("not this one", _postgres_trigger("raise exception 'not this one';")),
        "trigger-raises-late": Unfit(
            "not this one",
            [
                _postgres_trigger("raise exception 'not this one';")[0],
                (
                    "create constraint trigger theirs after insert on plaud_segments "
                    "initially deferred for each row execute function theirs()"
                ),
            ],
        ),
        "rule-keeps": Unfit(
            _NOT_TAKEN, ["create rule theirs as on delete to plaud_segments do instead nothing"]
        ),
        "milliseconds": Unfit(
            "column 'completed_at' has another value",
            ["alter table plaud_transcripts alter completed_at type timestamptz(3)"],
        ),
        "63-bytes": Unfit(
            "column 'speaker' has another value", ["alter table plaud_segments alter speaker type name"]
        ),
        "xml": Unfit(
            'column "text" is of type xml', ["alter table plaud_segments alter text type xml using text::xml"]
        ),
        "other-key": Unfit("theirs", ["create unique index theirs on plaud_transcripts (language)"]),
        "index-of-texts": Unfit("index row", ["create index theirs on plaud_segments (text)"]),
        "no-partition": Unfit(
            "no partition", _again("plaud_segments", "language text", "partition by list (speaker)")
        ),
        "publication": Unfit(
            "replica identity",
            [
                "alter table plaud_segments drop constraint plaud_segments_pkey",
                "create publication theirs for all tables",
            ],
        ),
    },
    "mysql": {
        "trigger-changes": Unfit(
            _OTHER_TEXT,
            [
                (
                    "create trigger theirs before insert on plaud_segments for each row "
                    "set new.text = upper(new.text)"
                )
            ],
        ),
        "trigger-keeps-what-was-there": Unfit(
            "'plaud_transcripts'.*column 'text' has another value",
            [
                (
                    "create trigger theirs before update on plaud_transcripts for each row "
                    "set new.text = old.text"
                )
            ],
        ),
        "other-key": Unfit(_ONE_ID, ["alter table plaud_transcripts add unique theirs (language(10))"]),
        "32-bits": Unfit(
            "column 'duration_seconds' has another value",
            ["alter table plaud_transcripts modify duration_seconds float"],
        ),
        "after-1970": Unfit(
            "recording_started_at",
            ["alter table plaud_transcripts modify recording_started_at timestamp(6) null"],
        ),
        "address": Unfit("dag_id", ["alter table plaud_transcripts modify dag_id inet6"]),
    },
    "sqlite": {
        "trigger-changes": Unfit(
            _OTHER_TEXT,
            [
                (
                    "create trigger theirs after insert on plaud_segments begin "
                    "update plaud_segments set text = upper(text) where rowid = new.rowid; end"
                )
            ],
        ),
        "trigger-drops": Unfit(
            _LOST,
            ["create trigger theirs before insert on plaud_segments begin select raise(ignore); end"],
        ),
        "trigger-keeps-what-was-there": Unfit(
            "'plaud_transcripts'.*column 'raw' has another value",
            [
                (
                    "create trigger theirs after update on plaud_transcripts begin update plaud_transcripts "
                    "set raw = old.raw where rowid = new.rowid; end"
                )
            ],
        ),
        "replaces-others": Unfit(
            _ONE_ID, _again("plaud_transcripts", "language text unique on conflict replace")
        ),
        "other-key": Unfit(
            "plaud_transcripts.language", ["create unique index theirs on plaud_transcripts (language)"]
        ),
    },
    "duckdb": {
        "other-key": Unfit(_NOT_TAKEN, ["create unique index theirs on plaud_transcripts (language)"]),
        "json": Unfit("column text", _again("plaud_segments", "text json")),
    },
    "clickhouse": {
        "computed": Unfit(
            "column 'language' is MATERIALIZED",
            ["alter table plaud_transcripts modify column language Nullable(String) materialized 'en'"],
        ),
        "adds-up": Unfit(
            "its engine is SummingMergeTree",
            _clickhouse("plaud_segments", "engine = SummingMergeTree order by transcription_id"),
        ),
        "one-of-many": Unfit(
            r"lacks landed_at, segment_index",
            _clickhouse("plaud_segments", "engine = ReplacingMergeTree order by transcription_id"),
        ),
        "last-by-another": Unfit(
            "whose version is not landed_at",
            _clickhouse(
                "plaud_transcripts", "engine = ReplacingMergeTree(segment_count) order by transcription_id"
            ),
        ),
        "check": Unfit(
            r"its constraints \(theirs\)",
            ["alter table plaud_segments add constraint theirs check length(text) < 9"],
        ),
        "materialized-view-fails": Unfit(
            r"materialized view default\.theirs.*fails at a made-up row \(CANNOT_PARSE_TEXT\)",
            [
                (
                    "create materialized view theirs engine = MergeTree order by number as "
                    "select toUInt8(text) as number from plaud_segments"
                )
            ],
        ),
        "materialized-view-into-other-types": Unfit(
            r"materialized view default\.theirs.*fails at a made-up row",
            [
                "create table numbers (speaker UInt8) engine = MergeTree order by speaker",
                (
                    "create materialized view theirs to numbers as "
                    "select concat('Speaker ', ifNull(speaker, '?')) as speaker from plaud_segments"
                ),
            ],
        ),
        "view-of-others": Unfit(
            "'plaud_transcripts_current'.*of other people",
            [
                "drop view plaud_transcripts_current",
                "create table plaud_transcripts_current (x Int8) engine = MergeTree order by x",
            ],
        ),
    },
    "iceberg": {
        "orc": Unfit("write.format.default", _iceberg("plaud_segments", _set(write__format__default="orc"))),
        "snapshot-isolation": Unfit(
            "write.delete.isolation-level is 'snapshot'",
            _iceberg("plaud_transcripts", _set(**{"write.delete.isolation-level": "snapshot"})),
        ),
        "two-partitions": Unfit(
            "column 'landed_at' has more than one partition",
            _iceberg("plaud_transcripts", _partition("landed_at", "hour")),
        ),
        "partition-of-texts": Unfit(
            "column 'text' is a partition", _iceberg("plaud_segments", _partition("text", "identity"))
        ),
        "void": Unfit("transform void", _iceberg("plaud_transcripts", _partition("region", "void"))),
        "other-case": Unfit("column 'Language' is not 'language'", _iceberg("plaud_transcripts", _renamed)),
    },
    "delta": {
        "append-only": Unfit(
            "delta.appendOnly", _delta("plaud_segments", configuration={"delta.appendOnly": "true"})
        ),
        "column-mapping": Unfit(
            "delta.columnMapping.mode",
            _delta(
                "plaud_transcripts",
                configuration={
                    "delta.columnMapping.mode": "name",
                    "delta.minReaderVersion": "2",
                    "delta.minWriterVersion": "5",
                },
            ),
        ),
        "deletion-vectors": Unfit(
            "delta-rs cannot read it",
            _delta("plaud_segments", configuration={"delta.enableDeletionVectors": "true"}),
        ),
        "check": Unfit(r"its constraints \(theirs\)", _delta_check("plaud_segments", "segment_index > 7")),
        "partition-of-speakers": Unfit(
            "column 'speaker' is a partition", _delta("plaud_segments", partition_by=["speaker"])
        ),
        "other-case": Unfit(
            "column 'Language' is not 'language'",
            _delta("plaud_transcripts", rename={"language": "Language"}),
        ),
    },
    "parquet": {"other-case": Unfit("column 'Language' is not 'language'", [_parquet_renamed])},
}

#: Where ids that differ in upper and lower case are one, or may not both be there.
ONE_CASE: dict[str, dict[str, Sequence[Change]]] = {
    "postgres": {"key": ["create unique index theirs on plaud_transcripts (lower(transcription_id))"]},
    "mysql": {
        "segments": [
            (
                "alter table plaud_segments "
                "modify transcription_id varchar(255) collate utf8mb4_general_ci not null"
            )
        ],
        "without-key": [
            (
                "alter table plaud_transcripts drop primary key, "
                "modify transcription_id varchar(255) collate utf8mb4_general_ci not null"
            )
        ],
    },
    "sqlite": {"transcripts": _again("plaud_transcripts", "transcription_id text collate nocase")},
    "duckdb": {"transcripts": _again("plaud_transcripts", "transcription_id varchar collate nocase")},
}

FITTING: dict[str, dict[str, Sequence[Change]]] = {
    "postgres": {
        "computed-beside": [
            (
                "alter table plaud_transcripts add day date generated always as "
                "((landed_at at time zone 'utc')::date) stored, "
                "add number bigint generated always as identity, add source text not null default 'plaud'"
            )
        ],
        "partitions": [
            *_again("plaud_segments", "language text", "partition by hash (transcription_id)"),
            "create table a_part partition of plaud_segments for values with (modulus 2, remainder 0)",
            "create table b_part partition of plaud_segments for values with (modulus 2, remainder 1)",
        ],
        "foreign-keys": [
            "alter table plaud_segments add foreign key (transcription_id) references plaud_transcripts",
            "create table reviews (id varchar references plaud_transcripts)",
        ],
        "audited": [
            "create table audit (id text)",
            (
                "create rule theirs as on insert to plaud_transcripts do also "
                "insert into audit values (new.transcription_id)"
            ),
        ],
        "kept-for-a-region": ["alter table plaud_transcripts add check (region in ('us', 'ca'))"],
        "watched": [
            "alter table plaud_transcripts enable row level security, force row level security",
            "create policy theirs on plaud_transcripts using (true)",
        ],
    },
    "mysql": {
        "computed-beside": [
            (
                "alter table plaud_transcripts add day date as (date(landed_at)) stored, "
                "add seen timestamp default current_timestamp on update current_timestamp"
            )
        ],
        "invisible-beside": [
            (
                "alter table plaud_transcripts add source varchar(9) not null invisible default 'plaud', "
                "add seen datetime not null invisible default current_timestamp, add note text invisible"
            )
        ],
        "partitions": ["alter table plaud_segments partition by key (transcription_id) partitions 3"],
        "foreign-keys": [
            (
                "alter table plaud_segments add foreign key (transcription_id) "
                "references plaud_transcripts (transcription_id) on delete cascade"
            )
        ],
        "kept-for-a-region": ["alter table plaud_transcripts add check (region in ('us', 'ca'))"],
    },
    "sqlite": {
        "computed-beside": ["alter table plaud_transcripts add day text as (date(landed_at)) virtual"],
        "foreign-keys": ["create table reviews (id text references plaud_transcripts (transcription_id))"],
    },
    "duckdb": {
        "computed-beside": ["alter table plaud_transcripts add column source text default 'plaud'"],
        "json": _again("plaud_transcripts", "raw json not null"),
    },
    "clickhouse": {
        "computed-beside": [
            (
                "alter table plaud_transcripts add column day Date materialized toDate(landed_at), "
                "add column place String alias upper(region), add column source String default 'plaud'"
            )
        ],
        "partitions": _clickhouse(
            "plaud_segments",
            "engine = MergeTree partition by transcription_id order by tuple() "
            "settings allow_nullable_key = 1",
        ),
        "kept-for-a-region": [
            "alter table plaud_transcripts add constraint theirs check region in ('us', 'ca')"
        ],
        "materialized-views": [
            (
                "create materialized view words engine = SummingMergeTree order by language as "
                "select ifNull(language, '') as language, count() as segments from plaud_segments "
                "group by language"
            ),
            "create table of_regions (region String, day Date) engine = MergeTree order by region",
            (
                "create materialized view theirs to of_regions as "
                "select region, toDate(landed_at) as day from plaud_transcripts"
            ),
        ],
        "projections": ["alter table plaud_segments add projection theirs (select * order by text)"],
        "replacing": _clickhouse(
            "plaud_segments",
            "engine = ReplacingMergeTree(landed_at) order by (transcription_id, segment_index, landed_at)",
        ),
    },
    "iceberg": {
        "partitions": _iceberg("plaud_segments", _partition("transcription_id", "bucket")),
        "partition-of-speakers": _iceberg("plaud_segments", _partition("speaker", "identity")),
    },
    "delta": {
        "partitions": _delta("plaud_transcripts", partition_by=["region", "recording_date"]),
        "partitions-of-ids": _delta("plaud_segments", partition_by=["transcription_id"]),
        "kept-for-a-region": _delta_check("plaud_transcripts", "region in ('us', 'ca')"),
        "change-feed": _delta("plaud_segments", configuration={"delta.enableChangeDataFeed": "true"}),
    },
    "parquet": {},
}
