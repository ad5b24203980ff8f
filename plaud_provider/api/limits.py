"""
What Plaud documents about limits, each with its source.

The source of all but the first is Plaud's page on the limits of *Plaud Embedded*; nothing is documented for
the API ``openapi``, so the same is planned for.
"""

from __future__ import annotations

from datetime import timedelta

#: Token requests a minute and client; source: Plaud's quickstart page.
TOKEN_CALLS_A_MINUTE = 10
#: Submits and results together, a minute and client; the connection may say another figure.
REQUESTS_A_MINUTE = 60.0
#: Hours that a recording may have.
MAX_HOURS = 24.0
#: Hours that a recording may have whose speakers are to be labelled.
MAX_HOURS_WITH_SPEAKERS = 6.0
#: For so long Plaud keeps results.
RETENTION = timedelta(days=7)
#: For so long what was uploaded can be submitted.
UPLOAD_RETENTION = timedelta(hours=24)
#: After so long people are warned of what has not landed: it is soon lost, though it is paid for.
LATE_AFTER = timedelta(days=5)


def longest_recording(*, speaker_diarization: bool) -> float:
    """Return how many hours a recording may have."""
    return MAX_HOURS_WITH_SPEAKERS if speaker_diarization else MAX_HOURS
