"""
What a task notes about a submit, so that its next attempt knows.

The note lies in Airflow's task state store, which survives retries and clears (XCom does not), under the
recording's reference: a mapped task whose list has changed finds nothing under its new recording, and submits
the right file. It has an entry for each content that the reference has had: an object that was replaced is
another recording.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from airflow.sdk.exceptions import AirflowException

from plaud_provider.api.effects import SubmitPhase
from plaud_provider.exceptions import PlaudError

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)

_VERSION = 1
_PREFIX = "plaud_submission_"

State = Literal["none", "not_sent", "sending", "unknown", "accepted", "not_recorded"]


class StateStore(Protocol):
    """The part of Airflow's task state store that is used here."""

    def get(self, key: str) -> Any:
        """Return what is stored, or ``None``."""

    def set(self, key: str, value: Any, *, retention: Any) -> None:
        """Store a JSON value."""


class SubmissionRecord(NamedTuple):
    """
    What is known about the submits of one recording in this task instance.

    :param state: ``none``: no attempt came this far; ``not_sent``: one was prepared or certainly not
        accepted; ``sending``: one was being sent when its process ended; ``unknown``: its answer was lost;
        ``accepted``; ``not_recorded``: this Airflow keeps no such record, and an earlier attempt may have
        sent it.
    :param transcription_id: Plaud's id, once accepted.
    :param at: When this was noted (ISO 8601, UTC).
    """

    state: State
    transcription_id: str | None = None
    at: str | None = None

    @property
    def is_unknown(self) -> bool:
        """Whether an earlier submit may have been accepted without anybody knowing its id."""
        return self.state in ("sending", "unknown", "not_recorded")

    @property
    def explanation(self) -> str:
        """Why that is so, in a sentence."""
        return {
            "sending": f"An earlier attempt of this task was sending it at {self.at} when its worker ended.",
            "unknown": f"An earlier attempt of this task sent it at {self.at} and got no usable answer.",
            "not_recorded": "This is not the first attempt of this task, and Airflow before 3.3 has no task "
            "state store in which an earlier one could have noted what it did.",
        }.get(self.state, "")


class Submission:
    """
    The submit of one recording by one task instance.

    :param context: The task's context.
    :param reference_key: Identity of the recording's reference, whatever its content.
    :param key: Identity of the recording; ``None`` if its storage cannot be asked now. Then it is the one
        that was submitted last, so that a task re-attaches although the object is gone.
    """

    def __init__(self, context: Context, *, reference_key: str, key: str | None) -> None:
        self._store: StateStore | None = context.get("task_state_store")
        self._is_first_try = context["ti"].try_number <= 1
        self._note_key = _PREFIX + reference_key
        self._key = key
        self._entries: list[dict[str, Any]] = []

    def read(self) -> SubmissionRecord:
        """
        Return what earlier attempts noted.

        A store that cannot be read raises: taking that for "nothing noted" could pay twice. A submit with an
        unknown outcome counts whatever the content was then: its URL led to the reference, not to a version.

        :raises PlaudError: if the note is of a version that is not known.
        """
        if self._store is None:
            return SubmissionRecord("none" if self._is_first_try else "not_recorded")
        noted = self._store.get(self._note_key)
        if noted is None:
            return SubmissionRecord("none")
        try:
            if noted["version"] != _VERSION:
                raise ValueError
            self._entries = [noted, *noted.get("earlier", [])]
            return self._find()
        except (AttributeError, KeyError, TypeError, ValueError):
            raise PlaudError(
                f"The task state {self._note_key!r} was written by another version of "
                "airflow-provider-plaud. Nothing was sent. Install that version, or delete the key if you "
                "are sure that nothing was submitted."
            ) from None

    def _find(self) -> SubmissionRecord:
        self._key = self._key or self._entries[0]["recording"]
        records = {
            entry["recording"]: SubmissionRecord(entry["state"], entry["transcription_id"], entry["at"])
            for entry in self._entries
        }
        found = records.get(self._key)
        if found is not None and found.state == "accepted":
            return found
        for record in records.values():
            if record.is_unknown:
                return record
            if record.transcription_id:
                log.info(
                    "The recording has been replaced since it was submitted as transcription %s at %s.",
                    record.transcription_id,
                    record.at,
                )
        return found or SubmissionRecord("none")

    def on_phase(self, phase: SubmitPhase) -> None:
        """Note how far the POST has come; where that fails, nothing is sent."""
        self._note("sending" if phase is SubmitPhase.SENDING else "not_sent")

    def unknown(self) -> SubmissionRecord:
        """Note that the answer was lost."""
        return self._note("unknown")

    def accepted(self, transcription_id: str) -> None:
        """
        Note the id, before anything else can go wrong.

        A note that cannot be written does not fail the task: it has its id, and what is still noted keeps a
        later clear from paying again.
        """
        try:
            self._note("accepted", transcription_id)
        except AirflowException:
            log.exception("Transcription %s could not be noted in the task state store.", transcription_id)

    def _note(self, state: State, transcription_id: str | None = None) -> SubmissionRecord:
        at = datetime.now(tz=UTC).isoformat(timespec="seconds")
        if self._store is not None:
            # Only Airflow 3.3 has the store, and with it this constant.
            from airflow.sdk.execution_time.context import NEVER_EXPIRE

            entry = {"recording": self._key, "state": state, "transcription_id": transcription_id, "at": at}
            earlier = [
                {name: other[name] for name in entry}
                for other in self._entries
                if other["recording"] != self._key
            ]
            note = {"version": _VERSION, **entry, **({"earlier": earlier} if earlier else {})}
            self._store.set(self._note_key, note, retention=NEVER_EXPIRE)
        return SubmissionRecord(state, transcription_id, at)
