"""
What a transcription can have, landed in tables that are there and taken back, before anything is paid for.

What a catalog tells of a table is not all: triggers, rules, policies, keys, collations and types of which
SQLAlchemy knows nothing have their say when rows come.
"""

from __future__ import annotations

import json
import logging
import random
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from plaud_provider.api.models import Segment, Status, Transcription
from plaud_provider.api.regions import Region
from plaud_provider.database.rows import columns_of, rows_of
from plaud_provider.database.types import JsonText
from plaud_provider.exceptions import PlaudTableMismatchError
from plaud_provider.recordings.description import Description
from plaud_provider.warehouse.rows import Landing, segment_columns

if TYPE_CHECKING:
    from plaud_provider.database.rows import Columns, Row
    from plaud_provider.warehouse.tables import PlaudTables

log = logging.getLogger(__name__)

#: Of several scripts, with what SQL, formats and time zones mean something else by.
_SHORT = 8 * "Plaud was here: \u00e9 e\u0301, \u65e5\u672c\u8a9e, \U0001f600 '\"`\\ %s :x $1 \t "
_BEFORE_1970 = datetime(1969, 7, 20, 20, 17, 40, 123457, tzinfo=UTC)
_AFTER_2038 = datetime(2040, 2, 29, 23, 59, 59, 999999, tzinfo=UTC)
_FIELDS = json.dumps({"said": _SHORT, "of": [None, True, 0.5]}, ensure_ascii=False)


@cache
def _long() -> str:
    """Return a text that fits neither into a key of an index, even compressed, nor into a bounded type."""
    return "".join(map(chr, random.Random(0).choices(range(0x4E00, 0x9FA5), k=24_000)))


def trial_landings(tables: PlaudTables, region: str, endings: str, *, is_plain: bool) -> list[Landing]:
    """
    Return two landings.

    :param tables: Tables that they are for.
    :param region: Their region.
    :param endings: A letter for the end of each one's id.
    :param is_plain: Whether they have nothing but what every transcription has; else they have all that one
        can have.
    """
    stem = f"plaud-trial-{secrets.token_hex(8)}"
    make = _plain if is_plain else _full
    return [make(f"{stem}-{letter}", number, tables, region) for number, letter in enumerate(endings)]


def earlier(landing: Landing) -> Landing:
    """Return what may have been landed before under the same id, with as much of it told, and shorter."""
    answer = landing.transcription
    said = "Plaud was here earlier."
    other = replace(
        answer,
        text=answer.text and said,
        segments=tuple(replace(segment, text=said) for segment in answer.segments[:1]),
        raw=json.dumps({"text": said}),
    )
    return landing._replace(transcription=other, landed_at=landing.landed_at - timedelta(days=1))


def try_out(attempt: Callable[[Region, bool], PlaudTableMismatchError | None]) -> None:
    """
    Try made-up transcriptions out until tables take some of them.

    Tables may be kept for one region, and refuse the others; or refuse what only some transcriptions have,
    of which a warning tells.

    :param attempt: Lands some of a region, plain ones or not (see :func:`trial_landings`); returns why they
        were refused, if others may pass.
    :raises PlaudTableMismatchError: if the tables take none.
    """
    refused = None
    for is_plain in (False, True):
        for region in Region:
            found = attempt(region, is_plain)
            if found is None:
                if is_plain and refused is not None:
                    log.warning("Some transcriptions will not land: %s", refused)
                return
            refused = found if refused is None or is_plain else refused
    if refused is not None:
        raise refused


def rows_of_trial(tables: PlaudTables, region: Region, *, is_plain: bool) -> dict[sa.Table, Columns]:
    """
    Return the rows of :func:`trial_landings`.

    :param tables: Tables that they are for.
    :param region: Their region.
    :param is_plain: See there.
    """
    landings = trial_landings(tables, region.value, "ab", is_plain=is_plain)
    transcripts = columns_of([landing.transcript_row() for landing in landings])
    return {tables.transcripts: transcripts, tables.segments: segment_columns(landings)}


def refused_by_constraints(
    table: sa.Table, parameter: str, title: str, names: Iterable[str]
) -> PlaudTableMismatchError:
    """
    Return the error of a table whose constraints refuse what is landed.

    :param table: The table.
    :param parameter: Argument that names it.
    :param title: What it is in.
    :param names: Its constraints.
    """
    return PlaudTableMismatchError(
        f"Table {table.fullname!r} of {title} does not take every transcription: of its constraints "
        f"({', '.join(names)}) one refused a made-up row. Nothing was written. Drop it, or name another "
        f"table in {parameter}."
    )


def compare(connection: sa.Connection, tables: PlaudTables, landings: Sequence[Landing], title: str) -> None:
    """
    Refuse tables that do not have the rows of landings as they were landed.

    :param connection: Where.
    :param tables: The tables.
    :param landings: What was landed.
    :param title: What the tables are in, for the message.
    :raises PlaudTableMismatchError: with the table and its columns.
    """
    landed = {
        tables.transcripts: [landing.transcript_row() for landing in landings],
        tables.segments: rows_of(segment_columns(landings)),
    }
    for table, rows in landed.items():
        ids = [landing.transcription_id for landing in landings]
        query = sa.select(table).where(table.c.transcription_id.in_(ids))
        found: list[Mapping[str, Any]] = [{**row} for row in connection.execute(query).mappings()]
        problem = _difference(table, rows, found)
        if problem:
            raise PlaudTableMismatchError(
                f"Table {table.fullname!r} of {title} does not keep what is landed: {problem}. Nothing was "
                "written. Look for triggers, rules, policies, keys and collations that this package did not "
                f"make; or name another table in {tables.parameters[table]}."
            )


def _difference(table: sa.Table, rows: Sequence[Row], found: Sequence[Mapping[str, Any]]) -> str:
    """Return what differs; nothing if nothing does."""
    names = table.primary_key.columns.keys()
    there = {tuple(row[name] for name in names): row for row in found}
    if len(found) != len(rows) or len(there) != len(rows):
        return f"of {len(rows)} rows of two made-up transcriptions {len(found)} are there"
    changed = {
        column.name: None
        for row in rows
        for own in [there.get(tuple(row[name] for name in names), {})]
        for column in table.columns
        if _value(column, own.get(column.name)) != _value(column, row.get(column.name))
    }
    return f"column {', '.join(map(repr, changed))} has another value than the one written" * bool(changed)


def _value(column: sa.Column[Any], value: Any) -> Any:
    # Some drivers give JSON back as what it says.
    return json.loads(value) if isinstance(column.type, JsonText) and isinstance(value, str) else value


def _plain(known: str, number: int, tables: PlaudTables, region: str) -> Landing:
    segment = Segment(index=0, start_seconds=None, end_seconds=None, speaker=None, text="Plaud was here.")
    answer = Transcription(
        transcription_id=known,
        status=Status.COMPLETED,
        reported_status=Status.COMPLETED.value,
        segments=(segment,),
        raw="{}",
    )
    nothing = Description(columns=dict.fromkeys(tables.metadata_columns))
    return Landing(answer, region=region, landed_at=datetime.now(tz=UTC), description=nothing)


def _full(known: str, number: int, tables: PlaudTables, region: str) -> Landing:
    moment, now = (_BEFORE_1970, _AFTER_2038)[number], datetime.now(tz=UTC)
    segments = tuple(
        Segment(index, index / 3, index + 1e-9, speaker=_SHORT, text=text, language="en")
        for index, text in enumerate((_SHORT, _SHORT, "", _long()))
    )
    answer = Transcription(
        transcription_id=known,
        status=Status.COMPLETED,
        reported_status=Status.COMPLETED.value,
        text=_long(),
        language="en",
        duration_seconds=86_400 / 7,
        segments=segments,
        completed_at=now,
        raw=json.dumps({"text": _long(), "said": _SHORT}, ensure_ascii=False),
        model=_SHORT,
    )
    description = Description(
        moment, moment.date(), _FIELDS, dict.fromkeys(tables.metadata_columns, f"{_SHORT} {number}")
    )
    return Landing(
        answer,
        region=region,
        landed_at=now,
        audio_uri=f"s3://plaud-trial/{known}",
        submitted_at=now,
        dag_id=_SHORT,
        run_id=_SHORT,
        api="embedded",
        description=description,
    )
