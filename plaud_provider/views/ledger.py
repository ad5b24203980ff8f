"""What the page of the ledger asks for, and the one thing that it changes: *mark as known*."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from airflow.models.dag import DagModel
from airflow.models.serialized_dag import SerializedDagModel
from airflow.providers.common.compat.sdk import BaseHook
from airflow.utils.session import create_session
from fastapi import APIRouter, Depends, HTTPException
from pydantic import BaseModel

from plaud_provider.api.arguments import as_transcription_id
from plaud_provider.hooks.connection import PlaudConnection
from plaud_provider.ledger.entry import Entry, State
from plaud_provider.ledger.ledger import Ledger
from plaud_provider.ledger.overview import BAD, UNDER_WAY, Choice, Overview
from plaud_provider.ledger.summary import ADVICE
from plaud_provider.quota.opening import look_at_quota
from plaud_provider.submit.summary import configured_price
from plaud_provider.views.access import Access, AccessDep, require_same_origin
from plaud_provider.views.runs import Run, TaskKey, open_ledger_database
from plaud_provider.views.settings import Place, configured_place
from plaud_provider.views.work import ask

router = APIRouter(prefix="/api")

#: Parameters of the shipped DAG for archives, which *pay again* starts; others have no such button.
_ARCHIVE, _RESUBMIT = "archive", "resubmit"
OLDEST = 10
_TIMES = ("claimed_at", "submitted_at", "accepted_at", "finished_at", "lease_until", "purged_at")


class Filters:
    """What the page narrows down to; what is empty narrows nothing."""

    def __init__(
        self, dag_id: str = "", run_id: str = "", folder: str = "", state: State | Literal[""] = ""
    ) -> None:
        self.dag_id = dag_id
        self.run_id = run_id
        self.folder = folder
        self.state = State(state) if state else None


FiltersDep = Annotated[Filters, Depends(Filters)]


@router.get("/ledger")
async def overview(access: AccessDep, filters: FiltersDep) -> dict[str, Any]:
    """Return the ledger in numbers, of the DAGs that the user may read."""
    now = datetime.now(tz=UTC)

    def look(ledger: Overview) -> dict[str, Any]:
        if not ledger.exists():
            return {"conn_id": ledger.database.conn_id, "exists": False}
        choice, dag_ids = _choice(ledger, access, filters)
        states = ledger.states(choice)
        # A folder is looked for in the whole table: once for each hour would take too long.
        hours = ledger.ended_per_hour(choice, now=now, hours=1 if choice.folder else 24)
        landed = hours[-1].get(State.LANDED, 0)
        waiting = choice._replace(state=State.PROCESSING)
        return {
            "conn_id": ledger.database.conn_id,
            "exists": True,
            "dag_ids": dag_ids,
            "states": [{**one._asdict(), "since": one.since.isoformat()} for one in states],
            "ended_per_hour": hours,
            "landed_in_last_hour": landed,
            "hours_left": _hours_left(states, landed),
            "oldest": [_row(entry) for entry in ledger.rows(waiting, most=OLDEST, oldest=True)],
            "reasons": [one._asdict() for one in ledger.reasons(choice)],
            "advice": ADVICE,
            "price": configured_price(),
        }

    return await ask(lambda: _open(access, filters).together(look))


@router.get("/quota")
async def quota(access: AccessDep, filters: FiltersDep) -> dict[str, Any] | None:
    """
    Return how much of the quota of requests is used, for who may see anything of the ledger.

    It is asked for apart from the ledger, which another database keeps.
    """

    def look() -> dict[str, Any] | None:
        place = _place(access, filters)
        ledger = Overview(open_ledger_database(place.ledger_conn_id))
        if not ledger.exists() or not access.readable(ledger.dag_ids()):
            return None
        settings = PlaudConnection(place.plaud_conn_id).settings
        shared = None
        if settings.budget_conn_id is not None:
            shared = BaseHook.get_connection(settings.budget_conn_id)
        usage = look_at_quota(settings.account, settings.requests_per_minute, shared)
        return None if usage is None else usage._asdict()

    return await ask(look)


@router.get("/recordings")
async def recordings(
    access: AccessDep, filters: FiltersDep, after_time: datetime | None = None, after_key: str = ""
) -> list[dict[str, Any]]:
    """Return recordings, what was changed last first: those behind the one that was seen last."""

    def look(ledger: Overview) -> list[dict[str, Any]]:
        choice, _ = _choice(ledger, access, filters)
        after = (after_time, after_key) if after_time is not None else None
        return [_row(entry) for entry in ledger.rows(choice, after=after)]

    return await ask(lambda: _open(access, filters).together(look))


@router.get("/recording")
async def recording(access: AccessDep, filters: FiltersDep, key: str) -> dict[str, Any]:
    """Return all that is known of a recording, and what the user may do about it."""

    def look() -> dict[str, Any]:
        ledger = _open(access, filters)
        entry = _entry(ledger, access, key)
        dag_id = entry.owner.dag_id
        # What is purged is neither submitted nor landed again.
        is_bad = entry.state in BAD and entry.purged_at is None
        may_pay_again = is_bad and access.may_trigger(dag_id) and _takes_archives(dag_id)
        return {
            **_row(entry),
            "region": entry.region,
            "language": entry.language,
            "speaker_diarization": entry.speaker_diarization,
            "target": entry.target,
            "advice": ADVICE.get(entry.state),
            "owner": entry.owner._asdict(),
            "times": {name: moment.isoformat() for name in _TIMES if (moment := getattr(entry, name))},
            "may_mark": is_bad and entry.state is State.UNKNOWN and access.may_change(dag_id),
            "pay_again": _pay_again(ledger, entry) if may_pay_again else None,
        }

    return await ask(look)


class Mark(BaseModel):
    """A recording of unknown outcome, and the id that Plaud's console shows for it."""

    recording_key: str
    transcription_id: str


@router.post("/mark", dependencies=[Depends(require_same_origin)])
async def mark_as_known(access: AccessDep, filters: FiltersDep, mark: Mark) -> dict[str, Any]:
    """Give the ledger the id of a recording of unknown outcome; the next run over its folder lands it."""
    transcription_id = as_transcription_id(mark.transcription_id.strip())
    if transcription_id is None:
        raise HTTPException(422, "transcription_id: this is no id of Plaud's. Nothing was changed.")

    def change() -> bool:
        overview = _open(access, filters)
        entry = _entry(overview, access, mark.recording_key)
        if not access.may_change(entry.owner.dag_id):
            raise HTTPException(403, "You may not change task instances of the DAG that submitted it.")
        return Ledger(overview.database).found_at_plaud(mark.recording_key, transcription_id)

    if not await ask(change):
        raise HTTPException(
            409,
            "It is not unknown any more, or purged, or another recording has this id. Nothing was changed.",
        )
    return {"state": State.PROCESSING.value}


def _open(access: Access, filters: Filters) -> Overview:
    return Overview(open_ledger_database(_place(access, filters).ledger_conn_id))


def _place(access: Access, filters: Filters) -> Place:
    """Return where to look: as a run's tasks say; else as the configuration does."""
    if filters.dag_id and filters.run_id:
        access.require_read(filters.dag_id)
        return Run(TaskKey(filters.dag_id, filters.run_id)).place
    return configured_place()


def _entry(ledger: Overview, access: Access, key: str) -> Entry:
    entry = ledger.one(key)
    if entry is None or not access.may_read(entry.owner.dag_id):
        raise HTTPException(404, "There is no such recording, or you may not read the DAG that submitted it.")
    return entry


def _choice(ledger: Overview, access: Access, filters: Filters) -> tuple[Choice, list[str]]:
    """Return what the user has chosen of what they may see, and the DAGs of that."""
    there = ledger.dag_ids()
    readable = access.readable(there)
    return (
        Choice(
            None if readable == there else tuple(readable),
            filters.dag_id or None,
            filters.run_id or None,
            filters.folder or None,
            filters.state,
        ),
        readable,
    )


def _hours_left(states: Sequence[Any], landed: int) -> float | None:
    """Return how long what is under way takes at the rate of the last hour, if anything landed in it."""
    left = sum(one.recordings for one in states if one.state in UNDER_WAY)
    return left / landed if landed else None


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "recording_key": entry.recording_key,
        "state": entry.state.value,
        "audio_uri": entry.audio_uri,
        "duration_seconds": entry.duration_seconds,
        "transcription_id": entry.transcription_id,
        "error": entry.error,
        "dag_id": entry.owner.dag_id,
        "run_id": entry.owner.run_id,
        "updated_at": entry.updated_at.isoformat(),
    }


def _pay_again(ledger: Overview, entry: Entry) -> dict[str, Any] | None:
    """
    Return what a run that pays again for a recording takes with it: all of its folder in its state.

    Whichever DAG has submitted those: what is agreed to is the whole sum.
    """
    folder = (entry.audio_uri or "").rpartition("/")[0] + "/"
    if folder == "/":
        return None
    sums = ledger.states(Choice(folder=folder, state=entry.state, is_kept=True))
    return {
        "folder": folder,
        "recordings": sum(one.recordings for one in sums),
        "seconds": sum(one.seconds for one in sums),
        "unmeasured": sum(one.unmeasured for one in sums),
    }


def _takes_archives(dag_id: str) -> bool:
    """Whether a DAG has the parameters that *pay again* fills in, as the shipped one for archives has."""
    with create_session() as session:
        if session.get(DagModel, dag_id) is None:
            return False
        found = SerializedDagModel.get_dag(dag_id, session=session)
        return found is not None and {_ARCHIVE, _RESUBMIT} <= set(found.params)
