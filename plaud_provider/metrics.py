"""
What is counted, by name, and one log line for each change of state.

The numbers go to Airflow's Stats, and so to StatsD, Datadog or OpenTelemetry as Airflow's ``[metrics]`` says;
without a backend nothing is sent. No name and no value carries a text, a reference or a secret.
docs/lineage.md explains the names.
"""

from __future__ import annotations

import json
import logging
from typing import Any

log = logging.getLogger(__name__)

#: Submits that Plaud has accepted, each of which is billed (counter).
SUBMITTED = "plaud.submitted"
#: Audio of those submits in seconds, where its length is known (counter).
AUDIO_SECONDS = "plaud.audio_seconds"
#: Requests that were sent, by what they were for (counters): ``submit``, ``get`` (a look), of a token
#: ``exchange`` or ``refresh``, of an upload ``user_token``, ``upload`` or ``part``.
REQUESTS = "plaud.requests"
#: Answers 429 to such requests, by what they were for (counters).
REFUSED = "plaud.refused"
#: Looks that found a final answer (counter): ``plaud.requests.get`` over this is the looks per result.
RESULTS = "plaud.results"
#: Recordings that came to a state of the ledger: ``landed``, ``failed``, ``unknown``, ``expired`` (counters).
#: Without a ledger, what was landed, what of it had failed, and submits whose answer was lost.
STATES = "plaud"
#: Recordings of the ledger that are at Plaud (gauge).
WAITING = "plaud.waiting"
#: For how long the first of them has been, in seconds (gauge).
OLDEST = "plaud.oldest_seconds"
#: From Plaud's end of a transcription to its rows (timing, in milliseconds).
DONE_TO_LANDED = "plaud.done_to_landed"

#: States of the ledger that are counted.
COUNTED = frozenset({"landed", "failed", "unknown", "expired", "purged"})


def count(name: str, many: float = 1) -> None:
    """
    Add to a counter.

    :param name: One of this module's names.
    :param many: How much to add; thousandths of it are the least that count.
    """
    if (exact := round(many, 3)) > 0:
        _stats().incr(name, int(exact) if exact == int(exact) else exact)


def level(name: str, value: float) -> None:
    """
    Set a gauge.

    :param name: One of this module's names.
    :param value: What it is now.
    """
    _stats().gauge(name, value)


def took(name: str, seconds: float) -> None:
    """
    Record how long something took.

    :param name: One of this module's names.
    :param seconds: How long, in seconds; clocks that differ make it no less than nothing.
    """
    # Airflow's backends take milliseconds.
    _stats().timing(name, max(0.0, seconds) * 1000)


def sent(operation: str) -> None:
    """
    Count a request.

    :param operation: What it was for.
    """
    count(_of(REQUESTS, operation))


def answered(operation: str, status: int) -> None:
    """
    Count an answer, if it is that the client has asked too often.

    :param operation: What was asked for.
    :param status: The HTTP status.
    """
    if status == 429:
        count(_of(REFUSED, operation))


def _of(name: str, operation: str) -> str:
    # No name of a metric has a blank.
    return f"{name}.{operation.replace(' ', '_')}"


def changed(state: str, many: int = 1, **about: Any) -> None:
    """
    Say and count that recordings came to a state: one line of JSON behind ``plaud.change``.

    :param state: The state of the ledger, or ``purged``.
    :param many: How many recordings.
    :param about: What else is known: keys, ids and names, none of them a text or a secret.
    """
    if not many:
        return
    known = {name: value for name, value in about.items() if value is not None}
    log.info("plaud.change %s", json.dumps({"state": state, "recordings": many, **known}, sort_keys=True))
    if state in COUNTED:
        count(f"{STATES}.{state}", many)


def _stats() -> Any:
    # Airflow's own start is slow enough without it.
    from airflow.sdk.observability.stats import Stats

    return Stats
