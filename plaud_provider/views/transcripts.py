"""What the page of transcripts asks for: which there are, one of them, and its downloads."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Response

from plaud_provider.api.models import EXPORTS, Status, Transcription
from plaud_provider.views.access import Access, AccessDep
from plaud_provider.views.runs import Run, TaskKey, open_reader
from plaud_provider.views.settings import shows_text
from plaud_provider.views.work import ask
from plaud_provider.warehouse.transcripts import Known

router = APIRouter(prefix="/api")

_MEDIA_TYPES = {
    "srt": "application/x-subrip",
    "vtt": "text/vtt",
    "txt": "text/plain",
    "md": "text/markdown",
    "json": "application/json",
}
_TEXT_IS_OFF = "Transcripts are not shown here: [plaud] show_transcripts is off in Airflow's configuration."


@router.get("/transcripts")
async def list_transcripts(
    access: AccessDep, dag_id: str, run_id: str, task_id: str | None = None, map_index: int = -1
) -> dict[str, Any]:
    """
    Return what is known of the transcripts of a run or a task instance, without what was said.

    Left out, and counted, is what another DAG has landed that the user may not read.
    """
    key = TaskKey(dag_id, run_id, task_id or None, map_index)

    def find() -> dict[str, Any]:
        access.require_read(dag_id)
        run = Run(key)
        reader = open_reader(run.place)
        ids = run.transcription_ids(reader)
        known = reader.known(ids)
        seen = [one for one in known.values() if access.may_read(one.dag_id)]
        seen.sort(key=lambda one: (one.audio_uri or "", one.transcription_id))
        return {
            "shows_text": shows_text(),
            "transcripts": [_facts(one) for one in seen],
            "hidden": len(known) - len(seen),
            "not_landed": len(set(ids) - known.keys()),
        }

    return await ask(find)


@router.get("/transcript")
async def transcript(access: AccessDep, dag_id: str, run_id: str, transcription_id: str) -> dict[str, Any]:
    """Return a transcript with its segments, in the API's order."""
    known, transcription = await _read(access, dag_id, run_id, transcription_id)
    is_shown = shows_text()
    segments = [
        [one.start_seconds, one.end_seconds, one.speaker, one.text if is_shown else None]
        for one in transcription.segments
    ]
    return {
        **_facts(known),
        "shows_text": is_shown,
        "text": transcription.text if is_shown else None,
        "segments": segments,
        "formats": list(EXPORTS) if is_shown and transcription.status is Status.COMPLETED else [],
    }


@router.get("/export")
async def export(
    access: AccessDep, dag_id: str, run_id: str, transcription_id: str, format: str = "txt"
) -> Response:
    """Return a transcript as a file to be saved."""
    if format not in EXPORTS:
        raise HTTPException(422, f"format: {format!r} is none of {', '.join(EXPORTS)}.")
    if not shows_text():
        raise HTTPException(403, _TEXT_IS_OFF)
    known, transcription = await _read(access, dag_id, run_id, transcription_id)
    if transcription.status is not Status.COMPLETED:
        raise HTTPException(404, f"This transcription is {transcription.status.value}: it has no transcript.")
    content = await ask(lambda: EXPORTS[format](transcription).encode())
    recording = (known.audio_uri or "").rpartition("/")[2] or known.transcription_id
    name = quote(f"{recording}.{format}", safe="")
    return Response(
        content,
        media_type=f"{_MEDIA_TYPES[format]}; charset=utf-8",
        headers={"content-disposition": f"attachment; filename*=UTF-8''{name}"},
    )


async def _read(
    access: Access, dag_id: str, run_id: str, transcription_id: str
) -> tuple[Known, Transcription]:
    """
    Return a transcript that the user may see, from the warehouse of a run that they may see.

    :raises HTTPException: 403 or 404.
    """

    def find() -> tuple[Known, Transcription] | None:
        access.require_read(dag_id)
        reader = open_reader(Run(TaskKey(dag_id, run_id)).place)
        # Before what was said is read at all.
        known = reader.known([transcription_id]).get(transcription_id)
        if known is None or not access.may_read(known.dag_id):
            return None
        return next(reader.transcriptions([transcription_id]), None)

    if (found := await ask(find)) is None:
        raise HTTPException(404, "There is no such transcript, or you may not read the DAG that landed it.")
    return found


def _facts(known: Known) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in known._asdict().items()
    }
