"""
What a task notes about its wait, so that a later process of the same run goes on where it was.

The deadline counts from the first look of this run, also after a restart or a retry. When a user clears the
task, a new count begins: whoever clears a wait wants it to wait again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from plaud_provider.api.waiting import Trouble, Troubles, Wait
from plaud_provider.exceptions import error_class

if TYPE_CHECKING:
    from airflow.sdk import Context

_VERSION = 1
_KEY = "plaud_wait"


class WaitRecord:
    """
    The note of one task instance.

    Without a task state store (Airflow before 3.3) only Airflow's own first reschedule date survives a
    process.

    :param context: The task's context.
    :param subject: What is waited for: transcription ids, or whatever stands for them.
    :param timeout: Seconds from the first look to the deadline.
    """

    def __init__(self, context: Context, subject: Sequence[str], *, timeout: float) -> None:
        self._context = context
        self._store: Any = context.get("task_state_store")
        self._subject = subject
        #: When each was last looked at by this run, in epoch seconds.
        self.looked_at: dict[str, float] = {}
        self._timeout = timeout
        ti = context["ti"]
        # Airflow raises max_tries by the task's retries at each clear: a new value is a new cycle of tries.
        material = "\x00".join([str(getattr(ti, "max_tries", 0)), *subject])
        self._fingerprint = hashlib.sha256(material.encode()).hexdigest()

    def open(self, *, now: float) -> Wait:
        """Return the wait of this run, begun now if there is none yet."""
        noted = self._store.get(_KEY) if self._store is not None else None
        if (
            isinstance(noted, dict)
            and noted.get("version") == _VERSION
            and noted.get("fingerprint") == self._fingerprint
        ):
            wait = self._wait(noted["started_at"])
            wait.resume(completed=noted["completed"], failed=noted["failed"])
            self.looked_at = dict(noted.get("looked_at", {}))
            wait.refused_since = noted.get("refused_since")
            wait.troubles = Troubles(
                {
                    transcription_id: Trouble(error_class(kind), *numbers)
                    for transcription_id, (kind, *numbers) in noted.get("troubles", {}).items()
                },
                noted.get("answered_at", 0.0),
            )
            wait.final_at = noted.get("final_at", 0.0)
            return wait
        wait = self._wait(self._first_reschedule() or now)
        self.save(wait)
        return wait

    def save(self, wait: Wait, looked_at: Mapping[str, float] | None = None) -> None:
        """
        Note how far the wait has come.

        :param wait: The wait.
        :param looked_at: When what is not final was last looked at.
        """
        if self._store is None:
            return
        note = {
            "version": _VERSION,
            "fingerprint": self._fingerprint,
            "started_at": wait.started_at,
            "completed": wait.completed,
            "failed": list(wait.failed),
            "looked_at": dict(looked_at or {}),
            "refused_since": wait.refused_since,
            "troubles": {
                transcription_id: [trouble.kind.__name__, trouble.status, trouble.since, trouble.looks]
                for transcription_id, trouble in wait.troubles.by_id.items()
            },
            "answered_at": wait.troubles.answered_at,
            "final_at": wait.final_at,
        }
        self._store.set(
            _KEY, note, retention=timedelta(seconds=min(self._timeout, 365 * 86400)) + timedelta(days=7)
        )

    def _wait(self, started_at: float) -> Wait:
        return Wait(self._subject, started_at=started_at, deadline=started_at + self._timeout)

    def _first_reschedule(self) -> float | None:
        if self._store is not None:
            return None
        first = self._context["ti"].get_first_reschedule_date(self._context)
        return first.timestamp() if first else None
