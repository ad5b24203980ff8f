"""Which transcripts a run or a task instance has to do with, by what Airflow knows of its tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa
from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.utils.session import create_session

from plaud_provider.api.arguments import LAKE_ARGUMENTS, optional
from plaud_provider.database.database import Database, open_database
from plaud_provider.exceptions import PlaudError
from plaud_provider.ledger.overview import Overview
from plaud_provider.views.settings import Place, configured_place
from plaud_provider.views.work import SECONDS
from plaud_provider.warehouse.lake import checked_lake
from plaud_provider.warehouse.transcripts import TranscriptReader

#: Task instances of a run whose arguments are looked at; those of a mapped task are alike.
_LOOKED_AT = 200
#: Transcripts that a page lists.
MOST = 500


class TaskKey(NamedTuple):
    """
    A run, or a task instance of it.

    :param dag_id: Its dag.
    :param run_id: Its run.
    :param task_id: Its task; ``None`` for the run.
    :param map_index: Its map index; -1 if it is not mapped, or for the run.
    """

    dag_id: str
    run_id: str
    task_id: str | None = None
    map_index: int = -1


class Run:
    """
    What Airflow has noted of a run's tasks: their arguments as they were rendered.

    Airflow keeps these for the last runs of a DAG (``[core] max_num_rendered_ti_fields_per_task``); of older
    ones the configuration says where to look, and the ledger what for.

    :param key: The run, or a task instance of it.
    """

    def __init__(self, key: TaskKey) -> None:
        self.key = key
        self._own: Mapping[str, Any] = {}
        self._all: list[Mapping[str, Any]] = []
        table = RenderedTaskInstanceFields
        of_run = sa.select(table.task_id, table.map_index, table.rendered_fields).where(
            table.dag_id == key.dag_id, table.run_id == key.run_id
        )
        with create_session() as session:
            if key.task_id is not None:
                own = of_run.where(table.task_id == key.task_id, table.map_index == key.map_index)
                self._own = next((fields for *_, fields in session.execute(own)), {})
            some = of_run.where(table.map_index.in_({-1, 0, key.map_index})).limit(_LOOKED_AT)
            self._all = [fields for *_, fields in session.execute(some)]

    @property
    def place(self) -> Place:
        """Where its transcripts are: as its tasks say, else as the configuration does."""
        default = configured_place()
        plaud_conn_id = self._first("plaud_conn_id") or default.plaud_conn_id
        ledger_conn_id = self._first("ledger_conn_id")
        for fields in (self._own, *self._all):
            conn_id, lake = _text(fields, "sql_conn_id"), None
            if conn_id is None:
                lake = checked_lake(*(_text(fields, name) for name in LAKE_ARGUMENTS))
            if conn_id is not None or lake is not None:
                return Place(
                    conn_id,
                    _text(fields, "schema"),
                    _text(fields, "transcripts_table") or default.transcripts_table,
                    _text(fields, "ledger_conn_id") or ledger_conn_id or conn_id or default.ledger_conn_id,
                    plaud_conn_id,
                    lake,
                )
        return default._replace(
            ledger_conn_id=ledger_conn_id or default.ledger_conn_id, plaud_conn_id=plaud_conn_id
        )

    def _first(self, name: str) -> str | None:
        return next(filter(None, (_text(fields, name) for fields in self._all)), None)

    def transcription_ids(self, reader: TranscriptReader) -> list[str]:
        """
        Return the ids that it has to do with, the first :data:`MOST`.

        :param reader: Of its warehouse.
        """
        if own := _ids([self._own]):
            return own[:MOST]
        is_of_chunk = self.key.task_id is not None and bool(
            self._own.get("manifest") or self._own.get("audio_url")
        )
        ids = self._submitted(self.key.map_index if is_of_chunk else None)
        return (ids or _ids(self._all) or reader.landed_by(self.key.dag_id, self.key.run_id, MOST))[:MOST]

    def _submitted(self, map_index: int | None) -> list[str]:
        """Return the ids that the run has submitted, by the ledger; none if there is no ledger."""
        try:
            overview = Overview(open_ledger_database(self.place.ledger_conn_id))
            return overview.submitted_by(self.key.dag_id, self.key.run_id, map_index=map_index, most=MOST)
        except PlaudError:
            return []


def open_reader(place: Place) -> TranscriptReader:
    """Return what reads the transcripts of a place, and waits no longer than a page does."""
    return TranscriptReader(
        place.sql_conn_id, place.schema, place.transcripts_table, lake=place.lake, wait_seconds=SECONDS
    )


def open_ledger_database(ledger_conn_id: str) -> Database:
    """Return the database of a ledger, which waits no longer than a page does. Nothing is opened."""
    return open_database(ledger_conn_id, role="ledger", parameter="ledger_conn_id").wait_at_most(SECONDS)


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return optional(value) if isinstance(value, str) else None


def _ids(some: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the ids among the arguments of tasks, each once."""
    found: list[Any] = []
    for fields in some:
        value = fields.get("transcription_id")
        found += value if isinstance(value, list) else [value]
    # What is none is a list that Airflow has cut or written as text.
    return [*dict.fromkeys(one for one in found if isinstance(one, str) and not set(one) & set(" [("))]
