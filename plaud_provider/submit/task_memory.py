"""
What one task notes about its submit in Airflow's task state store, which survives retries and clears.

XCom does not, and Airflow before 3.3 has no such store.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from plaud_provider import metrics
from plaud_provider.exceptions import PlaudError
from plaud_provider.submit.memory import patiently

if TYPE_CHECKING:
    from airflow.sdk import Context

    from plaud_provider.api.models import Transcription

log = logging.getLogger(__name__)

#: For how long what has happened is offered to the store: Airflow's own client has tried for a while by then.
STATE_STORE_SECONDS = 30.0
_NOTE_VERSION = 1
_NOTE_PREFIX = "plaud_submission_"
#: That the first attempt of a task has begun, so that a store which was emptied is told from a new one.
_BEGAN = "plaud_submit_began"


class StateStore(Protocol):
    """The part of Airflow's task state store that is used here."""

    def get(self, key: str) -> Any:
        """Return what is stored, or ``None``."""

    def set(self, key: str, value: Any, *, retention: Any) -> None:
        """Store a JSON value."""


NoteState = Literal["none", "not_sent", "sending", "unknown", "accepted", "not_recorded", "forgotten"]


class TaskNote(NamedTuple):
    """
    What a task instance knows about its submits of one recording.

    :param state: ``none``: no attempt came this far; ``not_sent``: one was prepared or certainly not
        accepted; ``sending``: one was being sent when its process ended; ``unknown``: its answer was lost;
        ``accepted``; ``not_recorded``: this Airflow keeps no such note, and an earlier attempt may have sent
        it; ``forgotten``: likewise, as this Airflow has lost its notes.
    :param transcription_id: Plaud's id, once accepted.
    :param at: When this was noted (ISO 8601, UTC).
    """

    state: NoteState
    transcription_id: str | None = None
    at: str | None = None

    @property
    def is_unknown(self) -> bool:
        """Whether an earlier submit may have been accepted without anybody knowing its id."""
        return self.state in ("sending", "unknown", "not_recorded", "forgotten")

    @property
    def explanation(self) -> str:
        """Why that is so, in a sentence."""
        return {
            "sending": f"An earlier attempt of this task was sending it at {self.at} when its worker ended.",
            "unknown": f"An earlier attempt of this task sent it at {self.at} and got no usable answer.",
            "not_recorded": "This is not the first attempt of this task, and Airflow before 3.3 has no task "
            "state store in which an earlier one could have noted what it did.",
            "forgotten": "This is not the first attempt of this task, and there is no note that an earlier "
            "one began: Airflow's task state store was emptied, or none came so far. A ledger "
            "(ledger_conn_id) would know.",
        }.get(self.state, "")


class TaskMemory:
    """
    What a task instance notes about the submit of one recording.

    The note lies under the recording's reference: a mapped task whose list has changed finds nothing under
    its new recording, and submits the right file. It has an entry for each content that the reference has
    had: an object that was replaced is another recording.

    :param context: The task's context.
    :param reference_key: Identity of the recording's reference, whatever its content.
    :param key: Identity of the recording; ``None`` if its storage cannot be asked now. Then it is the one
        that was submitted last, so that a task re-attaches although the object is gone.
    :param is_alone: Whether no ledger remembers, and tells of changes, as well.
    """

    def __init__(
        self,
        context: Context,
        *,
        reference_key: str,
        key: str | None,
        is_alone: bool,
    ) -> None:
        self._is_alone = is_alone
        self._store: StateStore | None = context.get("task_state_store")
        self._is_first_try = context["ti"].try_number <= 1
        self._note_key = _NOTE_PREFIX + reference_key
        self._key = key
        self._entries: list[dict[str, Any]] = []

    def read(self) -> TaskNote:
        """
        Return what earlier attempts noted.

        Where nothing else remembers what they did, a store without any note of them was emptied, and they may
        have paid. A store that cannot be read raises: taking that for "nothing noted" could pay twice. A
        submit with an unknown outcome counts whatever the content was then: its URL led to the reference, not
        to a version.

        :raises PlaudError: if the note is of a version that is not known.
        """
        if self._store is None:
            return TaskNote("none" if self._is_first_try else "not_recorded")
        noted = self._store.get(self._note_key)
        if noted is None:
            return TaskNote("forgotten" if self._is_alone and not self._has_begun() else "none")
        try:
            if noted["version"] != _NOTE_VERSION:
                raise ValueError
            self._entries = [noted, *noted.get("earlier", [])]
            return self._find()
        except (AttributeError, KeyError, TypeError, ValueError):
            raise PlaudError(
                f"The task state {self._note_key!r} was written by another version of "
                "airflow-provider-plaud. Nothing was sent. Install that version, or delete the key if you "
                "are sure that nothing was submitted."
            ) from None

    def _has_begun(self) -> bool:
        """Note that the task has begun; return ``False`` if an earlier attempt should have, and has not."""
        if self._store is None or self._store.get(_BEGAN) is not None:
            return True
        if not self._is_first_try:
            return False
        from airflow.sdk.execution_time.context import NEVER_EXPIRE

        self._store.set(_BEGAN, {"version": _NOTE_VERSION, "state": "begun"}, retention=NEVER_EXPIRE)
        return True

    def _find(self) -> TaskNote:
        self._key = self._key or self._entries[0]["recording"]
        notes = {
            entry["recording"]: TaskNote(entry["state"], entry["transcription_id"], entry["at"])
            for entry in self._entries
        }
        found = notes.get(self._key)
        if found is not None and found.state == "accepted":
            return found
        for note in notes.values():
            if note.is_unknown:
                return note
            if note.transcription_id:
                log.info(
                    "The recording has been replaced since it was submitted as transcription %s at %s.",
                    note.transcription_id,
                    note.at,
                )
        return found or TaskNote("none")

    def sending(self) -> bool:
        """Note that it is about to be sent; where that fails, nothing is."""
        self._set("sending")
        self._tell("submitting")
        return True

    def not_accepted(self) -> None:
        """Note that it was not sent."""
        self._write("not_sent")

    def accepted(self, transcription: Transcription) -> None:
        """Note Plaud's id."""
        self._tell("processing", transcription_id=transcription.transcription_id)
        self._write("accepted", transcription.transcription_id)

    def unknown(self, error: PlaudError) -> None:
        """Note that the answer was lost."""
        self._tell("unknown")
        self._write("unknown")

    def refused(self, error: PlaudError) -> None:
        """Leave the note: that it was not accepted has been noted, and a clear may try again."""

    def released(self, error: PlaudError) -> None:
        """Leave the note likewise."""

    def _tell(self, state: str, **about: Any) -> None:
        if self._is_alone:
            metrics.changed(state, recording_key=self._key, **about)

    def _write(self, state: NoteState, transcription_id: str | None = None) -> None:
        # Airflow's API may be away in more ways than it has an exception for.
        patiently(lambda: self._set(state, transcription_id), Exception, STATE_STORE_SECONDS)

    def _set(self, state: NoteState, transcription_id: str | None = None) -> None:
        if self._store is None:
            return
        # Only Airflow 3.3 has the store, and with it this constant.
        from airflow.sdk.execution_time.context import NEVER_EXPIRE

        at = datetime.now(tz=UTC).isoformat(timespec="seconds")
        entry = {"recording": self._key, "state": state, "transcription_id": transcription_id, "at": at}
        earlier = [
            {name: other[name] for name in entry}
            for other in self._entries
            if other["recording"] != self._key
        ]
        note = {"version": _NOTE_VERSION, **entry, **({"earlier": earlier} if earlier else {})}
        self._store.set(self._note_key, note, retention=NEVER_EXPIRE)
