"""Tasks that submit, and that are ended: killed, marked, or out of time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plaud_provider.submit.stop import Stop


class EndsInOrder:
    """An operator that submits: it sets ``_stop`` when it runs, and says to it when the task is ended."""

    _stop: Stop | None = None

    def on_kill(self) -> None:
        """Send nothing more; what has been sent is waited for, and noted."""
        if self._stop is not None:
            self._stop.set()
