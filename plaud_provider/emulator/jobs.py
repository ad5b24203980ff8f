"""Transcriptions: what was asked for, what came of it, and what is answered when."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from plaud_provider.emulator.audio import Audio
from plaud_provider.emulator.clock import Clock
from plaud_provider.emulator.settings import Settings
from plaud_provider.emulator.transcripts import Transcript
from plaud_provider.emulator.wire import with_query_fingerprints, without_queries, without_queries_within


@dataclass(frozen=True, slots=True)
class Heard:
    """The recording was fetched and recognised."""

    audio: Audio
    transcript: Transcript
    at: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The recording could not be fetched, or is none."""

    code: str
    message: str
    at: float


@dataclass(slots=True)
class Job:
    """
    One transcription. Moments are those of the emulator's clock.

    :param outcome: What the download gave; ``None`` while it runs.
    :param forced: What the admin API set instead.
    :param is_verbatim: Whether that is answered as it is, in either API.
    :param is_embedded: Whether it was submitted by the API ``embedded``.
    :param embeddings: Whether voices were asked for as numbers.
    """

    transcription_id: str
    client_id: str
    submitted_at: float
    audio_url: str = field(repr=False)
    language: str | None = None
    speaker_diarization: bool = False
    webhook_url: str | None = field(default=None, repr=False)
    outcome: Heard | Refused | None = field(default=None, repr=False)
    forced: dict[str, Any] | None = field(default=None, repr=False)
    is_verbatim: bool = False
    is_embedded: bool = False
    embeddings: bool = False


class JobBook:
    """All transcriptions of an emulator."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._jobs: dict[str, Job] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    def add(
        self,
        client_id: str,
        *,
        audio_url: str,
        language: str | None = None,
        speaker_diarization: bool = False,
        webhook_url: str | None = None,
        is_embedded: bool = False,
        embeddings: bool = False,
    ) -> Job:
        """Take a new transcription in."""
        job = Job(
            f"{'task_exec' if is_embedded else 'txn'}_{secrets.token_hex(12)}",
            client_id,
            self._clock.now(),
            audio_url,
            language,
            speaker_diarization,
            webhook_url,
            is_embedded=is_embedded,
            embeddings=embeddings,
        )
        self._jobs[job.transcription_id] = job
        return job

    def find(self, transcription_id: str, client_id: str | None = None) -> Job | None:
        """Return a transcription; with ``client_id`` only if it is that client's."""
        job = self._jobs.get(transcription_id)
        return job if job is not None and client_id in (None, job.client_id) else None

    def accepted(self, job: Job) -> dict[str, Any]:
        """Return the answer to the submit."""
        return {
            "transcriptionId": job.transcription_id,
            "status": "processing",
            "createdAt": self._clock.iso(job.submitted_at),
        }

    def result(self, job: Job) -> dict[str, Any]:
        """Return the answer to a result call made now."""
        if job.forced is not None:
            return job.forced
        head = {"transcriptionId": job.transcription_id, "status": self._status(job)}
        match head["status"], job.outcome:
            case "failed", Refused() as refused:
                return {**head, "error": self._error(refused)}
            case "completed", Heard() as heard:
                return {**head, **self._completed(job, heard)}
        return head

    def force(self, job: Job, change: Mapping[str, Any]) -> None:
        """
        Set what is answered from now on.

        :param change: ``{"payload": {...}}`` is answered as it is. Otherwise ``status`` and, with it,
            ``text``, ``segments``, ``language``, ``duration`` or ``error``.
        """
        if "payload" in change:
            job.forced, job.is_verbatim = dict(change["payload"]), True
            return
        forced: dict[str, Any] = {"transcriptionId": job.transcription_id, "status": change["status"]}
        if change["status"] == "completed":
            forced |= self._forced_transcript(job, change)
        elif change["status"] == "failed":
            forced["error"] = change.get("error", {"code": "forced", "message": "Failed by the admin API."})
        job.forced, job.is_verbatim = forced, False

    def counts(self) -> dict[str, int]:
        """Return how many transcriptions there are per status."""
        return dict(Counter(self._status(job) for job in self))

    def heard_seconds(self) -> float:
        """Return the length of all recordings together: what would be billed."""
        return sum(job.outcome.audio.duration for job in self if isinstance(job.outcome, Heard))

    def view(self, job: Job) -> dict[str, Any]:
        """Return a transcription for the admin API: no text, no query of a URL."""
        result = self.result(job)
        audio = job.outcome.audio if isinstance(job.outcome, Heard) else None
        return {
            "transcription_id": job.transcription_id,
            "client_id": job.client_id,
            "status": result.get("status"),
            "forced": job.forced is not None,
            "audio_url": without_queries(job.audio_url),
            "webhook_url": None if job.webhook_url is None else with_query_fingerprints(job.webhook_url),
            "submitted_at": self._clock.iso(job.submitted_at),
            "container": None if audio is None else audio.container,
            "duration": None if audio is None else audio.duration,
            "language": job.language or result.get("language"),
            "diarization": job.speaker_diarization,
            "error": without_queries_within(result.get("error")),
        }

    def _status(self, job: Job) -> str:
        if job.forced is not None:
            return str(job.forced.get("status"))
        match job.outcome:
            case Refused():
                return "failed"
            case Heard() as heard if self._clock.now() >= self._done_at(job, heard):
                return "completed"
        return "processing"

    def _done_at(self, job: Job, heard: Heard) -> float:
        took = self._settings.processing_seconds + self._settings.processing_ratio * heard.audio.duration
        return max(job.submitted_at + took, heard.at)

    def _completed(self, job: Job, heard: Heard) -> dict[str, Any]:
        return {
            "text": heard.transcript.text,
            "language": job.language or heard.transcript.language,
            "duration": heard.audio.duration,
            "segments": [_shown(job, segment) for segment in heard.transcript.segments],
            "completedAt": self._clock.iso(self._done_at(job, heard)),
        }

    def _forced_transcript(self, job: Job, change: Mapping[str, Any]) -> dict[str, Any]:
        duration = job.outcome.audio.duration if isinstance(job.outcome, Heard) else 60.0
        text = change.get("text", "")
        return {
            "text": text,
            "language": change.get("language") or job.language or "en",
            "duration": change.get("duration", duration),
            "segments": change.get("segments", [{"start": 0.0, "end": duration, "text": text}]),
            "completedAt": self._clock.iso(self._clock.now()),
        }

    def _error(self, refused: Refused) -> str | dict[str, str]:
        if self._settings.error_style == "string":
            return refused.message
        return {"code": refused.code, "message": refused.message}


def _shown(job: Job, segment: dict[str, Any]) -> dict[str, Any]:
    if job.speaker_diarization:
        return segment
    return {key: value for key, value in segment.items() if key != "speaker"}
