"""
An hour of each kind of trouble, in virtual time: quota, breaker, tokens, submits and waits are the package's.

Only the network, the processes and the clock are simulated. ``tests/soak/test_trouble.py`` does the same with
real ones.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from airflow.providers.common.compat import connection as compat_connection
from airflow.sdk import BaseHook, Connection

from plaud_provider.api.limits import TOKEN_CALLS_A_MINUTE
from plaud_provider.api.waiting import WaitResult
from plaud_provider.hooks import plaud_async
from plaud_provider.ledger.ledger import Entry, Ledger, State
from plaud_provider.quota.breaker import FAILURES_TO_OPEN
from plaud_provider.triggers.transcription import TranscriptionTrigger
from tests.soak.trouble import HTML, KINDS, Record, Trouble, twice
from tests.unit.ledger.ledgers import ledger_in
from tests.unit.trouble.archive import CHUNKS_AT_ONCE, CLIENT, Archive, Network, event_of
from tests.unit.trouble.virtual_time import START, VirtualLoop, run
from tests.unit.warehouse.warehouses import connected

LIMIT = 60
BEGINS, LASTS = 150.0, 3600.0
#: Seconds after the end of trouble, and after the deadline of a wait.
RECOVERY, LATENESS = 180.0, 15.0
WAITS = (5.0, 30.0, 600.0, 3500.0)
JUDGED = (
    *("503", "429", "429 with Retry-After", "HTML 200", "HTML 404", "hanging", "connections dropped"),
    "token endpoint 503",
)
#: The same for all requests, those for tokens too, of which every one is void.
EVERYWHERE: dict[str, dict[str, Any]] = {
    "page 200 everywhere": {"status": 200, **HTML},
    "page 403 everywhere": {"status": 403, **HTML},
    "JSON 403 everywhere": {"status": 403, "body": '{"message": "Forbidden"}'},
    "JSON 401 everywhere": {"status": 401, "body": '{"message": "Unauthorized"}'},
    "a redirect everywhere": {"status": 302, "headers": {"Location": "https://status.example/"}, **HTML},
    "hanging everywhere": {"hang": True, "effect": True},
}
#: Submits alone, or some of the requests only, with how many of 500 may be of unknown outcome: each of those
#: that fail where every second one does is one, and tells that it does.
IN_PART: dict[str, tuple[dict[str, Any], int]] = {
    "400 on submits": ({"calls": ["submit"], "status": 400, "body": '{"error": "UNKNOWN_FIELD"}'}, 0),
    "422 on submits": ({"calls": ["submit"], "status": 422, "body": "{}"}, 0),
    "refused with 200": ({"calls": ["submit"], "status": 200, "body": '{"success": false}'}, 0),
    "an envelope's error": ({"status": 200, "calls": ["submit", "get"], "body": '{"status": "error"}'}, 8),
    "a 200 that says 503": ({"status": 200, "calls": ["submit", "get"], "body": '{"code": 503}'}, 8),
    "every second 503": ({"status": 503, "share": 0.5}, 55),
    "every second hangs": ({"calls": ["submit"], "hang": True, "share": 0.5, "effect": True}, 65),
    "every second 429": ({"calls": ["submit", "get"], "status": 429, "share": 0.5}, 0),
    "429 until long ago": (
        {
            "calls": ["submit", "get"],
            "status": 429,
            "headers": {"Retry-After": "Tue, 24 Mar 2020 10:02:14 GMT"},
        },
        0,
    ),
    "429 for ever": (
        {"calls": ["submit", "get"], "status": 429, "headers": {"Retry-After": "999999999999"}},
        0,
    ),
}
#: Submits that may be of unknown outcome: those on their way when it begins, those until the breaker opens,
#: and one in the hour that finds out whether submits are answered where looks are not. None where Plaud
#: says that it did not accept them.
UNKNOWN = dict.fromkeys(
    ("503", "HTML 200", "hanging", "connections dropped", "page 200 everywhere", "hanging everywhere"),
    2 * CHUNKS_AT_ONCE + FAILURES_TO_OPEN,
)


@dataclass
class Outcome:
    """What has become of an archive, and of waits that began during the trouble."""

    trouble: Trouble
    record: Record
    entries: Mapping[str, Entry]
    results: Mapping[str, WaitResult]
    late: list[float]

    @property
    def unknown(self) -> set[str]:
        return {str(one.audio_uri) for one in self.entries.values() if one.state is State.UNKNOWN}


def told(name: str) -> dict[str, Any]:
    if name in EVERYWHERE:
        return {"name": name, "revoke": True, **EVERYWHERE[name]}
    if name in IN_PART:
        return {"name": name, **IN_PART[name][0]}
    [found] = [one for kind in KINDS for one in kind if one["name"] == name]
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is such a place: on a disk each step would wait for it."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as name:
        yield Path(name)


@pytest.fixture
def outcome_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Play an archive with an hour of trouble."""

    def play(name: str, count: int) -> Outcome:
        monkeypatch.setenv("AIRFLOW_HOME", str(folder))
        connection = {"conn_type": "plaud", "login": CLIENT, "password": "secret-key-canary"}
        monkeypatch.setenv("AIRFLOW_CONN_PLAUD_DEFAULT", json.dumps(connection))
        # It would ask in a thread, while virtual time goes on.
        monkeypatch.setattr(compat_connection, "get_async_connection", looked_up)
        # Printing thousands of lines takes as long as all the rest.
        monkeypatch.setattr(logging.root.manager, "disable", logging.INFO)
        warehouse = connected("sqlite", folder, monkeypatch)
        start, end = START + BEGINS, START + BEGINS + LASTS

        async def main(loop: VirtualLoop) -> Outcome:
            network = Network(loop, LIMIT)
            network.plaud.troubles = [{**told(name), "start": start, "end": end}]
            monkeypatch.setattr(plaud_async, "AiohttpTransport", network.transport)
            ledger: Ledger = ledger_in(warehouse, lambda: datetime.fromtimestamp(loop.time(), UTC))
            archive = Archive(ledger, loop, count)
            waits = [asyncio.create_task(late(loop, start + 10.0, seconds)) for seconds in WAITS]
            await archive.run()
            return Outcome(
                Trouble((name,), start, end),
                network.record,
                archive.entries(),
                archive.seen,
                list(await asyncio.gather(*waits)),
            )

        return run(main, monkeypatch)

    return play


async def looked_up(conn_id: str) -> Connection:
    return BaseHook.get_connection(conn_id)


async def late(loop: VirtualLoop, begins_at: float, seconds: float) -> float:
    """Wait for what never ends; return by how much later than its deadline the wait does."""
    await asyncio.sleep(begins_at - loop.time())
    trigger = TranscriptionTrigger(
        transcription_ids=["txn_never"],
        plaud_conn_id="plaud_default",
        region=None,
        poke_interval=30.0,
        started_at=loop.time(),
        end_time=loop.time() + seconds,
        submitted_at=[loop.time()],
    )
    result = await event_of(trigger)
    assert result.outcome in ("timeout", "done")
    return loop.time() - begins_at - seconds


@pytest.mark.parametrize(
    ("name", "count"), [*((name, 500) for name in JUDGED), *((name, 250) for name in EVERYWHERE)]
)
def test_an_hour_of_trouble_loses_nothing_pays_nothing_twice_and_is_soon_over(
    outcome_of: Any, name: str, count: int
) -> None:
    outcome: Outcome = outcome_of(name, count)
    record, trouble = outcome.record, outcome.trouble
    entries = outcome.entries.values()
    sent = {one.audio for one in (*record.sent_during(trouble), *record.in_flight_at(trouble.start))}

    assert twice(one.audio for one in record.accepted()) == [], "nothing is paid twice"
    assert {entry.state for entry in entries} <= {State.PROCESSING, State.UNKNOWN}, "all others are submitted"
    assert outcome.unknown <= sent, "only what met with the trouble is of unknown outcome"
    assert len(outcome.unknown) <= UNKNOWN.get(name, 0)
    for result in outcome.results.values():
        assert (result.outcome, result.failed) == ("done", {}), "none is given up"
    assert record.busiest_minute("submit", "get", client=CLIENT) <= LIMIT
    assert record.busiest_minute("token", client=CLIENT) <= TOKEN_CALLS_A_MINUTE
    assert (record.until_full_speed(trouble.end, client=CLIENT, limit=LIMIT) or 1e9) <= RECOVERY
    assert min(outcome.late) >= 0.0, "no wait ends before its deadline"
    assert max(outcome.late) <= LATENESS


@pytest.mark.parametrize("name", IN_PART)
def test_an_hour_of_trouble_in_part_leaves_nothing_for_a_person_to_sort_out(
    outcome_of: Any, name: str
) -> None:
    # Of 250, most were submitted in the hour if every second one passes. Too few were left to use the quota
    # for a minute: with seven in forty seeds of the server's chance that began too late or never, with 500 in
    # none of fourteen.
    outcome: Outcome = outcome_of(name, 500)
    record, trouble = outcome.record, outcome.trouble

    assert twice(one.audio for one in record.accepted()) == [], "nothing is paid twice"
    assert {entry.state for entry in outcome.entries.values()} <= {State.PROCESSING, State.UNKNOWN}
    assert len(outcome.unknown) <= IN_PART[name][1]
    assert record.busiest_minute("submit", "get", client=CLIENT) <= LIMIT
    assert (record.until_full_speed(trouble.end, client=CLIENT, limit=LIMIT) or 1e9) <= RECOVERY
    assert max(outcome.late) <= LATENESS
